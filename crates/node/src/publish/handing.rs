//! Handing one slot's messages over to its queues and to the log, with the log's staging lock held.

use std::sync::Arc;

use posthouse_model::chunk::{Chunk, ChunkBuilder, Records};
use posthouse_model::durability::Durability;
use posthouse_model::ids::{Lsn, QueueId, Seq};
use posthouse_queue::machine::admission::{Admission, Batch};
use posthouse_queue::machine::chunks::Persistence;
use posthouse_queue::stream::notes::Note;
use posthouse_storage::wal::{Payload, Stage};
use smallvec::SmallVec;

use super::{BATCH_BYTES_MAX, Origin, SHARE_BYTES_MIN, Slot, Target};
use crate::broker::Broker;
use crate::priorities::{self, ByLevel};
use crate::queue_handle::{Machine, QueueGuard, QueueHandle};
use crate::seen::{Fate, SeenInBatch};
use crate::vhost::VirtualHost;
use crate::waker::{ConsumerWaker, SessionWaker};
use crate::{dead_letters, expiry, residency};

/// What handing over one batch brings up, and memory lent to it.
#[derive(Debug, Default)]
pub(super) struct Handing {
    /// Consumers to be woken when no lock is held any more.
    pub(super) wakes: Vec<ConsumerWaker>,
    targets: Vec<(QueueId, Seq)>,
    /// Targets that took only a part of the messages, and that part.
    partial: Vec<(QueueId, Seq, ChunkBuilder)>,
    /// What the log must know of their publishers, right before the messages.
    notes: Vec<(QueueId, Note)>,
    /// Queues that remember something of these, each once.
    numbered: Vec<Arc<QueueHandle>>,
    /// Positions of the messages that one queue refused, or a stream has had.
    turned_away: Vec<u32>,
    /// Positions of the messages that one queue has had.
    entered_before: Vec<u32>,
    /// Positions of messages that exchanges have seen and some queue refused, in no order.
    unplaced: Vec<u32>,
    /// Sessions that wait to hear what becomes of messages, to be told when no lock is held any more.
    pub(super) decided: Vec<Arc<SessionWaker>>,
    /// Persistent messages that left to make room, for the log.
    pub(super) departed: Vec<(QueueId, Vec<(Seq, Seq)>)>,
    pub(super) refused: Vec<Origin>,
    /// Messages that must go into the log after all, because a queue has begun to keep everything: to be handed over again,
    /// with a stage, to these queues.
    pub(super) missed: Vec<Slot>,
}

