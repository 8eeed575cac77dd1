//! The chunks a queue holds, in order, and which of their messages are settled.
//!
//! A message that *leaves* for another queue is settled for everyone who looks at its chunk, and yet kept: until it has
//! arrived there it is not settled on disk, and its chunk stays. [`Chunks::leave`] and [`Chunks::left`].

mod leaving;

use std::collections::{BTreeSet, VecDeque};

use posthouse_model::chunk::Received;
use posthouse_model::ids::Seq;

use super::details::{Details, Wanted};
pub use super::held::{Held, Persistence, Residence};
use super::looks::Looks;
use super::ranges::SeqRanges;
use super::times::NEVER_MS;
use super::unique::Values;

/// What settling a range changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Settled {
    /// Messages that were not settled before.
    pub count: u64,
    /// Whether any of them may be persistent.
    pub persistent: bool,
}

impl Settled {
    /// Counts what another range changed.
    pub(super) fn add(&mut self, other: Self) {
        self.count += other.count;
        self.persistent |= other.persistent;
    }
}

/// A queue's chunks in order of sequence numbers. Chunks without a live message are removed at once.
#[derive(Clone, Debug)]
pub struct Chunks<L> {
    held: VecDeque<Held<L>>,
    /// Places in segments whose chunk is gone, for the owner to release.
    released: Vec<L>,
    memory_bytes: usize,
    /// What is ahead of the cursor, as far as it is known.
    ahead: Ahead,
    /// The first numbers of the chunks that are in memory, while some are not: what is to leave memory is found among
    /// them however long a backlog lies on disk.
    resident: Option<BTreeSet<Seq>>,
    /// What duplicates are found by, in queues that ask for it.
    values: Option<Box<Values>>,
    /// Whether sizes of bodies are to be known.
    wants_bodies: bool,
    /// Chunks of which something is to be known that is not.
    unsurveyed: usize,
    details_bytes: usize,
    /// The chunks that must be looked at some time, because messages may expire: when, and which.
    due: BTreeSet<(u64, Seq)>,
    /// Messages that count as settled and are not: they are on their way to another queue.
    leaving: SeqRanges,
    /// Bytes of their bodies, as far as they are known.
    leaving_bytes: u64,
}

/// The chunks that begin at `from` or later.
#[derive(Clone, Copy, Debug, Default)]
struct Ahead {
    from: Seq,
    /// Bytes of memory they take.
    memory_bytes: usize,
}

impl<L> Default for Chunks<L> {
    fn default() -> Self {
        Self {
            held: VecDeque::new(),
            released: Vec::new(),
            memory_bytes: 0,
            ahead: Ahead::default(),
            resident: None,
            values: None,
            wants_bodies: false,
            unsurveyed: 0,
            details_bytes: 0,
            due: BTreeSet::new(),
            leaving: SeqRanges::default(),
            leaving_bytes: 0,
        }
    }
}

/// Descriptors that room is made for at least.
const GROW_MIN: usize = 4;

/// Descriptors whose room is kept for the next ones, whatever is left.
const KEPT_MAX: usize = 64;

impl<L: Copy> Chunks<L> {
    /// Bytes of memory taken by chunks that are in memory.
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// Bytes of memory taken by chunks that end after `cursor`, which never goes back. Costs as much as the cursor has
    /// moved on.
    pub fn bytes_ahead(&mut self, cursor: Seq) -> usize {
        let mut index = self.held.partition_point(|held| held.first_seq < self.ahead.from);
        while let Some(held) = self.held.get(index).filter(|held| held.end_seq() <= cursor) {
            self.ahead.memory_bytes -= held.residence.memory_bytes();
            self.ahead.from = held.end_seq();
            index += 1;
        }
        self.ahead.memory_bytes
    }

    /// The chunks that are in memory, in order, with their indices.
    pub fn resident(&self) -> impl Iterator<Item = (usize, &Held<L>)> {
        let mut seqs = self.resident.as_ref().map(|seqs| seqs.iter());
        let mut next = 0;
        std::iter::from_fn(move || {
            if let Some(seqs) = &mut seqs {
                let seq = *seqs.next()?;
                if self.held.get(next).is_none_or(|held| held.first_seq != seq) {
                    next = self.index_of(seq)?;
                }
            }
            next += 1;
            Some((next - 1, self.held.get(next - 1)?))
        })
    }

