//! Keeping messages that were not to survive a restart: when a queue is converted to a type that keeps everything.
//!
//! Whoever owns the queue writes the transient chunks where those that survive are, and says so of each
//! ([`Queue::keep`]). Until then a chunk stays transient, so that a checkpoint never counts on what is not there.

use posthouse_model::bitmap::SeqBitmap;
use posthouse_model::ids::Seq;

use super::Queue;
use super::chunks::{Persistence, Residence};

/// A chunk whose messages do not survive a restart yet.
#[derive(Clone, Debug)]
pub struct ToKeep<L> {
    /// Identifies it within its queue.
    pub first_seq: Seq,
    /// Where its bytes are. Valid for as long as the queue's lock is held; later it may have moved to another segment.
    pub residence: Residence<L>,
    /// Which of its messages are settled for good.
    pub settled: Option<SeqBitmap>,
}

impl<L: Copy, W: Clone> Queue<L, W> {
    /// Appends the transient chunks of all levels, the open tails included.
    pub fn plan_keeping(&mut self, plan: &mut Vec<ToKeep<L>>) {
        for level in self.levels_in_order(None) {
            self.in_line(level, |queue| {
                if queue.tail_persistence == Persistence::Transient {
                    queue.close_tail();
                }
                let transient = queue.chunks.iter().filter(|held| held.persistence == Persistence::Transient);
                plan.extend(transient.map(|held| ToKeep {
                    first_seq: held.first_seq,
                    residence: held.residence.clone(),
                    settled: queue.chunks.settled_for_good(held),
                }));
            });
        }
    }

    /// The chunk that begins at `first_seq` is where chunks are that survive a restart: its messages do from now on.
    pub fn keep(&mut self, first_seq: Seq) {
        let level = self.level_of(first_seq).unwrap_or(0);
        self.in_line(level, |queue| {
            if let Some(index) = queue.chunks.index_of(first_seq) {
                queue.chunks.set_persistent(index);
            }
        });
    }

    /// Whether the messages of the chunk that begins at `first_seq` survive a restart.
    pub fn is_kept(&self, first_seq: Seq) -> bool {
        let line = self.level_of(first_seq).map_or(Some(self), |level| self.level(level));
        let held = line.and_then(|line| line.chunks.get(line.chunks.index_of(first_seq)?));
        held.is_some_and(|held| held.persistence == Persistence::Persistent)
    }

    /// Whether any of `first..=last`, which are of one level, survives a restart.
    pub fn keeps_any(&self, first: Seq, last: Seq) -> bool {
        let line = self.level_of(first).map_or(Some(self), |level| self.level(level));
        let Some(line) = line else { return false };
        let from = line.chunks.index_at_or_after(first);
        let mut chunks = (from..).map_while(|index| line.chunks.get(index));
        let of_range = chunks.by_ref().take_while(|held| held.first_seq <= last);
        let mut persistences = of_range.map(|held| held.persistence);
        let tail = !line.tail.is_empty() && line.tail_first <= last;
        persistences.any(|it| it == Persistence::Persistent)
            || (tail && line.tail_persistence == Persistence::Persistent)
    }

    /// Whether any message would be lost by a restart.
    pub fn has_transient(&self) -> bool {
        self.levels().any(|level| {
            let tail = !level.tail.is_empty() && level.tail_persistence == Persistence::Transient;
            tail || level.chunks.iter().any(|held| held.persistence == Persistence::Transient)
        })
    }
}
