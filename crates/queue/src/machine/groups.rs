//! Message groups: which group is with which consumer, and which messages wait for that to change.
//!
//! A group is with a consumer while that has an unacknowledged message of it. Until then nobody else gets any; when the
//! last one is settled or given back, the group is free for whoever takes its next message.
//!
//! Messages that a consumer must leave to others are *passed over*: the queue's cursor moves on, and they wait here, among
//! what was given back. How many may wait is bounded ([`WINDOW_MESSAGES`], [`WINDOW_BYTES`]), so that one busy group
//! neither stops the others nor makes the queue read all of its backlog.
//!
//! A message that came back and must wait for a time keeps its group back: nobody gets the messages behind it before that.
//!
//! What is known here is of groups with a message that waits or is unacknowledged, and of nobody else. All levels of a
//! queue with priorities share it.

mod delayed;

use std::collections::{BTreeMap, BTreeSet};

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use posthouse_model::ids::{Seq, first_of_level, level_of};
use posthouse_model::raw_table::RawValue;
use posthouse_model::record::Record;

use super::ranges::SeqRanges;
use super::roster::ConsumerId;
use crate::header_value;

/// The header that says which group a message is of.
const HEADER: &[u8] = b"x-message-group";

/// Messages passed over at most.
pub(super) const WINDOW_MESSAGES: usize = 10_000;

/// Bytes of their records at most, but for the last one.
pub(super) const WINDOW_BYTES: u64 = 64 << 20;

/// A group's name, hashed. Two groups with one hash are one group, which costs them nothing but time.
pub(super) type GroupId = u64;

/// The group of a message: none without the header, or where its value is no scalar.
pub(super) fn group_of(record: &Record<'_>) -> Option<GroupId> {
    let value = header_value::find(record, HEADER)?;
    match value {
        RawValue::Array(_) | RawValue::Table(_) | RawValue::Void => None,
        value => header_value::hash(value).map(|hash| hash as GroupId),
    }
}

/// What is known of a message of a group.
#[derive(Clone, Copy, Debug)]
struct Entry {
    group: GroupId,
    bytes: u32,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Waits, and was never handed out.
    Passed,
    /// Waits, and was given back.
    Returned,
    /// Was given back, and waits for a time.
    Delayed,
    /// Is with a consumer.
    Unacked,
}

/// A group with a message that waits or is unacknowledged.
#[derive(Clone, Copy, Default, Debug)]
struct Group {
    /// Who has the unacknowledged ones; nobody in particular after a `basic.get`.
    owner: Option<ConsumerId>,
    unacked: u32,
    waiting: u32,
    delayed: u32,
}

/// Who is taking, and what it may take.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Taker {
    /// The consumer; none for a `basic.get`.
    pub(super) consumer: Option<ConsumerId>,
    /// How many consumers share the groups, itself included.
    pub sharers: usize,
    /// Consumers of a higher priority are there: no group but those it has.
    pub own_only: bool,
    /// What it takes is settled at once, so that no group is ever with it.
    pub settles: bool,
}

/// See the module's documentation.
#[derive(Clone, Default, Debug)]
pub(super) struct Groups {
    /// Every message of a group that waits or is unacknowledged.
    entries: BTreeMap<Seq, Entry>,
    /// Those that wait, also for a time, by group.
    lines: BTreeSet<(GroupId, Seq)>,
    /// The first that waits of each free group, in each level; none where that one waits for a time.
    free: BTreeSet<Seq>,
    /// The same of each group that is with a consumer.
    reserved: BTreeSet<(ConsumerId, Seq)>,
    /// Messages without a group that were given back.
    loose: SeqRanges,
    groups: HashMap<GroupId, Group, FixedState>,
    /// How many groups are with each consumer.
    owned: HashMap<ConsumerId, usize, FixedState>,
    all_owned: usize,
    passed: usize,
    passed_bytes: u64,
    /// Messages that wait for whom their group is with.
    closed: u64,
    taker: Taker,
    /// The taker left a free group to others, because it has its share.
    left_to_others: bool,
    /// Somebody would have passed over more, and nothing has ceased to wait since but by being taken.
    window_was_full: bool,
    /// Messages have become free since somebody was woken for it.
    freed: bool,
    /// What must be read so that a consumer can go on.
    wanted: Option<Seq>,
    /// Consumers for whom something has begun to wait.
    owed: Vec<ConsumerId>,
}

