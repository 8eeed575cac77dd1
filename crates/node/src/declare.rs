//! Declaring and deleting queues, exchanges and bindings: topology, live queues and kept definitions together.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use posthouse_model::args::{QueueArguments, QueueKind, is_known_of_queues};
use posthouse_model::durability::Durability;
use posthouse_model::errors::{self, Resource};
use posthouse_model::exchange::ExchangeKind;
use posthouse_model::exchange_args::is_known_of_exchanges;
use posthouse_model::field::{FieldTable, FieldValue};
use posthouse_model::name::Name;
use posthouse_model::queue_settings::QueueSettings;
use posthouse_model::reply::ReplyError;
use posthouse_model::stream_args::StreamArguments;
use posthouse_queue::machine::roster::ConsumerId;
use posthouse_queue::topology::super_streams::SUPER_STREAM;
use posthouse_queue::topology::{BindingRecord, ExchangeRecord, TopologyChange};
use posthouse_storage::meta::MetaOp;

use crate::broker::Broker;
use crate::history::Kept;
use crate::queue_handle::{Machine, QueueDefinition, QueueHandle, QueueState};
use crate::queue_setup::QueueSetup;
use crate::residency;
use crate::vhost::{Inner, VirtualHost};
use crate::waker::ConsumerWaker;
use crate::{deliver, expiry, policies, records, seen, streams};

/// `queue.declare`
#[derive(Clone, Debug, Default)]
pub struct QueueDeclaration {
    /// The name; empty for one that the broker makes up.
    pub name: String,
    /// Survives a restart.
    pub durable: bool,
    /// Belongs to the declaring connection.
    pub exclusive: bool,
    /// Deleted when its last consumer goes.
    pub auto_delete: bool,
    /// Arguments as sent.
    pub arguments: FieldTable,
}

/// A queue and its counts, as `queue.declare-ok` says them.
#[derive(Clone, Debug)]
pub struct Declared {
    /// The queue.
    pub queue: Arc<QueueHandle>,
    /// Ready messages.
    pub messages: u64,
    /// Consumers.
    pub consumers: usize,
}

impl Declared {
    /// Reads a queue's counts; that somebody asks for them counts as a declaration.
    pub fn of(queue: Arc<QueueHandle>) -> Self {
        let (messages, consumers) = {
            let mut state = queue.lock();
            state.renew_by_declaration();
            (state.machine.ready(), state.machine.roster().len())
        };
        Self { queue, messages, consumers }
    }
}

/// Conditions of `queue.delete`.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeleteIf {
    /// Only without consumers.
    pub unused: bool,
    /// Only without messages that are ready or delayed.
    pub empty: bool,
}

/// A name that nothing else has: `prefix` and 22 characters of base64url.
pub fn unique_name(prefix: &str) -> String {
    let mut bytes = [0; 16];
    // The kernel's generator fails only before it is seeded at boot; then the identity is the clock's.
    if getrandom::fill(&mut bytes).is_err() {
        bytes = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |age| age.as_nanos())
            .to_le_bytes();
    }
    format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes))
}

impl Broker {
    /// Declares a queue, or checks that the one there is equivalent.
    pub fn declare_queue(
        &self,
        vhost: &VirtualHost,
        declaration: QueueDeclaration,
        connection: u64,
    ) -> Result<Declared, ReplyError> {
        let declaration = with_default_type(vhost, declaration);
        let generated = declaration.name.is_empty();
        let name = if generated { unique_name("amq.gen-") } else { declaration.name.clone() };
        let QueueDeclaration { durable, exclusive, auto_delete, ref arguments, .. } = declaration;
        let resource = Resource::queue(vhost.name(), &name);
        // An exclusive queue goes with its connection, so it is never kept.
        let kept = durable && !exclusive;
        let outcome = vhost.change(|inner| {
            inner.check_not_deleted(vhost.name())?;
            if let Some(queue) = inner.topology.queue_id(&name).and_then(|id| inner.queues.get(&id)) {
                check_equivalent(queue, kept, exclusive, auto_delete, connection, arguments)?;
                // Here, so that it does not expire before the reply.
                queue.lock().renew_by_declaration();
                return Ok(queue.clone());
            }
            if !generated && name.starts_with("amq.") {
                return Err(errors::reserved_prefix(resource));
            }
            inner.check_queue_limit(vhost.name(), &name)?;
            let machine = new_machine(&declaration, resource)?;
            self.unknown_arguments.warn(resource, arguments, is_known_of_queues);
            let definition = QueueDefinition {
                vhost: vhost.name().clone(),
                name: Name::truncated(&name),
                durable: kept,
                auto_delete,
                owner: exclusive.then_some(connection),
            };
            Ok(self.add_queue(inner, definition, arguments.clone(), machine))
        });
        Ok(Declared::of(outcome?))
    }

