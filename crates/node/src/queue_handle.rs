//! One queue as sessions hold it: its definition, and the machine behind a lock.
//!
//! Lock order: the log's staging lock first, then one queue's lock. No thread holds two queues' locks.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use posthouse_model::args::QueueKind;
use posthouse_model::durability::Durability;
use posthouse_model::ids::QueueId;
use posthouse_model::name::Name;
use posthouse_queue::machine::times::NEVER_MS;
use posthouse_storage::segment::Location;

use crate::policies::AppliedPolicy;
use crate::queue_setup::QueueSetup;
use crate::residency::Drain;
use crate::room::{self, Awaits};
use crate::waker::{ConsumerWaker, SessionWaker};

/// The machine as this node uses it.
pub type Machine = posthouse_queue::kind::Machine<Location, ConsumerWaker>;

/// What a queue was declared as, and stays; the rest is its [`QueueSetup`].
#[derive(Clone, Debug)]
pub struct QueueDefinition {
    /// Virtual host.
    pub vhost: Name,
    /// Name.
    pub name: Name,
    /// Survives a restart.
    pub durable: bool,
    /// Deleted when its last consumer goes.
    pub auto_delete: bool,
    /// The connection it belongs to, if exclusive.
    pub owner: Option<u64>,
}

/// A live queue.
#[derive(Debug)]
pub struct QueueHandle {
    /// Its identity.
    pub id: QueueId,
    /// What it was declared as.
    pub definition: QueueDefinition,
    /// Its messages stay and are read by everyone.
    pub is_stream: bool,
    /// Its publishers' numbers say which messages it has had: it is a stream, or was declared so.
    pub is_numbered: bool,
    /// It remembers values of messages that have left.
    pub(crate) has_window: bool,
    /// See [`Self::keeps_all`].
    keeps_all: AtomicBool,
    state: Mutex<QueueState>,
    memory: Arc<MemoryUse>,
}

/// What the lock guards.
#[derive(Debug, Default)]
pub struct QueueState {
    /// Messages and consumers.
    pub machine: Machine,
    /// What it was set up with.
    pub setup: QueueSetup,
    /// The queue is gone; late publishers and consumers find this.
    pub deleted: bool,
    /// Chunks are being written to segments.
    pub spilling: bool,
    /// Chunks are being read from segments.
    pub loading: bool,
    /// It is being converted to another type.
    pub converting: bool,
    /// Messages that leave are being moved.
    pub dead_lettering: bool,
    /// Messages that leave and found no place are going to be tried again.
    pub dead_lettering_apart: bool,
    /// Publishers that wait until there is room again.
    pub waiting: Vec<Arc<SessionWaker>>,
    /// Sessions whose `basic.get` waits for a message to be read from its segment.
    pub getting: Vec<Arc<SessionWaker>>,
    /// Who waits for room where the queue refuses what is too much.
    pub(crate) awaiting_room: Vec<Awaits>,
    /// How fast consumers are.
    pub drain: Drain,
    /// Counted since the start.
    pub counters: QueueCounters,
    /// The policies that apply.
    pub policy: Option<Arc<AppliedPolicy>>,
    /// When the queue is looked at because of time, in milliseconds since the Unix epoch.
    pub(crate) timer_ms: u64,
    /// When somebody used it last, by [`crate::clock::uptime_ms`]; kept where the queue expires.
    pub(crate) used_at_ms: u64,
    memory_noted: usize,
}

/// Messages counted since the broker started.
#[derive(Clone, Copy, Debug, Default)]
pub struct QueueCounters {
    /// Messages that arrived.
    pub published: u64,
    /// Messages handed out, again or for the first time.
    pub delivered: u64,
    /// Messages handed out again.
    pub redelivered: u64,
    /// Messages settled by an acknowledgement.
    pub acknowledged: u64,
    /// Dead letters dropped because their targets were full, and there was no room to keep them.
    pub dead_letters_dropped: u64,
}

/// Bytes of memory that all queues' messages take.
#[derive(Debug, Default)]
pub struct MemoryUse(AtomicUsize);

impl MemoryUse {
    /// Bytes now.
    pub fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// What was so many bytes is so many now.
    pub(crate) fn change(&self, before: usize, after: usize) {
        if after > before {
            self.0.fetch_add(after - before, Ordering::Relaxed);
        } else if before > after {
            self.0.fetch_sub(before - after, Ordering::Relaxed);
        }
    }
}