impl Groups {
    /// Says who takes now.
    pub(super) fn begin(&mut self, taker: Taker) {
        self.taker = taker;
        self.left_to_others = false;
    }

    /// Whether the last taker left a free group to others, because it has its share.
    pub(super) fn left_to_others(&self) -> bool {
        self.left_to_others
    }

    /// Whether the taker may have messages only of the groups it has.
    pub(super) fn takes_own_only(&self) -> bool {
        self.taker.own_only
    }

    /// Messages that wait for whom their group is with: nobody else can take them.
    pub(super) fn closed(&self) -> u64 {
        self.closed
    }

    /// Whether messages wait for a consumer.
    pub(super) fn waits_for(&self, consumer: ConsumerId) -> bool {
        self.reserved.range((consumer, Seq::MIN)..=(consumer, Seq::MAX)).next().is_some()
    }

    /// Consumers for whom messages wait.
    pub(super) fn waited_for(&self) -> Vec<ConsumerId> {
        let mut consumers = Vec::new();
        let mut next = self.reserved.first();
        while let Some(&(consumer, _)) = next {
            consumers.push(consumer);
            next = self.reserved.range((consumer, Seq::MAX)..).find(|(other, _)| *other != consumer);
        }
        consumers
    }

    /// A message must be read before anything else.
    pub(super) fn want(&mut self, seq: Seq) {
        self.wanted = Some(seq);
    }

    /// Takes the message that must be read before anything else.
    pub(super) fn take_wanted(&mut self) -> Option<Seq> {
        self.wanted.take()
    }

    /// Takes the consumers for whom something has begun to wait.
    pub(super) fn take_owed(&mut self) -> Vec<ConsumerId> {
        std::mem::take(&mut self.owed)
    }

    /// Whether messages have become free since the last call, or wait for a consumer that was not told.
    pub(super) fn take_freed(&mut self) -> bool {
        std::mem::take(&mut self.freed) || !self.owed.is_empty()
    }

    /// Whether a consumer has no more than its share of the groups. Of those that share them, one always has.
    pub(super) fn has_room(&self, consumer: ConsumerId, sharers: usize) -> bool {
        let has = self.owned.get(&consumer).copied().unwrap_or(0);
        // A fifth more where they are many, so that small groups go over in batches.
        (has - has / 5) * sharers <= self.all_owned
    }

    fn may_acquire(&mut self) -> bool {
        let Taker { consumer, sharers, own_only, settles } = self.taker;
        match consumer {
            _ if own_only => false,
            Some(consumer) if sharers > 1 && !settles => self.has_room(consumer, sharers),
            _ => true,
        }
    }

    /// The first message among `first..=last` that waits and that the taker may have.
    pub(super) fn next_waiting(&mut self, first: Seq, last: Seq) -> Option<Seq> {
        let own = self.taker.consumer.and_then(|consumer| {
            let mut heads = self.reserved.range((consumer, first)..=(consumer, last));
            heads.next().map(|&(_, seq)| seq)
        });
        if self.taker.own_only {
            return own;
        }
        let loose = self.loose.within(first, last).next().map(|(seq, _)| seq);
        let free = self.free.range(first..=last).next().copied();
        let before = |seq: Seq| own.is_none_or(|own| seq < own) && loose.is_none_or(|loose| seq < loose);
        match free.filter(|&seq| before(seq)) {
            Some(seq) if self.may_acquire() => Some(seq),
            Some(_) => {
                self.left_to_others = true;
                own.into_iter().chain(loose).min()
            }
            None => own.into_iter().chain(loose).min(),
        }
    }

    /// Whether the taker may have a message of a group that comes behind all that wait in its level.
    pub(super) fn may_take(&mut self, group: GroupId, seq: Seq) -> bool {
        if self.head(group, seq).is_some() {
            return false;
        }
        match self.groups.get(&group).filter(|group| group.unacked > 0) {
            Some(group) => group.owner.is_some() && group.owner == self.taker.consumer,
            None => {
                let may = self.may_acquire();
                self.left_to_others |= !may;
                may
            }
        }
    }

    /// The taker leaves a message of a group, which comes behind all others. False when too much waits already: it must
    /// not go on.
    pub(super) fn pass(&mut self, seq: Seq, group: GroupId, bytes: usize) -> bool {
        if self.is_window_full() {
            self.window_was_full = true;
            return false;
        }
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.entries.insert(seq, Entry { group, bytes, state: State::Passed });
        self.passed += 1;
        self.passed_bytes += u64::from(bytes);
        self.wait(group, seq);
        true
    }

