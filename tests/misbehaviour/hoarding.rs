//! Messages that are begun and never finished, and transactions that are never committed.

use posthouse_amqp::content::write_content;
use posthouse_amqp::frame::{FrameKind, write_frame};
use posthouse_amqp::method::write_method;
use posthouse_testkit::{Broker, Method, Options, Peer, Properties, Publish, Queue, expect_method};

use super::assert_well;

const MIB: u64 = 1 << 20;

/// Opens the channels `2..=last`.
fn open_channels(peer: &mut Peer, last: u16) {
    let mut out = Vec::new();
    for channel in 2..=last {
        write_method(&mut out, channel, &Method::ChannelOpen {});
    }
    peer.send_bytes(&out);
    for channel in 2..=last {
        expect_method!(peer, channel, Method::ChannelOpenOk {});
    }
}

/// A message's method, header and first frame of body, where much more was announced.
fn begin(channel: u16, announced: u64, piece: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write_method(&mut out, channel, &Publish::to("", "q").method());
    let mut header = Vec::new();
    Properties::default().encode(announced, &mut header);
    write_frame(&mut out, FrameKind::Header, channel, &header);
    write_frame(&mut out, FrameKind::Body, channel, piece);
    out
}

#[test]
fn messages_begun_on_every_channel_end_the_connection() {
    let mut broker = Broker::start(Options::memory());
    let mut peer = broker.peer();
    open_channels(&mut peer, 2_047);
    let before = broker.process().resident_bytes();
    let piece = vec![b'x'; 131_000];
    for channel in 1..=2_047 {
        if !peer.try_send_bytes(&begin(channel, 16 * MIB, &piece)) {
            break;
        }
    }
    let close = peer.connection_closed();
    assert_eq!((close.reply_code, close.class_id, close.method_id), (506, 60, 40), "{close:?}");
    let expected = "RESOURCE_ERROR - messages sent in part may take 67108864 bytes together, got ";
    assert!(close.reply_text.starts_with(expected), "{close:?}");
    let grown = broker.process().resident_bytes().saturating_sub(before);
    assert!(grown < 150 * MIB, "{} MiB more are resident", grown / MIB);
    assert_well(&mut broker);
}

#[test]
fn messages_that_are_finished_make_room_for_others() {
    let mut broker = Broker::start(Options::memory().set("POSTHOUSE__AMQP__MAX_MESSAGE_SIZE", "4MiB"));
    let mut peer = broker.peer();
    peer.declare(1, &Queue::named("q"));
    let piece = vec![b'x'; 131_000];
    open_channels(&mut peer, 100);
    // 16 MiB may be unfinished at a time; eight times as much is begun and finished.
    for _ in 0..10 {
        for channel in 2..=100 {
            peer.send_bytes(&begin(channel, 2 * piece.len() as u64, &piece));
        }
        for channel in 2..=100 {
            peer.send_frame(FrameKind::Body, channel, &piece);
        }
        assert_eq!(peer.counts(1, "q"), (99, 0));
        peer.send(1, &Method::QueuePurge { queue: "q", nowait: false });
        expect_method!(peer, 1, Method::QueuePurgeOk { .. });
    }
    peer.close();
    assert_well(&mut broker);
}

#[test]
fn announced_bodies_take_no_memory_before_they_come() {
    let mut broker = Broker::start(Options::memory());
    let mut peer = broker.peer();
    open_channels(&mut peer, 1_000);
    let before = broker.process().resident_bytes();
    for channel in 1..=1_000 {
        peer.send_bytes(&begin(channel, 16 * MIB, b"x"));
    }
    peer.open_channel(2_000);
    let grown = broker.process().resident_bytes().saturating_sub(before);
    assert!(grown < 20 * MIB, "{} MiB more are resident", grown / MIB);
    drop(peer);
    assert_well(&mut broker);
}

#[test]
fn transactions_that_are_never_committed_end_the_connection() {
    let mut broker = Broker::start(Options::memory());
    let mut peer = broker.peer();
    peer.declare(1, &Queue::named("q"));
    open_channels(&mut peer, 4);
    let body = vec![b'x'; MIB as usize];
    let mut header = Vec::new();
    Properties::default().encode(body.len() as u64, &mut header);
    for channel in 1..=4 {
        peer.send(channel, &Method::TxSelect {});
        expect_method!(peer, channel, Method::TxSelectOk {});
    }
    let message = |channel| {
        let mut out = Vec::new();
        write_method(&mut out, channel, &Publish::to("", "q").method());
        write_content(&mut out, channel, &header, &body, 131_072);
        out
    };
    // Commits and rollbacks make room again.
    for _ in 0..4 {
        for _ in 0..100 {
            peer.send_bytes(&message(2));
        }
        peer.send(2, &Method::TxRollback {});
        expect_method!(peer, 2, Method::TxRollbackOk {});
    }
    for number in 0..300 {
        if !peer.try_send_bytes(&message(1 + number % 4)) {
            break;
        }
    }
    let close = peer.connection_closed();
    assert_eq!(close.reply_code, 506, "{close:?}");
    let expected = "RESOURCE_ERROR - transactions may hold 268435456 bytes together, got ";
    assert!(close.reply_text.starts_with(expected), "{close:?}");
    assert_eq!(broker.peer().counts(1, "q"), (0, 0));
    assert_well(&mut broker);
}