    /// Bytes of memory taken by what is known of each chunk, wherever its bytes are: this is what a backlog on disk
    /// costs, with what is kept of each message where that is needed. Bitmaps of chunks with holes, a bit per message,
    /// are left out.
    pub fn descriptor_bytes(&self) -> usize {
        let values = self.values.as_ref().map_or(0, |values| values.memory_bytes());
        self.held.capacity() * size_of::<Held<L>>()
            + self.details_bytes
            + self.leaving.memory_bytes()
            + values
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// How many chunks there are.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// All chunks in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Held<L>> {
        self.held.iter()
    }

    /// The chunk at an index.
    pub fn get(&self, index: usize) -> Option<&Held<L>> {
        self.held.get(index)
    }

    /// How many there are of which something is to be known that is not.
    pub fn unsurveyed(&self) -> usize {
        self.unsurveyed
    }

    /// What is to be known of a chunk and is not; nothing when all is.
    pub fn lacking(&self, held: &Held<L>) -> Option<Wanted> {
        let wanted = held.wanted(self.wants_bodies);
        held.lacks(wanted).then_some(wanted)
    }

    /// Says whether sizes of bodies are to be known.
    pub fn want_bodies(&mut self, wants_bodies: bool) {
        self.wants_bodies = wants_bodies;
        self.unsurveyed = self.held.iter().filter(|held| held.lacks(held.wanted(wants_bodies))).count();
        self.leaving_bytes = self.leaving_bytes_within(0, Seq::MAX);
    }

    /// A chunk's messages survive a restart from now on.
    pub fn set_persistent(&mut self, index: usize) {
        if let Some(held) = self.held.get_mut(index) {
            held.persistence = Persistence::Persistent;
        }
    }

    /// Says whether it is to be known of a chunk's messages when each was received.
    pub fn want_received(&mut self, index: usize, wants_received: bool) {
        let wants_bodies = self.wants_bodies;
        let Some(held) = self.held.get_mut(index) else { return };
        self.unsurveyed -= usize::from(held.lacks(held.wanted(wants_bodies)));
        held.wants_received = wants_received;
        self.unsurveyed += usize::from(held.lacks(held.wanted(wants_bodies)));
    }

    /// Sets or removes a chunk's details.
    pub fn set_details(&mut self, index: usize, details: Option<Box<Details>>) {
        let wants_bodies = self.wants_bodies;
        let leaving_bytes = self.leaving_bytes_of(index);
        let Some(held) = self.held.get_mut(index) else { return };
        self.unsurveyed -= usize::from(held.lacks(held.wanted(wants_bodies)));
        self.details_bytes -= bytes_of(held.details.as_deref());
        held.details = details;
        self.details_bytes += bytes_of(held.details.as_deref());
        self.unsurveyed += usize::from(held.lacks(held.wanted(wants_bodies)));
        self.leaving_bytes = self.leaving_bytes - leaving_bytes + self.leaving_bytes_of(index);
    }

    /// Takes what is known of when to look at a chunk's messages, where times of single ones are.
    pub(super) fn take_looks(&mut self, index: usize) -> Option<Looks> {
        let details = self.held.get_mut(index)?.details.as_deref_mut().filter(|own| own.has_times())?;
        let looks = std::mem::take(details.looks_mut());
        self.details_bytes -= looks.memory_bytes();
        Some(looks)
    }

    /// Keeps it.
    pub(super) fn set_looks(&mut self, index: usize, looks: Looks) {
        if let Some(details) = self.held.get_mut(index).and_then(|held| held.details.as_deref_mut()) {
            self.details_bytes += looks.memory_bytes();
            *details.looks_mut() = looks;
        }
    }

    /// Forgets what is known of a chunk's messages and is not wanted.
    pub fn trim_details(&mut self, index: usize) {
        let wants_bodies = self.wants_bodies;
        let Some(held) = self.held.get_mut(index) else { return };
        let wanted = held.wanted(wants_bodies);
        let Some(mut details) = held.details.take_if(|details| !details.has_only(wanted)) else { return };
        self.details_bytes -= bytes_of(Some(&details));
        details.keep(wanted);
        held.details = Some(details).filter(|_| !wanted.is_nothing());
        self.details_bytes += bytes_of(held.details.as_deref());
    }

