//! Login mechanisms: what their responses say. Who may log in is decided elsewhere.
//!
//! ```text
//! PLAIN      NUL user NUL password          (no authorisation id)
//! AMQPLAIN   the entries of a field table, without its length: LOGIN and PASSWORD, both long strings
//! ANONYMOUS  anything                       EXTERNAL  anything: the identity is the transport's
//! ```

use std::fmt;

use posthouse_model::field::{FieldTable, FieldValue};
use posthouse_model::raw_table::{RawTable, RawValue};

/// A mechanism we know by name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mechanism {
    /// User and password in the clear.
    Plain,
    /// The same as a field table.
    AmqPlain,
    /// No credentials.
    Anonymous,
    /// Credentials of the transport, such as a client certificate.
    External,
}

impl Mechanism {
    /// The mechanism of that name, which is case-sensitive.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Plain, Self::AmqPlain, Self::Anonymous, Self::External].into_iter().find(|m| m.name() == name)
    }

    /// Its name in `connection.start` and `start-ok`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::AmqPlain => "AMQPLAIN",
            Self::Anonymous => "ANONYMOUS",
            Self::External => "EXTERNAL",
        }
    }

    /// Reads a response of this mechanism.
    pub fn read(self, response: &[u8]) -> Result<Login<'_>, SaslError> {
        match self {
            Self::Plain => plain(response).ok_or(SaslError::Plain),
            Self::AmqPlain => amqplain(response).ok_or(SaslError::AmqPlain),
            Self::Anonymous => Ok(Login::Anonymous),
            Self::External => Ok(Login::External),
        }
    }
}

/// What a client logs in with. Its debug form does not show the password.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Login<'a> {
    /// PLAIN and AMQPLAIN.
    Password {
        /// The user's name.
        user: &'a str,
        /// The password, which need not be text.
        password: &'a [u8],
    },
    /// ANONYMOUS.
    Anonymous,
    /// EXTERNAL.
    External,
}

impl fmt::Debug for Login<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password { user, .. } => write!(f, "Password {{ user: {user:?}, .. }}"),
            Self::Anonymous => f.write_str("Anonymous"),
            Self::External => f.write_str("External"),
        }
    }
}

/// A response that its mechanism cannot have. RabbitMQ logs it and closes the socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SaslError {
    /// Not of PLAIN's form.
    #[error("PLAIN response: expected NUL, user name, NUL, password")]
    Plain,
    /// Not of AMQPLAIN's form.
    #[error("AMQPLAIN response: expected a table with LOGIN and PASSWORD as long strings")]
    AmqPlain,
}

/// A PLAIN response.
pub fn plain_response(user: &str, password: &[u8]) -> Vec<u8> {
    [b"\0", user.as_bytes(), b"\0", password].concat()
}

/// An AMQPLAIN response.
pub fn amqplain_response(user: &str, password: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    FieldTable(vec![
        ("LOGIN".into(), FieldValue::string(user)),
        ("PASSWORD".into(), FieldValue::LongStr(password.to_vec())),
    ])
    .encode(&mut out);
    out.split_off(4)
}

fn plain(response: &[u8]) -> Option<Login<'_>> {
    let mut parts = response.split(|&b| b == 0);
    let (before, user, password) = (parts.next()?, parts.next()?, parts.next()?);
    if !before.is_empty() || parts.next().is_some() {
        return None;
    }
    Some(Login::Password { user: str::from_utf8(user).ok()?, password })
}

fn amqplain(response: &[u8]) -> Option<Login<'_>> {
    let mut entries = RawTable::from_entries(response).iter();
    let (mut user, mut password) = (None, None);
    while let Some((name, value)) = entries.next_entry().ok()? {
        match (name, value) {
            (b"LOGIN", RawValue::LongStr(bytes)) => user = user.or(Some(bytes)),
            (b"PASSWORD", RawValue::LongStr(bytes)) => password = password.or(Some(bytes)),
            _ => {}
        }
    }
    Some(Login::Password { user: str::from_utf8(user?).ok()?, password: password? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_its_own_responses() {
        let login = Login::Password { user: "u\u{e9}", password: b"p\xffw" };
        assert_eq!(Mechanism::Plain.read(&plain_response("u\u{e9}", b"p\xffw")), Ok(login));
        assert_eq!(Mechanism::AmqPlain.read(&amqplain_response("u\u{e9}", b"p\xffw")), Ok(login));
        assert_eq!(Mechanism::Anonymous.read(b"trace"), Ok(Login::Anonymous));
        assert!(!format!("{login:?}").contains("255"));
    }

    #[test]
    fn refuses_other_forms() {
        for response in [&b""[..], b"user", b"\0user", b"id\0user\0pass", b"\0u\0p\0", b"\0\xff\0p"] {
            assert_eq!(Mechanism::Plain.read(response), Err(SaslError::Plain), "{response:?}");
        }
        let whole = amqplain_response("u", b"p");
        for cut in 0..whole.len() {
            assert_eq!(Mechanism::AmqPlain.read(&whole[..cut]), Err(SaslError::AmqPlain));
        }
    }

    #[test]
    fn names_are_case_sensitive() {
        assert_eq!(Mechanism::from_name("AMQPLAIN"), Some(Mechanism::AmqPlain));
        assert_eq!(Mechanism::from_name("plain"), None);
    }
}
