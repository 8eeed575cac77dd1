//! Definitions as they are kept in the metadata store.
//!
//! Keys are JSON arrays of names, values JSON objects with a version. Field tables are kept as the base64 of their
//! AMQP encoding, so that every type comes back as it was.
//!
//! ```text
//! vhosts      ["/"]                                         {"v":2, "metadata":{"description":"", "tags":[]}}
//! queues      ["/", "orders"]                               {"v":1 to 3, "id":7, "auto_delete":false, "arguments":"AAAAAA=="
//!                                                            "former":[[0,0]]}
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
//! those with levels of former types ([`posthouse_model::former_levels`]), which are in `former`, version 3.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use posthouse_model::errors::Resource;
use posthouse_model::exchange::ExchangeKind;
use posthouse_model::field::FieldTable;
use posthouse_model::former_levels::FormerLevels;
use posthouse_model::ids::QueueId;
use posthouse_model::name::Name;
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
/// The version of queues that have levels of former types.
const FORMER_LEVELS_VERSION: u32 = 3;
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

#[derive(Serialize, Deserialize)]
struct QueueValue {
    v: u32,
    id: u64,
    auto_delete: bool,
    arguments: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    former: Vec<(u8, u8)>,
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
        former: setup.former_levels.pairs().to_vec(),
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
    let many = || RecordError {
        table,
        problem: format!("expected 255 former levels at most, got {:?}", value.former),
    };
    let former_levels = FormerLevels::from_pairs(&value.former).ok_or_else(many)?;
    let setup = QueueSetup { arguments: read_table(table, &value.arguments)?, former_levels };
    Ok((QueueId(value.id), definition, setup))
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
mod tests {
    use posthouse_model::field::FieldValue;

    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn key_and_value(op: MetaOp) -> (Vec<u8>, Vec<u8>) {
        match op {
            MetaOp::Put { key, value, .. } => (key, value),
            MetaOp::Delete { .. } => panic!("expected a put, got {op:?}"),
        }
    }

