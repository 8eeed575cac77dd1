//! What a user may touch in a virtual host: three patterns on the names of queues and exchanges.
//!
//! A pattern is a regular expression that may match anywhere in the name; an empty one matches no name at all.
//! The default exchange is matched as `amq.default`. RabbitMQ's patterns are PCRE; look-around and
//! back-references, which cannot be matched in bounded time, are refused.

use std::sync::Arc;

use posthouse_model::errors::{self, Permission, Resource, ResourceKind};
use posthouse_model::name::Name;
use posthouse_model::reply::ReplyError;
use regex::{Regex, RegexBuilder};

use crate::topics::Topics;

/// Bytes a compiled pattern may take.
const PATTERN_SIZE_LIMIT: usize = 1 << 20;
/// Granted checks that a session remembers.
const CACHE_ENTRIES: usize = 16;
/// What the default exchange is called where patterns are matched.
const DEFAULT_EXCHANGE: &str = "amq.default";

/// A permission pattern that is no regular expression.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("expected a regular expression as {} pattern, got '{pattern}': {reason}", permission.name())]
pub struct InvalidPattern {
    /// Which of the three.
    pub permission: Permission,
    /// What was given.
    pub pattern: String,
    /// What is wrong with it, in one line.
    pub reason: String,
}

/// The three patterns of one user in one virtual host.
#[derive(Debug)]
pub struct Permissions {
    configure: Pattern,
    write: Pattern,
    read: Pattern,
}

/// A pattern on names.
#[derive(Debug)]
pub(crate) struct Pattern {
    text: String,
    /// `None` matches everything.
    regex: Option<Regex>,
}

impl Permissions {
    /// Compiles the three patterns.
    pub fn new(configure: &str, write: &str, read: &str) -> Result<Self, InvalidPattern> {
        Ok(Self {
            configure: Pattern::new(Permission::Configure, configure)?,
            write: Pattern::new(Permission::Write, write)?,
            read: Pattern::new(Permission::Read, read)?,
        })
    }

    /// The pattern as it was given.
    pub fn pattern(&self, permission: Permission) -> &str {
        &self.of(permission).text
    }

    /// Whether the permission covers the resource.
    pub fn allow(&self, permission: Permission, resource: Resource<'_>) -> bool {
        let default_exchange = resource.kind == ResourceKind::Exchange && resource.name.is_empty();
        let name = if default_exchange { DEFAULT_EXCHANGE } else { resource.name };
        self.of(permission).matches(name)
    }

    fn of(&self, permission: Permission) -> &Pattern {
        match permission {
            Permission::Configure => &self.configure,
            Permission::Write => &self.write,
            Permission::Read => &self.read,
        }
    }
}

impl Pattern {
    /// Whether a name matches.
    pub(crate) fn matches(&self, name: &str) -> bool {
        self.regex.as_ref().is_none_or(|regex| regex.is_match(name))
    }

    /// Compiles a pattern; an empty one matches the empty name only.
    pub(crate) fn new(permission: Permission, text: &str) -> Result<Self, InvalidPattern> {
        let regex = match text {
            ".*" | "^.*$" => None,
            _ => {
                let pattern = if text.is_empty() { "^$" } else { text };
                let built = RegexBuilder::new(pattern).size_limit(PATTERN_SIZE_LIMIT).build();
                Some(built.map_err(|error| {
                    let reason = error.to_string();
                    let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ");
                    InvalidPattern { permission, pattern: text.to_owned(), reason: reason.to_owned() }
                })?)
            }
        };
        Ok(Self { text: text.to_owned(), regex })
    }
}

/// What a user has in a virtual host.
#[derive(Clone, Debug, Default)]
pub(crate) struct Granted {
    /// Without any, everything is refused.
    pub(crate) permissions: Option<Arc<Permissions>>,
    /// None for no patterns on keys.
    pub(crate) topics: Option<Arc<Topics>>,
}

impl Granted {
    #[cfg(test)]
    fn plain(permissions: Permissions) -> Self {
        Self { permissions: Some(Arc::new(permissions)), topics: None }
    }
}

/// One session's view of its user's permissions in its virtual host, with the checks it was granted lately.
#[derive(Debug)]
pub struct Access {
    pub(crate) user: Name,
    pub(crate) vhost: Name,
    pub(crate) generation: u64,
    /// `None` when all were taken away since the session began.
    pub(crate) permissions: Option<Arc<Permissions>>,
    /// Patterns on keys of topic exchanges; nearly nobody has any.
    topics: Option<Arc<Topics>>,
    granted: Vec<(Permission, ResourceKind, String)>,
    /// The entry to be overwritten next.
    oldest: usize,
}

impl Access {
    pub(crate) fn new(user: Name, vhost: Name, generation: u64, granted: Granted) -> Self {
        let Granted { permissions, topics } = granted;
        Self { user, vhost, generation, permissions, topics, granted: Vec::new(), oldest: 0 }
    }

    /// The user.
    pub fn user(&self) -> &Name {
        &self.user
    }

    /// The virtual host.
    pub fn vhost(&self) -> &Name {
        &self.vhost
    }

