//! Message groups across crashes, and with a backlog on disk.

use std::collections::HashMap;

use posthouse_testkit::{Broker, Consume, FieldValue, Options, Peer, Properties, Publish, Queue, table};

const QUEUE: &str = "groups";

fn declare(peer: &mut Peer) {
    let arguments = table([("x-message-groups", FieldValue::Bool(true))]);
    peer.declare(1, &Queue { arguments, ..Queue::durable(QUEUE) });
}

/// Publishes persistent messages, whose bodies are their numbers, of so many groups in turn, and waits for the confirms.
fn publish(peer: &mut Peer, numbers: std::ops::Range<u32>, groups: u32, bytes: usize) {
    peer.open_channel(9);
    peer.select_confirms(9);
    let count = u64::from(numbers.end - numbers.start);
    for number in numbers {
        let group = FieldValue::I64(i64::from(number % groups));
        let headers = Some(table([("x-message-group", group)]));
        let properties = Properties { headers, delivery_mode: Some(2), ..Properties::default() };
        let body = format!("{number:0>bytes$}");
        peer.publish_with(9, &Publish { properties, body: body.as_bytes(), ..Publish::to("", QUEUE) });
    }
    peer.confirmed_up_to(9, count);
    peer.close_channel(9);
}

fn consume(peer: &mut Peer, channels: std::ops::Range<u16>, prefetch: u16) {
    for channel in channels {
        peer.open_channel(channel);
        peer.prefetch(channel, prefetch, false);
        peer.consume(channel, &Consume::from(QUEUE));
    }
}

/// A delivery's number, its tag, and whether it is a repeated one.
fn next(peer: &mut Peer, channel: u16) -> (u32, u64, bool) {
    let message = peer.message(channel);
    (message.text().parse().expect("a number"), message.tag, message.redelivered)
}

#[test]
fn after_a_crash_each_group_goes_on_in_order() {
    const GROUPS: u32 = 5;
    let mut broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    declare(&mut peer);
    publish(&mut peer, 0..100, GROUPS, 1);
    consume(&mut peer, 2..3, 10);
    let first: Vec<_> = (0..10).map(|_| next(&mut peer, 2)).collect();
    assert_eq!(first.iter().map(|(number, ..)| *number).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
    // Those of group 0, and one more.
    for at in [0, 5, 1] {
        peer.ack(2, first[at].1);
    }
    // Answered after the acknowledgements, and on disk after them.
    publish(&mut peer, 100..101, GROUPS, 1);
    broker.kill();
    broker.start_again();
    let mut peer = broker.peer();
    assert_eq!(peer.counts(1, QUEUE).0, 98);
    consume(&mut peer, 2..3, 10);
    let mut by_group: HashMap<u32, Vec<u32>> = HashMap::new();
    for _ in 0..98 {
        let (number, tag, _) = next(&mut peer, 2);
        by_group.entry(number % GROUPS).or_default().push(number);
        peer.ack(2, tag);
    }
    for (group, numbers) in by_group {
        let expected = (0..101).filter(|number| number % GROUPS == group && ![0, 5, 1].contains(number));
        assert_eq!(numbers, expected.collect::<Vec<_>>());
    }
    peer.close();
    broker.stop();
    broker.check();
}

/// One group holds the head of a backlog that does not fit into memory; another consumer works its way through the rest,
/// and then the group goes on from its beginning.
#[test]
fn a_blocked_head_does_not_stop_a_backlog_on_disk() {
    let mut broker = Broker::start(Options::log().set("POSTHOUSE__MEMORY__BUDGET", "16MiB"));
    let mut peer = broker.peer();
    declare(&mut peer);
    // 54 MB, of which group 0 has 18.
    publish(&mut peer, 0..900, 3, 60_000);
    consume(&mut peer, 2..3, 1);
    let (number, mut held, _) = next(&mut peer, 2);
    assert_eq!(number, 0);
    consume(&mut peer, 3..4, 10);
    for expected in (0..900).filter(|number| number % 3 != 0) {
        let (number, tag, redelivered) = next(&mut peer, 3);
        assert_eq!((number, redelivered), (expected, false));
        peer.ack(3, tag);
    }
    peer.close_channel(3);
    for expected in (3..900).step_by(3) {
        peer.ack(2, held);
        let (number, tag, redelivered) = next(&mut peer, 2);
        assert_eq!((number, redelivered), (expected, false));
        held = tag;
    }
    peer.close();
    broker.restart();
    let mut peer = broker.peer();
    assert_eq!(peer.counts(1, QUEUE).0, 1);
    broker.stop();
    broker.check();
}
