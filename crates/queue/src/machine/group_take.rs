//! Handing out messages of [groups](super::groups): message by message, each to whom its group is with.
//!
//! A consumer first gets what was passed over or given back and is for it, then goes on from the cursor and passes over
//! what is not. Free groups go to consumers by turns, so that each has about as many. A consumer that others of a higher
//! priority keep from the rest still gets the messages of the groups it has, which nobody else can have.

use std::sync::Arc;

use posthouse_model::attempts::Attempts;
use posthouse_model::chunk::{Chunk, Place};
use posthouse_model::ids::{Seq, first_of_level, level_of};

use super::Queue;
use super::chunks::Settled;
use super::groups::{Groups, Taker, group_of};
use super::roster::{ConsumerId, Standing};
use super::take::{Limits, Run, Step, TakeEnd};

/// A message that is about to be handed out.
struct Found {
    chunk: Arc<Chunk>,
    seq: Seq,
    offset: u32,
    bytes: usize,
}

impl<L: Copy, W: Clone> Queue<L, W> {
    /// As [`Self::take`], where messages may be of groups.
    pub(super) fn take_of_groups(
        &mut self,
        consumer: ConsumerId,
        limits: Limits,
        settle: bool,
        runs: &mut Vec<Run>,
        wakes: &mut Vec<W>,
    ) -> (TakeEnd, Settled) {
        self.roster.set(consumer, Standing::Running);
        let sharers = self.roster.sharers(consumer);
        let own_only = sharers == 0;
        let may = self.roster.may_take(consumer) && (!own_only || self.waits_for(consumer));
        if !may || self.ready == 0 {
            self.roster.set(consumer, Standing::Parked);
            return (TakeEnd::Parked, Settled::default());
        }
        let share = if sharers <= 1 { u32::MAX } else { self.round.next_share(self.open().max(1), sharers) };
        let shared = Limits { messages: limits.messages.min(share), ..limits };
        if let Some(groups) = &mut self.groups {
            groups.begin(Taker { consumer: Some(consumer), sharers, own_only, settles: settle });
        }
        let from = runs.len();
        let (end, settled) = self.take_lines(shared, settle, runs);
        if !settle {
            self.roster.note_taken(&runs[from..]);
        }
        let share_is_over = end == TakeEnd::Limit && share < limits.messages;
        if share_is_over || (own_only && runs.len() > from) {
            self.wake(wakes);
        }
        self.wake_others_of_groups(sharers, wakes);
        // Nobody else would wake it for what only it can have.
        if end != TakeEnd::Limit || (share_is_over && !self.waits_for(consumer)) {
            self.roster.set(consumer, Standing::Parked);
            return (if end == TakeEnd::Limit { TakeEnd::Parked } else { end }, settled);
        }
        (end, settled)
    }

    /// Messages that more than one consumer might take: what consumers are woken for.
    pub(super) fn open(&self) -> u64 {
        self.ready.saturating_sub(self.groups.as_ref().map_or(0, |groups| groups.closed()))
    }

    /// Wakes consumers for what is ready.
    pub fn wake(&mut self, wakes: &mut Vec<W>) {
        self.wake_owed(wakes);
        let open = self.open();
        if open > 0 {
            self.roster.wake(open, wakes);
        }
    }

    /// The same, and everyone for whom something waits.
    pub(super) fn wake_all_waited_for(&mut self, wakes: &mut Vec<W>) {
        let waited_for = self.groups.as_ref().map(|groups| groups.waited_for()).unwrap_or_default();
        for consumer in waited_for {
            self.roster.wake_one(consumer, wakes);
        }
        self.wake(wakes);
    }

    /// Lets messages of `first..=last`, which are settled or have left, wait for nobody.
    #[inline]
    pub(super) fn forget_groups(&mut self, first: Seq, last: Seq) {
        if let Some(groups) = &mut self.groups {
            groups.forget(first, last);
        }
    }

    /// Whether messages have become free since the last call, and nobody was woken for them.
    pub(super) fn take_freed(&mut self) -> bool {
        self.groups.as_mut().is_some_and(|groups| groups.take_freed())
    }

    /// Says that nobody in particular takes now.
    #[inline]
    pub(super) fn begin_taking_for_nobody(&mut self, settle: bool) {
        if let Some(groups) = &mut self.groups {
            groups.begin(Taker { settles: settle, ..Taker::default() });
        }
    }

    fn waits_for(&self, consumer: ConsumerId) -> bool {
        self.groups.as_ref().is_some_and(|groups| groups.waits_for(consumer))
    }

    fn wake_owed(&mut self, wakes: &mut Vec<W>) {
        let owed = self.groups.as_mut().map(|groups| groups.take_owed()).unwrap_or_default();
        for consumer in owed {
            self.roster.wake_one(consumer, wakes);
        }
    }

    /// Wakes those for whom the taker has passed over messages, and one that may have the groups it left.
    fn wake_others_of_groups(&mut self, sharers: usize, wakes: &mut Vec<W>) {
        self.wake_owed(wakes);
        if let Some(groups) = self.groups.as_ref().filter(|groups| groups.left_to_others()) {
            self.roster.wake_any(|consumer| groups.has_room(consumer, sharers), wakes);
        }
    }

