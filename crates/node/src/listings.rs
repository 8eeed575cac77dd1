//! What an operator sees of a running broker: one row per user, queue, connection and so on.
//!
//! The fields of a row are RabbitMQ's column names where it has them; `serde` turns a row into an object of them.
//! Counts are read one queue after the other, so the rows of a busy broker need not add up.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use posthouse_model::args::QueueKind;
use posthouse_model::durability::Durability;
use posthouse_model::field::{FieldTable, FieldValue};
use posthouse_model::limits::UserLimits;
use posthouse_model::name::Name;
use posthouse_model::policy::{Definition, PolicyKind};
use posthouse_queue::topology::DestinationName;
use posthouse_storage::segment::Class;
use serde::Serialize;
use serde_json::Value;

use crate::admin::{self, AdminError};
use crate::broker::Broker;
use crate::connections::{ConnectionInfo, ConnectionState};
use crate::policies::AppliedPolicy;
use crate::queue_handle::QueueHandle;
use crate::residency;
use crate::vhost::REPLY_QUEUE_PREFIX;
use crate::waker::ConsumerWaker;

pub use parameters::{GlobalParameterRow, ParameterRow, global_parameters, parameters};
pub use sessions::{ChannelRow, ConsumerRow, channels, consumers};

mod parameters;
mod sessions;

type Result<T> = std::result::Result<T, AdminError>;

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

/// A virtual host.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct VhostRow {
    /// Name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Labels.
    pub tags: Vec<String>,
    /// The type of queues declared without one.
    pub default_queue_type: &'static str,
    /// Whether it refuses to be deleted.
    pub protected_from_deletion: bool,
    /// Whether the firehose is on.
    pub tracing: bool,
}

/// Limits of a virtual host.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct VhostLimitsRow {
    /// Name.
    pub vhost: String,
    /// Limits, as JSON text.
    pub limits: String,
}

/// Limits of a user.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct UserLimitsRow {
    /// Name.
    pub user: String,
    /// Limits, as JSON text.
    pub limits: String,
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

/// A queue.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct QueueRow {
    /// Name.
    pub name: String,
    /// Survives a restart.
    pub durable: bool,
    /// What it promises for persistent messages: `sync`, `relaxed` or `memory`.
    pub durability: &'static str,
    /// Deleted with its last consumer.
    pub auto_delete: bool,
    /// Belongs to one connection.
    pub exclusive: bool,
    /// As declared.
    pub arguments: Value,
    /// What policies say to it.
    #[serde(flatten)]
    pub policies: AppliedColumns,
    /// Ready and unacknowledged.
    pub messages: u64,
    /// Waiting for a consumer.
    pub messages_ready: u64,
    /// Handed out, not yet acknowledged.
    pub messages_unacknowledged: u64,
    /// Consumers.
    pub consumers: usize,
    /// Bytes of memory that its messages take, and what is known of those on disk.
    pub memory: usize,
    /// `classic`, `quorum` or `stream`
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// `flow` while publishers wait for its consumers or for the disk, else `running`
    pub state: &'static str,
    /// Where.
    pub vhost: String,
    /// Name of the connection it belongs to, or empty.
    pub owner_connection: String,
    /// The tag of the single active consumer, or empty.
    pub single_active_consumer_tag: String,
    /// The `pid` of its channel, or empty.
    pub single_active_consumer_pid: String,
    /// Messages that arrived since the start.
    pub messages_published: u64,
    /// Messages handed out since the start, again or for the first time.
    pub messages_delivered: u64,
    /// Messages handed out again since the start.
    pub messages_redelivered: u64,
    /// Messages acknowledged since the start.
    pub messages_acknowledged: u64,
    /// Messages that left for want of room since the start.
    pub messages_maxlen: u64,
    /// Messages that expired since the start.
    pub messages_expired: u64,
    /// Messages that were rejected and not requeued since the start.
    pub messages_rejected: u64,
    /// Messages on their way to where dead letters go, or waiting for a place there.
    pub messages_dlx: u64,
    /// Messages that left since the start because they came back too often.
    pub messages_delivery_limit: u64,
    /// Messages that left because they were there already, since the start.
    pub messages_duplicate: u64,
}

