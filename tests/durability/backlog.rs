//! A backlog far larger than the memory it may take, and a log that is used again and again.

use posthouse_testkit::calls::persistent;
use posthouse_testkit::{Broker, Consume, Method, Options, Peer, Publish, Queue};

const MESSAGES: u32 = 200_000;
const BODY_BYTES: usize = 120;

/// What 200,000 messages of 120 bytes and their envelopes would take, twice: far more than the budget.
const RESIDENT_BYTES_MAX: u64 = 110 << 20;

fn options() -> Options {
    Options::log()
        .set("POSTHOUSE__MEMORY__BUDGET", "16MiB")
        .set("POSTHOUSE__LOG__FILE_SIZE", "1MiB")
        .set("POSTHOUSE__LOG__FILES", "4")
}

fn body(number: u32) -> Vec<u8> {
    let mut body = number.to_string().into_bytes();
    body.resize(BODY_BYTES, b'.');
    body
}

/// Publishes the numbers `0..MESSAGES` and waits until they are confirmed.
fn publish_backlog(peer: &mut Peer, queue: &str, persistence: Option<u8>) {
    peer.open_channel(2);
    peer.select_confirms(2);
    for numbers in (0..MESSAGES).collect::<Vec<_>>().chunks(500) {
        let mut out = Vec::new();
        for &number in numbers {
            let properties = posthouse_testkit::Properties { delivery_mode: persistence, ..persistent() };
            let body = body(number);
            Publish { properties, body: &body, ..Publish::to("", queue) }.write(2, peer.frame_max, &mut out);
        }
        peer.send_bytes(&out);
    }
    peer.confirmed_up_to(2, u64::from(MESSAGES));
}

/// Takes the numbers `from..to`, acknowledging every 500th with all before it.
fn take(peer: &mut Peer, queue: &str, from: u32, to: u32) {
    peer.prefetch(1, 1_000, false);
    let consumer = peer.consume(1, &Consume::from(queue));
    for number in from..to {
        let message = peer.message(1);
        assert!(message.body == body(number), "expected {number}, got {}", message.text());
        if (number + 1).is_multiple_of(500) {
            peer.send(1, &Method::BasicAck { delivery_tag: message.tag, multiple: true });
        }
    }
    peer.cancel(1, &consumer);
    // The rest of what was delivered goes back.
    peer.close_channel(1);
    peer.open_channel(1);
    // Once this is confirmed the acknowledgements are on disk as well.
    peer.open_channel(3);
    peer.select_confirms(3);
    peer.publish_with(3, &Publish { properties: persistent(), body: b"done", ..Publish::to("", "marker") });
    peer.confirmed(3, 1);
    peer.close_channel(3);
}

#[test]
fn durable_backlog_is_read_back_in_order_before_and_after_restarts() {
    let mut broker = Broker::start(options());
    let mut peer = broker.peer();
    for queue in ["q", "marker"] {
        peer.declare(1, &Queue::durable(queue));
    }
    publish_backlog(&mut peer, "q", Some(2));
    assert_eq!(peer.counts(1, "q"), (MESSAGES, 0));
    let resident = broker.process().resident_bytes();
    assert!(resident < RESIDENT_BYTES_MAX, "{resident} bytes are resident");
    take(&mut peer, "q", 0, 50_000);
    peer.close();
    broker.stop();
    let report = broker.check();
    assert!(report.contains("messages: 150001\n"), "{report}");
    let (log_files, _) = log_size(&broker);
    assert!(log_files <= 8, "the log has {log_files} files of 1 MiB for 30 MB of messages");
    broker.start_again();
    let mut peer = broker.peer();
    take(&mut peer, "q", 50_000, 100_000);
    peer.close();
    broker.kill();
    broker.check();
    broker.start_again();
    let mut peer = broker.peer();
    assert_eq!(peer.counts(1, "q"), (100_000, 0));
    take(&mut peer, "q", 100_000, MESSAGES);
    assert_eq!(peer.counts(1, "q"), (0, 0));
    peer.close();
    broker.stop();
    let report = broker.check();
    assert!(report.contains("messages: 3\n"), "{report}");
}

