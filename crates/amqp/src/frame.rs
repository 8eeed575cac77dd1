//! Frames: the unit of an AMQP 0-9-1 byte stream.
//!
//! ```text
//!  0      1         3       7              7 + size
//! +------+---------+-------+---------------+------+
//! | kind | channel | size  | payload       | end  |     kind: 1 method, 2 content header, 3 content body, 8 heartbeat
//! | u8   | u16     | u32   |               | 0xCE |     big-endian
//! +------+---------+-------+---------------+------+
//! ```
//!
//! A frame is looked at where it lies in the read buffer. Knows nothing of what payloads mean.

use std::fmt;

use posthouse_model::reply::{ReplyCode, ReplyError};

use crate::octets::Octets;

/// Bytes before a frame's payload.
pub const HEAD_BYTES: usize = 7;

/// Bytes of a frame that are not payload.
pub const OVERHEAD_BYTES: usize = HEAD_BYTES + 1;

/// The octet that ends every frame.
pub const END: u8 = 0xCE;

/// How many bytes a payload may exceed its limit by: RabbitMQ forgives clients that forget the overhead.
const SLACK_BYTES: usize = 8;

/// A heartbeat frame, which has no payload and goes on channel 0.
pub const HEARTBEAT: [u8; OVERHEAD_BYTES] = [8, 0, 0, 0, 0, 0, 0, END];

/// What a frame carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum FrameKind {
    /// A method and its fields.
    Method = 1,
    /// The content header that follows a method with content.
    Header = 2,
    /// A piece of the content's body.
    Body = 3,
    /// Sign of life.
    Heartbeat = 8,
}

/// A whole frame, borrowed from the buffer it was read into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame<'a> {
    /// What it carries.
    pub kind: FrameKind,
    /// 0 is the connection itself.
    pub channel: u16,
    /// Without head and end octet.
    pub payload: &'a [u8],
}

/// Why bytes are not a frame. The stream cannot be followed any further.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FrameError {
    /// The payload's length exceeds the limit; known from the head alone.
    TooLarge {
        /// The frame's kind, which may be none of the known ones.
        kind: u8,
        /// Bytes of payload the head announces.
        size: u32,
        /// Bytes of payload allowed.
        max: usize,
    },
    /// The octet after the payload is not [`END`].
    BadEnd {
        /// The frame's kind, which may be none of the known ones.
        kind: u8,
        /// The payload's first octets.
        payload: Octets,
        /// The octet found.
        found: u8,
    },
    /// No frame has this kind.
    UnknownKind {
        /// The kind found.
        kind: u8,
        /// The payload's first octets.
        payload: Octets,
    },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { kind, size, max } => {
                write!(f, "type {kind}, all octets = <<>>: {{frame_too_large,{size},{max}}}")
            }
            Self::BadEnd { kind, payload, found } => {
                let extent = payload.extent();
                write!(f, "type {kind}, {extent} octets = {payload}: {{invalid_frame_end_marker,{found}}}")
            }
            Self::UnknownKind { kind, payload } => {
                write!(f, "type {kind}, {} octets = {payload}: unknown_frame", payload.extent())
            }
        }
    }
}

impl std::error::Error for FrameError {}

impl FrameError {
    /// What the client is told: 501 in RabbitMQ's words.
    pub fn reply(&self) -> ReplyError {
        ReplyError::new(ReplyCode::FrameError, self.to_string())
    }
}

impl Frame<'_> {
    /// The 505 for a frame where it must not be, such as a heartbeat on a channel.
    pub fn unexpected(&self) -> ReplyError {
        let payload = Octets::snippet(self.payload);
        let text = format!("type {}, {} octets = {payload}", self.kind as u8, payload.extent());
        ReplyError::new(ReplyCode::UnexpectedFrame, text)
    }
}

/// Looks at the start of `buf`: the whole frame there and how many bytes it takes, or `None` when more must be read.
/// `max_payload` is the negotiated frame-max less 8.
#[inline]
pub fn next_frame(buf: &[u8], max_payload: usize) -> Result<Option<(Frame<'_>, usize)>, FrameError> {
    let Some((head, rest)) = buf.split_first_chunk::<HEAD_BYTES>() else { return Ok(None) };
    let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
    let length = size as usize;
    if length > max_payload.saturating_add(SLACK_BYTES) {
        return Err(FrameError::TooLarge { kind: head[0], size, max: max_payload });
    }
    let Some(&end) = rest.get(length) else { return Ok(None) };
    let payload = &rest[..length];
    let kind = match head[0] {
        1 => FrameKind::Method,
        2 => FrameKind::Header,
        3 => FrameKind::Body,
        8 => FrameKind::Heartbeat,
        kind => return Err(malformed(kind, payload, end)),
    };
    if end != END {
        return Err(malformed(head[0], payload, end));
    }
    let channel = u16::from_be_bytes([head[1], head[2]]);
    Ok(Some((Frame { kind, channel, payload }, OVERHEAD_BYTES + length)))
}