    /// Makes a queue that definitions ask for, or checks that the one there is equivalent. Its name may be one that only
    /// the broker gives, and the virtual host's limit is looked at before.
    pub(crate) fn import_queue(
        &self,
        vhost: &VirtualHost,
        declaration: &QueueDeclaration,
    ) -> Result<(), ReplyError> {
        let QueueDeclaration { name, durable, auto_delete, arguments, .. } = declaration;
        vhost.change(|inner| {
            inner.check_not_deleted(vhost.name())?;
            if let Some(queue) = inner.topology.queue_id(name).and_then(|id| inner.queues.get(&id)) {
                return check_equivalent(queue, *durable, false, *auto_delete, 0, arguments);
            }
            let machine = new_machine(declaration, Resource::queue(vhost.name(), name))?;
            let definition = QueueDefinition {
                vhost: vhost.name().clone(),
                name: Name::truncated(name),
                durable: *durable,
                auto_delete: *auto_delete,
                owner: None,
            };
            self.add_queue(inner, definition, arguments.clone(), machine);
            Ok(())
        })
    }

    /// Makes the queue behind `amq.rabbitmq.reply-to` of one channel.
    pub fn declare_reply_queue(&self, vhost: &VirtualHost, connection: u64) -> Arc<QueueHandle> {
        let name = unique_name(crate::vhost::REPLY_QUEUE_PREFIX);
        let definition = QueueDefinition {
            vhost: vhost.name().clone(),
            name: Name::truncated(&name),
            durable: false,
            auto_delete: true,
            owner: Some(connection),
        };
        vhost.change(|inner| {
            inner.reply_queues += 1;
            self.add_queue(inner, definition, FieldTable::default(), Machine::default())
        })
    }

    fn add_queue(
        &self,
        inner: &mut Inner,
        definition: QueueDefinition,
        arguments: FieldTable,
        machine: Machine,
    ) -> Arc<QueueHandle> {
        let (queue, ops) = self.insert_queue(inner, definition, arguments, machine);
        self.keep(ops);
        queue
    }

    /// Adds a queue, and says what is to be kept of it.
    pub(crate) fn insert_queue(
        &self,
        inner: &mut Inner,
        definition: QueueDefinition,
        arguments: FieldTable,
        mut machine: Machine,
    ) -> (Arc<QueueHandle>, Vec<MetaOp>) {
        let mut ops = Vec::new();
        let id = self.next_queue_id();
        let setup = QueueSetup::declared(arguments);
        if definition.durable {
            ops.push(records::put_queue(id, &definition, &setup));
        }
        inner.topology.add_queue(definition.name.clone(), id, definition.durable);
        let object = policies::object(setup.kind());
        let applied = inner.queue_policy(object, &definition.name);
        let declared = machine.settings().clone();
        machine.set_settings(policies::effective_settings(declared, applied.as_deref()));
        let queue = Arc::new(QueueHandle::new(id, definition, setup, machine, self.memory().clone()));
        {
            let mut state = queue.lock();
            state.policy = applied;
            state.renew_lease();
            expiry::await_lease(self, &queue, &mut state);
        }
        inner.queues.insert(id, queue.clone());
        (queue, ops)
    }

