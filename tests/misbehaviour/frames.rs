//! Frames that are too large, cut short, in the wrong place, or too many.

use posthouse_amqp::frame::{FrameKind, write_frame};
use posthouse_amqp::method::write_method;
use posthouse_testkit::peer::Arrival;
use posthouse_testkit::{
    Broker, Consume, Exchange, Method, Options, Publish, Queue, TIMEOUT, expect_method, table, text,
};

use super::assert_well;

#[test]
fn an_oversize_frame_is_refused_by_its_head_alone() {
    let mut broker = Broker::start(Options::memory());
    let refused = [131_073_u32, 1 << 24, u32::MAX].map(|size| {
        let mut peer = broker.peer();
        let mut head = vec![FrameKind::Body as u8, 0, 1];
        head.extend_from_slice(&size.to_be_bytes());
        peer.send_bytes(&head);
        (size, peer)
    });
    for (size, peer) in refused {
        let expected = format!("FRAME_ERROR - type 3, all octets = <<>>: {{frame_too_large,{size},131064}}");
        peer.expect_connection_close(501, &expected, (0, 0));
    }
    assert_well(&mut broker);
}

#[test]
fn a_method_amid_a_message_of_its_channel() {
    let mut broker = Broker::start(Options::memory());
    let mut out = Vec::new();
    let whole = Publish { body: &[1; 100], ..Publish::to("", "q") };
    write_method(&mut out, 1, &whole.method());
    whole.write(1, 4_096, &mut out);
    let mut peer = broker.peer();
    peer.send_bytes(&out);
    let expected =
        "UNEXPECTED_FRAME - expected content header for class 60, got non content header frame instead";
    peer.expect_connection_close(505, expected, (60, 40));
    assert_well(&mut broker);
}

#[test]
fn messages_of_several_channels_frame_by_frame_in_turn() {
    let broker = Broker::start(Options::memory());
    let mut peer = broker.peer();
    peer.declare(1, &Queue::named("q"));
    let channels = 1..=50;
    let messages: Vec<Vec<posthouse_amqp::event::OwnedFrame>> = channels
        .map(|channel| {
            if channel > 1 {
                peer.open_channel(channel);
            }
            let mut out = Vec::new();
            let body = vec![channel as u8; 20_000 + usize::from(channel)];
            Publish { body: &body, ..Publish::to("", "q") }.write(channel, 4_096, &mut out);
            frames_of(&out)
        })
        .collect();
    let most = messages.iter().map(Vec::len).max().unwrap();
    for at in 0..most {
        for message in &messages {
            if let Some(frame) = message.get(at) {
                peer.send_frame(frame.kind, frame.channel, &frame.payload);
            }
        }
    }
    peer.await_counts(1, "q", (50, 0));
    let mut seen: Vec<u8> = Vec::new();
    while let Some(message) = peer.get(1, "q", true) {
        let channel = message.body[0];
        assert_eq!(message.body, vec![channel; 20_000 + usize::from(channel)]);
        seen.push(channel);
    }
    seen.sort_unstable();
    assert_eq!(seen, (1..=50).collect::<Vec<u8>>());
}

fn frames_of(mut bytes: &[u8]) -> Vec<posthouse_amqp::event::OwnedFrame> {
    let mut frames = Vec::new();
    while let Some((frame, used)) = posthouse_amqp::frame::next_frame(bytes, 4_096).unwrap() {
        let (kind, channel) = (frame.kind, frame.channel);
        frames.push(posthouse_amqp::event::OwnedFrame { kind, channel, payload: frame.payload.to_vec() });
        bytes = &bytes[used..];
    }
    frames
}

/// A field table of `depth` tables inside each other, with its length before it.
fn nested(depth: usize) -> Vec<u8> {
    let mut table = vec![0, 0, 0, 0];
    for _ in 0..depth {
        let mut outer = (table.len() as u32 + 3).to_be_bytes().to_vec();
        outer.extend_from_slice(b"\x01kF");
        outer.append(&mut table);
        table = outer;
    }
    table
}

