//! Tests of the blocking client against a scripted peer on a loopback socket.

use std::net::TcpListener;
use std::thread::JoinHandle;

use super::*;
use crate::deliver::{DeliverPrefix, GetOk, Return};
use crate::peer_properties::server_properties;
use crate::protocol_header::AMQP_0_9_1;

const PATIENCE: Duration = Duration::from_secs(10);
const ROUTE: &[u8] = b"\0\x01q";

/// One side of a scripted conversation, in the server's place.
struct Peer {
    stream: TcpStream,
    buf: Vec<u8>,
}

impl Peer {
    fn send(&mut self, channel: u16, method: &Method<'_>) {
        let mut out = Vec::new();
        write_method(&mut out, channel, method);
        self.stream.write_all(&out).unwrap();
    }

    /// Reads one frame and checks its method's name.
    fn expect(&mut self, name: &str) {
        let frame = self.frame();
        assert_eq!(Method::decode(&frame.payload).unwrap().name(), name);
    }

    fn frame(&mut self) -> OwnedFrame {
        loop {
            if let Some((frame, used)) = next_frame(&self.buf, 131_064).unwrap() {
                let owned =
                    OwnedFrame { kind: frame.kind, channel: frame.channel, payload: frame.payload.to_vec() };
                self.buf.drain(..used);
                return owned;
            }
            let mut chunk = [0; 4096];
            let read = self.stream.read(&mut chunk).unwrap();
            assert_ne!(read, 0, "the client hung up");
            self.buf.extend_from_slice(&chunk[..read]);
        }
    }

    fn handshake(&mut self) {
        let mut header = [0; 8];
        self.stream.read_exact(&mut header).unwrap();
        assert_eq!(header, AMQP_0_9_1);
        let start = Method::ConnectionStart {
            version_major: 0,
            version_minor: 9,
            server_properties: server_properties("c", "0"),
            mechanisms: b"PLAIN",
            locales: b"en_US",
        };
        self.send(0, &start);
        self.expect("connection.start-ok");
        self.send(0, &Tune { frame_max: 4096, ..Tune::default() }.proposal());
        self.expect("connection.tune-ok");
        self.expect("connection.open");
        self.send(0, &Method::ConnectionOpenOk {});
    }
}

/// Listens on a free port and plays `script` with the first who connects.
fn peer(script: impl FnOnce(Peer) + Send + 'static) -> (AmqpUri, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let uri = AmqpUri { host: "127.0.0.1".into(), port, ..AmqpUri::default() };
    let thread = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        script(Peer { stream, buf: Vec::new() });
    });
    (uri, thread)
}

fn header(body_bytes: usize) -> Vec<u8> {
    let mut header = Vec::new();
    Properties { message_id: Some("m".into()), ..Properties::default() }
        .encode(body_bytes as u64, &mut header);
    header
}

#[test]
fn keeps_what_comes_before_a_reply() {
    let (uri, thread) = peer(|mut peer| {
        peer.handshake();
        peer.expect("channel.open");
        peer.send(1, &Method::ChannelOpenOk {});
        peer.expect("basic.consume");
        let mut out = frame::HEARTBEAT.to_vec();
        let body = vec![3; 9000];
        DeliverPrefix::new(1, "t").write(&mut out, 1, true, ROUTE, &header(body.len()), &body, 4096);
        Return::no_route(ROUTE).write(&mut out, 1, &header(0), b"", 4096);
        write_method(&mut out, 1, &Method::BasicAck { delivery_tag: 7, multiple: true });
        write_method(&mut out, 1, &Method::BasicConsumeOk { consumer_tag: "t" });
        peer.stream.write_all(&out).unwrap();
        peer.expect("connection.close");
        peer.send(0, &Method::ConnectionCloseOk {});
    });
    let mut client = BlockingClient::connect(&uri, PATIENCE).unwrap();
    assert_eq!(client.tune().frame_max, 4096);
    client.open_channel(1).unwrap();
    let consume = Method::BasicConsume {
        queue: "q",
        consumer_tag: "t",
        no_local: false,
        no_ack: false,
        exclusive: false,
        nowait: false,
        arguments: FieldTable::default(),
    };
    let reply = client.call(1, &consume).unwrap();
    assert_eq!(reply.method().unwrap(), Method::BasicConsumeOk { consumer_tag: "t" });
    let Some(Event::Delivery(message)) = client.next_event(PATIENCE).unwrap() else { panic!("no delivery") };
    assert_eq!((message.delivery_tag(), message.redelivered(), message.body.len()), (Some(1), true, 9000));
    assert_eq!(message.properties().message_id.as_deref(), Some("m"));
    assert!(matches!(client.next_event(PATIENCE), Ok(Some(Event::Returned(_)))));
    let ack = Event::Ack { channel: 1, delivery_tag: 7, multiple: true };
    assert_eq!(client.next_event(PATIENCE).unwrap(), Some(ack));
    assert_eq!(client.next_event(Duration::ZERO).unwrap(), None);
    client.close().unwrap();
    thread.join().unwrap();
}

