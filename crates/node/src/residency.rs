//! Keeping messages' memory within bounds: writing chunks to segments, reading them back, pacing publishers.
//!
//! One thread writes, one reads. A queue asks for the one or the other at most once at a time.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, PoisonError};

use posthouse_model::ids::Seq;
use posthouse_queue::machine::Queue;
use posthouse_queue::machine::chunks::Persistence;
use posthouse_queue::machine::residency::ToWrite;
use posthouse_storage::StorageError;
use posthouse_storage::segment::{BlockIn, Class, Location, SegmentStore, is_gone};
use tracing::error;

use crate::broker::Broker;
use crate::queue_handle::{Machine, QueueHandle, QueueState};
use crate::waker::ConsumerWaker;
use crate::{deliver, expiry, streams};

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

/// Written per turn, so that many queues take turns.
const WRITE_BYTES: usize = 2 << 20;

/// Read ahead of the cursor.
const READ_AHEAD_BYTES: usize = 1 << 20;

/// How long the reading rests when the machine refused it.
pub(crate) const READ_AGAIN_AFTER: std::time::Duration = std::time::Duration::from_millis(100);

/// Asks the two threads for work.
#[derive(Debug)]
pub struct Residency {
    spill: std::sync::Mutex<Sender<Arc<QueueHandle>>>,
    load: std::sync::Mutex<Sender<Arc<QueueHandle>>>,
}

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
        let residency = Self { spill: std::sync::Mutex::new(spill), load: std::sync::Mutex::new(load) };
        (residency, Work { spill: spill_work, load: load_work })
    }

    /// Has a queue's excess written to segments.
    fn spill(&self, queue: &Arc<QueueHandle>) {
        // The thread ends only with the broker.
        let _ = self.spill.lock().unwrap_or_else(PoisonError::into_inner).send(queue.clone());
    }

    /// Has a queue's next chunks read from segments.
    fn load(&self, queue: &Arc<QueueHandle>) {
        let _ = self.load.lock().unwrap_or_else(PoisonError::into_inner).send(queue.clone());
    }
}

/// Called after messages arrived, under the queue's lock: starts a spill when the queue has too much in memory;
/// whether its publishers should pause.
pub fn after_push(broker: &Broker, queue: &Arc<QueueHandle>, state: &mut QueueState, now_ms: u64) -> bool {
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
    let may_wait = !state.waiting.is_empty() && (state.drain.fast || state.spilling);
    may_wait && state.machine.classic().is_some_and(|machine| machine.waiting_bytes() >= PACED_BYTES)
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
    if state.waiting.is_empty() {
        return;
    }
    // What publishers of a stream wait for is the disk.
    let relieved = state.machine.classic().is_some_and(|machine| machine.waiting_bytes() < PACED_BYTES / 2);
    if relieved {
        let_publishers_go_on(state);
    }
}

/// While all queues together are over the budget, has each of them written to segments: those that nobody publishes
/// to would keep theirs for ever otherwise, and enough of them would hold back every publisher for good.
pub(crate) fn relieve(broker: &Broker) {
    if broker.residency().is_none() || !is_over_budget(broker) {
        return;
    }
    for queue in broker.vhosts().iter().flat_map(|vhost| vhost.all_queues()) {
        let mut state = queue.lock();
        if state.machine.memory_bytes() > keep_bytes(&state, true) + RELIEF_BYTES_MIN {
            start_spill(broker, &queue, &mut state);
        }
    }
}

fn is_over_budget(broker: &Broker) -> bool {
    broker.memory().bytes() > broker.settings().memory_budget_bytes
}

