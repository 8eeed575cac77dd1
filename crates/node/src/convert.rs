//! Converting a queue to another type while it is in use, classic to quorum or back.
//!
//! It stays the same queue: its identity, its messages with their numbers and its consumers are what they were. Both types
//! are the same machine, so what changes is what it is to do, and the definition. In steps:
//!
//! 1. A queue that is to keep everything begins to do so: what arrives from now on goes into the log.
//! 2. What was there and would not survive a restart is written to segments, and a checkpoint says so (`owner.rs`).
//! 3. The new definition is committed. A crash before leaves the old type, with nothing lost; after it, the new one.
//! 4. The queue takes over what its new type says. Its levels are others than those that have messages
//!    ([`posthouse_model::former_levels`]), so that no message has to move.

use std::sync::Arc;

use posthouse_model::args::{QueueArguments, QueueKind};
use posthouse_model::durability::Durability;
use posthouse_model::errors::{self, Resource};
use posthouse_storage::StorageError;

use crate::admin::{AdminError, find_vhost};
use crate::broker::{Broker, Store};
use crate::queue_handle::{Machine, QueueHandle};
use crate::queue_setup::QueueSetup;
use crate::vhost::VirtualHost;
use crate::{deliver, events, policies, records};

/// Checkpoints until everything is kept: two, unless the log wants some itself.
const CHECKPOINTS_MAX: u32 = 16;

/// Converts a queue, and says which type it had. Blocks for as long as it takes to write what was not kept. One that is of
/// the type already stays as it is.
///
/// # Errors
/// There is no such virtual host or queue, the queue cannot be of that type, or it is being converted; or the disk has
/// no room. The queue is then what it was.
pub fn convert(broker: &Broker, vhost: &str, name: &str, to: QueueKind) -> Result<QueueKind, AdminError> {
    let vhost = find_vhost(broker, vhost)?;
    let queue = vhost.find_queue(name).ok_or_else(|| errors::no_queue(vhost.name(), name));
    let queue = queue.map_err(AdminError::Reply)?;
    let (from, setup) = begin(&queue, to)?;
    if from == to {
        return Ok(from);
    }
    let converted = carry_out(broker, &vhost, &queue, (from, to), setup);
    if converted.is_err() {
        queue.set_keeps_all(from != QueueKind::Classic);
    }
    queue.lock().converting = false;
    converted.map(|()| from)
}

/// Checks that a queue can be converted, and marks it; its type and what it is to be set up with.
fn begin(queue: &QueueHandle, to: QueueKind) -> Result<(QueueKind, QueueSetup), AdminError> {
    let definition = &queue.definition;
    let resource = Resource::queue(&definition.vhost, &definition.name);
    let refused =
        |why: &str| Err(AdminError::NotConvertible(definition.name.to_string(), to.name(), why.into()));
    let mut state = queue.lock();
    let from = state.setup.kind();
    if state.deleted {
        return Err(AdminError::Reply(errors::no_queue(resource.vhost, resource.name)));
    }
    if from == to {
        return Ok((from, state.setup.clone()));
    }
    if from == QueueKind::Stream || to == QueueKind::Stream {
        return refused("expected a classic or a quorum queue, and one of these as its new type");
    }
    if to == QueueKind::Quorum && !definition.durable {
        return refused("expected a durable queue that is not exclusive");
    }
    if state.converting {
        return refused("it is being converted");
    }
    let arguments = state.setup.arguments_of(to);
    QueueArguments::parse(arguments.clone(), resource).map_err(AdminError::Reply)?;
    let (now, next) =
        (state.setup.settings().levels(), QueueSetup::declared(arguments.clone()).settings().levels());
    let is_empty = |level: u8| match &state.machine {
        Machine::Classic(machine) => machine.is_level_empty(level),
        Machine::Stream(_) => false,
    };
    let Some(former_levels) = state.setup.former_levels.then(now, next, is_empty) else {
        return refused(
            "messages from before earlier conversions take up the levels that it needs; consume these first, or declare \
             a new queue of that type and move all messages there, with `posthouse ctl move_messages`",
        );
    };
    state.converting = true;
    Ok((from, QueueSetup { arguments, former_levels }))
}

