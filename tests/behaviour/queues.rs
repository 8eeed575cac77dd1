//! Declaring, looking at, emptying and deleting queues.

use posthouse_testkit::{Consume, FieldValue, Method, Queue, Received, expect_method, table, text};

use super::{broker, unique};

fn inequivalent(queue: &str, what: &str, received: &str, current: &str) -> String {
    format!(
        "PRECONDITION_FAILED - inequivalent arg '{what}' for queue '{queue}' in vhost '/': \
         received {received} but current is {current}"
    )
}

fn locked(queue: &str) -> String {
    format!(
        "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{queue}' in vhost '/'. It could be \
         originally declared on another connection or the exclusive property value does not match that of the \
         original declaration."
    )
}

#[test]
fn declared_twice_the_same_it_is_the_same() {
    let mut peer = broker().peer();
    let name = unique("q");
    for queue in [
        Queue::named(&name),
        Queue::durable(&name),
        Queue::exclusive(&name),
        Queue { auto_delete: true, ..Queue::named(&name) },
        Queue { durable: true, exclusive: true, auto_delete: true, ..Queue::named(&name) },
    ] {
        assert_eq!(peer.declare(1, &queue), (name.clone(), 0, 0));
        peer.publish(1, "", &name, "kept");
        assert_eq!(peer.declare(1, &queue), (name.clone(), 1, 0), "{queue:?}");
        assert_eq!(peer.delete(1, &name), 1);
    }
}

#[test]
fn declared_otherwise_it_is_refused() {
    let mut peer = broker().peer();
    let name = unique("q");
    peer.declare(1, &Queue::durable(&name));
    let other = Queue::named(&name);
    peer.refused(1, &other.method(), 406, &inequivalent(&name, "durable", "'false'", "'true'"));
    let other = Queue { auto_delete: true, ..Queue::durable(&name) };
    peer.refused(1, &other.method(), 406, &inequivalent(&name, "auto_delete", "'true'", "'false'"));
    let other = Queue { exclusive: true, ..Queue::durable(&name) };
    peer.refused(1, &other.method(), 405, &locked(&name));
    peer.delete(1, &name);
}

#[test]
fn arguments_nobody_knows_are_kept_and_not_compared() {
    let mut peer = broker().peer();
    let name = unique("q");
    let arguments = table([("x-made-up", FieldValue::I32(1)), ("x-queue-type", text("classic"))]);
    peer.declare(1, &Queue { arguments, ..Queue::exclusive(&name) });
    peer.declare(1, &Queue::exclusive(&name));
    let arguments = table([("x-made-up", text("other"))]);
    peer.declare(1, &Queue { arguments, ..Queue::exclusive(&name) });
}

#[test]
fn passive_looks_at_nothing_but_the_name() {
    let mut peer = broker().peer();
    let name = unique("q");
    peer.declare(1, &Queue::durable(&name));
    peer.publish(1, "", &name, "one");
    let other = Queue { exclusive: true, auto_delete: true, ..Queue::passive(&name) };
    assert_eq!(peer.declare(1, &other), (name.clone(), 1, 0));
    peer.delete(1, &name);
}

#[test]
fn the_broker_names_what_has_no_name() {
    let mut peer = broker().peer();
    let (one, two) = (peer.server_named(1), peer.server_named(1));
    assert_ne!(one, two);
    for name in [&one, &two] {
        let own = name.strip_prefix("amq.gen-").expect("the prefix of generated names");
        assert_eq!(own.len(), 22);
        assert!(own.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "{own}");
        peer.declare(1, &Queue::passive(name));
    }
}