/// A locked queue. Letting go of it brings the memory count up to date, and tells who waits for room that there is some.
#[derive(Debug)]
pub struct QueueGuard<'a> {
    state: MutexGuard<'a, QueueState>,
    memory: &'a MemoryUse,
}

impl QueueHandle {
    /// A queue with what a restart found of it, or an empty one.
    pub fn new(
        id: QueueId,
        definition: QueueDefinition,
        setup: QueueSetup,
        machine: Machine,
        memory: Arc<MemoryUse>,
    ) -> Self {
        let is_stream = matches!(machine, Machine::Stream(_));
        let declared = setup.settings();
        let handle = Self {
            id,
            definition,
            is_stream,
            has_window: declared.seen_window().is_some(),
            is_numbered: is_stream || declared.publisher_deduplication,
            keeps_all: AtomicBool::new(setup.kind() != QueueKind::Classic),
            state: Mutex::new(QueueState { machine, setup, timer_ms: NEVER_MS, ..QueueState::default() }),
            memory,
        };
        drop(handle.lock());
        handle
    }

    /// What it promises for persistent messages that arrive now; `state` is its own.
    pub fn durability(&self, state: &QueueState) -> Durability {
        match state.machine.settings().durability {
            _ if !self.definition.durable => Durability::Memory,
            // What a stream is for is keeping.
            Durability::Memory if self.is_stream => Durability::Sync,
            durability => durability,
        }
    }

    /// Whether it keeps messages that are not persistent as if they were.
    pub fn keeps_all(&self) -> bool {
        self.keeps_all.load(Ordering::Relaxed)
    }

    /// Whether messages that arrive now go into the log, whatever they say themselves; `state` is its own.
    pub(crate) fn keeps_messages(&self, state: &QueueState) -> bool {
        self.keeps_all() && self.durability(state) != Durability::Memory
    }

    /// Says whether it does from now on.
    pub(crate) fn set_keeps_all(&self, keeps_all: bool) {
        self.keeps_all.store(keeps_all, Ordering::Relaxed);
    }

    /// Its type.
    pub fn kind(&self) -> QueueKind {
        self.lock().setup.kind()
    }

    /// Locks the queue's state.
    pub fn lock(&self) -> QueueGuard<'_> {
        // The machine's own invariants are asserted; a panic elsewhere under the lock leaves it whole.
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        QueueGuard { state, memory: &self.memory }
    }
}

impl QueueHandle {
    /// Milliseconds the queue gives a consumer to acknowledge a delivery, if it does.
    pub fn consumer_timeout_ms(&self) -> Option<u64> {
        self.lock().machine.consumer_timeout_ms()
    }
}

impl Drop for QueueHandle {
    fn drop(&mut self) {
        let noted = self.state.get_mut().map_or_else(|e| e.into_inner().memory_noted, |s| s.memory_noted);
        self.memory.change(noted, 0);
    }
}

impl std::ops::Deref for QueueGuard<'_> {
    type Target = QueueState;
    fn deref(&self) -> &QueueState {
        &self.state
    }
}

impl std::ops::DerefMut for QueueGuard<'_> {
    fn deref_mut(&mut self) -> &mut QueueState {
        &mut self.state
    }
}

impl Drop for QueueGuard<'_> {
    fn drop(&mut self) {
        if !self.state.awaiting_room.is_empty() {
            room::tell_of_room(&mut self.state);
        }
        let bytes = self.state.machine.memory_bytes() + self.state.machine.descriptor_bytes();
        if bytes != self.state.memory_noted {
            self.memory.change(self.state.memory_noted, bytes);
            self.state.memory_noted = bytes;
        }
    }
}

/// For tests of what holds queues.
pub mod testing {
    use super::*;

    /// A transient queue named `q`.
    pub fn queue() -> Arc<QueueHandle> {
        let definition = QueueDefinition {
            vhost: Name::truncated("/"),
            name: Name::truncated("q"),
            durable: false,
            auto_delete: false,
            owner: None,
        };
        let (setup, machine) = Default::default();
        Arc::new(QueueHandle::new(QueueId(1), definition, setup, machine, Arc::default()))
    }
}
