//! A queue as a deterministic machine.
//!
//! A queue is a run of messages numbered in order of arrival, kept in [chunks]. It remembers the next
//! number to hand out (`cursor`), the numbers given back (`returned`) and, per chunk, which are settled. Nothing
//! in it grows with the backlog but a descriptor per chunk.
//!
//! The machine knows no lock, no log and no socket: `L` is where a chunk lies in a segment, `W` is how a consumer
//! is woken; both are opaque here.
//!
//! With priorities there are several such runs, see `priorities.rs`; everything below speaks of one of them unless it says
//! otherwise.
//!
//! What holds at all times: `ready + delayed + unacked` is the number of messages that are neither settled nor leaving
//! for another queue ([leaving]).

pub mod admission;
pub mod browse;
pub mod chunks;
pub mod delays;
mod delivery_limit;
pub mod departures;
pub mod details;
pub mod expiry;
mod group_take;
mod groups;
mod held;
pub mod keeping;
pub mod leaving;
mod level_set;
pub mod limits;
mod looks;
pub mod lookup;
mod priorities;
pub mod producers;
pub mod ranges;
pub mod residency;
pub mod roster;
pub mod single_active;
mod survey;
mod take;
pub mod times;
mod unique;

use std::sync::Arc;

use posthouse_model::attempts::AttemptMap;
use posthouse_model::chunk::{Chunk, ChunkBuilder, Place};
use posthouse_model::delays::DelayMap;
use posthouse_model::ids::{Lsn, Seq};
use posthouse_model::queue_settings::QueueSettings;
use posthouse_model::record::FLAG_EXPIRES;

use chunks::{Chunks, Held, Persistence, Settled};
use delays::Back;
use departures::{Departed, DepartureCounts, Reason};
use details::{Details, Wanted};
use groups::Groups;
use leaving::Leaving;
use limits::Room;
use priorities::Levels;
use producers::Producers;
use ranges::SeqRanges;
use roster::Roster;
pub use take::{Limits, Run, TakeEnd};
use times::NEVER_MS;

use crate::seen::SeenValues;

/// The open tail is closed at this size, so that a chunk stays a good unit for reading and writing.
const TAIL_BYTES_MAX: usize = 256 << 10;

/// One queue. See the module's documentation.
#[derive(Debug)]
pub struct Queue<L, W> {
    chunks: Chunks<L>,
    tail: ChunkBuilder,
    tail_first: Seq,
    tail_lsn: Lsn,
    tail_persistence: Persistence,
    tail_details: Option<Box<Details>>,
    /// When a message of the open tail may expire.
    tail_due_ms: u64,
    /// Messages may be there that are kept only for a consumer that is about to take.
    spares: bool,
    next_seq: Seq,
    cursor: Seq,
    cursor_place: Option<(Seq, Place)>,
    returned: SeqRanges,
    /// How often messages came back, where that is limited.
    attempts: AttemptMap,
    /// Messages that came back and are not ready yet; absent while there are none.
    delays: Option<Box<DelayMap>>,
    /// Some have become ready since somebody was woken for it.
    freed: bool,
    /// Messages below may have been delivered before the last start.
    redelivered_below: Seq,
    ready: u64,
    delayed: u64,
    unacked: u64,
    settings: QueueSettings,
    /// Bytes of the ready messages' bodies; counted where the settings ask for it.
    ready_bytes: u64,
    /// The same of the delayed ones.
    delayed_bytes: u64,
    /// What room is kept for messages that are about to come.
    reserved: Room,
    departed: Departed,
    departure_counts: DepartureCounts,
    /// Absent until a message leaves for another queue.
    leaving: Option<Box<Leaving>>,
    /// What publishers have published, in queues that tell messages apart by that.
    producers: Option<Box<Producers>>,
    /// Which values were published within a window, in queues that remember them for so long.
    window: Option<Box<SeenValues>>,
    /// Which groups are with whom, in queues with groups.
    groups: Option<Box<Groups>>,
    round: take::Round,
    levels: Option<Box<Levels<L, W>>>,
    /// Who may consume.
    pub roster: Roster<W>,
}

