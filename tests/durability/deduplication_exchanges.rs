//! Deduplication exchanges that keep what they have seen on disk: it is there after a crash as its messages are.

use posthouse_testkit::{
    Broker, Exchange, FieldTable, FieldValue, Method, Options, Peer, Properties, Publish, Queue,
    expect_method, table, text,
};

const EXCHANGE: &str = "once";
const QUEUE: &str = "bound";

fn on_disk() -> FieldTable {
    table([("x-cache-size", FieldValue::I32(100_000)), ("x-cache-persistence", text("disk"))])
}

fn declare(peer: &mut Peer) {
    let kind = "x-message-deduplication";
    peer.declare_exchange(
        1,
        &Exchange { durable: true, arguments: on_disk(), ..Exchange::named(EXCHANGE, kind) },
    );
    bind(peer, QUEUE, table([]));
}

fn bind(peer: &mut Peer, queue: &str, arguments: FieldTable) {
    peer.declare(1, &Queue { arguments, ..Queue::durable(queue) });
    peer.bind(1, queue, EXCHANGE, "");
}

/// The bytes of messages with these numbers, which are their values and their bodies, too.
fn encoded(numbers: impl IntoIterator<Item = u32>, delivery_mode: u8, delay_ms: Option<i64>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in numbers {
        let mut headers = table([("x-deduplication-header", text(&number.to_string()))]);
        headers.0.extend(delay_ms.map(|ms| ("x-delay".to_owned(), FieldValue::I64(ms))));
        let properties = Properties {
            headers: Some(headers),
            delivery_mode: Some(delivery_mode),
            priority: Some((number % 5) as u8),
            ..Properties::default()
        };
        let body = number.to_string();
        Publish { properties, body: body.as_bytes(), ..Publish::to(EXCHANGE, "") }
            .write(9, 131_072, &mut bytes);
    }
    bytes
}

/// Publishes in one go, and waits for the confirms.
fn publish(peer: &mut Peer, numbers: std::ops::Range<u32>, delivery_mode: u8) {
    let count = u64::from(numbers.end - numbers.start);
    peer.open_channel(9);
    peer.select_confirms(9);
    peer.send_bytes(&encoded(numbers, delivery_mode, None));
    peer.confirmed_up_to(9, count);
    peer.close_channel(9);
}

fn drained(peer: &mut Peer, queue: &str) -> Vec<u32> {
    let mut numbers: Vec<u32> =
        peer.drain(1, queue).iter().map(|body| body.parse().expect("a number")).collect();
    numbers.sort_unstable();
    numbers
}

fn killed(broker: &mut Broker) -> Peer {
    broker.kill();
    broker.start_again();
    broker.peer()
}

#[test]
fn what_was_consumed_before_a_crash_does_not_come_again() {
    let mut broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    declare(&mut peer);
    publish(&mut peer, 0..100, 2);
    // Lost with a crash, and so is that they were seen.
    publish(&mut peer, 100..105, 1);
    assert_eq!(drained(&mut peer, QUEUE).len(), 105);
    // Confirmed after the acknowledgements, so that they are on disk.
    publish(&mut peer, 200..201, 2);
    let mut peer = killed(&mut broker);
    publish(&mut peer, 0..201, 2);
    assert_eq!(drained(&mut peer, QUEUE), (100..201).collect::<Vec<_>>());
    // A checkpoint has it from here on, and the log has nothing any more.
    peer.close();
    broker.restart();
    let mut peer = broker.peer();
    publish(&mut peer, 0..203, 2);
    assert_eq!(drained(&mut peer, QUEUE), [201, 202]);
    // Both have some.
    publish(&mut peer, 203..204, 2);
    let mut peer = killed(&mut broker);
    publish(&mut peer, 0..205, 2);
    assert_eq!(drained(&mut peer, QUEUE), [203, 204]);
    // Another exchange of the name has seen nothing.
    peer.send(1, &Method::ExchangeDelete { exchange: EXCHANGE, if_unused: false, nowait: false });
    expect_method!(peer, 1, Method::ExchangeDeleteOk {});
    declare(&mut peer);
    publish(&mut peer, 0..2, 2);
    assert_eq!(drained(&mut peer, QUEUE), [0, 1]);
    publish(&mut peer, 2..3, 2);
    let mut peer = killed(&mut broker);
    publish(&mut peer, 0..4, 2);
    assert_eq!(drained(&mut peer, QUEUE), [2, 3]);
    peer.close();
    broker.stop();
    broker.check();
}

/// Killed while it is publishing, a publisher sends again all that was not confirmed, and more. One of the queues has a
/// record per priority in the log, and one is not durable.
#[test]
fn crashes_in_the_midst_of_publishing_repeat_and_lose_nothing() {
    const ROUND: u32 = 3_000;
    let mut broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    declare(&mut peer);
    bind(&mut peer, "urgent", table([("x-max-priority", FieldValue::I32(5))]));
    let mut confirmed = 0;
    for round in 1..=5 {
        peer.open_channel(9);
        peer.select_confirms(9);
        peer.declare(1, &Queue::named("transient"));
        peer.bind(1, "transient", EXCHANGE, "");
        let from = confirmed.max(200) - 200;
        peer.send_bytes(&encoded(from..round * ROUND, 2, None));
        // Some confirms, and then the end.
        peer.confirmed_up_to(9, u64::from((round * ROUND - from) / 3));
        confirmed = from + (round * ROUND - from) / 3;
        peer = killed(&mut broker);
    }
    publish(&mut peer, confirmed.max(500) - 500..5 * ROUND, 2);
    for queue in [QUEUE, "urgent"] {
        assert_eq!(drained(&mut peer, queue), (0..5 * ROUND).collect::<Vec<_>>(), "{queue}");
    }
    peer.close();
    broker.stop();
    broker.check();
}

#[test]
fn what_was_refused_before_a_crash_may_come_again() {
    let mut broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    declare(&mut peer);
    let full = table([("x-max-length", FieldValue::I32(3)), ("x-overflow", text("reject-publish"))]);
    bind(&mut peer, "small", full);
    peer.open_channel(9);
    peer.select_confirms(9);
    peer.send_bytes(&encoded(0..5, 2, None));
    for tag in [4, 5] {
        let nacked = expect_method!(peer, 9, Method::BasicNack { delivery_tag, .. } => delivery_tag);
        assert_eq!(nacked, tag);
    }
    expect_method!(peer, 9, Method::BasicAck { delivery_tag: 3, .. });
    let mut peer = killed(&mut broker);
    assert_eq!(drained(&mut peer, "small"), [0, 1, 2]);
    publish(&mut peer, 2..5, 2);
    assert_eq!(drained(&mut peer, "small"), [3, 4]);
    assert_eq!(drained(&mut peer, QUEUE), [0, 1, 2, 3, 3, 4, 4], "it did not refuse them");
}

/// A scheduled message is seen when it is due.
#[test]
fn what_was_scheduled_does_not_come_again_after_a_crash() {
    let mut broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    declare(&mut peer);
    peer.open_channel(9);
    peer.select_confirms(9);
    peer.send_bytes(&encoded([0, 1, 0], 2, Some(1)));
    peer.confirmed_up_to(9, 3);
    peer.await_counts(1, QUEUE, (2, 0));
    // Confirmed after that, so that it is on disk.
    peer.send_bytes(&encoded([2], 2, None));
    expect_method!(peer, 9, Method::BasicAck { delivery_tag: 4, .. });
    let mut peer = killed(&mut broker);
    publish(&mut peer, 0..4, 2);
    assert_eq!(drained(&mut peer, QUEUE), [0, 1, 2, 3]);
}
