//! The eight octets a client sends before anything else.
//!
//! ```text
//! 'A' 'M' 'Q' 'P' | 0 0 9 1     AMQP 0-9-1 (1 1 0 9 is how 0-9 clients write it)
//!                 | 0 1 0 0     AMQP 1.0      3 1 0 0  AMQP 1.0 with SASL
//! ```

/// What a client of ours sends, and what anyone who speaks another protocol is answered before the socket is closed.
pub const AMQP_0_9_1: [u8; 8] = *b"AMQP\x00\x00\x09\x01";

/// What the first octets of a connection ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProtocolHeader {
    /// Fewer than eight octets so far, and all fit.
    Incomplete,
    /// AMQP 0-9-1, in either spelling.
    Amqp091,
    /// AMQP 1.0 without SASL.
    Amqp10,
    /// AMQP 1.0 with SASL.
    Amqp10Sasl,
    /// AMQP of a version we do not know.
    OtherVersion,
    /// Not AMQP at all, such as HTTP or TLS.
    NotAmqp,
}

impl ProtocolHeader {
    /// Octets it takes.
    pub const BYTES: usize = AMQP_0_9_1.len();

    /// Looks at what a client sent so far. What is not AMQP is known at its first wrong octet.
    pub fn detect(buf: &[u8]) -> Self {
        let name = &AMQP_0_9_1[..4];
        let seen = buf.len().min(name.len());
        if buf[..seen] != name[..seen] {
            return Self::NotAmqp;
        }
        match buf.get(4..Self::BYTES) {
            None => Self::Incomplete,
            Some([0, 0, 9, 1] | [1, 1, 0, 9]) => Self::Amqp091,
            Some([0, 1, 0, 0]) => Self::Amqp10,
            Some([3, 1, 0, 0]) => Self::Amqp10Sasl,
            Some(_) => Self::OtherVersion,
        }
    }

    /// What to send before closing when 0-9-1 is all that is spoken; `None` to go on.
    pub fn refusal(self) -> Option<[u8; 8]> {
        match self {
            Self::Incomplete | Self::Amqp091 => None,
            Self::Amqp10 | Self::Amqp10Sasl | Self::OtherVersion | Self::NotAmqp => Some(AMQP_0_9_1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_protocols_apart() {
        use ProtocolHeader::*;
        let rows: [(&[u8], ProtocolHeader); 9] = [
            (b"", Incomplete),
            (b"AMQP\0\0\x09", Incomplete),
            (b"AMQP\0\0\x09\x01", Amqp091),
            (b"AMQP\x01\x01\0\x09more", Amqp091),
            (b"AMQP\0\x01\0\0", Amqp10),
            (b"AMQP\x03\x01\0\0", Amqp10Sasl),
            (b"AMQP\0\0\x0a\0", OtherVersion),
            (b"GET / HTTP/1.1", NotAmqp),
            (b"AX", NotAmqp),
        ];
        for (bytes, expected) in rows {
            assert_eq!(ProtocolHeader::detect(bytes), expected, "{bytes:?}");
        }
        assert_eq!(Amqp091.refusal(), None);
        assert_eq!(NotAmqp.refusal(), Some(AMQP_0_9_1));
    }
}
