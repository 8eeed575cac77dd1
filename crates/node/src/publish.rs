//! The publishing side of a session: messages of one read are gathered per set of target queues, outside any
//! lock, and then appended to each queue once.
//!
//! Gathered messages are kept apart by target set, not by routing key. For each queue it is known which set has
//! messages gathered for it, and a message for another set hands those over first: so each channel's order holds in
//! every queue.

use std::sync::Arc;

use hashbrown::HashMap;
use posthouse_model::buffers::BUFFER_BYTES;
use posthouse_model::chunk::ChunkBuilder;
use posthouse_model::durability::Durability;
use posthouse_model::ids::{Lsn, QueueId};
use posthouse_model::props::has_expiration;
use posthouse_model::record::{self, FLAG_EXPIRES, FLAG_PERSISTENT, stamp};
use posthouse_model::shares::UserNumber;
use smallvec::SmallVec;

use crate::broker::Broker;
use crate::positions::Positions;
use crate::priorities::ByLevel;
use crate::queue_handle::QueueHandle;
use crate::quotas::Published;
use crate::residency;
use crate::schedule::Schedule;
use crate::seen::{SeenInBatch, SeenOfMessage};
use crate::vhost::VirtualHost;
use crate::waker::SessionWaker;

use handing::Handing;
pub(crate) use handing::{enqueue, finish};
pub use waiting::Later;
use waiting::Waits;

mod handing;
mod waiting;

/// From this size on a batch is handed over by reference; below it is copied behind what the queue holds, so
/// that slow publishers do not make a chunk per message.
pub(crate) const SHARE_BYTES_MIN: usize = 16 << 10;

/// Gathered messages are handed over at this size even within a read.
const BATCH_BYTES_MAX: usize = BUFFER_BYTES;

/// Target sets kept per session; with more, all are forgotten.
const SLOTS_MAX: usize = 4096;

/// Queues that they have together at most, unless a single one has more.
const TARGETS_MAX: usize = 64 << 10;

/// Memory kept for the next messages of all target sets together: as much as a few busy ones need.
const ROOM_BYTES_MAX: usize = 16 * BUFFER_BYTES;

/// A publish that a queue refused for want of room: the channel, and the publish's number there as it was noted with
/// [`Publisher::note_origin`].
pub type Origin = (u16, u64);

/// Index of a target set, valid until [`Publisher::forget_routes`].
pub type SlotId = u32;

/// A queue of a target set.
#[derive(Clone, Debug)]
struct Target {
    queue: Arc<QueueHandle>,
    /// Its index among the holders.
    holder: u32,
}

/// Messages gathered for one set of queues.
#[derive(Debug)]
struct Slot {
    targets: SmallVec<[Target; 1]>,
    /// The most that one of the queues promises for persistent messages.
    durability: Durability,
    persistent: bool,
    builder: ChunkBuilder,
    /// Whether one of the queues may refuse messages: then it is kept where each came from.
    tracked: bool,
    /// Whether a queue may have had one of the messages before: their publishers number them.
    numbered: bool,
    origins: Vec<Origin>,
    /// What deduplication exchanges have seen of its messages, by their positions.
    seen: SeenInBatch,
    /// Whether it is on the list of slots to hand over.
    listed: bool,
    /// How queues with priorities want its messages, by their highest one; empty where none of the queues has any.
    by_level: Vec<ByLevel>,
    /// Whether a queue has no priorities.
    any_plain: bool,
    /// What it is counted with in [`Publisher::room_bytes`].
    room_bytes: usize,
    /// The level of the queues that messages enter where these have no priorities.
    level: u8,
    /// Which messages of a schedule it gathers, if any.
    waits: Option<Waits>,
}

impl Slot {
    /// An empty one for these queues.
    fn new(targets: SmallVec<[Target; 1]>) -> Self {
        let (mut durability, mut tracked) = (Durability::Memory, false);
        for Target { queue, .. } in &targets {
            let state = queue.lock();
            durability = durability.max(queue.durability(&state));
            tracked |= state.machine.settings().refuses();
        }
        let (by_level, any_plain) = ByLevel::of_queues(targets.iter().map(|target| &target.queue));
        Self {
            targets,
            durability,
            persistent: false,
            builder: ChunkBuilder::default(),
            tracked,
            numbered: false,
            origins: Vec::new(),
            seen: SeenInBatch::default(),
            listed: false,
            by_level,
            any_plain,
            room_bytes: 0,
            level: 0,
            waits: None,
        }
    }

