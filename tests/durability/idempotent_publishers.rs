//! Publishers that number their messages, across crashes: what is sent again enters once, and nothing is missing.

use posthouse_testkit::{
    Broker, FieldValue, Method, Options, Peer, Properties, Publish, Queue, expect_method, table, text,
};

const QUEUE: &str = "numbered";

fn declare(peer: &mut Peer) {
    declare_as(peer, "classic", &[]);
}

fn declare_as(peer: &mut Peer, queue_type: &str, more: &[(&str, FieldValue)]) {
    let mut arguments = table([("x-publisher-deduplication", FieldValue::Bool(true))]);
    arguments.0.push(("x-queue-type".to_owned(), text(queue_type)));
    arguments.0.extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    peer.declare(1, &Queue { arguments, ..Queue::durable(QUEUE) });
}

/// The bytes of persistent messages with these numbers, which are their bodies, too.
fn encoded(ids: std::ops::Range<u32>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for id in ids {
        let headers = Some(table([
            ("x-stream-publisher-reference", text("app")),
            ("x-stream-publishing-id", FieldValue::I64(id.into())),
        ]));
        let priority = Some((id % 7) as u8);
        let properties = Properties { headers, delivery_mode: Some(2), priority, ..Properties::default() };
        let body = id.to_string();
        Publish { properties, body: body.as_bytes(), ..Publish::to("", QUEUE) }.write(9, 131_072, &mut bytes);
    }
    bytes
}

/// Publishes in one go, and waits for the confirms.
fn publish(peer: &mut Peer, ids: std::ops::Range<u32>) {
    peer.open_channel(9);
    peer.select_confirms(9);
    let count = u64::from(ids.end - ids.start);
    peer.send_bytes(&encoded(ids));
    peer.confirmed_up_to(9, count);
    peer.close_channel(9);
}

fn drained(peer: &mut Peer) -> Vec<u32> {
    peer.drain(1, QUEUE).iter().map(|body| body.parse().expect("a number")).collect()
}

#[test]
fn what_was_consumed_before_a_crash_does_not_come_again() {
    let mut broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    declare(&mut peer);
    publish(&mut peer, 0..100);
    assert_eq!(drained(&mut peer), (0..100).collect::<Vec<_>>());
    // Confirmed after the acknowledgements, so that they are on disk.
    publish(&mut peer, 100..101);
    broker.kill();
    broker.start_again();
    let mut peer = broker.peer();
    publish(&mut peer, 0..103);
    assert_eq!(drained(&mut peer), [100, 101, 102]);
    // A checkpoint has it from here on, and the log has nothing any more.
    peer.close();
    broker.restart();
    let mut peer = broker.peer();
    publish(&mut peer, 50..104);
    assert_eq!(drained(&mut peer), [103]);
    peer.close();
    broker.stop();
    broker.check();
}

#[test]
fn crashes_in_the_midst_of_publishing_repeat_and_lose_nothing() {
    crash_in_the_midst("classic");
}

/// A batch is a record for each priority.
#[test]
fn the_same_with_priorities() {
    crash_in_the_midst("quorum");
}

#[test]
fn what_was_refused_before_a_crash_enters_when_it_is_sent_again() {
    let mut broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    let full = [("x-max-length", FieldValue::I32(3)), ("x-overflow", text("reject-publish"))];
    declare_as(&mut peer, "quorum", &full);
    peer.open_channel(9);
    peer.select_confirms(9);
    peer.send_bytes(&encoded(0..5));
    for tag in [4, 5] {
        let nacked = expect_method!(peer, 9, Method::BasicNack { delivery_tag, .. } => delivery_tag);
        assert_eq!(nacked, tag);
    }
    expect_method!(peer, 9, Method::BasicAck { delivery_tag: 3, .. });
    broker.kill();
    broker.start_again();
    let mut peer = broker.peer();
    assert_eq!(drained(&mut peer).len(), 3);
    publish(&mut peer, 5..7);
    assert_eq!(drained(&mut peer).len(), 2);
    publish(&mut peer, 7..8);
    broker.kill();
    broker.start_again();
    let mut peer = broker.peer();
    assert_eq!(drained(&mut peer), [7]);
    publish(&mut peer, 0..5);
    let mut rest = drained(&mut peer);
    rest.sort_unstable();
    assert_eq!(rest, [3, 4]);
    peer.close();
    broker.stop();
    broker.check();
}

/// Killed while it is publishing, a publisher sends again all that was not confirmed, and more.
fn crash_in_the_midst(queue_type: &str) {
    const ROUND: u32 = 3_000;
    let mut broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    declare_as(&mut peer, queue_type, &[]);
    let mut confirmed = 0;
    for round in 1..=5 {
        peer.open_channel(9);
        peer.select_confirms(9);
        let from = confirmed.max(200) - 200;
        peer.send_bytes(&encoded(from..round * ROUND));
        // Some confirms, and then the end.
        peer.confirmed_up_to(9, u64::from((round * ROUND - from) / 3));
        confirmed = from + (round * ROUND - from) / 3;
        broker.kill();
        broker.start_again();
        peer = broker.peer();
    }
    publish(&mut peer, confirmed.max(500) - 500..5 * ROUND);
    let mut numbers = drained(&mut peer);
    numbers.sort_unstable();
    assert_eq!(numbers, (0..5 * ROUND).collect::<Vec<_>>());
    peer.close();
    broker.stop();
    broker.check();
}
