//! What ends a connection: code, text and the ids of the method at fault, row by row of RabbitMQ's table.

use posthouse_amqp::frame::FrameKind;
use posthouse_testkit::{Consume, Exchange, Method, Peer, Properties, Publish, Queue, table, text};

use super::{broker, unique};

/// What provokes it, and code, text and ids of the close.
type Row<'a> = (&'a dyn Fn(&mut Peer), u16, &'a str, (u16, u16));

/// Each row on a connection of its own; all are provoked before any is waited for.
#[track_caller]
fn check(rows: &[Row<'_>]) {
    let broker = broker();
    let mut peers = Vec::new();
    for (provoke, ..) in rows {
        let mut peer = broker.peer();
        provoke(&mut peer);
        peers.push(peer);
    }
    for (peer, &(_, code, text, ids)) in peers.into_iter().zip(rows) {
        peer.expect_connection_close(code, text, ids);
    }
}

fn raw(kind: u8, channel: u8, payload: &[u8], end: u8) -> Vec<u8> {
    let size = (payload.len() as u32).to_be_bytes();
    [&[kind, 0, channel][..], &size, payload, &[end]].concat()
}

fn header(class: u8, size: u64) -> Vec<u8> {
    [&[0, class, 0, 0][..], &size.to_be_bytes(), &[0, 0]].concat()
}

fn publish() -> Method<'static> {
    Publish::to("amq.direct", "k").method()
}

#[test]
fn methods_out_of_place() {
    let unimplemented = "COMMAND_INVALID - unimplemented method";
    let running = "CHANNEL_ERROR - unexpected method in connection state running";
    let closed = "CHANNEL_ERROR - expected 'channel.open'";
    let close_ok = Method::ConnectionBlocked { reason: "" };
    check(&[
        (&|p| p.send(0, &Method::ConnectionOpen { vhost: "/" }), 504, running, (10, 40)),
        (&|p| p.send(0, &Method::ChannelOpen {}), 504, running, (20, 10)),
        (&|p| p.send(0, &Queue::named("q").method()), 504, running, (50, 10)),
        (
            &|p| p.send(1, &Method::ChannelOpen {}),
            504,
            "CHANNEL_ERROR - second 'channel.open' seen",
            (20, 10),
        ),
        (&|p| p.send(2, &Queue::named("q").method()), 504, closed, (50, 10)),
        (&|p| p.send(2, &publish()), 504, closed, (60, 40)),
        (&|p| p.send(1, &Method::ConnectionOpen { vhost: "/" }), 503, unimplemented, (10, 40)),
        (&|p| p.send(1, &close_ok), 503, unimplemented, (10, 60)),
        (&|p| p.send(1, &Method::QueuePurgeOk { message_count: 1 }), 503, unimplemented, (50, 31)),
    ]);
}

#[test]
fn frames_out_of_place() {
    let no_method = "UNEXPECTED_FRAME - expected method frame, got non method frame instead";
    let no_header =
        "UNEXPECTED_FRAME - expected content header for class 60, got non content header frame instead";
    let other_class = "UNEXPECTED_FRAME - expected content header for class 60, got one for class 50 instead";
    let no_body = "UNEXPECTED_FRAME - expected content body, got non content body frame instead";
    let announced = |p: &mut Peer, size| {
        p.send(1, &publish());
        p.send_frame(FrameKind::Header, 1, &header(60, size));
    };
    check(&[
        (
            &|p| p.send_frame(FrameKind::Heartbeat, 1, b""),
            505,
            "UNEXPECTED_FRAME - type 8, all octets = <<>>",
            (0, 0),
        ),
        (&|p| p.send_frame(FrameKind::Header, 1, &header(60, 1)), 505, no_method, (0, 0)),
        (&|p| p.send_frame(FrameKind::Body, 1, b"x"), 505, no_method, (0, 0)),
        (
            &|p| {
                p.send(1, &publish());
                p.send_frame(FrameKind::Body, 1, b"x");
            },
            505,
            no_header,
            (60, 40),
        ),
        (
            &|p| {
                p.send(1, &publish());
                p.send(1, &publish());
            },
            505,
            no_header,
            (60, 40),
        ),
        (
            &|p| {
                p.send(1, &publish());
                p.send_frame(FrameKind::Header, 1, &header(50, 1));
            },
            505,
            other_class,
            (60, 40),
        ),
        (
            &|p| {
                announced(p, 5);
                p.send(1, &publish());
            },
            505,
            no_body,
            (60, 40),
        ),
        (
            &|p| {
                announced(p, 5);
                p.send_frame(FrameKind::Header, 1, &header(60, 1));
            },
            505,
            no_body,
            (60, 40),
        ),
        (
            &|p| {
                announced(p, 2);
                p.send_frame(FrameKind::Body, 1, b"xyz");
            },
            501,
            "FRAME_ERROR - content body frame exceeds remaining content size",
            (60, 40),
        ),
        (
            &|p| announced(p, 629_145_600),
            501,
            "FRAME_ERROR - content body size 629145600 exceeds maximum allowed size 536870912",
            (60, 40),
        ),
    ]);
}

