//! Signs of life, both ways. The shortest interval is a second, so these tests wait for clocks.

use std::time::{Duration, Instant};

use posthouse_amqp::frame::FrameKind;
use posthouse_testkit::peer::Arrival;
use posthouse_testkit::{Handshake, TIMEOUT};

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

#[test]
fn none_are_sent_when_they_are_off() {
    let mut peer = broker().peer_with(&Handshake { heartbeat: 0, ..Handshake::default() });
    match peer.arrival(Duration::from_millis(1500)) {
        Arrival::Nothing => {}
        other => panic!("expected nothing, got {other:?}"),
    }
    peer.close();
}
