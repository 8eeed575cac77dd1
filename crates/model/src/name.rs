//! Names of virtual hosts, exchanges, queues, users and consumers.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// A UTF-8 name of at most 255 bytes: what an AMQP short string can hold. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// The longest name in bytes: an AMQP short string has a one-byte length.
    pub const MAX_BYTES: usize = 255;

    /// Makes a name, or says how long the text was when it does not fit.
    pub fn new(text: &str) -> Result<Self, NameTooLong> {
        if text.len() > Self::MAX_BYTES {
            return Err(NameTooLong { bytes: text.len() });
        }
        Ok(Self(text.into()))
    }

    /// Makes a name of as much of the text as fits, cut at a character boundary.
    pub fn truncated(text: &str) -> Self {
        Self(text[..text.floor_char_boundary(Self::MAX_BYTES)].into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A name was longer than [`Name::MAX_BYTES`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a name has at most 255 bytes, got {bytes}")]
pub struct NameTooLong {
    /// How long it was.
    pub bytes: usize,
}

impl Deref for Name {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// A queue or exchange name as clients may send it in declarations and bindings, without the carriage returns and
/// line feeds that RabbitMQ ignores in them.
pub fn strip_cr_lf(name: &str) -> Cow<'_, str> {
    if name.contains(['\r', '\n']) { Cow::Owned(name.replace(['\r', '\n'], "")) } else { Cow::Borrowed(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_a_short_string_holds() {
        assert_eq!(Name::new(&"x".repeat(255)).unwrap().len(), 255);
        assert_eq!(Name::new(&"x".repeat(256)), Err(NameTooLong { bytes: 256 }));
    }

    #[test]
    fn truncates_at_a_character() {
        assert_eq!(Name::truncated("ab").as_str(), "ab");
        assert_eq!(Name::truncated(&"\u{e9}".repeat(200)).len(), 254);
    }

    #[test]
    fn line_ends_are_ignored() {
        assert_eq!(strip_cr_lf("a\r\nb\n"), "ab");
        assert!(matches!(strip_cr_lf("ab"), Cow::Borrowed("ab")));
    }
}
