//! Publisher confirms of one channel: which publishes wait for which positions, and the acknowledgements due.

use std::collections::VecDeque;

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
    pending: VecDeque<Pending>,
}

impl Confirms {
    /// Counts a publish.
    #[inline]
    pub(crate) fn published(&mut self) {
        self.published += 1;
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
        if through > self.confirmed {
            let multiple = through - self.confirmed > 1;
            self.confirmed = through;
            write_method(out, channel, &Method::BasicAck { delivery_tag: through, multiple });
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
    fn nothing_published_waits_for_nothing() {
        let mut confirms = Confirms::default();
        confirms.note_batch(at(7));
        assert_eq!(confirms.waits_for(), None);
    }
}