#[test]
fn publishes_and_gets() {
    let (uri, thread) = peer(|mut peer| {
        peer.handshake();
        peer.expect("basic.publish");
        let sizes: Vec<usize> = (0..4).map(|_| peer.frame().payload.len()).collect();
        assert_eq!(sizes, [14, 4088, 4088, 824]);
        peer.expect("basic.get");
        let mut out = Vec::new();
        let get_ok = GetOk { delivery_tag: 4, redelivered: false, route: ROUTE, message_count: 0 };
        get_ok.write(&mut out, 1, &header(2), b"hi", 4096);
        peer.stream.write_all(&out).unwrap();
        peer.expect("basic.get");
        peer.send(1, &Method::BasicGetEmpty {});
    });
    let mut client = BlockingClient::connect(&uri, PATIENCE).unwrap();
    client.publish(1, ("", "q"), false, &Properties::default(), &[1; 9000]).unwrap();
    let message = client.get(1, "q", false).unwrap().unwrap();
    assert_eq!((message.delivery_tag(), &message.body[..]), (Some(4), &b"hi"[..]));
    assert_eq!(client.get(1, "q", false).unwrap(), None);
    thread.join().unwrap();
}

#[test]
fn a_closed_channel_fails_the_call_and_is_confirmed() {
    let (uri, thread) = peer(|mut peer| {
        peer.handshake();
        peer.expect("queue.purge");
        let close =
            Method::ChannelClose { reply_code: 404, reply_text: "NOT_FOUND", class_id: 50, method_id: 30 };
        peer.send(1, &close);
        peer.expect("channel.close-ok");
        let close = Method::ConnectionClose { reply_code: 320, reply_text: "bye", class_id: 0, method_id: 0 };
        peer.send(0, &close);
        peer.expect("connection.close-ok");
    });
    let mut client = BlockingClient::connect(&uri, PATIENCE).unwrap();
    let error = client.call(1, &Method::QueuePurge { queue: "q", nowait: false }).unwrap_err();
    assert_eq!(error.to_string(), "the server closed channel 1: 404 NOT_FOUND (50.30)");
    let error = client.next_event(PATIENCE).unwrap_err();
    assert_eq!(error.to_string(), "the server closed the connection: 320 bye (0.0)");
    assert!(matches!(client.next_event(PATIENCE), Err(ClientError::Eof | ClientError::Io(_))));
    thread.join().unwrap();
}

#[test]
fn another_protocol_is_named() {
    let (uri, thread) = peer(|mut peer| {
        // Unread bytes would turn the close into a reset, which may overtake the answer.
        peer.stream.read_exact(&mut [0; 8]).unwrap();
        peer.stream.write_all(b"AMQP\x03\x01\0\0").unwrap();
    });
    let error = BlockingClient::connect(&uri, PATIENCE).map(|_| ()).unwrap_err();
    assert!(matches!(error, ClientError::Refused(header) if header == *b"AMQP\x03\x01\0\0"), "{error}");
    thread.join().unwrap();
}
