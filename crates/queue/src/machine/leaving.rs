//! Messages on their way to other queues.
//!
//! They are neither ready nor handed out any more, and not settled yet: whoever moves them takes them in the order in
//! which they left ([`Queue::take_leaving`]), and says of each what has become of it. Only then are they settled, and if
//! the log has a part in it not before the log has it on disk: a crash finds a message in this queue or in the other.
//! A restart finds those that had not arrived ready again.
//!
//! Those that cannot go on are [stalled], and in nobody's way.

pub mod stalled;

use std::collections::VecDeque;

use posthouse_model::ids::{Lsn, Seq};
use posthouse_model::name::Name;

use super::Queue;
use super::chunks::{Residence, Settled};
use super::departures::Reason;
use stalled::{Line, Stalled};

/// Messages that were dropped for want of room and not tried yet, from which on more of them are held back.
const DROPS_MAX: u64 = 10_000;

/// Where dead letters go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeadLetterTarget {
    /// The exchange.
    pub exchange: Name,
    /// What they are published with there, if not with their own keys.
    pub routing_key: Option<Name>,
}

/// Consecutive messages that leave for one reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// The first one's number.
    pub first: Seq,
    /// The last one's number.
    pub last: Seq,
    /// Why.
    pub reason: Reason,
}

impl Run {
    /// How many numbers it covers.
    pub fn count(self) -> u64 {
        self.last - self.first + 1
    }

    /// Whether another one is its continuation.
    pub fn is_before(self, next: Self) -> bool {
        self.last + 1 == next.first && self.reason == next.reason
    }
}

/// Messages to be moved, all of one chunk. Valid for as long as the queue's lock is held; later the chunk may have moved
/// to another segment.
#[derive(Clone, Debug)]
pub struct Parcel<L> {
    /// Which ones.
    pub run: Run,
    /// Identifies the chunk within its queue.
    pub first_seq: Seq,
    /// Where its bytes are.
    pub residence: Residence<L>,
}

/// See the module's documentation.
#[derive(Clone, Default, Debug)]
pub(super) struct Leaving {
    /// Where those of [`Self::waiting`] are to go.
    target: Option<DeadLetterTarget>,
    /// Not tried yet, in the order in which they left.
    waiting: VecDeque<Run>,
    /// How many those are.
    waiting_messages: u64,
    /// Those that could not go on when it was tried.
    stalled: Stalled,
    /// Those that are in another queue, until the log has it on disk up to a position.
    moved: VecDeque<(Lsn, Seq, Seq)>,
}

impl<L: Copy, W: Clone> Queue<L, W> {
    /// Lets those of `first..=last`, which are of this level, leave that are not settled; how many.
    pub(super) fn let_leave(&mut self, first: Seq, last: Seq, reason: Reason) -> u64 {
        let Some(target) = self.dead_letter_target() else { return 0 };
        let count = self.chunks.leave(first, last);
        if count == 0 {
            return 0;
        }
        let leaving = self.leaving.get_or_insert_default();
        leaving.target = Some(target);
        leaving.waiting_messages += last - first + 1;
        match leaving.waiting.back_mut() {
            Some(run) if run.last + 1 == first && run.reason == reason => run.last = last,
            _ => leaving.waiting.push_back(Run { first, last, reason }),
        }
        count
    }

    /// Where dead letters go: also those that had left when it ceased to be set.
    pub fn dead_letter_target(&self) -> Option<DeadLetterTarget> {
        let settings = &self.settings;
        match settings.dead_letter_exchange.clone() {
            Some(exchange) => {
                let routing_key = settings.dead_letter_routing_key.clone();
                Some(DeadLetterTarget { exchange, routing_key })
            }
            None => self.leaving.as_ref()?.target.clone(),
        }
    }

    /// Lets those of `first..=last`, which are of one level, leave that are ready or delayed, for wherever somebody moves
    /// them, and appends them to `claimed` in ascending order. Of each must be said what has become of it: [`Self::moved`] or [`Self::dropped`].
    pub fn claim(&mut self, first: Seq, last: Seq, claimed: &mut Vec<(Seq, Seq)>) {
        match self.level_of(first) {
            Some(level) => self.in_level(level, |queue| queue.claim_line(first, last, claimed)),
            None => self.claim_line(first, last, claimed),
        }
    }

    fn claim_line(&mut self, first: Seq, last: Seq, claimed: &mut Vec<(Seq, Seq)>) {
        self.close_tail();
        let at = claimed.len();
        claimed.extend(self.returned.within(first, last));
        claimed.extend(self.delayed_within(first, last).map(|range| (range.first, range.last)));
        let mut next = first.max(self.cursor);
        while next <= last {
            let Some(held) = self.chunks.get(self.chunks.index_at_or_after(next)) else { break };
            let from = next.saturating_sub(held.first_seq) as u32;
            match held.next_live(from) {
                Some((run, end)) if held.first_seq + Seq::from(run) <= last => {
                    let end = last.min(held.first_seq + Seq::from(end));
                    claimed.push((held.first_seq + Seq::from(run), end));
                    next = end + 1;
                }
                _ => next = held.end_seq(),
            }
        }
        // What was given back and what is delayed lie among each other.
        claimed[at..].sort_unstable();
        for &(first, last) in &claimed[at..] {
            if let Some(groups) = &mut self.groups {
                groups.forget(first, last);
            }
            self.wait_no_more(first, last);
            self.attempts.forget(first, last);
            self.chunks.leave(first, last);
        }
    }

