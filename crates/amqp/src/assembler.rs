//! The order of frames on one channel: method, or method + content header + content body until its size is reached.
//!
//! It only counts. Payloads are handed on as they are, and who assembles a body appends the pieces where it wants them.
//! Serves both roles: `basic.publish` has content for a server, `basic.deliver`, `.return` and `.get-ok` for a client.

use std::fmt;

use posthouse_model::field::FieldError;
use posthouse_model::props::{CLASS_BASIC, HeaderError, HeaderView};
use posthouse_model::reply::{ReplyCode, ReplyError};

use crate::frame::{Frame, FrameKind};

/// The largest body that may be announced: 512 MiB, as RabbitMQ has it. Smaller limits are the session's.
pub const MAX_BODY_BYTES: u64 = 536_870_912;

/// What a frame means in its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step<'a> {
    /// A method's payload.
    Method(&'a [u8]),
    /// The content header of the last method. With a body size of 0 the content is complete.
    Header(HeaderView<'a>),
    /// A piece of the body.
    Body {
        /// The piece; may be empty.
        bytes: &'a [u8],
        /// Whether it is the last one.
        complete: bool,
    },
}

/// A frame that may not be where it is. It closes the connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AssemblyError {
    /// A content frame where a method belongs.
    NotMethod,
    /// Another frame where the content header belongs, or a header whose weight is not 0.
    NotHeader,
    /// A content header of that class, not `basic`.
    WrongClass(u16),
    /// Another frame where a piece of the body belongs.
    NotBody,
    /// A piece that goes beyond the body size.
    TooMuchBody,
    /// A body size above [`MAX_BODY_BYTES`].
    BodyTooLarge(u64),
    /// A content header that cannot be read.
    BadHeader(HeaderError),
    /// A headers table that cannot be read.
    BadTable(FieldError),
}

impl fmt::Display for AssemblyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotMethod => f.write_str("expected method frame, got non method frame instead"),
            Self::NotHeader => write!(
                f,
                "expected content header for class {CLASS_BASIC}, got non content header frame instead"
            ),
            Self::WrongClass(class) => {
                write!(
                    f,
                    "expected content header for class {CLASS_BASIC}, got one for class {class} instead"
                )
            }
            Self::NotBody => f.write_str("expected content body, got non content body frame instead"),
            Self::TooMuchBody => f.write_str("content body frame exceeds remaining content size"),
            Self::BodyTooLarge(size) => {
                write!(f, "content body size {size} exceeds maximum allowed size {MAX_BODY_BYTES}")
            }
            Self::BadHeader(error) => error.fmt(f),
            Self::BadTable(error) => write!(f, "headers property: {error}"),
        }
    }
}

impl std::error::Error for AssemblyError {}

impl AssemblyError {
    /// What the client is told.
    pub fn reply(&self) -> ReplyError {
        let code = match self {
            Self::NotMethod | Self::NotHeader | Self::WrongClass(_) | Self::NotBody => {
                ReplyCode::UnexpectedFrame
            }
            Self::TooMuchBody | Self::BodyTooLarge(_) | Self::BadHeader(_) | Self::BadTable(_) => {
                ReplyCode::FrameError
            }
        };
        ReplyError::new(code, self.to_string())
    }

    /// The class and method ids to close with: the publish whose content it is, or none.
    pub fn ids(&self) -> (u16, u16) {
        if *self == Self::NotMethod { (0, 0) } else { (CLASS_BASIC, 40) }
    }
}

/// What the next frame of a channel has to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Assembler {
    expected: Expected,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Expected {
    #[default]
    Method,
    Header,
    Body {
        left: u64,
    },
}

impl Assembler {
    /// Whether a method's content is still awaited.
    pub fn in_content(&self) -> bool {
        self.expected != Expected::Method
    }

    /// Takes the channel's next frame.
    #[inline]
    pub fn step<'a>(&mut self, frame: &Frame<'a>) -> Result<Step<'a>, AssemblyError> {
        match self.expected {
            Expected::Method if frame.kind == FrameKind::Method => {
                if has_content(frame.payload) {
                    self.expected = Expected::Header;
                }
                Ok(Step::Method(frame.payload))
            }
            Expected::Header if frame.kind == FrameKind::Header => self.header(frame.payload),
            Expected::Body { left } if frame.kind == FrameKind::Body => {
                let bytes = frame.payload;
                let left = left.checked_sub(bytes.len() as u64).ok_or(AssemblyError::TooMuchBody)?;
                self.expected = if left == 0 { Expected::Method } else { Expected::Body { left } };
                Ok(Step::Body { bytes, complete: left == 0 })
            }
            Expected::Method => Err(AssemblyError::NotMethod),
            Expected::Header => Err(AssemblyError::NotHeader),
            Expected::Body { .. } => Err(AssemblyError::NotBody),
        }
    }

    #[inline]
    fn header<'a>(&mut self, payload: &'a [u8]) -> Result<Step<'a>, AssemblyError> {
        // First of all: another class would have other properties.
        match *payload {
            [_, _, w0, w1, ..] if [w0, w1] != [0, 0] => return Err(AssemblyError::NotHeader),
            [c0, c1, ..] if u16::from_be_bytes([c0, c1]) != CLASS_BASIC => {
                return Err(AssemblyError::WrongClass(u16::from_be_bytes([c0, c1])));
            }
            _ => {}
        }
        let header = HeaderView::parse(payload).map_err(AssemblyError::BadHeader)?;
        // A table that cannot be read would end the connection of whoever consumes the message.
        header.check_headers().map_err(AssemblyError::BadTable)?;
        let size = header.body_size();
        if size > MAX_BODY_BYTES {
            return Err(AssemblyError::BodyTooLarge(size));
        }
        self.expected = if size == 0 { Expected::Method } else { Expected::Body { left: size } };
        Ok(Step::Header(header))
    }
}