#[test]
fn deeply_nested_tables() {
    let mut broker = Broker::start(Options::memory());
    for depth in [10, 100, 1_000, 15_000] {
        // As arguments of queue.declare: class, method, ticket, queue, bits.
        let mut payload = vec![0, 50, 0, 10, 0, 0, 1, b'q', 0];
        payload.extend(nested(depth));
        let mut peer = broker.peer();
        peer.send_frame(FrameKind::Method, 1, &payload);
        peer.finish_sending();
        peer.expect_end_eventually();

        // As headers of a message, which a headers exchange looks into.
        let mut peer = broker.peer();
        let mut header = vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x20, 0];
        header.extend(nested(depth));
        peer.declare_exchange(1, &Exchange::named("h", "headers"));
        peer.declare(1, &Queue::named("by-headers"));
        peer.bind_with(1, "by-headers", "h", "", table([("k", text("v"))]));
        peer.send(1, &Publish::to("h", "").method());
        peer.send_frame(FrameKind::Header, 1, &header);
        peer.finish_sending();
        peer.expect_end_eventually();
    }
    assert_well(&mut broker);
}

#[test]
fn headers_that_cannot_be_read_end_the_publisher_not_the_consumer() {
    let mut broker = Broker::start(Options::memory());
    let mut consumer = broker.peer();
    consumer.declare(1, &Queue::named("q"));
    // An entry `a` of a type that there is not, and one whose text is longer than the table.
    for entry in [&b"\x01aZ"[..], b"\x01aS\0\0\0\x09x"] {
        let mut header = vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x20, 0];
        header.extend((entry.len() as u32).to_be_bytes());
        header.extend_from_slice(entry);
        let mut frames = Vec::new();
        write_method(&mut frames, 1, &Publish::to("", "q").method());
        write_frame(&mut frames, FrameKind::Header, 1, &header);
        let header_end = frames.len();
        write_frame(&mut frames, FrameKind::Body, 1, b"x");
        // With its body in one read and without.
        for end in [frames.len(), header_end] {
            let mut peer = broker.peer();
            peer.send_bytes(&frames[..end]);
            let close = peer.connection_closed();
            assert_eq!(close.reply_code, 501, "{close:?}");
        }
    }
    consumer.publish(1, "", "q", "good");
    let got = consumer.get(1, "q", true).map(|message| message.body);
    assert_eq!(got.as_deref(), Some(&b"good"[..]));
    assert_well(&mut broker);
}

#[test]
fn all_2047_channels_and_one_more() {
    let mut broker = Broker::start(Options::memory());
    let mut peer = broker.peer();
    let mut out = Vec::new();
    for channel in 2..=2_047 {
        write_method(&mut out, channel, &Method::ChannelOpen {});
    }
    peer.send_bytes(&out);
    for channel in 2..=2_047 {
        expect_method!(peer, channel, Method::ChannelOpenOk {});
    }
    for channel in [1, 1_000, 2_047] {
        peer.declare(channel, &Queue::named("q"));
        peer.publish(channel, "", "q", "x");
    }
    peer.send(2_048, &Method::ChannelOpen {});
    let close = peer.connection_closed();
    assert!([530, 504].contains(&close.reply_code), "{close:?}");
    assert_well(&mut broker);
}

#[test]
fn more_consumers_than_a_channel_may_have() {
    let mut broker =
        Broker::start(Options::memory().set("POSTHOUSE__AMQP__MAX_CONSUMERS_PER_CHANNEL", "100"));
    let mut peer = broker.peer();
    peer.declare(1, &Queue::named("q"));
    for _ in 0..100 {
        peer.consume(1, &Consume::no_ack("q"));
    }
    let expected = "NOT_ALLOWED - reached maximum (100) of consumers per channel";
    peer.send(1, &Consume::no_ack("q").method());
    peer.expect_connection_close(530, expected, (60, 20));
    // They are gone with the connection.
    broker.peer().await_counts(1, "q", (0, 0));
    assert_well(&mut broker);
}

#[test]
fn thousands_of_consumers_on_one_channel() {
    let mut broker = Broker::start(Options::memory());
    let mut peer = broker.peer();
    peer.declare(1, &Queue::named("q"));
    let mut out = Vec::new();
    for number in 0..5_000 {
        let tag = format!("c{number}");
        write_method(
            &mut out,
            1,
            &Consume { consumer_tag: &tag, nowait: true, ..Consume::no_ack("q") }.method(),
        );
    }
    peer.send_bytes(&out);
    peer.publish(1, "", "q", "for one of them");
    loop {
        match peer.arrival(TIMEOUT) {
            Arrival::Frame(frame) if frame.kind == FrameKind::Body => break,
            Arrival::Frame(_) => {}
            other => panic!("expected a delivery, got {other:?}"),
        }
    }
    drop(peer);
    broker.peer().await_counts(1, "q", (0, 0));
    assert_well(&mut broker);
}
