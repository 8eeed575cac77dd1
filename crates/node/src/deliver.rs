//! Taking messages out of queues, settling them and giving them back, with what the log must know of it.

use std::sync::Arc;

use posthouse_model::attempts::Return;
use posthouse_model::ids::Seq;
use posthouse_queue::machine::delays::Back;
use posthouse_queue::machine::departures::{Departed, Reason};
use posthouse_queue::machine::roster::ConsumerId;
use posthouse_queue::machine::{Limits, Run, TakeEnd};

use crate::broker::Broker;
use crate::clock::now_ms;
use crate::dead_letters;
use crate::queue_handle::{QueueGuard, QueueHandle};
use crate::waker::{ConsumerWaker, SessionWaker};
use crate::{expiry, policies, residency};

/// Inclusive ranges of message numbers.
pub type Ranges = [(Seq, Seq)];

/// How a taking ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Taken {
    /// Why it did.
    pub end: TakeEnd,
    /// Milliseconds the queue gives a consumer to acknowledge what was taken, if it does.
    pub timeout_ms: Option<u64>,
}

/// Takes messages for a consumer, appending to `runs`; `no_ack` settles them at once.
pub fn take(
    broker: &Broker,
    queue: &Arc<QueueHandle>,
    consumer: ConsumerId,
    limits: Limits,
    no_ack: bool,
    runs: &mut Vec<Run>,
) -> Taken {
    let from = runs.len();
    let mut wakes = Vec::new();
    let mut state = expiry::lock_current(broker, queue);
    let timeout_ms = state.machine.consumer_timeout_ms();
    if state.deleted {
        return Taken { end: TakeEnd::Parked, timeout_ms };
    }
    let (end, settled) = state.machine.take(consumer, limits, no_ack, runs, &mut wakes);
    after_take(broker, queue, state, end, &runs[from..], no_ack && settled.persistent);
    wake_all(&mut wakes);
    Taken { end, timeout_ms }
}

/// Takes one message for `basic.get`, and how many are left; `None` for the run when there is none, and
/// `NeedsLoad` when one is there but must be read first: try again when `waker` is told `room`.
pub fn get(
    broker: &Broker,
    queue: &Arc<QueueHandle>,
    no_ack: bool,
    waker: &Arc<SessionWaker>,
) -> (TakeEnd, Option<Run>, u64) {
    let mut runs = Vec::new();
    let mut state = expiry::lock_current(broker, queue);
    if state.deleted {
        return (TakeEnd::Parked, None, 0);
    }
    state.renew_lease();
    let limits = Limits { messages: 1, bytes: usize::MAX };
    let Some(machine) = state.machine.classic() else { return (TakeEnd::Parked, None, 0) };
    let (end, settled) = machine.take_any(limits, no_ack, &mut runs);
    let left = machine.ready();
    let mut wakes = Vec::new();
    machine.wake_after_settling(&mut wakes);
    let end = if runs.is_empty() { end } else { TakeEnd::Limit };
    if end == TakeEnd::NeedsLoad {
        state.getting.push(waker.clone());
    }
    after_take(broker, queue, state, end, &runs, no_ack && settled.persistent);
    wake_all(&mut wakes);
    (end, runs.pop(), left)
}

fn after_take(
    broker: &Broker,
    queue: &Arc<QueueHandle>,
    mut state: QueueGuard<'_>,
    end: TakeEnd,
    runs: &[Run],
    log_settled: bool,
) {
    for run in runs {
        state.counters.delivered += u64::from(run.count);
        if run.redelivered {
            state.counters.redelivered += u64::from(run.count);
        }
    }
    if queue.is_stream {
        residency::read_for_stream(broker, queue, &mut state);
    } else if end == TakeEnd::NeedsLoad {
        // Whoever waits is told when the reading is done; told now, a `basic.get` would try again at once, forever.
        residency::need_load(broker, queue, &mut state);
    } else {
        residency::after_take(&mut state);
    }
    release_segments(broker, &mut state);
    drop(state);
    if log_settled && let Some(wal) = broker.wal() {
        let mut stage = wal.stage();
        for run in runs {
            stage.settle(queue.id, &[(run.first_seq, run.last_seq())]);
        }
    }
}

/// Settles messages that a consumer acknowledged.
pub fn settle(broker: &Broker, queue: &QueueHandle, ranges: &Ranges) {
    let mut persistent = false;
    let mut wakes = Vec::new();
    {
        let mut state = queue.lock();
        if state.deleted {
            return;
        }
        for &(first, last) in ranges {
            let settled = state.machine.settle(first, last);
            state.counters.acknowledged += settled.count;
            persistent |= settled.persistent;
        }
        state.machine.wake_after_settling(&mut wakes);
        residency::after_take(&mut state);
        release_segments(broker, &mut state);
    }
    if persistent && let Some(wal) = broker.wal() {
        wal.stage().settle(queue.id, ranges);
    }
    wake_all(&mut wakes);
}

/// A consumer does not want messages and does not give them back: they leave.
pub fn reject(broker: &Broker, queue: &Arc<QueueHandle>, ranges: &Ranges, reason: Reason) {
    let mut wakes = Vec::new();
    let left = {
        let mut state = queue.lock();
        if state.deleted {
            return;
        }
        for &(first, last) in ranges {
            state.machine.reject(first, last, reason);
        }
        state.machine.wake_after_settling(&mut wakes);
        take_departed(broker, queue, &mut state)
    };
    log_departed(broker, queue, left);
    wake_all(&mut wakes);
}

