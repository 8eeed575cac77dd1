//! `tx`: nothing happens before the commit.

use posthouse_testkit::{Method, Peer, Publish, expect_method};

use super::{broker, unique};

fn select(peer: &mut Peer, channel: u16) {
    peer.send(channel, &Method::TxSelect {});
    expect_method!(peer, channel, Method::TxSelectOk {});
}

fn commit(peer: &mut Peer, channel: u16) {
    peer.send(channel, &Method::TxCommit {});
    expect_method!(peer, channel, Method::TxCommitOk {});
}

fn roll_back(peer: &mut Peer, channel: u16) {
    peer.send(channel, &Method::TxRollback {});
    expect_method!(peer, channel, Method::TxRollbackOk {});
}

/// A queue, and channel 2 in transactional mode.
fn transactional(peer: &mut Peer) -> String {
    peer.open_channel(2);
    select(peer, 2);
    peer.server_named(1)
}

#[test]
fn publishes_arrive_with_the_commit() {
    let mut peer = broker().peer();
    let queue = transactional(&mut peer);
    for text in ["a", "b", "c"] {
        peer.publish(2, "", &queue, text);
    }
    peer.expect_quiet(2);
    assert_eq!(peer.counts(1, &queue), (0, 0));
    commit(&mut peer, 2);
    assert_eq!(peer.drain(1, &queue), ["a", "b", "c"]);
    // The next transaction begins by itself.
    peer.publish(2, "", &queue, "d");
    peer.expect_quiet(2);
    assert_eq!(peer.counts(1, &queue), (0, 0));
    commit(&mut peer, 2);
    assert_eq!(peer.drain(1, &queue), ["d"]);
    commit(&mut peer, 2);
}

#[test]
fn publishes_rolled_back_never_were() {
    let mut peer = broker().peer();
    let queue = transactional(&mut peer);
    peer.publish(2, "", &queue, "a");
    roll_back(&mut peer, 2);
    peer.publish(2, "", &queue, "b");
    commit(&mut peer, 2);
    assert_eq!(peer.drain(1, &queue), ["b"]);
}

#[test]
fn publishes_are_lost_with_the_channel() {
    let mut peer = broker().peer();
    let queue = transactional(&mut peer);
    peer.publish(2, "", &queue, "a");
    peer.close_channel(2);
    assert_eq!(peer.counts(1, &queue), (0, 0));
}

#[test]
fn acknowledgements_count_with_the_commit() {
    let mut peer = broker().peer();
    let queue = transactional(&mut peer);
    for text in ["a", "b", "c"] {
        peer.publish(1, "", &queue, text);
    }
    for _ in 0..3 {
        peer.get(2, &queue, false).expect("a message");
    }
    peer.ack(2, 1);
    peer.send(2, &Method::BasicReject { delivery_tag: 2, requeue: true });
    peer.expect_quiet(2);
    assert_eq!(peer.counts(1, &queue), (0, 0));
    commit(&mut peer, 2);
    assert_eq!(peer.counts(1, &queue), (1, 0));
    peer.close_channel(2);
    assert_eq!(peer.drain(1, &queue), ["b", "c"]);
}

#[test]
fn acknowledgements_rolled_back_leave_messages_outstanding() {
    let mut peer = broker().peer();
    let queue = transactional(&mut peer);
    for text in ["a", "b"] {
        peer.publish(1, "", &queue, text);
    }
    for _ in 0..2 {
        peer.get(2, &queue, false).expect("a message");
    }
    peer.send(2, &Method::BasicAck { delivery_tag: 2, multiple: true });
    roll_back(&mut peer, 2);
    // Nothing goes back by itself.
    assert_eq!(peer.counts(1, &queue), (0, 0));
    peer.ack(2, 1);
    commit(&mut peer, 2);
    peer.close_channel(2);
    assert_eq!(peer.drain(1, &queue), ["b"]);
}

#[test]
fn acknowledgements_not_committed_are_void_when_the_channel_ends() {
    let mut peer = broker().peer();
    let queue = transactional(&mut peer);
    peer.publish(1, "", &queue, "a");
    peer.get(2, &queue, false).expect("a message");
    peer.ack(2, 1);
    peer.close_channel(2);
    let message = peer.get(1, &queue, true).expect("it is back");
    assert_eq!((message.text(), message.redelivered), ("a".into(), true));
}

#[test]
fn unroutable_messages_come_back_with_the_commit() {
    let mut peer = broker().peer();
    transactional(&mut peer);
    let nowhere = unique("nowhere");
    peer.publish_with(2, &Publish { mandatory: true, body: b"back", ..Publish::to("", &nowhere) });
    peer.expect_quiet(2);
    peer.send(2, &Method::TxCommit {});
    let returned = peer.message(2);
    assert_eq!((returned.reply.0, returned.body.as_slice()), (312, &b"back"[..]));
    expect_method!(peer, 2, Method::TxCommitOk {});
}

#[test]
fn selecting_again_changes_nothing() {
    let mut peer = broker().peer();
    let queue = transactional(&mut peer);
    peer.publish(2, "", &queue, "a");
    select(&mut peer, 2);
    commit(&mut peer, 2);
    assert_eq!(peer.drain(1, &queue), ["a"]);
}