#[test]
fn an_empty_name_is_the_last_declared() {
    let mut peer = broker().peer();
    let first = peer.server_named(1);
    let last = peer.server_named(1);
    // Without a routing key too, the queue's name becomes the key.
    peer.bind(1, "", "amq.direct", "");
    peer.publish(1, "amq.direct", &last, "by name");
    assert_eq!(peer.get(1, "", true).map(|m| m.text()), Some("by name".into()));
    assert_eq!(peer.get(1, &first, true), None);
    let tag = peer.consume(1, &Consume::no_ack(""));
    assert_eq!(peer.counts(1, &last), (0, 1));
    peer.cancel(1, &tag);
    // Looking at a queue makes it the last one too.
    peer.declare(1, &Queue::passive(&first));
    peer.publish(1, "", &first, "x");
    peer.send(1, &Method::QueuePurge { queue: "", nowait: false });
    expect_method!(peer, 1, Method::QueuePurgeOk { message_count: 1 });
    assert_eq!(peer.delete(1, ""), 0);
    let text = format!("NOT_FOUND - no queue '{first}' in vhost '/'");
    peer.refused(1, &Queue::passive(&first).method(), 404, &text);
}

#[test]
fn each_channel_has_its_own_last_queue() {
    let mut peer = broker().peer();
    peer.server_named(1);
    peer.open_channel(2);
    let get = Method::BasicGet { queue: "", no_ack: true };
    peer.refused(2, &get, 404, "NOT_FOUND - no previously declared queue");
}

#[test]
fn line_ends_are_taken_out_of_names() {
    let mut peer = broker().peer();
    let name = unique("q");
    let broken = format!("{name}\r\n");
    assert_eq!(peer.declare(1, &Queue::exclusive(&broken)).0, name);
    peer.declare(1, &Queue::passive(&name));
}

#[test]
fn exclusive_queues_are_their_connections() {
    let broker = broker();
    let (mut owner, mut other) = (broker.peer(), broker.peer());
    let queue = &owner.server_named(1);
    let arguments = posthouse_testkit::FieldTable::default;
    let (exchange, routing_key) = ("amq.direct", "");
    for method in [
        Queue::passive(queue).method(),
        Queue::exclusive(queue).method(),
        Queue::named(queue).method(),
        Method::QueueBind { queue, exchange, routing_key, nowait: false, arguments: arguments() },
        Method::QueuePurge { queue, nowait: false },
        Method::QueueDelete { queue, if_unused: false, if_empty: false, nowait: false },
        Method::BasicGet { queue, no_ack: true },
        Consume::from(queue).method(),
    ] {
        other.refused(1, &method, 405, &locked(queue));
    }
    // Publishing is everybody's right.
    other.publish(1, "", queue, "from elsewhere");
    other.expect_quiet(1);
    assert_eq!(owner.get(1, queue, true).map(|m| m.text()), Some("from elsewhere".into()));
    owner.close();
    let text = format!("NOT_FOUND - no queue '{queue}' in vhost '/'");
    other.refused(1, &Queue::passive(queue).method(), 404, &text);
}

#[test]
fn exclusive_queues_go_when_the_connection_breaks() {
    let broker = broker();
    let (mut owner, mut other) = (broker.peer(), broker.peer());
    let name = unique("q");
    owner.declare(1, &Queue { durable: true, ..Queue::exclusive(&name) });
    drop(owner);
    // When it is gone anybody may have the name. A refusal means that the broker has not noticed yet.
    loop {
        let answer = other.call(1, &Queue::exclusive(&name).method());
        match answer.get() {
            Method::QueueDeclareOk { .. } => break,
            Method::ChannelClose { reply_code: 405, .. } => {
                other.send(1, &Method::ChannelCloseOk {});
                other.open_channel(1);
            }
            unexpected => panic!("expected declare-ok or 405, got {unexpected:?}"),
        }
    }
}

#[test]
fn auto_delete_goes_with_the_last_consumer_and_not_before_one_came() {
    let mut peer = broker().peer();
    peer.open_channel(2);
    let name = unique("q");
    peer.declare(1, &Queue { auto_delete: true, ..Queue::named(&name) });
    peer.publish(1, "", &name, "x");
    peer.get(1, &name, true).expect("a message");
    assert_eq!(peer.counts(1, &name), (0, 0));
    let tag = peer.consume(1, &Consume::from(&name));
    peer.consume(2, &Consume::from(&name));
    peer.cancel(1, &tag);
    assert_eq!(peer.counts(1, &name), (0, 1));
    // The end of a channel is the end of its consumers.
    peer.close_channel(2);
    let text = format!("NOT_FOUND - no queue '{name}' in vhost '/'");
    peer.refused(1, &Queue::passive(&name).method(), 404, &text);
}