/// An exchange.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ExchangeRow {
    /// Name, empty for the default one.
    pub name: String,
    /// `direct`, `fanout`, `headers` or `topic`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Survives a restart.
    pub durable: bool,
    /// Deleted with its last binding.
    pub auto_delete: bool,
    /// Not for publishers.
    pub internal: bool,
    /// As declared.
    pub arguments: Value,
    /// What policies say to it.
    #[serde(flatten)]
    pub policies: AppliedColumns,
    /// Where.
    pub vhost: String,
}

/// What policies say to a queue or an exchange.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct AppliedColumns {
    /// Name of the policy that applies, or empty.
    pub policy: String,
    /// Name of the operator policy that applies, or empty.
    pub operator_policy: String,
    /// What both say together.
    pub effective_policy_definition: Definition,
}

impl AppliedColumns {
    fn of(applied: Option<&AppliedPolicy>) -> Self {
        let Some(applied) = applied else { return Self::default() };
        let text = |name: &Option<Name>| name.as_ref().map(Name::to_string).unwrap_or_default();
        Self {
            policy: text(&applied.policy),
            operator_policy: text(&applied.operator_policy),
            effective_policy_definition: applied.definition.clone(),
        }
    }
}

/// A policy or an operator policy.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct PolicyRow {
    /// Where.
    pub vhost: String,
    /// Name.
    pub name: String,
    /// Pattern of names.
    pub pattern: String,
    /// `all`, `queues` and so on.
    #[serde(rename = "apply-to")]
    pub apply_to: &'static str,
    /// What it says, as JSON text.
    pub definition: String,
    /// The highest one that matches applies.
    pub priority: i64,
}

/// A binding.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct BindingRow {
    /// Exchange it leads from.
    pub source_name: String,
    /// `exchange`
    pub source_kind: &'static str,
    /// Queue or exchange it leads to.
    pub destination_name: String,
    /// `queue` or `exchange`
    pub destination_kind: &'static str,
    /// Binding key.
    pub routing_key: String,
    /// As bound.
    pub arguments: Value,
    /// Where.
    pub vhost: String,
}

/// A connection.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ConnectionRow {
    /// `PEER -> LOCAL`
    pub name: String,
    /// Who logged in.
    pub user: String,
    /// Where to.
    pub vhost: String,
    /// `running`, `flow`, `blocking`, `blocked` or `throttled`.
    pub state: &'static str,
    /// The client's address.
    pub peer_host: String,
    /// The client's port.
    pub peer_port: u16,
    /// The broker's address.
    pub host: String,
    /// The broker's port.
    pub port: u16,
    /// Open channels.
    pub channels: u32,
    /// Such as `AMQP 0-9-1`.
    pub protocol: &'static str,
    /// Milliseconds since the Unix epoch.
    pub connected_at: u64,
    /// What the client says of itself.
    pub client_properties: Value,
    /// Its number, unique while the broker runs.
    pub pid: u64,
}

/// What a broker as a whole is doing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Totals {
    /// Virtual hosts.
    pub vhosts: usize,
    /// Users.
    pub users: usize,
    /// Connections.
    pub connections: usize,
    /// Channels of all connections.
    pub channels: u64,
    /// Queues.
    pub queues: usize,
    /// Consumers.
    pub consumers: usize,
    /// Ready messages.
    pub messages_ready: u64,
    /// Handed out, not yet acknowledged.
    pub messages_unacknowledged: u64,
    /// Bytes of memory that messages take.
    pub message_memory_bytes: usize,
    /// Bytes from which on queues keep little in memory.
    pub memory_budget_bytes: usize,
    /// Bytes from which on publishers are held back.
    pub memory_watermark_bytes: usize,
    /// Why publishers are held back, such as `low on memory`; none when they are not.
    pub alarm: Option<&'static str>,
    /// Free bytes on the data directory's disk; none without one.
    pub disk_free_bytes: Option<u64>,
    /// Bytes of the log's files; none without a log.
    pub log_bytes: Option<u64>,
    /// Bytes of the files that hold messages for long; none without a log.
    pub segment_bytes: Option<u64>,
    /// Bytes of those that are still needed.
    pub segment_live_bytes: Option<u64>,
    /// Bytes of the files that hold what does not fit into memory and need not survive.
    pub spill_bytes: Option<u64>,
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
        return Err(posthouse_auth::authorities::AuthError::NoSuchUser(user.to_owned()).into());
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

