//! Too much of everything: connections, channels, messages. The broker's memory stays within bounds.

use std::io::{ErrorKind, Write};
use std::time::Duration;

use posthouse_amqp::method::write_method;
use posthouse_testkit::calls::persistent;
use posthouse_testkit::{
    Broker, Consume, Method, Options, Peer, Properties, Publish, Queue, TIMEOUT, expect_method,
};

use super::assert_well;

const MIB: u64 = 1 << 20;

/// How long the broker takes nothing in before a writer says that it is being held back.
const HELD_BACK: Duration = Duration::from_millis(700);

/// Asserts that the broker's memory has grown by less than so many MiB since it was `before` bytes.
#[track_caller]
fn assert_growth(broker: &mut Broker, before: u64, mib: u64) {
    let grown = broker.process().resident_bytes().saturating_sub(before);
    assert!(grown < mib * MIB, "{} MiB more are resident, expected less than {mib}", grown / MIB);
}

/// Writes `bytes` again and again, `limit` bytes at most, until the broker takes no more for a while: how many it took.
fn write_until_held_back(peer: &Peer, bytes: &[u8], limit: u64) -> u64 {
    let mut stream = peer.stream();
    stream.set_write_timeout(Some(HELD_BACK)).expect("a socket option");
    let (mut at, mut total) = (0, 0);
    while total < limit {
        match stream.write(&bytes[at..]) {
            Ok(written) => {
                at = (at + written) % bytes.len();
                total += written as u64;
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return total;
            }
            Err(error) => panic!("after {total} bytes: {error}"),
        }
    }
    panic!("the broker took {total} bytes and would take more");
}

#[test]
fn five_hundred_connections_with_fifty_channels_each() {
    let mut broker = Broker::start(Options::memory());
    assert_well(&mut broker);
    let before = broker.process().resident_bytes();
    let peers: Vec<Peer> = (0..500)
        .map(|_| {
            let mut peer = broker.peer();
            let mut out = Vec::new();
            for channel in 2..=50 {
                write_method(&mut out, channel, &Method::ChannelOpen {});
            }
            peer.send_bytes(&out);
            for channel in 2..=50 {
                expect_method!(peer, channel, Method::ChannelOpenOk {});
            }
            peer
        })
        .collect();
    assert_growth(&mut broker, before, 60);
    assert_well(&mut broker);
    drop(peers);
    assert_well(&mut broker);
}

#[test]
fn more_connections_than_there_may_be() {
    let mut broker = Broker::start(Options::memory().set("POSTHOUSE__AMQP__MAX_CONNECTIONS", "10"));
    let mut peers: Vec<Peer> = (0..10).map(|_| broker.peer()).collect();
    let mut refused = broker.socket();
    let handshake = posthouse_testkit::Handshake::default();
    refused.log_in(&handshake);
    refused.tune(&handshake);
    refused.send(0, &Method::ConnectionOpen { vhost: "/" });
    let expected = "NOT_ALLOWED - connection refused: node connection limit (10) is reached";
    refused.expect_connection_close(530, expected, (10, 40));
    peers.pop().expect("a peer").close();
    assert_well(&mut broker);
}

#[test]
fn a_consumer_that_never_reads() {
    let mut broker = Broker::start(Options::memory());
    let mut peer = broker.peer();
    peer.declare(1, &Queue::named("q"));
    let mut reader_of_nothing = broker.peer();
    reader_of_nothing.consume(1, &Consume::no_ack("q"));
    let body = vec![b'x'; MIB as usize];
    let before = broker.process().resident_bytes();
    peer.select_confirms(1);
    for _ in 0..40 {
        peer.publish_with(1, &Publish { body: &body, ..Publish::to("", "q") });
    }
    peer.confirmed(1, 40);
    // What it was sent is in sockets' buffers; the rest waits for others, which are served.
    assert_growth(&mut broker, before, 60);
    let mut other = broker.peer();
    other.prefetch(1, 2, false);
    other.consume(1, &Consume::from("q"));
    for _ in 0..20 {
        let message = other.message(1);
        assert_eq!(message.body.len(), body.len());
        other.ack(1, message.tag);
    }
    drop(reader_of_nothing);
    assert_well(&mut broker);
}

#[test]
fn a_client_that_asks_and_never_reads_the_answers() {
    let mut broker = Broker::start(Options::memory());
    let mut peer = broker.peer();
    peer.declare(1, &Queue::named("q"));
    let before = broker.process().resident_bytes();
    let mut out = Vec::new();
    for _ in 0..5_000 {
        write_method(&mut out, 1, &Queue::passive("q").method());
    }
    write_until_held_back(&peer, &out, 400 * MIB);
    assert_growth(&mut broker, before, 20);
    assert_well(&mut broker);
}

