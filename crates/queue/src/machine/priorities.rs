//! Priorities: a queue with `x-max-priority` keeps the messages of each priority in a *level* of its own.
//!
//! A level is a [`Queue`] without consumers: its own chunks, cursor and numbers, which have the level in their top byte.
//! Level 0 is the queue itself, the others are made with their first message. The queue counts what all of them have,
//! knows which have ready messages, and decides whose turn it is; whatever is done with a message is done in its level.
//! So no operation depends on how many messages wait, and the few that look at every level see used ones only.
//!
//! Levels are served from the highest *place* down. A level's place is its number, unless the queue was converted from
//! another type: then it has the levels of both, and a [`ServingOrder`].

use std::sync::Arc;

use posthouse_model::chunk::Chunk;
use posthouse_model::former_levels::{FormerLevels, ServingOrder};
use posthouse_model::ids::{Lsn, Seq, first_of_level, level_of};
use posthouse_model::priorities::{OverflowPriority, PriorityOrder};
use posthouse_model::queue_settings::{Overflow, QueueSettings};

use super::chunks::{Persistence, Settled};
use super::level_set::LevelSet;
use super::residency::ToWrite;
use super::times::NEVER_MS;
use super::{Limits, Queue, Recovered, Run, TakeEnd};

/// The levels above 0 of one queue.
#[derive(Debug)]
pub(super) struct Levels<L, W> {
    /// By level less 1; none where there was never a message.
    above: Vec<Option<Box<Queue<L, W>>>>,
    /// The places of those that have ready messages.
    filled: LevelSet,
    /// Their places where these are not their numbers.
    order: Option<Box<ServingOrder>>,
    /// They are slots of time ([`Queue::order_levels_by_time`]).
    by_time: bool,
    /// What all of them have.
    pub(super) totals: Totals,
    /// When a message of one of them may expire; not after the first.
    pub(super) due_ms: u64,
    turns: Turns,
}

/// Counts of one level, or of several.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Totals {
    pub(super) ready: u64,
    pub(super) delayed: u64,
    pub(super) unacked: u64,
    pub(super) ready_bytes: u64,
    pub(super) delayed_bytes: u64,
    pub(super) memory_bytes: usize,
    pub(super) descriptor_bytes: usize,
}

impl Totals {
    fn of<L: Copy, W: Clone>(level: &Queue<L, W>) -> Self {
        Self {
            ready: level.ready,
            delayed: level.delayed,
            unacked: level.unacked,
            ready_bytes: level.ready_bytes,
            delayed_bytes: level.delayed_bytes,
            memory_bytes: level.memory_bytes(),
            descriptor_bytes: level.descriptor_bytes() + size_of::<Queue<L, W>>(),
        }
    }

    /// Counts a level whose counts were `before` and are `after`.
    fn change(&mut self, before: Self, after: Self) {
        self.ready = self.ready + after.ready - before.ready;
        self.delayed = self.delayed + after.delayed - before.delayed;
        self.unacked = self.unacked + after.unacked - before.unacked;
        self.ready_bytes = self.ready_bytes + after.ready_bytes - before.ready_bytes;
        self.delayed_bytes = self.delayed_bytes + after.delayed_bytes - before.delayed_bytes;
        self.memory_bytes = self.memory_bytes + after.memory_bytes - before.memory_bytes;
        self.descriptor_bytes = self.descriptor_bytes + after.descriptor_bytes - before.descriptor_bytes;
    }
}

/// Weighted turns: in a round each level may hand out as many messages as its priority plus 1. The highest place that
/// may and can is served; when none of those with messages may any more, a round begins.
#[derive(Default, Debug)]
struct Turns {
    round: u64,
    /// Which places may hand out no more in this round.
    spent: LevelSet,
    /// By place: a round, and how many messages it handed out in that one.
    handed: Vec<(u64, u32)>,
}

impl Turns {
    /// Whose turn it is among places with messages, and for how many.
    fn next(&mut self, filled: LevelSet, priority_at: impl Fn(u8) -> u8) -> Option<(u8, u32)> {
        let place = filled.without(self.spent).highest().or_else(|| {
            let place = filled.highest()?;
            self.round += 1;
            self.spent = LevelSet::default();
            Some(place)
        })?;
        let handed = match self.handed.get(usize::from(place)) {
            Some(&(round, handed)) if round == self.round => handed,
            _ => 0,
        };
        Some((place, u32::from(priority_at(place)) + 1 - handed))
    }