    /// The taker gets a message that waits. Whether that was never handed out.
    pub(super) fn take_waiting(&mut self, seq: Seq) -> bool {
        let Some(entry) = self.entries.get(&seq).copied() else {
            self.loose.take_within(seq, seq);
            return false;
        };
        self.take_new(seq, entry.group);
        self.wait_no_more(entry, seq);
        entry.state == State::Passed
    }

    /// The taker gets a message of a group that comes behind all that wait.
    pub(super) fn take_new(&mut self, seq: Seq, group: GroupId) {
        if self.taker.settles {
            self.entries.remove(&seq);
            return;
        }
        self.entries.insert(seq, Entry { group, bytes: 0, state: State::Unacked });
        let consumer = self.taker.consumer;
        let entry = self.groups.entry(group).or_default();
        entry.unacked += 1;
        if entry.unacked == 1 {
            let owner = Group { owner: consumer, ..*entry };
            self.hand_over(group, Group { unacked: 0, ..owner }, owner);
        }
    }

    /// Messages that were handed out are given back.
    pub(super) fn give_back(&mut self, first: Seq, last: Seq) {
        self.return_each(first, last, |groups, seq, entry| {
            groups.entries.insert(seq, Entry { bytes: 0, state: State::Returned, ..entry });
            groups.wait(entry.group, seq);
            groups.let_go(entry.group);
        });
    }

    /// Puts back those of `first..=last` whose group is known one by one, and the others as ranges.
    fn return_each(&mut self, first: Seq, last: Seq, mut put_back: impl FnMut(&mut Self, Seq, Entry)) {
        let known: Vec<(Seq, Entry)> = self.entries.range(first..=last).map(|(&s, &e)| (s, e)).collect();
        let mut next = first;
        for (seq, entry) in known {
            if next < seq {
                self.loose.insert(next, seq - 1);
            }
            next = seq + 1;
            put_back(self, seq, entry);
        }
        if next <= last {
            self.loose.insert(next, last);
        }
    }

    /// Messages are settled, or have left.
    pub(super) fn forget(&mut self, first: Seq, last: Seq) {
        while let Some((&seq, &entry)) = self.entries.range(first..=last).next() {
            self.entries.remove(&seq);
            match entry.state {
                State::Unacked => self.let_go(entry.group),
                State::Passed | State::Returned => self.wait_no_more(entry, seq),
                State::Delayed => {
                    self.leave_line(entry, seq);
                    self.freed = true;
                }
            }
        }
        if !self.loose.is_empty() {
            self.loose.take_within(first, last);
        }
        if self.window_was_full && !self.is_window_full() {
            self.window_was_full = false;
            self.freed = true;
        }
    }

    /// Whether a message waits that was never handed out.
    pub(super) fn is_passed(&self, seq: Seq) -> bool {
        self.entries.get(&seq).is_some_and(|entry| entry.state == State::Passed)
    }

    /// Bytes of memory all of it takes, about.
    pub(super) fn memory_bytes(&self) -> usize {
        // Nodes of the trees are two thirds full.
        let of_trees = self.entries.len() * size_of::<(Seq, Entry)>()
            + self.lines.len() * size_of::<(GroupId, Seq)>()
            + self.free.len() * size_of::<Seq>()
            + self.reserved.len() * size_of::<(ConsumerId, Seq)>();
        size_of::<Self>()
            + of_trees * 3 / 2
            + self.groups.capacity() * size_of::<(GroupId, Group)>()
            + self.owned.capacity() * size_of::<(ConsumerId, usize)>()
    }

