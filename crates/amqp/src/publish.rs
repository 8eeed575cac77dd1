//! `basic.publish` without a full decode, and its encoder for the client role.
//!
//! ```text
//! 0 60 | 0 40 | ticket u16 | exchange short string | routing key short string | bits: 1 mandatory, 2 immediate
//!                          \------------- the route ----------------------/
//! ```
//!
//! The route's bytes are what `basic.deliver` ends with, so they are kept as they lie.

use crate::content;
use crate::frame::{self, FrameKind};
use crate::method::{DecodeError, Method};
use crate::octets::Octets;

/// Class and method id of `basic.publish`.
const IDS: [u8; 4] = [0, 60, 0, 40];

/// Where the route starts: after the ids and the ticket.
const ROUTE_START: usize = 6;

/// Where a message is published to, borrowed from the method frame's payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PublishView<'a> {
    /// Exchange and routing key as two short strings, as on the wire.
    pub route: &'a [u8],
    /// The exchange's name; empty is the default exchange.
    pub exchange: &'a str,
    /// The routing key.
    pub routing_key: &'a str,
    /// Whether the message is returned when nothing is routed to.
    pub mandatory: bool,
    /// Refused by RabbitMQ and by us.
    pub immediate: bool,
}

/// Whether a method frame's payload is a `basic.publish`.
#[inline]
pub fn is_publish(payload: &[u8]) -> bool {
    payload.first_chunk() == Some(&IDS)
}

impl<'a> PublishView<'a> {
    /// Reads a payload for which [`is_publish`] holds. Errors are those of [`Method::decode`].
    #[inline]
    pub fn parse(payload: &'a [u8]) -> Result<Self, DecodeError> {
        let Some((exchange_end, key_end)) = ends(payload) else { return Err(malformed(payload)) };
        let bits = payload[key_end];
        let text = |range| str::from_utf8(&payload[range]).map_err(|_| DecodeError::BadUtf8);
        Ok(Self {
            route: &payload[ROUTE_START..key_end],
            exchange: text(ROUTE_START + 1..exchange_end)?,
            routing_key: text(exchange_end + 1..key_end)?,
            mandatory: bits & 1 != 0,
            immediate: bits & 2 != 0,
        })
    }
}

/// Where exchange and routing key end, if exactly the octet of bits follows.
#[inline]
fn ends(payload: &[u8]) -> Option<(usize, usize)> {
    let exchange_end = ROUTE_START + 1 + usize::from(*payload.get(ROUTE_START)?);
    let key_end = exchange_end + 1 + usize::from(*payload.get(exchange_end)?);
    (payload.len() == key_end + 1).then_some((exchange_end, key_end))
}

/// What the full decoder says of a payload whose lengths do not fit.
#[cold]
fn malformed(payload: &[u8]) -> DecodeError {
    let cut = || DecodeError::Malformed { class: 60, method: 40, fields: Octets::new(payload) };
    Method::decode(payload).err().unwrap_or_else(cut)
}

/// Publishes to one place: the method frame is made once.
#[derive(Clone, Debug)]
pub struct PublishPrefix {
    channel: u16,
    frame: Box<[u8]>,
}

impl PublishPrefix {
    /// Prepares publishing on `channel` to that exchange with that routing key.
    pub fn new(channel: u16, exchange: &str, routing_key: &str, mandatory: bool) -> Self {
        let method = Method::BasicPublish { exchange, routing_key, mandatory, immediate: false };
        let mut frame = Vec::new();
        frame::write_frame_with(&mut frame, FrameKind::Method, channel, |out| method.encode_into(out));
        Self { channel, frame: frame.into() }
    }

    /// Appends method, header and body frames. `header` is a content header frame's payload whose body size is
    /// `body`'s; a body longer than `frame_max - 8` is split (0: never).
    #[inline]
    pub fn write(&self, out: &mut Vec<u8>, header: &[u8], body: &[u8], frame_max: u32) {
        out.reserve(self.frame.len() + content::bytes_hint(header, body));
        out.extend_from_slice(&self.frame);
        content::write_content(out, self.channel, header, body, frame_max);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_the_full_decoder(exchange in ".{0,20}", routing_key in ".{0,20}", bits in 0..4u8) {
            let (mandatory, immediate) = (bits & 1 != 0, bits & 2 != 0);
            let method = Method::BasicPublish { exchange: &exchange, routing_key: &routing_key, mandatory, immediate };
            let mut payload = Vec::new();
            method.encode_into(&mut payload);
            prop_assert!(is_publish(&payload));
            let view = PublishView::parse(&payload).unwrap();
            let seen = (view.exchange, view.routing_key, view.mandatory, view.immediate);
            prop_assert_eq!(seen, (&exchange[..], &routing_key[..], mandatory, immediate));
            prop_assert_eq!(view.route, &payload[6..payload.len() - 1]);
        }

        #[test]
        fn refuses_what_the_full_decoder_refuses(tail in prop::collection::vec(0..6u8, 0..16), bad in any::<u8>()) {
            let mut payload = [&IDS[..], &tail].concat();
            if let Some(last) = payload.get_mut(9) {
                *last = bad;
            }
            let view = PublishView::parse(&payload).map(|_| ());
            prop_assert_eq!(view, Method::decode(&payload).map(|_| ()));
        }
    }
}