    /// A place, of messages of that priority, handed out some of what [`Self::next`] said.
    fn note(&mut self, place: u8, priority: u8, count: u32) {
        let at = usize::from(place);
        if self.handed.len() <= at {
            self.handed.resize(at + 1, (0, 0));
        }
        let (round, handed) = &mut self.handed[at];
        *handed = count + if *round == self.round { *handed } else { 0 };
        *round = self.round;
        if *handed > u32::from(priority) {
            self.spent.set(place, true);
        }
    }
}

impl<L: Copy, W: Clone> Default for Levels<L, W> {
    fn default() -> Self {
        Self {
            above: Vec::new(),
            filled: LevelSet::default(),
            order: None,
            by_time: false,
            totals: Totals::default(),
            due_ms: NEVER_MS,
            turns: Turns::default(),
        }
    }
}

impl<L: Copy, W: Clone> Levels<L, W> {
    fn get(&self, level: u8) -> Option<&Queue<L, W>> {
        self.above.get(usize::from(level).checked_sub(1)?)?.as_deref()
    }

    /// Bytes that all of them take besides messages.
    pub(super) fn descriptor_bytes(&self) -> usize {
        let order = self.order.as_ref().map_or(0, |order| order.memory_bytes());
        self.totals.descriptor_bytes + self.above.capacity() * size_of::<Option<Box<Queue<L, W>>>>() + order
    }

    fn place(&self, level: u8) -> u8 {
        self.order.as_ref().map_or(level, |order| order.place(level))
    }

    fn level_at(&self, place: u8) -> u8 {
        self.order.as_ref().map_or(place, |order| order.level(place))
    }

    fn priority_at(order: Option<&ServingOrder>, place: u8) -> u8 {
        order.map_or(place, |order| order.priority(place))
    }

    /// The used ones, the highest first.
    fn iter(&self) -> impl Iterator<Item = &Queue<L, W>> {
        self.above.iter().rev().filter_map(|level| level.as_deref())
    }

    /// The numbers of the used ones, the highest first.
    fn used(&self) -> impl Iterator<Item = u8> + use<L, W> {
        let mut used = LevelSet::default();
        for (level, queue) in (1..=u8::MAX).zip(&self.above) {
            used.set(level, queue.is_some());
        }
        used.into_iter()
    }
}

/// What a level is told of what its queue is to do: what to know of its messages, but no limit of its own.
fn settings_of_level(settings: &QueueSettings) -> QueueSettings {
    QueueSettings {
        max_length: None,
        overflow: Overflow::RejectPublish,
        max_priority: 0,
        former_levels: FormerLevels::default(),
        single_active_consumer: false,
        ..settings.clone()
    }
}

impl<L: Copy, W: Clone> Queue<L, W> {
    /// Adds a chunk to a level as [`Self::push_shared`] does; the first message's number.
    pub fn push_shared_at(
        &mut self,
        level: u8,
        chunk: Arc<Chunk>,
        persistence: Persistence,
        lsn: Lsn,
        wakes: &mut Vec<W>,
    ) -> Seq {
        self.push_at(level, wakes, |queue, wakes| queue.push_shared(chunk, persistence, lsn, wakes))
    }

    /// Adds records to a level as [`Self::push_copied`] does; the first message's number.
    pub fn push_copied_at(
        &mut self,
        level: u8,
        records: &[u8],
        count: u32,
        persistence: Persistence,
        lsn: Lsn,
        wakes: &mut Vec<W>,
    ) -> Seq {
        self.push_at(level, wakes, |queue, wakes| queue.push_copied(records, count, persistence, lsn, wakes))
    }

    fn push_at(&mut self, level: u8, wakes: &mut Vec<W>, push: impl FnOnce(&mut Self, &mut Vec<W>)) -> Seq {
        let first = self.next_seq_at(level);
        if level == 0 {
            push(self, wakes);
        } else {
            self.make_level(level);
            self.in_level(level, |queue| push(queue, &mut Vec::new()));
            self.wake(wakes);
            self.enforce_limits();
        }
        first
    }