#[test]
fn frames_that_are_malformed() {
    // queue.declare: a ticket, then a name of one octet that is no text, no flags, no arguments.
    let not_text = [0, 50, 0, 10, 0, 0, 1, 0xff, 0, 0, 0, 0, 0];
    check(&[
        (
            &|p| p.send_bytes(&raw(9, 1, b"abc", 0xce)),
            501,
            "FRAME_ERROR - type 9, all octets = <<\"abc\">>: unknown_frame",
            (0, 0),
        ),
        (
            &|p| p.send_bytes(&raw(1, 1, &[0, 20, 0, 20], 0)),
            501,
            "FRAME_ERROR - type 1, all octets = <<0,20,0,20>>: {invalid_frame_end_marker,0}",
            (0, 0),
        ),
        (
            // The size alone is enough to know.
            &|p| p.send_bytes(&[3, 0, 1, 0, 2, 0x22, 0xe0]),
            501,
            "FRAME_ERROR - type 3, all octets = <<>>: {frame_too_large,140000,131064}",
            (0, 0),
        ),
        (
            &|p| p.send_bytes(&raw(1, 1, &[0, 50, 0, 10, 0], 0xce)),
            501,
            "FRAME_ERROR - cannot decode <<0>>",
            (50, 10),
        ),
        (
            &|p| p.send_bytes(&raw(1, 1, &not_text, 0xce)),
            501,
            "FRAME_ERROR - Malformed UTF-8 in shortstr",
            (0, 0),
        ),
    ]);
}

#[test]
fn what_amqp_has_and_nobody_does() {
    let queue = unique("q");
    let qos = Method::BasicQos { prefetch_size: 10, prefetch_count: 1, global: false };
    check(&[
        (
            &|p| p.publish_with(1, &Publish { immediate: true, ..Publish::to("amq.direct", "k") }),
            540,
            "NOT_IMPLEMENTED - immediate=true",
            (60, 40),
        ),
        (&|p| p.send(1, &qos), 540, "NOT_IMPLEMENTED - prefetch_size!=0 (10)", (60, 10)),
        (
            &|p| p.send(1, &Method::BasicRecover { requeue: false }),
            540,
            "NOT_IMPLEMENTED - requeue=false",
            (60, 110),
        ),
        (
            &|p| p.send(1, &Method::BasicRecoverAsync { requeue: false }),
            540,
            "NOT_IMPLEMENTED - requeue=false",
            (60, 100),
        ),
        (
            &|p| p.send(1, &Method::ChannelFlow { active: false }),
            540,
            "NOT_IMPLEMENTED - active=false",
            (20, 20),
        ),
        (
            &|p| {
                p.declare(1, &Queue::exclusive(&queue));
                let tag = p.consume(1, &Consume { consumer_tag: "t", ..Consume::from(&queue) });
                assert_eq!(tag, "t");
                p.send(1, &Consume { consumer_tag: "t", ..Consume::from(&queue) }.method());
            },
            530,
            "NOT_ALLOWED - attempt to reuse consumer tag 't'",
            (60, 20),
        ),
        (
            &|p| {
                let arguments = table([("x-queue-master-locator", text("min-masters"))]);
                p.send(1, &Queue { arguments, ..Queue::exclusive("x") }.method());
            },
            541,
            "INTERNAL_ERROR - Feature `queue_master_locator` is deprecated.\nBy default, this feature is not \
             permitted anymore.\nThe feature will be removed from a future major RabbitMQ version, regardless \
             of the configuration.",
            (50, 10),
        ),
    ]);
}

#[test]
fn unknown_methods_end_the_connection() {
    let broker = broker();
    for payload in [[0, 60, 0, 99], [0, 99, 0, 10], [0xff, 0xff, 0xff, 0xff]] {
        let mut peer = broker.peer();
        peer.send_frame(FrameKind::Method, 1, &payload);
        peer.expect_end_eventually();
    }
}

#[test]
fn everything_else_goes_on_while_a_connection_is_refused() {
    let broker = broker();
    let (mut bad, mut good) = (broker.peer(), broker.peer());
    let queue = good.server_named(1);
    let exchange = Exchange { auto_delete: true, ..Exchange::named("", "fanout") };
    bad.send(9, &exchange.method());
    bad.publish_with(1, &Publish { properties: Properties::default(), ..Publish::to("", &queue) });
    bad.expect_connection_close(504, "CHANNEL_ERROR - expected 'channel.open'", (40, 10));
    // What comes after the error has no effect.
    assert_eq!(good.counts(1, &queue), (0, 0));
    good.publish(1, "", &queue, "x");
    assert_eq!(good.drain(1, &queue), ["x"]);
}
