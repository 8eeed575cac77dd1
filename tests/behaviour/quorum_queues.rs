//! Quorum queues: every message is kept, and what RabbitMQ's cannot be, they can be here.

use std::time::Instant;

use posthouse_testkit::{
    Broker, FieldTable, FieldValue, Method, Options, Properties, Publish, Queue, TIMEOUT, table, text,
};

use super::{broker, unique};

fn quorum() -> FieldTable {
    table([("x-queue-type", text("quorum"))])
}

#[test]
fn messages_are_kept_whatever_their_delivery_mode() {
    let mut broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    peer.declare(1, &Queue { arguments: quorum(), ..Queue::durable("q") });
    peer.declare(1, &Queue::durable("c"));
    peer.bind(1, "q", "amq.fanout", "");
    peer.bind(1, "c", "amq.fanout", "");
    peer.select_confirms(1);
    // Transient ones, alone and together with a classic queue that loses them.
    peer.publish(1, "", "q", "a");
    peer.publish(1, "amq.fanout", "", "b");
    peer.confirmed(1, 2);
    assert_eq!(broker.ctl(&["list_queues", "name,type"]), "c\tclassic\nq\tquorum\n");
    broker.kill();
    broker.start_again();
    let mut peer = broker.peer();
    assert_eq!(peer.drain(1, "q"), ["a", "b"]);
    assert_eq!(peer.drain(1, "c"), [""; 0]);
    assert_eq!(broker.ctl(&["list_queues", "name,type"]), "c\tclassic\nq\tquorum\n");
}

#[test]
fn they_can_be_what_rabbitmqs_cannot() {
    let broker = broker();
    let mut peer = broker.peer();
    let queue = unique("q");
    let declared = Queue { arguments: quorum(), ..Queue::durable(&queue) };
    peer.declare(1, &declared);
    peer.publish(1, "", &queue, "m");
    peer.await_counts(1, &queue, (1, 0));
    let if_empty = Method::QueueDelete { queue: &queue, if_unused: false, if_empty: true, nowait: false };
    let text = format!("PRECONDITION_FAILED - queue '{queue}' in vhost '/' not empty");
    peer.refused(1, &if_empty, 406, &text);
    peer.delete(1, &queue);
    peer.declare(1, &Queue { exclusive: true, ..declared.clone() });
    let other = format!(
        "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{queue}' in vhost '/'. It could be \
         originally declared on another connection or the exclusive property value does not match that of the \
         original declaration."
    );
    broker.peer().refused(1, &Queue::passive(&queue).method(), 405, &other);
    peer.delete(1, &queue);
    let (named, _, _) =
        peer.declare(1, &Queue { auto_delete: true, arguments: quorum(), ..Queue::durable("") });
    assert!(named.starts_with("amq.gen-"), "{named}");
    peer.delete(1, &named);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let mut peer = broker().peer();
    let queue = unique("q");
    let refused =
        format!("PRECONDITION_FAILED - invalid property 'non-durable' for queue '{queue}' in vhost '/'");
    peer.refused(1, &Queue { arguments: quorum(), ..Queue::named(&queue) }.method(), 406, &refused);
    let mut arguments = quorum();
    arguments.0.push(("x-queue-mode".to_owned(), text("lazy")));
    let refused = format!(
        "PRECONDITION_FAILED - invalid arg 'x-queue-mode' for queue '{queue}' in vhost '/' of queue type \
         rabbit_quorum_queue"
    );
    peer.refused(1, &Queue { arguments, ..Queue::durable(&queue) }.method(), 406, &refused);
    // There is no node that cannot be reached, so any time is as good.
    for (milliseconds, problem) in [(-1, Some("{value_negative,-1}")), (0, None)] {
        let mut arguments = quorum();
        arguments.0.push(("x-consumer-disconnected-timeout".to_owned(), FieldValue::I32(milliseconds)));
        let declared = Queue { arguments, ..Queue::durable(&queue) };
        match problem {
            Some(problem) => {
                let refused = format!(
                    "PRECONDITION_FAILED - invalid arg 'x-consumer-disconnected-timeout' for queue '{queue}' in vhost \
                     '/': {problem}"
                );
                peer.refused(1, &declared.method(), 406, &refused);
            }
            None => drop(peer.declare(1, &declared)),
        }
    }
    peer.delete(1, &queue);
}

#[test]
fn a_virtual_host_can_make_them_the_default() {
    let mut broker = Broker::start(Options::log());
    broker.ctl(&["update_vhost_metadata", "/", "--default-queue-type", "quorum"]);
    broker.restart();
    let mut peer = broker.peer();
    peer.declare(1, &Queue::durable("plain"));
    peer.declare(1, &Queue::durable("plain"));
    peer.declare(1, &Queue::named("transient"));
    peer.declare(1, &Queue { auto_delete: true, ..Queue::durable("leaving") });
    peer.declare(
        1,
        &Queue { arguments: table([("x-queue-type", text("classic"))]), ..Queue::durable("classic") },
    );
    let expected = "classic\tclassic\nleaving\tclassic\nplain\tquorum\ntransient\tclassic\n";
    assert_eq!(broker.ctl(&["list_queues", "name,type"]), expected);
    broker.ctl(&["set_policy", "p", "", r#"{"max-length":1}"#, "--apply-to", "quorum_queues"]);
    let expected = "classic\t\nleaving\t\nplain\tp\ntransient\t\n";
    assert_eq!(broker.ctl(&["list_queues", "name,policy"]), expected);
}

#[test]
fn they_have_32_priorities() {
    let mut peer = broker().peer();
    let queue = unique("q");
    peer.declare(1, &Queue { arguments: quorum(), ..Queue::durable(&queue) });
    peer.select_confirms(1);
    let priorities = [Some(0), Some(4), None, Some(5), Some(30), Some(200), Some(31)];
    for priority in priorities {
        let properties = Properties { priority, ..Properties::default() };
        let body = priority.map_or("none".to_owned(), |priority| priority.to_string());
        peer.publish_with(1, &Publish { properties, body: body.as_bytes(), ..Publish::to("", &queue) });
    }
    peer.confirmed(1, priorities.len() as u64);
    assert_eq!(peer.drain(1, &queue), ["200", "31", "30", "5", "4", "none", "0"]);
    peer.delete(1, &queue);
}

#[test]
fn declaring_it_again_does_not_keep_it_from_expiring() {
    let mut peer = broker().peer();
    let queue = unique("q");
    let arguments = FieldTable([quorum().0, table([("x-expires", FieldValue::I32(300))]).0].concat());
    let declared = Queue { arguments, ..Queue::durable(&queue) };
    let deadline = Instant::now() + TIMEOUT;
    peer.declare(1, &declared);
    peer.publish(1, "", &queue, "m");
    peer.await_counts(1, &queue, (1, 0));
    // It goes meanwhile, and another one is made.
    while peer.declare(1, &declared).1 == 1 {
        assert!(Instant::now() < deadline, "it does not expire");
    }
    // Asking whether it is there is no use either.
    let passive = Queue::passive(&queue).method();
    while matches!(peer.call(1, &passive).get(), Method::QueueDeclareOk { .. }) {
        assert!(Instant::now() < deadline, "it does not expire");
    }
}
