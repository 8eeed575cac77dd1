//! Queues with `x-delayed-retry-type`: what came back waits before it is handed out again.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use posthouse_testkit::{Broker, Consume, FieldTable, FieldValue, Method, Options, Peer, Queue, table, text};

use super::{broker, unique};

/// So long that no test sees its end.
const LONG_MS: i32 = 3_600_000;

fn delays(kind: &str, min_ms: i32, max_ms: i32) -> FieldTable {
    table([
        ("x-delayed-retry-type", text(kind)),
        ("x-delayed-retry-min", FieldValue::I32(min_ms)),
        ("x-delayed-retry-max", FieldValue::I32(max_ms)),
    ])
}

fn with(mut arguments: FieldTable, name: &str, value: FieldValue) -> FieldTable {
    arguments.0.push((name.to_owned(), value));
    arguments
}

fn queue(peer: &mut Peer, arguments: FieldTable) -> String {
    let queue = unique("delayed");
    peer.declare(1, &Queue { arguments, ..Queue::exclusive(&queue) });
    queue
}

fn nack(delivery_tag: u64) -> Method<'static> {
    Method::BasicNack { delivery_tag, multiple: false, requeue: true }
}

fn reject(delivery_tag: u64) -> Method<'static> {
    Method::BasicReject { delivery_tag, requeue: true }
}

/// Fails the first message of a queue.
fn fail(peer: &mut Peer, queue: &str) {
    let tag = peer.get(1, queue, false).unwrap().tag;
    peer.send(1, &nack(tag));
}

/// These columns of a queue, as `list_queues` has them.
fn listed(broker: &Broker, queue: &str, columns: &str) -> String {
    let rows = broker.ctl(&["list_queues", &format!("name,{columns}")]);
    let row = rows.lines().find_map(|row| row.strip_prefix(&format!("{queue}\t")));
    row.unwrap_or_else(|| panic!("no {queue} in {rows}")).to_owned()
}

#[test]
fn retries_come_later_each_time() {
    for kind in ["classic", "quorum"] {
        let mut peer = broker().peer();
        let name = unique("backing-off");
        let arguments = with(delays("all", 60, 150), "x-queue-type", text(kind));
        peer.declare(1, &Queue { arguments, ..Queue::durable(&name) });
        peer.publish(1, "", &name, "x");
        peer.consume(1, &Consume::from(&name));
        let mut tag = peer.message(1).tag;
        for (failed, delay_ms) in [(1, 60), (2, 120), (3, 150), (4, 150)] {
            let began = Instant::now();
            peer.send(1, &if failed % 2 == 0 { nack(tag) } else { reject(tag) });
            let again = peer.message(1);
            let took = began.elapsed();
            assert!(took >= Duration::from_millis(delay_ms), "{kind} {failed}: {took:?}");
            let headers = again.properties().headers.unwrap();
            assert_eq!(headers.get("x-delivery-count").and_then(FieldValue::as_int), Some(failed));
            assert!(again.redelivered);
            tag = again.tag;
        }
        peer.ack(1, tag);
        peer.delete(1, &name);
    }
}

#[test]
fn others_go_ahead_meanwhile_and_a_lost_channel_is_a_failure() {
    let mut peer = broker().peer();
    let queue = queue(&mut peer, delays("failed", 100, 100));
    for body in ["a", "b", "c"] {
        peer.publish(1, "", &queue, body);
    }
    peer.open_channel(2);
    peer.open_channel(3);
    let began = Instant::now();
    assert_eq!(peer.get(2, &queue, false).unwrap().text(), "a");
    peer.close_channel(2);
    peer.consume(3, &Consume::from(&queue));
    assert_eq!(peer.messages(3, 3), ["b", "c", "a"]);
    assert!(began.elapsed() >= Duration::from_millis(100));
}

