//! Which messages of a batch that clients publish enter a queue that remembers more than what is in it.
//!
//! A message that has entered before is left out before it is in the queue or the log; the others may find no room. Both are
//! decided message by message, in order, because what one takes the next one has not.

use posthouse_model::chunk::Records;
use posthouse_model::ids::Lsn;

use super::Queue;
use super::producers::Changed;
use crate::stream::notes::Note;
use crate::stream::publishers::publishing_of_record;

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
    /// Decides on a batch, for queues that compare what is published. What is admitted must be added next, and is in the log
    /// if it is `logged`; then [`Self::admitted`] must follow. Nothing is refused unless it `may_refuse`.
    pub fn admit(&mut self, records: &[u8], logged: bool, may_refuse: bool, admission: &mut Admission) {
        let mut room = self.room().filter(|_| may_refuse);
        let Some(producers) = &mut self.producers else { return };
        producers.begin_batch();
        let mut changed = Changed::new();
        for (position, record) in (0..).zip(Records::new(records)) {
            let publishing = publishing_of_record(&record);
            if publishing.is_some_and(|(name, id)| producers.has(name, id)) {
                admission.entered_before.push(position);
                continue;
            }
            let fits = room.as_mut().is_none_or(|room| room.take(record.body().len() as u64));
            if !fits {
                admission.refused.push(position);
            }
            match publishing {
                Some((name, id)) if fits => producers.enter(name, id, room.is_some(), &mut changed),
                Some((name, id)) => producers.refuse(name, id),
                None => {}
            }
        }
        if logged {
            producers.log(changed, &mut admission.notes);
        }
    }

    /// What was admitted last is in the log up to `until`, and the log is on disk up to `durable`.
    pub fn admitted(&mut self, until: Lsn, durable: Lsn) {
        if let Some(producers) = &mut self.producers {
            producers.logged(until, durable);
        }
    }
}