#[test]
fn unroutable_messages_are_not_returned_faster_than_they_are_read() {
    let mut broker = Broker::start(Options::memory());
    let peer = broker.peer();
    let before = broker.process().resident_bytes();
    let mut out = Vec::new();
    let body = [b'x'; 30_000];
    Publish { mandatory: true, body: &body, ..Publish::to("", "nowhere") }.write(1, peer.frame_max, &mut out);
    write_until_held_back(&peer, &out, 400 * MIB);
    assert_growth(&mut broker, before, 20);
    assert_well(&mut broker);
}

#[test]
fn a_publisher_that_never_stops_is_blocked_at_the_watermark_until_there_is_room() {
    let options = Options::memory()
        .set("POSTHOUSE__MEMORY__BUDGET", "16MiB")
        .set("POSTHOUSE__MEMORY__WATERMARK", "48MiB");
    let mut broker = Broker::start(options);
    let mut peer = broker.peer();
    peer.declare(1, &Queue::named("q"));
    let before = broker.process().resident_bytes();
    let body = vec![b'x'; 20_000];
    let mut out = Vec::new();
    Publish { properties: persistent(), body: &body, ..Publish::to("", "q") }.write(
        1,
        peer.frame_max,
        &mut out,
    );
    let taken = write_until_held_back(&peer, &out, 400 * MIB);
    assert!(taken > 40 * MIB, "held back after {taken} bytes");
    expect_method!(peer, 0, Method::ConnectionBlocked { reason: "low on memory" });
    assert_growth(&mut broker, before, 90);
    // Another one is blocked when it publishes; consumers never are.
    let mut second = broker.peer();
    second.publish(1, "", "q", "last");
    expect_method!(second, 0, Method::ConnectionBlocked { reason: "low on memory" });
    let mut consumer = broker.peer();
    consumer.consume(1, &Consume::no_ack("q"));
    while consumer.message(1).text() != "last" {}
    expect_method!(peer, 0, Method::ConnectionUnblocked {});
    expect_method!(second, 0, Method::ConnectionUnblocked {});
    second.publish(1, "", "q", "unblocked");
    while consumer.message(1).text() != "unblocked" {}
    drop(peer);
    assert_well(&mut broker);
}

#[test]
fn a_publisher_that_never_stops_fills_the_disk_and_not_the_memory() {
    let mut broker = Broker::start(Options::log().set("POSTHOUSE__MEMORY__BUDGET", "16MiB"));
    let mut peer = broker.peer();
    peer.declare(1, &Queue::durable("q"));
    let before = broker.process().resident_bytes();
    peer.select_confirms(1);
    let mut body = vec![b'x'; 100_000];
    for number in 0..1_000_u32 {
        body[..4].copy_from_slice(&number.to_be_bytes());
        // Both kinds leave the memory, by different ways.
        let delivery_mode = Some(if number.is_multiple_of(2) { 1 } else { 2 });
        let properties = Properties { delivery_mode, ..Properties::default() };
        peer.publish_with(1, &Publish { properties, body: &body, ..Publish::to("", "q") });
    }
    peer.confirmed_up_to(1, 1_000);
    assert_growth(&mut broker, before, 90);
    peer.consume(1, &Consume::no_ack("q"));
    for number in 0..1_000_u32 {
        body[..4].copy_from_slice(&number.to_be_bytes());
        assert!(peer.message(1).body == body, "message {number} is another one");
    }
    peer.close();
    assert_well(&mut broker);
    broker.stop();
    broker.check();
}

#[test]
fn a_publisher_that_hangs_up_while_it_is_blocked() {
    let options = Options::memory()
        .set("POSTHOUSE__MEMORY__BUDGET", "16MiB")
        .set("POSTHOUSE__MEMORY__WATERMARK", "16MiB");
    let mut broker = Broker::start(options);
    let mut peer = broker.peer();
    peer.declare(1, &Queue::exclusive("q"));
    let body = vec![b'x'; 20_000];
    let mut out = Vec::new();
    Publish { body: &body, ..Publish::to("", "q") }.write(1, peer.frame_max, &mut out);
    write_until_held_back(&peer, &out, 400 * MIB);
    drop(peer);
    // Its exclusive queue goes with it, and with that the alarm.
    let mut other = broker.peer();
    let deadline = std::time::Instant::now() + TIMEOUT;
    loop {
        other.send(1, &Queue::exclusive("q").method());
        let answer = other.method(1);
        match answer.get() {
            Method::QueueDeclareOk { .. } => break,
            Method::ChannelClose { reply_code: 405, .. } => {
                other.send(1, &Method::ChannelCloseOk {});
                other.open_channel(1);
            }
            unexpected => panic!("expected an answer to a declare, got {unexpected:?}"),
        }
        assert!(std::time::Instant::now() < deadline, "the blocked connection is still there");
    }
    loop {
        // Blocked and unblocked may come once more before the alarm is seen to be off.
        other.publish(1, "", "q", "x");
        if other.counts(1, "q").0 > 0 {
            break;
        }
    }
    drop(other);
    assert_well(&mut broker);
}