    /// Gives an empty level what a restart found of it.
    pub fn recover_level(&mut self, level: u8, found: Recovered<L>) {
        if level > 0 {
            self.make_level(level);
            self.in_level(level, |queue| {
                *queue = Self { settings: queue.settings.clone(), ..Self::recover(found) };
            });
        }
    }

    /// Every level that ever had a message, this queue as level 0 among them, the highest first.
    pub fn levels(&self) -> impl Iterator<Item = &Self> {
        self.levels_above().chain(std::iter::once(self))
    }

    /// The same without this queue itself.
    pub(super) fn levels_above(&self) -> impl Iterator<Item = &Self> {
        self.levels.iter().flat_map(|levels| levels.iter())
    }

    /// The same, to be changed where no count of the queue's changes.
    pub(super) fn levels_above_mut(&mut self) -> impl Iterator<Item = &mut Self> {
        self.levels
            .iter_mut()
            .flat_map(|levels| levels.above.iter_mut().filter_map(|level| level.as_deref_mut()))
    }

    /// The number the next message of a level gets.
    fn next_seq_at(&self, level: u8) -> Seq {
        match &self.levels {
            _ if level == 0 => self.next_seq,
            Some(levels) => levels.get(level).map_or(first_of_level(level), |queue| queue.next_seq),
            None => first_of_level(level),
        }
    }

    fn make_level(&mut self, level: u8) {
        let levels = self.levels.get_or_insert_default();
        let (at, settings) = (usize::from(level) - 1, &self.settings);
        if levels.above.len() <= at {
            levels.above.resize_with(at + 1, || None);
        }
        levels.above[at].get_or_insert_with(|| {
            let first = first_of_level(level);
            let settings = settings_of_level(settings);
            let mut level = Self { next_seq: first, cursor: first, settings, ..Self::default() };
            level.review_details();
            Box::new(level)
        });
    }

    /// Whether any level above 0 was ever used.
    pub(super) fn has_levels(&self) -> bool {
        self.levels.is_some()
    }

    /// Whether a message is in a level above 0, and in which.
    pub(super) fn level_of(&self, seq: Seq) -> Option<u8> {
        Some(level_of(seq)).filter(|&level| level > 0)
    }

    /// Looks at a level above 0.
    pub(super) fn level(&self, level: u8) -> Option<&Self> {
        self.levels.as_ref()?.get(level)
    }

    /// Does something in a level above 0, and counts what that changed. Nothing where there is no such level.
    pub(super) fn in_level<T: Default>(&mut self, level: u8, act: impl FnOnce(&mut Self) -> T) -> T {
        let Some(levels) = self.levels.as_deref_mut() else { return T::default() };
        let at = usize::from(level).checked_sub(1).and_then(|at| levels.above.get_mut(at));
        let Some(queue) = at.and_then(Option::as_deref_mut) else { return T::default() };
        let before = Totals::of(queue);
        // What leaves a level leaves the queue.
        std::mem::swap(&mut self.departed, &mut queue.departed);
        std::mem::swap(&mut self.departure_counts, &mut queue.departure_counts);
        std::mem::swap(&mut self.leaving, &mut queue.leaving);
        std::mem::swap(&mut self.groups, &mut queue.groups);
        self.chunks.swap_shared(&mut queue.chunks);
        let result = act(queue);
        std::mem::swap(&mut self.departed, &mut queue.departed);
        std::mem::swap(&mut self.departure_counts, &mut queue.departure_counts);
        std::mem::swap(&mut self.leaving, &mut queue.leaving);
        std::mem::swap(&mut self.groups, &mut queue.groups);
        self.chunks.swap_shared(&mut queue.chunks);
        let after = Totals::of(queue);
        levels.totals.change(before, after);
        levels.due_ms = levels.due_ms.min(queue.line_due_ms());
        levels.filled.set(levels.place(level), after.ready > 0);
        self.ready = self.ready + after.ready - before.ready;
        self.delayed = self.delayed + after.delayed - before.delayed;
        self.unacked = self.unacked + after.unacked - before.unacked;
        self.ready_bytes = self.ready_bytes + after.ready_bytes - before.ready_bytes;
        self.delayed_bytes = self.delayed_bytes + after.delayed_bytes - before.delayed_bytes;
        result
    }

