//! How much is outstanding at a time.

use posthouse_testkit::{Consume, Peer};

use super::broker;

/// A queue with that many messages.
fn filled(peer: &mut Peer, messages: usize) -> String {
    let queue = peer.server_named(1);
    for i in 0..messages {
        peer.publish(1, "", &queue, &i.to_string());
    }
    queue
}

/// Takes `count` messages, after which there must be none.
#[track_caller]
fn exactly(peer: &mut Peer, channel: u16, count: usize) {
    peer.messages(channel, count);
    // Twice: what the first one lets the broker send comes before the second one's answer.
    peer.expect_quiet(channel);
    peer.expect_quiet(channel);
}

#[test]
fn each_consumer_has_its_own_limit() {
    let mut peer = broker().peer();
    peer.open_channel(2);
    let queue = filled(&mut peer, 20);
    peer.prefetch(2, 3, false);
    peer.consume(2, &Consume::from(&queue));
    exactly(&mut peer, 2, 3);
    // A limit set later is for consumers started later.
    peer.prefetch(2, 5, false);
    exactly(&mut peer, 2, 0);
    peer.consume(2, &Consume::from(&queue));
    exactly(&mut peer, 2, 5);
    assert_eq!(peer.counts(1, &queue), (12, 2));
}

#[test]
fn settling_makes_room() {
    use posthouse_testkit::Method;
    let mut peer = broker().peer();
    peer.open_channel(2);
    let queue = filled(&mut peer, 20);
    peer.prefetch(2, 4, false);
    peer.consume(2, &Consume::from(&queue));
    exactly(&mut peer, 2, 4);
    peer.ack(2, 2);
    exactly(&mut peer, 2, 1);
    peer.send(2, &Method::BasicAck { delivery_tag: 5, multiple: true });
    exactly(&mut peer, 2, 4);
    peer.send(2, &Method::BasicReject { delivery_tag: 6, requeue: false });
    exactly(&mut peer, 2, 1);
    // What is given back may come again at once.
    peer.send(2, &Method::BasicNack { delivery_tag: 8, multiple: true, requeue: true });
    exactly(&mut peer, 2, 2);
}

#[test]
fn no_limit_is_no_limit() {
    let mut peer = broker().peer();
    peer.open_channel(2);
    let queue = filled(&mut peer, 500);
    peer.prefetch(2, 0, false);
    peer.consume(2, &Consume::from(&queue));
    exactly(&mut peer, 2, 500);
}

#[test]
fn messages_without_acknowledgement_do_not_count() {
    let mut peer = broker().peer();
    peer.open_channel(2);
    let queue = filled(&mut peer, 50);
    peer.prefetch(2, 1, false);
    peer.consume(2, &Consume::no_ack(&queue));
    exactly(&mut peer, 2, 50);
}

#[test]
fn taking_by_hand_is_not_limited() {
    let mut peer = broker().peer();
    peer.open_channel(2);
    let queue = filled(&mut peer, 10);
    peer.prefetch(2, 1, false);
    for _ in 0..5 {
        peer.get(2, &queue, false).expect("a message");
    }
    // Nor does it count for the channel's consumers.
    peer.consume(2, &Consume::from(&queue));
    exactly(&mut peer, 2, 1);
}

#[test]
fn a_channels_consumers_share_its_limit() {
    let mut peer = broker().peer();
    peer.open_channel(2);
    let (one, two) = (filled(&mut peer, 10), filled(&mut peer, 10));
    peer.prefetch(2, 4, true);
    peer.consume(2, &Consume::from(&one));
    exactly(&mut peer, 2, 4);
    peer.consume(2, &Consume::from(&two));
    exactly(&mut peer, 2, 0);
    peer.ack(2, 1);
    exactly(&mut peer, 2, 1);
    // Raising it lets more come, lowering it none.
    peer.prefetch(2, 6, true);
    exactly(&mut peer, 2, 2);
    peer.prefetch(2, 1, true);
    peer.ack(2, 2);
    exactly(&mut peer, 2, 0);
}

#[test]
fn both_limits_hold() {
    let mut peer = broker().peer();
    peer.open_channel(2);
    let (one, two) = (filled(&mut peer, 10), filled(&mut peer, 10));
    peer.prefetch(2, 2, false);
    peer.prefetch(2, 3, true);
    peer.consume(2, &Consume::from(&one));
    exactly(&mut peer, 2, 2);
    peer.consume(2, &Consume::from(&two));
    exactly(&mut peer, 2, 1);
}
