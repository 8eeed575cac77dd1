//! Handing out messages: of the level whose turn it is, given-back ones first, then on from the cursor.

use std::sync::Arc;

use posthouse_model::attempts::Attempts;
use posthouse_model::chunk::{Chunk, Place};
use posthouse_model::ids::Seq;

use super::Queue;
use super::chunks::{Held, Settled};
use super::group_take::Batch;
use super::roster::{ConsumerId, Standing};

/// Consecutive messages of one chunk.
#[derive(Clone, Debug)]
pub struct Run {
    /// Their records' chunk.
    pub chunk: Arc<Chunk>,
    /// The first one's number; the others follow without a gap.
    pub first_seq: Seq,
    /// Where the first one's record starts.
    pub offset: u32,
    /// How many messages.
    pub count: u32,
    /// Whether they may have been delivered before.
    pub redelivered: bool,
    /// What became of each one's earlier deliveries, where the queue counts that.
    pub attempts: Attempts,
}

impl Run {
    /// The last message's number.
    pub fn last_seq(&self) -> Seq {
        self.first_seq + Seq::from(self.count) - 1
    }
}

/// How much may be taken.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Messages.
    pub messages: u32,
    /// Bytes of records. One message is taken even if it is larger.
    pub bytes: usize,
}

/// Why taking ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TakeEnd {
    /// Nothing is left, or not for this consumer: it is parked.
    Parked,
    /// A limit was reached.
    Limit,
    /// The next message must be read from its segment first; the consumer is parked.
    NeedsLoad,
}

/// Most messages of one turn while several consumers share a queue: enough to pay for the waking.
const TURN_MESSAGES: u64 = 64;

/// Consumers that share a queue take turns: in a round each may take as much as the others.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Round {
    /// Messages of one turn.
    share: u32,
    /// Turns left.
    turns: u32,
}

impl Round {
    /// Begins the next turn; how many messages it may take.
    pub(super) fn next_share(&mut self, ready: u64, sharers: usize) -> u32 {
        if self.turns == 0 {
            self.share = ready.div_ceil(sharers as u64).clamp(1, TURN_MESSAGES) as u32;
            self.turns = sharers as u32;
        }
        self.turns -= 1;
        self.share
    }
}

/// How one attempt to extend the taking ended.
pub(super) enum Step {
    /// On to the next.
    Took,
    /// There is no more.
    Empty,
    /// More must be read first.
    NeedsLoad,
}

impl<L: Copy, W: Clone> Queue<L, W> {
    /// Takes messages for a consumer, appending to `runs`. With `settle` they are settled at once (a consumer
    /// without acknowledgements), otherwise they are unacknowledged until settled or given back.
    ///
    /// A consumer that shares the queue takes no more than its share of a round, and is then parked behind the
    /// others; whom to wake is appended to `wakes`.
    pub fn take(
        &mut self,
        consumer: ConsumerId,
        limits: Limits,
        settle: bool,
        runs: &mut Vec<Run>,
        wakes: &mut Vec<W>,
    ) -> (TakeEnd, Settled) {
        if self.groups.is_some() {
            return self.take_of_groups(consumer, limits, settle, runs, wakes);
        }
        let sharers = self.roster.sharers(consumer);
        if sharers == 0 || self.ready == 0 {
            self.roster.set(consumer, Standing::Parked);
            return (TakeEnd::Parked, Settled::default());
        }
        self.roster.set(consumer, Standing::Running);
        let share = if sharers == 1 { u32::MAX } else { self.round.next_share(self.ready, sharers) };
        let shared = Limits { messages: limits.messages.min(share), ..limits };
        let from = runs.len();
        let (end, settled) = self.take_lines(shared, settle, runs);
        if !settle {
            self.roster.note_taken(&runs[from..]);
        }
        let turn_is_over = end == TakeEnd::Limit && share < limits.messages;
        if turn_is_over {
            // Before this one is parked, so that it is not woken itself. When nobody else is parked, somebody else
            // is running and wakes it when done.
            self.roster.wake(self.ready, wakes);
        }
        if turn_is_over || end != TakeEnd::Limit {
            self.roster.set(consumer, Standing::Parked);
        }
        (if turn_is_over { TakeEnd::Parked } else { end }, settled)
    }