    /// One with the same messages for some of the queues; what becomes of them there is what exchanges want to know.
    fn again(&self, targets: SmallVec<[Target; 1]>, records: &[u8], seen: SeenInBatch) -> Self {
        let mut builder = ChunkBuilder::default();
        builder.append_records(records);
        let Self { persistent, tracked, numbered, level, .. } = *self;
        Self {
            persistent,
            tracked,
            numbered,
            level,
            builder,
            seen,
            origins: self.origins.clone(),
            ..Self::new(targets)
        }
    }

    /// Whether one of the queues keeps every message. Asked each time: a queue may be converted meanwhile.
    fn keeps_all(&self) -> bool {
        self.targets.iter().any(|target| target.queue.keeps_all())
    }

    /// Whether what is gathered goes into the log.
    fn is_logged(&self) -> bool {
        self.durability != Durability::Memory
            && (self.persistent || self.keeps_all())
            && !self.builder.is_empty()
    }

    /// Takes what was gathered apart for queues with priorities.
    fn split(&mut self) {
        for by_level in &mut self.by_level {
            by_level.split(self.builder.bytes(), self.targets.len());
        }
    }

    /// Memory kept for the next messages.
    fn room(&self) -> usize {
        self.builder.room_bytes() + self.by_level.iter().map(ByLevel::room_bytes).sum::<usize>()
    }
}

/// Gathers and hands over the messages that one connection publishes.
#[derive(Debug)]
pub struct Publisher {
    broker: Arc<Broker>,
    waker: Arc<SessionWaker>,
    slots: Vec<Slot>,
    slot_by_queues: HashMap<SmallVec<[QueueId; 4]>, SlotId, foldhash::fast::RandomState>,
    /// Queues of all slots, counted once per slot.
    targets: usize,
    holder_by_queue: HashMap<QueueId, u32, foldhash::fast::RandomState>,
    /// For each queue the slot to which a message was appended last. As long as it has messages, no other slot has any
    /// for this queue.
    holders: Vec<SlotId>,
    /// Memory that empty slots keep.
    room_bytes: usize,
    dirty: Vec<SlotId>,
    handing: Handing,
    refused: Vec<Origin>,
    /// What must be durable ends here in the log.
    synced_end: Lsn,
    /// What need only be written ends here.
    written_end: Lsn,
    published: Published,
    pressed: Option<Arc<QueueHandle>>,
    /// Where messages wait for a time, once one did.
    schedule: Option<Arc<Schedule>>,
    /// Where deduplication exchanges compare messages, once one did.
    compared_in: Option<Arc<VirtualHost>>,
    /// When the current batch was received, in milliseconds since the Unix epoch.
    pub received_ms: u64,
    /// Who publishes; the broker itself by default.
    pub user: UserNumber,
}

impl Publisher {
    /// A publisher without routes.
    pub fn new(broker: Arc<Broker>, waker: Arc<SessionWaker>) -> Self {
        Self {
            broker,
            waker,
            slots: Vec::new(),
            slot_by_queues: HashMap::default(),
            targets: 0,
            holder_by_queue: HashMap::default(),
            holders: Vec::new(),
            room_bytes: 0,
            dirty: Vec::new(),
            handing: Handing::default(),
            refused: Vec::new(),
            synced_end: 0,
            written_end: 0,
            published: Published::default(),
            pressed: None,
            schedule: None,
            compared_in: None,
            received_ms: 0,
            user: UserNumber::NOBODY,
        }
    }

    /// Hands over what is gathered and forgets all target sets: the topology has changed, or there are too many.
    pub fn forget_routes(&mut self) {
        self.flush();
        self.slots.clear();
        self.slot_by_queues.clear();
        self.targets = 0;
        self.holder_by_queue.clear();
        self.holders.clear();
        self.room_bytes = 0;
    }

    /// Whether to [`Self::forget_routes`] before the next [`Self::slot`], because there are too many target sets.
    pub fn is_crowded(&self) -> bool {
        self.slots.len() >= SLOTS_MAX || self.targets >= TARGETS_MAX
    }

    /// The slot for a set of queues (ascending, without repetition); `None` when none of them exists any more.
    pub fn slot(
        &mut self,
        ids: &[QueueId],
        find: impl Fn(QueueId) -> Option<Arc<QueueHandle>>,
    ) -> Option<SlotId> {
        if let Some(&slot) = self.slot_by_queues.get(ids) {
            return Some(slot);
        }
        let queues = ids.iter().filter_map(|&id| find(id));
        let targets: SmallVec<[Target; 1]> = queues.map(|queue| self.target(queue)).collect();
        if targets.is_empty() {
            return None;
        }
        Some(self.add_slot(ids, targets, 0, None))
    }

    fn add_slot(
        &mut self,
        ids: &[QueueId],
        targets: SmallVec<[Target; 1]>,
        level: u8,
        waits: Option<Waits>,
    ) -> SlotId {
        let id = self.slots.len() as SlotId;
        self.targets += targets.len();
        self.slots.push(Slot { level, waits, ..Slot::new(targets) });
        self.slot_by_queues.insert(ids.into(), id);
        id
    }