    /// Changes what is known of when a chunk's messages were received.
    pub fn set_received(&mut self, index: usize, received: Received) {
        if let Some(held) = self.held.get_mut(index) {
            held.received = received;
        }
    }

    /// When the first chunk must be looked at, because messages may have expired: [`NEVER_MS`] when none must.
    #[inline]
    pub fn next_due_ms(&self) -> u64 {
        self.due.first().map_or(NEVER_MS, |&(due_ms, _)| due_ms)
    }

    /// The chunk that had to be looked at first, if that was at or before `now_ms`; it is not noted any more.
    pub fn pop_due(&mut self, now_ms: u64) -> Option<usize> {
        let &(due_ms, first_seq) = self.due.first().filter(|&&(due_ms, _)| due_ms <= now_ms)?;
        self.due.remove(&(due_ms, first_seq));
        let index = self.index_of(first_seq)?;
        self.held.get_mut(index)?.due_ms = NEVER_MS;
        Some(index)
    }

    /// Notes when a chunk must be looked at, at the latest.
    pub fn note_due(&mut self, index: usize, due_ms: u64) {
        if self.held.get(index).is_some_and(|held| due_ms < held.due_ms) {
            self.set_due(index, due_ms);
        }
    }

    /// Changes when a chunk must be looked at.
    pub fn set_due(&mut self, index: usize, due_ms: u64) {
        let Some(held) = self.held.get_mut(index) else { return };
        if held.due_ms != NEVER_MS {
            self.due.remove(&(held.due_ms, held.first_seq));
        }
        held.due_ms = due_ms;
        if due_ms != NEVER_MS {
            self.due.insert((due_ms, held.first_seq));
        }
    }

    /// Adds a chunk after all others.
    pub fn push(&mut self, held: Held<L>) {
        debug_assert!(self.held.back().is_none_or(|last| last.end_seq() <= held.first_seq));
        self.note_memory(held.first_seq, 0, held.residence.memory_bytes());
        self.note_residence(held.first_seq, held.residence.chunk().is_some());
        self.unsurveyed += usize::from(held.lacks(held.wanted(self.wants_bodies)));
        self.details_bytes += bytes_of(held.details.as_deref()) + held.shares.memory_bytes();
        if held.due_ms != NEVER_MS {
            self.due.insert((held.due_ms, held.first_seq));
        }
        if self.held.len() == self.held.capacity() {
            // Not doubled: a backlog's descriptors are the one thing here that is large when it is.
            self.held.reserve_exact((self.held.len() / 8).max(GROW_MIN));
        }
        self.held.push_back(held);
    }

    /// Index of the first chunk that ends after `seq`.
    pub fn index_at_or_after(&self, seq: Seq) -> usize {
        match self.held.front() {
            Some(front) if seq < front.end_seq() => 0,
            _ => self.held.partition_point(|held| held.end_seq() <= seq),
        }
    }

    /// Index of the chunk that starts at exactly `first_seq`.
    pub fn index_of(&self, first_seq: Seq) -> Option<usize> {
        let index = self.held.partition_point(|held| held.first_seq < first_seq);
        (self.held.get(index)?.first_seq == first_seq).then_some(index)
    }

    /// Begins or ceases to keep what duplicates are found by.
    pub(super) fn keep_values(&mut self, keep: bool) {
        if keep != self.values.is_some() {
            self.values = keep.then(Box::default);
        }
    }

    /// What duplicates are found by; none where nobody asks for it.
    #[inline]
    pub(super) fn values(&mut self) -> Option<&mut Values> {
        self.values.as_deref_mut()
    }

    /// Forgets the values of `first..=last`. Those of messages on their way to where dead letters go, too: that may be this
    /// queue, and what arrives there must not be taken for a duplicate of itself.
    fn forget_values(&mut self, first: Seq, last: Seq) {
        if let Some(values) = &mut self.values {
            values.forget(first, last);
        }
    }