fn carry_out(
    broker: &Broker,
    vhost: &VirtualHost,
    queue: &Arc<QueueHandle>,
    (from, to): (QueueKind, QueueKind),
    setup: QueueSetup,
) -> Result<(), AdminError> {
    if to == QueueKind::Quorum {
        queue.set_keeps_all(true);
        keep_everything(broker, queue)?;
    }
    if queue.definition.durable {
        // Under the lock, so that it is not made again after it was deleted.
        vhost.change(|_| {
            check_there(queue)?;
            broker.keep(vec![records::put_queue(queue.id, &queue.definition, &setup)]);
            Ok::<_, AdminError>(())
        })?;
        broker.store().meta().flush()?;
    }
    note_setup(vhost, queue, setup)?;
    // Not under the lock of the virtual host: messages that leave a queue by this are told to the log.
    deliver::put_in_force(broker, queue);
    // Publishers look again what it keeps, which levels it has, and whether it refuses messages.
    vhost.change(|inner| inner.topology.forget_routes());
    queue.set_keeps_all(to != QueueKind::Classic);
    broker
        .events()
        .emit("queue.converted", |fields| events::queue_fields(fields, queue).text("from", from.name()));
    Ok(())
}

/// Writes to segments what would not survive a restart, and has a checkpoint say so.
fn keep_everything(broker: &Broker, queue: &QueueHandle) -> Result<(), AdminError> {
    let Store::Log(storage) = broker.store() else { return Ok(()) };
    let wal = storage.messages.wal();
    let mut until = None;
    for _ in 0..CHECKPOINTS_MAX {
        if until.is_none() {
            let mut state = queue.lock();
            if queue.durability(&state) == Durability::Memory {
                return Ok(());
            }
            let is_kept = state.machine.classic().is_none_or(|machine| !machine.has_transient());
            until = is_kept.then(|| wal.appended());
        }
        let done = wal.sync().and_then(|()| storage.messages.checkpoint(broker, false));
        match (done, until) {
            // A checkpoint names what is in segments up to the first message that is in the log only. So what was kept
            // counts once everything is in segments that was in the log then.
            (Ok(report), Some(until)) if report.lsn >= until => return Ok(()),
            (Ok(_), _) => {}
            (Err(problem), _) => {
                broker.check_fatal(&problem);
                return Err(not_kept(queue, &problem.to_string()));
            }
        }
    }
    Err(not_kept(queue, "they are damaged, or the broker is stopping"))
}

fn not_kept(queue: &QueueHandle, why: &str) -> AdminError {
    let why = format!("its transient messages cannot be made durable: {why}");
    AdminError::NotConvertible(queue.definition.name.to_string(), QueueKind::Quorum.name(), why)
}

/// Notes with a queue what it is to be from now on, and the policy for that.
fn note_setup(vhost: &VirtualHost, queue: &QueueHandle, setup: QueueSetup) -> Result<(), AdminError> {
    vhost.change(|inner| {
        check_there(queue)?;
        let applied = inner.queue_policy(policies::object(setup.kind()), &queue.definition.name);
        let mut state = queue.lock();
        state.policy = applied;
        state.setup = setup;
        Ok(())
    })
}

/// Refuses a queue that was deleted meanwhile.
fn check_there(queue: &QueueHandle) -> Result<(), AdminError> {
    let definition = &queue.definition;
    match queue.lock().deleted {
        true => Err(AdminError::Reply(errors::no_queue(&definition.vhost, &definition.name))),
        false => Ok(()),
    }
}

impl Broker {
    /// Ends the process when a failed disk means that nothing can be promised any more.
    fn check_fatal(&self, problem: &StorageError) {
        if !problem.may_pass() {
            self.fatal(&problem.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use posthouse_model::policy::{Policy, PolicyKind};
    use serde_json::json;

    use super::*;
    use crate::admin;
    use crate::declare::QueueDeclaration;
    use crate::start::Keep;
    use crate::start::testing::{PLENTY_BYTES, broker};

    /// A policy that is set while a queue takes over its new type is not undone by that.
    #[test]
    fn a_policy_that_comes_in_between_stays() {
        let broker = broker(Keep::InMemory, PLENTY_BYTES);
        let vhost = broker.vhost("/").unwrap();
        let declaration = QueueDeclaration { name: "q".into(), durable: true, ..QueueDeclaration::default() };
        broker.declare_queue(&vhost, declaration, 1).unwrap();
        let queue = vhost.find_queue("q").unwrap();
        let set_length = |max_length: u64| {
            let value = json!({"pattern": "q", "definition": {"max-length": max_length}});
            admin::set_policy(
                &broker,
                "/",
                PolicyKind::User,
                Policy::from_value("p", &value, PolicyKind::User).unwrap(),
            )
            .unwrap();
        };
        let length = || queue.lock().machine.settings().max_length;
        set_length(5);
        assert_eq!(length(), Some(5));
        let (_, setup) = begin(&queue, QueueKind::Quorum).unwrap();
        note_setup(&vhost, &queue, setup).unwrap();
        set_length(3);
        deliver::put_in_force(&broker, &queue);
        assert_eq!(length(), Some(3));
        assert_eq!(queue.lock().setup.kind(), QueueKind::Quorum);
    }
}
