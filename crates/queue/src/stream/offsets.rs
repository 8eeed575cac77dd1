//! Stored offsets: where the readers of a name go on when they come back; and groups, of which one reader reads.
//!
//! A named reader's offset follows what it has settled: it is the number of the oldest message that was handed to it
//! and is not settled, or of the next one to be handed out. Whatever is lost with a reader is handed out again. Of
//! readers with one name the one that began last moves the offset; of a group, the one that is active.
//!
//! Whose turn it is in a group follows from the order in which its readers came, and from a number that each partition of
//! a super stream has of its own: so one group's readers of many partitions share them out. A turn passes on when the
//! active reader leaves, or has settled what it has once it should be another one's.

use std::collections::{BTreeMap, VecDeque};

use posthouse_model::ids::Seq;
use posthouse_model::stream_args::StreamOffset;

use super::Stream;
use super::notes::Note;
use crate::machine::ranges::SeqRanges;
use crate::machine::roster::ConsumerId;
use crate::machine::single_active::Activity;

/// Names whose offsets a stream remembers.
pub const NAMES_MAX: usize = 1000;

/// Bytes of a name.
pub const NAME_BYTES_MAX: usize = 255;

/// There are [`NAMES_MAX`] names already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooManyNames;

/// A stored offset as it is shown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredOffset {
    /// Whose it is.
    pub name: Box<[u8]>,
    /// The number of the next message to be read.
    pub next: Seq,
}

#[derive(Clone, Debug)]
struct Entry {
    /// The next message to be read; none until that is known.
    next: Option<Seq>,
    /// Who moves it.
    reader: Option<ConsumerId>,
    /// The readers that take turns, in the order in which they came; empty when they do not.
    group: VecDeque<ConsumerId>,
    /// The one of them whose turn it is; the one that moves the offset, too.
    active: Option<ConsumerId>,
    /// Which of them it should be: this one, counted round.
    turn: u64,
}

impl Entry {
    fn at(next: Option<Seq>) -> Self {
        Self { next, reader: None, group: VecDeque::new(), active: None, turn: 0 }
    }

    /// Whose turn it should be.
    fn wanted(&self) -> Option<ConsumerId> {
        let at = self.turn.checked_rem(self.group.len() as u64)?;
        self.group.get(at as usize).copied()
    }
}

/// The names of a stream's readers.
#[derive(Clone, Debug, Default)]
pub(super) struct Offsets {
    by_name: BTreeMap<Box<[u8]>, Entry>,
    /// What is to be remembered and was not taken yet.
    changed: Vec<Note>,
}

/// What a named reader has not settled.
#[derive(Clone, Debug)]
pub(super) struct Tracking {
    name: Box<[u8]>,
    /// Takes turns with the others of its name, of whom this one should be active, counted round.
    turn: Option<u64>,
    /// Where it begins when nothing is stored.
    start: StreamOffset,
    outstanding: SeqRanges,
    /// The oldest message that it has given back: it asked for it to come again, so the offset stays.
    given_back: Option<Seq>,
}

impl Tracking {
    pub(super) fn new(name: Box<[u8]>, turn: Option<u64>, start: StreamOffset) -> Self {
        Self { name, turn, start, outstanding: SeqRanges::default(), given_back: None }
    }

    /// Messages were handed out.
    pub(super) fn handed_out(&mut self, first: Seq, last: Seq) {
        self.outstanding.insert(first, last);
    }

    /// The oldest message that is not settled, given where the reader goes on.
    fn next(&self, cursor: Seq) -> Seq {
        let oldest = self.outstanding.first().map_or(cursor, |(first, _)| first);
        self.given_back.map_or(oldest, |seq| seq.min(oldest))
    }
}

impl Offsets {
    /// Takes over what a restart found. A number that was lost with the message is another message's now.
    pub(super) fn restore(&mut self, name: &[u8], next: Seq, next_seq: Seq) {
        self.by_name.insert(name.into(), Entry::at(Some(next.min(next_seq))));
    }

    fn store(&mut self, name: &[u8], next: Seq) {
        if let Some(entry) = self.by_name.get_mut(name).filter(|entry| entry.next != Some(next)) {
            entry.next = Some(next);
            self.changed.push(Note::offset(name, Some(next)));
        }
    }

    /// All that is remembered.
    pub(super) fn notes(&self) -> impl Iterator<Item = Note> + '_ {
        self.iter().map(|(name, next)| Note::offset(name, Some(next)))
    }

    fn iter(&self) -> impl Iterator<Item = (&[u8], Seq)> {
        self.by_name.iter().filter_map(|(name, entry)| Some((&**name, entry.next?)))
    }
}

