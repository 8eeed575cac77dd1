//! Queues with `x-message-deduplication`.

use posthouse_testkit::{
    Consume, FieldTable, FieldValue, Method, Peer, Properties, Publish, Queue, expect_method, table, text,
};

use super::{broker, unique};

fn declare(peer: &mut Peer, more: &[(&str, FieldValue)]) -> String {
    let queue = unique("once");
    let mut arguments = table([("x-message-deduplication", FieldValue::Bool(true))]);
    arguments.0.extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    peer.declare(1, &Queue { arguments, exclusive: true, ..Queue::named(&queue) });
    queue
}

fn publish(peer: &mut Peer, exchange: &str, key: &str, id: FieldValue, body: &str) {
    let headers = Some(table([("x-deduplication-header", id)]));
    let properties = Properties { headers, ..Properties::default() };
    peer.publish_with(1, &Publish { properties, body: body.as_bytes(), ..Publish::to(exchange, key) });
}

#[test]
fn a_duplicate_is_confirmed_and_not_kept() {
    let mut peer = broker().peer();
    let queue = declare(&mut peer, &[]);
    peer.select_confirms(1);
    for (id, body) in [("a", "first"), ("b", "second"), ("a", "again"), ("b", "again")] {
        publish(&mut peer, "", &queue, text(id), body);
    }
    peer.publish(1, "", &queue, "without");
    peer.publish(1, "", &queue, "without");
    peer.confirmed(1, 6);
    assert_eq!(peer.drain(1, &queue), ["first", "second", "without", "without"]);
}

#[test]
fn what_is_gone_may_come_again_and_what_is_outstanding_may_not() {
    let mut peer = broker().peer();
    let queue = declare(&mut peer, &[]);
    publish(&mut peer, "", &queue, FieldValue::I32(1), "one");
    let got = peer.get(1, &queue, false).expect("a message");
    publish(&mut peer, "", &queue, FieldValue::I64(1), "same number");
    assert_eq!(peer.counts(1, &queue).0, 0);
    peer.ack(1, got.tag);
    publish(&mut peer, "", &queue, FieldValue::I32(1), "once more");
    assert_eq!(peer.drain(1, &queue), ["once more"]);
    // A consumer that is waiting gets no duplicate either.
    peer.open_channel(2);
    peer.prefetch(2, 10, false);
    peer.consume(2, &Consume::from(&queue));
    publish(&mut peer, "", &queue, text("x"), "delivered");
    publish(&mut peer, "", &queue, text("x"), "dropped");
    publish(&mut peer, "", &queue, text("y"), "delivered, too");
    let bodies = [peer.message(2).text(), peer.message(2).text()];
    assert_eq!(bodies, ["delivered", "delivered, too"]);
}

#[test]
fn each_queue_decides_for_itself() {
    let mut peer = broker().peer();
    let once = declare(&mut peer, &[]);
    let always = unique("always");
    peer.declare(1, &Queue::exclusive(&always));
    let key = unique("key");
    for queue in [&once, &always] {
        peer.bind(1, queue, "amq.direct", &key);
    }
    for _ in 0..3 {
        publish(&mut peer, "amq.direct", &key, text("a"), "x");
    }
    assert_eq!((peer.counts(1, &once).0, peer.counts(1, &always).0), (1, 3));
}

#[test]
fn duplicates_do_not_push_others_out() {
    let mut peer = broker().peer();
    let queue = declare(&mut peer, &[("x-max-length", FieldValue::I32(2))]);
    for (id, body) in [("a", "1"), ("b", "2"), ("b", "3"), ("a", "4")] {
        publish(&mut peer, "", &queue, text(id), body);
    }
    assert_eq!(peer.drain(1, &queue), ["1", "2"]);
}

#[test]
fn priorities_and_quorum_queues_share_what_they_know() {
    let mut peer = broker().peer();
    let quorum = unique("once");
    let mut arguments = table([("x-message-deduplication", FieldValue::Bool(true))]);
    arguments.0.push(("x-queue-type".to_owned(), text("quorum")));
    peer.declare(1, &Queue { arguments, ..Queue::durable(&quorum) });
    let queue = declare(&mut peer, &[("x-max-priority", FieldValue::I32(9))]);
    for queue in [&queue, &quorum] {
        for (priority, id, body) in [(0, "a", "1"), (9, "a", "again"), (9, "b", "2"), (3, "b", "again")] {
            let headers = Some(table([("x-deduplication-header", text(id))]));
            let properties = Properties { headers, priority: Some(priority), ..Properties::default() };
            peer.publish_with(1, &Publish { properties, body: body.as_bytes(), ..Publish::to("", queue) });
            // Of what comes at once the most urgent stays.
            peer.counts(1, queue);
        }
        assert_eq!(peer.drain(1, queue), ["2", "1"]);
    }
    peer.delete(1, &quorum);
}