    fn target(&mut self, queue: Arc<QueueHandle>) -> Target {
        let id = queue.id;
        self.target_known_as(id, queue)
    }

    /// A target whose messages keep their order among all that go to targets of this identity.
    fn target_known_as(&mut self, id: QueueId, queue: Arc<QueueHandle>) -> Target {
        /// No slot has this number.
        const NOBODY: SlotId = SlotId::MAX;
        let next = self.holders.len() as u32;
        let holder = *self.holder_by_queue.entry(id).or_insert(next);
        if holder == next {
            self.holders.push(NOBODY);
        }
        Target { queue, holder }
    }

    /// Gathers one message. `header` and `body` are taken as they came.
    #[inline]
    pub fn append(&mut self, id: SlotId, persistent: bool, route: &[u8], header: &[u8], body: &[u8]) {
        let Some(slot) = self.slots.get(id as usize) else { return };
        let record = record::FIXED_BYTES + route.len() + header.len() + body.len();
        let full = slot.builder.bytes().len() + record > BATCH_BYTES_MAX;
        let flips = slot.persistent != persistent && slot.durability != Durability::Memory;
        if slot.builder.is_empty() || full || flips {
            self.prepare(id, persistent, full || flips);
        }
        let stamp = stamp(self.received_ms, self.user);
        let slot = &mut self.slots[id as usize];
        let expires = if has_expiration(header) { FLAG_EXPIRES } else { 0 };
        let flags = expires | if persistent { FLAG_PERSISTENT } else { 0 };
        slot.builder.push(flags, stamp, route, header, body.len(), body);
    }

    /// Whether messages for this slot may be refused, so that each must be followed by [`Self::note_origin`].
    #[inline]
    pub fn may_refuse(&self, id: SlotId) -> bool {
        self.slots.get(id as usize).is_some_and(|slot| slot.tracked)
    }

    /// Notes where the message that was appended last came from.
    pub fn note_origin(&mut self, id: SlotId, origin: Origin) {
        if let Some(slot) = self.slots.get_mut(id as usize) {
            slot.origins.push(origin);
        }
    }

    /// Notes what deduplication exchanges have seen of the message that was appended last.
    pub fn note_seen(&mut self, id: SlotId, vhost: &Arc<VirtualHost>, seen: SeenOfMessage) {
        if let Some(slot) = self.slots.get_mut(id as usize)
            && let Some(position) = slot.builder.count().checked_sub(1)
        {
            slot.seen.push(position.into(), seen);
            self.compared_in.get_or_insert_with(|| vhost.clone());
        }
    }

    /// Whether one of the queues is a stream, or looks at its publishers' numbers like one.
    pub fn has_numbered(&self, id: SlotId) -> bool {
        self.slots
            .get(id as usize)
            .is_some_and(|slot| slot.targets.iter().any(|target| target.queue.is_numbered))
    }

    /// Notes that the publisher of the message that was appended last numbers its messages, so that such a queue
    /// keeps it once. A message that is kept already is as good as one that is kept now.
    pub fn note_numbered(&mut self, id: SlotId) {
        if let Some(slot) = self.slots.get_mut(id as usize) {
            slot.numbered = true;
        }
    }

    /// The publishes that were refused since the last call.
    pub fn take_refused(&mut self) -> Vec<Origin> {
        std::mem::take(&mut self.refused)
    }

    /// Appends everything gathered to its queues and wakes their consumers.
    pub fn flush(&mut self) {
        if self.dirty.is_empty() {
            return;
        }
        let dirty = std::mem::take(&mut self.dirty);
        self.hand_over(&dirty);
        for &id in &dirty {
            self.slots[id as usize].listed = false;
        }
        self.dirty = dirty;
        self.dirty.clear();
    }

    /// What was handed over since the last call.
    #[inline]
    pub fn take_published(&mut self) -> Published {
        std::mem::take(&mut self.published)
    }

    /// What everything that was handed over waits for in the log.
    pub fn needs(&self) -> Positions {
        Positions { lsn: self.synced_end, written: self.written_end, meta: 0 }
    }

    /// Whether a queue was met that has more than it should: the session stops reading until that queue says there
    /// is room, and asks [`Self::must_wait`] now and then in case it cannot say so.
    pub fn is_pressed(&self) -> bool {
        self.pressed.is_some()
    }

    /// Whether the pressure goes on.
    pub fn must_wait(&mut self, now_ms: u64) -> bool {
        let Some(queue) = self.pressed.take() else { return false };
        if residency::must_wait(&self.broker, &queue, now_ms) {
            self.wait_for_room(queue);
        }
        self.pressed.is_some()
    }

