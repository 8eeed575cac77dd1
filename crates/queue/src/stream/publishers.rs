//! Publishers that number what they publish, so that what they publish twice is kept once.
//!
//! A message names its publisher in the header `x-stream-publisher-reference` (a long string of up to 255 bytes) and
//! has an ascending number of that publisher in `x-stream-publishing-id` (an integer, not below 0). A message whose
//! number is not above the highest one of its publisher was kept before, and is not kept again.
//!
//! The numbers are in the messages, so what a crash leaves of the log says what it leaves of them. Only of messages
//! that have left the log the stream must remember the highest number, and no higher one: that of a message which a
//! crash may still lose would deny it to the publisher that sends it again. So the highest numbers of messages that no
//! segment has yet are kept apart.

use std::collections::VecDeque;

use hashbrown::HashMap;
use posthouse_model::chunk::{Chunk, Records};
use posthouse_model::ids::Seq;
use posthouse_model::props::HeaderView;
use posthouse_model::raw_table::{RawTable, RawValue};
use posthouse_model::record::Record;

use super::Stream;
use super::notes::Note;

/// The header with a publisher's name.
pub const REFERENCE: &[u8] = b"x-stream-publisher-reference";

/// The header with its number of the message.
pub const PUBLISHING_ID: &[u8] = b"x-stream-publishing-id";

/// Publishers that a stream remembers; those that have published nothing for longest are forgotten.
const PUBLISHERS_MAX: usize = 1000;

/// Bytes of a publisher's name.
pub const REFERENCE_BYTES_MAX: usize = 255;

/// The highest number of a publisher, and the message that had it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Highest {
    id: u64,
    seq: Seq,
}

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub(super) struct Publishers {
    /// Of each the highest number below what is in segments, if any, and those above batch by batch; never empty.
    by_name: HashMap<Box<[u8]>, VecDeque<Highest>, foldhash::fast::FixedState>,
}

/// A publisher as it is shown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KnownPublisher {
    /// Its name.
    pub name: Box<[u8]>,
    /// The highest number it has published.
    pub last_id: u64,
}

/// The publisher and its number that a message's headers name; `None` when they name none or make no sense.
pub fn publishing_of(headers: RawTable<'_>) -> Option<(&[u8], u64)> {
    let RawValue::LongStr(name) = headers.get(REFERENCE)? else { return None };
    let id = match headers.get(PUBLISHING_ID)? {
        RawValue::I8(v) => u64::try_from(v).ok(),
        RawValue::U8(v) => Some(v.into()),
        RawValue::I16(v) => u64::try_from(v).ok(),
        RawValue::U16(v) => Some(v.into()),
        RawValue::I32(v) => u64::try_from(v).ok(),
        RawValue::U32(v) => Some(v.into()),
        RawValue::I64(v) => u64::try_from(v).ok(),
        _ => None,
    };
    Some((name, id?)).filter(|(name, _)| !name.is_empty() && name.len() <= REFERENCE_BYTES_MAX)
}

pub(crate) fn publishing_of_record<'a>(record: &Record<'a>) -> Option<(&'a [u8], u64)> {
    publishing_of(HeaderView::parse(record.header()).ok()?.headers()?)
}

impl Publishers {
    pub(super) fn restore(&mut self, name: &[u8], id: u64, seq: Seq) {
        self.by_name.insert(name.into(), VecDeque::from([Highest { id, seq }]));
    }

    /// Notes the publishers of messages that a restart found in the log.
    pub(super) fn restore_from(&mut self, first_seq: Seq, chunk: &Chunk, covered: Seq) {
        for record in chunk.records() {
            let seq = first_seq + Seq::from(record.delta());
            if seq >= covered
                && let Some((name, id)) = publishing_of_record(&record)
            {
                self.admit(name, Highest { id, seq }, first_seq, covered);
            }
        }
    }

    /// Whether a message is new; it is then noted. Messages from `batch` on are in one chunk, so only the last of them
    /// matters; those below `covered` are in segments.
    fn admit(&mut self, name: &[u8], new: Highest, batch: Seq, covered: Seq) -> bool {
        let Some(recent) = self.by_name.get_mut(name) else {
            self.forget_one();
            self.by_name.insert(name.into(), VecDeque::from([new]));
            return true;
        };
        match recent.back_mut() {
            Some(last) if last.id >= new.id => return false,
            Some(last) if last.seq >= batch => {
                *last = new;
                return true;
            }
            _ => {}
        }
        while recent.get(1).is_some_and(|second| second.seq < covered) {
            recent.pop_front();
        }
        recent.push_back(new);
        true
    }

    fn forget_one(&mut self) {
        if self.by_name.len() < PUBLISHERS_MAX {
            return;
        }
        let last = |recent: &VecDeque<Highest>| recent.back().map_or(0, |highest| highest.seq);
        let quiet = self.by_name.iter().min_by_key(|(_, recent)| last(recent)).map(|(name, _)| name.clone());
        if let Some(name) = quiet {
            self.by_name.remove(&name);
        }
    }

    /// What must be remembered of messages below `covered`.
    pub(super) fn notes(&self, covered: Seq) -> impl Iterator<Item = Note> + '_ {
        self.by_name.iter().filter_map(move |(name, recent)| {
            let highest = recent.iter().rev().find(|highest| highest.seq < covered)?;
            Some(Note::publisher(name, highest.id, highest.seq))
        })
    }
}

impl<L: Copy, W: Clone> Stream<L, W> {
    /// Appends to `kept_before` the positions within `records` of messages that their publishers have published
    /// before. The others are noted as published: they must be added next. Where nothing is `logged` nothing comes
    /// back after a crash either.
    pub fn admit(&mut self, records: &[u8], logged: bool, kept_before: &mut Vec<u32>) {
        let (first, covered) = (self.next_seq(), if logged { self.covered() } else { Seq::MAX });
        let mut next = first;
        for (position, record) in (0..).zip(Records::new(records)) {
            let is_new = publishing_of_record(&record).is_none_or(|(name, id)| {
                self.publishers.admit(name, Highest { id, seq: next }, first, covered)
            });
            if is_new {
                next += 1;
            } else {
                kept_before.push(position);
            }
        }
    }

    /// The publishers that are remembered, by name.
    pub fn known_publishers(&self) -> Vec<KnownPublisher> {
        let known = self.publishers.by_name.iter().filter_map(|(name, recent)| {
            Some(KnownPublisher { name: name.clone(), last_id: recent.back()?.id })
        });
        let mut known: Vec<_> = known.collect();
        known.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        known
    }
}
