//! One stored message as bytes.
//!
//! The same bytes are built once by the publisher's connection, sit in the queue's memory, go into the log and
//! into segments, and are copied into the consumer's out-buffer. Little-endian:
//!
//! ```text
//!  0        4        8       10       12       16       22      24
//! +--------+--------+-------+--------+--------+--------+-------+-------------+---------+------+
//! | length | delta  | flags | route  | header | time   | user  | route bytes | header  | body |
//! | u32    | u32    | u16   | len u16| len u32| ms u48 | u16   |             | bytes   |      |
//! +--------+--------+-------+--------+--------+--------+-------+-------------+---------+------+
//! ```
//!
//! * `length` counts the whole record, itself included; the body is what remains after the header bytes.
//! * `delta` is the message's sequence number less its chunk's first one.
//! * `route bytes` are the exchange and the routing key as two AMQP short strings, as `basic.deliver` sends them. The
//!   keys of a `BCC` header follow in the same form: nobody sees them, and dead-lettering goes by them.
//! * `header bytes` are the payload of the publisher's content header frame (class, weight, body size, flags,
//!   properties), unchanged.
//! * `time` is when the broker received the message, in milliseconds since the Unix epoch; of a message that waits for a
//!   time, when it is due.
//! * `user` is who published it, by number ([`UserNumber`]); 0 where that is the broker or not known. Together with the
//!   time it is the record's *stamp* ([`stamp`]).
//! * `flags` are the `FLAG_*` bits below.
//!
//! Version 2 of the record format. The version is carried by what holds records: the data directory. In version 1 the time
//! had 64 bits, of which those of the user were 0.

use crate::shares::UserNumber;

/// Bytes before the variable part.
pub const FIXED_BYTES: usize = 24;

/// The message was published with delivery mode 2.
pub const FLAG_PERSISTENT: u16 = 1;

/// A consumer had it in the queue that it was dead-lettered from, and rejected it: every delivery is a repeated one.
pub const FLAG_REDELIVERED: u16 = 1 << 1;

/// The `x-death` header is the broker's own. One that a publisher sent means nothing.
pub const FLAG_DEATHS: u16 = 1 << 2;

/// The message has the property `expiration`: it may be gone before it is handed out.
pub const FLAG_EXPIRES: u16 = 1 << 3;

/// It was moved here from a queue in which it may have been handed out before the broker was started: it may have been
/// moved and delivered before, too, by a move that a crash undid.
pub const FLAG_MAYBE_DELIVERED: u16 = 1 << 4;

/// A view of one record. Built only from bytes that [`Record::parse`] has checked.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    bytes: &'a [u8],
    route_end: usize,
    header_end: usize,
}