/// All virtual hosts.
pub fn vhosts(broker: &Broker) -> Vec<VhostRow> {
    let vhosts = broker.vhosts();
    let rows = vhosts.iter().map(|vhost| {
        let metadata = vhost.metadata();
        VhostRow {
            name: vhost.name().to_string(),
            description: metadata.description,
            tags: metadata.tags,
            default_queue_type: metadata.default_queue_type.map_or("", QueueKind::name),
            protected_from_deletion: metadata.protected_from_deletion,
            tracing: vhost.is_traced(),
        }
    });
    rows.collect()
}

/// Limits of all virtual hosts that have any.
pub fn vhost_limits(broker: &Broker) -> Vec<VhostLimitsRow> {
    let limited = broker.vhosts().into_iter().map(|vhost| (vhost.name().to_string(), vhost.limits()));
    let rows = limited.filter(|(_, limits)| !limits.is_empty());
    rows.map(|(vhost, limits)| VhostLimitsRow { vhost, limits: limits.to_value().to_string() }).collect()
}

/// Limits of all users that have any.
pub fn user_limits(broker: &Broker) -> Vec<UserLimitsRow> {
    let rows = broker.authorities().users().into_iter().filter(|user| user.limits != UserLimits::default());
    rows.map(|user| UserLimitsRow { user: user.name.to_string(), limits: user.limits.to_value().to_string() })
        .collect()
}

/// Patterns on keys of everybody in a virtual host.
pub fn topic_permissions(broker: &Broker, vhost: &str) -> Result<Vec<TopicPermissionRow>> {
    admin::check_vhost(broker, vhost)?;
    Ok(topic_rows(broker, |row| row.vhost == vhost))
}