    /// Whether messages wait to be moved that were not tried yet.
    pub fn has_leaving(&self) -> bool {
        self.leaving.as_ref().is_some_and(|leaving| !leaving.waiting.is_empty())
    }

    /// Whether messages are dropped for want of room faster than they are moved, so that those who publish them should
    /// wait. It passes: what is not tried yet will be.
    pub fn has_too_many_drops(&self) -> bool {
        self.leaving.as_ref().is_some_and(|leaving| {
            leaving.waiting_messages > DROPS_MAX
                && leaving.waiting.back().is_some_and(|newest| newest.reason == Reason::MaxLength)
        })
    }

    /// Messages of all levels that are neither ready nor handed out and not yet settled.
    pub fn leaving(&self) -> u64 {
        self.levels().map(|level| level.chunks.leaving().count()).sum()
    }

    /// Bytes of their bodies, as far as they are known.
    pub(super) fn leaving_bytes(&self) -> u64 {
        self.levels().map(|level| level.chunks.leaving_bytes()).sum()
    }

    /// Takes the messages of a line that are first in it, until their chunks' records exceed `most` bytes, where
    /// `bytes_of` tells a place's size; at least one run, unless there is none. Of each must be said what has become of
    /// it: [`Self::moved`], [`Self::stall`] or [`Self::dropped`].
    pub fn take_leaving(&mut self, from: Line, most: usize, bytes_of: impl Fn(L) -> usize) -> Vec<Parcel<L>> {
        let Some(mut leaving) = self.leaving.take() else { return Vec::new() };
        let stalled = leaving.stalled.totals();
        let (mut parcels, mut left) = (Vec::new(), most);
        while let Some(run) = leaving.pop(from) {
            let line = self.level_of(run.first).map_or(Some(&*self), |level| self.level(level));
            let next = line.and_then(|line| line.take_run(run, &mut left, &bytes_of, &mut parcels));
            if let Some(first) = next {
                let rest = Run { first, ..run };
                leaving.push_front(from, rest, self.bytes_of_run(rest));
                break;
            }
        }
        leaving.stalled.begin_try(stalled);
        self.leaving = Some(leaving);
        parcels
    }

    /// Adds a run of this level to the parcels until nothing is `left`; where it goes on if it does. Those of a chunk
    /// that was lost are not there any more.
    fn take_run(
        &self,
        run: Run,
        left: &mut usize,
        bytes_of: &impl Fn(L) -> usize,
        parcels: &mut Vec<Parcel<L>>,
    ) -> Option<Seq> {
        for (first, last) in self.chunks.leaving().within(run.first, run.last) {
            let mut index = self.chunks.index_at_or_after(first);
            while let Some(held) = self.chunks.get(index).filter(|held| held.first_seq <= last) {
                let from = first.max(held.first_seq);
                if *left == 0 {
                    return Some(from);
                }
                let to = last.min(held.end_seq() - 1);
                let all = match (held.residence.chunk(), held.residence.location()) {
                    (Some(chunk), _) => chunk.bytes().len(),
                    (None, location) => location.map_or(0, bytes_of),
                };
                let share = all as u64 * (to - from + 1) / u64::from(held.span);
                *left = left.saturating_sub(share as usize + 1);
                let run = Run { first: from, last: to, ..run };
                parcels.push(Parcel { run, first_seq: held.first_seq, residence: held.residence.clone() });
                index += 1;
            }
        }
        None
    }

    /// `first..=last`, which were taken, are in another queue. They are settled when [`Self::finish_moves`] hears that
    /// the log is on disk up to `until`.
    pub fn moved(&mut self, first: Seq, last: Seq, until: Lsn) {
        let moved = &mut self.leaving.get_or_insert_default().moved;
        match moved.back_mut() {
            Some(run) if run.0 == until && run.2 + 1 == first => run.2 = last,
            _ => moved.push_back((until, first, last)),
        }
    }

    /// The log is on disk up to `durable`: settles what was moved until then.
    pub fn finish_moves(&mut self, durable: Lsn) {
        while let Some(moved) = self.leaving.as_deref_mut().map(|leaving| &mut leaving.moved)
            && let Some((_, first, last)) = moved.pop_front_if(|run| run.0 <= durable)
        {
            self.left(first, last);
        }
    }

    /// `first..=last`, which were taken, are done with.
    pub fn dropped(&mut self, first: Seq, last: Seq) -> Settled {
        self.left(first, last)
    }

    fn left(&mut self, first: Seq, last: Seq) -> Settled {
        match self.level_of(first) {
            Some(level) => self.in_level(level, |queue| queue.chunks.left(first, last)),
            None => self.chunks.left(first, last),
        }
    }
}

impl Leaving {
    /// Bytes of memory that it takes to know where these messages are on their way.
    pub(super) fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.waiting.capacity() * size_of::<Run>()
            + self.moved.capacity() * size_of::<(Lsn, Seq, Seq)>()
            + self.stalled.memory_bytes()
    }

    fn pop(&mut self, line: Line) -> Option<Run> {
        let Line::New = line else { return self.stalled.pop(line) };
        let run = self.waiting.pop_front()?;
        self.waiting_messages -= run.count();
        Some(run)
    }

    fn push_front(&mut self, line: Line, run: Run, bytes: u64) {
        let Line::New = line else { return self.stalled.push_front(line, run, bytes) };
        self.waiting_messages += run.count();
        self.waiting.push_front(run);
    }
}
