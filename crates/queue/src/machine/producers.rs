//! Publishers that number what they publish, so that what they publish twice enters a queue once.
//!
//! As for [streams](crate::stream::publishers), a message names its publisher and has an ascending number of it in its
//! headers; a message whose number is not above the highest one of its publisher has entered before. Here messages leave,
//! so the numbers are remembered apart from them: with every batch that raises one, the log gets a note of it, right before
//! the batch. The note says which number the batch begins with in the queue, and what was the publisher's highest before.
//! Should a crash cut the log between the two, the batch is not there, and what was before counts.
//!
//! A checkpoint says only what is on disk by then: what the log has not on disk yet is undone in what is told to it. The log has
//! the notes of that, should it come to be there.
//!
//! Publishers that have published nothing for longest are forgotten when there are too many.

use std::collections::VecDeque;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use posthouse_model::chunk::Records;
use posthouse_model::ids::Lsn;

use super::Queue;
use crate::stream::notes::Note;
use crate::stream::publishers::publishing_of_record;

/// Publishers that a queue remembers.
pub const PRODUCERS_MAX: usize = 1000;

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub(super) struct Producers {
    by_name: HashMap<Box<[u8]>, Producer, FixedState>,
    names_bytes: usize,
    batches: u64,
    /// What the log is told of and does not have on disk yet, as far as is known; the oldest first.
    pending: VecDeque<Pending>,
}

/// A publisher's number that a batch has raised.
#[derive(Clone, Debug)]
struct Pending {
    name: Box<[u8]>,
    before: Option<u64>,
    /// The log's position after the batch; [`Lsn::MAX`] until that is known.
    until: Lsn,
}

#[derive(Clone, Copy, Debug)]
struct Producer {
    /// The highest number it has published.
    highest: u64,
    /// When it published last, counted in batches.
    used: u64,
}

/// A publisher whose number a batch raises.
struct Raised<'a> {
    name: &'a [u8],
    before: Option<u64>,
    highest: u64,
}

impl Producers {
    /// Notes a number as the highest of its publisher.
    fn set(&mut self, name: &[u8], highest: u64) {
        let producer = Producer { highest, used: self.batches };
        if let Some(known) = self.by_name.get_mut(name) {
            *known = producer;
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
        self.by_name.insert(name.into(), producer);
    }

    /// Bytes of memory they take.
    pub(super) fn memory_bytes(&self) -> usize {
        self.by_name.capacity() * size_of::<(Box<[u8]>, Producer)>()
            + self.names_bytes
            + self.pending.capacity() * size_of::<Pending>()
    }
}

impl<L: Copy, W: Clone> Queue<L, W> {
    /// Appends to `entered_before` the positions within `records` of messages that their publishers have published before.
    /// The others are noted as published: they must be added to level 0 next, in one batch. What the log must be told right
    /// before that batch is appended to `notes` if it is `logged`; then [`Self::admitted`] must follow. Nothing in queues that
    /// are not told to.
    pub fn admit(
        &mut self,
        records: &[u8],
        logged: bool,
        entered_before: &mut Vec<u32>,
        notes: &mut Vec<Note>,
    ) {
        let next_seq = self.next_seq();
        let Some(producers) = &mut self.producers else { return };
        producers.batches += 1;
        let mut all_raised: Vec<Raised<'_>> = Vec::new();
        for (position, record) in (0..).zip(Records::new(records)) {
            let Some((name, id)) = publishing_of_record(&record) else { continue };
            let before = producers.by_name.get_mut(name).map(|producer| {
                producer.used = producers.batches;
                producer.highest
            });
            if before.is_some_and(|before| before >= id) {
                entered_before.push(position);
                continue;
            }
            producers.set(name, id);
            match all_raised.iter_mut().find(|raised| raised.name == name) {
                Some(raised) => raised.highest = id,
                None => all_raised.push(Raised { name, before, highest: id }),
            }
        }
        if !logged {
            return;
        }
        for Raised { name, before, highest } in all_raised {
            notes.push(Note::producer(name, highest, next_seq, before));
            producers.pending.push_back(Pending { name: name.into(), before, until: Lsn::MAX });
        }
    }

    /// What was admitted last is in the log up to `until`, and the log is on disk up to `durable`.
    pub fn admitted(&mut self, until: Lsn, durable: Lsn) {
        let Some(Producers { pending, .. }) = self.producers.as_deref_mut() else { return };
        pending
            .iter_mut()
            .rev()
            .take_while(|last| last.until == Lsn::MAX)
            .for_each(|last| last.until = until);
        while pending.pop_front_if(|first| first.until <= durable).is_some() {}
    }

    /// What a checkpoint must remember when the log is on disk up to `durable`.
    pub fn producer_notes(&self, durable: Lsn) -> Vec<Note> {
        let Some(producers) = &self.producers else { return Vec::new() };
        let mut before: HashMap<&[u8], Option<u64>, FixedState> = HashMap::default();
        for last in producers.pending.iter().rev().take_while(|last| last.until > durable) {
            before.insert(&last.name, last.before);
        }
        let known = producers.by_name.iter().map(|(name, producer)| (&name[..], producer));
        known
            .filter_map(|(name, producer)| {
                let highest = before.get(name).copied().unwrap_or(Some(producer.highest))?;
                // There is one: it published a message.
                Some(Note::producer(name, highest, 0, None))
            })
            .collect()
    }

    /// Takes over what a start found, when all messages are in place.
    pub fn remember_producer(&mut self, key: &[u8], value: &[u8]) -> Recalled {
        let Some((name, id, first_seq, before)) = Note::read_producer(key, value) else {
            return Recalled::Unknown;
        };
        let is_there = first_seq < self.next_seq();
        if let Some(highest) = if is_there { Some(id) } else { before } {
            self.producers.get_or_insert_default().set(name, highest);
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
    /// Of a batch that is not there. The log must be told what is true before it is told of any message: the next one has the
    /// number of the one that is missing.
    NotThere(Note),
}
