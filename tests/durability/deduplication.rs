//! Deduplication across restarts and crashes: what is in a queue is known, and what was dropped stays dropped.

use posthouse_testkit::{Broker, FieldValue, Options, Peer, Properties, Publish, Queue, table, text};

fn declare(peer: &mut Peer) {
    declare_as(peer, "classic");
}

fn declare_as(peer: &mut Peer, queue_type: &str) {
    let mut arguments = table([("x-message-deduplication", FieldValue::Bool(true))]);
    arguments.0.push(("x-queue-type".to_owned(), text(queue_type)));
    peer.declare(1, &Queue { arguments, ..Queue::durable("once") });
}

fn priority(number: u32) -> Option<u8> {
    Some((number % 10) as u8)
}

/// Publishes a persistent message per number, whose value is the number and whose priority its last digit, and waits for
/// the confirms.
fn publish(peer: &mut Peer, numbers: impl Iterator<Item = u32> + Clone, bytes: usize) {
    peer.open_channel(9);
    peer.select_confirms(9);
    let count = numbers.clone().count() as u64;
    peer.send_bytes(&encoded(numbers, bytes));
    peer.confirmed_up_to(9, count);
    peer.close_channel(9);
}

fn encoded(numbers: impl Iterator<Item = u32>, bytes: usize) -> Vec<u8> {
    let mut encoded = Vec::new();
    for number in numbers {
        let headers = Some(table([("x-deduplication-header", text(&number.to_string()))]));
        let properties = Properties {
            headers,
            delivery_mode: Some(2),
            priority: priority(number),
            ..Properties::default()
        };
        let body = format!("{number:0>bytes$}");
        Publish { properties, body: body.as_bytes(), ..Publish::to("", "once") }.write(
            9,
            131_072,
            &mut encoded,
        );
    }
    encoded
}

#[test]
fn a_crash_changes_nothing() {
    let mut broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    declare(&mut peer);
    publish(&mut peer, (0..50).chain(0..50), 1);
    let first = peer.get(1, "once", false).expect("a message");
    peer.ack(1, first.tag);
    // Answered after the acknowledgement, and on disk after it.
    publish(&mut peer, 100..101, 1);
    broker.kill();
    broker.start_again();
    let mut peer = broker.peer();
    assert_eq!(peer.counts(1, "once").0, 50);
    publish(&mut peer, 0..50, 1);
    let expected: Vec<String> = (1..50).chain([100, 0]).map(|number| number.to_string()).collect();
    assert_eq!(peer.drain(1, "once"), expected);
    peer.close();
    broker.stop();
    broker.check();
}

#[test]
fn messages_in_segments_are_known_after_a_restart() {
    let mut broker = Broker::start(Options::log().set("POSTHOUSE__MEMORY__BUDGET", "16MiB"));
    let mut peer = broker.peer();
    declare(&mut peer);
    publish(&mut peer, 0..900, 60_000);
    peer.close();
    broker.restart();
    let mut peer = broker.peer();
    publish(&mut peer, (0..900).step_by(50).chain(900..902), 60_000);
    assert_eq!(peer.counts(1, "once").0, 902);
}

#[test]
fn a_crash_of_a_quorum_queue_changes_nothing() {
    let mut broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    declare_as(&mut peer, "quorum");
    publish(&mut peer, (0..50).chain(0..50), 1);
    let first = peer.get(1, "once", false).expect("a message");
    assert_eq!(first.text(), "9", "the most urgent");
    peer.ack(1, first.tag);
    publish(&mut peer, 100..101, 1);
    broker.kill();
    broker.start_again();
    let mut peer = broker.peer();
    assert_eq!(peer.counts(1, "once").0, 50);
    publish(&mut peer, 0..50, 1);
    let mut bodies = peer.drain(1, "once");
    bodies.sort_by_key(|body| body.parse::<u32>().expect("a number"));
    let expected: Vec<String> = (0..50).chain([100]).map(|number| number.to_string()).collect();
    assert_eq!(bodies, expected);
    peer.close();
    broker.stop();
    broker.check();
}

/// What has left is known after a crash, whatever the type of the queue.
#[test]
fn a_window_survives_crashes() {
    for queue_type in ["classic", "quorum"] {
        let mut broker = Broker::start(Options::log());
        let mut peer = broker.peer();
        let window = [
            ("x-message-deduplication", FieldValue::Bool(true)),
            ("x-cache-size", FieldValue::I32(100_000)),
            ("x-queue-type", text(queue_type)),
        ];
        peer.declare(1, &Queue { arguments: table(window), ..Queue::durable("once") });
        publish(&mut peer, (0..50).chain(0..50), 1);
        assert_eq!(peer.drain(1, "once").len(), 50);
        publish(&mut peer, 100..101, 1);
        broker.kill();
        broker.start_again();
        let mut peer = broker.peer();
        publish(&mut peer, 0..103, 1);
        assert_eq!(peer.drain(1, "once").len(), 53, "{queue_type}");
        // From here on a checkpoint has it.
        peer.close();
        broker.restart();
        let mut peer = broker.peer();
        publish(&mut peer, 0..105, 1);
        assert_eq!(peer.drain(1, "once").len(), 2, "{queue_type}");
        peer.close();
        broker.stop();
        broker.check();
    }
}

/// Killed while it is publishing, a publisher sends again all that was not confirmed, and more.
#[test]
fn crashes_in_the_midst_of_publishing_repeat_and_lose_nothing() {
    const ROUND: u32 = 3_000;
    let mut broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    let window = [
        ("x-message-deduplication", FieldValue::Bool(true)),
        ("x-cache-ttl", FieldValue::I64(3_600_000)),
        ("x-max-priority", FieldValue::I32(5)),
    ];
    peer.declare(1, &Queue { arguments: table(window), ..Queue::durable("once") });
    let (mut confirmed, mut got) = (0, Vec::new());
    for round in 1..=5 {
        peer.open_channel(9);
        peer.select_confirms(9);
        let from = confirmed.max(200) - 200;
        peer.send_bytes(&encoded(from..round * ROUND, 1));
        peer.confirmed_up_to(9, u64::from((round * ROUND - from) / 3));
        confirmed = from + (round * ROUND - from) / 3;
        broker.kill();
        broker.start_again();
        peer = broker.peer();
        let taken = peer.drain(1, "once");
        got.extend(taken.iter().map(|body| body.parse::<u32>().expect("a number")));
        // So that they are gone for good.
        peer.close();
        broker.restart();
        peer = broker.peer();
    }
    publish(&mut peer, confirmed.max(500) - 500..5 * ROUND, 1);
    got.extend(peer.drain(1, "once").iter().map(|body| body.parse::<u32>().expect("a number")));
    got.sort_unstable();
    assert_eq!(got, (0..5 * ROUND).collect::<Vec<_>>());
    peer.close();
    broker.stop();
    broker.check();
}