#[cold]
fn malformed(kind: u8, payload: &[u8], end: u8) -> FrameError {
    let payload = Octets::snippet(payload);
    if end == END {
        FrameError::UnknownKind { kind, payload }
    } else {
        FrameError::BadEnd { kind, payload, found: end }
    }
}

/// How many bytes the frame at the start of `buf` will have, once its head is there: a hint for the next read.
/// Not checked against any limit.
pub fn announced_bytes(buf: &[u8]) -> Option<usize> {
    let head = buf.first_chunk::<HEAD_BYTES>()?;
    Some(u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize + OVERHEAD_BYTES)
}

/// A frame's head.
#[inline]
pub fn head(kind: FrameKind, channel: u16, payload_bytes: usize) -> [u8; HEAD_BYTES] {
    let [c0, c1] = channel.to_be_bytes();
    let [s0, s1, s2, s3] = (payload_bytes as u32).to_be_bytes();
    [kind as u8, c0, c1, s0, s1, s2, s3]
}

/// Appends a frame.
#[inline]
pub fn write_frame(out: &mut Vec<u8>, kind: FrameKind, channel: u16, payload: &[u8]) {
    out.reserve(payload.len() + OVERHEAD_BYTES);
    out.extend_from_slice(&head(kind, channel, payload.len()));
    out.extend_from_slice(payload);
    out.push(END);
}

/// Appends a frame whose payload is what `write` appends.
pub fn write_frame_with(out: &mut Vec<u8>, kind: FrameKind, channel: u16, write: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&head(kind, channel, 0));
    write(out);
    let size = (out.len() - at - HEAD_BYTES) as u32;
    out[at + 3..at + HEAD_BYTES].copy_from_slice(&size.to_be_bytes());
    out.push(END);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KINDS: [FrameKind; 4] =
        [FrameKind::Method, FrameKind::Header, FrameKind::Body, FrameKind::Heartbeat];

    fn error(bytes: &[u8], max_payload: usize) -> String {
        next_frame(bytes, max_payload).unwrap_err().reply().to_string()
    }

    #[test]
    fn errors_read_as_rabbitmq_writes_them() {
        assert_eq!(
            error(b"\x09\0\0\0\0\0\x03abc\xce", 100),
            "501 type 9, all octets = <<\"abc\">>: unknown_frame"
        );
        assert_eq!(
            error(b"\x01\0\0\0\0\0\x04\0\x14\0\x14\0", 100),
            "501 type 1, all octets = <<0,20,0,20>>: {invalid_frame_end_marker,0}"
        );
        let head = head(FrameKind::Body, 1, 140_000);
        assert_eq!(error(&head, 131_064), "501 type 3, all octets = <<>>: {frame_too_large,140000,131064}");
        let heartbeat = Frame { kind: FrameKind::Heartbeat, channel: 1, payload: b"" };
        assert_eq!(heartbeat.unexpected().to_string(), "505 type 8, all octets = <<>>");
    }

    #[test]
    fn eight_bytes_over_the_limit_are_forgiven() {
        assert_eq!(next_frame(&head(FrameKind::Body, 1, 108), 100), Ok(None));
        assert!(next_frame(&head(FrameKind::Body, 1, 109), 100).is_err());
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_frames(
            frames in prop::collection::vec((0..4usize, any::<u16>(), prop::collection::vec(any::<u8>(), 0..40)), 1..6),
            pieces in prop::collection::vec(1..30usize, 1..40),
        ) {
            let mut stream = Vec::new();
            for (kind, channel, payload) in &frames {
                write_frame(&mut stream, KINDS[*kind], *channel, payload);
            }
            let (mut buf, mut got) = (Vec::new(), Vec::new());
            let mut pieces = pieces.iter().copied().cycle();
            let mut rest = &stream[..];
            while !rest.is_empty() {
                let (piece, tail) = rest.split_at(pieces.next().unwrap().min(rest.len()));
                rest = tail;
                buf.extend_from_slice(piece);
                while let Some((frame, used)) = next_frame(&buf, 1000).unwrap() {
                    got.push((KINDS.iter().position(|k| *k == frame.kind).unwrap(), frame.channel, frame.payload.to_vec()));
                    buf.drain(..used);
                }
            }
            prop_assert_eq!(got, frames);
            prop_assert!(buf.is_empty());
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..60), max in 0..100usize) {
            let _ = next_frame(&bytes, max);
        }
    }
}