impl Handing {
    /// Appends a slot's messages to its queues; the queue that has too much, if any.
    pub(super) fn slot(
        &mut self,
        broker: &Arc<Broker>,
        slot: &mut Slot,
        compared_in: Option<&VirtualHost>,
        stage: Option<&mut Stage<'_>>,
        now_ms: u64,
    ) -> Option<Arc<QueueHandle>> {
        let lsn = stage.as_ref().map_or(0, |stage| stage.position());
        let count = slot.builder.count();
        let share = slot.builder.bytes().len() >= SHARE_BYTES_MIN && slot.any_plain;
        let shared = share.then(|| finish(&mut slot.builder, slot.targets.len()));
        let mut pressed = None;
        let mut missed: SmallVec<[Target; 1]> = SmallVec::new();
        let mut any_place = false;
        self.targets.clear();
        let targets = std::mem::take(&mut slot.targets);
        for target in &targets {
            let queue = &target.queue;
            let mut state = queue.lock();
            if state.deleted {
                continue;
            }
            if stage.is_none() && broker.wal().is_some() && queue.keeps_messages(&state) {
                missed.push(target.clone());
                continue;
            }
            any_place = true;
            // What was gathered under a lesser promise than the queue makes by now is not in the log.
            let logged = stage.is_some()
                && (slot.persistent || queue.keeps_all())
                && queue.durability(&state) != Durability::Memory;
            // Before, what has expired takes no room; after, what may not wait finds that nobody waits for it.
            expiry::expire(broker, queue, &mut state, now_ms);
            let pushed = self.push(queue, &mut state.machine, slot, shared.as_ref(), (lsn, logged, now_ms));
            state.counters.published += u64::from(pushed);
            if self.after_push(broker, queue, &mut state, now_ms) {
                pressed = Some(queue.clone());
            }
        }
        slot.targets = targets;
        if let Some(vhost) = compared_in.filter(|_| !slot.seen.is_empty()) {
            let is_logged = stage.is_some() && self.is_logged(slot);
            let otherwise = match (missed.is_empty(), any_place) {
                (false, _) => Fate::Later,
                (true, true) => Fate::Placed,
                (true, false) => Fate::Refused,
            };
            self.settle_seen(&mut slot.seen, vhost, otherwise, is_logged);
        }
        if !missed.is_empty() {
            let seen = std::mem::take(&mut slot.seen);
            let records = shared.as_ref().map_or(slot.builder.bytes(), |chunk| chunk.bytes());
            self.missed.push(slot.again(missed, records, seen));
        }
        match stage {
            Some(stage) => {
                self.log(stage, slot, count, shared);
                self.logged(broker, slot, compared_in, stage.position());
            }
            None => slot.by_level.iter_mut().for_each(|parts| parts.finish(None, slot.durability)),
        }
        slot.builder.clear();
        slot.origins.clear();
        slot.numbered = false;
        pressed
    }

    /// Appends a slot's messages to one of its queues, but for those that it refuses or has; how many.
    fn push(
        &mut self,
        queue: &Arc<QueueHandle>,
        machine: &mut Machine,
        slot: &mut Slot,
        shared: Option<&Arc<Chunk>>,
        (lsn, logged, now_ms): (Lsn, bool, u64),
    ) -> u32 {
        let records = shared.map_or(slot.builder.bytes(), |chunk| chunk.bytes());
        let count = shared.map_or(slot.builder.count(), |chunk| chunk.count());
        let logs = (if logged { Persistence::Persistent } else { Persistence::Transient }, lsn);
        // What is not known by its origin cannot be refused: the limit was set after it was gathered.
        let mut origins = &slot.origins[..];
        if let Some(stream) = machine.stream().filter(|_| slot.numbered) {
            stream.admit(records, logged, &mut self.turned_away);
            // The stream has them already: they are not refused.
            origins = &[];
        } else if slot.numbered && queue.is_numbered || queue.has_window {
            let batch = Batch { records, logged, may_refuse: slot.tracked, now_ms };
            self.admit(queue, machine, batch);
        } else if let Some(waits) = &slot.waits {
            waits.refuse(machine.ready(), count, &mut self.turned_away);
        } else if slot.tracked {
            machine.refuse(records, count, &mut self.turned_away);
        }
        if !slot.seen.is_empty() && !origins.is_empty() {
            self.unplaced.extend(&self.turned_away);
        }
        if !self.turned_away.is_empty() || !self.entered_before.is_empty() {
            let (part, turned_away) = self.take_apart(records, origins);
            let (pushed, to) = (part.count(), (queue.id, slot.waits.is_some().then_some(slot.level)));
            self.push_part(to, machine, part, logs, logged, false);
            if !queue.is_stream && machine.settings().dead_letters_refused() {
                self.push_part(to, machine, turned_away, logs, logged, true);
            }
            return pushed;
        }
        if let Some(parts) = slot.by_level.iter_mut().find(|parts| parts.fit(machine)) {
            parts.push(queue.id, machine, logs, logged, &mut self.wakes);
        } else if !machine.settings().levels().has_one() {
            // Its levels are others than when the messages were gathered: it was converted to another type.
            let mut all = ChunkBuilder::default();
            all.append_records(records);
            self.push_part((queue.id, None), machine, all, logs, logged, false);
        } else {
            let (persistence, wakes) = (logs.0, &mut self.wakes);
            let first = match shared {
                Some(chunk) => machine.push_shared(slot.level, chunk.clone(), persistence, lsn, wakes),
                None => machine.push_copied(slot.level, records, count, persistence, lsn, wakes),
            };
            if logged {
                self.targets.push((queue.id, first));
            }
        }
        count
    }

