//! Reading messages back from segments, and those of which something is not known.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use posthouse_model::ids::Seq;
use posthouse_queue::machine::Queue;
use posthouse_storage::StorageError;
use posthouse_storage::segment::{Location, SegmentStore, is_gone};
use tracing::error;

use super::{release, survey};
use crate::broker::Broker;
use crate::queue_handle::QueueHandle;
use crate::waker::ConsumerWaker;
use crate::workers::Stopping;
use crate::{deliver, expiry, streams};

/// Read ahead of the cursor.
const READ_AHEAD_BYTES: usize = 1 << 20;

/// How long the reading rests when the machine refused it.
pub(crate) const READ_AGAIN_AFTER: std::time::Duration = std::time::Duration::from_millis(100);

/// The next of the queues that have more to read, or that asked meanwhile; waits for one to ask. None when the broker
/// is gone.
pub(super) fn next_to_load(
    asked: &Receiver<Arc<QueueHandle>>,
    busy: &mut VecDeque<Arc<QueueHandle>>,
) -> Option<Arc<QueueHandle>> {
    busy.extend(asked.try_iter());
    busy.pop_front().or_else(|| asked.recv().ok())
}

/// Reads what a queue needs; whether it is to have another turn.
pub(super) fn load_queue(queue: &Arc<QueueHandle>, segments: &SegmentStore, stopping: &Stopping) -> bool {
    if queue.is_stream {
        return streams::load(queue, segments, stopping);
    }
    // A chunk that was rewritten to another segment meanwhile is looked for again.
    while load_planned(queue, segments, stopping) && !stopping.is_told() {}
    false
}

/// Reads some chunks whose details the queue does not know, and has the next ones read in a later turn.
pub(super) fn survey_queue(
    broker: &Broker,
    queue: &Arc<QueueHandle>,
    segments: &SegmentStore,
    stopping: &Stopping,
) {
    let bytes_of = |location: Location| location.len as usize;
    let plan = queue.lock().machine.classic().map(|machine| machine.plan_survey(READ_AHEAD_BYTES, bytes_of));
    let Some(plan) = plan.filter(|plan| !plan.is_empty()) else { return };
    let mut refused = false;
    for (first_seq, location) in plan {
        let read = segments.read(&location, queue.id, first_seq);
        let mut state = queue.lock();
        let Some(machine) = state.machine.classic() else { return };
        match read {
            Ok(chunk) => machine.surveyed(first_seq, &chunk),
            Err(problem) => match after_failed_read(&problem) {
                // Moved to another segment meanwhile, or settled.
                _ if !machine.lies_at(first_seq, location) => {}
                FailedRead::TryAgain => refused = true,
                FailedRead::Damage => give_up(queue, machine, first_seq, &problem, &mut Vec::new()),
            },
        }
        machine.enforce_limits();
        expiry::expire_now(broker, queue, &mut state);
        let left = deliver::take_departed(broker, queue, &mut state);
        release(&mut state, segments);
        drop(state);
        deliver::log_departed(broker, queue, left);
    }
    if refused {
        stopping.rest(READ_AGAIN_AFTER);
    }
    survey(broker, queue, &mut queue.lock());
}

/// Counts a chunk that cannot be read as lost.
pub(crate) fn give_up(
    queue: &QueueHandle,
    machine: &mut Queue<Location, ConsumerWaker>,
    first_seq: Seq,
    problem: &StorageError,
    wakes: &mut Vec<ConsumerWaker>,
) {
    let messages = machine.lost(first_seq, wakes);
    error!(queue = %queue.definition.name, messages, %problem, "messages lost to a damaged segment");
}

/// Reads what the queue needs next; whether that must be repeated.
fn load_planned(queue: &Arc<QueueHandle>, segments: &SegmentStore, stopping: &Stopping) -> bool {
    let (plan, told) = {
        let mut state = queue.lock();
        state.loading = false;
        let Some(machine) = state.machine.classic() else { return false };
        let plan = machine.plan_load(READ_AHEAD_BYTES, |location| location.len as usize);
        // With nothing to read any more, because the queue was purged say, nobody would tell them below.
        let told = if plan.is_empty() { std::mem::take(&mut state.getting) } else { Vec::new() };
        (plan, told)
    };
    for session in told {
        session.room();
    }
    let (mut wakes, mut again, mut refused) = (Vec::new(), false, false);
    for (first_seq, location) in plan {
        let read = segments.read(&location, queue.id, first_seq);
        let mut state = queue.lock();
        let Some(machine) = state.machine.classic() else { return false };
        match read {
            Ok(chunk) => machine.loaded(first_seq, Arc::new(chunk), &mut wakes),
            Err(problem) => match after_failed_read(&problem) {
                _ if !machine.not_loaded(first_seq, location) => again = true,
                FailedRead::TryAgain => {
                    error!(queue = %queue.definition.name, %problem, "cannot read messages now");
                    refused = true;
                }
                FailedRead::Damage => give_up(queue, machine, first_seq, &problem, &mut wakes),
            },
        }
        release(&mut state, segments);
        let getting = std::mem::take(&mut state.getting);
        drop(state);
        for session in getting {
            session.room();
        }
        for wake in wakes.drain(..) {
            wake.wake();
        }
    }
    if refused {
        stopping.rest(READ_AGAIN_AFTER);
    }
    again || refused
}

/// What a read that failed means for the messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FailedRead {
    /// They are there; the machine has too little of something, such as file descriptors.
    TryAgain,
    /// They are gone.
    Damage,
}

pub(crate) fn after_failed_read(problem: &StorageError) -> FailedRead {
    /// What a disk that cannot read a sector gives.
    const EIO: i32 = 5;
    match problem {
        StorageError::Io { source, .. } if !is_gone(problem) && source.raw_os_error() != Some(EIO) => {
            FailedRead::TryAgain
        }
        _ => FailedRead::Damage,
    }
}