#[test]
fn counts_are_of_ready_messages() {
    let mut peer = broker().peer();
    let queue = peer.server_named(1);
    for body in ["a", "b", "c", "d"] {
        peer.publish(1, "", &queue, body);
    }
    let Some(Received { tag, left: 3, .. }) = peer.get(1, &queue, false) else {
        panic!("expected a message and three left")
    };
    assert_eq!(peer.counts(1, &queue), (3, 0));
    peer.send(1, &Method::QueuePurge { queue: &queue, nowait: false });
    expect_method!(peer, 1, Method::QueuePurgeOk { message_count: 3 });
    // Purging leaves alone what is being worked on.
    peer.send(1, &Method::BasicReject { delivery_tag: tag, requeue: true });
    assert_eq!(peer.drain(1, &queue), ["a"]);
    peer.publish(1, "", &queue, "e");
    peer.publish(1, "", &queue, "f");
    peer.get(1, &queue, false).expect("a message");
    assert_eq!(peer.delete(1, &queue), 1);
}

#[test]
fn deleting_under_conditions() {
    let mut peer = broker().peer();
    let queue = &unique("q");
    peer.declare(1, &Queue::named(queue));
    peer.publish(1, "", queue, "x");
    let delete = |if_unused, if_empty| Method::QueueDelete { queue, if_unused, if_empty, nowait: false };
    let text = format!("PRECONDITION_FAILED - queue '{queue}' in vhost '/' not empty");
    peer.refused(1, &delete(false, true), 406, &text);
    peer.get(1, queue, true).expect("a message");
    let tag = peer.consume(1, &Consume::from(queue));
    peer.open_channel(2);
    let text = format!("PRECONDITION_FAILED - queue '{queue}' in vhost '/' in use");
    peer.refused(2, &delete(true, false), 406, &text);
    peer.refused(2, &delete(true, true), 406, &text);
    peer.cancel(1, &tag);
    peer.send(1, &delete(true, true));
    expect_method!(peer, 1, Method::QueueDeleteOk { message_count: 0 });
    // Deleting what is not there is fine.
    assert_eq!(peer.delete(1, queue), 0);
}

#[test]
fn a_name_deleted_and_declared_again_is_a_new_queue() {
    let mut peer = broker().peer();
    let name = unique("q");
    peer.declare(1, &Queue::named(&name));
    peer.bind(1, &name, "amq.fanout", "");
    peer.publish(1, "", &name, "old");
    assert_eq!(peer.delete(1, &name), 1);
    peer.declare(1, &Queue::exclusive(&name));
    peer.publish(1, "amq.fanout", "", "not bound any more");
    assert_eq!(peer.counts(1, &name), (0, 0));
    peer.publish(1, "", &name, "new");
    assert_eq!(peer.drain(1, &name), ["new"]);
}

#[test]
fn without_waiting_there_is_no_answer() {
    let mut peer = broker().peer();
    let queue = &unique("q");
    peer.send(1, &Queue { nowait: true, ..Queue::exclusive(queue) }.method());
    let bind = Method::QueueBind {
        queue,
        exchange: "amq.fanout",
        routing_key: "",
        nowait: true,
        arguments: Default::default(),
    };
    peer.send(1, &bind);
    peer.publish(1, "", queue, "x");
    peer.send(1, &Method::QueuePurge { queue, nowait: true });
    assert_eq!(peer.counts(1, queue), (0, 0));
    peer.send(1, &Method::QueueDelete { queue, if_unused: false, if_empty: false, nowait: true });
    peer.expect_quiet(1);
    // Errors are told all the same.
    let passive = Queue { nowait: true, ..Queue::passive(queue) };
    peer.refused(1, &passive.method(), 404, &format!("NOT_FOUND - no queue '{queue}' in vhost '/'"));
}
