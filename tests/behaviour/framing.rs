//! How what is said is cut into frames and pieces does not matter.

use posthouse_amqp::frame::FrameKind;
use posthouse_amqp::method::write_method;
use posthouse_amqp::protocol_header::AMQP_0_9_1;
use posthouse_testkit::{Handshake, Method, Properties, Publish, Queue, expect_method};

use super::{broker, unique};

/// Octets of a body that differ enough to notice a swap.
fn body(size: usize) -> Vec<u8> {
    (0..size as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[test]
fn a_whole_conversation_byte_by_byte() {
    let handshake = Handshake::default();
    let mut out = AMQP_0_9_1.to_vec();
    let start_ok = Method::ConnectionStartOk {
        client_properties: handshake.properties.clone(),
        mechanism: "PLAIN",
        response: &handshake.response,
        locale: "en_US",
    };
    write_method(&mut out, 0, &start_ok);
    write_method(&mut out, 0, &Method::ConnectionTuneOk { channel_max: 9, frame_max: 4096, heartbeat: 0 });
    write_method(&mut out, 0, &Method::ConnectionOpen { vhost: "/" });
    write_method(&mut out, 1, &Method::ChannelOpen {});
    let queue = unique("bytewise");
    write_method(&mut out, 1, &Queue::exclusive(&queue).method());
    let bodies = [body(5000), Vec::new(), body(1)];
    for body in &bodies {
        Publish { body, ..Publish::to("", &queue) }.write(1, 4096, &mut out);
    }
    for _ in &bodies {
        write_method(&mut out, 1, &Method::BasicGet { queue: &queue, no_ack: true });
    }
    let mut peer = broker().socket();
    for byte in out.chunks(1) {
        peer.send_bytes(byte);
    }
    expect_method!(peer, 0, Method::ConnectionStart { .. });
    expect_method!(peer, 0, Method::ConnectionTune { .. });
    expect_method!(peer, 0, Method::ConnectionOpenOk {});
    peer.frame_max = 4096;
    expect_method!(peer, 1, Method::ChannelOpenOk {});
    expect_method!(peer, 1, Method::QueueDeclareOk { .. });
    for body in &bodies {
        assert!(peer.message(1).body == *body);
    }
}

#[test]
fn pieces_of_any_size() {
    let mut peer = broker().peer();
    let queue = peer.server_named(1);
    let bodies: Vec<Vec<u8>> = (0..40).map(|i| body(i * 7)).collect();
    let mut out = Vec::new();
    for body in &bodies {
        Publish { body, ..Publish::to("", &queue) }.write(1, 131_072, &mut out);
    }
    for piece in [2, 3, 7, 8, 11, 64, 501] {
        for part in out.chunks(piece) {
            peer.send_bytes(part);
        }
        for body in &bodies {
            let received = peer.get(1, &queue, true).expect("a message");
            assert!(received.body == *body, "pieces of {piece}");
        }
        assert_eq!(peer.get(1, &queue, true), None);
    }
}

#[test]
fn bodies_cut_as_the_publisher_likes() {
    let mut peer = broker().peer();
    let queue = peer.server_named(1);
    let body = body(1000);
    let mut header = Vec::new();
    Properties::default().encode(body.len() as u64, &mut header);
    for sizes in [vec![1000], vec![1, 999], vec![999, 1], vec![0, 500, 0, 500], vec![10; 100]] {
        peer.send(1, &Publish::to("", &queue).method());
        peer.send_frame(FrameKind::Header, 1, &header);
        let mut at = 0;
        for &size in &sizes {
            peer.send_frame(FrameKind::Body, 1, &body[at..at + size]);
            at += size;
        }
        let received = peer.get(1, &queue, true).expect("a message");
        assert!(received.body == body, "{sizes:?}");
    }
}

#[test]
fn bodies_go_out_in_frames_of_the_size_agreed() {
    let broker = broker();
    let queue = unique("frames");
    let mut owner = broker.peer();
    owner.declare(1, &Queue { auto_delete: true, ..Queue::named(&queue) });
    let body = body(20_000);
    for frame_max in [4096, 8192, 131_072] {
        let handshake = Handshake { frame_max: Some(frame_max), ..Handshake::default() };
        let mut peer = broker.peer_with(&handshake);
        peer.publish_with(1, &Publish { body: &body, ..Publish::to("", &queue) });
        let received = peer.get(1, &queue, true).expect("a message");
        assert!(received.body == body);
        let most = frame_max as usize - 8;
        assert!(received.pieces.iter().all(|&piece| piece <= most), "{:?}", received.pieces);
        assert_eq!(received.pieces.len(), body.len().div_ceil(most), "{:?}", received.pieces);
        peer.close();
    }
    owner.delete(1, &queue);
}

#[test]
fn channels_interleave_their_frames() {
    let mut peer = broker().peer();
    peer.open_channel(2);
    let queue = peer.server_named(1);
    let (one, two) = (body(300), body(200));
    let headers = [&one, &two].map(|body| {
        let mut header = Vec::new();
        Properties::default().encode(body.len() as u64, &mut header);
        header
    });
    peer.send(1, &Publish::to("", &queue).method());
    peer.send(2, &Publish::to("", &queue).method());
    peer.send_frame(FrameKind::Header, 2, &headers[1]);
    peer.send_frame(FrameKind::Header, 1, &headers[0]);
    peer.send_frame(FrameKind::Body, 1, &one[..100]);
    peer.send_frame(FrameKind::Heartbeat, 0, b"");
    peer.send_frame(FrameKind::Body, 2, &two);
    peer.send_frame(FrameKind::Body, 1, &one[100..]);
    // Each channel's message is there once its last frame is.
    peer.expect_quiet(2);
    assert!(peer.get(1, &queue, true).expect("the message of channel 2").body == two);
    assert!(peer.get(1, &queue, true).expect("the message of channel 1").body == one);
}

#[test]
fn the_largest_body_passes_whole() {
    const LARGEST: usize = 16 << 20;
    let mut peer = broker().peer();
    let queue = peer.server_named(1);
    peer.select_confirms(1);
    let body = body(LARGEST);
    peer.publish_with(1, &Publish { body: &body, ..Publish::to("", &queue) });
    peer.confirmed(1, 1);
    let received = peer.get(1, &queue, true).expect("a message");
    assert!(received.body == body, "{} bytes in {} frames", received.body.len(), received.pieces.len());
    let text = "PRECONDITION_FAILED - message size 16777217 is larger than configured max size 16777216";
    let body = [body, vec![0]].concat();
    peer.publish_with(1, &Publish { body: &body, ..Publish::to("", &queue) });
    peer.expect_channel_close(1, 406, text, (60, 40));
}
