//! Exchange types.

use std::fmt;

use crate::errors::{self, Resource};
use crate::reply::ReplyError;

/// How an exchange routes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ExchangeKind {
    /// To the destinations bound with exactly the routing key.
    Direct,
    /// To all bound destinations.
    Fanout,
    /// To the destinations whose binding key, words with wildcards, matches the routing key.
    Topic,
    /// To the destinations whose binding arguments match the message's headers.
    Headers,
}

/// Types that RabbitMQ or its common plugins have and this broker does not have yet.
const NOT_SUPPORTED: [&str; 8] = [
    "x-consistent-hash",
    "x-delayed-message",
    "x-federation-upstream",
    "x-jms-topic",
    "x-local-random",
    "x-modulus-hash",
    "x-random",
    "x-recent-history",
];

impl ExchangeKind {
    /// Reads the type a client declares `exchange` with: 406 when it is unknown, 540 when it is only known to
    /// RabbitMQ.
    pub fn parse(kind: &str, exchange: Resource<'_>) -> Result<Self, ReplyError> {
        match kind {
            "direct" => Ok(Self::Direct),
            "fanout" => Ok(Self::Fanout),
            "topic" => Ok(Self::Topic),
            "headers" => Ok(Self::Headers),
            _ if NOT_SUPPORTED.contains(&kind) => Err(errors::exchange_type_not_supported(kind, exchange)),
            _ => Err(errors::unknown_exchange_type(kind)),
        }
    }

    /// The type's name in declarations and listings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Fanout => "fanout",
            Self::Topic => "topic",
            Self::Headers => "headers",
        }
    }
}

impl fmt::Display for ExchangeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        let e = Resource::exchange("/", "e");
        for kind in [ExchangeKind::Direct, ExchangeKind::Fanout, ExchangeKind::Topic, ExchangeKind::Headers] {
            assert_eq!(ExchangeKind::parse(kind.name(), e), Ok(kind));
        }
        assert_eq!(ExchangeKind::parse("Direct", e), Err(errors::unknown_exchange_type("Direct")));
        assert_eq!(
            ExchangeKind::parse("x-random", e),
            Err(errors::exchange_type_not_supported("x-random", e))
        );
    }
}
