//! What an operator sees of a running broker: one row per user, queue, connection and so on.
//!
//! The fields of a row are RabbitMQ's column names where it has them; `serde` turns a row into an object of them.
//! Counts are read one queue after the other, so the rows of a busy broker need not add up.

use std::sync::atomic::Ordering;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use posthouse_model::args::QueueKind;
use posthouse_model::field::{FieldTable, FieldValue};
use posthouse_model::name::Name;
use posthouse_model::policy::{Definition, PolicyKind};
use posthouse_queue::topology::DestinationName;
use serde::Serialize;
use serde_json::Value;

use crate::admin::{self, AdminError};
use crate::broker::Broker;
use crate::connections::{ConnectionInfo, ConnectionState};
use crate::policies::AppliedPolicy;
use crate::vhost::REPLY_QUEUE_PREFIX;

pub use parameters::{GlobalParameterRow, ParameterRow, global_parameters, parameters};
pub use queues::{QueueRow, queues};
pub use sessions::{ChannelRow, ConsumerRow, channels, consumers};
pub use totals::{Totals, totals};
pub use users::{
    PermissionRow, TopicPermissionRow, UserLimitsRow, UserRow, permissions, topic_permissions, user_limits,
    user_permissions, user_topic_permissions, users,
};

mod parameters;
mod queues;
mod sessions;
mod totals;
mod users;

type Result<T> = std::result::Result<T, AdminError>;

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
    /// Messages that wait for a time.
    pub messages_scheduled: u64,
}

/// Limits of a virtual host.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct VhostLimitsRow {
    /// Name.
    pub vhost: String,
    /// Limits, as JSON text.
    pub limits: String,
    /// Bytes that its queues hold, where that is limited.
    pub stored_bytes: u64,
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
    /// Which quotas are used up, while it is `throttled`: whose it is and the name of the limit, by comma.
    pub throttled_by: String,
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
            messages_scheduled: vhost.schedule().map_or(0, |schedule| schedule.messages()),
        }
    });
    rows.collect()
}

/// Limits of all virtual hosts that have any.
pub fn vhost_limits(broker: &Broker) -> Vec<VhostLimitsRow> {
    let limited = broker.vhosts().into_iter().map(|vhost| (vhost.limits(), vhost));
    let rows = limited.filter(|(limits, _)| !limits.is_empty()).map(|(limits, vhost)| VhostLimitsRow {
        vhost: vhost.name().to_string(),
        limits: limits.to_value().to_string(),
        stored_bytes: vhost.account().stored_bytes(),
    });
    rows.collect()
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
        throttled_by: info.throttled_by().names(),
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
