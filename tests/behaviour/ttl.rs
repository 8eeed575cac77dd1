//! Messages that expire, by `x-message-ttl`, by `expiration` and by policy; and queues that do, by `x-expires`.

use std::time::{Duration, Instant};

use posthouse_testkit::{
    Broker, Consume, FieldTable, FieldValue, Method, Options, Peer, Properties, Publish, Queue,
    expect_method, table, text,
};

use super::{broker, unique};

const TIMEOUT: Duration = Duration::from_secs(20);

fn queue_with(peer: &mut Peer, argument: &str, ms: i64) -> String {
    let queue = unique("ttl");
    let arguments = table([(argument, FieldValue::I64(ms))]);
    peer.declare(1, &Queue { arguments, ..Queue::named(&queue) });
    queue
}

fn expiring(ms: u64) -> Properties {
    Properties { expiration: Some(ms.to_string()), ..Properties::default() }
}

fn publish(peer: &mut Peer, queue: &str, ms: Option<u64>, body: &str) {
    let properties = ms.map(expiring).unwrap_or_default();
    peer.publish_with(1, &Publish { properties, body: body.as_bytes(), ..Publish::to("", queue) });
}

/// Whether a message for the queue is routed, which does not count as using it.
fn exists(peer: &mut Peer, channel: u16, queue: &str) -> bool {
    let publish = Publish { mandatory: true, body: b"?", ..Publish::to("", queue) };
    let mut out = Vec::new();
    publish.write(channel, 131_072, &mut out);
    peer.send_bytes(&out);
    let routed = match peer.method(channel).get() {
        Method::BasicReturn { .. } => false,
        Method::BasicAck { .. } => true,
        other => panic!("expected a return or a confirm, got {other:?}"),
    };
    if !routed {
        peer.frame(channel);
        peer.frame(channel);
        expect_method!(peer, channel, Method::BasicAck { .. });
    }
    routed
}

/// Waits until a queue is gone; how long that took.
fn until_gone(peer: &mut Peer, channel: u16, queue: &str) -> Duration {
    let start = Instant::now();
    while exists(peer, channel, queue) {
        assert!(start.elapsed() < TIMEOUT, "{queue} is still there");
    }
    start.elapsed()
}

#[test]
fn a_queues_messages_expire_and_not_too_early() {
    let mut peer = broker().peer();
    let queue = queue_with(&mut peer, "x-message-ttl", 300);
    let start = Instant::now();
    for number in 0..50 {
        publish(&mut peer, &queue, None, &number.to_string());
    }
    assert_eq!(peer.counts(1, &queue).0, 50);
    peer.await_counts(1, &queue, (0, 0));
    let waited = start.elapsed();
    assert!(waited >= Duration::from_millis(299), "{waited:?}");
    assert!(peer.get(1, &queue, true).is_none());
}

#[test]
fn a_message_with_a_short_life_does_not_wait_behind_one_with_a_long_one() {
    let mut peer = broker().peer();
    let queue = peer.server_named(1);
    publish(&mut peer, &queue, Some(600_000), "long");
    publish(&mut peer, &queue, Some(50), "short");
    publish(&mut peer, &queue, None, "for ever");
    peer.await_counts(1, &queue, (2, 0));
    let message = peer.get(1, &queue, true).expect("the long one");
    assert_eq!((message.text(), message.properties()), ("long".to_owned(), expiring(600_000)));
    assert_eq!(peer.drain(1, &queue), ["for ever"]);
}

#[test]
fn the_shorter_of_both_times_counts() {
    let mut peer = broker().peer();
    let queue = queue_with(&mut peer, "x-message-ttl", 600_000);
    publish(&mut peer, &queue, Some(20), "own");
    peer.await_counts(1, &queue, (0, 0));
    let queue = queue_with(&mut peer, "x-message-ttl", 20);
    publish(&mut peer, &queue, Some(600_000), "queue's");
    peer.await_counts(1, &queue, (0, 0));
}

