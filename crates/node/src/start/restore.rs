//! From what a data directory has to a broker's virtual hosts, users and queues.

use std::collections::HashSet;
use std::sync::Arc;

use hashbrown::HashMap;
use posthouse_auth::users::{AuthChange, PermissionRecord, TopicPermissionRecord, User};
use posthouse_model::args::QueueKind;
use posthouse_model::attempts::AttemptRange;
use posthouse_model::delays::DelayRange;
use posthouse_model::errors::Resource;
use posthouse_model::ids::QueueId;
use posthouse_model::limits::VhostLimits;
use posthouse_model::name::Name;
use posthouse_model::policy::{Policy, PolicyKind};
use posthouse_model::queue_settings::QueueSettings;
use posthouse_model::reply::ReplyError;
use posthouse_model::shares::UserNumber;
use posthouse_model::stream_args::StreamArguments;
use posthouse_queue::topology::TopologyChange;
use posthouse_storage::engine::{Recovered, RecoveredQueue};
use posthouse_storage::meta::MetaTable;
use tracing::{error, info, warn};

use super::{StartError, UndefinedQueues, orphans};
use crate::broker::{Broker, Store};
use crate::queue_handle::{Machine, QueueDefinition, QueueHandle};
use crate::queue_setup::QueueSetup;
use crate::records::{self, RecordError};
use crate::vhost::{Inner, VirtualHost};
use crate::{clock, deliver, expiry, owner, policies, streams, unique};

/// A queue as it was found.
pub(super) struct Restored {
    queue: Arc<QueueHandle>,
    attempts: Vec<AttemptRange>,
    delays: Vec<DelayRange>,
}

/// Gives a new broker what a data directory has: definitions, and the queues with their messages. Nothing in the
/// directory is changed before everything was read and belongs together. The queues are as they were; what their
/// settings ask for, [`put_in_force`] does.
pub(super) fn restore(
    broker: &Arc<Broker>,
    mut recovered: Recovered,
    undefined_queues: UndefinedQueues,
) -> Result<Vec<Restored>, StartError> {
    let meta = broker.store().meta();
    for (key, value) in meta.scan(MetaTable::Vhosts)? {
        let (name, metadata) = records::read_vhost(&key, &value)?;
        let vhost = VirtualHost::new(name, broker.events().clone());
        crate::events::add_exchange(broker, &vhost);
        vhost.change(|inner| inner.metadata = metadata);
        broker.insert_vhost(Arc::new(vhost));
    }
    restore_users(broker, highest_publisher(&recovered))?;
    restore_parameters(broker)?;
    let (queues, seen) = restore_queues(broker, &mut recovered, undefined_queues)?;
    for (key, value) in meta.scan(MetaTable::Exchanges)? {
        let (vhost, change) = records::read_exchange(&key, &value)?;
        restore_topology(broker, &vhost, &change);
    }
    restore_seen(broker, seen);
    for (key, value) in meta.scan(MetaTable::Bindings)? {
        let (vhost, change) = records::read_binding(&key, &value)?;
        restore_topology(broker, &vhost, &change);
    }
    for vhost in broker.vhosts() {
        if vhost.look(|inner| !inner.policies.is_empty()) {
            vhost.change(Inner::apply_exchange_policies);
        }
    }
    match broker.store() {
        Store::Log(_) if recovered.new => info!("nothing was kept here before"),
        Store::Log(_) => {
            let messages: u64 = queues.iter().map(|restored| restored.queue.lock().machine.ready()).sum();
            info!(messages, replayed = recovered.replayed_records, clean = recovered.clean, "recovered");
        }
        Store::Memory(_) => {}
    }
    Ok(queues)
}

/// Has restored queues do what their settings ask for: messages may leave at once, for which there are records in the
/// log.
pub(super) fn put_in_force(broker: &Arc<Broker>, queues: Vec<Restored>) {
    for Restored { queue, attempts, delays } in queues {
        deliver::put_in_force(broker, &queue);
        let is_unique = {
            let mut state = queue.lock();
            if let Some(machine) = state.machine.classic() {
                machine.restore_attempts(attempts);
                machine.restore_delays(&delays, clock::now_ms());
            }
            state.machine.settings().unique
        };
        // Somebody must look when the first of them is ready.
        drop(expiry::lock_current(broker, &queue));
        if is_unique {
            unique::learn(broker, &queue);
        }
    }
}

/// The highest number of a user that a message has which is there.
fn highest_publisher(recovered: &Recovered) -> UserNumber {
    let mut highest = UserNumber::NOBODY;
    for chunk in recovered.queues.iter().flat_map(|queue| &queue.chunks) {
        chunk.shares.divide(0, |user, _| highest = highest.max(user));
    }
    highest
}

