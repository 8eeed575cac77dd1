//! Publishers that number what they publish, so that what they publish twice enters a queue once.
//!
//! As for [streams](crate::stream::publishers), a message names its publisher and has an ascending number of it in its
//! headers; a message whose number is not above the highest one of its publisher has entered before. Here messages leave,
//! so the numbers are remembered apart from them: with every batch that changes some, the log gets a note of each publisher
//! in one record with the batch, and a crash leaves both or neither.
//!
//! A queue that refuses messages lets a publisher go on with higher numbers and send the refused ones again later. So when a
//! higher number enters after some were refused, the numbers between are a *gap*, and those in a gap have not entered. Where
//! nothing was refused nobody looks for gaps, and a publisher may leave out as many numbers as it likes. What was refused is not
//! in the log, so after a restart any number may have been.
//!
//! A checkpoint says only what is on disk by then: what the log has not on disk yet is undone in what is told to it. The log has
//! the notes of that, should it come to be there.
//!
//! Publishers that have published nothing for longest are forgotten when there are too many.

use std::collections::VecDeque;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use posthouse_model::ids::Lsn;

use super::Queue;
use crate::stream::notes::{Gaps, Note};

/// Publishers that a queue remembers.
pub const PRODUCERS_MAX: usize = 1000;

/// Gaps that are remembered of a publisher. The lowest is given up for another: who sends refused messages again does so in
/// order.
pub const GAPS_MAX: usize = 100;

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub(super) struct Producers {
    by_name: HashMap<Box<[u8]>, Producer, FixedState>,
    names_bytes: usize,
    batches: u64,
    /// Whether publishers may have been refused of whom nothing is known.
    was_restarted: bool,
    /// What the log is told of and does not have on disk yet, as far as is known; the oldest first.
    pending: VecDeque<Pending>,
}

/// A publisher whose numbers a batch has changed.
#[derive(Clone, Debug)]
struct Pending {
    name: Box<[u8]>,
    /// Which numbers had entered before, if any.
    before: Option<Entered>,
    /// The log's position after the batch; [`Lsn::MAX`] until that is known.
    until: Lsn,
}

/// Which of a publisher's numbers have entered: those up to the highest one that are in no gap.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Entered {
    highest: u64,
    /// Ascending.
    gaps: Gaps,
}

#[derive(Clone, Debug)]
struct Producer {
    /// None while all its messages were refused.
    entered: Option<Entered>,
    /// Between which two numbers above the highest some may have been refused. The second one is [`u64::MAX`] where that is not
    /// known, because of a restart.
    refused: Option<(u64, u64)>,
    /// When it published last, counted in batches.
    used: u64,
}

impl Entered {
    fn has(&self, id: u64) -> bool {
        id <= self.highest && self.gap_of(id).is_none()
    }

    fn gap_of(&self, id: u64) -> Option<usize> {
        let at = self.gaps.partition_point(|&(_, last)| last < id);
        self.gaps.get(at).filter(|(first, _)| *first <= id).map(|_| at)
    }

    /// Adds a number that is in a gap.
    fn fill(&mut self, id: u64) {
        let Some(at) = self.gap_of(id) else { return };
        let (first, last) = self.gaps[at];
        let rest = [(first, id.wrapping_sub(1), first < id), (id.wrapping_add(1), last, id < last)];
        let rest = rest.into_iter().filter(|(.., is_some)| *is_some).map(|(first, last, _)| (first, last));
        self.gaps.splice(at..=at, rest);
        self.give_up_lowest();
    }

    fn give_up_lowest(&mut self) {
        if self.gaps.len() > GAPS_MAX {
            self.gaps.remove(0);
        }
    }
}

impl Producer {
    /// A number enters that has not. Where the queue never `refuses`, nothing was refused of which nothing is known.
    fn enter(&mut self, id: u64, refuses: bool) {
        if let Some(entered) = self.entered.as_mut().filter(|entered| id <= entered.highest) {
            return entered.fill(id);
        }
        let refused = self.refused.filter(|(_, last)| refuses || *last != u64::MAX);
        let gap = refused.filter(|(first, _)| *first < id).map(|(first, _)| (first, id - 1));
        self.refused =
            self.refused.filter(|(_, last)| *last > id).map(|(first, last)| (first.max(id + 1), last));
        let mut gaps = self.entered.take().map(|entered| entered.gaps).unwrap_or_default();
        gaps.extend(gap);
        self.entered.insert(Entered { highest: id, gaps }).give_up_lowest();
    }

    /// A number is refused that has not entered.
    fn refuse(&mut self, id: u64) {
        if self.entered.as_ref().is_none_or(|entered| id > entered.highest) {
            let (first, last) = self.refused.unwrap_or((id, id));
            self.refused = Some((first.min(id), last.max(id)));
        }
    }
}

/// The publishers that a batch has changed, each with what had entered of it before.
pub(super) type Changed<'a> = Vec<(&'a [u8], Option<Entered>)>;

impl Producers {
    pub(super) fn begin_batch(&mut self) {
        self.batches += 1;
    }

    /// Whether a publisher's number has entered before.
    pub(super) fn has(&mut self, name: &[u8], id: u64) -> bool {
        self.by_name.get_mut(name).is_some_and(|producer| {
            producer.used = self.batches;
            producer.entered.as_ref().is_some_and(|entered| entered.has(id))
        })
    }

