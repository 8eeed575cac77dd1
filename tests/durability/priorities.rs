//! Priorities across stops and crashes: order, numbers and what was settled.

use posthouse_testkit::{Broker, FieldValue, Options, Peer, Properties, Publish, Queue, table};

const PRIORITIES: u32 = 10;

fn declare(peer: &mut Peer, queue: &str) -> (u32, u32) {
    let arguments = table([("x-max-priority", FieldValue::I32(PRIORITIES as i32 - 1))]);
    let (_, messages, consumers) = peer.declare(1, &Queue { arguments, ..Queue::durable(queue) });
    (messages, consumers)
}

/// Publishes `numbers`, each with the priority that its last digit says, and waits until they are safe.
fn publish(peer: &mut Peer, queue: &str, numbers: std::ops::Range<u32>, padding: usize) {
    peer.open_channel(9);
    peer.select_confirms(9);
    let count = u64::from(numbers.end - numbers.start);
    peer.send_bytes(&encoded(queue, numbers, padding));
    peer.confirmed(9, count);
    peer.close_channel(9);
}

fn encoded(queue: &str, numbers: std::ops::Range<u32>, padding: usize) -> Vec<u8> {
    let mut batch = Vec::new();
    for number in numbers {
        let priority = Some((number % PRIORITIES) as u8);
        let properties = Properties { priority, delivery_mode: Some(2), ..Properties::default() };
        let body = format!("{number:<padding$}");
        Publish { properties, body: body.as_bytes(), ..Publish::to("", queue) }.write(9, 131_072, &mut batch);
    }
    batch
}

/// The numbers in the order in which they must come.
fn ordered(numbers: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut all: Vec<u32> = numbers.collect();
    all.sort_by_key(|number| (PRIORITIES - number % PRIORITIES, *number));
    all
}

fn drained(peer: &mut Peer, queue: &str) -> Vec<u32> {
    peer.drain(1, queue).iter().map(|body| body.trim_end().parse().expect("a number")).collect()
}

#[test]
fn a_crash_keeps_the_order_and_what_was_settled() {
    let mut broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    declare(&mut peer, "q");
    publish(&mut peer, "q", 0..1_000, 0);
    let taken = ordered(0..1_000)[..150].to_vec();
    for expected in &taken {
        let got = peer.get(1, "q", true).expect("a message");
        assert_eq!(got.text(), expected.to_string());
    }
    // Confirmed after them, so that they are known to be on disk as settled.
    publish(&mut peer, "q", 1_000..1_001, 0);
    let held = peer.get(1, "q", false).expect("a message");
    broker.kill();
    broker.start_again();
    let mut peer = broker.peer();
    assert_eq!(declare(&mut peer, "q"), (851, 0));
    let first = peer.get(1, "q", true).expect("a message");
    assert_eq!((first.text(), first.redelivered), (held.text(), true));
    publish(&mut peer, "q", 1_001..1_100, 0);
    let held: u32 = held.text().parse().expect("a number");
    let left = (0..1_100).filter(|number| !taken.contains(number) && *number != held);
    assert_eq!(drained(&mut peer, "q"), ordered(left));
}

#[test]
fn a_backlog_on_disk_is_read_in_order() {
    let options = Options::log()
        .set("POSTHOUSE__LOG__FILE_SIZE", "1MiB")
        .set("POSTHOUSE__LOG__FILES", "4")
        .set("POSTHOUSE__MEMORY__BUDGET", "16MiB");
    let mut broker = Broker::start(options);
    let mut peer = broker.peer();
    declare(&mut peer, "q");
    // 40 MiB, through log files of four.
    for part in 0..8 {
        publish(&mut peer, "q", part * 500..(part + 1) * 500, 10 << 10);
    }
    broker.kill();
    broker.start_again();
    let mut peer = broker.peer();
    assert_eq!(declare(&mut peer, "q"), (4_000, 0));
    publish(&mut peer, "q", 4_000..4_500, 10 << 10);
    let expected = ordered(0..4_500);
    for number in &expected[..1_000] {
        let got = peer.get(1, "q", true).expect("a message");
        assert_eq!(got.text().trim_end(), number.to_string());
    }
    peer.close();
    broker.restart();
    let mut peer = broker.peer();
    assert_eq!(drained(&mut peer, "q"), expected[1_000..]);
    peer.close();
    broker.stop();
    let report = broker.check();
    assert!(report.ends_with("ok\n"), "{report}");
}

#[test]
fn a_deleted_queue_takes_all_its_levels_along() {
    let mut broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    declare(&mut peer, "q");
    publish(&mut peer, "q", 0..100, 0);
    assert_eq!(peer.delete(1, "q"), 100);
    declare(&mut peer, "q");
    publish(&mut peer, "q", 200..203, 0);
    broker.kill();
    broker.start_again();
    let mut peer = broker.peer();
    assert_eq!(drained(&mut peer, "q"), [202, 201, 200]);
}

/// Kills while a batch is on its way, again and again: of the messages that were confirmed none is missing, none that was
/// settled for certain is back, and the rest of the batch is there or not, in its place.
#[test]
fn crashes_between_batches_lose_nothing_and_mix_nothing_up() {
    let options = Options::log().set("POSTHOUSE__LOG__FILE_SIZE", "1MiB").set("POSTHOUSE__LOG__FILES", "4");
    let mut broker = Broker::start(options);
    declare(&mut broker.peer(), "q");
    let (mut next, mut expected) = (0, std::collections::BTreeSet::new());
    for cycle in 0..6 {
        let mut peer = broker.peer();
        publish(&mut peer, "q", next..next + 400, 1_000 * cycle);
        expected.extend(next..next + 400);
        next += 400;
        for number in ordered(expected.iter().copied()).into_iter().take(150) {
            let got = peer.get(1, "q", false).expect("a message");
            assert_eq!(got.text().trim_end(), number.to_string());
            // Some come back to their places.
            if number % 7 != 0 {
                peer.ack(1, got.tag);
                expected.remove(&number);
            }
        }
        // Confirmed after the acknowledgements, which are then on disk, too.
        publish(&mut peer, "q", next..next + 1, 0);
        expected.insert(next);
        next += 1;
        peer.open_channel(9);
        peer.send_bytes(&encoded("q", next..next + 300, 500));
        broker.kill();
        broker.start_again();
        let mut peer = broker.peer();
        let found = drained(&mut peer, "q");
        let late: Vec<u32> = found.iter().copied().filter(|number| *number >= next).collect();
        assert_eq!(found, ordered(expected.iter().copied().chain(late)), "cycle {cycle}");
        expected.clear();
        next += 300;
    }
}
