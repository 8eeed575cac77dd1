//! Keeping messages' memory within bounds: writing chunks to segments, reading them back, pacing publishers.
//!
//! One thread writes, one reads. A queue asks for the one or the other at most once at a time.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, PoisonError};

use posthouse_storage::segment::SegmentStore;

use crate::broker::Broker;
use crate::queue_handle::{Machine, QueueHandle, QueueState};
use crate::waker::SessionWaker;
use crate::{expiry, streams};

pub(crate) use read::{FailedRead, READ_AGAIN_AFTER, after_failed_read, give_up};
pub use write::write_chunks;
pub(crate) use write::{WRITE_BYTES, in_turns, note_written};

mod read;
mod write;

/// Memory of one queue from which on its chunks are written to segments, where consumers do not drain it.
const SPILL_BYTES: usize = 2 << 20;

/// The same while all queues together are over the budget.
const SPILL_BYTES_TIGHT: usize = 256 << 10;

/// Memory of one queue from which on its publishers wait for consumers that drain it, or for the writing.
const PACED_BYTES: usize = 4 << 20;

/// What stays in memory ahead of the cursor when a queue is spilled.
const KEEP_BYTES: usize = 1 << 20;

/// The same while all queues together are over the budget and the queue has consumers.
const KEEP_BYTES_TIGHT: usize = 64 << 10;

/// Less is not worth a write.
const RELIEF_BYTES_MIN: usize = 16 << 10;

/// Memory of one queue from which on it is spilled even though consumers take.
const PACED_MAX_BYTES: usize = 64 << 20;

/// Asks the two threads for work.
#[derive(Debug)]
pub struct Residency {
    spill: Asking,
    load: Asking,
}

/// To one of the threads; nowhere when the broker is being stopped.
type Asking = std::sync::Mutex<Option<Sender<Arc<QueueHandle>>>>;

/// The receiving ends, for the threads.
#[derive(Debug)]
pub struct Work {
    spill: Receiver<Arc<QueueHandle>>,
    load: Receiver<Arc<QueueHandle>>,
}

impl Residency {
    /// The two queues of work.
    pub fn new() -> (Self, Work) {
        let ((spill, spill_work), (load, load_work)) = (channel(), channel());
        let residency = Self { spill: Asking::new(Some(spill)), load: Asking::new(Some(load)) };
        (residency, Work { spill: spill_work, load: load_work })
    }

    /// Has a queue's excess written to segments.
    fn spill(&self, queue: &Arc<QueueHandle>) {
        ask(&self.spill, queue);
    }

    /// Has a queue's next chunks read from segments.
    fn load(&self, queue: &Arc<QueueHandle>) {
        ask(&self.load, queue);
    }