    /// There is room again.
    pub fn relieve(&mut self) {
        self.pressed = None;
    }

    fn wait_for_room(&mut self, queue: Arc<QueueHandle>) {
        {
            let mut state = queue.lock();
            if !state.waiting.iter().any(|waiting| Arc::ptr_eq(waiting, &self.waker)) {
                state.waiting.push(self.waker.clone());
            }
        }
        self.pressed = Some(queue);
    }

    /// Readies a slot for a message: hands over what must go first, and puts the slot on the list.
    fn prepare(&mut self, id: SlotId, persistent: bool, flush_self: bool) {
        if flush_self {
            self.hand_over_slot(id);
        }
        for at in 0..self.slots[id as usize].targets.len() {
            let queue = self.slots[id as usize].targets[at].holder as usize;
            let before = std::mem::replace(&mut self.holders[queue], id);
            if before != id {
                self.hand_over_slot(before);
            }
        }
        let slot = &mut self.slots[id as usize];
        slot.persistent = persistent;
        if !std::mem::replace(&mut slot.listed, true) {
            self.dirty.push(id);
        }
    }

    fn hand_over_slot(&mut self, id: SlotId) {
        if self.slots.get(id as usize).is_some_and(|slot| !slot.builder.is_empty()) {
            self.hand_over(&[id]);
        }
    }

    /// Frees the memory of empty slots, all of them: those that are busy have theirs again soon.
    fn give_up_room(&mut self) {
        for slot in &mut self.slots {
            if slot.builder.is_empty() {
                slot.builder = ChunkBuilder::default();
                slot.origins = Vec::new();
                slot.by_level.iter_mut().for_each(ByLevel::give_up_room);
                slot.room_bytes = 0;
            }
        }
        self.room_bytes = self.slots.iter().map(|slot| slot.room_bytes).sum();
    }

    fn hand_over(&mut self, ids: &[SlotId]) {
        let broker = self.broker.clone();
        for &id in ids {
            self.slots[id as usize].split();
        }
        let wal = broker.wal().filter(|_| ids.iter().any(|&id| self.slots[id as usize].is_logged()));
        let mut stage = wal.map(|wal| wal.stage());
        for &id in ids {
            let slot = &mut self.slots[id as usize];
            if slot.builder.is_empty() {
                continue;
            }
            let durability = slot.durability;
            let mut stage = stage.as_mut().filter(|_| slot.is_logged());
            self.published.messages += u64::from(slot.builder.count());
            self.published.bytes += slot.builder.bytes().len() as u64;
            let compared_in = self.compared_in.as_deref();
            let pressed =
                self.handing.slot(&broker, slot, compared_in, stage.as_deref_mut(), self.received_ms);
            self.room_bytes -= slot.room_bytes;
            slot.room_bytes = slot.room();
            self.room_bytes += slot.room_bytes;
            self.handed_over(pressed, durability, stage.map(|stage| stage.position()));
        }
        while let Some((mut slot, wal)) = self.handing.missed.pop().zip(broker.wal()) {
            let stage = stage.get_or_insert_with(|| wal.stage());
            slot.split();
            let compared_in = self.compared_in.as_deref();
            let pressed = self.handing.slot(&broker, &mut slot, compared_in, Some(stage), self.received_ms);
            self.handed_over(pressed, slot.durability, Some(stage.position()));
        }
        if let Some(wal) = broker.wal().filter(|_| !self.handing.departed.is_empty()) {
            // No confirm waits for this: should it be lost, these messages leave again.
            let stage = stage.get_or_insert_with(|| wal.stage());
            for (queue, ranges) in self.handing.departed.drain(..) {
                stage.settle(queue, &ranges);
            }
        }
        drop(stage);
        self.tell_schedule(ids);
        if self.room_bytes > ROOM_BYTES_MAX {
            self.give_up_room();
        }
        broker.watch_memory();
        // Nobody is woken while the staging lock is held.
        for wake in self.handing.wakes.drain(..) {
            wake.wake();
        }
        self.handing.decided.drain(..).for_each(|session| session.decided());
        if let Some(queue) = self.pressed.take() {
            self.wait_for_room(queue);
        }
    }

    /// Notes what came of a slot's messages: the queue that has too much, and where in the log they end.
    fn handed_over(&mut self, pressed: Option<Arc<QueueHandle>>, durability: Durability, end: Option<Lsn>) {
        if pressed.is_some() {
            self.pressed = pressed;
        }
        self.refused.append(&mut self.handing.refused);
        match end {
            Some(end) if durability == Durability::Sync => self.synced_end = end,
            Some(end) => self.written_end = end,
            None => {}
        }
    }
}