/// Whether content follows the method: `basic.publish`, `.return`, `.deliver`, `.get-ok`.
#[inline]
pub fn has_content(payload: &[u8]) -> bool {
    matches!(payload, [0, 60, 0, 40 | 50 | 60 | 71, ..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLISH: &[u8] = b"\0\x3c\0\x28\0\0\0\0\0";

    type Frames<'a> = &'a [(FrameKind, &'a [u8])];

    fn frame(kind: FrameKind, payload: &[u8]) -> Frame<'_> {
        Frame { kind, channel: 1, payload }
    }

    fn header(class: u16, size: u64) -> Vec<u8> {
        [&class.to_be_bytes()[..], &[0, 0], &size.to_be_bytes(), &[0, 0]].concat()
    }

    /// Feeds frames until one is refused.
    fn refusal(frames: Frames<'_>) -> (String, (u16, u16)) {
        let mut assembler = Assembler::default();
        for (kind, payload) in frames {
            if let Err(error) = assembler.step(&frame(*kind, payload)) {
                return (error.reply().to_string(), error.ids());
            }
        }
        panic!("nothing was refused");
    }

    #[test]
    fn assembles_content() {
        let mut assembler = Assembler::default();
        let header = header(60, 5);
        assert_eq!(assembler.step(&frame(FrameKind::Method, PUBLISH)), Ok(Step::Method(PUBLISH)));
        assert!(matches!(assembler.step(&frame(FrameKind::Header, &header)), Ok(Step::Header(_))));
        let first = Step::Body { bytes: b"abc", complete: false };
        assert_eq!(assembler.step(&frame(FrameKind::Body, b"abc")), Ok(first));
        assert!(assembler.in_content());
        let last = Step::Body { bytes: b"de", complete: true };
        assert_eq!(assembler.step(&frame(FrameKind::Body, b"de")), Ok(last));
        assert!(!assembler.in_content());
    }

    #[test]
    fn an_empty_body_and_methods_without_content_have_no_body() {
        let mut assembler = Assembler::default();
        assembler.step(&frame(FrameKind::Method, PUBLISH)).unwrap();
        assembler.step(&frame(FrameKind::Header, &header(60, 0))).unwrap();
        assert!(!assembler.in_content());
        assembler.step(&frame(FrameKind::Method, b"\0\x3c\0\x50")).unwrap();
        assert!(!assembler.in_content());
    }

    #[test]
    fn errors_read_as_rabbitmq_writes_them() {
        use FrameKind::{Body, Header, Method};
        let (small, mut alien, huge) = (header(60, 2), header(50, 2), header(60, 629_145_600));
        alien.extend_from_slice(b"of another layout");
        let heavy = [&small[..3], &[1], &small[4..]].concat();
        let table = [&small[..12], b"\x20\0\0\0\0\x01\x05"].concat();
        let rows: [(Frames<'_>, &str); 9] = [
            (&[(Body, b"x")], "505 expected method frame, got non method frame instead"),
            (
                &[(Method, PUBLISH), (Body, b"x")],
                "505 expected content header for class 60, got non content header frame instead",
            ),
            (
                &[(Method, PUBLISH), (Header, &alien)],
                "505 expected content header for class 60, got one for class 50 instead",
            ),
            (
                &[(Method, PUBLISH), (Header, &small), (Method, PUBLISH)],
                "505 expected content body, got non content body frame instead",
            ),
            (
                &[(Method, PUBLISH), (Header, &small), (Body, b"abc")],
                "501 content body frame exceeds remaining content size",
            ),
            (
                &[(Method, PUBLISH), (Header, &huge)],
                "501 content body size 629145600 exceeds maximum allowed size 536870912",
            ),
            (
                &[(Method, PUBLISH), (Header, b"\0\x3c")],
                "501 content header is cut short: expected at least 14 bytes, got 2",
            ),
            (
                &[(Method, PUBLISH), (Header, &heavy)],
                "505 expected content header for class 60, got non content header frame instead",
            ),
            (
                &[(Method, PUBLISH), (Header, &table)],
                "501 headers property: field table is cut short: expected 5 more bytes, got 0",
            ),
        ];
        for (index, (frames, expected)) in rows.into_iter().enumerate() {
            let ids = if index == 0 { (0, 0) } else { (60, 40) };
            assert_eq!(refusal(frames), (expected.to_owned(), ids));
        }
    }
}