    #[test]
    fn version_1_identities_of_exchanges_are_read() {
        let (key, value) = key_and_value(put_seen("/a", "once", QueueId(8)));
        assert_eq!((&key[..], &value[..]), (&br#"["seen","/a","once"]"#[..], &br#"{"v":1,"id":8}"#[..]));
        let read = read_seen(&key, &value).unwrap();
        assert_eq!(read, Some((Name::truncated("/a"), Name::truncated("once"), QueueId(8))));
        assert_eq!(read_seen(br#"["schedule","/a"]"#, &value).unwrap(), None);
        assert_eq!(read_seen(br#"["other","/a","once"]"#, &value).unwrap(), None);
        assert_eq!(read_schedule(&key, &value).unwrap(), None);
        assert!(read_seen(&key, br#"{"v":2,"id":8}"#).is_err());
    }

    #[test]
    fn version_1_schedules_are_read() {
        let (key, value) = key_and_value(put_schedule("/a", QueueId(7)));
        assert_eq!((&key[..], &value[..]), (&br#"["schedule","/a"]"#[..], &br#"{"v":1,"id":7}"#[..]));
        assert_eq!(read_schedule(&key, &value).unwrap(), Some((Name::truncated("/a"), QueueId(7))));
        assert_eq!(read_schedule(NEXT_QUEUE_ID, b"9").unwrap(), None);
        assert!(read_schedule(&key, br#"{"v":2,"id":7}"#).is_err());
    }

    #[test]
    fn version_1_queues_are_read() {
        let key = br#"["/","a \"b\""]"#;
        let value = br#"{"v":1,"id":7,"auto_delete":true,"arguments":"AAAABwF4SQAAAAU="}"#;
        let (id, definition, setup) = read_queue(key, value).unwrap();
        assert_eq!((id, &*definition.name), (QueueId(7), "a \"b\""));
        assert_eq!(setup.arguments.get("x"), Some(&FieldValue::I32(5)));
        assert_eq!(key_and_value(put_queue(id, &definition, &setup)), (key.to_vec(), value.to_vec()));
    }

    #[test]
    fn queues_with_priorities_have_a_version_of_their_own() {
        let (id, definition, mut setup) =
            read_queue(br#"["/","q"]"#, br#"{"v":1,"id":7,"auto_delete":true,"arguments":"AAAAAA=="}"#)
                .unwrap();
        setup.arguments = FieldTable(vec![("x-max-priority".to_owned(), FieldValue::I32(9))]);
        let (key, value) = key_and_value(put_queue(id, &definition, &setup));
        let kept = br#"{"v":2,"id":7,"auto_delete":true,"arguments":"AAAAFA54LW1heC1wcmlvcml0eUkAAAAJ"}"#;
        assert_eq!(String::from_utf8_lossy(&value), String::from_utf8_lossy(kept));
        assert_eq!(read_queue(&key, kept).unwrap().2, setup);
        let newer = read_queue(&key, br#"{"v":4,"id":7,"auto_delete":true,"arguments":"AAAAAA=="}"#);
        let expected = "cannot read a definition in table queues: expected version 3 at most, got 4";
        assert_eq!(newer.unwrap_err().to_string(), expected);
    }

    #[test]
    fn queues_with_levels_of_former_types_have_a_version_of_their_own() {
        let value = br#"{"v":3,"id":7,"auto_delete":false,"arguments":"AAAAAA==","former":[[0,0],[31,4]]}"#;
        let (id, definition, setup) = read_queue(br#"["/","q"]"#, value).unwrap();
        assert_eq!(setup.settings().levels().base, 33);
        let (_, put) = key_and_value(put_queue(id, &definition, &setup));
        assert_eq!(String::from_utf8_lossy(&put), String::from_utf8_lossy(value));
        let many = br#"{"v":3,"id":7,"auto_delete":false,"arguments":"AAAAAA==","former":[[255,0]]}"#;
        let error = read_queue(br#"["/","q"]"#, many).unwrap_err().to_string();
        assert!(error.ends_with("expected 255 former levels at most, got [(255, 0)]"), "{error}");
    }

    #[test]
    fn version_1_exchanges_and_bindings_are_read() {
        let key = br#"["/","logs"]"#;
        let value = br#"{"v":1,"type":"fanout","auto_delete":false,"internal":true,"arguments":"AAAAAA=="}"#;
        let (vhost, change) = read_exchange(key, value).unwrap();
        assert_eq!(key_and_value(topology_change(&vhost, &change)), (key.to_vec(), value.to_vec()));
        let key = br#"["/","logs","queue","q","k","AAAAAA=="]"#;
        let (vhost, change) = read_binding(key, br#"{"v":1}"#).unwrap();
        assert_eq!(key_and_value(topology_change(&vhost, &change)), (key.to_vec(), br#"{"v":1}"#.to_vec()));
    }

    #[test]
    fn version_1_parameters_are_read() {
        let key = br#"["/","policy","p"]"#;
        let value = br#"{"v":1,"value":{"definition":{"queue-version":2},"pattern":"^a"}}"#;
        let ([vhost, component, name], read) = read_parameter(key, value).unwrap();
        assert_eq!((&*vhost, &*component, &*name), ("/", "policy", "p"));
        let put = put_parameter(&vhost, &component, &name, &read);
        assert_eq!(key_and_value(put), (key.to_vec(), value.to_vec()));
        assert!(read_parameter(key, br#"{"v":2,"value":1}"#).is_err());
        assert!(read_parameter(br#"["/","policy"]"#, value).is_err());
        let (key, value) = (br#"["cluster_name"]"#, br#"{"v":1,"value":"a"}"#);
        let (name, read) = read_global_parameter(key, value).unwrap();
        assert_eq!(key_and_value(put_global_parameter(&name, &read)), (key.to_vec(), value.to_vec()));
    }

    #[test]
    fn newer_versions_and_damage_are_refused_by_name() {
        let error = read_vhost(br#"["/"]"#, br#"{"v":3}"#).unwrap_err().to_string();
        assert_eq!(error, "cannot read a definition in table vhosts: expected version 2 at most, got 3");
        let error = read_vhost(br#"["/","x"]"#, br#"{"v":1}"#).unwrap_err().to_string();
        assert_eq!(error, "cannot read a definition in table vhosts: expected a key of 1 names, got 2");
        assert!(read_next_queue_id(b"x").is_err());
        assert!(
            read_queue(br#"["/","q"]"#, br#"{"v":1,"id":1,"auto_delete":true,"arguments":"!"}"#).is_err()
        );
    }

    #[test]
    fn a_virtual_host_comes_back() {
        let metadata = VhostMetadata { description: "d".into(), ..VhostMetadata::default() };
        let (key, value) = key_and_value(put_vhost("a/b", &metadata));
        assert_eq!(value, br#"{"v":2,"metadata":{"description":"d","tags":[]}}"#);
        assert_eq!(read_vhost(&key, &value).unwrap(), (name("a/b"), metadata));
        let first = read_vhost(&key, br#"{"v":1}"#).unwrap();
        assert_eq!(first, (name("a/b"), VhostMetadata::default()));
    }
}
