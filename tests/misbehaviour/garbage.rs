//! Bytes that mean nothing, at every stage of a connection.

use posthouse_amqp::method::write_method;
use posthouse_amqp::protocol_header::AMQP_0_9_1;
use posthouse_testkit::peer::Arrival;
use posthouse_testkit::{
    Broker, Consume, Exchange, FieldTable, Handshake, Method, Options, Peer, Publish, Queue, TIMEOUT, table,
    text,
};

use super::{Random, assert_well};

#[test]
fn what_speaks_something_else_is_told_the_protocol() {
    let mut broker = Broker::start(Options::memory());
    let tls_client_hello = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3];
    for bytes in
        [b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", &tls_client_hello[..], b"AMQP\x03\x01\x00\x00"]
    {
        let mut peer = broker.socket();
        peer.send_bytes(bytes);
        assert_eq!(peer.bytes(8), AMQP_0_9_1);
        peer.finish_sending();
        peer.expect_end();
    }
    assert_well(&mut broker);
}

/// Sends bytes and nothing more, and waits until the broker has hung up.
#[track_caller]
fn send_and_wait(mut peer: Peer, bytes: &[u8]) {
    peer.try_send_bytes(bytes);
    // The broker may have hung up already.
    let _ = peer.stream().shutdown(std::net::Shutdown::Write);
    loop {
        match peer.arrival(TIMEOUT) {
            Arrival::Frame(_) => {}
            Arrival::Eof => return,
            Arrival::Nothing => panic!("the connection hangs"),
        }
    }
}

#[test]
fn random_bytes_at_every_stage() {
    let mut broker = Broker::start(Options::memory());
    let mut random = Random(1);
    let handshake = Handshake::default();
    for round in 0..60 {
        let count = 1 + random.below(3_000);
        let mut bytes = random.bytes(count);
        let mut peer = broker.socket();
        match round % 4 {
            // Could be the first byte of the protocol header; then this tests a header cut short.
            0 => {
                // What is answered is no frame.
                peer.try_send_bytes(&bytes);
                peer.finish_sending();
                peer.bytes(8);
                peer.expect_end();
                continue;
            }
            1 => drop(peer.start()),
            2 => {
                peer.log_in(&handshake);
                peer.proposal();
            }
            _ => peer = broker.peer(),
        }
        // Half of them look like the beginning of a frame.
        if random.below(2) == 0 {
            bytes.splice(..bytes.len().min(3), [1, 0, random.below(2) as u8]);
        }
        send_and_wait(peer, &bytes);
    }
    assert_well(&mut broker);
}

/// What a client may well say on an open connection with channel 1 open.
fn conversation(frame_max: u32) -> Vec<u8> {
    let mut out = Vec::new();
    let headers = table([("x-match", text("all")), ("a", text("b")), ("nested", text("c"))]);
    let mut say = |method: &Method<'_>| write_method(&mut out, 1, method);
    say(&Queue { arguments: table([("any", text("thing"))]), ..Queue::named("q") }.method());
    say(&Exchange::named("h", "headers").method());
    say(&Method::QueueBind {
        queue: "q",
        exchange: "h",
        routing_key: "",
        nowait: false,
        arguments: headers.clone(),
    });
    say(&Method::BasicQos { prefetch_size: 0, prefetch_count: 3, global: false });
    say(&Consume { consumer_tag: "c", ..Consume::from("q") }.method());
    say(&Method::ConfirmSelect { nowait: false });
    let properties = posthouse_testkit::Properties {
        headers: Some(headers),
        reply_to: Some("amq.rabbitmq.reply-to".into()),
        ..posthouse_testkit::calls::persistent()
    };
    for body in [&b""[..], b"a body", &[7; 5_000]] {
        let publish = Publish { properties: properties.clone(), body, ..Publish::to("h", "key") };
        publish.write(1, frame_max, &mut out);
        Publish { body, mandatory: true, ..Publish::to("", "q") }.write(1, frame_max, &mut out);
    }
    let mut say = |method: &Method<'_>| write_method(&mut out, 1, method);
    say(&Method::BasicAck { delivery_tag: 1, multiple: false });
    say(&Method::BasicNack { delivery_tag: 3, multiple: true, requeue: true });
    say(&Method::BasicRecover { requeue: true });
    say(&Method::BasicGet { queue: "q", no_ack: true });
    say(&Method::BasicCancel { consumer_tag: "c", nowait: false });
    say(&Method::QueueUnbind {
        queue: "q",
        exchange: "h",
        routing_key: "",
        arguments: FieldTable::default(),
    });
    say(&Method::QueuePurge { queue: "q", nowait: false });
    say(&Method::QueueDelete { queue: "q", if_unused: false, if_empty: false, nowait: false });
    out
}

#[test]
fn conversations_with_a_few_wrong_bytes() {
    let mut broker = Broker::start(Options::memory());
    let mut random = Random(2);
    for _ in 0..250 {
        let peer = broker.peer();
        let mut bytes = conversation(peer.frame_max);
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len());
            match random.below(4) {
                0 => bytes[at] = random.below(256) as u8,
                1 => bytes[at] ^= 1 << random.below(8),
                2 => drop(bytes.remove(at)),
                _ => bytes.truncate(at + 1),
            }
        }
        send_and_wait(peer, &bytes);
    }
    assert_well(&mut broker);
}
