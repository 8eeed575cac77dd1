//! Declaring and deleting queues, exchanges and bindings: topology, live queues and kept definitions together. Queues are
//! declared here.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use posthouse_model::args::{QueueArguments, QueueKind, is_known_of_queues};
use posthouse_model::durability::Durability;
use posthouse_model::errors::{self, Resource};
use posthouse_model::field::{FieldTable, FieldValue};
use posthouse_model::name::Name;
use posthouse_model::queue_settings::QueueSettings;
use posthouse_model::reply::ReplyError;
use posthouse_model::stream_args::StreamArguments;
use posthouse_storage::meta::MetaOp;

use crate::broker::Broker;
use crate::queue_handle::{Machine, QueueDefinition, QueueHandle};
use crate::queue_setup::QueueSetup;
use crate::vhost::{Inner, VirtualHost};
use crate::{expiry, policies, records, streams};

mod consumers;
mod deleting;
mod topology;

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
