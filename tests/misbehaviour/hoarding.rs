//! Messages that are begun and never finished, and transactions that are never committed.

use posthouse_amqp::content::write_content;
use posthouse_amqp::frame::{FrameKind, write_frame};
use posthouse_amqp::method::write_method;
use posthouse_testkit::{Broker, Exchange, Method, Options, Peer, Properties, Publish, Queue, expect_method};

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

#[test]
fn a_transaction_for_thousands_of_target_sets() {
    const QUEUES: u32 = 13;
    let mut broker = Broker::start(Options::memory());
    let mut peer = broker.peer();
    peer.declare_exchange(1, &Exchange::named("x", "topic"));
    for number in 0..QUEUES {
        let queue = format!("q{number}");
        peer.declare(1, &Queue::named(&queue));
        peer.bind(1, &queue, "x", &format!("#.w{number}.#"));
    }
    peer.send(1, &Method::TxSelect {});
    expect_method!(peer, 1, Method::TxSelectOk {});
    // Every set of these queues is the targets of one message: most of them have a queue in common.
    let sets: u32 = 1 << QUEUES;
    for set in 1..sets {
        let words = (0..QUEUES).filter(|number| set >> number & 1 == 1);
        let key: Vec<String> = words.map(|number| format!("w{number}")).collect();
        peer.publish(1, "x", &key.join("."), &set.to_string());
    }
    peer.send(1, &Method::TxRollback {});
    expect_method!(peer, 1, Method::TxRollbackOk {});
    let before = broker.process().resident_bytes();
    for set in 1..sets {
        let words = (0..QUEUES).filter(|number| set >> number & 1 == 1);
        let key: Vec<String> = words.map(|number| format!("w{number}")).collect();
        peer.publish(1, "x", &key.join("."), &set.to_string());
    }
    peer.send(1, &Method::TxCommit {});
    expect_method!(peer, 1, Method::TxCommitOk {});
    let grown = broker.process().resident_bytes().saturating_sub(before);
    assert!(grown < 40 * MIB, "{} MiB more are resident", grown / MIB);
    // Each queue has the messages in the order in which they were published.
    let got: Vec<u32> = peer.drain(1, "q3").iter().map(|body| body.parse().expect("a number")).collect();
    let expected: Vec<u32> = (1..sets).filter(|set| set >> 3 & 1 == 1).collect();
    assert!(got == expected, "{} messages, expected {} in order", got.len(), expected.len());
    assert_well(&mut broker);
}

#[test]
fn a_publisher_to_many_queues_keeps_little_memory_for_each() {
    const QUEUES: usize = 400;
    let mut broker = Broker::start(Options::memory());
    let mut peer = broker.peer();
    let names: Vec<String> = (0..QUEUES).map(|number| format!("q{number}")).collect();
    for name in &names {
        peer.declare(1, &Queue::named(name));
    }
    let before = broker.process().resident_bytes();
    let body = vec![b'x'; 240_000];
    for name in &names {
        peer.publish_with(1, &Publish { body: &body, ..Publish::to("", name) });
        peer.send(1, &Method::QueuePurge { queue: name, nowait: false });
        expect_method!(peer, 1, Method::QueuePurgeOk { message_count: 1 });
    }
    let grown = broker.process().resident_bytes().saturating_sub(before);
    assert!(grown < 25 * MIB, "{} MiB more are resident", grown / MIB);
    assert_well(&mut broker);
}