#[test]
fn a_purge_forgets_them() {
    let mut peer = broker().peer();
    let queue = declare(&mut peer, &[]);
    publish(&mut peer, "", &queue, text("a"), "1");
    peer.send(1, &Method::QueuePurge { queue: &queue, nowait: false });
    expect_method!(peer, 1, Method::QueuePurgeOk { message_count: 1 });
    publish(&mut peer, "", &queue, text("a"), "2");
    assert_eq!(peer.drain(1, &queue), ["2"]);
}

#[test]
fn the_argument_is_a_bool_and_declarations_agree_on_it() {
    let mut peer = broker().peer();
    let queue = unique("once");
    let with = |value| Queue {
        arguments: table([("x-message-deduplication", value)]),
        exclusive: true,
        ..Queue::named(&queue)
    };
    let reason = "\"expected bool, got longstr\"";
    let refused = format!(
        "PRECONDITION_FAILED - invalid arg 'x-message-deduplication' for queue '{queue}' in vhost '/': {reason}"
    );
    peer.refused(1, &with(text("true")).method(), 406, &refused);
    peer.open_channel(2);
    peer.declare(2, &with(FieldValue::Bool(true)));
    let inequivalent = format!(
        "PRECONDITION_FAILED - inequivalent arg 'x-message-deduplication' for queue '{queue}' in vhost '/': \
         received none but current is the value 'true' of type 'bool'"
    );
    peer.refused(2, &Queue::exclusive(&queue).method(), 406, &inequivalent);
}

fn with_window(arguments: &[(&str, FieldValue)]) -> FieldTable {
    let mut table = table([("x-message-deduplication", FieldValue::Bool(true))]);
    table.0.extend(arguments.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    table
}

fn publish_value(peer: &mut Peer, queue: &str, value: &str, ttl_ms: Option<i32>) {
    let mut headers = table([("x-deduplication-header", text(value))]);
    headers.0.extend(ttl_ms.map(|ms| ("x-cache-ttl".to_owned(), FieldValue::I32(ms))));
    let properties = Properties { headers: Some(headers), ..Properties::default() };
    peer.publish_with(1, &Publish { properties, body: value.as_bytes(), ..Publish::to("", queue) });
}

#[test]
fn a_window_knows_what_has_left() {
    for queue_type in ["classic", "quorum"] {
        let mut peer = broker().peer();
        let queue = unique("window");
        let arguments =
            with_window(&[("x-cache-size", FieldValue::I32(2)), ("x-queue-type", text(queue_type))]);
        peer.declare(1, &Queue { arguments, ..Queue::durable(&queue) });
        peer.select_confirms(1);
        for value in ["a", "b", "a"] {
            publish_value(&mut peer, &queue, value, None);
        }
        peer.confirmed(1, 3);
        assert_eq!(peer.drain(1, &queue), ["a", "b"]);
        for value in ["b", "a", "c", "a", "b"] {
            publish_value(&mut peer, &queue, value, None);
        }
        // The third one made room, and then the fourth.
        peer.open_channel(2);
        assert_eq!(peer.drain(2, &queue), ["c", "a", "b"], "{queue_type}");
        peer.delete(2, &queue);
    }
}

#[test]
fn a_window_ends_by_time() {
    let mut peer = broker().peer();
    let queue = unique("window");
    let arguments = with_window(&[("x-cache-ttl", FieldValue::I32(600_000))]);
    peer.declare(1, &Queue { arguments, ..Queue::exclusive(&queue) });
    publish_value(&mut peer, &queue, "long", None);
    publish_value(&mut peer, &queue, "short", Some(30));
    assert_eq!(peer.drain(1, &queue), ["long", "short"]);
    while peer.counts(1, &queue).0 == 0 {
        publish_value(&mut peer, &queue, "short", Some(600_000));
        publish_value(&mut peer, &queue, "long", None);
    }
    assert_eq!(peer.drain(1, &queue), ["short"]);
}

#[test]
fn windows_are_checked() {
    let mut peer = broker().peer();
    let queue = unique("window");
    let invalid = |name: &str, reason: &str| {
        format!("PRECONDITION_FAILED - invalid arg '{name}' for queue '{queue}' in vhost '/': {reason}")
    };
    let alone = table([("x-cache-size", FieldValue::I32(5))]);
    for (channel, (arguments, name, reason)) in (2..).zip([
        (with_window(&[("x-cache-size", FieldValue::I32(0))]), "x-cache-size", "{value_zero,0}"),
        (with_window(&[("x-cache-size", FieldValue::I32(-4))]), "x-cache-size", "{value_negative,-4}"),
        (with_window(&[("x-cache-size", text("many"))]), "x-cache-size", "\"expected integer, got longstr\""),
        (with_window(&[("x-cache-ttl", FieldValue::I32(0))]), "x-cache-ttl", "{value_zero,0}"),
        (alone, "x-cache-size", "\"expected together with 'x-message-deduplication'\""),
    ]) {
        peer.open_channel(channel);
        let declared = Queue { arguments, ..Queue::exclusive(&queue) };
        peer.refused(channel, &declared.method(), 406, &invalid(name, reason));
    }
}