impl<L: Copy, W: Clone> Stream<L, W> {
    /// What is to be remembered since the last call, oldest first.
    pub fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.offsets.changed)
    }

    /// The stored offsets, by name.
    pub fn stored_offsets(&self) -> Vec<StoredOffset> {
        self.offsets.iter().map(|(name, next)| StoredOffset { name: name.into(), next }).collect()
    }

    /// Forgets a stored offset; whether there was one. A reader that has the name stores it again.
    pub fn forget_offset(&mut self, name: &[u8]) -> bool {
        let Some(entry) = self.offsets.by_name.get_mut(name) else { return false };
        let stored = entry.next.take().is_some();
        if entry.reader.is_none() && entry.group.is_empty() {
            self.offsets.by_name.remove(name);
        }
        if stored {
            self.offsets.changed.push(Note::offset(name, None));
        }
        stored
    }

    /// Messages that were handed to a named reader are done with. Where another one's turn has come since, that one is
    /// woken once this one has none left.
    pub fn settle(&mut self, id: ConsumerId, ranges: &[(Seq, Seq)], wakes: &mut Vec<W>) {
        let Some(reader) = self.readers.get_mut(&id) else { return };
        let cursor = reader.cursor;
        let Some(tracking) = &mut reader.tracking else { return };
        for &(first, last) in ranges {
            tracking.outstanding.take_within(first, last);
        }
        if self.offsets.by_name.get(&tracking.name).is_some_and(|entry| entry.reader == Some(id)) {
            self.offsets.store(&tracking.name, tracking.next(cursor));
        }
        self.hand_over(id, wakes);
    }

    /// Messages that were handed to a named reader are to come again, the next time that it begins.
    pub fn give_back(&mut self, id: ConsumerId, ranges: &[(Seq, Seq)], wakes: &mut Vec<W>) {
        let tracking = self.readers.get_mut(&id).and_then(|reader| reader.tracking.as_mut());
        let Some(tracking) = tracking else { return };
        for &(first, last) in ranges {
            tracking.outstanding.take_within(first, last);
            tracking.given_back = Some(tracking.given_back.map_or(first, |seq| seq.min(first)));
        }
        self.hand_over(id, wakes);
    }

    /// A reader of a group has something less outstanding.
    fn hand_over(&mut self, id: ConsumerId, wakes: &mut Vec<W>) {
        let tracking = self.readers.get(&id).and_then(|reader| reader.tracking.as_deref());
        if let Some(Tracking { name, turn: Some(_), .. }) = tracking {
            self.choose(&name.clone(), wakes);
        }
    }

    /// Whether a reader is given messages: of a group only one is.
    pub fn activity(&self, id: ConsumerId) -> Activity {
        let tracking = self.readers.get(&id).and_then(|reader| reader.tracking.as_deref());
        let Some(tracking) = tracking.filter(|tracking| tracking.turn.is_some()) else { return Activity::Up };
        match self.offsets.by_name.get(&tracking.name) {
            Some(entry) if entry.active == Some(id) => Activity::SingleActive,
            _ => Activity::Waiting,
        }
    }

    /// Whether a reader may take: of a group the one that is active, unless it is another one's turn by now.
    pub(super) fn may_take(&self, id: ConsumerId) -> bool {
        let tracking = self.readers.get(&id).and_then(|reader| reader.tracking.as_deref());
        let Some(tracking) = tracking.filter(|tracking| tracking.turn.is_some()) else { return true };
        let entry = self.offsets.by_name.get(&tracking.name);
        entry.is_some_and(|entry| entry.active == Some(id) && entry.wanted() == Some(id))
    }

    /// Gives a named reader, which was just added, its place and maybe its turn.
    pub(super) fn join(&mut self, id: ConsumerId, wakes: &mut Vec<W>) -> Result<(), TooManyNames> {
        let tracking = self.readers.get(&id).and_then(|reader| reader.tracking.as_deref());
        let Some(Tracking { name, turn, .. }) = tracking else { return Ok(()) };
        if self.offsets.by_name.len() >= NAMES_MAX && !self.offsets.by_name.contains_key(name) {
            return Err(TooManyNames);
        }
        let (name, turn) = (name.clone(), *turn);
        let entry = self.offsets.by_name.entry(name.clone()).or_insert_with(|| Entry::at(None));
        match turn {
            Some(turn) => {
                entry.group.push_back(id);
                entry.turn = turn;
                self.choose(&name, wakes);
            }
            None => self.begin(id),
        }
        Ok(())
    }

    /// A named reader leaves; the next of its group gets its turn.
    pub(super) fn leave(&mut self, id: ConsumerId, wakes: &mut Vec<W>) {
        let tracking = self.readers.get_mut(&id).and_then(|reader| reader.tracking.take());
        let Some(tracking) = tracking else { return };
        let Some(entry) = self.offsets.by_name.get_mut(&tracking.name) else { return };
        entry.group.retain(|other| *other != id);
        for holder in [&mut entry.reader, &mut entry.active] {
            *holder = holder.filter(|other| *other != id);
        }
        if entry.next.is_none() && entry.reader.is_none() && entry.group.is_empty() {
            self.offsets.by_name.remove(&tracking.name);
        }
        self.choose(&tracking.name, wakes);
    }

    /// Gives the turn to the reader of a group whose it should be, once the active one has nothing outstanding.
    fn choose(&mut self, name: &[u8], wakes: &mut Vec<W>) {
        let Some(entry) = self.offsets.by_name.get_mut(name) else { return };
        let Some(wanted) = entry.wanted().filter(|wanted| entry.active != Some(*wanted)) else { return };
        let active = entry.active.and_then(|id| self.readers.get(&id)?.tracking.as_deref());
        if active.is_some_and(|tracking| !tracking.outstanding.is_empty()) {
            return;
        }
        entry.active = Some(wanted);
        self.begin(wanted);
        wakes.extend(self.roster.run(wanted));
    }

    /// A named reader begins: where its name's offset is, or else where it asked for.
    fn begin(&mut self, id: ConsumerId) {
        let tracking = self.readers.get_mut(&id).and_then(|reader| reader.tracking.as_deref_mut());
        let Some(Tracking { name, start, given_back, .. }) = tracking else { return };
        *given_back = None;
        let (name, start) = (name.clone(), *start);
        let Some(entry) = self.offsets.by_name.get_mut(&name) else { return };
        entry.reader = Some(id);
        if let Some(next) = entry.next {
            return self.place(id, StreamOffset::Number(next));
        }
        self.place(id, start);
        // The reader's place is promised from now on, if it is known and there.
        let known =
            self.readers.get(&id).filter(|reader| reader.seek_ms.is_none()).map(|reader| reader.cursor);
        if let Some(cursor) = known.filter(|cursor| *cursor <= self.next_seq()) {
            self.offsets.store(&name, cursor);
        }
    }
}