    /// Takes messages for nobody in particular (`basic.get`, drains).
    pub fn take_any(&mut self, limits: Limits, settle: bool, runs: &mut Vec<Run>) -> (TakeEnd, Settled) {
        self.begin_taking_for_nobody(settle);
        self.take_lines(limits, settle, runs)
    }

    /// Takes messages of all levels.
    pub(super) fn take_lines(
        &mut self,
        limits: Limits,
        settle: bool,
        runs: &mut Vec<Run>,
    ) -> (TakeEnd, Settled) {
        if self.has_levels() {
            return self.take_by_level(limits, settle, runs);
        }
        let (mut left, from) = (limits, runs.len());
        self.take_line(&mut left, from, settle, runs)
    }

    /// Takes messages of this level until nothing is `left` to be taken. The runs from `from` on count as taken before.
    pub(super) fn take_line(
        &mut self,
        left: &mut Limits,
        from: usize,
        settle: bool,
        runs: &mut Vec<Run>,
    ) -> (TakeEnd, Settled) {
        let here = runs.len();
        let end = loop {
            if left.messages == 0 || (left.bytes == 0 && runs.len() > from) {
                break TakeEnd::Limit;
            }
            let step = if let Some(groups) = self.groups.take() {
                self.take_or_pass(groups, &mut Batch { left, runs, from, here })
            } else if self.returned.is_empty() {
                self.take_at_cursor(left, runs)
            } else {
                self.take_returned(left, runs)
            };
            match step {
                Step::Took => {}
                Step::Empty => break TakeEnd::Parked,
                Step::NeedsLoad => break TakeEnd::NeedsLoad,
            }
        };
        (end, self.account(&runs[here..], settle))
    }

    fn account(&mut self, runs: &[Run], settle: bool) -> Settled {
        let mut settled = Settled::default();
        for run in runs {
            self.ready -= u64::from(run.count);
            self.ready_bytes -= self.body_bytes(run.first_seq, run.last_seq());
            if settle {
                settled.add(self.chunks.settle(run.first_seq, run.last_seq()));
                self.attempts.forget(run.first_seq, run.last_seq());
            } else {
                self.unacked += u64::from(run.count);
            }
        }
        settled
    }

    fn take_returned(&mut self, left: &mut Limits, runs: &mut Vec<Run>) -> Step {
        let Some((first, last)) = self.returned.first() else { return Step::Empty };
        let index = self.chunks.index_at_or_after(first);
        let Some(held) = self.chunks.get(index) else { return Step::Empty };
        let Some(chunk) = held.residence.chunk() else { return Step::NeedsLoad };
        let Some(place) = chunk.find((first - held.first_seq) as u32) else { return Step::Empty };
        let (attempts, last) = self.attempts.run_at(first, last.min(held.end_seq() - 1));
        let most = (last - first + 1) as u32;
        let (count, _) = walk(chunk, held, place, most.min(left.messages), &mut left.bytes);
        left.messages -= count;
        let chunk = chunk.clone();
        runs.push(Run { chunk, first_seq: first, offset: place.offset, count, redelivered: true, attempts });
        self.returned.drop_first(u64::from(count));
        Step::Took
    }

    pub(super) fn skip_to(&mut self, seq: Seq) -> Step {
        self.cursor = seq;
        self.cursor_place = None;
        Step::Took
    }

    /// The chunk that the cursor is in, or the next one; the tail is closed for it.
    #[inline]
    pub(super) fn index_at_cursor(&mut self) -> Option<usize> {
        let index = self.chunks.index_at_or_after(self.cursor);
        if index < self.chunks.len() {
            return Some(index);
        }
        if self.tail.is_empty() {
            return None;
        }
        self.close_tail();
        Some(self.chunks.len() - 1)
    }