fn restore_users(broker: &Broker, highest: UserNumber) -> Result<(), StartError> {
    let (meta, authorities) = (broker.store().meta(), broker.authorities());
    for (_, value) in meta.scan(MetaTable::Users)? {
        authorities.restore(AuthChange::PutUser(User::decode(&value)?))?;
    }
    broker.keep_auth(&authorities.number_users(highest));
    for (_, value) in meta.scan(MetaTable::Permissions)? {
        authorities.restore(AuthChange::PutPermissions(PermissionRecord::decode(&value)?))?;
    }
    for (_, value) in meta.scan(MetaTable::TopicPermissions)? {
        authorities.restore(AuthChange::PutTopicPermissions(TopicPermissionRecord::decode(&value)?))?;
    }
    Ok(())
}

/// Makes the queues with their messages, and gives up what belongs to none of them.
fn restore_queues(
    broker: &Arc<Broker>,
    recovered: &mut Recovered,
    undefined_queues: UndefinedQueues,
) -> Result<(Vec<Restored>, Vec<FoundSeen>), StartError> {
    let mut found = Found::default();
    for level in std::mem::take(&mut recovered.queues) {
        found.entry(level.id.without_level()).or_default().push(level);
    }
    let mut queues = Vec::new();
    for (key, value) in broker.store().meta().scan(MetaTable::Queues)? {
        let (id, definition, setup) = records::read_queue(&key, &value)?;
        let Ok(vhost) = broker.vhost(&definition.vhost) else { continue };
        let (id, levels) = match recovered.deleted.contains(&id) {
            true => (not_deleted(broker, id, &definition, &setup), Vec::new()),
            false => (id, found.remove(&id).unwrap_or_default()),
        };
        queues.push(restore_queue(broker, &vhost, id, (definition, setup), levels)?);
    }
    restore_schedules(broker, &mut found, &recovered.deleted)?;
    let seen = find_seen(broker, &mut found)?;
    if let Store::Log(storage) = broker.store() {
        let orphans = found.into_values().flatten().collect();
        orphans::give_up(storage, orphans, recovered.clean, undefined_queues)?;
    }
    Ok((queues, seen))
}

/// A queue whose deletion the log has and the definitions have not. Nobody was told that it is gone, so it stays, without
/// its messages. What the log has of its former identity is over, whatever follows: it gets another one.
fn not_deleted(
    broker: &Broker,
    former: QueueId,
    definition: &QueueDefinition,
    setup: &QueueSetup,
) -> QueueId {
    let id = broker.next_queue_id();
    warn!(%former, %id, queue = %definition.name, vhost = %definition.vhost, "its deletion was not completed: it is empty");
    broker.keep(vec![records::put_queue(id, definition, setup)]);
    id
}

fn restore_queue(
    broker: &Arc<Broker>,
    vhost: &VirtualHost,
    id: QueueId,
    (definition, setup): (QueueDefinition, QueueSetup),
    mut levels: Vec<RecoveredQueue>,
) -> Result<Restored, StartError> {
    let kind = kind(&definition, &setup)?;
    let object = policies::object(kind);
    let applied = vhost.change(|inner| inner.queue_policy(object, &definition.name));
    let settings = policies::effective_settings(setup.settings(), applied.as_deref());
    let attempts = levels.iter_mut().flat_map(|level| std::mem::take(&mut level.attempts)).collect();
    let delays = levels.iter_mut().flat_map(|level| std::mem::take(&mut level.delays)).collect();
    let machine = machine(broker, id, kind, &definition, &setup, settings, levels)?;
    let queue = Arc::new(QueueHandle::new(id, definition, setup, machine, broker.memory().clone()));
    queue.lock().policy = applied;
    vhost.change(|inner| {
        inner.topology.add_queue(queue.definition.name.clone(), id, true);
        inner.queues.insert(id, queue.clone());
    });
    Ok(Restored { queue, attempts, delays })
}

/// What was found of each queue, by level.
type Found = HashMap<QueueId, Vec<RecoveredQueue>, foldhash::fast::RandomState>;

/// Gives virtual hosts the messages that wait for a time.
fn restore_schedules(
    broker: &Broker,
    found: &mut Found,
    deleted: &HashSet<QueueId>,
) -> Result<(), StartError> {
    for (key, value) in broker.store().meta().scan(MetaTable::System)? {
        let Some((vhost, mut id)) = records::read_schedule(&key, &value)? else { continue };
        let Ok(vhost) = broker.vhost(&vhost) else { continue };
        let levels = match deleted.contains(&id) {
            true => {
                // As with other queues, above: what the log has of it is over.
                id = broker.next_queue_id();
                broker.keep(vec![records::put_schedule(vhost.name(), id)]);
                Vec::new()
            }
            false => found.remove(&id).unwrap_or_default(),
        };
        for level in levels.iter().filter(|level| level.lost > 0) {
            error!(vhost = %vhost.name(), messages = level.lost, "scheduled messages were lost to damage");
        }
        broker.restore_schedule(&vhost, id, Machine::Classic(owner::recovered(levels).0));
    }
    Ok(())
}

