//! What an operator does to a running broker: users, permissions, virtual hosts, queues and connections.
//!
//! Plain calls that block: passwords are hashed and definitions are waited for, so call them on a blocking thread, and
//! one changing call at a time, so that changes are kept in the order in which they were made. A changing call returns
//! when its outcome survives a restart. Knows nothing of sockets and of how results are shown; what is listed is in
//! [`crate::listings`].

use std::sync::Arc;

use posthouse_auth::authorities::{AuthError, Authorities};
use posthouse_auth::users::AuthChange;
use posthouse_model::errors;
use posthouse_model::name::Name;
use posthouse_model::policy::{InvalidPolicy, Policy, PolicyKind};
use posthouse_model::reply::ReplyError;
use posthouse_storage::StorageError;
use posthouse_storage::meta::MetaError;

use crate::broker::Broker;
use crate::declare::DeleteIf;
use crate::vhost::VirtualHost;
use crate::{deliver, records};

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// A user, password or pattern.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// A wrong password, or no login by password.
    #[error("user '{0}' cannot be authenticated with this password")]
    Refused(String),
    /// The virtual host does not exist.
    #[error("virtual host '{0}' does not exist")]
    NoSuchVhost(String),
    /// The virtual host exists already.
    #[error("virtual host '{0}' already exists")]
    VhostExists(String),
    /// The virtual host's name is empty or too long.
    #[error("expected a virtual host name of 1 to 255 bytes, got {0}")]
    InvalidVhostName(usize),
    /// The connection does not exist.
    #[error("connection '{0}' does not exist")]
    NoSuchConnection(String),
    /// Some connections were asked and said nothing.
    #[error("{0} connections did not answer in time")]
    NoAnswer(usize),
    /// A policy, parameter or limit.
    #[error("Validation failed: {0}")]
    Invalid(String),
    /// The policy, parameter or limit does not exist.
    #[error("Parameter does not exist")]
    NoSuchParameter,
    /// A client would have been answered so.
    #[error("{}", .0.text)]
    Reply(ReplyError),
    /// The change was made and cannot be kept.
    #[error("the change is made but not kept: {0}")]
    Meta(#[from] MetaError),
    /// The change was made and cannot be kept.
    #[error("the change is made but not kept: {0}")]
    Storage(#[from] StorageError),
}

impl From<InvalidPolicy> for AdminError {
    fn from(invalid: InvalidPolicy) -> Self {
        Self::Invalid(invalid.0)
    }
}

type Result<T> = std::result::Result<T, AdminError>;

/// Adds a user who may do nothing yet.
pub fn add_user(broker: &Broker, name: &str, password: &[u8]) -> Result<()> {
    change_auth(broker, |authorities| authorities.add_user(name, password))
}

/// Deletes a user with their permissions and closes their connections.
pub fn delete_user(broker: &Broker, name: &str) -> Result<()> {
    change_auth(broker, |authorities| authorities.delete_user(name))?;
    broker.connections().close(|info| info.user == name, &errors::user_deleted(name));
    Ok(())
}

/// Gives a user another password. Connections stay open.
pub fn change_password(broker: &Broker, name: &str, password: &[u8]) -> Result<()> {
    change_auth(broker, |authorities| authorities.change_password(name, password))
}

/// Lets a user no longer log in with a password.
pub fn clear_password(broker: &Broker, name: &str) -> Result<()> {
    change_auth(broker, |authorities| authorities.clear_password(name))
}

/// Checks a password as a login does.
pub fn authenticate_user(broker: &Broker, name: &str, password: &[u8]) -> Result<()> {
    let checked = broker.authorities().check_password(name, password);
    checked.map_err(|_| AdminError::Refused(name.to_owned()))
}

/// Replaces a user's tags.
pub fn set_user_tags(broker: &Broker, name: &str, tags: Vec<String>) -> Result<()> {
    change_auth(broker, |authorities| authorities.set_user_tags(name, tags))
}

/// Replaces a user's patterns in a virtual host: configure, write, read.
pub fn set_permissions(broker: &Broker, user: &str, vhost: &str, patterns: [&str; 3]) -> Result<()> {
    check_vhost(broker, vhost)?;
    let [configure, write, read] = patterns;
    change_auth(broker, |authorities| authorities.set_permissions(user, vhost, configure, write, read))
}

/// Takes a user's permissions in a virtual host away; missing ones are fine.
pub fn clear_permissions(broker: &Broker, user: &str, vhost: &str) -> Result<()> {
    check_vhost(broker, vhost)?;
    change_auth(broker, |authorities| authorities.clear_permissions(user, vhost))
}

/// Adds a virtual host in which nobody may do anything yet.
pub fn add_vhost(broker: &Broker, name: &str) -> Result<()> {
    let checked = Name::new(name).ok().filter(|name| !name.is_empty());
    let checked = checked.ok_or(AdminError::InvalidVhostName(name.len()))?;
    if !broker.add_vhost(&checked) {
        return Err(AdminError::VhostExists(name.to_owned()));
    }
    Ok(broker.store().meta().flush()?)
}

/// Deletes a virtual host with everything in it and closes its connections.
pub fn delete_vhost(broker: &Broker, name: &str) -> Result<()> {
    if !broker.delete_vhost(name) {
        return Err(AdminError::NoSuchVhost(name.to_owned()));
    }
    Ok(broker.store().meta().flush()?)
}

/// Adds a policy to a virtual host or replaces the one of that name, and applies it to what is there.
pub fn set_policy(broker: &Broker, vhost: &str, kind: PolicyKind, policy: Policy) -> Result<()> {
    let vhost = find_vhost(broker, vhost)?;
    let put = records::put_parameter(vhost.name(), kind.component(), &policy.name, &policy.to_value());
    vhost.change(|inner| {
        inner.policies.set(kind, policy)?;
        inner.apply_policies();
        // Under the lock, so that changes are kept in the order in which they were made.
        broker.keep(vec![put]);
        Ok::<(), InvalidPolicy>(())
    })?;
    Ok(broker.store().meta().flush()?)
}

/// Removes a policy, and its effect.
pub fn clear_policy(broker: &Broker, vhost: &str, kind: PolicyKind, name: &str) -> Result<()> {
    let vhost = find_vhost(broker, vhost)?;
    vhost.change(|inner| {
        if !inner.policies.clear(kind, name) {
            return Err(AdminError::NoSuchParameter);
        }
        inner.apply_policies();
        broker.keep(vec![records::delete_parameter(vhost.name(), kind.component(), name)]);
        Ok(())
    })?;
    Ok(broker.store().meta().flush()?)
}

/// Deletes a queue, an exclusive one too; the ready messages it had.
pub fn delete_queue(broker: &Broker, vhost: &str, name: &str, when: DeleteIf) -> Result<u64> {
    let vhost = find_vhost(broker, vhost)?;
    let queue = vhost.find_queue(name);
    let queue = queue.ok_or_else(|| AdminError::Reply(errors::no_queue(vhost.name(), name)))?;
    let messages = broker.remove_queue(&vhost, &queue, when).map_err(AdminError::Reply)?;
    broker.store().meta().flush()?;
    Ok(messages)
}

/// Deletes a queue's ready messages; how many they were.
pub fn purge_queue(broker: &Broker, vhost: &str, name: &str) -> Result<u64> {
    let vhost = find_vhost(broker, vhost)?;
    let queue = vhost.find_queue(name);
    let queue = queue.ok_or_else(|| AdminError::Reply(errors::no_queue(vhost.name(), name)))?;
    let messages = deliver::purge(broker, &queue);
    if let Some(wal) = broker.wal() {
        wal.sync()?;
    }
    Ok(messages)
}

/// Closes the connection of that name or number, and tells its client the reason.
pub fn close_connection(broker: &Broker, name: &str, reason: &str) -> Result<()> {
    let number = name.parse::<u64>().ok();
    let why = errors::closed_by_operator(reason);
    match broker.connections().close(|info| info.name == name || Some(info.id) == number, &why) {
        0 => Err(AdminError::NoSuchConnection(name.to_owned())),
        _ => Ok(()),
    }
}

/// Closes all connections, or those to a virtual host, and tells their clients the reason; how many they were.
pub fn close_all_connections(broker: &Broker, vhost: Option<&str>, reason: &str) -> Result<usize> {
    if let Some(vhost) = vhost {
        check_vhost(broker, vhost)?;
    }
    let why = errors::closed_by_operator(reason);
    Ok(broker.connections().close(|info| vhost.is_none_or(|vhost| info.vhost == vhost), &why))
}

/// Whether there is such a virtual host.
pub(crate) fn check_vhost(broker: &Broker, name: &str) -> Result<()> {
    find_vhost(broker, name).map(drop)
}

/// The virtual host of that name.
pub(crate) fn find_vhost(broker: &Broker, name: &str) -> Result<Arc<VirtualHost>> {
    broker.vhost(name).map_err(|_| AdminError::NoSuchVhost(name.to_owned()))
}

fn change_auth(
    broker: &Broker,
    change: impl FnOnce(&Authorities) -> std::result::Result<Vec<AuthChange>, AuthError>,
) -> Result<()> {
    let changes = change(broker.authorities())?;
    broker.keep_auth(&changes);
    Ok(broker.store().meta().flush()?)
}

#[cfg(test)]
mod tests;
