//! Large messages for many queues: on disk once, there for each queue until it has taken them.

use posthouse_testkit::calls::persistent;
use posthouse_testkit::{Broker, Consume, Exchange, Method, Options, Peer, Publish, Queue};

const QUEUES: usize = 10;
const MESSAGES: u32 = 200;
const BODY_BYTES: usize = 40_000;

/// What was sent, once, and a quarter.
const ONCE_BYTES: u64 = MESSAGES as u64 * BODY_BYTES as u64 * 5 / 4;

fn options() -> Options {
    Options::log()
        .set("POSTHOUSE__MEMORY__BUDGET", "16MiB")
        .set("POSTHOUSE__LOG__FILE_SIZE", "1MiB")
        .set("POSTHOUSE__LOG__FILES", "4")
}

fn name(queue: usize) -> String {
    format!("q{queue}")
}

fn body(number: u32) -> Vec<u8> {
    let mut body = number.to_string().into_bytes();
    body.resize(BODY_BYTES, b'.');
    body
}

/// Declares the queues and sends each message to all of them, until all are confirmed.
fn fan_out(peer: &mut Peer, durable: bool) {
    peer.declare_exchange(1, &Exchange { durable: true, ..Exchange::named("all", "fanout") });
    for queue in (0..QUEUES).map(name) {
        peer.declare(1, &Queue::durable(&queue));
        peer.bind(1, &queue, "all", "");
    }
    peer.open_channel(2);
    peer.select_confirms(2);
    let delivery_mode = durable.then_some(2);
    for number in 0..MESSAGES {
        let properties = posthouse_testkit::Properties { delivery_mode, ..persistent() };
        peer.publish_with(2, &Publish { properties, body: &body(number), ..Publish::to("all", "") });
    }
    peer.confirmed_up_to(2, MESSAGES.into());
}

/// Takes and acknowledges the messages `from..to` of a queue.
fn take(peer: &mut Peer, queue: usize, from: u32, to: u32) {
    peer.prefetch(1, 20, false);
    let consumer = peer.consume(1, &Consume::from(&name(queue)));
    for number in from..to {
        let message = peer.message(1);
        assert!(message.body == body(number), "expected {number} of queue {queue}, got another one");
        peer.send(1, &Method::BasicAck { delivery_tag: message.tag, multiple: false });
    }
    peer.cancel(1, &consumer);
    peer.close_channel(1);
    peer.open_channel(1);
}

/// Bytes of the files in a subdirectory of the data directory.
fn bytes_in(broker: &Broker, directory: &str) -> u64 {
    let entries = std::fs::read_dir(broker.data_dir().join(directory)).unwrap();
    entries.filter_map(|entry| entry.unwrap().metadata().ok()).map(|metadata| metadata.len()).sum()
}

#[test]
fn durable_messages_are_on_disk_once_and_there_for_each_queue() {
    let mut broker = Broker::start(options());
    let mut peer = broker.peer();
    fan_out(&mut peer, true);
    // Each queue has taken another part of them.
    let taken = |queue: usize| MESSAGES / QUEUES as u32 * queue as u32;
    (0..QUEUES).for_each(|queue| take(&mut peer, queue, 0, taken(queue)));
    peer.close();
    broker.stop();
    let report = broker.check();
    let left: u32 = (0..QUEUES).map(|queue| MESSAGES - taken(queue)).sum();
    assert!(report.contains(&format!("messages: {left}\n")), "{report}");
    assert!(bytes_in(&broker, "segments") < ONCE_BYTES, "{} bytes", bytes_in(&broker, "segments"));
    broker.start_again();
    let mut peer = broker.peer();
    (0..QUEUES - 1).for_each(|queue| take(&mut peer, queue, taken(queue), MESSAGES));
    peer.close();
    // What nine queues have done with, the last one still has.
    broker.restart();
    let mut peer = broker.peer();
    take(&mut peer, QUEUES - 1, taken(QUEUES - 1), MESSAGES);
    peer.close();
    broker.stop();
    assert!(broker.check().contains("messages: 0\n"));
}

#[test]
fn what_a_crash_leaves_in_the_log_goes_to_segments_once() {
    // A log that is not emptied before the crash.
    let mut broker = Broker::start(options().set("POSTHOUSE__LOG__FILES", "60"));
    let mut peer = broker.peer();
    fan_out(&mut peer, true);
    take(&mut peer, 3, 0, 50);
    broker.kill();
    broker.start_again_with(options());
    broker.stop();
    assert!(bytes_in(&broker, "segments") < ONCE_BYTES, "{} bytes", bytes_in(&broker, "segments"));
    broker.check();
    broker.start_again();
    let mut peer = broker.peer();
    let (left, _) = peer.counts(1, &name(3));
    // Acknowledgements that were not on disk yet when it was killed are undone.
    (0..QUEUES).filter(|&queue| queue != 3).for_each(|queue| take(&mut peer, queue, 0, MESSAGES));
    take(&mut peer, 3, MESSAGES - left, MESSAGES);
    peer.close();
    broker.stop();
    assert!(broker.check().contains("messages: 0\n"));
}

#[test]
fn transient_messages_are_spilled_once() {
    let broker = Broker::start(options());
    let mut peer = broker.peer();
    fan_out(&mut peer, false);
    let spilled = bytes_in(&broker, "spill");
    assert!(spilled < ONCE_BYTES, "{spilled} bytes");
    (0..QUEUES).rev().for_each(|queue| take(&mut peer, queue, 0, MESSAGES));
    (0..QUEUES).for_each(|queue| assert_eq!(peer.counts(1, &name(queue)), (0, 0)));
}