    fn take_at_cursor(&mut self, left: &mut Limits, runs: &mut Vec<Run>) -> Step {
        let Some(index) = self.index_at_cursor() else { return Step::Empty };
        let Some(held) = self.chunks.get(index) else { return Step::Empty };
        if held.live == 0 {
            // All of it leaves; it need not be read for that.
            return self.skip_to(held.end_seq());
        }
        let Some(chunk) = held.residence.chunk() else { return Step::NeedsLoad };
        let Some(place) = self.cursor_place(held, chunk) else { return self.skip_to(held.end_seq()) };
        let first_seq = held.first_seq + Seq::from(place.delta);
        let redelivered = first_seq < self.redelivered_below;
        let rest = held.span - place.delta;
        let rest_bytes = chunk.bytes().len() - place.offset as usize;
        let whole = !held.has_holes()
            && chunk.count() == held.span
            && rest <= left.messages
            && rest_bytes <= left.bytes
            && self.attempts.is_empty()
            && (!redelivered || held.end_seq() <= self.redelivered_below);
        let mut attempts = Attempts::default();
        let (count, next) = if whole {
            left.bytes -= rest_bytes;
            (rest, None)
        } else {
            let mut most = rest.min(left.messages);
            if !self.attempts.is_empty() {
                let (same, last) = self.attempts.run_at(first_seq, held.end_seq() - 1);
                attempts = same;
                most = most.min((last - first_seq + 1) as u32);
            }
            if redelivered {
                most = most.min((self.redelivered_below - first_seq).min(Seq::from(u32::MAX)) as u32);
            }
            walk(chunk, held, place, most, &mut left.bytes)
        };
        left.messages -= count;
        self.cursor = first_seq + Seq::from(count);
        self.cursor_place = next.map(|place| (held.first_seq, place));
        let chunk = chunk.clone();
        runs.push(Run { chunk, first_seq, offset: place.offset, count, redelivered, attempts });
        Step::Took
    }

    /// The place of the first message at or after the cursor that is not settled; `None` when the chunk has no
    /// more.
    pub(super) fn cursor_place(&self, held: &Held<L>, chunk: &Chunk) -> Option<Place> {
        let mut place = match self.cursor_place {
            Some((first_seq, place)) if first_seq == held.first_seq => place,
            _ => {
                let delta = self.cursor.saturating_sub(held.first_seq) as u32;
                chunk.find(delta.max(held.prefix))?
            }
        };
        while held.is_settled(place.delta) {
            let offset = place.offset + chunk.record_at(place.offset)?.len() as u32;
            place = Place { delta: chunk.record_at(offset)?.delta(), offset };
        }
        Some(place)
    }
}

/// Counts consecutive live records from `place` on, at most `most` and about `bytes`; and where the next record
/// is, if the chunk goes on. Counts at least one.
fn walk<L: Copy>(
    chunk: &Chunk,
    held: &Held<L>,
    place: Place,
    most: u32,
    bytes: &mut usize,
) -> (u32, Option<Place>) {
    let holes = held.has_holes();
    let (mut count, mut at) = (0, place);
    loop {
        let Some(record) = chunk.record_at(at.offset) else { return (count, None) };
        let next_in_line = record.delta() == place.delta + count;
        if count > 0 && (count >= most || *bytes < record.len() || !next_in_line) {
            at.delta = record.delta();
            if *bytes < record.len() {
                *bytes = 0;
            }
            return (count, Some(at));
        }
        if count > 0 && holes && held.is_settled(record.delta()) {
            at.delta = record.delta();
            return (count, Some(at));
        }
        count += 1;
        *bytes = bytes.saturating_sub(record.len());
        at.offset += record.len() as u32;
    }
}