/// What a queue starts with after a restart.
#[derive(Clone, Debug)]
pub struct Recovered<L> {
    /// Chunks in order.
    pub chunks: Vec<Held<L>>,
    /// The number the next message gets.
    pub next_seq: Seq,
    /// Messages below may have been delivered before.
    pub redelivered_below: Seq,
}

impl<L: Copy, W: Clone> Default for Queue<L, W> {
    fn default() -> Self {
        Self {
            chunks: Chunks::default(),
            tail: ChunkBuilder::default(),
            tail_first: 0,
            tail_lsn: 0,
            tail_persistence: Persistence::Transient,
            tail_details: None,
            tail_due_ms: NEVER_MS,
            spares: false,
            next_seq: 0,
            cursor: 0,
            cursor_place: None,
            returned: SeqRanges::default(),
            attempts: AttemptMap::default(),
            delays: None,
            freed: false,
            redelivered_below: 0,
            ready: 0,
            delayed: 0,
            unacked: 0,
            settings: QueueSettings::default(),
            ready_bytes: 0,
            delayed_bytes: 0,
            reserved: Room::default(),
            departed: Departed::default(),
            departure_counts: DepartureCounts::default(),
            leaving: None,
            producers: None,
            window: None,
            groups: None,
            round: take::Round::default(),
            levels: None,
            roster: Roster::default(),
        }
    }
}

impl<L: Copy, W: Clone> Queue<L, W> {
    /// A queue with what a restart found of level 0; [`Self::recover_level`] adds the others.
    pub fn recover(found: Recovered<L>) -> Self {
        let mut queue =
            Self { next_seq: found.next_seq, redelivered_below: found.redelivered_below, ..Self::default() };
        for held in found.chunks {
            queue.ready += u64::from(held.live);
            if held.live > 0 {
                queue.chunks.push(held);
            }
        }
        queue.cursor = queue.floor();
        queue.review_details();
        queue.review_due();
        queue
    }

    /// What the queue is to do.
    pub fn settings(&self) -> &QueueSettings {
        &self.settings
    }

    /// Changes what the queue is to do, with effect on what is in it.
    pub fn set_settings(&mut self, settings: QueueSettings) {
        self.roster.set_single_active(settings.single_active_consumer);
        if settings.delivery_limit().is_none() {
            self.attempts.clear();
        }
        self.chunks.keep_values(settings.unique);
        if settings.publisher_deduplication != self.producers.is_some() {
            self.producers = settings.publisher_deduplication.then(Box::default);
        }
        match settings.seen_window() {
            Some(window) => self.window.get_or_insert_default().limit(window.size),
            None => self.window = None,
        }
        if settings.message_groups != self.groups.is_some() {
            // It is declared, so nothing was handed out before.
            self.groups = settings.message_groups.then(Box::default);
        }
        self.settings = settings;
        self.review_delays();
        self.review_details();
        self.review_levels();
        self.review_due();
        self.enforce_limits();
    }

    /// Messages of all levels that can be handed out.
    pub fn ready(&self) -> u64 {
        self.ready
    }

    /// Messages of all levels handed out and not settled.
    pub fn unacked(&self) -> u64 {
        self.unacked
    }

    /// The number the next message of level 0 gets.
    pub fn next_seq(&self) -> Seq {
        self.next_seq
    }

    /// Every message below is settled.
    pub fn floor(&self) -> Seq {
        match self.chunks.floor() {
            Some(floor) => floor,
            None if self.tail.is_empty() => self.next_seq,
            None => self.tail_first,
        }
    }

    /// Messages below may have been handed out at some time.
    pub fn delivered_below(&self) -> Seq {
        self.cursor.max(self.redelivered_below)
    }

    /// Messages below may have been handed out before the last start: a number for each level of which there were some.
    pub fn delivered_before_start(&self) -> impl Iterator<Item = Seq> {
        self.levels().map(|level| level.redelivered_below).filter(|&below| below > 0)
    }

    /// Bytes of memory taken by messages of all levels.
    pub fn memory_bytes(&self) -> usize {
        let above = self.levels.as_ref().map_or(0, |levels| levels.totals.memory_bytes);
        above + self.chunks.memory_bytes() + self.tail.bytes().len()
    }

