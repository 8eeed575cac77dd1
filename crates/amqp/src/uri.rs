//! `amqp://user:password@host:port/vhost`: where and as whom the client role connects.
//!
//! User, password, host and vhost may be percent-encoded. What is left out is `guest`, `guest`, `localhost`, `5672` and
//! `/`; an IPv6 address is written in brackets.

use std::fmt;

/// The port of AMQP without TLS.
const DEFAULT_PORT: u16 = 5672;

/// A broker's address with credentials. Its debug form does not show the password.
#[derive(Clone, PartialEq, Eq)]
pub struct AmqpUri {
    /// Host name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// User name.
    pub user: String,
    /// Password.
    pub password: String,
    /// Virtual host.
    pub vhost: String,
}

/// Why a text is not an AMQP URI.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UriError {
    /// Another scheme, or none.
    #[error("expected amqp://..., got {0:?}")]
    Scheme(String),
    /// Not a port number.
    #[error("expected a port from 1 to 65535, got {0:?}")]
    Port(String),
    /// A percent sign without two hexadecimal digits, or bytes that are not UTF-8.
    #[error("expected percent-encoded UTF-8, got {0:?}")]
    Encoding(String),
    /// More than one path segment, a query or a fragment.
    #[error("expected one percent-encoded vhost after the host, got {0:?}")]
    Path(String),
    /// A bracket without its other half.
    #[error("expected an IPv6 address in brackets, got {0:?}")]
    Host(String),
}

impl Default for AmqpUri {
    fn default() -> Self {
        Self {
            host: "localhost".into(),
            port: DEFAULT_PORT,
            user: "guest".into(),
            password: "guest".into(),
            vhost: "/".into(),
        }
    }
}

impl fmt::Debug for AmqpUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "amqp://{}:***@{}:{} vhost {:?}", self.user, self.host, self.port, self.vhost)
    }
}

impl std::str::FromStr for AmqpUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let scheme_end = text.find("://").unwrap_or(0);
        if !text[..scheme_end].eq_ignore_ascii_case("amqp") {
            // What follows may hold a password.
            return Err(UriError::Scheme(text[..scheme_end].to_owned()));
        }
        let mut uri = Self::default();
        let rest = &text[scheme_end + 3..];
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, address) = authority.rsplit_once('@').unwrap_or(("", authority));
        if !login.is_empty() {
            let (user, password) = login.split_once(':').unwrap_or((login, ""));
            uri.user = decode(user)?;
            uri.password = decode(password)?;
        }
        uri.set_address(address)?;
        if path.contains(['/', '?', '#']) {
            return Err(UriError::Path(path.to_owned()));
        }
        if !path.is_empty() {
            uri.vhost = decode(path)?;
        }
        Ok(uri)
    }
}

impl AmqpUri {
    fn set_address(&mut self, address: &str) -> Result<(), UriError> {
        let bad_host = || UriError::Host(address.to_owned());
        let (host, port) = if let Some(rest) = address.strip_prefix('[') {
            let (host, after) = rest.split_once(']').ok_or_else(bad_host)?;
            match after.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if after.is_empty() => (host, None),
                None => return Err(bad_host()),
            }
        } else {
            match address.rsplit_once(':') {
                Some((host, _)) if host.contains(':') => return Err(bad_host()),
                Some((host, port)) => (host, Some(port)),
                None => (address, None),
            }
        };
        if !host.is_empty() {
            self.host = decode(host)?;
        }
        if let Some(port) = port.filter(|port| !port.is_empty()) {
            self.port =
                port.parse().ok().filter(|&p| p != 0).ok_or_else(|| UriError::Port(port.to_owned()))?;
        }
        Ok(())
    }
}

fn decode(text: &str) -> Result<String, UriError> {
    let bad = || UriError::Encoding(text.to_owned());
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    let hex = |digit: Option<u8>| digit.and_then(|d| char::from(d).to_digit(16)).ok_or_else(bad);
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let (high, low) = (hex(bytes.next())?, hex(bytes.next())?);
            out.push((high * 16 + low) as u8);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: (&str, u16, &str, &str, &str)) {
        let uri: AmqpUri = text.parse().unwrap();
        let (host, port, user, password, vhost) = expected;
        assert_eq!(
            (&*uri.host, uri.port, &*uri.user, &*uri.password, &*uri.vhost),
            (host, port, user, password, vhost)
        );
    }

    #[test]
    fn reads_all_parts() {
        check("amqp://", ("localhost", 5672, "guest", "guest", "/"));
        check("amqp://h:1/", ("h", 1, "guest", "guest", "/"));
        check("AMQP://u:p@h:1/v", ("h", 1, "u", "p", "v"));
        check("amqp://u%40x:p%3a%2F@h/%2f", ("h", 5672, "u@x", "p:/", "/"));
        check("amqp://u@[::1]:5673/a%20b", ("::1", 5673, "u", "", "a b"));
    }

    #[test]
    fn refuses_what_it_would_misread() {
        let error = |text: &str| text.parse::<AmqpUri>().unwrap_err().to_string();
        assert_eq!(error("amqps://h"), "expected amqp://..., got \"amqps\"");
        assert_eq!(error("h:5672"), "expected amqp://..., got \"\"");
        assert_eq!(error("amqp://h:0"), "expected a port from 1 to 65535, got \"0\"");
        assert_eq!(error("amqp://h/%2"), "expected percent-encoded UTF-8, got \"%2\"");
        assert_eq!(error("amqp://h/a/b"), "expected one percent-encoded vhost after the host, got \"a/b\"");
        assert_eq!(error("amqp://::1"), "expected an IPv6 address in brackets, got \"::1\"");
    }

    #[test]
    fn the_password_is_not_shown() {
        let uri: AmqpUri = "amqp://u:secret@h".parse().unwrap();
        assert!(!format!("{uri:?}").contains("secret"));
    }
}
