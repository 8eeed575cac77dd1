//! Messages that left and cannot get where they are to go.
//!
//! They stand apart from those that were not tried yet, so that however many they are nobody waits behind them: in one line
//! for each queue that has no room, in the order in which they left, and in one for all that no queue takes. Whoever moves
//! messages tries a line again when there is reason to hope; what comes to a line later joins it without being tried.
//!
//! A queue with a length limit that dead-letters must not grow without bound beside that limit. Where it refuses publishes
//! for want of room, those that are stalled take room. Where it drops instead, it keeps as many of them as its limit allows,
//! but [`KEPT_MIN`] and [`KEPT_BYTES_MIN`] in any case; those that come after that are dropped for good.

use std::collections::{BTreeMap, VecDeque};

use posthouse_model::ids::{QueueId, Seq};
use posthouse_model::queue_settings::Overflow;

use super::super::Queue;
use super::super::departures::Reason;
use super::Run;

/// So many messages are kept that are stalled, whatever the limit.
pub const KEPT_MIN: u64 = 1_000;

/// The same in bytes of bodies.
pub const KEPT_BYTES_MIN: u64 = 1 << 20;

/// A line of messages that leave.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Line {
    /// Those that were not tried yet, in the order in which they left.
    New,
    /// Those for which that queue has no room, in that order.
    Behind(QueueId),
    /// The others that could not go on, in the order in which they were tried.
    Apart,
}

/// Why a message cannot go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Obstacle {
    /// That queue, one of those that it goes to, has no room.
    Full(QueueId),
    /// It goes to no queue, or to one that is smaller than it.
    NoPlace,
    /// Its chunk cannot be read now, or what it may be a duplicate of has no place yet: that passes soon.
    Unreadable,
}

impl Obstacle {
    /// Where it stands then.
    pub fn line(self) -> Line {
        match self {
            Self::Full(queue) => Line::Behind(queue),
            Self::NoPlace | Self::Unreadable => Line::Apart,
        }
    }
}

/// A run with the bytes of its bodies, as far as they were known when it joined its line.
#[derive(Clone, Copy, Debug)]
struct Standing {
    run: Run,
    bytes: u64,
}

/// The lines. None of them is empty.
#[derive(Clone, Default, Debug)]
pub(super) struct Stalled {
    behind: BTreeMap<QueueId, VecDeque<Standing>>,
    apart: VecDeque<Standing>,
    /// How many entries all lines have.
    runs: usize,
    messages: u64,
    bytes: u64,
    /// Messages, and bytes, that are being tried again: they have room only when that is over.
    tried: (u64, u64),
}

impl Stalled {
    fn line_mut(&mut self, line: Line) -> Option<&mut VecDeque<Standing>> {
        match line {
            Line::New => None,
            Line::Behind(queue) => Some(self.behind.entry(queue).or_default()),
            Line::Apart => Some(&mut self.apart),
        }
    }

    /// Messages, and bytes of their bodies as far as those are known.
    pub(super) fn totals(&self) -> (u64, u64) {
        (self.messages, self.bytes)
    }

    /// Bytes of memory they take, but for room that their lines have to grow.
    pub(super) fn memory_bytes(&self) -> usize {
        self.runs * size_of::<Standing>()
    }

    pub(super) fn pop(&mut self, line: Line) -> Option<Run> {
        let first = self.line_mut(line).and_then(VecDeque::pop_front);
        if let Line::Behind(queue) = line
            && self.behind.get(&queue).is_some_and(VecDeque::is_empty)
        {
            self.behind.remove(&queue);
        }
        let Standing { run, bytes } = first?;
        self.runs -= 1;
        self.messages -= run.count();
        self.bytes -= bytes;
        Some(run)
    }

    pub(super) fn push_front(&mut self, line: Line, run: Run, bytes: u64) {
        let Some(runs) = self.line_mut(line) else { return };
        match runs.front_mut() {
            Some(next) if run.is_before(next.run) => {
                next.run.first = run.first;
                next.bytes += bytes;
            }
            _ => {
                runs.push_front(Standing { run, bytes });
                self.runs += 1;
            }
        }
        self.messages += run.count();
        self.bytes += bytes;
    }

    /// Messages were taken from a line, and it is tried whether they can go on; before, there were so many.
    pub(super) fn begin_try(&mut self, (messages, bytes): (u64, u64)) {
        self.tried = (messages - self.messages, bytes.saturating_sub(self.bytes));
    }