/// Patterns on keys of a user everywhere.
pub fn user_topic_permissions(broker: &Broker, user: &str) -> Result<Vec<TopicPermissionRow>> {
    if broker.authorities().identity(user).is_none() {
        return Err(posthouse_auth::authorities::AuthError::NoSuchUser(user.to_owned()).into());
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

/// All queues of a virtual host.
pub fn queues(broker: &Broker, vhost: &str) -> Result<Vec<QueueRow>> {
    let connections = broker.connections().list();
    Ok(admin::find_vhost(broker, vhost)?
        .queues()
        .iter()
        .map(|queue| queue_row(broker, queue, &connections))
        .collect())
}

fn queue_row(broker: &Broker, queue: &QueueHandle, connections: &[Arc<ConnectionInfo>]) -> QueueRow {
    let definition = &queue.definition;
    let owner = definition.owner.and_then(|id| connections.iter().find(|info| info.id == id));
    let mut state = queue.lock();
    let is_paced = residency::is_paced(&mut state);
    let (ready, unacked) = (state.machine.ready(), state.machine.unacked());
    let active = state.machine.roster().active_waker();
    // Without a log nothing is kept, whatever the queue was declared as.
    let durability = broker.wal().map_or(Durability::Memory, |_| queue.durability(&state));
    QueueRow {
        name: definition.name.to_string(),
        durable: definition.durable,
        durability: durability.name(),
        auto_delete: definition.auto_delete,
        exclusive: definition.owner.is_some(),
        arguments: table_value(&definition.arguments),
        policies: AppliedColumns::of(state.policy.as_deref()),
        messages: ready + unacked,
        messages_ready: ready,
        messages_unacknowledged: unacked,
        consumers: state.machine.roster().len(),
        memory: state.machine.memory_bytes() + state.machine.descriptor_bytes(),
        kind: queue.kind.name(),
        state: if is_paced { "flow" } else { "running" },
        vhost: definition.vhost.to_string(),
        owner_connection: owner.map(|info| info.name.clone()).unwrap_or_default(),
        single_active_consumer_tag: active.map(|consumer| consumer.tag().to_owned()).unwrap_or_default(),
        single_active_consumer_pid: active.and_then(|c| consumer_pid(c, connections)).unwrap_or_default(),
        messages_published: state.counters.published,
        messages_delivered: state.counters.delivered,
        messages_redelivered: state.counters.redelivered,
        messages_acknowledged: state.counters.acknowledged,
        messages_maxlen: state.machine.departure_counts().max_length,
        messages_expired: state.machine.departure_counts().expired,
        messages_rejected: state.machine.departure_counts().rejected,
        messages_dlx: state.machine.leaving(),
        messages_delivery_limit: state.machine.departure_counts().delivery_limit,
        messages_duplicate: state.machine.departure_counts().duplicate,
    }
}

/// The `pid` of a consumer's channel; none when its connection has just ended.
fn consumer_pid(consumer: &ConsumerWaker, connections: &[Arc<ConnectionInfo>]) -> Option<String> {
    let connection = connections.iter().find(|info| Arc::ptr_eq(&info.waker, consumer.session()))?;
    Some(sessions::channel_pid(connection, consumer.channel()))
}

/// All exchanges of a virtual host.
pub fn exchanges(broker: &Broker, vhost: &str) -> Result<Vec<ExchangeRow>> {
    let vhost = admin::find_vhost(broker, vhost)?;
    Ok(vhost.look(|inner| {
        let records = inner.topology.exchanges().into_iter();
        let rows = records.map(|record| ExchangeRow {
            name: record.name.to_string(),
            kind: record.kind.name(),
            durable: record.durable,
            auto_delete: record.auto_delete,
            internal: record.internal,
            arguments: table_value(&record.arguments),
            policies: AppliedColumns::of(inner.exchange_policy(&record.name).as_ref()),
            vhost: vhost.name().to_string(),
        });
        rows.collect()
    }))
}

/// All policies of a kind in a virtual host, in the order in which they are tried.
pub fn policies(broker: &Broker, vhost: &str, kind: PolicyKind) -> Result<Vec<PolicyRow>> {
    let vhost = admin::find_vhost(broker, vhost)?;
    Ok(vhost.look(|inner| {
        let rows = inner.policies.list(kind).map(|policy| PolicyRow {
            vhost: vhost.name().to_string(),
            name: policy.name.to_string(),
            pattern: policy.pattern.clone(),
            apply_to: policy.apply_to.name(),
            definition: Value::Object(policy.definition.clone()).to_string(),
            priority: policy.priority,
        });
        rows.collect()
    }))
}

/// All bindings of a virtual host, those of the default exchange included.
pub fn bindings(broker: &Broker, vhost: &str) -> Result<Vec<BindingRow>> {
    let vhost = admin::find_vhost(broker, vhost)?;
    let mut rows = Vec::new();
    for binding in vhost.with_topology(|topology| topology.bindings()) {
        let destination_kind = match &binding.destination {
            DestinationName::Queue(name) if name.starts_with(REPLY_QUEUE_PREFIX) => continue,
            DestinationName::Queue(_) => "queue",
            DestinationName::Exchange(_) => "exchange",
        };
        rows.push(BindingRow {
            source_name: binding.source.to_string(),
            source_kind: "exchange",
            destination_name: binding.destination.name().to_string(),
            destination_kind,
            routing_key: binding.routing_key.to_string(),
            arguments: table_value(&binding.arguments),
            vhost: vhost.name().to_string(),
        });
    }
    Ok(rows)
}

/// All connections, oldest first.
pub fn connections(broker: &Broker) -> Vec<ConnectionRow> {
    broker.connections().list().iter().map(|info| connection_row(broker, info)).collect()
}

fn connection_row(broker: &Broker, info: &ConnectionInfo) -> ConnectionRow {
    let (peer, local) = info.name.split_once(" -> ").unwrap_or((&info.name, ""));
    let split = |address: &str| match address.rsplit_once(':') {
        Some((host, port)) => (host.to_owned(), port.parse().unwrap_or(0)),
        None => (address.to_owned(), 0),
    };
    let ((peer_host, peer_port), (host, port)) = (split(peer), split(local));
    ConnectionRow {
        name: info.name.clone(),
        user: info.user.clone(),
        vhost: info.vhost.clone(),
        state: match info.state.get() {
            // It will be blocked if it publishes.
            ConnectionState::Running if broker.alarm_on() => "blocking",
            state => state.name(),
        },
        peer_host,
        peer_port,
        host,
        port,
        channels: info.channels.load(Ordering::Relaxed),
        protocol: info.protocol,
        connected_at: info.connected_at_ms,
        client_properties: table_value(&info.client_properties),
        pid: info.id,
    }
}

/// The broker as a whole. Looks at every queue.
pub fn totals(broker: &Broker) -> Totals {
    let connections = broker.connections().list();
    let (mut queues, mut consumers, mut ready, mut unacked) = (0, 0, 0, 0);
    let vhosts = broker.vhosts();
    for queue in vhosts.iter().flat_map(|vhost| vhost.queues()) {
        let state = queue.lock();
        queues += 1;
        consumers += state.machine.roster().len();
        ready += state.machine.ready();
        unacked += state.machine.unacked();
    }
    let durable = broker.segments().map(|segments| segments.usage(Class::Durable));
    let spill = broker.segments().map(|segments| segments.usage(Class::Spill));
    Totals {
        vhosts: vhosts.len(),
        users: broker.authorities().users().len(),
        connections: connections.len(),
        channels: connections.iter().map(|info| u64::from(info.channels.load(Ordering::Relaxed))).sum(),
        queues,
        consumers,
        messages_ready: ready,
        messages_unacknowledged: unacked,
        message_memory_bytes: broker.memory().bytes(),
        memory_budget_bytes: broker.settings().memory_budget_bytes,
        memory_watermark_bytes: broker.settings().memory_watermark_bytes,
        alarm: broker.alarm_reason(),
        disk_free_bytes: broker.store().free_space(),
        log_bytes: broker.wal().map(|wal| wal.file_bytes()),
        segment_bytes: durable.as_ref().map(|usage| usage.bytes),
        segment_live_bytes: durable.as_ref().map(|usage| usage.live_bytes),
        spill_bytes: spill.as_ref().map(|usage| usage.bytes),
    }
}

/// A field table as JSON: what JSON has no type for becomes text.
pub(crate) fn table_value(table: &FieldTable) -> Value {
    Value::Object(table.0.iter().map(|(name, value)| (name.clone(), field_value(value))).collect())
}

fn field_value(value: &FieldValue) -> Value {
    match value {
        FieldValue::Bool(flag) => Value::from(*flag),
        FieldValue::F32(number) => Value::from(*number),
        FieldValue::F64(number) => Value::from(*number),
        FieldValue::U8(number) => Value::from(*number),
        FieldValue::U16(number) => Value::from(*number),
        FieldValue::U32(number) => Value::from(*number),
        FieldValue::I8(number) => Value::from(*number),
        FieldValue::I16(number) => Value::from(*number),
        FieldValue::I32(number) => Value::from(*number),
        FieldValue::I64(number) => Value::from(*number),
        FieldValue::Timestamp(seconds) => Value::from(*seconds),
        FieldValue::Decimal { scale, value } => Value::from(format!("{value}e-{scale}")),
        FieldValue::LongStr(bytes) | FieldValue::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Value::from(text),
            Err(_) => Value::from(STANDARD.encode(bytes)),
        },
        FieldValue::Array(values) => values.iter().map(field_value).collect(),
        FieldValue::Table(table) => table_value(table),
        FieldValue::Void => Value::Null,
    }
}