    /// Checks a permission on a queue or exchange: 403 when it is refused.
    pub fn check(
        &mut self,
        permission: Permission,
        kind: ResourceKind,
        name: &str,
    ) -> Result<(), ReplyError> {
        let known =
            |(p, k, n): &(Permission, ResourceKind, String)| *p == permission && *k == kind && n == name;
        let permits_all = |permissions: &Arc<Permissions>| permissions.of(permission).regex.is_none();
        if self.permissions.as_ref().is_some_and(permits_all) || self.granted.iter().any(known) {
            return Ok(());
        }
        let resource = Resource { kind, vhost: &self.vhost, name };
        if !self.permissions.as_ref().is_some_and(|permissions| permissions.allow(permission, resource)) {
            return Err(errors::access_refused(permission, resource, &self.user));
        }
        self.remember(permission, kind, name);
        Ok(())
    }

    /// What is granted.
    pub(crate) fn into_granted(self) -> Granted {
        Granted { permissions: self.permissions, topics: self.topics }
    }

    /// Whether keys matter anywhere: without topic permissions [`Self::check_topic`] need not be asked.
    #[inline]
    pub fn has_topics(&self) -> bool {
        self.topics.is_some()
    }

    /// Checks a key published (write) or bound (read) in a topic exchange: 403 when it is refused. An exchange for which
    /// the user has no topic permissions is open.
    pub fn check_topic(&self, permission: Permission, exchange: &str, key: &str) -> Result<(), ReplyError> {
        match self.topics.as_ref().and_then(|topics| topics.get(exchange)) {
            Some(patterns) => {
                patterns.check(permission, key, Resource::exchange(&self.vhost, exchange), &self.user)
            }
            None => Ok(()),
        }
    }

    /// Checks with what is granted now.
    pub(crate) fn replace(&mut self, granted: Granted) {
        self.permissions = granted.permissions;
        self.topics = granted.topics;
        self.granted.clear();
        self.oldest = 0;
    }

    fn remember(&mut self, permission: Permission, kind: ResourceKind, name: &str) {
        if self.granted.len() < CACHE_ENTRIES {
            self.granted.push((permission, kind, name.to_owned()));
            return;
        }
        let entry = &mut self.granted[self.oldest];
        (entry.0, entry.1) = (permission, kind);
        entry.2.clear();
        entry.2.push_str(name);
        self.oldest = (self.oldest + 1) % CACHE_ENTRIES;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(pattern: &str, name: &str) -> bool {
        let permissions = Permissions::new(pattern, "", "").unwrap();
        permissions.allow(Permission::Configure, Resource::queue("/", name))
    }

    #[test]
    fn patterns_match_anywhere() {
        for (pattern, name, expected) in [
            (".*", "x", true),
            ("^.*$", "x", true),
            ("", "x", false),
            ("", "", true),
            ("^$", "x", false),
            ("b", "abc", true),
            ("^b", "abc", false),
            ("^(amq\\.gen.*|amq\\.default)$", "amq.gen-1", true),
            ("^(amq\\.gen.*|amq\\.default)$", "amq.direct", false),
        ] {
            assert_eq!(allows(pattern, name), expected, "{pattern:?} on {name:?}");
        }
    }

    #[test]
    fn the_default_exchange_has_a_name_here() {
        let permissions = Permissions::new("", "^amq\\.default$", "").unwrap();
        assert!(permissions.allow(Permission::Write, Resource::exchange("/", "")));
        assert!(!permissions.allow(Permission::Write, Resource::exchange("/", "amq.direct")));
        assert!(!permissions.allow(Permission::Read, Resource::exchange("/", "")));
    }

    #[test]
    fn bad_patterns_are_refused() {
        let error = Permissions::new("a", "(", "").unwrap_err();
        assert_eq!(
            error.to_string(),
            "expected a regular expression as write pattern, got '(': unclosed group"
        );
        assert!(Permissions::new("(?=a)", "", "").is_err());
        assert!(Permissions::new("((a{100}){100}){100}", "", "").is_err());
    }

    #[test]
    fn access_answers_with_the_text_of_the_table() {
        let granted = Granted::plain(Permissions::new("^c", "^w", "^r").unwrap());
        let mut access = Access::new(Name::truncated("lim"), Name::truncated("/"), 0, granted);
        assert_eq!(access.check(Permission::Write, ResourceKind::Exchange, "w1"), Ok(()));
        assert_eq!(
            access.check(Permission::Write, ResourceKind::Exchange, "").unwrap_err().text,
            "write access to exchange 'amq.default' in vhost '/' refused for user 'lim'"
        );
        assert_eq!(
            access.check(Permission::Configure, ResourceKind::Queue, "zz").unwrap_err().text,
            "configure access to queue 'zz' in vhost '/' refused for user 'lim'"
        );
    }

    #[test]
    fn the_cache_is_bounded_and_forgets_with_the_permissions() {
        let granted = Granted::plain(Permissions::new("", "", "^r").unwrap());
        let mut access = Access::new(Name::truncated("u"), Name::truncated("/"), 0, granted);
        for i in 0..3 * CACHE_ENTRIES {
            assert_eq!(access.check(Permission::Read, ResourceKind::Queue, &format!("r{i}")), Ok(()));
        }
        assert_eq!(access.granted.len(), CACHE_ENTRIES);
        assert!(access.check(Permission::Configure, ResourceKind::Queue, "r47").is_err());
        access.replace(Granted::plain(Permissions::new("", "", "^x").unwrap()));
        assert!(access.check(Permission::Read, ResourceKind::Queue, "r47").is_err());
    }
}
