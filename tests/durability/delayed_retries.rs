//! Delayed messages across restarts: all are there, each once, and wait for the rest of their time.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use posthouse_testkit::calls::persistent;
use posthouse_testkit::{Broker, Consume, FieldValue, Method, Options, Peer, Publish, Queue, table, text};

use super::sync;

const MESSAGES: u64 = 300;

fn declare(peer: &mut Peer, kind: &str, delay_ms: i32) {
    let arguments = table([
        ("x-queue-type", text(kind)),
        ("x-delayed-retry-type", text("all")),
        ("x-delayed-retry-min", FieldValue::I32(delay_ms)),
        // Counts are kept when the delays are switched off.
        ("x-delivery-limit", FieldValue::I32(-1)),
    ]);
    peer.declare(1, &Queue { arguments, ..Queue::durable(kind) });
}

fn publish(peer: &mut Peer, queue: &str, count: u64) {
    peer.select_confirms(1);
    for number in 0..count {
        let body = number.to_string();
        let (properties, body) = (persistent(), body.as_bytes());
        peer.publish_with(1, &Publish { properties, body, ..Publish::to("", queue) });
    }
    peer.confirmed(1, count);
}

/// Acknowledges every third message and lets every third fail; the others stay.
fn work(peer: &mut Peer, queue: &str) {
    for number in 0..MESSAGES {
        let delivery_tag = peer.get(1, queue, false).unwrap().tag;
        match number % 3 {
            0 => peer.ack(1, delivery_tag),
            1 => peer.send(1, &Method::BasicNack { delivery_tag, multiple: false, requeue: true }),
            _ => {}
        }
    }
    assert_eq!(peer.counts(1, queue), (0, 0));
}

/// What is ready, with what is known of failures.
fn take(peer: &mut Peer, queue: &str) -> Vec<(u64, i64)> {
    let mut found = Vec::new();
    while let Some(message) = peer.get(1, queue, true) {
        let headers = message.properties().headers.unwrap_or_default();
        let failed = headers.get("x-delivery-count").and_then(FieldValue::as_int).unwrap_or(0);
        assert!(message.redelivered);
        found.push((message.text().parse().unwrap(), failed));
    }
    found
}

fn delayed(broker: &Broker, queue: &str) -> u64 {
    let rows = broker.ctl(&["list_queues", "name,messages_delayed"]);
    let row = rows.lines().find_map(|row| row.strip_prefix(&format!("{queue}\t")));
    row.unwrap().parse().unwrap()
}

/// `kill` and a clean stop, in turn: the log tells of the first, the checkpoint of the second.
#[test]
fn what_waits_goes_on_waiting_and_none_is_lost() {
    for kind in ["classic", "quorum"] {
        let mut broker = Broker::start(Options::log());
        let mut peer = broker.peer();
        declare(&mut peer, kind, 3_600_000);
        publish(&mut peer, kind, MESSAGES);
        work(&mut peer, kind);
        sync(&mut peer);
        broker.kill();
        broker.start_again();
        let mut peer = broker.peer();
        assert_eq!(delayed(&broker, kind), MESSAGES / 3);
        let unacked = (0..MESSAGES).filter(|number| number % 3 == 2).map(|number| (number, 0));
        assert_eq!(take(&mut peer, kind), unacked.collect::<Vec<_>>(), "these were handed out");
        sync(&mut peer);
        drop(peer);
        broker.restart();
        let mut peer = broker.peer();
        assert_eq!((delayed(&broker, kind), take(&mut peer, kind).len()), (MESSAGES / 3, 0));
        // Nobody waits for so long.
        broker.ctl(&["set_policy", "off", ".*", r#"{"delayed-retry-type":"disabled"}"#]);
        let failed = (0..MESSAGES).filter(|number| number % 3 == 1).map(|number| (number, 1));
        assert_eq!(take(&mut peer, kind), failed.collect::<Vec<_>>());
        drop(peer);
        broker.stop();
        broker.check();
    }
}

#[test]
fn time_passes_while_the_broker_is_down() {
    let mut broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    let delay = Duration::from_millis(1_000);
    declare(&mut peer, "classic", delay.as_millis() as i32);
    publish(&mut peer, "classic", 1);
    let delivery_tag = peer.get(1, "classic", false).unwrap().tag;
    let began = Instant::now();
    peer.send(1, &Method::BasicNack { delivery_tag, multiple: false, requeue: true });
    sync(&mut peer);
    broker.kill();
    broker.start_again();
    let mut peer = broker.peer();
    peer.await_counts(1, "classic", (1, 0));
    let took = began.elapsed();
    assert!(took >= delay, "{took:?}");
    assert_eq!(take(&mut peer, "classic"), [(0, 1)]);
}

#[test]
fn kills_in_the_middle_of_failures_lose_nothing() {
    let mut broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    declare(&mut peer, "quorum", 20);
    publish(&mut peer, "quorum", MESSAGES);
    let mut acknowledged = HashSet::new();
    for round in 0..4 {
        peer.open_channel(3);
        peer.prefetch(3, 20, false);
        peer.consume(3, &Consume::from("quorum"));
        for turn in 0..120 {
            let message = peer.message(3);
            let number: u64 = message.text().parse().unwrap();
            assert!(message.redelivered || !acknowledged.contains(&number), "{number} came twice");
            if (turn + round) % 4 == 0 {
                acknowledged.insert(number);
                peer.ack(3, message.tag);
            } else {
                let delivery_tag = message.tag;
                peer.send(3, &Method::BasicNack { delivery_tag, multiple: false, requeue: true });
            }
        }
        broker.kill();
        broker.start_again();
        peer = broker.peer();
    }
    let mut missing: HashSet<u64> = (0..MESSAGES).filter(|number| !acknowledged.contains(number)).collect();
    peer.consume(1, &Consume::no_ack("quorum"));
    while !missing.is_empty() {
        let message = peer.message(1);
        let number = message.text().parse().unwrap();
        assert!(missing.remove(&number) || message.redelivered, "{number} came twice");
    }
}
