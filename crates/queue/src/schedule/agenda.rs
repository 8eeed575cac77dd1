//! What is to be done next, and when.
//!
//! The agenda knows when each level must be read, and each message of the levels that it had read. It says one step at a
//! time what whoever keeps the messages is to do: hand some over, read on, or wait.
//!
//! Nothing is handed over while a slot that began before is still to be read. So messages leave in the order of their
//! times, and those with the same time in the order of the identities that they were given when they came.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use posthouse_model::ids::{QueueId, Seq, first_of_level, level_of};

use super::lines::Lines;
use super::wheel::{Place, lead_ms, on_wheel_of, place, width_ms};
use crate::machine::leaving::stalled::Obstacle;
use crate::machine::lookup::Extent;
use crate::machine::times::NEVER_MS;

/// Messages of a slot that are noted one by one at most; what has more is taken apart.
const NOTED_MAX: u64 = 128 << 10;

/// Bytes of records, the same.
const NOTED_BYTES_MAX: usize = 32 << 20;

/// A message that waits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Waiting {
    /// When it is due, in milliseconds since the Unix epoch.
    pub due_ms: u64,
    /// What it is known by however often it moves; the one that came later has the greater one.
    pub id: u64,
    /// Its number in the queue.
    pub seq: Seq,
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Hand these over, in this order.
    HandOver(Vec<Waiting>),
    /// Those that stand behind this queue may go on, as far as it has room: [`Agenda::take_line`].
    GoOn(QueueId),
    /// Read a part of a level: [`Agenda::begin`].
    Read(u8),
    /// Nothing, until then (milliseconds since the Unix epoch; [`NEVER_MS`] when nothing waits).
    Wait(u64),
}

/// A level being read, from one [`Agenda::begin`] to the [`Agenda::end`] after it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pass {
    level: u8,
    start_ms: u64,
    /// The number of the first message to look at.
    pub from: Seq,
    takes_apart: bool,
    now_ms: u64,
}

/// What becomes of a message that was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It is noted, and handed over when it is due.
    Noted,
    /// It is to be moved there.
    Moves(Place),
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Agenda {
    /// When the slot begins of which each level has messages that were not read; [`NEVER_MS`] where it has none.
    starts: Box<[u64; 256]>,
    /// Messages of each level below were read.
    read_below: Box<[Seq; 256]>,
    noted: BinaryHeap<Reverse<Waiting>>,
    lines: Lines,
    /// Whether a line went on last, so that it is the turn of others.
    line_was_last: bool,
    bounds: Extent,
}

impl Default for Agenda {
    fn default() -> Self {
        Self::with(Extent { messages: NOTED_MAX, bytes: NOTED_BYTES_MAX })
    }
}

impl Agenda {
    pub(super) fn with(bounds: Extent) -> Self {
        Self {
            starts: Box::new([NEVER_MS; 256]),
            read_below: Box::new(std::array::from_fn(|level| first_of_level(level as u8))),
            noted: BinaryHeap::new(),
            lines: Lines::default(),
            line_was_last: false,
            bounds,
        }
    }

    /// A level has got messages, of a slot that begins then.
    pub fn arrived(&mut self, place: Place) {
        let start = &mut self.starts[usize::from(place.level)];
        *start = place.start_ms.min(*start);
    }

    /// A restart has found messages in a level, none of which is due before `first_ms`.
    pub fn found(&mut self, level: u8, first_ms: u64) {
        self.arrived(on_wheel_of(level, first_ms));
    }

    /// When something is to be done at the latest, in milliseconds since the Unix epoch.
    pub fn next_ms(&self) -> u64 {
        let read_ms = self.first_to_read().0;
        self.noted.peek().map_or(read_ms, |Reverse(first)| read_ms.min(first.due_ms))
    }

    /// How many messages are noted one by one, those that stand in lines included.
    pub fn noted(&self) -> usize {
        self.noted.len() + self.lines.messages()
    }

    /// What is to be done now; at most `most` messages are handed over at once. Lines that may go on take turns with what
    /// is due.
    pub fn step(&mut self, now_ms: u64, most: usize) -> Step {
        if !std::mem::replace(&mut self.line_was_last, false)
            && let Some(queue) = self.lines.next_roomy()
        {
            self.line_was_last = true;
            return Step::GoOn(queue);
        }
        match (self.step_of_time(now_ms, most), self.lines.next_roomy()) {
            (Step::Wait(_), Some(queue)) => Step::GoOn(queue),
            (step, Some(queue)) => {
                self.lines.has_room(queue);
                step
            }
            (step, None) => step,
        }
    }

