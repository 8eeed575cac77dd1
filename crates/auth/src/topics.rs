//! What a user may publish and bind in topic exchanges: patterns on routing keys, per exchange.
//!
//! An exchange without such patterns is open to whoever has the plain permissions. A pattern may name `{username}` and
//! `{vhost}`, which stand for the names as they are, not for patterns; they are filled in when the pattern is set.

use std::collections::BTreeMap;
use std::sync::Arc;

use posthouse_model::errors::{self, Permission, Resource};
use posthouse_model::name::Name;
use posthouse_model::reply::ReplyError;

use crate::permissions::{InvalidPattern, Pattern};

/// The patterns of one user in one virtual host, by exchange.
pub(crate) type Topics = BTreeMap<Name, Arc<TopicPatterns>>;

/// The two patterns of one exchange.
#[derive(Debug)]
pub(crate) struct TopicPatterns {
    /// Routing keys that may be published.
    pub(crate) write: TopicPattern,
    /// Binding keys that may be bound.
    pub(crate) read: TopicPattern,
}

/// A pattern on keys.
#[derive(Debug)]
pub(crate) struct TopicPattern {
    /// As it was given.
    pub(crate) text: String,
    filled: Pattern,
}

impl TopicPatterns {
    /// Compiles both.
    pub(crate) fn new(user: &str, vhost: &str, write: &str, read: &str) -> Result<Self, InvalidPattern> {
        let compile = |permission, text: &str| {
            let filled = text
                .replace("{username}", &regex::escape(user))
                .replace("{vhost}", &regex::escape(vhost))
                // Only MQTT clients have one: for others this matches nothing.
                .replace("{client_id}", r"[^\s\S]");
            Ok(TopicPattern { text: text.to_owned(), filled: Pattern::new(permission, &filled)? })
        };
        Ok(Self { write: compile(Permission::Write, write)?, read: compile(Permission::Read, read)? })
    }

    /// Refuses (403) a key that the user may not publish or bind.
    pub(crate) fn check(
        &self,
        permission: Permission,
        key: &str,
        exchange: Resource<'_>,
        user: &str,
    ) -> Result<(), ReplyError> {
        let pattern = if permission == Permission::Write { &self.write } else { &self.read };
        if pattern.filled.matches(key) {
            return Ok(());
        }
        Err(errors::topic_access_refused(permission, key, exchange, user))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(write: &str, key: &str) -> bool {
        let patterns = TopicPatterns::new("a.b", "/", write, "").unwrap();
        patterns.check(Permission::Write, key, Resource::exchange("/", "e"), "a.b").is_ok()
    }

    #[test]
    fn variables_stand_for_names() {
        for (pattern, key, expected) in [
            ("^{username}\\.", "a.b.x", true),
            ("^{username}\\.", "aXb.x", false),
            ("^{vhost}$", "/", true),
            ("{client_id}", "{client_id}", false),
            ("", "", true),
            ("", "x", false),
            (".*", "x", true),
        ] {
            assert_eq!(allows(pattern, key), expected, "{pattern} {key}");
        }
    }

    #[test]
    fn refusals_name_the_key() {
        let patterns = TopicPatterns::new("u", "/", ".*", "^r").unwrap();
        let exchange = Resource::exchange("/", "amq.topic");
        assert_eq!(patterns.check(Permission::Read, "r1", exchange, "u"), Ok(()));
        assert_eq!(
            patterns.check(Permission::Read, "zzz", exchange, "u").unwrap_err().text,
            "read access to topic 'zzz' in exchange 'amq.topic' in vhost '/' refused for user 'u'"
        );
        assert!(TopicPatterns::new("u", "/", "(", "").is_err());
    }
}
