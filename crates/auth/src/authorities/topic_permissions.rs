//! What users may do with the keys of topic exchanges.

use std::sync::Arc;

use posthouse_model::name::Name;

use super::{AuthError, Authorities, checked_name};
use crate::permissions::InvalidPattern;
use crate::topics::{TopicPatterns, Topics};
use crate::users::{AuthChange, TopicPermissionRecord};

impl Authorities {
    /// Replaces a user's patterns on the keys of a topic exchange, in a virtual host which the caller knows to exist.
    pub fn set_topic_permissions(
        &self,
        user: &str,
        vhost: &str,
        exchange: &str,
        write: &str,
        read: &str,
    ) -> Result<Vec<AuthChange>, AuthError> {
        let (vhost, exchange) = (checked_name(vhost)?, checked_name(exchange)?);
        let patterns = Arc::new(TopicPatterns::new(user, &vhost, write, read)?);
        let mut users = self.write();
        let entry = users.get_mut(user).ok_or_else(|| AuthError::NoSuchUser(user.to_owned()))?;
        let record = topic_record(&entry.user.name, &vhost, &exchange, &patterns);
        let mut topics = entry.topics.get(&vhost).map(|known| Topics::clone(known)).unwrap_or_default();
        topics.insert(exchange, patterns);
        entry.topics.insert(vhost, Arc::new(topics));
        self.changed();
        Ok(vec![AuthChange::PutTopicPermissions(record)])
    }

    /// Takes a user's patterns on keys in a virtual host away: for one exchange, or all; missing ones are fine.
    pub fn clear_topic_permissions(
        &self,
        user: &str,
        vhost: &str,
        exchange: Option<&str>,
    ) -> Result<Vec<AuthChange>, AuthError> {
        let mut users = self.write();
        let entry = users.get_mut(user).ok_or_else(|| AuthError::NoSuchUser(user.to_owned()))?;
        let Some((vhost, known)) = entry.topics.remove_entry(vhost) else { return Ok(Vec::new()) };
        let mut kept = Topics::clone(&known);
        kept.retain(|name, _| exchange.is_some_and(|exchange| &**name != exchange));
        let gone = known.keys().filter(|name| !kept.contains_key(*name));
        let changes = gone.map(|name| delete_topic(&entry.user.name, &vhost, name)).collect();
        if !kept.is_empty() {
            entry.topics.insert(vhost, Arc::new(kept));
        }
        self.changed();
        Ok(changes)
    }

    /// All topic permissions by user, virtual host and exchange.
    pub fn topic_permissions(&self) -> Vec<TopicPermissionRecord> {
        let mut records = Vec::new();
        for entry in self.read().values() {
            for (vhost, topics) in &entry.topics {
                let of_one = topics.iter();
                records.extend(
                    of_one.map(|(exchange, patterns)| {
                        topic_record(&entry.user.name, vhost, exchange, patterns)
                    }),
                );
            }
        }
        records
    }
}

/// Checks two patterns on keys, as [`Authorities::set_topic_permissions`] does.
///
/// # Errors
/// When one is no regular expression.
pub fn check_topic_patterns(user: &str, vhost: &str, write: &str, read: &str) -> Result<(), InvalidPattern> {
    TopicPatterns::new(user, vhost, write, read).map(drop)
}

fn topic_record(
    user: &Name,
    vhost: &Name,
    exchange: &Name,
    patterns: &TopicPatterns,
) -> TopicPermissionRecord {
    TopicPermissionRecord {
        user: user.clone(),
        vhost: vhost.clone(),
        exchange: exchange.clone(),
        write: patterns.write.text.clone(),
        read: patterns.read.text.clone(),
    }
}

pub(super) fn delete_topic(user: &Name, vhost: &Name, exchange: &Name) -> AuthChange {
    AuthChange::DeleteTopicPermissions {
        user: user.clone(),
        vhost: vhost.clone(),
        exchange: exchange.clone(),
    }
}