#[test]
fn transient_backlog_is_read_back_in_order_and_is_gone_after_a_restart() {
    let mut broker = Broker::start(options());
    let mut peer = broker.peer();
    for queue in ["q", "marker"] {
        peer.declare(1, &Queue::durable(queue));
    }
    publish_backlog(&mut peer, "q", None);
    let resident = broker.process().resident_bytes();
    assert!(resident < RESIDENT_BYTES_MAX, "{resident} bytes are resident");
    take(&mut peer, "q", 0, MESSAGES / 2);
    assert_eq!(peer.counts(1, "q"), (MESSAGES / 2, 0));
    peer.close();
    broker.restart();
    assert_eq!(broker.peer().counts(1, "q"), (0, 0));
    broker.stop();
    broker.check();
}

/// Files of the log, and bytes in them.
fn log_size(broker: &Broker) -> (usize, u64) {
    let entries = std::fs::read_dir(broker.data_dir().join("wal")).unwrap();
    let sizes: Vec<u64> = entries.filter_map(|e| e.unwrap().metadata().ok()).map(|m| m.len()).collect();
    (sizes.len(), sizes.iter().sum())
}

#[test]
fn a_long_log_that_a_crash_left_is_emptied_without_being_asked() {
    // Half of 60 files must be full before the log is emptied, so nothing is.
    let many = options().set("POSTHOUSE__LOG__FILES", "60");
    let mut broker = Broker::start(many);
    let mut peer = broker.peer();
    peer.declare(1, &Queue::durable("q"));
    peer.select_confirms(1);
    let body = vec![b'x'; 100_000];
    for _ in 0..200 {
        peer.publish_with(1, &Publish { properties: persistent(), body: &body, ..Publish::to("", "q") });
    }
    peer.confirmed_up_to(1, 200);
    broker.kill();
    assert!(log_size(&broker).1 > 20 << 20);
    broker.start_again_with(options());
    let deadline = std::time::Instant::now() + posthouse_testkit::TIMEOUT;
    while log_size(&broker).1 > 8 << 20 {
        assert!(std::time::Instant::now() < deadline, "the log is still {:?}", log_size(&broker));
        // Looking is all that happens meanwhile.
        broker.peer().close();
    }
    assert_eq!(broker.peer().counts(1, "q"), (200, 0));
    broker.kill();
    assert!(broker.check().contains("messages: 200\n"));
}

#[test]
fn a_log_that_is_used_again_and_again_stays_small() {
    // What is published is consumed at once, while one message stays: 120 MB go through a log of 4 MiB.
    let mut broker = Broker::start(options());
    let mut peer = broker.peer();
    for queue in ["q", "stuck"] {
        peer.declare(1, &Queue::durable(queue));
    }
    peer.open_channel(2);
    peer.select_confirms(2);
    let stuck = Publish { properties: persistent(), body: b"stuck", ..Publish::to("", "stuck") };
    peer.publish_with(2, &stuck);
    peer.consume(1, &Consume::from("q"));
    let body = vec![b'x'; 100_000];
    for _ in 0..1_200 {
        peer.publish_with(2, &Publish { properties: persistent(), body: &body, ..Publish::to("", "q") });
        let message = peer.message(1);
        assert!(message.body == body);
        peer.ack(1, message.tag);
    }
    peer.confirmed_up_to(2, 1_201);
    peer.close();
    let (_, bytes) = log_size(&broker);
    assert!(bytes <= 32 << 20, "the log has grown to {bytes} bytes");
    broker.kill();
    broker.check();
    broker.start_again();
    let mut peer = broker.peer();
    assert_eq!(peer.drain(1, "stuck"), ["stuck"]);
    let (left, _) = peer.counts(1, "q");
    assert!(left <= 1, "{left} messages that were acknowledged are back");
    peer.close();
    broker.stop();
    broker.check();
}
