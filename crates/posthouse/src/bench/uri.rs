//! Broker addresses: `amqp://user:password@host:port/vhost`, parts percent-encoded and optional.

/// Where and as whom to connect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Uri {
    /// Name or address; an IPv6 address without brackets.
    pub(super) host: String,
    /// 5672 by default.
    pub(super) port: u16,
    /// `guest` by default.
    pub(super) user: String,
    /// `guest` by default.
    pub(super) password: String,
    /// `/` by default.
    pub(super) vhost: String,
}

impl std::str::FromStr for Uri {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected amqp://user:password@host:port/vhost";
        let rest = text.strip_prefix("amqp://").ok_or(EXPECTED)?;
        let (authority, vhost) = match rest.split_once('/') {
            Some((authority, vhost)) => (authority, decode(vhost)?),
            None => (rest, "/".to_owned()),
        };
        let (login, address) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) =
            login.split_once(':').unwrap_or((login, if login.is_empty() { "guest" } else { "" }));
        let (host, port) = match address.strip_prefix('[') {
            Some(v6) => v6.split_once(']').ok_or("expected ] after an IPv6 address")?,
            None => address.find(':').map_or((address, ""), |colon| address.split_at(colon)),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().map_err(|_| format!("expected a port, got {port:?}"))?,
            None if port.is_empty() => 5672,
            None => return Err(format!("expected :port, got {port:?}")),
        };
        let or = |text: String, default: &str| if text.is_empty() { default.to_owned() } else { text };
        Ok(Self {
            host: or(decode(host)?, "127.0.0.1"),
            port,
            user: or(decode(user)?, "guest"),
            password: decode(password)?,
            vhost: or(vhost, "/"),
        })
    }
}

fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let mut digit = || rest.next().and_then(|b| char::from(b).to_digit(16));
        bytes.push(match byte {
            b'%' => match (digit(), digit()) {
                (Some(high), Some(low)) => (high * 16 + low) as u8,
                _ => return Err(format!("expected two hexadecimal digits after % in {text:?}")),
            },
            other => other,
        });
    }
    String::from_utf8(bytes).map_err(|_| format!("expected UTF-8 after decoding {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> (String, u16, String, String, String) {
        let uri: Uri = text.parse().unwrap();
        (uri.host, uri.port, uri.user, uri.password, uri.vhost)
    }

    #[test]
    fn parts_and_defaults() {
        for (text, (host, port, user, password, vhost)) in [
            ("amqp://", ("127.0.0.1", 5672, "guest", "guest", "/")),
            ("amqp://h:1", ("h", 1, "guest", "guest", "/")),
            ("amqp://u:p%40@h/%2f", ("h", 5672, "u", "p@", "/")),
            ("amqp://u:@h/", ("h", 5672, "u", "", "/")),
            ("amqp://[::1]:7/v%20w", ("::1", 7, "guest", "guest", "v w")),
        ] {
            let expected = (host.into(), port, user.into(), password.into(), vhost.into());
            assert_eq!(parts(text), expected, "{text}");
        }
    }

    #[test]
    fn refusals() {
        for (text, expected) in [
            ("http://h", "expected amqp://user:password@host:port/vhost"),
            ("amqp://h:x", "expected a port, got \"x\""),
            ("amqp://[::1", "expected ] after an IPv6 address"),
            ("amqp://h/%2", "expected two hexadecimal digits after % in \"%2\""),
        ] {
            assert_eq!(text.parse::<Uri>().expect_err("must be refused"), expected);
        }
    }
}
