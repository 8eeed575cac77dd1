//! Which of a queue's messages are on their way to another queue, and what they weigh.

use posthouse_model::bitmap::SeqBitmap;
use posthouse_model::ids::Seq;

use super::super::ranges::SeqRanges;
use super::{Chunks, Held, Persistence, Settled};

impl<L: Copy> Chunks<L> {
    /// Lets those of `first..=last` leave that are not settled yet; how many.
    pub fn leave(&mut self, first: Seq, last: Seq) -> u64 {
        self.forget_values(first, last);
        let before = self.leaving.count();
        let mut index = self.index_at_or_after(first);
        while let Some(held) = self.held.get_mut(index).filter(|held| held.first_seq <= last) {
            let mut from = first.saturating_sub(held.first_seq) as u32;
            let to = (last - held.first_seq).min(Seq::from(held.span - 1)) as u32;
            while let Some((run, end)) = held.next_live(from).filter(|&(run, _)| run <= to) {
                let end = end.min(to);
                self.leaving.insert(held.first_seq + Seq::from(run), held.first_seq + Seq::from(end));
                if let Some(details) = held.details.as_ref().filter(|_| self.wants_bodies) {
                    self.leaving_bytes += details.body_bytes(run, end);
                }
                held.settle(run, end);
                from = end + 1;
            }
            index += 1;
        }
        self.leaving.count() - before
    }

    /// Those of `first..=last` that were leaving have arrived: they are settled.
    pub fn left(&mut self, first: Seq, last: Seq) -> Settled {
        self.leaving_bytes -= self.leaving_bytes_within(first, last);
        let count = self.leaving.take_within(first, last);
        self.forget_values(first, last);
        let mut outcome = Settled { count, persistent: false };
        let mut index = self.index_at_or_after(first);
        while let Some(held) = self.held.get(index).filter(|held| held.first_seq <= last) {
            outcome.persistent |= held.persistence == Persistence::Persistent;
            if held.live == 0 && !self.leaving.touches(held.first_seq, held.end_seq() - 1) {
                self.remove(index);
            } else {
                index += 1;
            }
        }
        outcome
    }

    /// Messages that are leaving.
    pub fn leaving(&self) -> &SeqRanges {
        &self.leaving
    }

    /// Bytes of their bodies, as far as they are known.
    pub(in crate::machine) fn leaving_bytes(&self) -> u64 {
        self.leaving_bytes
    }

    /// The same of those among `first..=last`, added up.
    pub(super) fn leaving_bytes_within(&self, first: Seq, last: Seq) -> u64 {
        if !self.wants_bodies {
            return 0;
        }
        self.leaving.within(first, last).map(|(first, last)| self.body_bytes(first, last)).sum()
    }

    pub(super) fn leaving_bytes_of(&self, index: usize) -> u64 {
        let held = self.held.get(index);
        held.map_or(0, |held| self.leaving_bytes_within(held.first_seq, held.end_seq() - 1))
    }

    /// Bytes of the bodies of `first..=last`, as far as they are known; 0 where nobody asks for them.
    pub(in crate::machine) fn body_bytes(&self, first: Seq, last: Seq) -> u64 {
        if !self.wants_bodies {
            return 0;
        }
        let (mut index, mut bytes) = (self.index_at_or_after(first), 0);
        while let Some(held) = self.held.get(index).filter(|held| held.first_seq <= last) {
            if let Some(details) = &held.details {
                let from = first.saturating_sub(held.first_seq) as u32;
                bytes += details.body_bytes(from, (last.min(held.end_seq() - 1) - held.first_seq) as u32);
            }
            index += 1;
        }
        bytes
    }

    /// The messages of a chunk that are settled for good: what a restart must know. None when there are none.
    pub fn settled_for_good(&self, held: &Held<L>) -> Option<SeqBitmap> {
        let mut bits = held.settled_bitmap()?;
        for (first, last) in self.leaving.within(held.first_seq, held.end_seq() - 1) {
            bits.clear_range((first - held.first_seq) as u32, (last - held.first_seq) as u32 + 1);
        }
        (bits.count() > 0).then_some(bits)
    }
}