    /// Deletes a queue by name; the number of messages it had that were not handed out. A missing one is fine.
    pub fn delete_queue(
        &self,
        vhost: &VirtualHost,
        name: &str,
        when: DeleteIf,
        connection: Option<u64>,
    ) -> Result<u64, ReplyError> {
        let Some(queue) = vhost.find_queue(name) else { return Ok(0) };
        if let Some(connection) = connection {
            vhost.check_owner(&queue, connection)?;
        }
        self.remove_queue(vhost, &queue, when)
    }

    /// Deletes a queue; the number of ready messages it had.
    pub fn remove_queue(
        &self,
        vhost: &VirtualHost,
        queue: &Arc<QueueHandle>,
        when: DeleteIf,
    ) -> Result<u64, ReplyError> {
        let resource = Resource::queue(vhost.name(), &queue.definition.name);
        self.remove_queue_if(vhost, queue, |state| {
            if when.unused && !state.machine.roster().is_empty() {
                return Err(errors::in_use(resource));
            }
            if when.empty && state.machine.ready() + state.machine.delayed() > 0 {
                return Err(errors::not_empty(resource));
            }
            Ok(true)
        })
    }

    /// Deletes a queue if `may` says so of its state; the number of ready messages it had.
    pub(crate) fn remove_queue_if(
        &self,
        vhost: &VirtualHost,
        queue: &Arc<QueueHandle>,
        may: impl FnOnce(&QueueState) -> Result<bool, ReplyError>,
    ) -> Result<u64, ReplyError> {
        // What the log knows the queue by.
        let mut levels = Vec::new();
        let (messages, consumers) = vhost.change(|inner| {
            let mut state = queue.lock();
            if !may(&state)? || std::mem::replace(&mut state.deleted, true) {
                return Ok((0, Vec::new()));
            }
            let messages = state.machine.ready() + state.machine.delayed();
            let consumers: Vec<ConsumerWaker> =
                state.machine.roster().iter().map(|(_, consumer)| consumer.waker.clone()).collect();
            let locations = state.machine.locations();
            levels = state.machine.next_seqs().into_iter().map(|seq| queue.id.with_level_of(seq)).collect();
            if let Some(segments) = self.segments() {
                residency::release(&mut state, segments);
                for location in &locations {
                    segments.release(location);
                }
            }
            state.machine = Machine::default();
            self.timers().cancel(state.timer_ms, queue.id);
            let (waiting, getting) = (std::mem::take(&mut state.waiting), std::mem::take(&mut state.getting));
            waiting.iter().chain(&getting).for_each(|session| session.room());
            drop(state);
            inner.queues.remove(&queue.id);
            let behind_reply_to = queue.definition.name.starts_with(crate::vhost::REPLY_QUEUE_PREFIX);
            inner.reply_queues -= usize::from(behind_reply_to);
            let mut ops = Vec::new();
            if queue.definition.durable {
                ops.push(records::delete_queue(vhost.name(), &queue.definition.name));
            }
            let changes = inner.topology.remove_queue(queue.id);
            ops.extend(self.topology_ops(vhost, &changes));
            self.keep(ops);
            Ok((messages, consumers))
        })?;
        if queue.definition.durable
            && let Some(wal) = self.wal()
        {
            let mut stage = wal.stage();
            for level in levels {
                stage.queue_deleted(level);
            }
        }
        for consumer in consumers {
            consumer.cancelled();
        }
        Ok(messages)
    }

    /// Declares an exchange, or checks that the one there is equivalent.
    pub fn declare_exchange(&self, vhost: &VirtualHost, exchange: ExchangeRecord) -> Result<(), ReplyError> {
        self.change_topology(vhost, |inner| {
            inner.check_not_deleted(vhost.name())?;
            let ExchangeRecord { name, arguments, .. } = exchange.clone();
            let changes = inner.topology.declare_exchange(exchange)?;
            let resource = Resource::exchange(vhost.name(), &name);
            let is_known = |argument: &str| argument == SUPER_STREAM || is_known_of_exchanges(argument);
            self.unknown_arguments.warn(resource, &arguments, is_known);
            inner.apply_exchange_policy(&name);
            Ok(changes)
        })
    }

