//! Pre-built publishes: a buffer of many complete messages of equal length, in which only sequence and time are patched
//! before it is written. Nothing is encoded or allocated per message.
//!
//! ```text
//! | basic.publish frame | header frame | body frame(s) | basic.publish frame | ...      stride: bytes from one to the next
//! ```

use std::ops::Range;

use posthouse_amqp::frame::{FrameKind, HEAD_BYTES, write_frame, write_frame_with};
use posthouse_amqp::method::{Method, write_method};
use posthouse_model::field::{FieldTable, FieldValue};

use super::client::CHANNEL;
use super::payload;

/// Bytes of one write when nothing limits it.
const WRITE_BYTES: usize = 128 << 10;
/// Bytes of a header's value.
const VALUE_BYTES: usize = size_of::<u64>();

/// The messages of one producer. Message `i` goes to route `i mod routes` and is that route's number `i / routes`.
pub(super) struct Template {
    bytes: Vec<u8>,
    stride: usize,
    /// Where a message has what differs from one to the next.
    places: Places,
    varying: usize,
    groups: u64,
    units: usize,
    routes: u64,
    producer: u16,
    /// Messages stamped so far.
    sent: u64,
}

/// Places in a message that are patched: its body, and the eight bytes of the values of headers that it has.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Places {
    body: usize,
    unique: Option<usize>,
    group: Option<usize>,
}

/// The headers of messages.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Headers {
    /// Each message has an `x-deduplication-header` of its own.
    pub(super) unique: bool,
    /// `x-message-group` is a number below this, by turns for the messages of a route; 0 for no group.
    pub(super) groups: u64,
    /// `x-delay`, in milliseconds.
    pub(super) delay_ms: Option<u64>,
}

/// What a producer's messages look like.
pub(super) struct Shape<'a> {
    /// Its number.
    pub(super) producer: u16,
    /// Exchange.
    pub(super) exchange: &'a str,
    /// Routing keys, all of one length, used in turn; at least one.
    pub(super) keys: &'a [String],
    /// Bytes of a body.
    pub(super) size: usize,
    /// Delivery mode 2.
    pub(super) persistent: bool,
    /// Priorities that a route's messages have in turn; 1 for none.
    pub(super) priorities: usize,
    /// What headers each message has.
    pub(super) headers: Headers,
    /// Largest frame payload.
    pub(super) max_payload: usize,
}

impl Template {
    /// Encodes as many messages as one write takes, and at least one for every key and priority.
    pub(super) fn new(shape: &Shape<'_>) -> Self {
        let mut bytes = Vec::new();
        let mut places = Places::default();
        let mut units = 0;
        let turn = shape.keys.len() * shape.priorities;
        while units == 0 || units % turn != 0 || bytes.len() + bytes.len() / units <= WRITE_BYTES {
            let priority =
                (shape.priorities > 1).then_some((units / shape.keys.len() % shape.priorities) as u8);
            let found = encode(&mut bytes, shape, &shape.keys[units % shape.keys.len()], priority);
            if units == 0 {
                places = found;
            }
            units += 1;
        }
        Self {
            stride: bytes.len() / units,
            bytes,
            places,
            varying: payload::varying(shape.size),
            groups: shape.headers.groups,
            units,
            routes: shape.keys.len() as u64,
            producer: shape.producer,
            sent: 0,
        }
    }

    /// Messages stamped so far.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// Bytes of one message on the wire.
    #[cfg(test)]
    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    /// Numbers the next messages, at most `wanted`, and gives how many and where they lie; see [`Self::bytes`].
    pub(super) fn stamp(&mut self, wanted: u64, nanos: u64) -> (u64, Range<usize>) {
        let first = (self.sent % self.units as u64) as usize;
        let n = (self.units - first).min(usize::try_from(wanted).unwrap_or(usize::MAX));
        let range = first * self.stride..(first + n) * self.stride;
        let (mut route, mut sequence) = (self.sent % self.routes, self.sent / self.routes);
        for unit in self.bytes[range.clone()].chunks_exact_mut(self.stride) {
            let body = &mut unit[self.places.body..self.places.body + self.varying];
            let word = payload::word(self.producer, sequence);
            payload::stamp(body, word, nanos);
            if let Some(at) = self.places.unique {
                unit[at..at + VALUE_BYTES].copy_from_slice(&word.to_be_bytes());
            }
            if let Some(at) = self.places.group {
                unit[at..at + VALUE_BYTES].copy_from_slice(&(sequence % self.groups).to_be_bytes());
            }
            route += 1;
            if route == self.routes {
                (route, sequence) = (0, sequence + 1);
            }
        }
        self.sent += n as u64;
        (n as u64, range)
    }

