//! Messages to clients: `basic.deliver`, `basic.get-ok` and `basic.return` with their content.
//!
//! Only the method frame is made here. The route (exchange and routing key as two short strings), the content header
//! and the body are the publisher's bytes, copied through.
//!
//! ```text
//! deliver: 0 60 | 0 60 | consumer tag | delivery tag u64 | redelivered u8 | route
//! get-ok:  0 60 | 0 71 | delivery tag u64 | redelivered u8 | route | message count u32
//! return:  0 60 | 0 50 | reply code u16 | reply text | route
//! ```

use crate::content;
use crate::frame::{self, END, FrameKind};
use crate::wire::cut;

/// Delivers to one consumer: everything that does not change from message to message is made once.
#[derive(Clone, Debug)]
pub struct DeliverPrefix {
    channel: u16,
    /// Class, method and consumer tag.
    start: Box<[u8]>,
}

impl DeliverPrefix {
    /// Prepares deliveries on `channel` to the consumer of that tag (cut to 255 bytes).
    pub fn new(channel: u16, consumer_tag: &str) -> Self {
        let tag = cut(consumer_tag);
        let start = [&[0, 60, 0, 60, tag.len() as u8], tag.as_bytes()].concat();
        Self { channel, start: start.into() }
    }

    /// Appends method, header and body frames. A body longer than `frame_max - 8` is split (0: never).
    #[inline]
    #[expect(
        clippy::too_many_arguments,
        reason = "once per message: a struct to carry them would only be taken apart"
    )]
    pub fn write(
        &self,
        out: &mut Vec<u8>,
        delivery_tag: u64,
        redelivered: bool,
        route: &[u8],
        header: &[u8],
        body: &[u8],
        frame_max: u32,
    ) {
        out.reserve(self.head_bytes(route, header) + body.len() + frame::OVERHEAD_BYTES);
        self.write_method(out, delivery_tag, redelivered, route);
        content::write_content(out, self.channel, header, body, frame_max);
    }

    /// Appends method and header frame; the body follows by [`content::BodyFrames`].
    #[inline]
    pub fn write_head(
        &self,
        out: &mut Vec<u8>,
        delivery_tag: u64,
        redelivered: bool,
        route: &[u8],
        header: &[u8],
    ) {
        out.reserve(self.head_bytes(route, header));
        self.write_method(out, delivery_tag, redelivered, route);
        content::write_header(out, self.channel, header);
    }

    /// Bytes that a delivery takes beside its body frames.
    #[inline]
    pub fn head_bytes(&self, route: &[u8], header: &[u8]) -> usize {
        self.start.len() + 9 + route.len() + header.len() + 2 * frame::OVERHEAD_BYTES
    }

    /// Appends the method frame; the content follows.
    #[inline]
    pub fn write_method(&self, out: &mut Vec<u8>, delivery_tag: u64, redelivered: bool, route: &[u8]) {
        let size = self.start.len() + 9 + route.len();
        out.extend_from_slice(&frame::head(FrameKind::Method, self.channel, size));
        out.extend_from_slice(&self.start);
        out.extend_from_slice(&tag_and_redelivered(delivery_tag, redelivered));
        out.extend_from_slice(route);
        out.push(END);
    }
}

/// A `basic.deliver` without a full decode, for clients that take many.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeliverView<'a> {
    /// The consumer's tag.
    pub consumer_tag: &'a [u8],
    /// What the message is acknowledged by.
    pub delivery_tag: u64,
    /// Whether it may have been delivered before.
    pub redelivered: bool,
    /// Exchange and routing key as two short strings; not checked.
    pub route: &'a [u8],
}

impl<'a> DeliverView<'a> {
    /// Reads a method frame's payload; `None` when it is not a `basic.deliver` or too short for one.
    #[inline]
    pub fn parse(payload: &'a [u8]) -> Option<Self> {
        let [0, 60, 0, 60, tag_bytes, rest @ ..] = payload else { return None };
        let (consumer_tag, rest) = rest.split_at_checked(usize::from(*tag_bytes))?;
        let (tag, rest) = rest.split_first_chunk()?;
        let (bits, route) = rest.split_first()?;
        let delivery_tag = u64::from_be_bytes(*tag);
        Some(Self { consumer_tag, delivery_tag, redelivered: bits & 1 != 0, route })
    }
}

/// The fields of `basic.get-ok`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GetOk<'a> {
    /// What the client acknowledges by.
    pub delivery_tag: u64,
    /// Whether it may have been delivered before.
    pub redelivered: bool,
    /// Exchange and routing key as two short strings.
    pub route: &'a [u8],
    /// Messages still ready in the queue.
    pub message_count: u32,
}

impl GetOk<'_> {
    /// Appends the method frame; the content follows by [`content::write_content`].
    pub fn write_method(&self, out: &mut Vec<u8>, channel: u16) {
        frame::write_frame_with(out, FrameKind::Method, channel, |out| {
            out.extend_from_slice(&[0, 60, 0, 71]);
            out.extend_from_slice(&tag_and_redelivered(self.delivery_tag, self.redelivered));
            out.extend_from_slice(self.route);
            out.extend_from_slice(&self.message_count.to_be_bytes());
        });
    }

    /// Appends method, header and body frames. A body longer than `frame_max - 8` is split (0: never).
    pub fn write(&self, out: &mut Vec<u8>, channel: u16, header: &[u8], body: &[u8], frame_max: u32) {
        self.write_method(out, channel);
        content::write_content(out, channel, header, body, frame_max);
    }
}