    /// Deletes an exchange; a missing one is fine.
    pub fn delete_exchange(
        &self,
        vhost: &VirtualHost,
        name: &str,
        if_unused: bool,
    ) -> Result<(), ReplyError> {
        self.change_topology(vhost, |inner| inner.topology.delete_exchange(name, if_unused))
    }

    /// Binds a queue or an exchange. Messages that the source has kept for a new binding come back, oldest first, to be
    /// published there.
    pub fn bind(&self, vhost: &VirtualHost, binding: BindingRecord) -> Result<Vec<Kept>, ReplyError> {
        let source = binding.source.clone();
        let mut kept = Vec::new();
        self.change_topology(vhost, |inner| {
            inner.check_not_deleted(vhost.name())?;
            let epoch = inner.topology.epoch();
            let changes = inner.topology.bind(binding)?;
            let routes_as = inner.topology.routes_as(&source);
            if inner.topology.epoch() != epoch && routes_as == Some(ExchangeKind::RecentHistory) {
                kept = vhost.history(&source);
            }
            Ok(changes)
        })?;
        Ok(kept)
    }

    /// Removes a binding; a missing one is fine.
    pub fn unbind(&self, vhost: &VirtualHost, binding: BindingRecord) -> Result<(), ReplyError> {
        self.change_topology(vhost, |inner| inner.topology.unbind(binding))
    }

    fn change_topology(
        &self,
        vhost: &VirtualHost,
        change: impl FnOnce(&mut Inner) -> Result<Vec<TopologyChange>, ReplyError>,
    ) -> Result<(), ReplyError> {
        vhost.change(|inner| {
            let changes = change(inner)?;
            let ops = self.topology_ops(vhost, &changes);
            // Queued under the lock, so that changes are kept in the order in which they were made.
            self.keep(ops);
            Ok(())
        })
    }

    /// What is to be kept of changes that were just made.
    pub(crate) fn topology_ops(&self, vhost: &VirtualHost, changes: &[TopologyChange]) -> Vec<MetaOp> {
        let mut ops = Vec::new();
        for change in changes {
            ops.push(records::topology_change(vhost.name(), change));
            match change {
                TopologyChange::PutExchange(exchange) if seen::keeps(exchange, vhost) => {
                    let id = self.next_queue_id();
                    ops.push(records::put_seen(vhost.name(), &exchange.name, id));
                    vhost.seen().keep(&exchange.name, id);
                }
                TopologyChange::DeleteExchange(name) => ops.push(records::delete_seen(vhost.name(), name)),
                _ => {}
            }
        }
        ops
    }

    /// Adds a consumer to a queue.
    pub fn add_consumer(
        &self,
        queue: &QueueHandle,
        consumer: ConsumerId,
        waker: ConsumerWaker,
        priority: i64,
        exclusive: bool,
    ) -> Result<(), ReplyError> {
        let mut state = queue.lock();
        let definition = &queue.definition;
        if state.deleted {
            return Err(errors::no_queue(&definition.vhost, &definition.name));
        }
        let Some(machine) = state.machine.classic() else {
            return Err(errors::no_queue(&definition.vhost, &definition.name));
        };
        let roster = &mut machine.roster;
        let alone = roster.is_empty() && !roster.is_single_active();
        if roster.has_exclusive() || (exclusive && !alone) {
            return Err(errors::exclusive_consumer(Resource::queue(&definition.vhost, &definition.name)));
        }
        roster.add(consumer, waker, priority, exclusive);
        Ok(())
    }

