//! Octets as RabbitMQ prints them in error texts: an Erlang binary, `<<"abc">>` or `<<0,20>>`.

use std::fmt;

/// How many octets of a bad frame RabbitMQ shows.
const SNIPPET_BYTES: usize = 16;

/// How many octets of a bad method are kept. A reply text has at most 255 bytes, so more would not be seen.
const KEPT_BYTES: usize = 128;

/// The first octets of something malformed, kept for an error text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Octets {
    kept: Vec<u8>,
    all: bool,
}

impl Octets {
    /// Keeps the first 128 octets.
    pub fn new(bytes: &[u8]) -> Self {
        Self::cut(bytes, KEPT_BYTES)
    }

    /// Keeps the first 16 octets, as RabbitMQ does for frames.
    pub fn snippet(bytes: &[u8]) -> Self {
        Self::cut(bytes, SNIPPET_BYTES)
    }

    /// `all` when nothing was cut off, else `first 16`.
    pub fn extent(&self) -> &'static str {
        if self.all { "all" } else { "first 16" }
    }

    fn cut(bytes: &[u8], limit: usize) -> Self {
        Self { kept: bytes[..bytes.len().min(limit)].to_vec(), all: bytes.len() <= limit }
    }
}

impl fmt::Display for Octets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let printable = |b: &u8| matches!(b, b' '..=b'~' | b'\n' | b'\r' | b'\t');
        f.write_str("<<")?;
        if !self.kept.iter().all(printable) {
            for (i, b) in self.kept.iter().enumerate() {
                write!(f, "{}{b}", if i == 0 { "" } else { "," })?;
            }
        } else if !self.kept.is_empty() {
            f.write_str("\"")?;
            for &b in &self.kept {
                match b {
                    b'"' | b'\\' => write!(f, "\\{}", char::from(b))?,
                    b'\n' => f.write_str("\\n")?,
                    b'\r' => f.write_str("\\r")?,
                    b'\t' => f.write_str("\\t")?,
                    _ => write!(f, "{}", char::from(b))?,
                }
            }
            f.write_str("\"")?;
        }
        f.write_str(">>")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_erlang_does() {
        assert_eq!(Octets::new(b"").to_string(), "<<>>");
        assert_eq!(Octets::new(b"abc").to_string(), "<<\"abc\">>");
        assert_eq!(Octets::new(b"a\"\n").to_string(), "<<\"a\\\"\\n\">>");
        assert_eq!(Octets::new(&[0, 20, 97]).to_string(), "<<0,20,97>>");
        assert_eq!(Octets::snippet(&[1; 17]).extent(), "first 16");
        assert_eq!(Octets::snippet(&[1; 16]).extent(), "all");
    }
}
