//! Rows of users and of what they may do.

use posthouse_auth::authorities::AuthError;
use posthouse_model::limits::UserLimits;
use serde::Serialize;

use super::Result;
use crate::admin;
use crate::broker::Broker;

/// A user.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct UserRow {
    /// Name.
    pub user: String,
    /// Tags.
    pub tags: Vec<String>,
}

/// Permissions of a user in a virtual host.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct PermissionRow {
    /// Whose.
    pub user: String,
    /// Where.
    pub vhost: String,
    /// Pattern of what may be declared and deleted.
    pub configure: String,
    /// Pattern of what may be written to.
    pub write: String,
    /// Pattern of what may be read from.
    pub read: String,
}

/// Limits of a user.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct UserLimitsRow {
    /// Name.
    pub user: String,
    /// Limits, as JSON text.
    pub limits: String,
    /// Bytes that queues hold of what the user published, where that is limited.
    pub stored_bytes: u64,
}

/// Patterns on keys of a user in a topic exchange.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct TopicPermissionRow {
    /// Whose.
    pub user: String,
    /// Where.
    pub vhost: String,
    /// In which exchange.
    pub exchange: String,
    /// Pattern of keys that may be published.
    pub write: String,
    /// Pattern of keys that may be bound.
    pub read: String,
}

/// All users.
pub fn users(broker: &Broker) -> Vec<UserRow> {
    let users = broker.authorities().users().into_iter();
    users.map(|user| UserRow { user: user.name.to_string(), tags: user.tags }).collect()
}

/// Permissions of everybody in a virtual host.
pub fn permissions(broker: &Broker, vhost: &str) -> Result<Vec<PermissionRow>> {
    admin::check_vhost(broker, vhost)?;
    Ok(permission_rows(broker, |row| row.vhost == vhost))
}

/// Permissions of a user everywhere.
pub fn user_permissions(broker: &Broker, user: &str) -> Result<Vec<PermissionRow>> {
    if broker.authorities().identity(user).is_none() {
        return Err(AuthError::NoSuchUser(user.to_owned()).into());
    }
    Ok(permission_rows(broker, |row| row.user == user))
}

fn permission_rows(broker: &Broker, which: impl Fn(&PermissionRow) -> bool) -> Vec<PermissionRow> {
    let records = broker.authorities().permissions().into_iter();
    let rows = records.map(|record| PermissionRow {
        user: record.user.to_string(),
        vhost: record.vhost.to_string(),
        configure: record.configure,
        write: record.write,
        read: record.read,
    });
    rows.filter(which).collect()
}

/// Limits of all users that have any.
pub fn user_limits(broker: &Broker) -> Vec<UserLimitsRow> {
    let rows = broker.authorities().users().into_iter().filter(|user| user.limits != UserLimits::default());
    let rows = rows.map(|user| UserLimitsRow {
        user: user.name.to_string(),
        limits: user.limits.to_value().to_string(),
        stored_bytes: broker.user_account(&user.name).stored_bytes(),
    });
    rows.collect()
}

/// Patterns on keys of everybody in a virtual host.
pub fn topic_permissions(broker: &Broker, vhost: &str) -> Result<Vec<TopicPermissionRow>> {
    admin::check_vhost(broker, vhost)?;
    Ok(topic_rows(broker, |row| row.vhost == vhost))
}

/// Patterns on keys of a user everywhere.
pub fn user_topic_permissions(broker: &Broker, user: &str) -> Result<Vec<TopicPermissionRow>> {
    if broker.authorities().identity(user).is_none() {
        return Err(AuthError::NoSuchUser(user.to_owned()).into());
    }
    Ok(topic_rows(broker, |row| row.user == user))
}

fn topic_rows(broker: &Broker, which: impl Fn(&TopicPermissionRow) -> bool) -> Vec<TopicPermissionRow> {
    let rows = broker.authorities().topic_permissions().into_iter().map(|record| TopicPermissionRow {
        user: record.user.to_string(),
        vhost: record.vhost.to_string(),
        exchange: record.exchange.to_string(),
        write: record.write,
        read: record.read,
    });
    rows.filter(which).collect()
}