    /// Removes a consumer; an auto-delete queue goes with its last one.
    pub fn remove_consumer(&self, vhost: &VirtualHost, queue: &Arc<QueueHandle>, consumer: ConsumerId) {
        let mut wakes = Vec::new();
        let (unused, left) = {
            let mut stage = self.wal().filter(|_| queue.is_stream).map(|wal| wal.stage());
            let mut state = queue.lock();
            let unused = state.machine.remove_consumer(consumer, &mut wakes);
            if let Some(stream) = state.machine.stream() {
                // Another one of its name may begin.
                streams::log_notes(queue, stream, stage.as_mut());
            }
            residency::read_for_stream(self, queue, &mut state);
            expiry::expire_now(self, queue, &mut state);
            if unused {
                state.renew_lease();
                expiry::await_lease(self, queue, &mut state);
            }
            (unused, deliver::take_departed(self, queue, &mut state))
        };
        deliver::log_departed(self, queue, left);
        deliver::wake_all(&mut wakes);
        if unused && queue.definition.auto_delete {
            // Somebody may have come meanwhile; then it stays.
            let _ = self.remove_queue(vhost, queue, DeleteIf { unused: true, empty: false });
        }
    }
}

/// An empty queue of the type and with the settings that a declaration asks for.
pub(crate) fn new_machine(
    declaration: &QueueDeclaration,
    resource: Resource<'_>,
) -> Result<Machine, ReplyError> {
    let arguments = &declaration.arguments;
    match QueueKind::of(arguments, resource)? {
        kind @ (QueueKind::Classic | QueueKind::Quorum) => {
            if kind == QueueKind::Quorum && !declaration.durable {
                return Err(errors::invalid_property("non-durable", resource));
            }
            let settings = QueueArguments::parse(arguments.clone(), resource)?.settings;
            let kept = declaration.durable && !declaration.exclusive;
            check_durability(arguments, &settings, kept, resource)?;
            let mut machine = Machine::default();
            machine.set_settings(settings);
            Ok(machine)
        }
        QueueKind::Stream => streams::declare(declaration, resource),
    }
}

/// Adds the virtual host's default queue type to a declaration that names none and can have it.
fn with_default_type(vhost: &VirtualHost, mut declaration: QueueDeclaration) -> QueueDeclaration {
    const QUEUE_TYPE: &str = "x-queue-type";
    if declaration.arguments.get(QUEUE_TYPE).is_some() {
        return declaration;
    }
    if let Some(default) = vhost.look(|inner| inner.metadata.default_queue_type) {
        let QueueDeclaration { ref name, durable, exclusive, auto_delete, .. } = declaration;
        let kind = default.as_default(durable, exclusive, auto_delete, name.is_empty());
        declaration.arguments.0.push((QUEUE_TYPE.to_owned(), FieldValue::string(kind.name())));
    }
    declaration
}

/// A queue that is not durable, or goes with its connection, cannot promise to keep messages.
fn check_durability(
    arguments: &FieldTable,
    settings: &QueueSettings,
    durable: bool,
    queue: Resource<'_>,
) -> Result<(), ReplyError> {
    const NAME: &str = "x-durability";
    if durable || arguments.get(NAME).is_none() || settings.durability == Durability::Memory {
        return Ok(());
    }
    let reason = format!(
        "\"expected 'memory' for a queue that is not durable or is exclusive, got '{}'\"",
        settings.durability.name()
    );
    Err(errors::invalid_argument(NAME, queue, &reason))
}

/// Checks that a queue is what a declaration asks for.
pub(crate) fn check_equivalent(
    queue: &QueueHandle,
    durable: bool,
    exclusive: bool,
    auto_delete: bool,
    connection: u64,
    arguments: &FieldTable,
) -> Result<(), ReplyError> {
    let current = &queue.definition;
    let resource = Resource::queue(&current.vhost, &current.name);
    if current.owner != exclusive.then_some(connection) {
        return Err(errors::exclusive_access(resource));
    }
    if current.durable != durable {
        return Err(errors::inequivalent_flag("durable", resource, durable, current.durable));
    }
    if current.auto_delete != auto_delete {
        return Err(errors::inequivalent_flag("auto_delete", resource, auto_delete, current.auto_delete));
    }
    let state = queue.lock();
    let declared = &state.setup.arguments;
    if queue.is_stream {
        return StreamArguments::check_equivalent(declared, arguments, resource);
    }
    QueueArguments::check_equivalent(declared, arguments, resource)
}