    /// The messages of a range that [`Self::stamp`] gave.
    pub(super) fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.bytes[range]
    }
}

/// Appends one message; gives the places in it, if it is the first.
fn encode(out: &mut Vec<u8>, shape: &Shape<'_>, routing_key: &str, priority: Option<u8>) -> Places {
    let publish =
        Method::BasicPublish { exchange: shape.exchange, routing_key, mandatory: false, immediate: false };
    write_method(out, CHANNEL, &publish);
    let mut places = Places::default();
    write_frame_with(out, FrameKind::Header, CHANNEL, |out| {
        places = write_header(out, shape.size, shape.persistent, priority, shape.headers);
    });
    let body_at = out.len() + HEAD_BYTES;
    for part in payload::blank(shape.size).chunks(shape.max_payload) {
        write_frame(out, FrameKind::Body, CHANNEL, part);
    }
    Places { body: body_at.min(out.len()), ..places }
}

/// Appends a content header's payload: `class u16 | weight u16 | body size u64 | flags u16 | headers, if flagged | delivery
/// mode u8, if flagged | priority u8, if flagged`. Gives where the values of headers are that it has.
pub(super) fn write_header(
    out: &mut Vec<u8>,
    size: usize,
    persistent: bool,
    priority: Option<u8>,
    headers: Headers,
) -> Places {
    const CLASS_BASIC: u16 = 60;
    const HAS_HEADERS: u16 = 1 << 13;
    const HAS_DELIVERY_MODE: u16 = 1 << 12;
    const HAS_PRIORITY: u16 = 1 << 11;
    out.extend_from_slice(&CLASS_BASIC.to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&(size as u64).to_be_bytes());
    let flag = |is_set, flag| if is_set { flag } else { 0 };
    let flags = flag(headers != Headers::default(), HAS_HEADERS)
        | flag(persistent, HAS_DELIVERY_MODE)
        | flag(priority.is_some(), HAS_PRIORITY);
    out.extend_from_slice(&flags.to_be_bytes());
    let places = if headers == Headers::default() { Places::default() } else { write_table(out, headers) };
    if persistent {
        out.push(2);
    }
    out.extend(priority);
    places
}

/// Appends the table of headers.
fn write_table(out: &mut Vec<u8>, headers: Headers) -> Places {
    const UNIQUE: &str = "x-deduplication-header";
    /// Bytes of an entry beside its name: the name's length, the value's type, the value.
    const ENTRY_BYTES: usize = 1 + 1 + VALUE_BYTES;
    let entry =
        |name: &str, value: u64| (name.to_owned(), FieldValue::I64(value.try_into().unwrap_or(i64::MAX)));
    let mut entries = Vec::new();
    entries.extend(headers.delay_ms.map(|delay_ms| entry("x-delay", delay_ms)));
    // Last, so that their values end the table.
    entries.extend((headers.groups > 0).then(|| entry("x-message-group", 0)));
    entries.extend(headers.unique.then(|| entry(UNIQUE, 0)));
    FieldTable(entries).encode(out);
    let last = out.len() - VALUE_BYTES;
    let before = if headers.unique { last - ENTRY_BYTES - UNIQUE.len() } else { last };
    Places {
        unique: headers.unique.then_some(last),
        group: (headers.groups > 0).then_some(before),
        ..Places::default()
    }
}

#[cfg(test)]
mod tests {
    use posthouse_amqp::frame::next_frame;
    use posthouse_model::props::HeaderView;
    use posthouse_model::raw_table::RawValue;

    use super::*;