    fn step_of_time(&mut self, now_ms: u64, most: usize) -> Step {
        let (barrier_ms, level) = self.first_unread();
        // More messages for one millisecond than are noted at once leave as they are read.
        let is_full = width_ms(level) == 1 && self.noted.len() as u64 >= self.bounds.messages;
        let mut due = Vec::new();
        while due.len() < most
            && let Some(&Reverse(first)) = self.noted.peek()
            && first.due_ms <= now_ms
            && (first.due_ms < barrier_ms || (first.due_ms == barrier_ms && is_full))
        {
            self.noted.pop();
            due.push(first);
        }
        if !due.is_empty() {
            return Step::HandOver(due);
        }
        if self.read_at_ms(level) <= now_ms {
            return Step::Read(level);
        }
        match self.first_to_read() {
            (read_ms, level) if read_ms <= now_ms => Step::Read(level),
            _ => Step::Wait(self.next_ms()),
        }
    }

    /// A message could not be handed over: it is tried again when it is due now.
    pub fn again(&mut self, waiting: Waiting) {
        self.noted.push(Reverse(waiting));
    }

    /// A message that is due cannot go on, as was found with routes of that epoch.
    pub fn stand(&mut self, waiting: Waiting, obstacle: Obstacle, epoch: u64, now_ms: u64) {
        self.lines.stand(waiting, obstacle, epoch, now_ms);
    }

    /// The queues that messages stand behind, in order: what goes there must join them, or it overtakes.
    pub fn stand_behind(&self) -> impl Iterator<Item = QueueId> + '_ {
        self.lines.queues()
    }

    /// Whether messages stand behind that queue.
    pub fn has_line(&self, queue: QueueId) -> bool {
        self.lines.has(queue)
    }

    /// A queue has room, or is gone; whether there is anything to be done for that.
    pub fn has_room(&mut self, queue: QueueId) -> bool {
        self.lines.has_room(queue)
    }

    /// Takes the first messages of a line, at most so many.
    pub fn take_line(&mut self, queue: QueueId, most: usize) -> Vec<Waiting> {
        self.lines.take(queue, most)
    }

    /// These, which were taken from the line, are first in it again, in this order.
    pub fn stand_first(&mut self, queue: QueueId, messages: &[Waiting]) {
        self.lines.stand_first(queue, messages);
    }

    /// Has all that stand looked at again, in the order in which they were due, if routes have changed and they have
    /// rested for long enough.
    pub fn review_lines(&mut self, epoch: u64, now_ms: u64) {
        self.noted.extend(self.lines.take_for_review(epoch, now_ms).into_iter().map(Reverse));
    }

    /// How much of a slot is noted message by message at most.
    pub fn bounds(&self) -> Extent {
        self.bounds
    }

    /// Begins to read a level, of which so much was not read. It need not be counted beyond [`Self::bounds`].
    pub fn begin(&mut self, level: u8, now_ms: u64, unread: Extent) -> Pass {
        let start_ms = std::mem::replace(&mut self.starts[usize::from(level)], NEVER_MS);
        let takes_apart = width_ms(level) > 1 && !unread.is_within(self.bounds);
        Pass { level, start_ms, from: self.read_below(level), takes_apart, now_ms }
    }

    /// Messages of a level below were read.
    pub fn read_below(&self, level: u8) -> Seq {
        self.read_below[usize::from(level)]
    }

    /// Takes note of a message that was read.
    pub fn read(&mut self, pass: &Pass, waiting: Waiting) -> Fate {
        debug_assert_eq!(pass.level, level_of(waiting.seq));
        let due_ms = waiting.due_ms;
        if due_ms >= pass.start_ms.saturating_add(width_ms(pass.level)) {
            // It is of a later turn of the wheel: the clock was set, or the broker stood still.
            Fate::Moves(place(pass.now_ms, due_ms))
        } else if pass.takes_apart && due_ms >= pass.start_ms {
            Fate::Moves(place(pass.start_ms, due_ms))
        } else {
            self.noted.push(Reverse(waiting));
            Fate::Noted
        }
    }

    /// Ends a part of a pass, in which messages below `next` were read; `more` when there are others in the level that
    /// were there at its beginning.
    pub fn end(&mut self, pass: &Pass, next: Seq, more: bool) {
        let below = &mut self.read_below[usize::from(pass.level)];
        *below = next.max(*below);
        if more {
            self.arrived(Place { level: pass.level, start_ms: pass.start_ms });
        }
    }

    /// When a level is to be read.
    fn read_at_ms(&self, level: u8) -> u64 {
        match self.starts[usize::from(level)] {
            NEVER_MS => NEVER_MS,
            start_ms => start_ms.saturating_sub(lead_ms(level)),
        }
    }

    /// The level to be read first, and when.
    fn first_to_read(&self) -> (u64, u8) {
        let all = (0..=u8::MAX).map(|level| (self.read_at_ms(level), level));
        all.min().unwrap_or((NEVER_MS, 0))
    }

    /// When the first slot begins that was not read, and its level. Among those that begin together the widest is read
    /// first: it may be taken apart into the others.
    fn first_unread(&self) -> (u64, u8) {
        let all = (0..=u8::MAX).rev().map(|level| (self.starts[usize::from(level)], level));
        all.min_by_key(|&(start_ms, _)| start_ms).unwrap_or((NEVER_MS, 0))
    }
}

#[cfg(test)]
mod tests;