    /// Does something in every used level above 0, the highest first.
    pub(super) fn in_levels(&mut self, mut act: impl FnMut(&mut Self)) {
        for level in self.used_levels() {
            self.in_level(level, &mut act);
        }
    }

    /// The used levels above 0, the highest first.
    pub(super) fn used_levels(&self) -> impl Iterator<Item = u8> + use<L, W> {
        self.levels.as_ref().map(|levels| levels.used()).into_iter().flatten()
    }

    fn place(&self, level: u8) -> u8 {
        self.levels.as_ref().map_or(level, |levels| levels.place(level))
    }

    fn level_at(&self, place: u8) -> u8 {
        self.levels.as_ref().map_or(place, |levels| levels.level_at(place))
    }

    /// The places of the levels with ready messages, 0 among them.
    fn filled_places(&self) -> LevelSet {
        let mut filled = LevelSet::default();
        let mut above = 0;
        if let Some(levels) = &self.levels {
            (filled, above) = (levels.filled, levels.totals.ready);
        }
        filled.set(self.place(0), self.ready > above);
        filled
    }

    /// The levels with ready messages in the order in which they are served as things are.
    pub(super) fn serving_order(&mut self) -> Vec<u8> {
        let mut rest = self.filled_places();
        let next = self.next_turn(LevelSet::default()).map(|(place, _)| place);
        if let Some(place) = next {
            rest.set(place, false);
        }
        next.into_iter().chain(rest).map(|place| self.level_at(place)).collect()
    }

    /// Every used level, 0 among them, from the one at the highest place down; with `from` only the one of that message
    /// and those after it.
    pub(super) fn levels_in_order(&self, from: Option<Seq>) -> Vec<u8> {
        let mut places = LevelSet::default();
        self.used_levels().chain([0]).for_each(|level| places.set(self.place(level), true));
        let from = from.map_or(u8::MAX, |seq| self.place(level_of(seq)));
        places.filter(|&place| place <= from).map(|place| self.level_at(place)).collect()
    }

    /// Does something in a level, 0 included.
    pub(super) fn in_line<T: Default>(&mut self, level: u8, act: impl FnOnce(&mut Self) -> T) -> T {
        if level == 0 { act(self) } else { self.in_level(level, act) }
    }

    /// Tells every level what its queue is to do now.
    pub(super) fn review_levels(&mut self) {
        let settings = settings_of_level(&self.settings);
        self.review_order();
        if let Some(levels) = self.levels.as_deref() {
            // Counted anew by the levels below.
            self.ready_bytes += levels.totals.ready_bytes;
            self.delayed_bytes += levels.totals.delayed_bytes;
        }
        let mut freed = false;
        self.in_levels(|queue| {
            queue.set_settings(settings.clone());
            freed |= std::mem::take(&mut queue.freed);
        });
        self.freed |= freed;
    }

    /// Gives the levels the places that they have by the settings.
    fn review_order(&mut self) {
        let former = &self.settings.former_levels;
        if former.is_empty() {
            return;
        }
        let order = Box::new(former.order(self.settings.levels()));
        let levels = self.levels.get_or_insert_default();
        if levels.order.as_ref() == Some(&order) {
            return;
        }
        levels.order = Some(order);
        levels.turns = Turns::default();
        let mut filled = LevelSet::default();
        for (level, queue) in (1..=u8::MAX).zip(&levels.above) {
            let is_filled = queue.as_ref().is_some_and(|queue| queue.ready > 0);
            filled.set(levels.place(level), is_filled);
        }
        levels.filled = filled;
    }

    /// Notes anew when a message of a level above 0 may expire.
    pub(super) fn review_levels_due(&mut self) {
        if let Some(levels) = self.levels.as_deref_mut() {
            levels.due_ms = levels.iter().map(Self::line_due_ms).min().unwrap_or(NEVER_MS);
        }
    }

