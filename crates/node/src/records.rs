//! Definitions as they are kept in the metadata store.
//!
//! Keys are JSON arrays of names, values JSON objects with a version. Field tables are kept as the base64 of their
//! AMQP encoding, so that every type comes back as it was.
//!
//! ```text
//! vhosts      ["/"]                                         {"v":2, "metadata":{"description":"", "tags":[]}}
//! queues      ["/", "orders"]                               {"v":1 to 4, "id":7, "auto_delete":false, "arguments":"AAAAAA=="
//!                                                            "former":[[0,31,4]], "base":32}
//! exchanges   ["/", "logs"]                                 {"v":1, "type":"fanout", "auto_delete":.., "internal":.., "arguments":".."}
//! bindings    ["/", "logs", "queue", "orders", "key", ".."] {"v":1}
//! parameters  ["/", "policy", "ttl"]                        {"v":1, "value":{"pattern":"^a", ..}}
//! global_parameters  ["cluster_name"]                       {"v":1, "value":"a"}
//! system      next-queue-id                                 decimal text: no identity at or above was given out
//! system      ["schedule", "/"]                             {"v":1, "id":9}: the queue of what waits for a time
//! system      ["seen", "/", "once"]                         {"v":1, "id":8}: as which queue the log has what an exchange has seen
//! ```
//!
//! Everything has version 1 but virtual hosts, which have version 2 (in version 1 they had no metadata), and queues with
//! several levels, so that a broker that would mix these up does not read them: queues with priorities have version 2, and
//! those with levels of former types ([`posthouse_model::former_levels`]) version 4: `former` has for each type its first
//! level, its highest priority and that of messages that say none, and `base` is the first level of the type that the queue
//! has. In version 3 these have no levels of their own: the first type began at 0, and the others each after the one before.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use posthouse_model::errors::Resource;
use posthouse_model::exchange::ExchangeKind;
use posthouse_model::field::FieldTable;
use posthouse_model::former_levels::FormerLevels;
use posthouse_model::ids::QueueId;
use posthouse_model::name::Name;
use posthouse_model::priorities::Levels;
use posthouse_queue::topology::{BindingRecord, DestinationName, ExchangeRecord, TopologyChange};
use posthouse_storage::meta::{MetaOp, MetaTable};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::metadata::{InvalidMetadata, VhostMetadata};
use crate::queue_handle::QueueDefinition;
use crate::queue_setup::QueueSetup;

/// The version written, and the newest read, of everything but virtual hosts and queues with priorities.
const VERSION: u32 = 1;
/// The version of queues with priorities.
const PRIORITIES_VERSION: u32 = 2;
/// The version of queues that have levels of former types, one after the other from 0 on; it is only read.
const FORMER_LEVELS_IN_A_ROW_VERSION: u32 = 3;
/// The version of queues that have levels of former types.
const FORMER_LEVELS_VERSION: u32 = 4;
/// What the keys of schedules begin with.
const SCHEDULE: &str = "schedule";
/// What those of deduplication exchanges begin with.
const SEEN: &str = "seen";
/// The version of virtual hosts.
const VHOST_VERSION: u32 = 2;

