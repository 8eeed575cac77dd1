//! Signs of life, both ways. The shortest interval is a second, so these tests wait for clocks.

use std::time::{Duration, Instant};

use posthouse_amqp::frame::FrameKind;
use posthouse_testkit::peer::Arrival;
use posthouse_testkit::{
    Broker, Consume, Handshake, Method, Options, Peer, Publish, Queue, TIMEOUT, expect_method,
};

use super::broker;

const EVERY_SECOND: u16 = 1;

#[test]
fn the_broker_sends_them_and_hangs_up_on_silence() {
    let mut peer = broker().peer_with(&Handshake { heartbeat: EVERY_SECOND, ..Handshake::default() });
    let silent_since = Instant::now();
    let mut beats = 0;
    loop {
        match peer.arrival(TIMEOUT) {
            Arrival::Frame(frame) => {
                let expected = (FrameKind::Heartbeat, 0, &[][..]);
                assert_eq!((frame.kind, frame.channel, &frame.payload[..]), expected);
                beats += 1;
            }
            Arrival::Eof => break,
            Arrival::Nothing => panic!("expected heartbeats and then the end"),
        }
    }
    let silence = silent_since.elapsed();
    assert!(beats >= 2, "expected heartbeats meanwhile, got {beats}");
    // RabbitMQ waits between two and three intervals.
    assert!(silence >= Duration::from_millis(1900), "expected two intervals of patience, got {silence:?}");
}

#[test]
fn a_client_that_sends_them_is_kept() {
    let mut peer = broker().peer_with(&Handshake { heartbeat: EVERY_SECOND, ..Handshake::default() });
    // Answering each heartbeat is all that is done, for longer than the broker has patience.
    let until = Instant::now() + Duration::from_millis(3500);
    while Instant::now() < until {
        match peer.arrival(TIMEOUT) {
            Arrival::Frame(frame) => assert_eq!(frame.kind, FrameKind::Heartbeat),
            other => panic!("expected a heartbeat, got {other:?}"),
        }
        peer.send_frame(FrameKind::Heartbeat, 0, b"");
    }
    peer.expect_quiet(1);
    peer.close();
}

/// Bytes of a message: more than sockets hold, and more than the broker reads on for.
const MORE_THAN_SOCKETS_HOLD: usize = 12 << 20;

/// A publisher, a consumer that has been sent more than it reads, and their queue.
fn stalled(stem: &str) -> (Peer, Peer, String) {
    let broker = broker();
    let mut publisher = broker.peer();
    let queue = broker.name(stem);
    publisher.declare(1, &Queue::named(&queue));
    let body = vec![b'x'; MORE_THAN_SOCKETS_HOLD];
    publisher.select_confirms(1);
    publisher.publish_with(1, &Publish { body: &body, ..Publish::to("", &queue) });
    publisher.confirmed(1, 1);
    let mut consumer = broker.peer_with(&Handshake { heartbeat: EVERY_SECOND, ..Handshake::default() });
    consumer.consume(1, &Consume::from(&queue));
    (publisher, consumer, queue)
}

#[test]
fn a_consumer_that_neither_reads_nor_sends_is_gone() {
    let (mut publisher, _consumer, queue) = stalled("stalled");
    // The message comes back when the consumer is given up.
    publisher.await_counts(1, &queue, (0, 1));
    publisher.await_counts(1, &queue, (1, 0));
    publisher.delete(1, &queue);
}

#[test]
fn a_consumer_that_does_not_read_but_sends_is_kept() {
    let (mut publisher, mut consumer, queue) = stalled("slow");
    publisher.await_counts(1, &queue, (0, 1));
    let until = Instant::now() + Duration::from_millis(3500);
    while Instant::now() < until {
        consumer.send_frame(FrameKind::Heartbeat, 0, b"");
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(consumer.message(1).body.len(), MORE_THAN_SOCKETS_HOLD);
    publisher.delete(1, &queue);
}

#[test]
fn a_publisher_that_is_held_back_may_be_silent() {
    let options = Options::memory().set("POSTHOUSE__MEMORY__WATERMARK", "16MiB");
    let broker = Broker::start(options.set("POSTHOUSE__MEMORY__BUDGET", "16MiB"));
    let mut peer = broker.peer_with(&Handshake { heartbeat: EVERY_SECOND, ..Handshake::default() });
    peer.declare(1, &Queue::named("q"));
    let body = vec![b'x'; 12 << 20];
    for _ in 0..2 {
        peer.publish_with(1, &Publish { body: &body, ..Publish::to("", "q") });
    }
    peer.publish(1, "", "q", "third");
    expect_method!(peer, 0, Method::ConnectionBlocked { reason: "low on memory" });
    // It sends nothing for longer than the broker has patience with those it reads from.
    let until = Instant::now() + Duration::from_millis(4000);
    while Instant::now() < until {
        match peer.arrival(TIMEOUT) {
            Arrival::Frame(frame) => assert_eq!(frame.kind, FrameKind::Heartbeat),
            other => panic!("expected a heartbeat, got {other:?}"),
        }
    }
    let mut other = broker.peer();
    other.send(1, &Method::QueuePurge { queue: "q", nowait: false });
    expect_method!(other, 1, Method::QueuePurgeOk { .. });
    expect_method!(peer, 0, Method::ConnectionUnblocked {});
    peer.close();
}

#[test]
fn none_are_sent_when_they_are_off() {
    let mut peer = broker().peer_with(&Handshake { heartbeat: 0, ..Handshake::default() });
    match peer.arrival(Duration::from_millis(1500)) {
        Arrival::Nothing => {}
        other => panic!("expected nothing, got {other:?}"),
    }
    peer.close();
}
