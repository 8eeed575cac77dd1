//! Parsing what a consumer receives. Most deliveries of a queue differ only in delivery tag, redelivered bit and the
//! body's first bytes; those are compared with the queue's last learned delivery and taken in one step. Everything
//! else goes through the codec frame by frame, and so does a delivery of which only a part was read.
//!
//! ```text
//! 0                  12          18             26            27                 body
//! | deliver head,len | tag "q..." | delivery tag | redelivered | rest, header ... | word, time | filler, end |
//!   compared           names queue                              compared                         compared
//! ```

use anyhow::{Result, bail};
use posthouse_amqp::frame::{Frame, FrameKind, HEAD_BYTES, next_frame, write_frame};
use posthouse_amqp::method::Method;
use posthouse_model::props::HeaderView;

use super::client::{CHANNEL, refuse_close};
use super::payload;

/// Length of a consumer tag: `q` and five digits.
const TAG_BYTES: usize = 6;
const TAG_AT: usize = HEAD_BYTES + 4 + 1;
const DELIVERY_TAG_AT: usize = TAG_AT + TAG_BYTES;
const REDELIVERED_AT: usize = DELIVERY_TAG_AT + 8;
/// Larger deliveries hardly ever lie in the buffer as a whole.
const LEARNED_BYTES: usize = 64 << 10;

/// The consumer tag for queue number `queue`, below 100,000.
pub(super) fn consumer_tag(queue: usize) -> String {
    format!("q{queue:05}")
}

fn queue_of(tag: &[u8]) -> Option<usize> {
    let digits = tag.strip_prefix(b"q").filter(|digits| digits.len() == TAG_BYTES - 1)?;
    digits.iter().try_fold(0, |number, digit| {
        Some(number * 10 + usize::from(digit.checked_sub(b'0').filter(|d| *d < 10)?))
    })
}

/// A message that arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Delivery {
    /// Number of the queue it came from.
    pub(super) queue: usize,
    /// To be acknowledged with.
    pub(super) tag: u64,
    /// Producer and sequence, if the body is long enough.
    pub(super) word: Option<u64>,
    /// When it was sent, if the body is long enough.
    pub(super) sent: Option<u64>,
    /// Whether it has the expected length and filler.
    pub(super) intact: bool,
}

/// The state between reads.
pub(super) struct Parser {
    size: usize,
    max_payload: usize,
    /// By queue; empty until one was learned.
    learned: Vec<Learned>,
    /// The queue of the last delivery.
    last: usize,
    partial: Option<Partial>,
}

#[derive(Default)]
struct Learned {
    bytes: Vec<u8>,
    body_at: usize,
    stale: bool,
}

/// A delivery of which the method was read.
struct Partial {
    delivery: Delivery,
    /// Head and body so far, as frames, if the delivery is to be learned.
    frames: Option<Vec<u8>>,
    body_at: usize,
    /// Announced by the header.
    body_bytes: Option<usize>,
    got: usize,
    head: [u8; payload::STAMP_BYTES],
}

impl Parser {
    /// Expects bodies of `size` bytes from queues below `queues`.
    pub(super) fn new(size: usize, queues: usize, max_payload: usize) -> Self {
        let learned = std::iter::repeat_with(Learned::default).take(queues).collect();
        Self { size, max_payload, learned, last: 0, partial: None }
    }

    /// Parses what was read and gives how many bytes are done with. `on` gets every complete delivery.
    pub(super) fn parse(&mut self, bytes: &[u8], mut on: impl FnMut(Delivery)) -> Result<usize> {
        let mut at = 0;
        loop {
            if self.partial.is_none() {
                while let Some((delivery, used)) = self.known(&bytes[at..]) {
                    on(delivery);
                    at += used;
                }
            }
            let Some((frame, used)) = next_frame(&bytes[at..], self.max_payload)? else { return Ok(at) };
            if let Some(delivery) = self.frame(&frame)? {
                on(delivery);
            }
            at += used;
        }
    }

    #[inline]
    fn known(&mut self, bytes: &[u8]) -> Option<(Delivery, usize)> {
        if let Some(found) = self.learned.get(self.last)?.compare(bytes, self.last, self.size) {
            return Some(found);
        }
        self.known_elsewhere(bytes)
    }

    fn known_elsewhere(&mut self, bytes: &[u8]) -> Option<(Delivery, usize)> {
        let queue = queue_of(bytes.get(TAG_AT..DELIVERY_TAG_AT)?)?;
        let learned = self.learned.get_mut(queue)?;
        if queue != self.last
            && let Some(found) = learned.compare(bytes, queue, self.size)
        {
            self.last = queue;
            return Some(found);
        }
        // Too short is no reason to learn anew.
        learned.stale = bytes.len() >= learned.bytes.len();
        None
    }