    fn push_back(&mut self, line: Line, run: Run, bytes: u64) {
        let Some(runs) = self.line_mut(line) else { return };
        match runs.back_mut() {
            Some(last) if last.run.is_before(run) => {
                last.run.last = run.last;
                last.bytes += bytes;
            }
            _ => {
                runs.push_back(Standing { run, bytes });
                self.runs += 1;
            }
        }
        self.messages += run.count();
        self.bytes += bytes;
    }
}

impl<L: Copy, W: Clone> Queue<L, W> {
    /// Whether a line has messages.
    pub fn has_in_line(&self, line: Line) -> bool {
        let Some(leaving) = self.leaving.as_deref() else { return false };
        match line {
            Line::New => !leaving.waiting.is_empty(),
            Line::Behind(queue) => leaving.stalled.behind.contains_key(&queue),
            Line::Apart => !leaving.stalled.apart.is_empty(),
        }
    }

    /// The queues that messages stand behind, in order: what goes there must join them, or it overtakes.
    pub fn stand_behind(&self) -> impl Iterator<Item = QueueId> + '_ {
        self.leaving.iter().flat_map(|leaving| leaving.stalled.behind.keys().copied())
    }

    /// How many messages stand in [`Line::Apart`].
    pub fn messages_apart(&self) -> u64 {
        let apart = self.leaving.iter().flat_map(|leaving| &leaving.stalled.apart);
        apart.map(|standing| standing.run.count()).sum()
    }

    /// How many messages could not go on, and the bytes of their bodies as far as those are known.
    pub(in crate::machine) fn stalled(&self) -> (u64, u64) {
        self.leaving.as_ref().map_or((0, 0), |leaving| leaving.stalled.totals())
    }

    /// The same, with those that are just being tried again.
    pub(in crate::machine) fn stalled_or_tried(&self) -> (u64, u64) {
        let (messages, bytes) = self.stalled();
        let (tried, tried_bytes) = self.leaving.as_ref().map_or((0, 0), |leaving| leaving.stalled.tried);
        (messages + tried, bytes + tried_bytes)
    }

    /// These, in the order in which they were taken from a line, cannot go on; the others that were taken with them could. Those that stand behind the same queue as
    /// before are first there again. What there is no room to keep is appended to `excess`: of that must be said that it is
    /// [dropped](Self::dropped).
    pub fn stall(&mut self, from: Line, runs: &[(Run, Obstacle)], excess: &mut Vec<(Seq, Seq)>) {
        if let Some(leaving) = &mut self.leaving {
            leaving.stalled.tried = (0, 0);
        }
        let is_back = |obstacle: Obstacle| from != Line::Apart && obstacle.line() == from;
        for &(run, obstacle) in runs.iter().filter(|&&(_, obstacle)| !is_back(obstacle)) {
            let kept = if obstacle == Obstacle::Unreadable { run.count() } else { self.room_for(run) };
            let kept = kept.min(run.count());
            if kept < run.count() {
                excess.push((run.first + kept, run.last));
            }
            if kept > 0 {
                let run = Run { last: run.first + kept - 1, ..run };
                let bytes = self.bytes_of_run(run);
                self.leaving.get_or_insert_default().stalled.push_back(obstacle.line(), run, bytes);
            }
        }
        for &(run, _) in runs.iter().rev().filter(|&&(_, obstacle)| is_back(obstacle)) {
            let bytes = self.bytes_of_run(run);
            self.leaving.get_or_insert_default().stalled.push_front(from, run, bytes);
        }
    }

    /// How many messages of a run can be kept although they cannot go on.
    fn room_for(&self, run: Run) -> u64 {
        let settings = &self.settings;
        let bounded = match settings.overflow {
            Overflow::DropHead => true,
            // Those take room, so that few can come after them.
            Overflow::RejectPublish => false,
            // So do those, but not what was refused: its publisher knows.
            Overflow::RejectPublishDlx => run.reason == Reason::MaxLength,
        };
        if !bounded {
            return u64::MAX;
        }
        let (messages, bytes) = self.stalled();
        let has_bytes = settings.max_length_bytes.is_none_or(|most| bytes < most.max(KEPT_BYTES_MIN));
        let most = settings.max_length.map_or(u64::MAX, |most| most.max(KEPT_MIN));
        if has_bytes { most.saturating_sub(messages) } else { 0 }
    }

    /// Bytes of the bodies of a run's messages, as far as they are known.
    pub(super) fn bytes_of_run(&self, run: Run) -> u64 {
        let line = self.level_of(run.first).map_or(Some(self), |level| self.level(level));
        line.map_or(0, |line| line.body_bytes(run.first, run.last))
    }
}