/// Gives messages back to their places.
pub fn give_back(broker: &Broker, queue: &Arc<QueueHandle>, ranges: &Ranges, why: Return) {
    let mut wakes = Vec::new();
    let (mut attempts, mut delays) = (Vec::new(), Vec::new());
    let left = {
        let mut state = queue.lock();
        if state.deleted {
            return;
        }
        // The millisecond that has begun does not count.
        let now_ms = if state.machine.delays_retries() { now_ms() + 1 } else { 0 };
        for &(first, last) in ranges {
            state.machine.take_back(first, last, Back { why, now_ms }, &mut wakes);
            state.machine.note_attempts(first, last, &mut attempts);
            state.machine.note_delays(first, last, &mut delays);
        }
        expiry::expire_now(broker, queue, &mut state);
        take_departed(broker, queue, &mut state)
    };
    log_departed(broker, queue, left);
    if !attempts.is_empty()
        && queue.definition.durable
        && let Some(wal) = broker.wal()
    {
        let mut stage = wal.stage();
        stage.attempts(queue.id, &attempts);
        if !delays.is_empty() {
            stage.delays(queue.id, &delays);
        }
    }
    wake_all(&mut wakes);
}

/// Lets a queue do what its setup and its policy say, with effect on what is in it. They are looked at here and nowhere
/// before, so that whoever comes last brings nothing back that was changed meanwhile. Sessions must be told by a new epoch of
/// the virtual host when the queue begins or ceases to refuse messages.
pub(crate) fn put_in_force(broker: &Broker, queue: &Arc<QueueHandle>) {
    let left = {
        let mut state = queue.lock();
        if state.deleted {
            return;
        }
        let settings = policies::effective_settings(state.setup.settings(), state.policy.as_deref());
        let lease_changes = state.machine.settings().expires_ms != settings.expires_ms;
        state.machine.set_settings(settings);
        residency::survey(broker, queue, &mut state);
        expiry::expire_now(broker, queue, &mut state);
        if lease_changes {
            state.renew_lease();
            expiry::await_lease(broker, queue, &mut state);
        }
        take_departed(broker, queue, &mut state)
    };
    log_departed(broker, queue, left);
}

/// What left a queue for good while it was locked, and who is to hear of it when no lock is held any more.
#[derive(Debug, Default)]
#[must_use]
pub(crate) struct Left {
    pub(crate) departed: Departed,
    pub(crate) wakes: Wakes,
}

/// Who is to be woken when no lock is held any more.
#[derive(Debug, Default)]
pub(crate) struct Wakes {
    pub(crate) consumers: Vec<ConsumerWaker>,
    /// Publishers that were paced.
    pub(crate) publishers: Vec<Arc<SessionWaker>>,
}

impl Wakes {
    pub(crate) fn append(&mut self, mut others: Self) {
        self.consumers.append(&mut others.consumers);
        self.publishers.append(&mut others.publishers);
    }

    /// Wakes them, and empties the lists.
    pub(crate) fn wake(&mut self) {
        wake_all(&mut self.consumers);
        self.publishers.drain(..).for_each(|publisher| publisher.room());
    }
}

/// What left a queue for good while it was locked, and the places on disk that this freed; what left for its dead-letter
/// exchange is on its way.
pub(crate) fn take_departed(broker: &Broker, queue: &Arc<QueueHandle>, state: &mut QueueGuard<'_>) -> Left {
    dead_letters::schedule(broker, queue, state);
    let mut left = Left::default();
    state.machine.wake_after_settling(&mut left.wakes.consumers);
    left.departed = state.machine.take_departed();
    if !left.departed.ranges.is_empty() {
        left.wakes.publishers = residency::relieved(state);
        release_segments(broker, state);
    }
    left
}

/// Tells the log what left a queue, and wakes who is to hear of it; the queue must not be locked.
pub(crate) fn log_departed(broker: &Broker, queue: &QueueHandle, mut left: Left) {
    let Left { departed, wakes } = &mut left;
    if departed.persistent
        && queue.definition.durable
        && let Some(wal) = broker.wal()
    {
        wal.stage().settle(queue.id, &departed.ranges);
    }
    wakes.wake();
}

/// Drops all messages that are ready or delayed and says how many there were.
pub fn purge(broker: &Broker, queue: &Arc<QueueHandle>) -> u64 {
    let (mut ranges, mut wakes) = (Vec::new(), Vec::new());
    let purged = {
        let mut state = expiry::lock_current(broker, queue);
        let purged = state.machine.classic().map(|machine| machine.purge(&mut ranges)).unwrap_or_default();
        state.machine.wake_after_settling(&mut wakes);
        residency::after_take(&mut state);
        release_segments(broker, &mut state);
        purged
    };
    if purged.persistent
        && let Some(wal) = broker.wal()
    {
        wal.stage().settle(queue.id, &ranges);
    }
    wake_all(&mut wakes);
    purged.count
}

/// A consumer cannot take messages now and leaves its turn to others, until its next [`take`].
pub fn block(broker: &Broker, queue: &Arc<QueueHandle>, consumer: ConsumerId) {
    let mut wakes = Vec::new();
    let left = {
        let mut state = queue.lock();
        state.machine.block(consumer, &mut wakes);
        residency::read_for_stream(broker, queue, &mut state);
        expiry::expire_now(broker, queue, &mut state);
        take_departed(broker, queue, &mut state)
    };
    log_departed(broker, queue, left);
    wake_all(&mut wakes);
}

/// Wakes every consumer on the list and empties it.
pub fn wake_all(wakes: &mut Vec<ConsumerWaker>) {
    for wake in wakes.drain(..) {
        wake.wake();
    }
}

fn release_segments(broker: &Broker, state: &mut QueueGuard<'_>) {
    if let Some(segments) = broker.segments() {
        residency::release(state, segments);
    }
}
