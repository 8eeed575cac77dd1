//! Super streams: streams that are partitions of one exchange, made and deleted together.

use posthouse_model::errors::{self, Resource};
use posthouse_model::exchange::ExchangeKind;
use posthouse_model::field::{FieldTable, FieldValue};
use posthouse_model::name::Name;
use posthouse_queue::topology::super_streams::{PARTITION_ORDER, SUPER_STREAM};
use posthouse_queue::topology::{BindingRecord, DestinationName, ExchangeRecord};
use posthouse_storage::meta::MetaOp;

use super::{AdminError, Result, find_vhost};
use crate::broker::Broker;
use crate::declare::{DeleteIf, QueueDeclaration};
use crate::queue_handle::QueueDefinition;
use crate::streams;
use crate::vhost::{Inner, VirtualHost};

/// Partitions that a super stream may have.
pub const PARTITIONS_MAX: usize = 1000;

/// What a super stream is to be.
#[derive(Clone, PartialEq, Debug)]
pub struct SuperStream {
    /// The name of its exchange; those of its partitions are this, `-` and their key.
    pub name: String,
    /// The routing key of each partition, in order: at least one, all different.
    pub keys: Vec<String>,
    /// The arguments of each partition's declaration but its type.
    pub arguments: FieldTable,
}

/// Makes a direct exchange and a stream for each key, bound with it: all of it or, when it returns an error, nothing,
/// also after a crash.
///
/// # Errors
/// When something of one of the names is there, an argument is refused, or there would be too many.
pub fn add_super_stream(broker: &Broker, vhost: &str, wanted: &SuperStream) -> Result<()> {
    check(wanted)?;
    let vhost = find_vhost(broker, vhost)?;
    vhost.change(|inner| {
        let declarations = check_free(inner, &vhost, wanted)?;
        let made = make(broker, inner, &vhost, wanted, declarations).map_err(AdminError::Reply)?;
        // At once, so that a crash leaves all of it or nothing; under the lock, so that changes are kept in order.
        broker.keep(made);
        Ok::<(), AdminError>(())
    })?;
    Ok(broker.store().meta().flush()?)
}

/// Deletes a super stream's partitions and then its exchange. After a crash half way it can be deleted again.
///
/// # Errors
/// When there is no such super stream.
pub fn delete_super_stream(broker: &Broker, vhost: &str, name: &str) -> Result<()> {
    let vhost = find_vhost(broker, vhost)?;
    let partitions = vhost.look(|inner| inner.topology.partitions(name));
    let missing = || invalid(format!("no super stream '{name}' in vhost '{}'", vhost.name()));
    for partition in partitions.ok_or_else(missing)? {
        if let Some(queue) = vhost.find_queue(&partition) {
            broker.remove_queue(&vhost, &queue, DeleteIf::default()).map_err(AdminError::Reply)?;
        }
    }
    broker.delete_exchange(&vhost, name, false).map_err(AdminError::Reply)?;
    Ok(broker.store().meta().flush()?)
}

fn invalid(text: String) -> AdminError {
    AdminError::SuperStream(text)
}

fn check(wanted: &SuperStream) -> Result<()> {
    let SuperStream { name, keys, .. } = wanted;
    if keys.is_empty() || keys.len() > PARTITIONS_MAX {
        return Err(invalid(format!("expected 1 to {PARTITIONS_MAX} partitions, got {}", keys.len())));
    }
    let mut sorted = keys.clone();
    sorted.sort_unstable();
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(invalid(format!("expected different binding keys, got '{}' twice", pair[0])));
    }
    let longest =
        keys.iter().map(|key| partition_name(name, key)).max_by_key(String::len).unwrap_or_default();
    if name.is_empty() || Name::new(&longest).is_err() {
        let text = "expected a name of at least 1 byte, of at most 255 together with '-' and a binding key";
        return Err(invalid(format!("{text}, got '{longest}'")));
    }
    Ok(())
}

fn partition_name(super_stream: &str, key: &str) -> String {
    format!("{super_stream}-{key}")
}

/// The declarations of the partitions, none of which is there.
fn check_free(inner: &Inner, vhost: &VirtualHost, wanted: &SuperStream) -> Result<Vec<QueueDeclaration>> {
    inner.check_not_deleted(vhost.name()).map_err(AdminError::Reply)?;
    let name = &wanted.name;
    if name.starts_with("amq.") {
        return Err(AdminError::Reply(errors::reserved_prefix(Resource::exchange(vhost.name(), name))));
    }
    let is_there = |what: Resource<'_>| invalid(format!("{what} is there already"));
    if inner.topology.exchange(name).is_some() {
        return Err(is_there(Resource::exchange(vhost.name(), name)));
    }
    let mut declarations = Vec::new();
    for key in &wanted.keys {
        let name = partition_name(name, key);
        if inner.topology.queue_id(&name).is_some() {
            return Err(is_there(Resource::queue(vhost.name(), &name)));
        }
        let mut arguments = wanted.arguments.clone();
        arguments.0.push(("x-queue-type".to_owned(), FieldValue::string("stream")));
        declarations.push(QueueDeclaration { name, durable: true, arguments, ..QueueDeclaration::default() });
    }
    inner.check_queues_limit(vhost.name(), name, declarations.len()).map_err(AdminError::Reply)?;
    Ok(declarations)
}

/// Makes everything; what is to be kept.
fn make(
    broker: &Broker,
    inner: &mut Inner,
    vhost: &VirtualHost,
    wanted: &SuperStream,
    declarations: Vec<QueueDeclaration>,
) -> std::result::Result<Vec<MetaOp>, posthouse_model::reply::ReplyError> {
    let mut machines = Vec::new();
    for declaration in &declarations {
        machines.push(streams::declare(declaration, Resource::queue(vhost.name(), &declaration.name))?);
    }
    // Nothing below fails.
    let source = Name::truncated(&wanted.name);
    let exchange = ExchangeRecord {
        name: source.clone(),
        kind: ExchangeKind::Direct,
        durable: true,
        auto_delete: false,
        internal: false,
        arguments: FieldTable(vec![(SUPER_STREAM.to_owned(), FieldValue::Bool(true))]),
    };
    let mut changes = inner.topology.declare_exchange(exchange)?;
    inner.apply_exchange_policy(&source);
    let mut ops = Vec::new();
    let made = declarations.into_iter().zip(machines).zip(&wanted.keys);
    for (order, ((declaration, machine), key)) in (0i64..).zip(made) {
        let name = Name::truncated(&declaration.name);
        let definition = QueueDefinition {
            vhost: vhost.name().clone(),
            name: name.clone(),
            durable: true,
            auto_delete: false,
            owner: None,
        };
        let (_, more) = broker.insert_queue(inner, definition, declaration.arguments, machine);
        ops.extend(more);
        changes.extend(inner.topology.bind(BindingRecord {
            source: source.clone(),
            destination: DestinationName::Queue(name),
            routing_key: Name::truncated(key),
            arguments: FieldTable(vec![(PARTITION_ORDER.to_owned(), FieldValue::I64(order))]),
        })?);
    }
    ops.extend(broker.topology_ops(vhost, &changes));
    Ok(ops)
}
