//! Publisher confirms of one channel: which publishes wait for which positions, and the acknowledgements due.

use std::collections::{BTreeSet, VecDeque};

use posthouse_amqp::method::{Method, write_method};
use posthouse_node::positions::Positions;

/// Publishes up to `through` wait for these positions.
#[derive(Clone, Copy, Debug)]
struct Pending {
    needs: Positions,
    through: u64,
}

/// The confirm state of a channel in confirm mode.
#[derive(Debug, Default)]
pub(crate) struct Confirms {
    published: u64,
    noted: u64,
    confirmed: u64,
    /// Publishes above `confirmed` that were answered with a `basic.nack`.
    nacked: BTreeSet<u64>,
    /// Everything up to here that is above `confirmed` is in `nacked`.
    nacked_through: u64,
    pending: VecDeque<Pending>,
}

impl Confirms {
    /// Counts a publish.
    #[inline]
    pub(crate) fn published(&mut self) {
        self.published += 1;
    }

    /// The number of the last publish.
    pub(crate) fn last_published(&self) -> u64 {
        self.published
    }

    /// A queue had no room for this publish: says so at once, before it could be acknowledged with others. As RabbitMQ
    /// does, with `multiple` when everything before was answered, and with `requeue`, which means nothing here.
    pub(crate) fn nack(&mut self, tag: u64, channel: u16, out: &mut Vec<u8>) {
        if tag <= self.confirmed || !self.nacked.insert(tag) {
            return;
        }
        let answered = self.confirmed.max(self.nacked_through);
        let multiple = tag == answered + 1;
        if multiple {
            self.nacked_through = tag;
        }
        write_method(out, channel, &Method::BasicNack { delivery_tag: tag, multiple, requeue: true });
    }

    /// Takes the last publish back: it was refused and must not be confirmed.
    pub(crate) fn refused(&mut self) {
        self.published -= 1;
    }

    /// After a batch was handed over: its publishes wait for `needs`.
    pub(crate) fn note_batch(&mut self, needs: Positions) {
        if self.published == self.noted {
            return;
        }
        self.noted = self.published;
        match self.pending.back_mut() {
            Some(last) if last.needs == needs => last.through = self.published,
            _ => self.pending.push_back(Pending { needs, through: self.published }),
        }
    }

    /// Writes one acknowledgement for everything whose positions have been passed.
    pub(crate) fn settle(&mut self, passed: Positions, channel: u16, out: &mut Vec<u8>) {
        let mut through = self.confirmed;
        while let Some(first) = self.pending.front().filter(|p| p.needs.passed_by(passed)) {
            through = first.through;
            self.pending.pop_front();
        }
        if through == self.confirmed {
            return;
        }
        let later = self.nacked.split_off(&(through + 1));
        let nacked = std::mem::replace(&mut self.nacked, later);
        let acked = through - self.confirmed - nacked.len() as u64;
        let last = (self.confirmed + 1..=through).rev().find(|tag| !nacked.contains(tag));
        self.confirmed = through;
        if let Some(delivery_tag) = last {
            // Those answered before are no longer the client's to acknowledge.
            write_method(out, channel, &Method::BasicAck { delivery_tag, multiple: acked > 1 });
        }
    }

    /// How many publishes are not confirmed yet.
    pub(crate) fn unconfirmed(&self) -> u64 {
        self.published - self.confirmed
    }

    /// What the oldest waiting publish waits for.
    pub(crate) fn waits_for(&self) -> Option<Positions> {
        self.pending.front().map(|pending| pending.needs)
    }
}

#[cfg(test)]
mod tests {
    use posthouse_model::ids::Lsn;

    use super::*;

    fn at(lsn: Lsn) -> Positions {
        Positions { lsn, ..Positions::default() }
    }

    fn acked(confirms: &mut Confirms, lsn: Lsn) -> Option<(u64, bool)> {
        let mut out = Vec::new();
        confirms.settle(at(lsn), 1, &mut out);
        let payload = out.get(7..out.len().max(8) - 1)?;
        match Method::decode(payload).unwrap() {
            Method::BasicAck { delivery_tag, multiple } => Some((delivery_tag, multiple)),
            other => panic!("expected basic.ack, got {other:?}"),
        }
    }

    #[test]
    fn one_cumulative_ack_per_sync() {
        let mut confirms = Confirms::default();
        for lsn in [10, 20, 30] {
            confirms.published();
            confirms.published();
            confirms.note_batch(at(lsn));
        }
        assert_eq!(acked(&mut confirms, 9), None);
        assert_eq!(acked(&mut confirms, 25), Some((4, true)));
        assert_eq!(acked(&mut confirms, 25), None);
        assert_eq!(acked(&mut confirms, 30), Some((6, true)));
    }

    #[test]
    fn a_single_publish_is_acked_singly() {
        let mut confirms = Confirms::default();
        confirms.published();
        confirms.note_batch(at(0));
        assert_eq!(acked(&mut confirms, 0), Some((1, false)));
    }

    #[test]
    fn what_was_nacked_is_not_acked() {
        let mut confirms = Confirms::default();
        let mut out = Vec::new();
        for _ in 0..5 {
            confirms.published();
        }
        for tag in [2, 4, 5, 5] {
            confirms.nack(tag, 1, &mut out);
        }
        let one = out.len() / 3;
        assert_eq!(
            Method::decode(&out[7..one - 1]).unwrap(),
            Method::BasicNack { delivery_tag: 2, multiple: false, requeue: true }
        );
        confirms.note_batch(at(10));
        assert_eq!(acked(&mut confirms, 10), Some((3, true)));
        confirms.published();
        out.clear();
        confirms.nack(6, 1, &mut out);
        assert_eq!(
            Method::decode(&out[7..out.len() - 1]).unwrap(),
            Method::BasicNack { delivery_tag: 6, multiple: true, requeue: true }
        );
        confirms.note_batch(at(20));
        assert_eq!(acked(&mut confirms, 20), None);
        confirms.published();
        confirms.note_batch(at(30));
        assert_eq!(acked(&mut confirms, 30), Some((7, false)));
    }

    #[test]
    fn nothing_published_waits_for_nothing() {
        let mut confirms = Confirms::default();
        confirms.note_batch(at(7));
        assert_eq!(confirms.waits_for(), None);
    }
}
