//! Which messages of a batch that clients publish enter a queue that remembers more than what is in it: the numbers of
//! publishers, or the values of messages for longer than these are there.
//!
//! A message that has entered before is left out before it is in the queue or the log; the others may find no room. Both are
//! decided message by message, in order, because what one takes the next one has not.

use posthouse_model::chunk::Records;
use posthouse_model::ids::Lsn;
use posthouse_model::props::HeaderView;
use posthouse_model::record::Record;

use super::Queue;
use super::producers::Changed;
use crate::seen::{SeenValues, Stamp};
use crate::stream::notes::Note;
use crate::stream::publishers::publishing_of_record;
use crate::topology::seen::Seen;

/// Messages that are published together.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Their records.
    pub records: &'a [u8],
    /// Whether the log gets those that enter.
    pub logged: bool,
    /// Whether some may be refused: not those that were gathered before there was a limit.
    pub may_refuse: bool,
    /// When they came, in milliseconds since the Unix epoch.
    pub now_ms: u64,
}

/// What a queue makes of a batch. Positions are those within its records, ascending.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Admission {
    /// Messages that have entered before.
    pub entered_before: Vec<u32>,
    /// Messages for which there is no room.
    pub refused: Vec<u32>,
    /// What the log must be told in one record with the others.
    pub notes: Vec<Note>,
}

impl<L: Copy, W: Clone> Queue<L, W> {
    /// Decides on a batch, for queues that compare what is published. What is admitted must be added next; then
    /// [`Self::admitted`] must follow.
    pub fn admit(&mut self, batch: Batch<'_>, admission: &mut Admission) {
        if self.producers.is_none() && self.window.is_none() {
            return;
        }
        if let Some(producers) = &mut self.producers {
            producers.begin_batch();
        }
        let mut room = self.room_of_refusing().filter(|_| batch.may_refuse);
        let (mut changed, mut arrived) = (Changed::new(), Vec::new());
        for (position, record) in (0..).zip(Records::new(batch.records)) {
            let publishing = self.producers.as_ref().and_then(|_| publishing_of_record(&record));
            let seen = self.window.as_ref().and_then(|_| seen_of(&record));
            if self.has_entered(publishing, seen, batch.now_ms) {
                admission.entered_before.push(position);
                continue;
            }
            let fits = room.as_mut().is_none_or(|room| room.take(record.body().len() as u64));
            if !fits {
                admission.refused.push(position);
            }
            if let Some((producers, (name, id))) = self.producers.as_mut().zip(publishing) {
                match fits {
                    true => producers.enter(name, id, room.is_some(), &mut changed),
                    false => producers.refuse(name, id),
                }
            }
            if let Some(seen) = seen.filter(|_| fits) {
                arrived.extend(self.enter_window(seen, batch.now_ms));
            }
        }
        if batch.logged
            && let Some(producers) = &mut self.producers
        {
            producers.log(changed, &mut admission.notes);
        }
        if let Some(window) = &mut self.window {
            admission.notes.extend(settle(window, arrived, batch.logged));
        }
    }

    /// Whether a message has entered before: one with its number, or one with its value that came within the window or is
    /// there still.
    fn has_entered(&mut self, publishing: Option<(&[u8], u64)>, seen: Option<Seen>, now_ms: u64) -> bool {
        if let Some((producers, (name, id))) = self.producers.as_mut().zip(publishing)
            && producers.has(name, id)
        {
            return true;
        }
        let Some((window, Seen { value, .. })) = self.window.as_ref().zip(seen) else { return false };
        let is_known =
            window.is_known(value, now_ms) || self.chunks.values().is_some_and(|values| values.has(value));
        self.departure_counts.duplicate += u64::from(is_known);
        is_known
    }

    fn enter_window(&mut self, seen: Seen, now_ms: u64) -> Option<(u128, Stamp)> {
        let (window, size_and_time) = self.window.as_mut().zip(self.settings.seen_window())?;
        Some((seen.value, window.enter(seen, size_and_time, now_ms)?))
    }

    /// What was admitted last is in the log up to `until`, and the log is on disk up to `durable`.
    pub fn admitted(&mut self, until: Lsn, durable: Lsn) {
        if let Some(producers) = &mut self.producers {
            producers.logged(until, durable);
        }
        if let Some(window) = &mut self.window {
            window.logged(until, durable);
        }
    }

    /// What a checkpoint must remember beside the messages when the log is on disk up to `durable`.
    pub fn notes(&self, durable: Lsn, now_ms: u64) -> Vec<Note> {
        let mut notes = self.producer_notes(durable);
        if let Some(window) = &self.window {
            notes.extend(window.notes(durable, now_ms));
        }
        notes
    }

    /// Takes over the values that a start found, as keys and values of notes; how many have no form that is known. Which of them
    /// count, the queue's settings say.
    pub fn remember_values<'a>(&mut self, notes: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> usize {
        let everything = posthouse_model::exchange_args::SeenWindow { size: usize::MAX, ttl_ms: None };
        self.window.get_or_insert_default().remember(notes, everything, 0)
    }
}

fn seen_of(record: &Record<'_>) -> Option<Seen> {
    // What is stored was checked when it came.
    Seen::of(HeaderView::parse(record.header()).ok()?)
}

/// Says what became of values that were entered: they are here. What the log must be told of them.
fn settle(window: &mut SeenValues, arrived: Vec<(u128, Stamp)>, logged: bool) -> Option<Note> {
    if logged {
        return window.log(arrived);
    }
    arrived.into_iter().for_each(|(value, stamp)| window.arrived(value, stamp));
    None
}