/// What was found of the values that an exchange has seen.
struct FoundSeen {
    vhost: Name,
    exchange: Name,
    id: QueueId,
    levels: Vec<RecoveredQueue>,
}

/// Takes what exchanges have seen out of what was found.
fn find_seen(broker: &Broker, found: &mut Found) -> Result<Vec<FoundSeen>, StartError> {
    let mut seen = Vec::new();
    for (key, value) in broker.store().meta().scan(MetaTable::System)? {
        if let Some((vhost, exchange, id)) = records::read_seen(&key, &value)? {
            seen.push(FoundSeen { vhost, exchange, id, levels: found.remove(&id).unwrap_or_default() });
        }
    }
    Ok(seen)
}

/// Gives exchanges the values that they have seen.
fn restore_seen(broker: &Broker, seen: Vec<FoundSeen>) {
    let now_ms = clock::now_ms();
    for FoundSeen { vhost, exchange, id, levels } in seen {
        let Ok(vhost) = broker.vhost(&vhost) else { continue };
        if let Some(window) = vhost.with_topology(|topology| topology.seen_window(&exchange)) {
            vhost.seen().restore(&exchange, id, &levels, window, now_ms);
        }
    }
}

/// Reads limits and policies back, before the queues that they are for.
fn restore_parameters(broker: &Broker) -> Result<(), StartError> {
    for (key, value) in broker.store().meta().scan(MetaTable::GlobalParameters)? {
        let (name, value) = records::read_global_parameter(&key, &value)?;
        broker.restore_global_parameter(name, value);
    }
    let table = MetaTable::Parameters;
    for (key, value) in broker.store().meta().scan(table)? {
        let ([vhost_name, component, name], value) = records::read_parameter(&key, &value)?;
        let bad = |problem: String| RecordError {
            table: table.name(),
            problem: format!("{component} '{name}' in vhost '{vhost_name}': {problem}"),
        };
        let Ok(vhost) = broker.vhost(&vhost_name) else { continue };
        if component == records::VHOST_LIMITS {
            let limits = VhostLimits::from_value(&value).map_err(|e| bad(e.to_string()))?;
            vhost.change(|inner| inner.limits = limits);
            continue;
        }
        let kind = PolicyKind::ALL.into_iter().find(|kind| kind.component() == component);
        let Some(kind) = kind else {
            // It means nothing here and is kept for who exports it again.
            vhost.change(|inner| inner.parameters.insert((component, name), value));
            continue;
        };
        let policy = Policy::from_value(&name, &value, kind).map_err(|e| bad(e.to_string()))?;
        vhost.change(|inner| inner.policies.set(kind, policy)).map_err(|e| bad(e.to_string()))?;
    }
    Ok(())
}

fn restore_topology(broker: &Broker, vhost: &Name, change: &TopologyChange) {
    let Ok(vhost) = broker.vhost(vhost) else { return };
    if !vhost.change(|inner| inner.topology.restore(change)) {
        warn!(vhost = %vhost.name(), ?change, "a kept definition makes no sense any more and is left out");
    }
}

fn kind(definition: &QueueDefinition, setup: &QueueSetup) -> Result<QueueKind, RecordError> {
    let resource = Resource::queue(&definition.vhost, &definition.name);
    QueueKind::of(&setup.arguments, resource).map_err(unreadable)
}

fn unreadable(refused: ReplyError) -> RecordError {
    RecordError { table: MetaTable::Queues.name(), problem: refused.text }
}

fn machine(
    broker: &Broker,
    id: QueueId,
    kind: QueueKind,
    definition: &QueueDefinition,
    setup: &QueueSetup,
    settings: QueueSettings,
    mut found: Vec<RecoveredQueue>,
) -> Result<Machine, RecordError> {
    for found in found.iter().filter(|found| found.lost > 0) {
        error!(queue = %definition.name, messages = found.lost, "messages were lost to damage");
    }
    match kind {
        QueueKind::Classic | QueueKind::Quorum => {
            let (machine, truth) = owner::recovered(found);
            if let Some(wal) = broker.wal().filter(|_| !truth.is_empty()) {
                let mut stage = wal.stage();
                for note in truth {
                    stage.note(id, &note.key, &note.value);
                }
            }
            Ok(Machine::Classic(machine))
        }
        QueueKind::Stream => {
            // What cannot be read of them must not be taken for something else.
            let resource = Resource::queue(&definition.vhost, &definition.name);
            StreamArguments::parse(setup.arguments.clone(), resource).map_err(unreadable)?;
            Ok(streams::recover(broker, settings, found.pop()))
        }
    }
}
