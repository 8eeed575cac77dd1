//! Content frames out: a message's header frame and its body frames.
//!
//! ```text
//! header frame: payload = the content header (class, weight, body size, flags, properties), one frame always
//! body frames:  the body cut into pieces of at most frame-max - 8 bytes; an empty body has none
//! ```

use std::ops::Range;

use crate::frame::{self, END, FrameKind, HEAD_BYTES, OVERHEAD_BYTES};

/// Room for the content frames of a message whose body needs no split.
#[inline]
pub(crate) fn bytes_hint(header: &[u8], body: &[u8]) -> usize {
    header.len() + body.len() + 2 * OVERHEAD_BYTES
}

/// Appends the header frame and the body frames. A body longer than `frame_max - 8` is split (0: never).
#[inline]
pub fn write_content(out: &mut Vec<u8>, channel: u16, header: &[u8], body: &[u8], frame_max: u32) {
    write_header(out, channel, header);
    write_body(out, channel, body, frame_max);
}

/// Appends the body frames. A body longer than `frame_max - 8` is split (0: never).
#[inline]
pub fn write_body(out: &mut Vec<u8>, channel: u16, body: &[u8], frame_max: u32) {
    if body.is_empty() {
        return;
    }
    if body.len() <= max_payload(frame_max) {
        frame::write_frame(out, FrameKind::Body, channel, body);
    } else {
        write_split(out, channel, body, frame_max);
    }
}

/// Appends the header frame alone: the body follows by [`BodyFrames`].
#[inline]
pub fn write_header(out: &mut Vec<u8>, channel: u16, header: &[u8]) {
    frame::write_frame(out, FrameKind::Header, channel, header);
}

#[cold]
fn write_split(out: &mut Vec<u8>, channel: u16, body: &[u8], frame_max: u32) {
    let frames = BodyFrames::new(channel, body.len(), frame_max);
    out.reserve(frames.total_bytes());
    for piece in frames {
        out.extend_from_slice(&piece.head);
        out.extend_from_slice(&body[piece.range]);
        out.push(END);
    }
}

/// The largest payload of a frame under `frame_max`, where 0 means no limit.
#[inline]
pub fn max_payload(frame_max: u32) -> usize {
    match frame_max {
        0 => u32::MAX as usize - OVERHEAD_BYTES,
        // A limit that leaves no room would never end a body.
        limit => (limit as usize).saturating_sub(OVERHEAD_BYTES).max(1),
    }
}

/// One body frame: write `head`, the body's bytes in `range`, and [`END`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BodyFrame {
    /// The seven octets before the piece.
    pub head: [u8; HEAD_BYTES],
    /// Which part of the body it carries.
    pub range: Range<usize>,
}

/// How a body is cut into frames, for callers that send a large body from where it lies.
#[derive(Clone, Debug)]
pub struct BodyFrames {
    channel: u16,
    at: usize,
    end: usize,
    max_payload: usize,
}

impl BodyFrames {
    /// The frames of a body of `body_bytes` under `frame_max` (0: no limit).
    pub fn new(channel: u16, body_bytes: usize, frame_max: u32) -> Self {
        Self { channel, at: 0, end: body_bytes, max_payload: max_payload(frame_max) }
    }

    /// Bytes of all frames that are left, heads and ends included.
    pub fn total_bytes(&self) -> usize {
        let left = self.end - self.at;
        left + left.div_ceil(self.max_payload) * OVERHEAD_BYTES
    }
}

impl Iterator for BodyFrames {
    type Item = BodyFrame;

    fn next(&mut self) -> Option<BodyFrame> {
        if self.at == self.end {
            return None;
        }
        let range = self.at..self.end.min(self.at + self.max_payload);
        self.at = range.end;
        Some(BodyFrame { head: frame::head(FrameKind::Body, self.channel, range.len()), range })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::next_frame;

    fn kinds_and_sizes(mut bytes: &[u8]) -> Vec<(FrameKind, usize)> {
        let mut seen = Vec::new();
        while let Some((frame, used)) = next_frame(bytes, 1 << 20).unwrap() {
            seen.push((frame.kind, frame.payload.len()));
            bytes = &bytes[used..];
        }
        seen
    }

    fn written(body_bytes: usize, frame_max: u32) -> Vec<(FrameKind, usize)> {
        let mut out = Vec::new();
        write_content(&mut out, 1, b"header", &vec![7; body_bytes], frame_max);
        kinds_and_sizes(&out)
    }

    #[test]
    fn bodies_are_split_at_frame_max() {
        use FrameKind::{Body, Header};
        assert_eq!(written(0, 100), [(Header, 6)]);
        assert_eq!(written(92, 100), [(Header, 6), (Body, 92)]);
        assert_eq!(written(93, 100), [(Header, 6), (Body, 92), (Body, 1)]);
        assert_eq!(written(5000, 0), [(Header, 6), (Body, 5000)]);
    }

    #[test]
    fn total_bytes_counts_heads_and_ends() {
        for body_bytes in [0, 1, 91, 92, 93, 184, 185] {
            let frames = BodyFrames::new(1, body_bytes, 100);
            let counted: usize = frames.clone().map(|piece| piece.range.len() + OVERHEAD_BYTES).sum();
            assert_eq!(frames.total_bytes(), counted);
        }
    }
}
