//! Messages as they come: a method, a content header and a body.

use posthouse_amqp::frame::FrameKind;
use posthouse_amqp::method::Method;
use posthouse_model::props::{HeaderView, Properties};

use crate::TIMEOUT;
use crate::peer::{OwnedMethod, Peer};

/// A message that came in by `basic.deliver`, `basic.get-ok` or `basic.return`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Received {
    /// The consumer's tag; empty unless delivered.
    pub consumer_tag: String,
    /// The delivery tag; 0 when returned.
    pub tag: u64,
    /// Whether the broker says it may have been delivered before.
    pub redelivered: bool,
    /// The exchange it was published to.
    pub exchange: String,
    /// Its routing key.
    pub routing_key: String,
    /// How many are left, by `basic.get-ok`.
    pub left: u32,
    /// Code and text, by `basic.return`.
    pub reply: (u16, String),
    /// The content header frame's payload.
    pub header: Vec<u8>,
    /// The sizes of the body frames.
    pub pieces: Vec<usize>,
    /// The body.
    pub body: Vec<u8>,
}

impl Received {
    /// The properties.
    #[track_caller]
    pub fn properties(&self) -> Properties {
        let view = HeaderView::parse(&self.header).expect("a content header");
        Properties::from_header(view).expect("a headers table")
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Peer {
    /// The next message of `channel`.
    #[track_caller]
    pub fn message(&mut self, channel: u16) -> Received {
        let method = self.method(channel);
        self.message_after(channel, &method)
    }

    /// The texts of the next messages of `channel`.
    #[track_caller]
    pub fn messages(&mut self, channel: u16, count: usize) -> Vec<String> {
        (0..count).map(|_| self.message(channel).text()).collect()
    }

    /// The message whose method has been read.
    #[track_caller]
    pub fn message_after(&mut self, channel: u16, method: &OwnedMethod) -> Received {
        let mut received = fields(&method.get());
        let header = self.frame(channel);
        assert_eq!(header.kind, FrameKind::Header, "expected a content header, got {header:?}");
        received.header = header.payload;
        let size = HeaderView::parse(&received.header).expect("a content header").body_size() as usize;
        while received.body.len() < size {
            let piece = self.frame(channel);
            assert_eq!(piece.kind, FrameKind::Body, "expected a body, got {:?}", piece.kind);
            assert!(!piece.payload.is_empty(), "expected {size} bytes of body, got an empty piece");
            received.pieces.push(piece.payload.len());
            received.body.extend_from_slice(&piece.payload);
        }
        assert_eq!(received.body.len(), size);
        received
    }

    /// Waits for confirms on `channel` until every tag up to `last` has one. Fails on a negative one.
    #[track_caller]
    pub fn confirmed(&mut self, channel: u16, last: u64) {
        let mut open: std::collections::BTreeSet<u64> = (1..=last).collect();
        let deadline = std::time::Instant::now() + TIMEOUT;
        while !open.is_empty() {
            assert!(std::time::Instant::now() < deadline, "expected confirms of {open:?}");
            let method = self.method(channel);
            match method.get() {
                Method::BasicAck { delivery_tag: 0, multiple: true } => open.clear(),
                Method::BasicAck { delivery_tag, multiple: true } => {
                    open = open.split_off(&(delivery_tag + 1))
                }
                Method::BasicAck { delivery_tag, .. } => drop(open.remove(&delivery_tag)),
                other => panic!("expected a confirm, got {other:?}"),
            }
        }
    }

    /// Waits until everything up to `last` is confirmed, where confirms come in order: cheap for any number of them.
    #[track_caller]
    pub fn confirmed_up_to(&mut self, channel: u16, last: u64) {
        let mut singly = std::collections::BTreeSet::new();
        let mut upto = 0;
        while upto < last {
            let method = self.method(channel);
            match method.get() {
                Method::BasicAck { delivery_tag, multiple: true } => upto = upto.max(delivery_tag),
                Method::BasicAck { delivery_tag, .. } => drop(singly.insert(delivery_tag)),
                other => panic!("expected a confirm, got {other:?}"),
            }
            while singly.remove(&(upto + 1)) {
                upto += 1;
            }
        }
    }
}

#[track_caller]
fn fields(method: &Method<'_>) -> Received {
    let mut received = Received {
        consumer_tag: String::new(),
        tag: 0,
        redelivered: false,
        exchange: String::new(),
        routing_key: String::new(),
        left: 0,
        reply: (0, String::new()),
        header: Vec::new(),
        pieces: Vec::new(),
        body: Vec::new(),
    };
    let route = match *method {
        Method::BasicDeliver { consumer_tag, delivery_tag, redelivered, exchange, routing_key } => {
            received.consumer_tag = consumer_tag.to_owned();
            (received.tag, received.redelivered) = (delivery_tag, redelivered);
            (exchange, routing_key)
        }
        Method::BasicGetOk { delivery_tag, redelivered, exchange, routing_key, message_count } => {
            (received.tag, received.redelivered) = (delivery_tag, redelivered);
            received.left = message_count;
            (exchange, routing_key)
        }
        Method::BasicReturn { reply_code, reply_text, exchange, routing_key } => {
            received.reply = (reply_code, reply_text.to_owned());
            (exchange, routing_key)
        }
        ref other => panic!("expected a message, got {other:?}"),
    };
    (received.exchange, received.routing_key) = (route.0.to_owned(), route.1.to_owned());
    received
}
