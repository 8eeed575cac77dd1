//! Reading the responses of SASL mechanisms.

use std::fmt;

use posthouse_model::raw_table::{RawTable, RawValue};

/// The mechanisms that are offered, as `connection.start` lists them.
pub const OFFERED: &str = "PLAIN AMQPLAIN ANONYMOUS";

/// A way to log in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mechanism {
    /// `NUL user NUL password`
    Plain,
    /// A field table with LOGIN and PASSWORD, without its length.
    AmqPlain,
    /// No name and no password: the configured anonymous user.
    Anonymous,
    /// The name in the client's certificate; not possible yet.
    External,
}

/// A user name and a password. Printing it for debugging shows the name only.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Credentials<'a> {
    /// Who wants to log in.
    pub user: &'a str,
    /// With which password.
    pub password: &'a [u8],
}

impl Mechanism {
    /// The mechanism of that name.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "PLAIN" => Some(Self::Plain),
            "AMQPLAIN" => Some(Self::AmqPlain),
            "ANONYMOUS" => Some(Self::Anonymous),
            "EXTERNAL" => Some(Self::External),
            _ => None,
        }
    }
}

impl<'a> Credentials<'a> {
    /// Reads a PLAIN response: an authorisation identity, which must be empty or the user, the user, and the
    /// password, separated by NUL.
    pub fn from_plain(response: &'a [u8]) -> Option<Self> {
        let mut parts = response.split(|&byte| byte == 0);
        let (identity, user, password) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() || !identity.is_empty() && identity != user {
            return None;
        }
        Some(Self { user: str::from_utf8(user).ok()?, password })
    }

    /// Reads an AMQPLAIN response: the entries of a field table with the long strings LOGIN and PASSWORD.
    pub fn from_amqplain(response: &'a [u8]) -> Option<Self> {
        let table = RawTable::from_entries(response);
        match (table.get(b"LOGIN")?, table.get(b"PASSWORD")?) {
            (RawValue::LongStr(user), RawValue::LongStr(password)) => {
                Some(Self { user: str::from_utf8(user).ok()?, password })
            }
            _ => None,
        }
    }
}

impl fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({:?})", self.user)
    }
}

#[cfg(test)]
mod tests {
    use posthouse_model::field::{FieldTable, FieldValue};

    use super::*;

    #[test]
    fn plain() {
        let expected = Credentials { user: "u", password: b"p w" };
        assert_eq!(Credentials::from_plain(b"\0u\0p w"), Some(expected));
        assert_eq!(Credentials::from_plain(b"u\0u\0p w"), Some(expected));
        let blank = Credentials { user: "", password: b"" };
        assert_eq!(Credentials::from_plain(b"\0\0"), Some(blank));
        for malformed in [&b""[..], b"u", b"\0u", b"other\0u\0p", b"\0u\0p\0", b"\0\xff\0p"] {
            assert_eq!(Credentials::from_plain(malformed), None, "{malformed:?}");
        }
        assert_eq!(format!("{expected:?}"), "Credentials(\"u\")");
    }

    #[test]
    fn amqplain() {
        let response = |password| {
            let entries = vec![("LOGIN".into(), FieldValue::string("u")), ("PASSWORD".into(), password)];
            let mut bytes = Vec::new();
            FieldTable(entries).encode(&mut bytes);
            bytes.split_off(4)
        };
        let good = response(FieldValue::string("p"));
        assert_eq!(Credentials::from_amqplain(&good), Some(Credentials { user: "u", password: b"p" }));
        assert_eq!(Credentials::from_amqplain(&response(FieldValue::I32(1))), None);
        assert_eq!(Credentials::from_amqplain(&good[..good.len() - 1]), None);
        assert_eq!(Credentials::from_amqplain(b""), None);
    }
}
