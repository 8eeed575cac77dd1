//! Peers that say too little: half a handshake, half a frame, or nothing.

use std::time::{Duration, Instant};

use posthouse_amqp::protocol_header::AMQP_0_9_1;
use posthouse_testkit::peer::Arrival;
use posthouse_testkit::{Broker, Handshake, Method, Options, Peer, Publish, Queue};

use super::assert_well;

/// Far longer than anything takes here, far shorter than a test is waited for.
const SOON: Duration = Duration::from_secs(30);

fn impatient(handshake_timeout: &str) -> Broker {
    Broker::start(Options::memory().set("POSTHOUSE__AMQP__HANDSHAKE_TIMEOUT", handshake_timeout))
}

#[test]
fn a_handshake_that_stops_at_any_step() {
    // Long enough for each to come as far as it is to, on a busy machine too.
    let mut broker = impatient("3s");
    let handshake = Handshake::default();
    let start = Instant::now();
    let silent = broker.socket();
    let mut header_only = broker.socket();
    header_only.start();
    let mut logged_in = broker.socket();
    logged_in.log_in(&handshake);
    let mut tuned = broker.socket();
    tuned.log_in(&handshake);
    tuned.tune(&handshake);
    let mut half_a_header = broker.socket();
    half_a_header.send_bytes(&AMQP_0_9_1[..5]);
    let mut half_a_frame = broker.socket();
    half_a_frame.start();
    half_a_frame.send_bytes(&[1, 0, 0, 0, 0, 0, 50, 0, 10]);
    for mut peer in [silent, header_only, logged_in, tuned, half_a_header, half_a_frame] {
        peer.expect_end_eventually();
    }
    assert!(start.elapsed() < SOON);
    assert_well(&mut broker);
}

#[test]
fn a_handshake_of_one_byte_at_a_time() {
    let mut broker = impatient("300ms");
    let mut peer = broker.socket();
    let start = Instant::now();
    // The read's limit is what spaces the bytes.
    let mut bytes = AMQP_0_9_1.iter().chain(std::iter::repeat(&1));
    loop {
        match peer.arrival(Duration::from_millis(40)) {
            Arrival::Eof => break,
            Arrival::Frame(_) => {}
            Arrival::Nothing => drop(peer.try_send_bytes(&[*bytes.next().expect("it does not end")])),
        }
        assert!(start.elapsed() < SOON, "the handshake may go on for ever");
    }
    assert_well(&mut broker);
}

/// A connection that has agreed on a heartbeat of one second.
fn beating(broker: &Broker) -> Peer {
    broker.peer_with(&Handshake { heartbeat: 1, ..Handshake::default() })
}

#[test]
fn a_client_that_is_gone_without_a_word_is_noticed_by_its_heartbeat() {
    let mut broker = Broker::start(Options::memory());
    let start = Instant::now();
    let mut peer = beating(&broker);
    peer.declare(1, &Queue::exclusive("its-own"));
    let mut cut_short = beating(&broker);
    cut_short.declare(1, &Queue::named("q"));
    // The beginning of a message, and of a frame within it.
    cut_short.send(1, &Publish::to("", "q").method());
    cut_short.send_bytes(&[2, 0, 1, 0, 0, 0, 20, 0, 60]);
    peer.expect_end_eventually();
    cut_short.expect_end_eventually();
    assert!(start.elapsed() >= Duration::from_secs(1), "closed before a heartbeat was missed");
    assert!(start.elapsed() < SOON);
    // What belonged to it is gone, and the half message is nowhere.
    let mut other = broker.peer();
    other.declare(1, &Queue::exclusive("its-own"));
    assert_eq!(other.counts(1, "q"), (0, 0));
    assert_well(&mut broker);
}

#[test]
fn a_client_that_only_beats_is_kept() {
    let broker = Broker::start(Options::memory());
    let mut peer = beating(&broker);
    let start = Instant::now();
    let mut beats = 0;
    while start.elapsed() < Duration::from_millis(3_500) {
        match peer.arrival(Duration::from_millis(400)) {
            Arrival::Eof => panic!("closed after {:?}", start.elapsed()),
            Arrival::Frame(_) => beats += 1,
            Arrival::Nothing => {}
        }
        peer.send_bytes(&posthouse_amqp::frame::HEARTBEAT);
    }
    assert!(beats >= 3, "the broker beat {beats} times in 3.5 seconds");
    peer.expect_quiet(1);
}

#[test]
fn a_client_that_closes_and_does_not_wait_for_the_answer() {
    let mut broker = Broker::start(Options::memory());
    for _ in 0..20 {
        let mut peer = broker.peer();
        let close = Method::ConnectionClose { reply_code: 200, reply_text: "", class_id: 0, method_id: 0 };
        peer.send(0, &close);
    }
    for _ in 0..20 {
        // Not even a close.
        drop(broker.peer());
    }
    assert_well(&mut broker);
}