    /// (routing key, producer, sequence, time) of every message of the bytes.
    fn messages(mut bytes: &[u8], size: usize) -> Vec<(String, u16, u64, u64)> {
        let mut out = Vec::new();
        let (mut key, mut body, mut priority) = (String::new(), Vec::new(), 0);
        while let Some((frame, used)) = next_frame(bytes, 4_088).unwrap() {
            match frame.kind {
                FrameKind::Method => match Method::decode(frame.payload).unwrap() {
                    Method::BasicPublish { routing_key, .. } => key = routing_key.to_owned(),
                    other => panic!("{}", other.name()),
                },
                FrameKind::Header => {
                    assert_eq!(frame.payload[4..12], (size as u64).to_be_bytes());
                    // Delivery mode and priority.
                    assert_eq!(frame.payload[12..15], [0x18, 0, 2]);
                    priority = u64::from(frame.payload[15]);
                }
                FrameKind::Body => body.extend_from_slice(frame.payload),
                FrameKind::Heartbeat => panic!("heartbeat"),
            }
            if frame.kind == FrameKind::Body && body.len() == size {
                assert!(payload::is_filler(&body, 0, size));
                let (word, nanos) = payload::read(&body);
                let (producer, sequence) = payload::split(word.unwrap());
                assert_eq!(priority, sequence % 3);
                out.push((std::mem::take(&mut key), producer, sequence, nanos.unwrap()));
                body.clear();
            }
            bytes = &bytes[used..];
        }
        assert!(bytes.is_empty());
        out
    }

    #[test]
    fn keys_take_turns_and_each_counts_from_zero() {
        for size in [16, 1_000, 10_000] {
            let keys = ["k0".to_owned(), "k1".to_owned(), "k2".to_owned()];
            let shape = Shape {
                producer: 9,
                exchange: "x",
                keys: &keys,
                size,
                persistent: true,
                priorities: 3,
                headers: Headers::default(),
                max_payload: 4_088,
            };
            let mut template = Template::new(&shape);
            let mut got = Vec::new();
            for wanted in [1, 4, 10_000, 2, 10_000] {
                let (n, range) = template.stamp(wanted, 5);
                assert!(n >= 1 && n <= wanted);
                assert_eq!(range.len(), n as usize * template.stride());
                got.extend(messages(template.bytes(range), size));
            }
            assert_eq!(got.len() as u64, template.sent());
            for (i, (key, producer, sequence, nanos)) in got.iter().enumerate() {
                let expected = (keys[i % 3].as_str(), 9, i as u64 / 3, 5);
                assert_eq!(
                    (key.as_str(), *producer, *sequence, *nanos),
                    expected,
                    "message {i} of {size} bytes"
                );
            }
        }
    }

    #[test]
    fn an_unthrottled_write_is_large() {
        let keys = ["k".to_owned()];
        let shape = Shape {
            producer: 0,
            exchange: "",
            keys: &keys,
            size: 16,
            persistent: false,
            priorities: 1,
            headers: Headers::default(),
            max_payload: 4_088,
        };
        let (n, range) = Template::new(&shape).stamp(u64::MAX, 0);
        assert!(range.len() > WRITE_BYTES - 200 && range.len() <= WRITE_BYTES, "{n} in {range:?}");
    }

    #[test]
    fn headers_differ_where_they_should() {
        let keys = ["k".to_owned(), "l".to_owned()];
        for headers in [
            Headers { unique: true, ..Headers::default() },
            Headers { groups: 3, ..Headers::default() },
            Headers { unique: true, groups: 3, delay_ms: Some(7) },
        ] {
            let shape = Shape {
                producer: 3,
                exchange: "",
                keys: &keys,
                size: 16,
                persistent: true,
                priorities: 1,
                headers,
                max_payload: 4_088,
            };
            let mut template = Template::new(&shape);
            let (n, range) = template.stamp(11, 0);
            let mut bytes = template.bytes(range);
            let mut seen = 0;
            while let Some((frame, used)) = next_frame(bytes, 4_088).unwrap() {
                if frame.kind == FrameKind::Header {
                    let header = HeaderView::parse(frame.payload).unwrap();
                    let value = |name: &[u8]| match header.headers().unwrap().get(name) {
                        Some(RawValue::I64(value)) => Some(value as u64),
                        None => None,
                        other => panic!("{other:?}"),
                    };
                    let sequence = seen / 2;
                    let word = headers.unique.then(|| payload::word(3, sequence));
                    assert_eq!(value(b"x-deduplication-header"), word, "{headers:?}");
                    let group = (headers.groups > 0).then_some(sequence % 3);
                    assert_eq!(value(b"x-message-group"), group, "{headers:?}");
                    assert_eq!(value(b"x-delay"), headers.delay_ms, "{headers:?}");
                    seen += 1;
                }
                bytes = &bytes[used..];
            }
            assert_eq!(seen, n);
        }
    }
}
