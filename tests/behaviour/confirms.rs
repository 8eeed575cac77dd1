//! Publisher confirms.

use posthouse_testkit::{Consume, Handshake, Method, Publish, Queue, expect_method};

use super::{broker, unique};

#[test]
fn every_message_is_confirmed_in_time() {
    let mut peer = broker().peer();
    let queue = peer.server_named(1);
    peer.select_confirms(1);
    for _ in 0..100 {
        peer.publish(1, "", &queue, "x");
    }
    peer.confirmed(1, 100);
    assert_eq!(peer.counts(1, &queue), (100, 0));
    // Counting goes on from there.
    peer.publish(1, "", &queue, "y");
    expect_method!(peer, 1, Method::BasicAck { delivery_tag: 101, .. });
    peer.expect_quiet(1);
}

#[test]
fn messages_before_the_mode_do_not_count() {
    let mut peer = broker().peer();
    let queue = peer.server_named(1);
    peer.publish(1, "", &queue, "before");
    peer.select_confirms(1);
    peer.publish(1, "", &queue, "after");
    expect_method!(peer, 1, Method::BasicAck { delivery_tag: 1, .. });
    // Once more changes nothing.
    peer.select_confirms(1);
    peer.publish(1, "", &queue, "later");
    expect_method!(peer, 1, Method::BasicAck { delivery_tag: 2, .. });
}

#[test]
fn channels_count_for_themselves() {
    let mut peer = broker().peer();
    peer.open_channel(2);
    peer.open_channel(3);
    let queue = peer.server_named(1);
    peer.select_confirms(1);
    peer.select_confirms(2);
    for _ in 0..5 {
        peer.publish(1, "", &queue, "one");
        peer.publish(2, "", &queue, "two");
        peer.publish(3, "", &queue, "three");
    }
    peer.confirmed(1, 5);
    peer.confirmed(2, 5);
    for channel in 1..=3 {
        peer.expect_quiet(channel);
    }
}

#[test]
fn unroutable_messages_are_confirmed_and_returned_before() {
    let mut peer = broker().peer();
    peer.select_confirms(1);
    let nowhere = unique("nowhere");
    peer.publish(1, "", &nowhere, "dropped");
    expect_method!(peer, 1, Method::BasicAck { delivery_tag: 1, .. });
    peer.publish_with(1, &Publish { mandatory: true, body: b"back", ..Publish::to("", &nowhere) });
    let returned = peer.message(1);
    assert_eq!((returned.reply.0, returned.reply.1.as_str()), (312, "NO_ROUTE"));
    assert_eq!(returned.body, b"back");
    expect_method!(peer, 1, Method::BasicAck { delivery_tag: 2, .. });
    peer.expect_quiet(1);
}

#[test]
fn returns_come_before_confirms_among_others() {
    let mut peer = broker().peer();
    let queue = peer.server_named(1);
    peer.select_confirms(1);
    let nowhere = unique("nowhere");
    let mut out = Vec::new();
    for i in 0..20 {
        let key = if i % 2 == 0 { &queue } else { &nowhere };
        Publish { mandatory: true, ..Publish::to("", key) }.write(1, 131_072, &mut out);
    }
    peer.send_bytes(&out);
    let (mut returned, mut confirmed) = (0, 0);
    while confirmed < 20 {
        let method = peer.method(1);
        match method.get() {
            Method::BasicReturn { .. } => {
                peer.message_after(1, &method);
                returned += 1;
            }
            Method::BasicAck { delivery_tag, multiple } => {
                assert!(multiple || delivery_tag == confirmed + 1, "{delivery_tag} after {confirmed}");
                confirmed = delivery_tag;
                // Every second message is returned, and so before its confirm.
                assert!(returned >= confirmed / 2, "{confirmed} confirmed, {returned} returned");
            }
            other => panic!("expected a return or a confirm, got {other:?}"),
        }
    }
    assert_eq!(returned, 10);
}

#[test]
fn a_message_for_several_queues_is_confirmed_once() {
    let mut peer = broker().peer();
    let exchange = unique("e");
    peer.declare_exchange(
        1,
        &posthouse_testkit::Exchange {
            auto_delete: true,
            ..posthouse_testkit::Exchange::named(&exchange, "fanout")
        },
    );
    let queues: Vec<String> = (0..5).map(|_| peer.server_named(1)).collect();
    for queue in &queues {
        peer.bind(1, queue, &exchange, "");
    }
    peer.select_confirms(1);
    peer.publish(1, &exchange, "", "x");
    peer.confirmed(1, 1);
    peer.expect_quiet(1);
    for queue in &queues {
        assert_eq!(peer.counts(1, queue), (1, 0));
    }
}

#[test]
fn a_confirm_does_not_wait_for_a_consumer() {
    let broker = broker();
    let (mut publisher, mut consumer) = (broker.peer(), broker.peer());
    let queue = unique("q");
    consumer.declare(1, &Queue { auto_delete: true, ..Queue::durable(&queue) });
    consumer.consume(1, &Consume::from(&queue));
    publisher.select_confirms(1);
    publisher.publish(1, "", &queue, "x");
    publisher.confirmed(1, 1);
    // Nor does a client that cannot be told of negative confirms go without positive ones.
    let mut plain = broker.peer_with(&Handshake::default().without_capabilities());
    plain.select_confirms(1);
    plain.publish(1, "", &queue, "y");
    plain.confirmed(1, 1);
    assert_eq!(consumer.messages(1, 2), ["x", "y"]);
}

#[test]
fn an_error_comes_instead_of_a_confirm() {
    let mut peer = broker().peer();
    peer.select_confirms(1);
    let exchange = unique("nope");
    let publish = Publish::to(&exchange, "");
    peer.publish_with(1, &publish);
    let text = format!("NOT_FOUND - no exchange '{exchange}' in vhost '/'");
    peer.expect_channel_close(1, 404, &text, (60, 40));
    // A channel opened again has neither the mode nor the count.
    peer.open_channel(1);
    let queue = peer.server_named(1);
    peer.publish(1, "", &queue, "x");
    peer.expect_quiet(1);
    peer.select_confirms(1);
    peer.publish(1, "", &queue, "x");
    expect_method!(peer, 1, Method::BasicAck { delivery_tag: 1, .. });
}

#[test]
fn the_mode_can_be_asked_for_without_waiting() {
    let mut peer = broker().peer();
    peer.send(1, &Method::ConfirmSelect { nowait: true });
    peer.publish(1, "", &unique("nowhere"), "x");
    expect_method!(peer, 1, Method::BasicAck { delivery_tag: 1, .. });
}