impl<'a> Record<'a> {
    /// Reads the record at the start of `bytes`; `None` when its lengths do not fit into `bytes`.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        if bytes.len() < FIXED_BYTES {
            return None;
        }
        let length = u32_at(bytes, 0) as usize;
        let route_end = FIXED_BYTES + usize::from(u16_at(bytes, 10));
        let header_end = route_end + u32_at(bytes, 12) as usize;
        if length > bytes.len() || header_end > length {
            return None;
        }
        Some(Self { bytes: &bytes[..length], route_end, header_end })
    }

    /// Bytes of the whole record.
    #[inline]
    #[allow(clippy::len_without_is_empty, reason = "a record is never empty")]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Sequence number less the chunk's first.
    #[inline]
    pub fn delta(&self) -> u32 {
        u32_at(self.bytes, 4)
    }

    /// `FLAG_*` bits.
    #[inline]
    pub fn flags(&self) -> u16 {
        u16_at(self.bytes, 8)
    }

    /// Whether it was published with delivery mode 2.
    #[inline]
    pub fn persistent(&self) -> bool {
        self.flags() & FLAG_PERSISTENT != 0
    }

    /// Whether every delivery of it is a repeated one.
    #[inline]
    pub fn redelivered(&self) -> bool {
        self.flags() & (FLAG_REDELIVERED | FLAG_MAYBE_DELIVERED) != 0
    }

    /// Whether its `x-death` header is the broker's own.
    #[inline]
    pub fn has_deaths(&self) -> bool {
        self.flags() & FLAG_DEATHS != 0
    }

    /// When the broker received it, in milliseconds since the Unix epoch.
    #[inline]
    pub fn received_ms(&self) -> u64 {
        time_of(stamp_at(self.bytes))
    }

    /// Who published it.
    #[inline]
    pub fn publisher(&self) -> UserNumber {
        publisher_of(stamp_at(self.bytes))
    }

    /// Exchange and routing key, as two short strings.
    #[inline]
    pub fn route(&self) -> &'a [u8] {
        let all = self.routes();
        let exchange = all.first().map_or(0, |&length| usize::from(length)) + 1;
        let key = all.get(exchange).map_or(0, |&length| usize::from(length)) + 1;
        &all[..all.len().min(exchange + key)]
    }

    /// The keys of the `BCC` header that it was published with.
    pub fn hidden_keys(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut rest = &self.routes()[self.route().len()..];
        std::iter::from_fn(move || {
            let (key, after) = (!rest.is_empty()).then(|| short_string(rest))?;
            rest = after;
            Some(key)
        })
    }

    /// [`Self::route`], and the hidden keys behind it.
    #[inline]
    pub fn routes(&self) -> &'a [u8] {
        &self.bytes[FIXED_BYTES..self.route_end]
    }

    /// The content header frame's payload.
    #[inline]
    pub fn header(&self) -> &'a [u8] {
        &self.bytes[self.route_end..self.header_end]
    }

    /// The body.
    #[inline]
    pub fn body(&self) -> &'a [u8] {
        &self.bytes[self.header_end..]
    }

    /// Where the body starts within the record.
    #[inline]
    pub fn body_offset(&self) -> usize {
        self.header_end
    }

    /// The exchange's and the routing key's bytes (without their length bytes); empty where malformed.
    pub fn exchange_and_key(&self) -> (&'a [u8], &'a [u8]) {
        let (exchange, rest) = short_string(self.route());
        (exchange, short_string(rest).0)
    }
}

/// Bits of a stamp that are the time: enough for 8,900 years.
const TIME_BITS: u32 = 48;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;

/// When a message was received, in milliseconds since the Unix epoch, and who published it, as a record has them. Nobody's
/// is the time itself.
#[inline]
pub fn stamp(time_ms: u64, publisher: UserNumber) -> u64 {
    time_ms.min(TIME_MASK) | u64::from(publisher.0) << TIME_BITS
}

/// The time of a stamp.
#[inline]
pub(crate) fn time_of(stamp: u64) -> u64 {
    stamp & TIME_MASK
}

/// The publisher of a stamp.
#[inline]
pub(crate) fn publisher_of(stamp: u64) -> UserNumber {
    UserNumber((stamp >> TIME_BITS) as u16)
}

/// Appends one record to `out` up to its body, whose `body_bytes` bytes are to follow.
#[inline]
pub fn append_head(
    out: &mut Vec<u8>,
    delta: u32,
    flags: u16,
    stamp: u64,
    route: &[u8],
    header: &[u8],
    body_bytes: usize,
) {
    debug_assert!(route.len() <= usize::from(u16::MAX));
    let length = FIXED_BYTES + route.len() + header.len() + body_bytes;
    let mut fixed = [0u8; FIXED_BYTES];
    fixed[0..4].copy_from_slice(&(length as u32).to_le_bytes());
    fixed[4..8].copy_from_slice(&delta.to_le_bytes());
    fixed[8..10].copy_from_slice(&flags.to_le_bytes());
    fixed[10..12].copy_from_slice(&(route.len() as u16).to_le_bytes());
    fixed[12..16].copy_from_slice(&(header.len() as u32).to_le_bytes());
    fixed[16..24].copy_from_slice(&stamp.to_le_bytes());
    out.extend_from_slice(&fixed);
    out.extend_from_slice(route);
    out.extend_from_slice(header);
}

/// When the message was received, of the fixed part of its record.
pub fn received_ms(fixed: &[u8; FIXED_BYTES]) -> u64 {
    time_of(stamp_at(fixed))
}

/// What a chunk notes of a record that is copied into it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Noted {
    pub(crate) delta: u32,
    pub(crate) flags: u16,
    pub(crate) stamp: u64,
}