/// The fields of `basic.return`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Return<'a> {
    /// Why, as a number: 312.
    pub reply_code: u16,
    /// Why, in words: `NO_ROUTE`.
    pub reply_text: &'a str,
    /// Exchange and routing key as two short strings.
    pub route: &'a [u8],
}

impl<'a> Return<'a> {
    /// The return of a mandatory message that was routed nowhere.
    pub fn no_route(route: &'a [u8]) -> Self {
        Self { reply_code: 312, reply_text: "NO_ROUTE", route }
    }

    /// Appends the method frame; the content follows by [`content::write_content`].
    pub fn write_method(&self, out: &mut Vec<u8>, channel: u16) {
        frame::write_frame_with(out, FrameKind::Method, channel, |out| {
            out.extend_from_slice(&[0, 60, 0, 50]);
            out.extend_from_slice(&self.reply_code.to_be_bytes());
            let text = cut(self.reply_text);
            out.push(text.len() as u8);
            out.extend_from_slice(text.as_bytes());
            out.extend_from_slice(self.route);
        });
    }

    /// Appends method, header and body frames. A body longer than `frame_max - 8` is split (0: never).
    pub fn write(&self, out: &mut Vec<u8>, channel: u16, header: &[u8], body: &[u8], frame_max: u32) {
        self.write_method(out, channel);
        content::write_content(out, channel, header, body, frame_max);
    }
}

#[inline]
fn tag_and_redelivered(delivery_tag: u64, redelivered: bool) -> [u8; 9] {
    let [a, b, c, d, e, f, g, h] = delivery_tag.to_be_bytes();
    [a, b, c, d, e, f, g, h, u8::from(redelivered)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::next_frame;
    use crate::method::Method;

    const ROUTE: &[u8] = b"\x02ex\x03key";

    /// Checks the frames against those written the long way.
    fn check(bytes: &[u8], method: &Method<'_>) {
        let mut expected = Vec::new();
        crate::method::write_method(&mut expected, 9, method);
        content::write_content(&mut expected, 9, b"header", b"body", 0);
        assert_eq!(bytes, expected);
        let (frame, _) = next_frame(bytes, 1000).unwrap().unwrap();
        assert_eq!(Method::decode(frame.payload).as_ref(), Ok(method));
    }

    #[test]
    fn deliver_agrees_with_the_method_table() {
        let prefix = DeliverPrefix::new(9, "ctag");
        let mut out = Vec::new();
        prefix.write(&mut out, 1 << 40, true, ROUTE, b"header", b"body", 0);
        let method = Method::BasicDeliver {
            consumer_tag: "ctag",
            delivery_tag: 1 << 40,
            redelivered: true,
            exchange: "ex",
            routing_key: "key",
        };
        check(&out, &method);
        let (frame, _) = next_frame(&out, 1000).unwrap().unwrap();
        let view =
            DeliverView { consumer_tag: b"ctag", delivery_tag: 1 << 40, redelivered: true, route: ROUTE };
        assert_eq!(DeliverView::parse(frame.payload), Some(view));
        assert_eq!(DeliverView::parse(&frame.payload[..17]), None);
    }

    #[test]
    fn head_and_body_frames_are_the_whole() {
        let prefix = DeliverPrefix::new(9, "ctag");
        let body = [5; 3000];
        let (mut whole, mut parts) = (Vec::new(), Vec::new());
        prefix.write(&mut whole, 7, false, ROUTE, b"header", &body, 1024);
        prefix.write_head(&mut parts, 7, false, ROUTE, b"header");
        assert_eq!(parts.len(), prefix.head_bytes(ROUTE, b"header"));
        for piece in content::BodyFrames::new(9, body.len(), 1024) {
            parts.extend_from_slice(&piece.head);
            parts.extend_from_slice(&body[piece.range]);
            parts.push(END);
        }
        assert_eq!(whole, parts);
    }

    #[test]
    fn get_ok_agrees_with_the_method_table() {
        let mut out = Vec::new();
        let get_ok = GetOk { delivery_tag: 3, redelivered: false, route: ROUTE, message_count: 8 };
        get_ok.write(&mut out, 9, b"header", b"body", 0);
        let method = Method::BasicGetOk {
            delivery_tag: 3,
            redelivered: false,
            exchange: "ex",
            routing_key: "key",
            message_count: 8,
        };
        check(&out, &method);
    }

    #[test]
    fn return_agrees_with_the_method_table() {
        let mut out = Vec::new();
        Return::no_route(ROUTE).write(&mut out, 9, b"header", b"body", 0);
        let method = Method::BasicReturn {
            reply_code: 312,
            reply_text: "NO_ROUTE",
            exchange: "ex",
            routing_key: "key",
        };
        check(&out, &method);
    }
}
