//! `basic.ack` without a full decode: a consumer that acknowledges each message sends one per message, and a broker one
//! per confirm.
//!
//! ```text
//! 0 60 | 0 80 | delivery tag u64 | bits: 1 multiple
//! ```

/// An acknowledgement or a confirm.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ack {
    /// The delivery or the publish it is for.
    pub delivery_tag: u64,
    /// Whether all earlier ones are meant too.
    pub multiple: bool,
}

impl Ack {
    /// Reads a method frame's payload; `None` when it is not a whole `basic.ack`, which the full decoder then judges.
    #[inline]
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let &[0, 60, 0, 80, a, b, c, d, e, f, g, h, bits] = payload else { return None };
        Some(Self { delivery_tag: u64::from_be_bytes([a, b, c, d, e, f, g, h]), multiple: bits & 1 != 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::Method;

    #[test]
    fn agrees_with_the_method_table() {
        for (delivery_tag, multiple) in [(1, false), (u64::MAX, true)] {
            let mut payload = Vec::new();
            Method::BasicAck { delivery_tag, multiple }.encode_into(&mut payload);
            assert_eq!(Ack::parse(&payload), Some(Ack { delivery_tag, multiple }));
            assert_eq!(Ack::parse(&payload[..12]), None);
            payload[3] = 90;
            assert_eq!(Ack::parse(&payload), None);
        }
    }
}
