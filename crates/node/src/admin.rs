//! What an operator does to a running broker: users, permissions, virtual hosts, queues and connections.
//!
//! Plain calls that block: passwords are hashed and definitions are waited for, so call them on a blocking thread, and
//! one changing call at a time, so that changes are kept in the order in which they were made. A changing call returns
//! when its outcome survives a restart. Knows nothing of sockets and of how results are shown; what is listed is in
//! [`crate::listings`].

use std::sync::Arc;

use posthouse_auth::authorities::{AuthError, Authorities};
use posthouse_auth::users::AuthChange;
use posthouse_model::errors::{self, Resource};
use posthouse_model::limits::{InvalidLimits, UserLimits};
use posthouse_model::policy::InvalidPolicy;
use posthouse_model::reply::ReplyError;
use posthouse_storage::StorageError;
use posthouse_storage::meta::MetaError;

use crate::broker::Broker;
use crate::declare::DeleteIf;
use crate::definitions::DefinitionsError;
use crate::deliver;
use crate::events::Fields;
use crate::metadata::InvalidMetadata;
use crate::vhost::VirtualHost;

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
    /// The virtual host must not be deleted.
    #[error("virtual host '{0}' is protected from deletion; disable_vhost_deletion_protection lifts that")]
    ProtectedVhost(String),
    /// The virtual host's name is empty or too long.
    #[error("expected a virtual host name of 1 to 255 bytes, got {0}")]
    InvalidVhostName(usize),
    /// Messages are to go where they are.
    #[error("expected another queue than '{0}' to take its messages")]
    SameQueue(String),
    /// A queue cannot be of the type that it is to have: its name, the type, and why.
    #[error("queue '{0}' cannot become a {1} queue: {2}")]
    NotConvertible(String, &'static str, String),
    /// Messages are to leave a stream.
    #[error("the messages of stream '{0}' stay until its retention gives them up; they can be copied")]
    LeavesStream(String),
    /// The connection does not exist.
    #[error("connection '{0}' does not exist")]
    NoSuchConnection(String),
    /// The stream does not exist, or is a queue of another type.
    #[error("no stream '{stream}' in vhost '{vhost}'")]
    NoSuchStream {
        /// Its name.
        stream: String,
        /// Its virtual host.
        vhost: String,
    },
    /// A super stream that cannot be.
    #[error("{0}")]
    SuperStream(String),
    /// No message waits that has this identity.
    #[error("no scheduled message with id {id:016x} in vhost '{vhost}'")]
    NotScheduled {
        /// The identity.
        id: u64,
        /// The virtual host.
        vhost: String,
    },
    /// The stream has stored no offset for this name.
    #[error("no offset is stored for '{reference}' in stream '{stream}' in vhost '{vhost}'")]
    NoStoredOffset {
        /// The consumer's name.
        reference: String,
        /// The stream's name.
        stream: String,
        /// Its virtual host.
        vhost: String,
    },
    /// Some connections were asked and said nothing.
    #[error("{0} connections did not answer in time")]
    NoAnswer(usize),
    /// A policy, parameter or limit.
    #[error("Validation failed: {0}")]
    Invalid(String),
    /// The policy, parameter or limit does not exist.
    #[error("Parameter does not exist")]
    NoSuchParameter,
    /// A parameter's value.
    #[error("JSON decoding error. Reason: {0}")]
    NotJson(String),
    /// A policy is set or cleared as a parameter.
    #[error("policies may not be {0} using this method")]
    PolicyAsParameter(&'static str),
    /// Definitions that are imported.
    #[error(transparent)]
    Definitions(#[from] DefinitionsError),
    /// A client would have been answered so.
    #[error("{}", .0.text)]
    Reply(ReplyError),
    /// Messages cannot be read from their segment.
    #[error("messages cannot be read: {0}")]
    Unreadable(StorageError),
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

impl From<InvalidLimits> for AdminError {
    fn from(invalid: InvalidLimits) -> Self {
        Self::Invalid(invalid.0)
    }
}

impl From<InvalidMetadata> for AdminError {
    fn from(invalid: InvalidMetadata) -> Self {
        Self::Invalid(invalid.0)
    }
}

type Result<T> = std::result::Result<T, AdminError>;

/// Adds a user who may do nothing yet.
pub fn add_user(broker: &Broker, name: &str, password: &[u8]) -> Result<()> {
    change_auth(broker, |authorities| authorities.add_user(name, password))?;
    broker.events().emit("user.created", |fields| fields.text("name", name));
    Ok(())
}

/// Deletes a user with their permissions and closes their connections.
pub fn delete_user(broker: &Broker, name: &str) -> Result<()> {
    change_auth(broker, |authorities| authorities.delete_user(name))?;
    broker.connections().close(|info| info.user == name, &errors::user_deleted(name));
    broker.forget_account(name);
    broker.events().emit("user.deleted", |fields| fields.text("name", name));
    Ok(())
}

/// Gives a user another password. Connections stay open.
pub fn change_password(broker: &Broker, name: &str, password: &[u8]) -> Result<()> {
    change_auth(broker, |authorities| authorities.change_password(name, password))?;
    broker.events().emit("user.password.changed", |fields| fields.text("name", name));
    Ok(())
}

/// Lets a user no longer log in with a password.
pub fn clear_password(broker: &Broker, name: &str) -> Result<()> {
    change_auth(broker, |authorities| authorities.clear_password(name))?;
    broker.events().emit("user.password.cleared", |fields| fields.text("name", name));
    Ok(())
}

/// Checks a password as a login does.
pub fn authenticate_user(broker: &Broker, name: &str, password: &[u8]) -> Result<()> {
    let checked = broker.authorities().check_password(name, password);
    checked.map_err(|_| AdminError::Refused(name.to_owned()))
}

/// Replaces a user's tags.
pub fn set_user_tags(broker: &Broker, name: &str, tags: Vec<String>) -> Result<()> {
    change_auth(broker, |authorities| authorities.set_user_tags(name, tags.clone()))?;
    broker.events().emit("user.tags.set", |fields| fields.text("name", name).texts("tags", &tags));
    Ok(())
}

/// Replaces a user's patterns in a virtual host: configure, write, read.
pub fn set_permissions(broker: &Broker, user: &str, vhost: &str, patterns: [&str; 3]) -> Result<()> {
    check_vhost(broker, vhost)?;
    let [configure, write, read] = patterns;
    change_auth(broker, |authorities| authorities.set_permissions(user, vhost, configure, write, read))?;
    broker.events().emit("permission.created", |fields| {
        let fields = fields.text("user", user).text("vhost", vhost).text("configure", configure);
        fields.text("write", write).text("read", read)
    });
    Ok(())
}

/// Takes a user's permissions in a virtual host away; missing ones are fine.
pub fn clear_permissions(broker: &Broker, user: &str, vhost: &str) -> Result<()> {
    check_vhost(broker, vhost)?;
    change_auth(broker, |authorities| authorities.clear_permissions(user, vhost))?;
    broker.events().emit("permission.deleted", |fields| fields.text("user", user).text("vhost", vhost));
    Ok(())
}

/// Gives a user limits; those not named stay as they are.
pub fn set_user_limits(broker: &Broker, user: &str, limits: &UserLimits) -> Result<()> {
    let mut all = user_limits(broker, user)?;
    all.update(limits);
    change_auth(broker, |authorities| authorities.set_user_limits(user, all))?;
    let fields = |fields: Fields| fields.text("name", "limits").text("username", user);
    broker.events().emit("user.limits.set", |empty| fields(empty).limits(&limits.to_value()));
    Ok(())
}

/// Lifts a user's limit of that name, or with `all` every one.
pub fn clear_user_limits(broker: &Broker, user: &str, name: &str) -> Result<()> {
    let mut limits = user_limits(broker, user)?;
    limits.clear(name);
    change_auth(broker, |authorities| authorities.set_user_limits(user, limits))?;
    broker
        .events()
        .emit("user.limits.cleared", |fields| fields.text("name", "limits").text("username", user));
    Ok(())
}

fn user_limits(broker: &Broker, user: &str) -> Result<UserLimits> {
    let limits = broker.authorities().user_limits(user);
    limits.ok_or_else(|| AuthError::NoSuchUser(user.to_owned()).into())
}

/// Replaces a user's patterns on the keys of a topic exchange: write, read.
pub fn set_topic_permissions(
    broker: &Broker,
    user: &str,
    vhost: &str,
    exchange: &str,
    [write, read]: [&str; 2],
) -> Result<()> {
    check_vhost(broker, vhost)?;
    change_auth(broker, |authorities| authorities.set_topic_permissions(user, vhost, exchange, write, read))?;
    broker.events().emit("topic.permission.created", |fields| {
        let fields = fields.text("user", user).text("vhost", vhost).text("exchange", exchange);
        fields.text("write", write).text("read", read)
    });
    Ok(())
}

/// Takes a user's patterns on keys away, for one exchange or all of a virtual host; missing ones are fine.
pub fn clear_topic_permissions(
    broker: &Broker,
    user: &str,
    vhost: &str,
    exchange: Option<&str>,
) -> Result<()> {
    check_vhost(broker, vhost)?;
    change_auth(broker, |authorities| authorities.clear_topic_permissions(user, vhost, exchange))?;
    broker.events().emit("topic.permission.deleted", |fields| fields.text("user", user).text("vhost", vhost));
    Ok(())
}

/// Starts or stops the firehose of a virtual host: copies of what is published and delivered go to
/// `amq.rabbitmq.trace`. It is off again after a restart.
pub fn set_tracing(broker: &Broker, vhost: &str, on: bool) -> Result<()> {
    let vhost = broker.vhost(vhost).map_err(|_| AdminError::NoSuchVhost(vhost.to_owned()))?;
    vhost.set_traced(on);
    Ok(())
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
    if queue.is_stream {
        let stream = Resource::queue(vhost.name(), name);
        return Err(AdminError::Reply(errors::not_for_streams("queue.purge", stream)));
    }
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

mod parameters;
mod policies;
pub mod streams;
pub mod super_streams;
#[cfg(test)]
mod tests;
mod vhosts;

pub use parameters::{clear_global_parameter, clear_parameter, set_global_parameter, set_parameter};
pub(crate) use policies::put_policy;
pub use policies::{clear_policy, set_policy};
pub use vhosts::{add_vhost, clear_vhost_limits, delete_vhost, set_vhost_limits, update_vhost_metadata};
pub(crate) use vhosts::{put_metadata, put_vhost_limits};