/// What stays in memory ahead of the cursor when a queue is spilled.
fn keep_bytes(state: &QueueState, over_budget: bool) -> usize {
    match over_budget {
        false => KEEP_BYTES,
        true if state.machine.roster().is_empty() => 0,
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

/// Starts the two threads; they end when the broker is dropped.
pub fn start(work: Work, broker: &Arc<Broker>, segments: Arc<SegmentStore>) -> std::io::Result<()> {
    let Work { spill, load } = work;
    let store = segments.clone();
    let (memory, budget) = (broker.memory().clone(), broker.settings().memory_budget_bytes);
    std::thread::Builder::new().name("spill".into()).spawn(move || {
        while let Ok(queue) = spill.recv() {
            spill_queue(&queue, &store, || memory.bytes() > budget);
        }
    })?;
    let broker = Arc::downgrade(broker);
    std::thread::Builder::new().name("load".into()).spawn(move || {
        let mut busy = VecDeque::new();
        while let Some(queue) = next_to_load(&load, &mut busy) {
            let again = load_queue(&queue, &segments);
            let Some(broker) = broker.upgrade() else { return };
            survey_queue(&broker, &queue, &segments);
            // What was read may be due, now or some time.
            drop(expiry::lock_current(&broker, &queue));
            if again {
                busy.push_back(queue);
            }
        }
    })?;
    Ok(())
}

/// The next of the queues that have more to read, or that asked meanwhile; waits for one to ask. None when the broker
/// is gone.
fn next_to_load(
    asked: &Receiver<Arc<QueueHandle>>,
    busy: &mut VecDeque<Arc<QueueHandle>>,
) -> Option<Arc<QueueHandle>> {
    busy.extend(asked.try_iter());
    busy.pop_front().or_else(|| asked.recv().ok())
}

fn spill_queue(queue: &Arc<QueueHandle>, segments: &SegmentStore, over_budget: impl Fn() -> bool) {
    if queue.is_stream {
        return streams::spill(queue, segments, over_budget);
    }
    loop {
        let mut writes = Vec::new();
        {
            let mut state = queue.lock();
            let keep = keep_bytes(&state, over_budget());
            if let Some(machine) = state.machine.classic() {
                machine.plan_spill(keep, WRITE_BYTES, &mut writes);
            }
            if writes.is_empty() || state.deleted {
                end_spill(&mut state);
                return;
            }
        }
        if let Err(problem) = write_chunks(queue, segments, &writes, true) {
            // The messages stay in memory; publishers are held back by the memory watermark.
            error!(queue = %queue.definition.name, %problem, "cannot write messages to a segment");
            end_spill(&mut queue.lock());
            return;
        }
    }
}

pub(crate) fn end_spill(state: &mut QueueState) {
    state.spilling = false;
    let_publishers_go_on(state);
}

fn let_publishers_go_on(state: &mut QueueState) {
    for waiting in state.waiting.drain(..) {
        waiting.room();
    }
}

/// Writes chunks of one queue to segments and tells the queue where they are.
pub fn write_chunks(
    queue: &QueueHandle,
    segments: &SegmentStore,
    writes: &[ToWrite],
    evict: bool,
) -> Result<(), StorageError> {
    for persistence in [Persistence::Persistent, Persistence::Transient] {
        let of_class: Vec<&ToWrite> = writes.iter().filter(|w| w.persistence == persistence).collect();
        if of_class.is_empty() {
            continue;
        }
        let blocks: Vec<BlockIn> = of_class
            .iter()
            .map(|w| {
                let (first_seq, chunk) = (w.first_seq, w.chunk.clone());
                BlockIn { queue: queue.id, first_seq, chunk, summary: Vec::new() }
            })
            .collect();
        let class = match persistence {
            Persistence::Persistent => Class::Durable,
            Persistence::Transient => Class::Spill,
        };
        let locations = segments.write(class, &blocks)?;
        let mut state = queue.lock();
        for (write, location) in of_class.iter().zip(locations) {
            if let Some(machine) = state.machine.classic() {
                machine.written(write.first_seq, location, evict);
            }
        }
        release(&mut state, segments);
    }
    Ok(())
}

/// Reads what a queue needs; whether it is to have another turn.
fn load_queue(queue: &Arc<QueueHandle>, segments: &SegmentStore) -> bool {
    if queue.is_stream {
        return streams::load(queue, segments);
    }
    // A chunk that was rewritten to another segment meanwhile is looked for again.
    while load_planned(queue, segments) {}
    false
}

/// Has the chunks read whose details a queue needs and does not know.
pub fn survey(broker: &Broker, queue: &Arc<QueueHandle>, state: &mut QueueState) {
    if state.machine.classic().is_some_and(|machine| !machine.is_surveyed()) {
        need_load(broker, queue, state);
    }
}

/// Reads some chunks whose details the queue does not know, and has the next ones read in a later turn.
fn survey_queue(broker: &Broker, queue: &Arc<QueueHandle>, segments: &SegmentStore) {
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
        let departed = deliver::take_departed(broker, queue, &mut state);
        release(&mut state, segments);
        drop(state);
        deliver::log_departed(broker, queue, &departed);
    }
    if refused {
        std::thread::sleep(READ_AGAIN_AFTER);
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
fn load_planned(queue: &Arc<QueueHandle>, segments: &SegmentStore) -> bool {
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
        std::thread::sleep(READ_AGAIN_AFTER);
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

/// Gives back the places in segments that a queue no longer uses.
pub fn release(state: &mut QueueState, segments: &SegmentStore) {
    for location in state.machine.take_released() {
        segments.release(&location);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::declare::QueueDeclaration;
    use crate::publish::Publisher;
    use crate::start::Keep;
    use crate::start::testing::{PLENTY_BYTES, broker, in_small_files};

    #[test]
    fn queues_that_nobody_publishes_to_make_room_as_well() {
        let data = tempfile::tempdir().unwrap();
        let budget = 1 << 20;
        let broker = broker(in_small_files(data.path()), budget);
        let vhost = broker.vhost("/").unwrap();
        let mut publisher = Publisher::new(broker.clone(), Arc::default());
        for n in 0..30 {
            let declaration = QueueDeclaration { name: format!("q{n}"), ..QueueDeclaration::default() };
            let queue = broker.declare_queue(&vhost, declaration, 0).unwrap().queue;
            let slot = publisher.slot(&[queue.id], |id| vhost.queue_by_id(id)).unwrap();
            publisher.append(slot, false, b"\0\x01q", b"", &[0; 100 << 10]);
            publisher.flush();
        }
        let patience = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while broker.memory().bytes() > budget {
            assert!(std::time::Instant::now() < patience, "{} bytes in memory", broker.memory().bytes());
            std::thread::yield_now();
        }
    }

    #[test]
    fn only_damage_loses_messages() {
        let path = std::path::Path::new("segments/1.seg");
        let outcome = |error| after_failed_read(&StorageError::io("open", path, error));
        let (too_many_files, bad_sector) = (24, 5);
        assert_eq!(outcome(std::io::Error::from_raw_os_error(too_many_files)), FailedRead::TryAgain);
        assert_eq!(outcome(std::io::Error::from_raw_os_error(bad_sector)), FailedRead::Damage);
        assert_eq!(outcome(std::io::ErrorKind::NotFound.into()), FailedRead::Damage);
        let damaged = StorageError::Corrupt {
            path: path.to_owned(),
            offset: 0,
            what: "block checksum",
            expected: "1".into(),
            got: "2".into(),
        };
        assert_eq!(after_failed_read(&damaged), FailedRead::Damage);
    }

    #[test]
    fn a_drain_is_fast_when_it_would_be_through_in_a_second() {
        let mut drain = Drain::default();
        assert!(drain.is_fast(50, 0, 1_000_000), "nothing is known before the first window ends");
        assert!(!drain.is_fast(150, 10, 1_000));
        assert!(!drain.is_fast(200, 500, 1_000), "the window has not ended");
        assert!(drain.is_fast(250, 110, 1_000));
        assert!(!drain.is_fast(350, 110, 1_000), "it stopped");
        assert!(drain.is_fast(450, 5_110, 1_000_000), "50,000 a second is fast whatever waits");
    }

    fn declare(broker: &Arc<Broker>, name: &str) -> Arc<QueueHandle> {
        let declaration = QueueDeclaration { name: name.into(), ..QueueDeclaration::default() };
        broker.declare_queue(&broker.vhost("/").unwrap(), declaration, 0).unwrap().queue
    }

    fn publish(publisher: &mut Publisher, queue: &Arc<QueueHandle>, messages: usize, step_ms: u64) {
        let slot = publisher.slot(&[queue.id], |_| Some(queue.clone())).unwrap();
        for _ in 0..messages {
            publisher.received_ms += step_ms;
            publisher.append(slot, false, b"\0\x01q", b"", &[0; 100 << 10]);
            publisher.flush();
        }
    }

    #[test]
    fn a_queue_is_in_flow_while_its_publishers_wait() {
        let broker = broker(Keep::InMemory, PLENTY_BYTES);
        let mut publisher = Publisher::new(broker.clone(), Arc::default());
        let queue = declare(&broker, "q");
        let listed = || crate::listings::queues(&broker, "/").unwrap()[0].state;
        publish(&mut publisher, &queue, 25, 0);
        assert_eq!(listed(), "running");
        publish(&mut publisher, &queue, 25, 0);
        assert!(publisher.is_pressed());
        assert_eq!(listed(), "flow");
        while crate::deliver::get(&broker, &queue, true, &Arc::default()).1.is_some() {}
        assert_eq!(listed(), "running");
    }

    #[test]
    fn a_get_that_waits_for_the_disk_is_told_when_its_queue_is_purged() {
        let data = tempfile::tempdir().unwrap();
        let broker = broker(in_small_files(data.path()), PLENTY_BYTES);
        let mut publisher = Publisher::new(broker.clone(), Arc::default());
        let queues = [declare(&broker, "busy"), declare(&broker, "q")];
        let patience = std::time::Instant::now() + std::time::Duration::from_secs(20);
        for queue in &queues {
            publish(&mut publisher, queue, 80, 1_000);
            while queue.lock().machine.memory_bytes() > 3 << 20 {
                assert!(std::time::Instant::now() < patience, "not written to segments");
                std::thread::yield_now();
            }
        }
        // The reading thread waits for the other queue meanwhile.
        let busy = queues[0].lock();
        broker.residency().unwrap().load(&queues[0]);
        let waker = Arc::new(crate::waker::SessionWaker::default());
        while crate::deliver::get(&broker, &queues[1], true, &waker).1.is_some() {}
        assert!(crate::deliver::purge(&broker, &queues[1]) > 0);
        drop(busy);
        while !waker.has_mail() {
            assert!(std::time::Instant::now() < patience, "nobody told the session");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_clock_set_back_does_not_hold_publishers() {
        let data = tempfile::tempdir().unwrap();
        let broker = broker(in_small_files(data.path()), PLENTY_BYTES);
        let mut publisher = Publisher::new(broker.clone(), Arc::default());
        let queue = declare(&broker, "q");
        publisher.received_ms = 10_000_000;
        publish(&mut publisher, &queue, 25, 0);
        while crate::deliver::get(&broker, &queue, true, &Arc::default()).1.is_some() {}
        publisher.received_ms -= 3_600_000;
        publish(&mut publisher, &queue, 60, 0);
        let mut now_ms = publisher.received_ms;
        let patience = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while publisher.must_wait(now_ms) {
            now_ms += 100;
            assert!(std::time::Instant::now() < patience, "held back though nobody takes anything");
            std::thread::yield_now();
        }
    }
}