/// A definition that cannot be read back.
#[derive(Debug, thiserror::Error)]
#[error("cannot read a definition in table {table}: {problem}")]
pub struct RecordError {
    /// The table it is in.
    pub table: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

#[derive(Serialize, Deserialize)]
struct Bare {
    v: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(base: &u8) -> bool {
    *base == 0
}

#[derive(Serialize, Deserialize)]
struct QueueValue {
    v: u32,
    id: u64,
    auto_delete: bool,
    arguments: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    former: Vec<Vec<u8>>,
    #[serde(default, skip_serializing_if = "is_zero")]
    base: u8,
}

#[derive(Serialize, Deserialize)]
struct ExchangeValue {
    v: u32,
    #[serde(rename = "type")]
    kind: String,
    auto_delete: bool,
    internal: bool,
    arguments: String,
}

#[derive(Serialize, Deserialize)]
struct VhostValue {
    v: u32,
    #[serde(default)]
    metadata: Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
struct IdentityValue {
    v: u32,
    id: u64,
}

#[derive(Serialize, Deserialize)]
struct ParameterValue {
    v: u32,
    value: Value,
}

/// Keeps a virtual host.
pub fn put_vhost(name: &str, metadata: &VhostMetadata) -> MetaOp {
    let value = VhostValue { v: VHOST_VERSION, metadata: metadata.to_value() };
    put(MetaTable::Vhosts, &[name], &value)
}

/// Forgets a virtual host.
pub fn delete_vhost(name: &str) -> MetaOp {
    MetaOp::Delete { table: MetaTable::Vhosts, key: key(&[name]) }
}

/// Reads a virtual host's name and metadata.
pub fn read_vhost(raw_key: &[u8], value: &[u8]) -> Result<(Name, VhostMetadata), RecordError> {
    let table = MetaTable::Vhosts.name();
    let value: VhostValue = read_value_up_to(VHOST_VERSION, table, value)?;
    let [name] = read_key(table, raw_key)?;
    let mut metadata = VhostMetadata::default();
    let bad = |problem: InvalidMetadata| RecordError {
        table,
        problem: format!("virtual host '{name}': {problem}"),
    };
    metadata.update(&Value::Object(value.metadata)).map_err(bad)?;
    Ok((read_name(table, &name)?, metadata))
}

/// Keeps a durable queue.
pub fn put_queue(id: QueueId, definition: &QueueDefinition, setup: &QueueSetup) -> MetaOp {
    let value = QueueValue {
        v: match setup.settings() {
            settings if !settings.former_levels.is_empty() => FORMER_LEVELS_VERSION,
            settings if settings.max_priority > 0 => PRIORITIES_VERSION,
            _ => VERSION,
        },
        id: id.0,
        auto_delete: definition.auto_delete,
        arguments: write_table(&setup.arguments),
        former: setup
            .former_levels
            .types()
            .iter()
            .map(|levels| vec![levels.base, levels.max, levels.default])
            .collect(),
        base: setup.former_levels.base(),
    };
    put(MetaTable::Queues, &[&definition.vhost, &definition.name], &value)
}

/// Forgets a durable queue.
pub fn delete_queue(vhost: &str, name: &str) -> MetaOp {
    MetaOp::Delete { table: MetaTable::Queues, key: key(&[vhost, name]) }
}

/// Reads a durable queue.
pub fn read_queue(
    raw_key: &[u8],
    value: &[u8],
) -> Result<(QueueId, QueueDefinition, QueueSetup), RecordError> {
    let table = MetaTable::Queues.name();
    let value: QueueValue = read_value_up_to(FORMER_LEVELS_VERSION, table, value)?;
    let [vhost, name] = read_key(table, raw_key)?;
    let definition = QueueDefinition {
        vhost: read_name(table, &vhost)?,
        name: read_name(table, &name)?,
        durable: true,
        auto_delete: value.auto_delete,
        owner: None,
    };
    let bad = || RecordError {
        table,
        problem: format!(
            "expected former levels apart from each other, 255 at most, got {:?} and {}",
            value.former, value.base
        ),
    };
    let former_levels = read_former_levels(&value).ok_or_else(bad)?;
    let setup = QueueSetup { arguments: read_table(table, &value.arguments)?, former_levels };
    let settings = setup.settings();
    if setup.former_levels.base().checked_add(settings.max_priority).is_none() {
        return Err(bad());
    }
    Ok((QueueId(value.id), definition, setup))
}

/// The levels of former types; none when there cannot be such.
fn read_former_levels(value: &QueueValue) -> Option<FormerLevels> {
    let (mut types, mut next) = (Vec::new(), 0u8);
    for levels in &value.former {
        let levels = match levels[..] {
            [max, default] if value.v <= FORMER_LEVELS_IN_A_ROW_VERSION => {
                Levels { base: next, max, default }
            }
            [base, max, default] if value.v > FORMER_LEVELS_IN_A_ROW_VERSION => Levels { base, max, default },
            _ => return None,
        };
        next = levels.base.checked_add(levels.max)?.checked_add(1)?;
        types.push(levels);
    }
    let base = if value.v <= FORMER_LEVELS_IN_A_ROW_VERSION { next } else { value.base };
    FormerLevels::of(&types, base)
}

/// Keeps or forgets a durable exchange or binding.
pub fn topology_change(vhost: &str, change: &TopologyChange) -> MetaOp {
    match change {
        TopologyChange::PutExchange(exchange) => {
            let value = ExchangeValue {
                v: VERSION,
                kind: exchange.kind.name().to_owned(),
                auto_delete: exchange.auto_delete,
                internal: exchange.internal,
                arguments: write_table(&exchange.arguments),
            };
            put(MetaTable::Exchanges, &[vhost, &exchange.name], &value)
        }
        TopologyChange::DeleteExchange(name) => {
            MetaOp::Delete { table: MetaTable::Exchanges, key: key(&[vhost, name]) }
        }
        TopologyChange::PutBinding(binding) => {
            let value = serde_json::to_vec(&Bare { v: VERSION }).unwrap_or_default();
            MetaOp::Put { table: MetaTable::Bindings, key: binding_key(vhost, binding), value }
        }
        TopologyChange::DeleteBinding(binding) => {
            MetaOp::Delete { table: MetaTable::Bindings, key: binding_key(vhost, binding) }
        }
    }
}

/// Reads a durable exchange and its virtual host.
pub fn read_exchange(raw_key: &[u8], value: &[u8]) -> Result<(Name, TopologyChange), RecordError> {
    let table = MetaTable::Exchanges.name();
    let value: ExchangeValue = read_value(table, value)?;
    let [vhost, name] = read_key(table, raw_key)?;
    let kind = ExchangeKind::parse(&value.kind, Resource::exchange(&vhost, &name))
        .map_err(|e| RecordError { table, problem: e.text })?;
    let exchange = ExchangeRecord {
        name: read_name(table, &name)?,
        kind,
        durable: true,
        auto_delete: value.auto_delete,
        internal: value.internal,
        arguments: read_table(table, &value.arguments)?,
    };
    Ok((read_name(table, &vhost)?, TopologyChange::PutExchange(exchange)))
}

/// Reads a durable binding and its virtual host.
pub fn read_binding(raw_key: &[u8], value: &[u8]) -> Result<(Name, TopologyChange), RecordError> {
    let table = MetaTable::Bindings.name();
    let _: Bare = read_value(table, value)?;
    let [vhost, source, kind, destination, routing_key, arguments] = read_key(table, raw_key)?;
    let destination = read_name(table, &destination)?;
    let binding = BindingRecord {
        source: read_name(table, &source)?,
        destination: match kind.as_str() {
            "queue" => DestinationName::Queue(destination),
            "exchange" => DestinationName::Exchange(destination),
            other => {
                let problem = format!("expected a binding to a queue or an exchange, got {other:?}");
                return Err(RecordError { table, problem });
            }
        },
        routing_key: read_name(table, &routing_key)?,
        arguments: read_table(table, &arguments)?,
    };
    Ok((read_name(table, &vhost)?, TopologyChange::PutBinding(binding)))
}

/// The component and the name of the runtime parameter that holds a virtual host's limits.
pub const VHOST_LIMITS: &str = "vhost-limits";
/// See [`VHOST_LIMITS`].
pub const LIMITS: &str = "limits";

/// Keeps a runtime parameter of a virtual host, such as a policy.
pub fn put_parameter(vhost: &str, component: &str, name: &str, value: &Value) -> MetaOp {
    let value = ParameterValue { v: VERSION, value: value.clone() };
    put(MetaTable::Parameters, &[vhost, component, name], &value)
}

/// Forgets a runtime parameter of a virtual host.
pub fn delete_parameter(vhost: &str, component: &str, name: &str) -> MetaOp {
    MetaOp::Delete { table: MetaTable::Parameters, key: key(&[vhost, component, name]) }
}

/// Reads a runtime parameter: virtual host, component, name and value.
pub fn read_parameter(raw_key: &[u8], value: &[u8]) -> Result<([String; 3], Value), RecordError> {
    let table = MetaTable::Parameters.name();
    let value: ParameterValue = read_value(table, value)?;
    Ok((read_key(table, raw_key)?, value.value))
}

/// Keeps a global parameter.
pub fn put_global_parameter(name: &str, value: &Value) -> MetaOp {
    put(MetaTable::GlobalParameters, &[name], &ParameterValue { v: VERSION, value: value.clone() })
}

/// Forgets a global parameter.
pub fn delete_global_parameter(name: &str) -> MetaOp {
    MetaOp::Delete { table: MetaTable::GlobalParameters, key: key(&[name]) }
}

/// Reads a global parameter: name and value.
pub fn read_global_parameter(raw_key: &[u8], value: &[u8]) -> Result<(String, Value), RecordError> {
    let table = MetaTable::GlobalParameters.name();
    let value: ParameterValue = read_value(table, value)?;
    let [name] = read_key(table, raw_key)?;
    Ok((name, value.value))
}

/// Keeps the lowest queue identity that was not given out.
pub fn put_next_queue_id(next: u64) -> MetaOp {
    MetaOp::Put {
        table: MetaTable::System,
        key: NEXT_QUEUE_ID.to_vec(),
        value: next.to_string().into_bytes(),
    }
}

/// Keeps which queue has what waits for a time in a virtual host.
pub fn put_schedule(vhost: &str, id: QueueId) -> MetaOp {
    put(MetaTable::System, &[SCHEDULE, vhost], &IdentityValue { v: VERSION, id: id.0 })
}

/// Forgets it.
pub fn delete_schedule(vhost: &str) -> MetaOp {
    MetaOp::Delete { table: MetaTable::System, key: key(&[SCHEDULE, vhost]) }
}

/// Reads it from an entry of the table `system`: the virtual host and the queue. `None` when the entry is another's.
pub fn read_schedule(raw_key: &[u8], value: &[u8]) -> Result<Option<(Name, QueueId)>, RecordError> {
    let Ok([kind, vhost]) = read_key::<2>(MetaTable::System.name(), raw_key) else { return Ok(None) };
    if kind != SCHEDULE {
        return Ok(None);
    }
    let value: IdentityValue = read_value(MetaTable::System.name(), value)?;
    Ok(Some((Name::truncated(&vhost), QueueId(value.id))))
}

/// Keeps under which identity the log has what a deduplication exchange has seen.
pub fn put_seen(vhost: &str, exchange: &str, id: QueueId) -> MetaOp {
    put(MetaTable::System, &[SEEN, vhost, exchange], &IdentityValue { v: VERSION, id: id.0 })
}

/// Forgets it.
pub fn delete_seen(vhost: &str, exchange: &str) -> MetaOp {
    MetaOp::Delete { table: MetaTable::System, key: key(&[SEEN, vhost, exchange]) }
}

/// Reads it from an entry of the table `system`: virtual host, exchange and identity. `None` when the entry is another's.
pub fn read_seen(raw_key: &[u8], value: &[u8]) -> Result<Option<(Name, Name, QueueId)>, RecordError> {
    let Ok([kind, vhost, exchange]) = read_key::<3>(MetaTable::System.name(), raw_key) else {
        return Ok(None);
    };
    if kind != SEEN {
        return Ok(None);
    }
    let value: IdentityValue = read_value(MetaTable::System.name(), value)?;
    Ok(Some((Name::truncated(&vhost), Name::truncated(&exchange), QueueId(value.id))))
}

/// The key of the lowest queue identity that was not given out.
pub const NEXT_QUEUE_ID: &[u8] = b"next-queue-id";

/// Reads the lowest queue identity that was not given out.
pub fn read_next_queue_id(value: &[u8]) -> Result<u64, RecordError> {
    let text = String::from_utf8_lossy(value);
    let problem = |_| format!("expected {} to be a decimal number, got {text:?}", "next-queue-id");
    text.parse().map_err(problem).map_err(|problem| RecordError { table: MetaTable::System.name(), problem })
}

fn binding_key(vhost: &str, binding: &BindingRecord) -> Vec<u8> {
    let kind = match binding.destination {
        DestinationName::Queue(_) => "queue",
        DestinationName::Exchange(_) => "exchange",
    };
    let arguments = write_table(&binding.arguments);
    key(&[vhost, &binding.source, kind, binding.destination.name(), &binding.routing_key, &arguments])
}

fn put(table: MetaTable, names: &[&str], value: &impl Serialize) -> MetaOp {
    // Serialising a struct of numbers and texts cannot fail.
    MetaOp::Put { table, key: key(names), value: serde_json::to_vec(value).unwrap_or_default() }
}

/// A key of names.
pub(crate) fn key(names: &[&str]) -> Vec<u8> {
    serde_json::to_vec(names).unwrap_or_default()
}

fn read_key<const N: usize>(table: &'static str, raw: &[u8]) -> Result<[String; N], RecordError> {
    let names: Vec<String> =
        serde_json::from_slice(raw).map_err(|e| RecordError { table, problem: format!("bad key: {e}") })?;
    let got = names.len();
    let wrong = |_| RecordError { table, problem: format!("expected a key of {N} names, got {got}") };
    names.try_into().map_err(wrong)
}

fn read_value<T: for<'de> Deserialize<'de>>(table: &'static str, raw: &[u8]) -> Result<T, RecordError> {
    read_value_up_to(VERSION, table, raw)
}

fn read_value_up_to<T: for<'de> Deserialize<'de>>(
    newest: u32,
    table: &'static str,
    raw: &[u8],
) -> Result<T, RecordError> {
    let wrong = |e: serde_json::Error| RecordError { table, problem: format!("bad value: {e}") };
    let Bare { v } = serde_json::from_slice(raw).map_err(wrong)?;
    if v > newest {
        return Err(RecordError { table, problem: format!("expected version {newest} at most, got {v}") });
    }
    serde_json::from_slice(raw).map_err(wrong)
}

fn read_name(table: &'static str, text: &str) -> Result<Name, RecordError> {
    Name::new(text).map_err(|e| RecordError { table, problem: e.to_string() })
}

fn write_table(table: &FieldTable) -> String {
    let mut bytes = Vec::new();
    table.encode(&mut bytes);
    STANDARD.encode(bytes)
}

fn read_table(table: &'static str, text: &str) -> Result<FieldTable, RecordError> {
    let bytes = STANDARD.decode(text).map_err(|e| RecordError { table, problem: e.to_string() })?;
    let (fields, _) =
        FieldTable::decode(&bytes).map_err(|e| RecordError { table, problem: e.to_string() })?;
    Ok(fields)
}

#[cfg(test)]
mod tests;