    /// Bytes of memory taken by what is known of messages that are on disk or in memory: [`Chunks::descriptor_bytes`],
    /// the attempts and delays of those that came back, which ones leave, values that are remembered, and what the
    /// levels themselves take.
    pub fn descriptor_bytes(&self) -> usize {
        let above = self.levels.as_ref().map_or(0, |levels| levels.descriptor_bytes());
        let groups = self.groups.as_ref().map_or(0, |groups| groups.memory_bytes());
        let producers = self.producers.as_ref().map_or(0, |producers| producers.memory_bytes());
        let comings = self.attempts.memory_bytes() + self.delays_bytes();
        let leaving = self.leaving.as_ref().map_or(0, |leaving| leaving.memory_bytes());
        let window = self.window.as_ref().map_or(0, |window| window.memory_bytes());
        above + leaving + self.chunks.descriptor_bytes() + comings + groups + producers + window
    }

    /// Adds a chunk whose deltas are `0..count`, by reference, to level 0.
    pub fn push_shared(&mut self, chunk: Arc<Chunk>, persistence: Persistence, lsn: Lsn, wakes: &mut Vec<W>) {
        self.close_tail();
        self.note_values(chunk.bytes());
        let count = chunk.count();
        let mut held = Held::new(self.next_seq, chunk.clone(), persistence, lsn);
        let wanted = held.wanted(self.needs_bodies());
        held.details = (!wanted.is_nothing()).then(|| Box::new(Details::of(&chunk, count, wanted)));
        held.due_ms = self.due_of(&held);
        let body_bytes = held.details.as_ref().map_or(0, |details| details.body_bytes(0, count - 1));
        self.chunks.push(held);
        self.arrived(count, body_bytes, wakes);
    }

    /// Adds a few records to level 0 by copying them behind those that came before.
    pub fn push_copied(
        &mut self,
        records: &[u8],
        count: u32,
        persistence: Persistence,
        lsn: Lsn,
        wakes: &mut Vec<W>,
    ) {
        let full = self.tail.bytes().len() + records.len() > TAIL_BYTES_MAX;
        if !self.tail.is_empty() && (full || self.tail_persistence != persistence) {
            self.close_tail();
        }
        if self.tail.is_empty() {
            self.tail_first = self.next_seq;
            self.tail_lsn = lsn;
            self.tail_persistence = persistence;
            self.tail = ChunkBuilder::with_room(records.len());
        }
        self.note_values(records);
        self.tail.append_records(records);
        let body_bytes = self.note_tail(records, count);
        self.arrived(count, body_bytes, wakes);
    }

    /// Settles `first..=last`, which were handed out and are of one level.
    pub fn settle(&mut self, first: Seq, last: Seq) -> Settled {
        let settled = match self.level_of(first) {
            Some(level) => self.in_level(level, |queue| queue.settle_line(first, last)),
            None => self.settle_line(first, last),
        };
        self.roster.note_back(first, last);
        settled
    }

    fn settle_line(&mut self, first: Seq, last: Seq) -> Settled {
        self.forget_groups(first, last);
        let settled = self.chunks.settle(first, last);
        self.unacked -= settled.count;
        self.attempts.forget(first, last);
        settled
    }

    /// A consumer does not want `first..=last`, which were handed out and are of one level: they leave.
    pub fn reject(&mut self, first: Seq, last: Seq, reason: Reason) {
        match self.level_of(first) {
            Some(level) => self.in_level(level, |queue| queue.reject_line(first, last, reason)),
            None => self.reject_line(first, last, reason),
        }
        self.roster.note_back(first, last);
    }

    fn reject_line(&mut self, first: Seq, last: Seq, reason: Reason) {
        self.unacked -= self.depart(first, last, reason);
    }