    /// The level that makes room when there is too much, be it that only delayed messages are.
    pub(super) fn level_to_drop(&self, delayed_only: bool) -> u8 {
        if !self.has_levels() {
            return 0;
        }
        let mut filled = if delayed_only { LevelSet::default() } else { self.filled_places() };
        for level in self.levels().filter(|level| level.delays.is_some()) {
            filled.set(self.place(level_of(level.next_seq)), true);
        }
        let place = match self.settings.overflow_priority {
            OverflowPriority::Lowest => filled.lowest(),
            OverflowPriority::Highest => filled.highest(),
        };
        place.map_or(0, |place| self.level_at(place))
    }

    /// Takes messages from the levels whose turn it is; see [`Self::take_any`].
    pub(super) fn take_by_level(
        &mut self,
        limits: Limits,
        settle: bool,
        runs: &mut Vec<Run>,
    ) -> (TakeEnd, Settled) {
        let (from, mut left, mut settled) = (runs.len(), limits, Settled::default());
        // Places whose ready messages are all for others.
        let mut barren = LevelSet::default();
        while left.messages > 0 && (left.bytes > 0 || runs.len() == from) {
            let Some((place, most)) = self.next_turn(barren) else { return (TakeEnd::Parked, settled) };
            let level = self.level_at(place);
            let turn = left.messages.min(most);
            let mut part = Limits { messages: turn, ..left };
            let (end, one) = match level {
                0 => self.take_line(&mut part, from, settle, runs),
                level => self
                    .in_level(level, |queue| Some(queue.take_line(&mut part, from, settle, runs)))
                    .unwrap_or((TakeEnd::Parked, Settled::default())),
            };
            let took = turn - part.messages;
            self.note_turn(place, took);
            settled.add(one);
            left = Limits { messages: left.messages - took, bytes: part.bytes };
            match end {
                TakeEnd::NeedsLoad => return (end, settled),
                TakeEnd::Parked if took == 0 => barren.set(place, true),
                TakeEnd::Parked | TakeEnd::Limit => {}
            }
        }
        (TakeEnd::Limit, settled)
    }

    /// The place whose turn it is to hand out messages, but for those that are `barren`, and how many at most.
    fn next_turn(&mut self, barren: LevelSet) -> Option<(u8, u32)> {
        let filled = self.filled_places().without(barren);
        match (self.settings.priority_order, &mut self.levels) {
            (PriorityOrder::Weighted, Some(levels)) => {
                let order = levels.order.as_deref();
                levels.turns.next(filled, |place| Levels::<L, W>::priority_at(order, place))
            }
            _ => Some((filled.highest()?, u32::MAX)),
        }
    }

    fn note_turn(&mut self, place: u8, count: u32) {
        if self.settings.priority_order == PriorityOrder::Weighted
            && let Some(levels) = &mut self.levels
        {
            let priority = Levels::<L, W>::priority_at(levels.order.as_deref(), place);
            levels.turns.note(place, priority, count);
        }
    }

    /// Whether a level has no messages, handed out or on their way to another queue.
    pub fn is_level_empty(&self, level: u8) -> bool {
        let line = if level == 0 { Some(self) } else { self.level(level) };
        line.is_none_or(|line| line.chunks.is_empty() && line.tail.is_empty())
    }

    /// The levels are slots of time: what is needed next is what has the earliest times. Nobody consumes from such a queue.
    pub fn order_levels_by_time(&mut self) {
        self.levels.get_or_insert_default().by_time = true;
    }

    /// The levels with messages, those first that are needed first.
    fn levels_by_need(&mut self) -> Vec<u8> {
        let mut used = self.levels_in_order(None);
        if self.levels.as_ref().is_some_and(|levels| levels.by_time) {
            // One that has an open tail only has got its first messages just now.
            used.sort_by_cached_key(|&level| {
                let line = if level == 0 { Some(&*self) } else { self.level(level) };
                let first = line.and_then(|line| line.chunks.get(0));
                first.map_or(0, |held| held.received.first_ms)
            });
        }
        used
    }

    /// As [`Self::plan_spill`], of all levels: what is next to be handed out is first of all that at the highest place.
    pub(super) fn plan_spill_of_levels(&mut self, keep: usize, most: usize, writes: &mut Vec<ToWrite>) {
        let used = self.levels_by_need();
        let (tail_most, mut keep, mut left) = (keep / 4 / used.len(), keep, most);
        for level in used {
            self.in_line(level, |queue| queue.plan_spill_of_line(tail_most, &mut keep, &mut left, writes));
        }
    }
}