    fn frame(&mut self, frame: &Frame<'_>) -> Result<Option<Delivery>> {
        match frame.kind {
            FrameKind::Heartbeat => Ok(None),
            FrameKind::Method => self.method(frame).map(|()| None),
            FrameKind::Header | FrameKind::Body => {
                let Some(partial) = &mut self.partial else { bail!("content without basic.deliver") };
                partial.content(frame, self.size)?;
                if partial.body_bytes.is_none_or(|all| partial.got < all) {
                    return Ok(None);
                }
                Ok(self.partial.take().map(|partial| self.finish(partial)))
            }
        }
    }

    fn method(&mut self, frame: &Frame<'_>) -> Result<()> {
        let method = Method::decode(frame.payload)?;
        refuse_close(&method)?;
        if self.partial.is_some() {
            bail!("{} between a delivery's frames", method.name());
        }
        let Method::BasicDeliver { consumer_tag, delivery_tag, .. } = method else { return Ok(()) };
        let queue = queue_of(consumer_tag.as_bytes()).filter(|queue| *queue < self.learned.len());
        let Some(queue) = queue else { bail!("delivery for consumer {consumer_tag:?}, which we have not") };
        let learn = self.learned[queue].stale || self.learned[queue].bytes.is_empty();
        let frames = (learn && self.size <= LEARNED_BYTES).then(|| {
            let mut frames = Vec::with_capacity(self.size + 200);
            write_frame(&mut frames, FrameKind::Method, CHANNEL, frame.payload);
            frames
        });
        self.last = queue;
        self.partial = Some(Partial {
            delivery: Delivery { queue, tag: delivery_tag, word: None, sent: None, intact: true },
            frames,
            body_at: 0,
            body_bytes: None,
            got: 0,
            head: [0; payload::STAMP_BYTES],
        });
        Ok(())
    }

    fn finish(&mut self, partial: Partial) -> Delivery {
        let mut delivery = partial.delivery;
        delivery.intact &= partial.got == self.size;
        (delivery.word, delivery.sent) =
            payload::read(&partial.head[..partial.got.min(payload::STAMP_BYTES)]);
        if let Some(bytes) = partial.frames
            && delivery.intact
            && partial.body_at > 0
        {
            self.learned[delivery.queue] = Learned { bytes, body_at: partial.body_at, stale: false };
        }
        delivery
    }
}

impl Learned {
    #[inline]
    fn compare(&self, bytes: &[u8], queue: usize, size: usize) -> Option<(Delivery, usize)> {
        let length = self.bytes.len();
        let unit = bytes.get(..length).filter(|_| length > 0)?;
        let filler_at = self.body_at + payload::varying(size);
        let same = unit[..DELIVERY_TAG_AT] == self.bytes[..DELIVERY_TAG_AT]
            && unit[REDELIVERED_AT + 1..self.body_at] == self.bytes[REDELIVERED_AT + 1..self.body_at]
            && unit[filler_at..] == self.bytes[filler_at..];
        if !same {
            return None;
        }
        let tag = u64::from_be_bytes(*unit[DELIVERY_TAG_AT..].first_chunk()?);
        let (word, sent) = payload::read(&unit[self.body_at..filler_at]);
        Some((Delivery { queue, tag, word, sent, intact: true }, length))
    }
}