#[test]
fn types_choose_what_waits() {
    for (kind, way, waits) in [
        ("all", nack as fn(u64) -> Method<'static>, true),
        ("all", reject, true),
        ("failed", nack, true),
        ("failed", reject, true),
        ("returned", nack, true),
        ("returned", reject, false),
        ("disabled", nack, false),
        ("disabled", reject, false),
    ] {
        let mut peer = broker().peer();
        let queue = queue(&mut peer, delays(kind, LONG_MS, LONG_MS));
        peer.publish(1, "", &queue, "x");
        let tag = peer.get(1, &queue, false).unwrap().tag;
        peer.send(1, &way(tag));
        assert_eq!(peer.counts(1, &queue).0, u32::from(!waits), "{kind}");
        assert_eq!(peer.get(1, &queue, true).is_none(), waits, "{kind}");
        assert_eq!(peer.delete(1, &queue), u32::from(waits), "it is there all the same");
    }
}

#[test]
fn delayed_messages_are_counted_purged_and_keep_a_queue_from_being_empty() {
    let broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    let arguments = with(delays("all", LONG_MS, LONG_MS), "x-max-length", FieldValue::I32(3));
    peer.declare(1, &Queue { arguments, ..Queue::named("q") });
    for body in ["1", "2", "3"] {
        peer.publish(1, "", "q", body);
    }
    fail(&mut peer, "q");
    fail(&mut peer, "q");
    assert_eq!(peer.counts(1, "q"), (1, 0));
    let columns = "messages,messages_ready,messages_delayed,messages_unacknowledged";
    assert_eq!(listed(&broker, "q", columns), "3\t1\t2\t0");
    assert!(broker.ctl(&["status", "--formatter=json"]).contains("\"messages_delayed\":2"));
    assert_eq!(broker.ctl(&["browse_queue", "q", "payload"]), "1\n2\n3\n");
    let until = broker.ctl(&["browse_queue", "q", "delayed_until"]);
    let until: Vec<Option<u128>> = until.lines().map(|until| until.parse().ok()).collect();
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let waits = |until: Option<u128>| until.is_some_and(|until| until > since_1970.as_millis());
    assert_eq!(until.iter().map(|&until| waits(until)).collect::<Vec<_>>(), [true, true, false]);
    peer.publish(1, "", "q", "4");
    assert_eq!(peer.counts(1, "q"), (2, 0));
    assert_eq!(listed(&broker, "q", "messages_delayed,messages_maxlen"), "1\t1", "the oldest made room");
    let purge = peer.call(1, &Method::QueuePurge { queue: "q", nowait: false });
    assert_eq!(purge.get(), Method::QueuePurgeOk { message_count: 3 });
    peer.publish(1, "", "q", "5");
    fail(&mut peer, "q");
    let delete = Method::QueueDelete { queue: "q", if_unused: false, if_empty: true, nowait: false };
    peer.refused(1, &delete, 406, "PRECONDITION_FAILED - queue 'q' in vhost '/' not empty");
}

#[test]
fn they_expire_and_move_like_any_other() {
    let broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    let arguments = with(delays("all", LONG_MS, LONG_MS), "x-message-ttl", FieldValue::I32(200));
    let arguments = with(arguments, "x-dead-letter-exchange", text(""));
    let arguments = with(arguments, "x-dead-letter-routing-key", text("dead"));
    peer.declare(1, &Queue { arguments, ..Queue::named("q") });
    peer.declare(1, &Queue::named("dead"));
    peer.publish(1, "", "q", "old");
    fail(&mut peer, "q");
    peer.await_counts(1, "dead", (1, 0));
    peer.declare(1, &Queue { arguments: delays("all", LONG_MS, LONG_MS), ..Queue::named("from") });
    peer.publish(1, "", "from", "moved");
    fail(&mut peer, "from");
    peer.declare(1, &Queue::named("to"));
    broker.ctl(&["move_messages", "from", "to"]);
    assert_eq!(peer.get(1, "to", true).unwrap().text(), "moved");
    assert_eq!(listed(&broker, "from", "messages"), "0");
}

#[test]
fn a_policy_switches_it_on_and_off_while_messages_wait() {
    let broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    peer.declare(1, &Queue::named("q"));
    for body in ["1", "2"] {
        peer.publish(1, "", "q", body);
    }
    fail(&mut peer, "q");
    assert_eq!(peer.counts(1, "q"), (2, 0), "nothing is delayed");
    let on = r#"{"delayed-retry-type":"all","delayed-retry-min":3600000}"#;
    broker.ctl(&["set_policy", "p", "^q$", on]);
    fail(&mut peer, "q");
    fail(&mut peer, "q");
    assert_eq!((peer.counts(1, "q"), listed(&broker, "q", "messages_delayed").as_str()), ((0, 0), "2"));
    peer.open_channel(2);
    peer.consume(2, &Consume::from("q"));
    // An operator may shorten what applications ask for; what waits already is not changed by that.
    broker.ctl(&["set_operator_policy", "o", "^q$", r#"{"delayed-retry-max":1}"#]);
    peer.publish(1, "", "q", "3");
    let third = peer.message(2);
    peer.send(2, &nack(third.tag));
    let again = peer.message(2);
    assert_eq!((third.text(), again.text()), ("3".to_owned(), "3".to_owned()));
    assert_eq!(listed(&broker, "q", "messages_delayed"), "2");
    broker.ctl(&["clear_policy", "p"]);
    assert_eq!(peer.messages(2, 2), ["1", "2"]);
    assert_eq!(listed(&broker, "q", "messages_delayed"), "0");
}

#[test]
fn a_conversion_changes_nothing_for_what_waits() {
    let broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    peer.declare(1, &Queue { arguments: delays("all", LONG_MS, LONG_MS), ..Queue::durable("q") });
    peer.publish(1, "", "q", "before");
    fail(&mut peer, "q");
    for kind in ["quorum", "classic"] {
        broker.ctl(&["convert_queue", "q", "--to", kind]);
        peer.publish(1, "", "q", kind);
        fail(&mut peer, "q");
    }
    assert_eq!(listed(&broker, "q", "messages_ready,messages_delayed"), "0\t3");
    broker.ctl(&["set_policy", "off", "^q$", r#"{"delayed-retry-type":"disabled"}"#]);
    let mut all = peer.drain(1, "q");
    all.sort_unstable();
    assert_eq!(all, ["before", "classic", "quorum"]);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let mut peer = broker().peer();
    let name = unique("refused");
    let invalid = |argument: &str, reason: &str| {
        format!("PRECONDITION_FAILED - invalid arg '{argument}' for queue '{name}' in vhost '/'{reason}")
    };
    let (kind, min, max) = ("x-delayed-retry-type", "x-delayed-retry-min", "x-delayed-retry-max");
    let stream = with(delays("all", 1, 1), "x-queue-type", text("stream"));
    for (arguments, text) in [
        (delays("some", 1, 2), invalid(kind, ": \"expected disabled, all, failed or returned, got 'some'\"")),
        (delays("all", 0, 2), invalid(min, ": {value_zero,0}")),
        (delays("all", 5, 4), invalid(max, ": \"expected x-delayed-retry-min (5) or more, got 4\"")),
        (table([(kind, text("all"))]), invalid(kind, ": \"expected together with x-delayed-retry-min\"")),
        (
            table([(min, FieldValue::I32(1))]),
            invalid(min, ": \"expected together with x-delayed-retry-type\""),
        ),
        (
            table([(max, FieldValue::I32(1))]),
            invalid(max, ": \"expected together with x-delayed-retry-type\""),
        ),
        (stream, invalid(kind, " of queue type rabbit_stream_queue")),
    ] {
        let queue = Queue { arguments, ..Queue::durable(&name) };
        peer.refused(1, &queue.method(), 406, &text);
    }
    peer.declare(1, &Queue { arguments: delays("all", 1, 2), ..Queue::exclusive(&name) });
    let other = Queue { arguments: delays("all", 1, 3), ..Queue::exclusive(&name) };
    let text = format!(
        "PRECONDITION_FAILED - inequivalent arg '{max}' for queue '{name}' in vhost '/': received '3' but current is '2'"
    );
    peer.refused(1, &other.method(), 406, &text);
}