#[test]
fn without_time_a_message_is_for_who_waits() {
    let mut peer = broker().peer();
    peer.open_channel(2);
    let queue = queue_with(&mut peer, "x-message-ttl", 0);
    publish(&mut peer, &queue, None, "for nobody");
    assert_eq!(peer.counts(1, &queue).0, 0, "at once");
    peer.prefetch(2, 1, false);
    let consumer = peer.consume(2, &Consume::from(&queue));
    publish(&mut peer, &queue, None, "for the consumer");
    let message = peer.message(2);
    assert_eq!(message.text(), "for the consumer");
    publish(&mut peer, &queue, None, "beyond its credit");
    peer.await_counts(1, &queue, (0, 1));
    // Given back, it has had its chance.
    let back = Method::BasicNack { delivery_tag: message.tag, multiple: false, requeue: true };
    peer.send(2, &back);
    peer.cancel(2, &consumer);
    peer.await_counts(1, &queue, (0, 0));
    let plain = peer.server_named(1);
    publish(&mut peer, &plain, Some(0), "for nobody");
    assert_eq!(peer.drain(1, &plain), [] as [&str; 0]);
    peer.consume(2, &Consume::no_ack(&plain));
    publish(&mut peer, &plain, Some(0), "for the consumer");
    assert_eq!(peer.message(2).text(), "for the consumer");
}

#[test]
fn what_a_consumer_holds_expires_when_it_gives_it_back() {
    let mut peer = broker().peer();
    let (queue, marker) =
        (queue_with(&mut peer, "x-message-ttl", 50), queue_with(&mut peer, "x-message-ttl", 50));
    publish(&mut peer, &queue, None, "held");
    publish(&mut peer, &marker, None, "not held");
    let message = peer.get(1, &queue, false).expect("the message");
    peer.await_counts(1, &marker, (0, 0));
    peer.send(1, &Method::BasicNack { delivery_tag: message.tag, multiple: false, requeue: true });
    assert!(peer.get(1, &queue, false).is_none());
}

#[test]
fn expired_messages_are_dead_lettered_and_may_come_back() {
    let mut peer = broker().peer();
    let (work, wait) = (unique("work"), unique("wait"));
    let to = |queue: &str, more: [(&str, FieldValue); 1]| {
        let mut arguments =
            table([("x-dead-letter-exchange", text("")), ("x-dead-letter-routing-key", text(queue))]);
        arguments.0.extend(table(more).0);
        arguments
    };
    let arguments = to(&work, [("x-message-ttl", FieldValue::I32(50))]);
    peer.declare(1, &Queue { arguments, ..Queue::named(&wait) });
    let arguments = to(&wait, [("x-made-up", FieldValue::Void)]);
    peer.declare(1, &Queue { arguments, ..Queue::named(&work) });
    peer.open_channel(2);
    peer.consume(2, &Consume::from(&work));
    publish(&mut peer, &work, Some(600_000), "again");
    let first = peer.message(2);
    assert_eq!(first.properties().expiration.as_deref(), Some("600000"));
    peer.send(2, &Method::BasicNack { delivery_tag: first.tag, multiple: false, requeue: false });
    let second = peer.message(2);
    let headers = second.properties().headers.expect("headers");
    assert_eq!((second.text(), second.properties().expiration), ("again".to_owned(), None));
    assert_eq!(headers.get("x-last-death-reason"), Some(&text("expired")));
    assert_eq!(headers.get("x-last-death-queue"), Some(&text(&wait)));
    peer.ack(2, second.tag);
    peer.await_counts(1, &wait, (0, 0));
}

#[test]
fn expirations_are_checked() {
    let broker = broker();
    for (value, reason) in [
        ("", "no_integer"),
        ("soon", "no_integer"),
        ("-1", "{value_negative,-1}"),
        ("1.5", "{leftover_string,\".5\"}"),
        ("315360000001", "{value_too_large,315360000001}"),
    ] {
        let mut peer = broker.peer();
        let queue = peer.server_named(1);
        let properties = Properties { expiration: Some(value.into()), ..Properties::default() };
        peer.publish_with(1, &Publish { properties, ..Publish::to("", &queue) });
        let expected = format!("PRECONDITION_FAILED - invalid expiration '{value}': {reason}");
        peer.expect_channel_close(1, 406, &expected, (60, 40));
    }
}

#[test]
fn declarations_must_agree_on_times() {
    let mut peer = broker().peer();
    for argument in ["x-message-ttl", "x-expires"] {
        let queue = queue_with(&mut peer, argument, 600_000);
        let same = table([(argument, FieldValue::I32(600_000))]);
        peer.declare(1, &Queue { arguments: same, ..Queue::named(&queue) });
        let text = format!(
            "PRECONDITION_FAILED - inequivalent arg '{argument}' for queue '{queue}' in vhost '/': \
             received none but current is the value '600000' of type 'long'"
        );
        peer.refused(1, &Queue::named(&queue).method(), 406, &text);
        peer.delete(1, &queue);
    }
}

