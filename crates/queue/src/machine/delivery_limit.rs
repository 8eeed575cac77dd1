//! The delivery limit: messages that come back too often leave.
//!
//! A queue with a limit counts, of each message that came back, how often it was handed out and how many of these
//! deliveries failed. With a limit of n a message is handed out n + 1 times and leaves when the last one fails.

use posthouse_model::attempts::AttemptRange;
use posthouse_model::ids::Seq;

use super::Queue;
use super::delays::Back;
use super::departures::Reason;

impl<L: Copy, W: Clone> Queue<L, W> {
    /// What is known of messages of this level that came back, in order; nothing of those that never did, or without a
    /// limit.
    pub fn attempts(&self) -> impl Iterator<Item = AttemptRange> + '_ {
        self.attempts.iter()
    }

    /// Appends to `attempts` what is known of `first..=last`, which are of one level.
    pub fn note_attempts(&self, first: Seq, last: Seq, attempts: &mut Vec<AttemptRange>) {
        let line = match self.level_of(first) {
            Some(level) => self.level(level),
            None => Some(self),
        };
        attempts.extend(line.into_iter().flat_map(|line| line.attempts.within(first, last)));
    }

    /// Takes over what was known before a restart, if there is a limit; of messages that are gone nothing.
    pub fn restore_attempts(&mut self, attempts: impl IntoIterator<Item = AttemptRange>) {
        if self.settings.delivery_limit().is_none() {
            return;
        }
        for range in attempts {
            match self.level_of(range.first) {
                Some(level) => self.in_level(level, |queue| queue.restore_range(range)),
                None => self.restore_range(range),
            }
        }
    }

    fn restore_range(&mut self, range: AttemptRange) {
        let mut index = self.chunks.index_at_or_after(range.first);
        while let Some(held) = self.chunks.get(index).filter(|held| held.first_seq <= range.last) {
            let mut from = range.first.saturating_sub(held.first_seq) as u32;
            let to = (range.last - held.first_seq).min(Seq::from(held.span - 1)) as u32;
            while let Some((first, last)) = held.next_live(from).filter(|&(first, _)| first <= to) {
                let last = last.min(to);
                let (first_seq, last_seq) =
                    (held.first_seq + Seq::from(first), held.first_seq + Seq::from(last));
                self.attempts.raise(AttemptRange { first: first_seq, last: last_seq, ..range });
                from = last + 1;
            }
            index += 1;
        }
    }

    /// Counts that `first..=last` came back. Those that have done so too often are appended to `spent`, the others are
    /// put back.
    pub(super) fn count_attempt(
        &mut self,
        first: Seq,
        last: Seq,
        back: Back,
        limit: u64,
        spent: &mut Vec<(Seq, Seq)>,
    ) {
        let failed = back.why.counts();
        self.attempts.add(first, last, failed);
        let mut next = first;
        while next <= last {
            let (attempts, end) = self.attempts.run_at(next, last);
            if failed && u64::from(attempts.failed) > limit {
                spent.push((next, end));
            } else {
                self.put_back(AttemptRange { first: next, last: end, attempts }, back);
            }
            next = end + 1;
        }
    }

    /// Lets messages leave that were counted as ready.
    pub(super) fn drop_spent(&mut self, spent: &[(Seq, Seq)]) {
        for &(first, last) in spent {
            self.ready -= last - first + 1;
            self.ready_bytes -= self.body_bytes(first, last);
            self.depart(first, last, Reason::DeliveryLimit);
        }
    }
}