impl Noted {
    /// Of a whole record.
    #[inline]
    pub(crate) fn of(record: &Record<'_>) -> Self {
        Self { delta: record.delta(), flags: record.flags(), stamp: stamp_at(record.bytes) }
    }

    /// Of the bytes of a whole record, which are not checked.
    #[inline]
    pub(crate) fn read(record: &[u8]) -> Self {
        Self { delta: u32_at(record, 4), flags: u16_at(record, 8), stamp: stamp_at(record) }
    }
}

/// Overwrites a record's `delta` in place.
#[inline]
pub fn set_delta(record: &mut [u8], delta: u32) {
    record[4..8].copy_from_slice(&delta.to_le_bytes());
}

#[inline]
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

#[inline]
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[inline]
fn stamp_at(record: &[u8]) -> u64 {
    u64::from(u32_at(record, 16)) | u64::from(u32_at(record, 20)) << 32
}

fn short_string(bytes: &[u8]) -> (&[u8], &[u8]) {
    let Some((&length, rest)) = bytes.split_first() else { return (&[], &[]) };
    rest.split_at_checked(usize::from(length)).unwrap_or((&[], &[]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        append_head(&mut bytes, 7, FLAG_PERSISTENT, 1 << 40, b"\x02ex\x03key", b"head", body.len());
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn reads_back_what_was_written() {
        let bytes = sample(b"body");
        let record = Record::parse(&bytes).unwrap();
        assert_eq!((record.len(), record.delta(), record.persistent()), (bytes.len(), 7, true));
        assert_eq!(record.received_ms(), 1 << 40);
        assert_eq!(record.exchange_and_key(), (&b"ex"[..], &b"key"[..]));
        assert_eq!((record.header(), record.body()), (&b"head"[..], &b"body"[..]));
    }

    #[test]
    fn hidden_keys_stay_behind_the_route() {
        let mut bytes = Vec::new();
        append_head(&mut bytes, 0, 0, 0, b"\x02ex\x03key\x01a\x00\x02bc", b"head", 0);
        let record = Record::parse(&bytes).unwrap();
        assert_eq!((record.route(), record.header()), (&b"\x02ex\x03key"[..], &b"head"[..]));
        assert_eq!(record.hidden_keys().collect::<Vec<_>>(), [&b"a"[..], b"", b"bc"]);
        let none = sample(b"");
        assert_eq!(Record::parse(&none).unwrap().hidden_keys().count(), 0);
    }

    #[test]
    fn version_2_bytes_are_fixed() {
        let mut bytes = Vec::new();
        append_head(&mut bytes, 7, 1, stamp(1 << 40, UserNumber(0x0102)), b"\0\x01q", b"h", 0);
        let expected = b"\x1c\0\0\0\x07\0\0\0\x01\0\x03\0\x01\0\0\0\0\0\0\0\0\x01\x02\x01\0\x01qh";
        assert_eq!(&bytes[..], expected);
        let record = Record::parse(&bytes).unwrap();
        assert_eq!((record.received_ms(), record.publisher()), (1 << 40, UserNumber(0x0102)));
        // A time that has no room is the last there is, and nobody else's.
        assert_eq!(publisher_of(stamp(u64::MAX, UserNumber(3))), UserNumber(3));
        assert_eq!(time_of(stamp(u64::MAX, UserNumber(3))), TIME_MASK);
    }

    #[test]
    fn version_1_bytes_are_fixed() {
        let expected =
            b"\x2b\0\0\0\x07\0\0\0\x01\0\x07\0\x04\0\0\0\0\0\0\0\0\x01\0\0\x02ex\x03keyheadbody....";
        assert_eq!(&sample(b"body....")[..], expected);
        assert_eq!(Record::parse(expected).unwrap().publisher(), UserNumber::NOBODY);
    }

    #[test]
    fn refuses_lengths_that_do_not_fit() {
        let bytes = sample(b"body");
        for cut in 0..bytes.len() {
            assert!(Record::parse(&bytes[..cut]).is_none(), "cut at {cut}");
        }
        let mut wrong = bytes;
        wrong[12] = 200;
        assert!(Record::parse(&wrong).is_none());
    }
}
