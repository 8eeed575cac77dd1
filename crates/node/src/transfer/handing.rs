//! Handing groups over to their queues and to the log, with the log's staging lock held.

use std::sync::Arc;

use posthouse_model::chunk::{Chunk, ChunkBuilder};
use posthouse_model::durability::Durability;
use posthouse_model::ids::{Lsn, QueueId, Seq};
use posthouse_queue::machine::chunks::Persistence;
use posthouse_queue::machine::limits::Room;
use posthouse_storage::wal::{Payload, Stage};
use smallvec::SmallVec;

use super::group::Group;
use super::{Mode, Transfer};
use crate::publish::SHARE_BYTES_MIN;
use crate::queue_handle::QueueGuard;
use crate::{deliver, expiry, residency};

impl Transfer<'_> {
    /// Moves a group, for which there is room; the position up to which the log must be on disk before its source settles
    /// it.
    pub(super) fn hand_over(&mut self, group: &mut Group, mut stage: Option<&mut Stage<'_>>) -> Lsn {
        let count = group.builder.count();
        if count == 0 {
            return 0;
        }
        let has_reserved = group.targets.iter().any(|(queue, _)| self.reserved.has(queue.id));
        let room = if has_reserved { group.room() } else { Room::default() };
        let bytes = group.builder.bytes().len();
        let queues = group.targets.len();
        let finish =
            |builder: &mut ChunkBuilder| Arc::new(std::mem::take(builder).finish().for_queues(queues));
        let chunk = (bytes >= SHARE_BYTES_MIN).then(|| finish(&mut group.builder));
        let lsn = stage.as_ref().map_or(0, |stage| stage.position());
        let mut logged: SmallVec<[(QueueId, Seq); 4]> = SmallVec::new();
        let mut departed = Vec::new();
        for (queue, level) in &group.targets {
            let mut state = queue.lock();
            if state.deleted {
                continue;
            }
            self.reserved.end(queue.id, &mut state.machine, room);
            let durable = (group.persistent || queue.keeps_all())
                && stage.is_some()
                && queue.durability(&state) != Durability::Memory;
            let persistence = if durable { Persistence::Persistent } else { Persistence::Transient };
            let (records, wakes) = (group.builder.bytes(), &mut self.wakes.consumers);
            let first = match &chunk {
                Some(chunk) => state.machine.push_shared(*level, chunk.clone(), persistence, lsn, wakes),
                None => state.machine.push_copied(*level, records, count, persistence, lsn, wakes),
            };
            if durable {
                logged.push((queue.id, first));
            }
            state.counters.published += u64::from(count);
            expiry::expire(self.broker, queue, &mut state, self.now_ms);
            let left = deliver::take_departed(self.broker, queue, &mut state);
            self.wakes.append(left.wakes);
            if left.departed.persistent && queue.definition.durable {
                departed.push((queue.id, left.departed.ranges));
            }
            // Nobody is paced here; what is too much for memory goes to disk.
            residency::after_push(self.broker, queue, &mut state, self.now_ms);
        }
        let end = self.stage(group, chunk, &logged, stage.as_deref_mut());
        if let Some(stage) = stage {
            for (queue, ranges) in departed {
                stage.settle(queue, &ranges);
            }
        }
        if self.mode == Mode::Copied {
            return 0;
        }
        let mut state = self.source.lock();
        if let Some(machine) = state.machine.classic() {
            group.ranges.iter().for_each(|&(first, last)| machine.moved(first, last, end));
            machine.finish_moves(0);
        }
        self.release(&mut state);
        end
    }

    /// Says in one record that the messages left and entered.
    pub(super) fn stage_move(
        &self,
        group: &Group,
        chunk: Option<Arc<Chunk>>,
        logged: &[(QueueId, Seq)],
        stage: Option<&mut Stage<'_>>,
    ) -> Lsn {
        let kept = self.source.definition.durable
            && (group.persistent || self.source.keeps_all() || self.was_kept(group));
        let Some(stage) = stage.filter(|_| kept || !logged.is_empty()) else { return 0 };
        let count = chunk.as_ref().map_or(group.builder.count(), |chunk| chunk.count());
        let payload = match chunk {
            Some(chunk) => Payload::Shared(chunk),
            None => Payload::Copy(group.builder.bytes()),
        };
        let ranges = &group.ranges;
        let leaves = kept && self.mode != Mode::Copied;
        match (leaves, logged.is_empty()) {
            (true, false) => stage.transfer(self.source.id, ranges, logged, count, payload),
            (true, true) => stage.settle(self.source.id, ranges),
            (false, false) => {
                stage.enqueue(logged, count, payload);
                0
            }
            (false, true) => 0,
        }
    }

    /// Whether messages that are not persistent were kept by their queue when it was of another type.
    fn was_kept(&self, group: &Group) -> bool {
        let mut state = self.source.lock();
        let machine = state.machine.classic();
        machine
            .is_some_and(|machine| group.ranges.iter().any(|&(first, last)| machine.keeps_any(first, last)))
    }

    /// Puts down at the source which messages cannot go on.
    pub(super) fn settle_stalled(&mut self) {
        let Mode::Leaving(from) = self.mode else { return };
        if let Some(machine) = self.source.lock().machine.classic() {
            machine.stall(from, &self.stalled, &mut self.dropped);
        }
    }

    pub(super) fn settle_dropped(&self, stage: Option<&mut Stage<'_>>) {
        if self.dropped.is_empty() {
            return;
        }
        let mut persistent = false;
        {
            let mut state = self.source.lock();
            if let Some(machine) = state.machine.classic() {
                for &(first, last) in &self.dropped {
                    persistent |= machine.dropped(first, last).persistent;
                }
            }
            self.release(&mut state);
        }
        if let Some(stage) = stage.filter(|_| persistent && self.source.definition.durable) {
            stage.settle(self.source.id, &self.dropped);
        }
    }

    fn release(&self, state: &mut QueueGuard<'_>) {
        if let Some(segments) = self.broker.segments() {
            residency::release(state, segments);
        }
    }
}