    /// A number enters that has not; `refuses` says whether the queue may refuse some.
    pub(super) fn enter<'a>(&mut self, name: &'a [u8], id: u64, refuses: bool, changed: &mut Changed<'a>) {
        self.make_known(name);
        let Some(producer) = self.by_name.get_mut(name) else { return };
        if !changed.iter().any(|(known, _)| *known == name) {
            changed.push((name, producer.entered.clone()));
        }
        producer.enter(id, refuses);
    }

    /// A number is refused that has not entered.
    pub(super) fn refuse(&mut self, name: &[u8], id: u64) {
        self.make_known(name);
        if let Some(producer) = self.by_name.get_mut(name) {
            producer.refuse(id);
        }
    }

    /// What the log must be told of a batch, in one record with it.
    pub(super) fn log(&mut self, changed: Changed<'_>, notes: &mut Vec<Note>) {
        for (name, before) in changed {
            let Some(entered) = self.by_name.get(name).and_then(|producer| producer.entered.as_ref()) else {
                continue;
            };
            notes.push(Note::entered(name, entered.highest, &entered.gaps));
            self.pending.push_back(Pending { name: name.into(), before, until: Lsn::MAX });
        }
    }

    /// What [`Self::log`] said last is in the log up to `until`, and the log is on disk up to `durable`.
    pub(super) fn logged(&mut self, until: Lsn, durable: Lsn) {
        for last in self.pending.iter_mut().rev().take_while(|last| last.until == Lsn::MAX) {
            last.until = until;
        }
        while self.pending.pop_front_if(|first| first.until <= durable).is_some() {}
    }

    /// Makes a place for a publisher that has none.
    fn make_known(&mut self, name: &[u8]) {
        if self.by_name.contains_key(name) {
            return;
        }
        if self.by_name.len() >= PRODUCERS_MAX {
            let quiet = self.by_name.iter().min_by_key(|(_, producer)| producer.used);
            if let Some(name) = quiet.map(|(name, _)| name.clone()) {
                self.names_bytes -= name.len();
                self.by_name.remove(&name);
            }
        }
        self.names_bytes += name.len();
        let refused = self.was_restarted.then_some((0, u64::MAX));
        let producer = Producer { entered: None, refused, used: self.batches };
        self.by_name.insert(name.into(), producer);
    }

    /// Takes over what a start found of a publisher.
    fn restore(&mut self, name: &[u8], highest: u64, gaps: Gaps) {
        self.make_known(name);
        let Some(producer) = self.by_name.get_mut(name) else { return };
        producer.entered = Some(Entered { highest, gaps });
        producer.refused = highest.checked_add(1).map(|first| (first, u64::MAX));
    }

    /// Bytes of memory they take.
    pub(super) fn memory_bytes(&self) -> usize {
        let gaps =
            |producer: &Producer| producer.entered.as_ref().map_or(0, |entered| entered.gaps.capacity());
        // Only queues that refuse have gaps.
        let gaps: usize = self.by_name.values().map(gaps).sum();
        self.by_name.capacity() * size_of::<(Box<[u8]>, Producer)>()
            + self.names_bytes
            + gaps * size_of::<(u64, u64)>()
            + self.pending.capacity() * size_of::<Pending>()
    }
}

impl<L: Copy, W: Clone> Queue<L, W> {
    /// What a checkpoint must remember of publishers when the log is on disk up to `durable`.
    pub(super) fn producer_notes(&self, durable: Lsn) -> Vec<Note> {
        let Some(producers) = &self.producers else { return Vec::new() };
        let mut before: HashMap<&[u8], Option<&Entered>, FixedState> = HashMap::default();
        for last in producers.pending.iter().rev().take_while(|last| last.until > durable) {
            before.insert(&last.name, last.before.as_ref());
        }
        let known = producers.by_name.iter().map(|(name, producer)| (&name[..], producer.entered.as_ref()));
        known
            .filter_map(|(name, entered)| {
                let entered = before.get(name).copied().unwrap_or(entered)?;
                Some(Note::entered(name, entered.highest, &entered.gaps))
            })
            .collect()
    }

    /// The queue was there before the broker was started.
    pub fn was_restarted(&mut self) {
        self.producers.get_or_insert_default().was_restarted = true;
    }

    /// Takes over what a start found, in the order of the keys, when all messages are in place.
    pub fn remember_producer(&mut self, key: &[u8], value: &[u8]) -> Recalled {
        if let Some((name, highest, gaps)) = Note::read_entered(key, value) {
            self.producers.get_or_insert_default().restore(name, highest, gaps);
            return Recalled::AsItSays;
        }
        let Some((name, id, first_seq, before)) = Note::read_producer(key, value) else {
            return Recalled::Unknown;
        };
        let is_there = first_seq < self.next_seq();
        if let Some(highest) = if is_there { Some(id) } else { before } {
            self.producers.get_or_insert_default().restore(name, highest, Vec::new());
        }
        match before {
            _ if is_there => Recalled::AsItSays,
            Some(before) => Recalled::NotThere(Note::producer(name, before, 0, None)),
            None => Recalled::NotThere(Note { key: key.to_vec(), value: Vec::new() }),
        }
    }
}

/// What a note has turned out to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Recalled {
    /// It has no form that is known.
    Unknown,
    /// True.
    AsItSays,
    /// Of a batch that is not there, which the log had in a record of its own once. The log must be told what is true before it is
    /// told of any message: the next one has the number of the one that is missing.
    NotThere(Note),
}