    /// Whether the log is about to get messages of a slot.
    fn is_logged(&self, slot: &Slot) -> bool {
        let by_level = slot.by_level.iter().any(ByLevel::is_logged);
        by_level || !self.targets.is_empty() || !self.partial.is_empty()
    }

    /// Says to deduplication exchanges what becomes of messages that they have seen: one that some queue has refused may be
    /// sent again.
    fn settle_seen(&mut self, seen: &mut SeenInBatch, vhost: &VirtualHost, otherwise: Fate, is_logged: bool) {
        self.unplaced.sort_unstable();
        let unplaced = |position: u64| {
            u32::try_from(position).is_ok_and(|position| self.unplaced.binary_search(&position).is_ok())
        };
        let fate = |position| if unplaced(position) { Fate::Refused } else { otherwise };
        seen.settle(vhost, fate, is_logged, &mut self.notes, &mut self.decided);
        self.unplaced.clear();
    }

    /// Stages a slot's messages; in one record with what the log must know with them, if there is any.
    fn log(&mut self, stage: &mut Stage<'_>, slot: &mut Slot, count: u32, shared: Option<Arc<Chunk>>) {
        if self.notes.is_empty() {
            return self.log_messages(stage, slot, count, shared);
        }
        stage.group(|stage| {
            for (queue, note) in self.notes.drain(..) {
                stage.note(queue, &note.key, &note.value);
            }
            self.log_messages(stage, slot, count, shared);
        });
    }

    fn log_messages(
        &mut self,
        stage: &mut Stage<'_>,
        slot: &mut Slot,
        count: u32,
        shared: Option<Arc<Chunk>>,
    ) {
        for parts in &mut slot.by_level {
            parts.finish(Some(stage), slot.durability);
        }
        self.stage(stage, slot.durability, count, shared, slot.builder.bytes());
    }

    /// Notes where in the log what was noted of messages ends.
    fn logged(&mut self, broker: &Broker, slot: &mut Slot, compared_in: Option<&VirtualHost>, until: Lsn) {
        let durable = || broker.wal().map_or(Lsn::MAX, |wal| wal.durable());
        for queue in self.numbered.drain(..) {
            if let Some(machine) = queue.lock().machine.classic() {
                machine.admitted(until, durable());
            }
        }
        if let Some(vhost) = compared_in.filter(|_| slot.seen.is_logged()) {
            slot.seen.logged(vhost, until, durable());
        }
    }

    /// Looks what leaves a queue by what arrived; whether it has too much.
    fn after_push(
        &mut self,
        broker: &Arc<Broker>,
        queue: &Arc<QueueHandle>,
        state: &mut QueueGuard<'_>,
        now_ms: u64,
    ) -> bool {
        expiry::expire(broker, queue, state, now_ms);
        state.machine.wake_after_settling(&mut self.wakes);
        dead_letters::schedule(broker, queue, state);
        if state.machine.has_departed() {
            let departed = state.machine.take_departed();
            if departed.persistent && queue.definition.durable {
                self.departed.push((queue.id, departed.ranges));
            }
        }
        residency::after_push(broker, queue, state, now_ms)
    }

    /// Finds the messages that a queue has had, and those for which it has no room.
    fn admit(&mut self, queue: &Arc<QueueHandle>, machine: &mut Machine, batch: Batch<'_>) {
        let Some(machine) = machine.classic() else { return };
        let mut admission = Admission {
            entered_before: std::mem::take(&mut self.entered_before),
            refused: std::mem::take(&mut self.turned_away),
            notes: Vec::new(),
        };
        machine.admit(batch, &mut admission);
        self.entered_before = admission.entered_before;
        self.turned_away = admission.refused;
        if !admission.notes.is_empty() {
            self.notes.extend(admission.notes.into_iter().map(|note| (queue.id, note)));
            self.numbered.push(queue.clone());
        }
    }

