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
    /// To one bound destination, chosen by a hash of the routing key, a header or a property, in proportion to
    /// weights.
    ConsistentHash,
    /// To one binding, chosen by a hash of the routing key modulo the number of bindings.
    ModulusHash,
    /// To one bound destination, by chance.
    Random,
    /// To one bound queue of the node that the publisher is connected to, by chance.
    LocalRandom,
    /// To all bound destinations; the last messages are kept, and given to what is bound later.
    RecentHistory,
    /// To all bound destinations, unless a message with the same `x-deduplication-header` came before.
    Deduplication,
    /// To the destinations whose binding's selector selects the message, whatever its key.
    JmsTopic,
    /// As the type that the argument `x-delayed-type` names.
    DelayedMessage,
}

/// Types that RabbitMQ or its common plugins have and this broker does not have yet.
const NOT_SUPPORTED: [&str; 1] = ["x-federation-upstream"];

impl ExchangeKind {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Direct,
        Self::Fanout,
        Self::Topic,
        Self::Headers,
        Self::ConsistentHash,
        Self::ModulusHash,
        Self::Random,
        Self::LocalRandom,
        Self::RecentHistory,
        Self::Deduplication,
        Self::JmsTopic,
        Self::DelayedMessage,
    ];

    /// Reads the type a client declares `exchange` with: 406 when it is unknown, 540 when it is only known to
    /// RabbitMQ.
    pub fn parse(kind: &str, exchange: Resource<'_>) -> Result<Self, ReplyError> {
        match Self::ALL.into_iter().find(|known| known.name() == kind) {
            Some(known) => Ok(known),
            None if NOT_SUPPORTED.contains(&kind) => Err(errors::exchange_type_not_supported(kind, exchange)),
            None => Err(errors::unknown_exchange_type(kind)),
        }
    }

    /// The type's name in declarations and listings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Fanout => "fanout",
            Self::Topic => "topic",
            Self::Headers => "headers",
            Self::ConsistentHash => "x-consistent-hash",
            Self::ModulusHash => "x-modulus-hash",
            Self::Random => "x-random",
            Self::LocalRandom => "x-local-random",
            Self::RecentHistory => "x-recent-history",
            Self::Deduplication => "x-message-deduplication",
            Self::JmsTopic => "x-jms-topic",
            Self::DelayedMessage => "x-delayed-message",
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
        for kind in ExchangeKind::ALL {
            assert_eq!(ExchangeKind::parse(kind.name(), e), Ok(kind));
        }
        assert_eq!(ExchangeKind::parse("Direct", e), Err(errors::unknown_exchange_type("Direct")));
        assert_eq!(
            ExchangeKind::parse("x-federation-upstream", e),
            Err(errors::exchange_type_not_supported("x-federation-upstream", e))
        );
    }
}