    /// Whether nothing is known of any message, or of whom a group is with.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
            && self.lines.is_empty()
            && self.free.is_empty()
            && self.reserved.is_empty()
            && self.loose.is_empty()
            && self.groups.is_empty()
            && self.owned.is_empty()
            && (self.all_owned, self.passed, self.passed_bytes, self.closed) == (0, 0, 0, 0)
    }

    fn is_window_full(&self) -> bool {
        self.passed >= WINDOW_MESSAGES || self.passed_bytes >= WINDOW_BYTES
    }

    /// The first of a group that waits in the level of `seq`.
    fn head(&self, group: GroupId, seq: Seq) -> Option<Seq> {
        let level = first_of_level(level_of(seq));
        let mut line = self.lines.range((group, level)..=(group, Seq::MAX));
        line.next().map(|&(_, head)| head).filter(|&head| level_of(head) == level_of(seq))
    }

    /// The first of a group that waits in each level.
    fn heads(&self, group: GroupId) -> Vec<Seq> {
        let (mut heads, mut from) = (Vec::new(), Seq::MIN);
        while let Some(&(_, head)) = self.lines.range((group, from)..=(group, Seq::MAX)).next() {
            heads.push(head);
            match level_of(head).checked_add(1) {
                Some(level) => from = first_of_level(level),
                None => break,
            }
        }
        heads
    }

    /// A message of a group begins to wait.
    fn wait(&mut self, group: GroupId, seq: Seq) {
        let state = self.groups.entry(group).or_default();
        state.waiting += 1;
        let state = *state;
        if state.unacked > 0 {
            self.closed += 1;
            if let Some(owner) = state.owner
                && self.owed.last() != Some(&owner)
            {
                self.owed.push(owner);
            }
        }
        self.join_line(group, state, seq);
    }

    /// A message of a group is in its line.
    fn join_line(&mut self, group: GroupId, state: Group, seq: Seq) {
        let head = self.head(group, seq);
        self.lines.insert((group, seq));
        if head.is_none_or(|head| seq < head) {
            if let Some(head) = head {
                self.remove_head(state, head);
            }
            self.insert_head(state, seq);
        }
    }

    /// A message of a group ceases to wait.
    fn wait_no_more(&mut self, entry: Entry, seq: Seq) {
        if entry.state == State::Passed {
            self.passed -= 1;
            self.passed_bytes -= u64::from(entry.bytes);
        }
        let Some(state) = self.groups.get(&entry.group) else { return };
        if state.unacked > 0 {
            self.closed -= 1;
        }
        self.leave_line(entry, seq);
    }

    /// A message of a group is in its line no more, where it waited as its entry says.
    fn leave_line(&mut self, entry: Entry, seq: Seq) {
        let Some(state) = self.groups.get_mut(&entry.group) else { return };
        match entry.state {
            State::Delayed => state.delayed -= 1,
            _ => state.waiting -= 1,
        }
        let state = *state;
        let was_head = self.head(entry.group, seq) == Some(seq);
        self.lines.remove(&(entry.group, seq));
        if was_head {
            self.remove_head(state, seq);
            if let Some(next) = self.head(entry.group, seq) {
                self.insert_head(state, next);
            }
        }
        self.forget_group(entry.group, state);
    }

    /// One unacknowledged message less of a group.
    fn let_go(&mut self, group: GroupId) {
        let Some(state) = self.groups.get_mut(&group) else { return };
        let before = *state;
        state.unacked -= 1;
        let after = *state;
        if after.unacked == 0 {
            self.hand_over(group, before, after);
            self.freed |= after.waiting > 0;
            self.forget_group(group, after);
        }
    }

    fn forget_group(&mut self, group: GroupId, state: Group) {
        if state.unacked == 0 && state.waiting == 0 && state.delayed == 0 {
            self.groups.remove(&group);
        }
    }

    /// A group goes to a consumer, or is free.
    fn hand_over(&mut self, group: GroupId, before: Group, after: Group) {
        for head in self.heads(group) {
            self.remove_head(before, head);
            self.insert_head(after, head);
        }
        let waiting = u64::from(after.waiting);
        if after.unacked > 0 {
            self.closed += waiting;
            if let Some(owner) = after.owner {
                *self.owned.entry(owner).or_default() += 1;
                self.all_owned += 1;
            }
        } else {
            self.closed -= waiting;
            if let Some(owner) = before.owner
                && let Some(count) = self.owned.get_mut(&owner)
            {
                *count -= 1;
                self.all_owned -= 1;
                if *count == 0 {
                    self.owned.remove(&owner);
                }
            }
        }
        self.groups.insert(group, after);
    }

    fn insert_head(&mut self, group: Group, seq: Seq) {
        if self.entries.get(&seq).is_some_and(|entry| entry.state == State::Delayed) {
            return;
        }
        match group.owner {
            _ if group.unacked == 0 => drop(self.free.insert(seq)),
            Some(owner) => drop(self.reserved.insert((owner, seq))),
            None => {}
        }
    }

    fn remove_head(&mut self, group: Group, seq: Seq) {
        match group.owner {
            _ if group.unacked == 0 => drop(self.free.remove(&seq)),
            Some(owner) => drop(self.reserved.remove(&(owner, seq))),
            None => {}
        }
    }
}