    /// Settles `first..=last`. Numbers that no chunk covers are settled already; those that leave stay so.
    pub fn settle(&mut self, first: Seq, last: Seq) -> Settled {
        self.forget_values(first, last);
        let mut outcome = Settled::default();
        let mut index = self.index_at_or_after(first);
        while let Some(held) = self.held.get_mut(index) {
            if held.first_seq > last {
                break;
            }
            let from = first.saturating_sub(held.first_seq) as u32;
            let to = (last - held.first_seq).min(Seq::from(held.span - 1)) as u32;
            let count = held.settle(from, to);
            outcome.count += u64::from(count);
            outcome.persistent |= count > 0 && held.persistence == Persistence::Persistent;
            if held.live == 0 && !self.leaving.touches(held.first_seq, held.end_seq() - 1) {
                self.remove(index);
            } else {
                index += 1;
            }
        }
        outcome
    }

    /// Every message below is settled for good; none when there are no chunks.
    pub fn floor(&self) -> Option<Seq> {
        let first = self.held.front()?;
        let floor = first.first_seq + Seq::from(first.prefix);
        Some(self.leaving.first().map_or(floor, |(leaving, _)| floor.min(leaving)))
    }

    /// Changes where a chunk's bytes are.
    pub fn set_residence(&mut self, index: usize, residence: Residence<L>) {
        let Some(held) = self.held.get_mut(index) else { return };
        let first_seq = held.first_seq;
        let before = std::mem::replace(&mut held.residence, residence).memory_bytes();
        let (after, resident) = (held.residence.memory_bytes(), held.residence.chunk().is_some());
        self.note_memory(first_seq, before, after);
        self.note_residence(first_seq, resident);
    }

    /// Removes a chunk, dead or lost.
    pub fn remove(&mut self, index: usize) -> Option<Held<L>> {
        self.leaving_bytes -= self.leaving_bytes_of(index);
        let held = self.held.remove(index)?;
        self.leaving.take_within(held.first_seq, held.end_seq() - 1);
        self.note_memory(held.first_seq, held.residence.memory_bytes(), 0);
        self.forget_values(held.first_seq, held.end_seq() - 1);
        match &mut self.resident {
            Some(_) if self.held.is_empty() => self.resident = None,
            Some(resident) => drop(resident.remove(&held.first_seq)),
            None => {}
        }
        self.unsurveyed -= usize::from(held.lacks(held.wanted(self.wants_bodies)));
        self.details_bytes -= bytes_of(held.details.as_deref()) + held.shares.memory_bytes();
        if held.due_ms != NEVER_MS {
            self.due.remove(&(held.due_ms, held.first_seq));
        }
        self.released.extend(held.residence.location());
        if self.held.capacity() > KEPT_MAX.max(4 * self.held.len()) {
            self.held.shrink_to(2 * self.held.len());
        }
        Some(held)
    }

    fn note_memory(&mut self, first_seq: Seq, before: usize, after: usize) {
        self.memory_bytes = self.memory_bytes - before + after;
        if first_seq >= self.ahead.from {
            self.ahead.memory_bytes = self.ahead.memory_bytes - before + after;
        }
    }

    /// Notes whether a chunk that is there, or is about to be, is in memory.
    fn note_residence(&mut self, first_seq: Seq, resident: bool) {
        match &mut self.resident {
            Some(seqs) if resident => drop(seqs.insert(first_seq)),
            Some(seqs) => drop(seqs.remove(&first_seq)),
            None if resident => {}
            None => {
                let seqs = self.held.iter().filter(|held| held.residence.chunk().is_some());
                self.resident = Some(seqs.map(|held| held.first_seq).collect());
            }
        }
    }

    /// Notes a place in a segment that no chunk uses any more.
    pub fn release(&mut self, location: L) {
        self.released.push(location);
    }

    /// Exchanges what all levels of a queue share with another's: the places in segments that no chunk uses any more, and
    /// what duplicates are found by.
    pub(super) fn swap_shared(&mut self, other: &mut Self) {
        std::mem::swap(&mut self.values, &mut other.values);
        std::mem::swap(&mut self.released, &mut other.released);
    }

    /// Takes the places in segments that no chunk uses any more.
    pub fn take_released(&mut self) -> Vec<L> {
        std::mem::take(&mut self.released)
    }
}

fn bytes_of(details: Option<&Details>) -> usize {
    details.map_or(0, Details::memory_bytes)
}

#[cfg(test)]
mod tests;