    /// One step of taking from this level: a message is taken, or passed over.
    pub(super) fn take_or_pass(&mut self, mut groups: Box<Groups>, batch: &mut Batch<'_>) -> Step {
        let level = level_of(self.next_seq);
        let last = first_of_level(level) + (first_of_level(1) - 1);
        let step = match groups.next_waiting(first_of_level(level), last) {
            Some(seq) => self.take_waiting(&mut groups, seq, batch),
            None => self.take_or_pass_at_cursor(&mut groups, batch),
        };
        self.groups = Some(groups);
        step
    }

    fn take_waiting(&mut self, groups: &mut Groups, seq: Seq, batch: &mut Batch<'_>) -> Step {
        let Some(held) = self.chunks.get(self.chunks.index_at_or_after(seq)) else { return Step::Empty };
        let Some(chunk) = held.residence.chunk() else {
            groups.want(seq);
            return Step::NeedsLoad;
        };
        let place = chunk.find((seq - held.first_seq) as u32);
        let found = place.and_then(|place| Found::at(chunk, seq, place.offset));
        let Some(found) = found else { return Step::Empty };
        if !batch.has_room_for(&found) {
            return Step::Took;
        }
        self.returned.take_within(seq, seq);
        let is_new = groups.take_waiting(seq);
        self.hand_out(found, !is_new, batch);
        Step::Took
    }

    fn take_or_pass_at_cursor(&mut self, groups: &mut Groups, batch: &mut Batch<'_>) -> Step {
        if groups.takes_own_only() {
            return Step::Empty;
        }
        let Some(index) = self.index_at_cursor() else { return Step::Empty };
        let Some(held) = self.chunks.get(index) else { return Step::Empty };
        let end = held.end_seq();
        let chunk_first = held.first_seq;
        if held.live == 0 {
            return self.skip_to(end);
        }
        let Some(chunk) = held.residence.chunk() else {
            groups.want(self.cursor.max(chunk_first));
            return Step::NeedsLoad;
        };
        let Some(place) = self.cursor_place(held, chunk) else { return self.skip_to(end) };
        let seq = chunk_first + Seq::from(place.delta);
        let Some(found) = Found::at(chunk, seq, place.offset) else { return Step::Empty };
        let group = chunk.record_at(place.offset).and_then(|record| group_of(&record));
        let next = place.offset + found.bytes as u32;
        let next = chunk.record_at(next).map(|record| Place { delta: record.delta(), offset: next });
        match group {
            Some(group) if !groups.may_take(group, seq) => {
                if !groups.pass(seq, group, found.bytes) {
                    return Step::Empty;
                }
                self.returned.insert(seq, seq);
            }
            group => {
                if !batch.has_room_for(&found) {
                    return Step::Took;
                }
                if let Some(group) = group {
                    groups.take_new(seq, group);
                }
                self.hand_out(found, false, batch);
            }
        }
        self.cursor = seq + 1;
        self.cursor_place = next.map(|place| (chunk_first, place));
        Step::Took
    }

    /// Adds a message to the runs.
    fn hand_out(&mut self, found: Found, was_handed_out: bool, batch: &mut Batch<'_>) {
        let Found { chunk, seq, offset, .. } = found;
        let redelivered = was_handed_out || seq < self.redelivered_below;
        let attempts =
            if self.attempts.is_empty() { Attempts::default() } else { self.attempts.run_at(seq, seq).0 };
        match batch.runs[batch.here..].last_mut() {
            Some(run)
                if run.last_seq() + 1 == seq
                    && run.redelivered == redelivered
                    && run.attempts == attempts
                    && Arc::ptr_eq(&run.chunk, &chunk) =>
            {
                run.count += 1;
            }
            _ => batch.runs.push(Run { chunk, first_seq: seq, offset, count: 1, redelivered, attempts }),
        }
    }
}

impl Found {
    fn at(chunk: &Arc<Chunk>, seq: Seq, offset: u32) -> Option<Self> {
        let bytes = chunk.record_at(offset)?.len();
        Some(Self { chunk: chunk.clone(), seq, offset, bytes })
    }
}

/// What is being taken.
pub(super) struct Batch<'a> {
    /// How much more may be.
    pub left: &'a mut Limits,
    pub runs: &'a mut Vec<Run>,
    /// Where the runs begin that count as taken before.
    pub from: usize,
    /// Where the runs begin that are taken now.
    pub here: usize,
}

impl Batch<'_> {
    /// Counts a message as taken; false, and nothing is left, when it has no room. The first one always has.
    fn has_room_for(&mut self, found: &Found) -> bool {
        if self.runs.len() > self.from && self.left.bytes < found.bytes {
            self.left.bytes = 0;
            return false;
        }
        self.left.messages -= 1;
        self.left.bytes = self.left.bytes.saturating_sub(found.bytes);
        true
    }
}