    /// Nothing is to be written or read any more: wakes the threads, which end.
    pub(crate) fn close(&self) {
        for asking in [&self.spill, &self.load] {
            asking.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }
}

fn ask(asking: &Asking, queue: &Arc<QueueHandle>) {
    if let Some(sender) = &*asking.lock().unwrap_or_else(PoisonError::into_inner) {
        // The thread ends with the broker, or when it was told to.
        let _ = sender.send(queue.clone());
    }
}

/// Called after messages arrived, under the queue's lock: starts a spill when the queue has too much in memory;
/// whether its publishers should pause, for that or because what they drop cannot be moved as fast.
pub fn after_push(broker: &Broker, queue: &Arc<QueueHandle>, state: &mut QueueState, now_ms: u64) -> bool {
    has_too_much(broker, queue, state, now_ms) || state.machine.has_too_many_drops()
}

fn has_too_much(broker: &Broker, queue: &Arc<QueueHandle>, state: &mut QueueState, now_ms: u64) -> bool {
    let over_budget = is_over_budget(broker);
    let machine = match &mut state.machine {
        Machine::Classic(machine) => machine,
        Machine::Stream(stream) => {
            let (spill, pace) = (streams::must_spill(stream, over_budget), streams::must_pace(stream));
            if spill {
                start_spill(broker, queue, state);
            }
            return pace && state.spilling;
        }
    };
    let bytes = machine.memory_bytes();
    if bytes < if over_budget { SPILL_BYTES_TIGHT } else { SPILL_BYTES } {
        return false;
    }
    let (waiting, ready) = (machine.waiting_bytes(), machine.ready());
    // Consumers that keep up are given the chance to before anything is written to disk for them.
    let handed_out = bytes.saturating_sub(waiting);
    let draining = state.drain.is_fast(now_ms, state.counters.delivered, ready);
    if !draining || over_budget || handed_out >= PACED_BYTES || waiting >= PACED_MAX_BYTES {
        start_spill(broker, queue, state);
    }
    waiting >= PACED_BYTES && (draining || state.spilling)
}

/// Whether publishers to the queue are waiting now.
pub fn is_paced(state: &mut QueueState) -> bool {
    if state.waiting.is_empty() {
        return false;
    }
    let may_wait = state.drain.fast || state.spilling;
    state.machine.has_too_many_drops()
        || may_wait && state.machine.classic().is_some_and(|machine| machine.waiting_bytes() >= PACED_BYTES)
}

/// Whether a publisher that was told to pause has to wait on: consumers are busy making room, or the disk is.
pub fn must_wait(broker: &Broker, queue: &Arc<QueueHandle>, now_ms: u64) -> bool {
    let mut state = queue.lock();
    !state.deleted && after_push(broker, queue, &mut state, now_ms)
}

fn start_spill(broker: &Broker, queue: &Arc<QueueHandle>, state: &mut QueueState) {
    if let Some(residency) = broker.residency().filter(|_| !state.spilling) {
        state.spilling = true;
        residency.spill(queue);
    }
}

/// Whether consumers drain a queue fast enough for its publishers to wait for them.
#[derive(Debug)]
pub struct Drain {
    window_start_ms: u64,
    delivered_before: u64,
    fast: bool,
}

impl Default for Drain {
    fn default() -> Self {
        Self { window_start_ms: 0, delivered_before: 0, fast: true }
    }
}

impl Drain {
    /// Judges by the deliveries of windows of 100 ms: fast is what would hand out all that is ready in a second, or
    /// what no publisher can complain of.
    fn is_fast(&mut self, now_ms: u64, delivered: u64, ready: u64) -> bool {
        const WINDOW_MS: u64 = 100;
        const WINDOWS: u64 = 10;
        const FAST_PER_SECOND: u64 = 50_000;
        // A clock that was set back ends the window, too: its verdict would stand until the clock has caught up.
        if now_ms.abs_diff(self.window_start_ms) >= WINDOW_MS {
            self.fast =
                (delivered - self.delivered_before).saturating_mul(WINDOWS) >= ready.min(FAST_PER_SECOND);
            self.delivered_before = delivered;
            self.window_start_ms = now_ms;
        }
        self.fast
    }
}

/// Called after messages were taken, under the queue's lock: lets paced publishers go on.
pub fn after_take(state: &mut QueueState) {
    relieved(state).iter().for_each(|waiting| waiting.room());
}

/// The same for who holds the log's staging lock: the publishers are to be told when that is released.
pub(crate) fn relieved(state: &mut QueueState) -> Vec<Arc<SessionWaker>> {
    if state.waiting.is_empty() {
        return Vec::new();
    }
    // What publishers of a stream wait for is the disk.
    let relieved = state.machine.classic().is_some_and(|machine| machine.waiting_bytes() < PACED_BYTES / 2);
    if relieved { std::mem::take(&mut state.waiting) } else { Vec::new() }
}

/// While all queues together are over the budget, has each of them written to segments: those that nobody publishes
/// to would keep theirs for ever otherwise, and enough of them would hold back every publisher for good.
pub(crate) fn relieve(broker: &Broker) {
    if broker.residency().is_none() || !is_over_budget(broker) {
        return;
    }
    for queue in broker.vhosts().iter().flat_map(|vhost| vhost.all_queues()) {
        let mut state = queue.lock();
        if state.machine.memory_bytes() > keep_bytes(&state.machine, true) + RELIEF_BYTES_MIN {
            start_spill(broker, &queue, &mut state);
        }
    }
}

fn is_over_budget(broker: &Broker) -> bool {
    broker.memory().bytes() > broker.settings().memory_budget_bytes
}

/// What stays in memory ahead of the cursor when a queue is spilled.
fn keep_bytes(machine: &Machine, over_budget: bool) -> usize {
    match over_budget {
        false => KEEP_BYTES,
        true if machine.roster().is_empty() => 0,
        true => KEEP_BYTES_TIGHT,
    }
}

/// Called when the next message to hand out is not in memory, under the queue's lock.
pub fn need_load(broker: &Broker, queue: &Arc<QueueHandle>, state: &mut QueueState) {
    if let Some(residency) = broker.residency().filter(|_| !state.loading) {
        state.loading = true;
        residency.load(queue);
    }
}

/// Called when a stream's reader took something or left, under the stream's lock: has read what readers wait for.
pub(crate) fn read_for_stream(broker: &Broker, queue: &Arc<QueueHandle>, state: &mut QueueState) {
    if state.machine.stream().is_some_and(|stream| stream.has_work()) {
        need_load(broker, queue, state);
    }
}

/// Has the chunks read whose details a queue needs and does not know.
pub fn survey(broker: &Broker, queue: &Arc<QueueHandle>, state: &mut QueueState) {
    if state.machine.classic().is_some_and(|machine| !machine.is_surveyed()) {
        need_load(broker, queue, state);
    }
}

/// Starts the two threads.
pub fn start(work: Work, broker: &Arc<Broker>, segments: Arc<SegmentStore>) -> std::io::Result<()> {
    let Work { spill, load } = work;
    let store = segments.clone();
    let (memory, budget) = (broker.memory().clone(), broker.settings().memory_budget_bytes);
    broker.workers().spawn("spill", move |stopping| {
        while let Ok(queue) = spill.recv() {
            if stopping.is_told() {
                return;
            }
            write::spill_queue(&queue, &store, || memory.bytes() > budget);
        }
    })?;
    let weak = Arc::downgrade(broker);
    broker.workers().spawn("load", move |stopping| {
        let mut busy = VecDeque::new();
        while let Some(queue) = read::next_to_load(&load, &mut busy) {
            if stopping.is_told() {
                return;
            }
            let again = read::load_queue(&queue, &segments, stopping);
            let Some(broker) = weak.upgrade() else { return };
            read::survey_queue(&broker, &queue, &segments, stopping);
            // What was read may be due, now or some time.
            drop(expiry::lock_current(&broker, &queue));
            if again {
                busy.push_back(queue);
            }
        }
    })?;
    Ok(())
}

fn end_spill(state: &mut QueueState) {
    state.spilling = false;
    let_publishers_go_on(state);
}

pub(crate) fn let_publishers_go_on(state: &mut QueueState) {
    for waiting in state.waiting.drain(..) {
        waiting.room();
    }
}

/// Gives back the places in segments that a queue no longer uses.
pub fn release(state: &mut QueueState, segments: &SegmentStore) {
    for location in state.machine.take_released() {
        segments.release(&location);
    }
}

#[cfg(test)]
mod tests;