#[test]
fn a_queue_nobody_uses_goes() {
    let mut peer = broker().peer();
    peer.open_channel(2);
    peer.select_confirms(2);
    let start = Instant::now();
    let queue = queue_with(&mut peer, "x-expires", 300);
    until_gone(&mut peer, 2, &queue);
    assert!(start.elapsed() >= Duration::from_millis(299), "{:?}", start.elapsed());
    let text = format!("NOT_FOUND - no queue '{queue}' in vhost '/'");
    peer.refused(1, &Queue::passive(&queue).method(), 404, &text);
}

#[test]
fn a_queue_stays_while_it_is_used() {
    // Long enough for a machine that is busy with other tests to come back to this one.
    const EXPIRES: Duration = Duration::from_millis(1500);
    let mut peer = broker().peer();
    peer.open_channel(2);
    peer.select_confirms(2);
    let queue = queue_with(&mut peer, "x-expires", EXPIRES.as_millis() as i64);
    let consumer = peer.consume(1, &Consume::no_ack(&queue));
    let witness = queue_with(&mut peer, "x-expires", EXPIRES.as_millis() as i64);
    until_gone(&mut peer, 2, &witness);
    peer.cancel(1, &consumer);
    // Each time, its whole time begins anew.
    for use_it in [
        |peer: &mut Peer, queue: &str| drop(peer.get(1, queue, true)),
        |peer: &mut Peer, queue: &str| assert_eq!(peer.counts(1, queue).1, 0),
        |peer: &mut Peer, queue: &str| {
            let arguments = table([("x-expires", FieldValue::I64(EXPIRES.as_millis() as i64))]);
            peer.declare(1, &Queue { arguments, ..Queue::named(queue) });
        },
    ] {
        let before = Instant::now();
        // It is used for longer than it may be unused.
        while before.elapsed() < EXPIRES + EXPIRES / 4 {
            use_it(&mut peer, &queue);
        }
        assert!(exists(&mut peer, 2, &queue));
    }
    assert!(until_gone(&mut peer, 2, &queue) >= EXPIRES / 2);
}

#[test]
fn policies_set_and_take_back_times() {
    let broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    peer.open_channel(2);
    peer.select_confirms(2);
    let argument = table([("x-message-ttl", FieldValue::I64(600_000))]);
    let declare = |peer: &mut Peer, name: &str, arguments: FieldTable| {
        peer.declare(1, &Queue { arguments, ..Queue::named(name) });
    };
    declare(&mut peer, "short", argument);
    declare(&mut peer, "idle", FieldTable::default());
    for body in ["a", "b"] {
        peer.publish(1, "", "short", body);
    }
    broker.ctl(&["set_policy", "ttl", "^short$", r#"{"message-ttl":1}"#, "--apply-to", "queues"]);
    peer.await_counts(1, "short", (0, 0));
    broker.ctl(&["clear_policy", "ttl"]);
    peer.publish(1, "", "short", "stays");
    assert_eq!(peer.counts(1, "short").0, 1);
    let rows = broker.ctl(&["list_queues", "name", "messages_expired", "messages"]);
    assert!(rows.contains("short\t2\t1\n"), "{rows}");
    broker.ctl(&["set_policy", "idle", "^idle$", r#"{"expires":100}"#, "--apply-to", "queues"]);
    until_gone(&mut peer, 2, "idle");
    assert_eq!(peer.drain(1, "short"), ["stays"]);
}

#[test]
fn many_queues_expire_soon_after_they_are_due() {
    const QUEUES: usize = 500;
    const TTL: Duration = Duration::from_millis(1_000);
    let broker = Broker::start(Options::memory());
    let mut peer = broker.peer();
    let arguments = || table([("x-message-ttl", FieldValue::I64(TTL.as_millis() as i64))]);
    for number in 0..QUEUES {
        peer.declare(1, &Queue { arguments: arguments(), ..Queue::named(&format!("q{number}")) });
    }
    for number in 0..QUEUES {
        peer.publish(1, "", &format!("q{number}"), "x");
    }
    peer.counts(1, "q0");
    let published = Instant::now();
    for number in 0..QUEUES {
        peer.await_counts(1, &format!("q{number}"), (0, 0));
    }
    let late = published.elapsed().saturating_sub(TTL);
    assert!(late < Duration::from_secs(2), "{late:?}");
}