    /// Takes back `first..=last`, which were handed out and not settled and are of one level; they keep their places.
    /// Those that were in a chunk that is lost stay lost. Where it counts against the delivery limit, some may leave; where
    /// retries are delayed, they are ready later.
    pub fn take_back(&mut self, first: Seq, last: Seq, back: Back, wakes: &mut Vec<W>) {
        match self.level_of(first) {
            Some(level) => self.in_level(level, |queue| queue.take_back_line(first, last, back)),
            None => self.take_back_line(first, last, back),
        }
        self.roster.note_back(first, last);
        self.wake(wakes);
        self.enforce_limits();
    }

    fn take_back_line(&mut self, first: Seq, last: Seq, back: Back) {
        let mut spent = Vec::new();
        let mut index = self.chunks.index_at_or_after(first);
        while let Some(held) = self.chunks.get(index).filter(|held| held.first_seq <= last) {
            let (from, to) = (first.max(held.first_seq), last.min(held.end_seq() - 1));
            self.unacked -= to - from + 1;
            self.ready += to - from + 1;
            self.ready_bytes += self.body_bytes(from, to);
            match self.settings.delivery_limit() {
                None => self.make_ready(from, to),
                Some(limit) => self.count_attempt(from, to, back, limit, &mut spent),
            }
            self.note_returned(index, from, to);
            index += 1;
        }
        self.drop_spent(&spent);
    }

    /// Settles every message of all levels that is ready or delayed and appends the settled ranges to `ranges`. What is
    /// leaving goes on leaving.
    pub fn purge(&mut self, ranges: &mut Vec<(Seq, Seq)>) -> Settled {
        let mut outcome = Settled::default();
        self.in_levels(|queue| outcome.add(queue.purge(ranges)));
        self.close_tail();
        let from = ranges.len();
        ranges.extend(self.returned.iter());
        ranges.extend(self.delayed_within(0, Seq::MAX).map(|range| (range.first, range.last)));
        self.take_delayed(0, Seq::MAX);
        let mut next = self.cursor;
        for (first, last) in self.chunks.leaving().within(self.cursor, self.next_seq) {
            if next < first {
                ranges.push((next, first - 1));
            }
            next = last + 1;
        }
        if next < self.next_seq {
            ranges.push((next, self.next_seq - 1));
        }
        for &(first, last) in &ranges[from..] {
            outcome.add(self.chunks.settle(first, last));
            self.attempts.forget(first, last);
            if let Some(groups) = &mut self.groups {
                groups.forget(first, last);
            }
        }
        self.returned.clear();
        self.cursor = self.next_seq;
        self.cursor_place = None;
        self.ready = 0;
        self.ready_bytes = 0;
        outcome
    }

    /// Makes the open tail a chunk like the others.
    pub fn close_tail(&mut self) {
        if self.tail.is_empty() {
            return;
        }
        let chunk = Arc::new(std::mem::take(&mut self.tail).finish());
        let mut held = Held::new(self.tail_first, chunk, self.tail_persistence, self.tail_lsn);
        held.details = self.tail_details.take();
        held.due_ms = std::mem::replace(&mut self.tail_due_ms, NEVER_MS);
        self.chunks.push(held);
    }

    /// Keeps what is needed of records that were added to the tail; the bytes of their bodies, where those count.
    fn note_tail(&mut self, records: &[u8], count: u32) -> u64 {
        self.tail_due_ms = self.tail_due_ms.min(self.due_by_queue_ms(self.tail.received()));
        let deadlines = self.tail.flags() & FLAG_EXPIRES != 0;
        let wanted = Wanted { bodies: self.needs_bodies(), deadlines, received: false };
        if wanted.is_nothing() {
            return 0;
        }
        let end = self.tail.count();
        let (first, last) = (end - count, end - 1);
        let details = self.tail_details.get_or_insert_default();
        details.append(first, records, count, wanted);
        self.tail_due_ms = self.tail_due_ms.min(details.earliest_deadline_ms(first, last));
        details.body_bytes(first, last)
    }

    fn arrived(&mut self, count: u32, body_bytes: u64, wakes: &mut Vec<W>) {
        self.next_seq += Seq::from(count);
        self.ready += u64::from(count);
        self.ready_bytes += body_bytes;
        self.drop_duplicates();
        self.wake(wakes);
        self.enforce_limits();
    }
}

#[cfg(test)]
mod tests;