impl Partial {
    fn content(&mut self, frame: &Frame<'_>, size: usize) -> Result<()> {
        if frame.kind == FrameKind::Header {
            if self.body_bytes.is_some() {
                bail!("two content headers for one delivery");
            }
            self.body_bytes = Some(HeaderView::parse(frame.payload)?.body_size() as usize);
        } else {
            if self.body_bytes.is_none_or(|all| self.got + frame.payload.len() > all) {
                bail!("expected a content header or the end of the body, got more body");
            }
            let head = self.head.iter_mut().skip(self.got);
            head.zip(frame.payload).for_each(|(to, from)| *to = *from);
            self.delivery.intact &= payload::is_filler(frame.payload, self.got, size);
            self.got += frame.payload.len();
        }
        if let Some(frames) = &mut self.frames {
            if frame.kind == FrameKind::Body {
                // Only bodies of one frame are learned: a second one moves the start.
                self.body_at = if self.body_at == 0 { frames.len() + HEAD_BYTES } else { usize::MAX };
            }
            write_frame(frames, frame.kind, CHANNEL, frame.payload);
            if self.body_at == usize::MAX {
                self.frames = None;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use posthouse_amqp::frame::write_frame_with;
    use posthouse_amqp::method::write_method;

    use super::super::template::{Headers, write_header};
    use super::*;

    fn deliver(
        out: &mut Vec<u8>,
        queue: usize,
        tag: u64,
        size: usize,
        frame_bytes: usize,
        redelivered: bool,
    ) {
        let consumer_tag = &consumer_tag(queue);
        let method = Method::BasicDeliver {
            consumer_tag,
            delivery_tag: tag,
            redelivered,
            exchange: "",
            routing_key: &format!("key{queue}"),
        };
        write_method(out, CHANNEL, &method);
        write_frame_with(out, FrameKind::Header, CHANNEL, |out| {
            write_header(out, size, false, None, Headers::default());
        });
        let mut body = payload::blank(size);
        payload::stamp(&mut body, payload::word(3, tag), tag * 2);
        body.chunks(frame_bytes).for_each(|part| write_frame(out, FrameKind::Body, CHANNEL, part));
    }

    fn parse(stream: &[u8], size: usize, piece: usize) -> Result<Vec<Delivery>> {
        let mut parser = Parser::new(size, 3, 4_088);
        let (mut buffer, mut got) = (Vec::new(), Vec::new());
        for part in stream.chunks(piece) {
            buffer.extend_from_slice(part);
            let used = parser.parse(&buffer, |delivery| got.push(delivery))?;
            buffer.drain(..used);
        }
        assert!(buffer.is_empty());
        Ok(got)
    }

    #[test]
    fn any_split_gives_every_delivery() {
        for (size, frame_bytes) in
            [(0, 100), (7, 100), (8, 100), (16, 100), (300, 1_000), (300, 90), (5_000, 4_088)]
        {
            let mut stream = Vec::new();
            let mut expected = Vec::new();
            for tag in 1..60 {
                let queue = [0, 0, 1, 2][tag as usize % 4];
                deliver(&mut stream, queue, tag, size, frame_bytes, tag % 7 == 0);
                if tag % 10 == 0 {
                    write_frame(&mut stream, FrameKind::Heartbeat, 0, b"");
                }
                expected.push(Delivery {
                    queue,
                    tag,
                    word: (size >= 8).then(|| payload::word(3, tag)),
                    sent: (size >= 16).then_some(tag * 2),
                    intact: true,
                });
            }
            for piece in [1, 13, 97, 1_000, stream.len()] {
                assert_eq!(parse(&stream, size, piece).unwrap(), expected, "{size} by {piece}");
            }
        }
    }

    #[test]
    fn damage_is_seen_in_the_fast_and_the_slow_path() {
        for damaged in [0, 5] {
            let mut stream = Vec::new();
            let mut places = Vec::new();
            for tag in 1..=6 {
                deliver(&mut stream, 0, tag, 40, 100, false);
                places.push(stream.len() - 2);
            }
            stream[places[damaged]] ^= 1;
            let intact: Vec<bool> =
                parse(&stream, 40, stream.len()).unwrap().iter().map(|d| d.intact).collect();
            assert_eq!(intact, (0..6).map(|i| i != damaged).collect::<Vec<_>>());
        }
        let mut stream = Vec::new();
        deliver(&mut stream, 0, 1, 40, 100, false);
        assert!(!parse(&stream, 41, 1_000).unwrap()[0].intact, "a wrong length is damage");
    }

    #[test]
    fn what_is_not_a_delivery_is_an_error() {
        let mut stream = Vec::new();
        deliver(&mut stream, 7, 1, 16, 100, false);
        let error = parse(&stream, 16, 1_000).unwrap_err().to_string();
        assert_eq!(error, "delivery for consumer \"q00007\", which we have not");
        let mut stream = Vec::new();
        write_frame(&mut stream, FrameKind::Body, CHANNEL, b"x");
        assert_eq!(parse(&stream, 1, 1_000).unwrap_err().to_string(), "content without basic.deliver");
        let mut stream = Vec::new();
        let close =
            Method::ChannelClose { reply_code: 404, reply_text: "NOT_FOUND - x", class_id: 0, method_id: 0 };
        write_method(&mut stream, CHANNEL, &close);
        assert_eq!(parse(&stream, 1, 1_000).unwrap_err().to_string(), "the broker said 404 NOT_FOUND - x");
    }
}
