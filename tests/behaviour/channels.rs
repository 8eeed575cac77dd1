//! The life of a channel.

use posthouse_testkit::{Consume, Handshake, Method, Publish, Queue, expect_method};

use super::{broker, unique};

const CLOSE: Method<'_> = Method::ChannelClose { reply_code: 200, reply_text: "", class_id: 0, method_id: 0 };

#[test]
fn numbers_can_be_used_again() {
    let mut peer = broker().peer();
    for _ in 0..3 {
        peer.open_channel(2047);
        peer.close_channel(2047);
    }
    peer.expect_quiet(1);
}

#[test]
fn as_many_as_agreed_and_not_one_more() {
    let handshake = Handshake { channel_max: Some(3), ..Handshake::default() };
    let mut peer = broker().peer_with(&handshake);
    peer.open_channel(2);
    peer.open_channel(3);
    peer.close_channel(2);
    peer.open_channel(2);
    peer.send(4, &Method::ChannelOpen {});
    let text = "NOT_ALLOWED - number of channels opened (3) has reached the negotiated channel_max (3)";
    // Frame-level: no method is named.
    peer.expect_connection_close(530, text, (0, 0));
}

#[test]
fn what_follows_an_error_is_dropped_until_close_ok() {
    let mut peer = broker().peer();
    let queue = unique("not-declared");
    peer.send(1, &Queue::passive(&queue).method());
    // None of these has an effect or an answer, though each would have one on an open channel.
    peer.send(1, &Queue::exclusive(&queue).method());
    peer.publish(1, "no such exchange", "", "dropped");
    peer.send(1, &Method::BasicAck { delivery_tag: 99, multiple: false });
    peer.send(1, &Method::BasicQos { prefetch_size: 1, prefetch_count: 0, global: false });
    let text = format!("NOT_FOUND - no queue '{queue}' in vhost '/'");
    peer.expect_channel_close(1, 404, &text, (50, 10));
    peer.open_channel(1);
    peer.refused(1, &Queue::passive(&queue).method(), 404, &text);
    peer.expect_quiet(1);
}

#[test]
fn both_ends_may_close_at_once() {
    let mut peer = broker().peer();
    let queue = unique("not-declared");
    peer.send(1, &Queue::passive(&queue).method());
    peer.send(1, &CLOSE);
    expect_method!(peer, 1, Method::ChannelClose { reply_code: 404, .. });
    expect_method!(peer, 1, Method::ChannelCloseOk {});
    peer.send(1, &Method::ChannelCloseOk {});
    peer.open_channel(1);
    peer.expect_quiet(1);
}

#[test]
fn an_error_on_one_leaves_the_others_alone() {
    let mut peer = broker().peer();
    peer.open_channel(2);
    let queue = peer.server_named(2);
    let tag = peer.consume(2, &Consume::no_ack(&queue));
    let missing = unique("nope");
    let text = format!("NOT_FOUND - no exchange '{missing}' in vhost '/'");
    let bind = Method::QueueBind {
        queue: &queue,
        exchange: &missing,
        routing_key: "",
        nowait: false,
        arguments: Default::default(),
    };
    peer.refused(1, &bind, 404, &text);
    peer.publish(1, "", &queue, "still there");
    let message = peer.message(2);
    assert_eq!((message.consumer_tag, message.body), (tag, b"still there".to_vec()));
}

#[test]
fn closing_one_gives_back_what_it_held() {
    let mut peer = broker().peer();
    peer.open_channel(2);
    let queue = peer.server_named(1);
    for body in ["a", "b", "c"] {
        peer.publish(1, "", &queue, body);
    }
    peer.consume(2, &Consume::from(&queue));
    assert_eq!(peer.messages(2, 3), ["a", "b", "c"]);
    assert_eq!(peer.counts(1, &queue), (0, 1));
    peer.ack(2, 2);
    peer.close_channel(2);
    assert_eq!(peer.counts(1, &queue), (2, 0));
    let left: Vec<_> = std::iter::from_fn(|| peer.get(1, &queue, true)).collect();
    assert_eq!(
        left.iter().map(|m| (m.text(), m.redelivered)).collect::<Vec<_>>(),
        [("a".to_owned(), true), ("c".to_owned(), true)]
    );
}

#[test]
fn an_error_gives_back_what_the_channel_held() {
    let mut peer = broker().peer();
    peer.open_channel(2);
    let queue = peer.server_named(1);
    peer.publish(1, "", &queue, "held");
    peer.get(2, &queue, false).expect("a message");
    peer.refused(
        2,
        &Method::BasicAck { delivery_tag: 2, multiple: false },
        406,
        "PRECONDITION_FAILED - unknown delivery tag 2",
    );
    assert_eq!(peer.counts(1, &queue), (1, 0));
}

#[test]
fn a_message_half_sent_is_forgotten_with_its_channel() {
    use posthouse_amqp::frame::FrameKind;
    use posthouse_testkit::Properties;
    let mut peer = broker().peer();
    peer.open_channel(2);
    let queue = peer.server_named(1);
    let mut header = Vec::new();
    Properties::default().encode(10, &mut header);
    // The error comes first, so that the rest of the message meets a channel that is being closed.
    let text = "PRECONDITION_FAILED - unknown delivery tag 1";
    peer.send(2, &Method::BasicAck { delivery_tag: 1, multiple: false });
    peer.send(2, &Publish::to("", &queue).method());
    peer.send_frame(FrameKind::Header, 2, &header);
    peer.send_frame(FrameKind::Body, 2, b"12345");
    peer.expect_channel_close(2, 406, text, (60, 80));
    peer.open_channel(2);
    peer.expect_quiet(2);
    assert_eq!(peer.counts(1, &queue), (0, 0));
}

#[test]
fn small_requests_are_answered() {
    let mut peer = broker().peer();
    peer.send(1, &Method::ChannelFlow { active: true });
    expect_method!(peer, 1, Method::ChannelFlowOk { active: true });
    let request = Method::AccessRequest {
        realm: "/data",
        exclusive: false,
        passive: true,
        active: true,
        write: true,
        read: true,
    };
    peer.send(1, &request);
    expect_method!(peer, 1, Method::AccessRequestOk { ticket: 1 });
    // Close-ok without a close before it is harmless once.
    peer.close_channel(1);
    peer.send(1, &Method::ChannelCloseOk {});
    peer.open_channel(1);
}