    /// Appends a part of a batch to a level of a queue, or where no level is said to those of the messages' priorities; with
    /// `turned_away` it leaves the queue at once.
    fn push_part(
        &mut self,
        (queue, level): (QueueId, Option<u8>),
        machine: &mut Machine,
        part: ChunkBuilder,
        (persistence, lsn): (Persistence, Lsn),
        logged: bool,
        turned_away: bool,
    ) {
        let parts = match level {
            Some(level) => std::iter::once((level, part)).collect(),
            None => priorities::split(part, machine.settings()),
        };
        for (level, part) in parts {
            let (count, wakes) = (part.count(), &mut self.wakes);
            if count == 0 {
                continue;
            }
            let first = machine.push_copied(level, part.bytes(), count, persistence, lsn, wakes);
            if turned_away {
                machine.turn_away(first, count);
            }
            if logged {
                self.partial.push((queue, first, part));
            }
        }
    }

    fn stage(
        &mut self,
        stage: &mut Stage<'_>,
        durability: Durability,
        count: u32,
        shared: Option<Arc<Chunk>>,
        copied: &[u8],
    ) {
        if !self.targets.is_empty() {
            let payload = match shared {
                Some(chunk) => Payload::Shared(chunk),
                None => Payload::Copy(copied),
            };
            enqueue(stage, durability, &self.targets, count, payload);
        }
        for (queue, first, part) in self.partial.drain(..) {
            enqueue(stage, durability, &[(queue, first)], part.count(), Payload::Copy(part.bytes()));
        }
    }

    /// The messages that a queue takes, and those that were turned away, whose origins are noted as refused.
    fn take_apart(&mut self, records: &[u8], origins: &[Origin]) -> (ChunkBuilder, ChunkBuilder) {
        let (mut part, mut turned_away) = (ChunkBuilder::default(), ChunkBuilder::default());
        let (mut rest, mut refused) = (records, self.turned_away.drain(..).peekable());
        let mut before = self.entered_before.drain(..).peekable();
        for (position, record) in (0..).zip(Records::new(records)) {
            let (bytes, after) = rest.split_at(record.len());
            rest = after;
            if before.next_if_eq(&position).is_some() {
                continue;
            }
            if refused.next_if_eq(&position).is_none() {
                part.append_records(bytes);
            } else {
                turned_away.append_records(bytes);
                self.refused.extend(origins.get(position as usize));
            }
        }
        (part, turned_away)
    }
}

/// Stages messages for the log as the promise to their publishers asks.
pub(crate) fn enqueue(
    stage: &mut Stage<'_>,
    durability: Durability,
    targets: &[(QueueId, Seq)],
    count: u32,
    payload: Payload<'_>,
) {
    match durability {
        Durability::Sync => stage.enqueue(targets, count, payload),
        Durability::Relaxed | Durability::Memory => stage.enqueue_relaxed(targets, count, payload),
    };
}

/// Takes the builder's records as a chunk for so many queues and leaves a builder with room for a little more, but for
/// no more than a batch: under load the buffers of all chunks are then of the size that is used again.
pub(crate) fn finish(builder: &mut ChunkBuilder, queues: usize) -> Arc<Chunk> {
    let bytes = builder.bytes().len();
    let next = if bytes <= BATCH_BYTES_MAX {
        ChunkBuilder::with_room((bytes + bytes / 8).min(BATCH_BYTES_MAX))
    } else {
        ChunkBuilder::default()
    };
    Arc::new(std::mem::replace(builder, next).finish().for_queues(queues))
}
