//! Verification: from the sequence numbers received to lost, duplicated and reordered counts.
//!
//! A *stream* is what one producer sent to one queue, numbered from 0. Each consumer keeps a [`Stream`] of what it saw;
//! where several consumers share a queue, theirs are merged before anything is called lost. Arrival in order costs an
//! increment; a bitmap is made only once something came out of order or went to somebody else.

/// A message this far beyond the last one is not one of ours: the bitmap stays below 128 MiB.
const MAX_GAP: u64 = 1 << 30;

/// What one consumer saw of one stream.
#[derive(Clone, Default, Debug)]
pub(super) struct Stream {
    /// Every sequence below was seen by this consumer.
    run: u64,
    /// Bit i: sequence `base + i` was seen, where `base` is `run` at the time the first bit was set.
    bits: Vec<u64>,
    /// 1 + the highest sequence seen.
    next: u64,
    duplicated: u64,
    reordered: u64,
    foreign: u64,
}

/// What is wrong with a stream, or with all of them.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, serde::Serialize)]
pub(super) struct Verdict {
    /// Different messages received.
    pub(super) received: u64,
    /// Published (and not refused), never received.
    pub(super) lost: u64,
    /// Received more than once: the extra times.
    pub(super) duplicated: u64,
    /// Came after a later one on the same consumer.
    pub(super) reordered: u64,
    /// Not what was sent: wrong filler, wrong length, or a sequence never published.
    pub(super) corrupted: u64,
}

impl Verdict {
    /// Whether everything arrived once, in order, unchanged.
    pub(super) fn is_clean(&self) -> bool {
        self.lost + self.duplicated + self.reordered + self.corrupted == 0
    }

    /// Adds another's counts.
    pub(super) fn add(&mut self, other: Self) {
        self.received += other.received;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.corrupted += other.corrupted;
    }
}

impl Stream {
    /// Takes note of a message.
    #[inline]
    pub(super) fn saw(&mut self, sequence: u64) {
        if sequence == self.run && self.bits.is_empty() {
            self.run += 1;
            self.next = self.run;
        } else {
            self.saw_irregular(sequence);
        }
    }

    fn saw_irregular(&mut self, sequence: u64) {
        let Some(offset) = sequence.checked_sub(self.run) else {
            self.duplicated += 1;
            return;
        };
        if sequence > self.next + MAX_GAP {
            self.foreign += 1;
            return;
        }
        let (index, bit) = (offset as usize / 64, 1 << (offset % 64));
        if self.bits.len() <= index {
            self.bits.resize(index + 1, 0);
        }
        if self.bits[index] & bit != 0 {
            self.duplicated += 1;
            return;
        }
        self.bits[index] |= bit;
        if sequence < self.next {
            self.reordered += 1;
        }
        self.next = self.next.max(sequence + 1);
    }

    fn has(&self, sequence: u64) -> bool {
        let Some(offset) = sequence.checked_sub(self.run) else { return true };
        self.bits.get(offset as usize / 64).is_some_and(|word| word & 1 << (offset % 64) != 0)
    }

    fn received(&self) -> u64 {
        self.run + self.bits.iter().map(|word| u64::from(word.count_ones())).sum::<u64>()
    }
}

/// The verdict on one stream from what each consumer of its queue saw. `published` is how many were sent and not
/// refused, `refused` how many the broker did not take; `None` when another process published.
pub(super) fn judge(seen: &[&Stream], published: Option<(u64, u64)>) -> Verdict {
    let high = seen.iter().map(|stream| stream.next).max().unwrap_or(0);
    let each: u64 = seen.iter().map(|stream| stream.received()).sum();
    let received = match seen {
        [one] => one.received(),
        // Sequences below every run were seen by all, that is, duplicated; the rest is looked at one by one.
        many => (0..high).filter(|sequence| many.iter().any(|stream| stream.has(*sequence))).count() as u64,
    };
    let sum = |count: fn(&Stream) -> u64| seen.iter().map(|stream| count(stream)).sum::<u64>();
    let (accepted, invented) = match published {
        Some((accepted, refused)) => (accepted, high.saturating_sub(accepted + refused)),
        None => (high, 0),
    };
    Verdict {
        received,
        lost: accepted.saturating_sub(received),
        duplicated: sum(|stream| stream.duplicated) + (each - received),
        reordered: sum(|stream| stream.reordered),
        corrupted: sum(|stream| stream.foreign) + invented,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stream(sequences: &[u64]) -> Stream {
        let mut stream = Stream::default();
        sequences.iter().for_each(|s| stream.saw(*s));
        stream
    }

    fn verdict(consumers: &[&[u64]], published: u64) -> (u64, u64, u64, u64, u64) {
        let streams: Vec<Stream> = consumers.iter().map(|sequences| stream(sequences)).collect();
        let v = judge(&streams.iter().collect::<Vec<_>>(), Some((published, 0)));
        (v.received, v.lost, v.duplicated, v.reordered, v.corrupted)
    }

    #[test]
    fn received_lost_duplicated_reordered_corrupted() {
        for (consumers, published, expected) in [
            (&[&[0, 1, 2][..]][..], 3, (3, 0, 0, 0, 0)),
            (&[&[0, 1, 2]], 5, (3, 2, 0, 0, 0)),
            (&[&[0, 2]], 3, (2, 1, 0, 0, 0)),
            (&[&[0, 1, 1, 2, 0]], 3, (3, 0, 2, 0, 0)),
            (&[&[0, 2, 1, 3]], 4, (4, 0, 0, 1, 0)),
            (&[&[1, 1]], 2, (1, 1, 1, 0, 0)),
            (&[&[0, 2, 4], &[1, 3, 5]], 6, (6, 0, 0, 0, 0)),
            (&[&[0, 2, 4], &[1, 2, 5]], 6, (5, 1, 1, 0, 0)),
            (&[&[0, 1, 2], &[0]], 3, (3, 0, 1, 0, 0)),
            (&[&[0, 1, 2]], 2, (3, 0, 0, 0, 1)),
            (&[&[0, 1 << 40]], 1, (1, 0, 0, 0, 1)),
            (&[&[]], 0, (0, 0, 0, 0, 0)),
            (&[], 2, (0, 2, 0, 0, 0)),
        ] {
            assert_eq!(verdict(consumers, published), expected, "{consumers:?} of {published}");
        }
    }

    #[test]
    fn refused_messages_are_not_lost() {
        let seen = stream(&[0, 1, 4]);
        let verdict = judge(&[&seen], Some((3, 2)));
        assert!(verdict.is_clean() && verdict.received == 3, "{verdict:?}");
    }

    #[test]
    fn somebody_elses_messages_are_complete_up_to_the_highest() {
        assert_eq!(judge(&[&stream(&[0, 1, 3])], None).lost, 1);
        assert!(judge(&[&stream(&[0, 1, 2])], None).is_clean());
    }

    proptest! {
        #[test]
        fn counts_agree_with_a_set(sequences in prop::collection::vec((0u64..200, 0usize..3), 0..300)) {
            let mut streams = vec![Stream::default(); 3];
            let mut set = std::collections::BTreeSet::new();
            for (sequence, consumer) in &sequences {
                streams[*consumer].saw(*sequence);
                set.insert(*sequence);
            }
            let verdict = judge(&streams.iter().collect::<Vec<_>>(), Some((200, 0)));
            prop_assert_eq!(verdict.received, set.len() as u64);
            prop_assert_eq!(verdict.lost, 200 - set.len() as u64);
            prop_assert_eq!(verdict.duplicated, (sequences.len() - set.len()) as u64);
            prop_assert_eq!(verdict.corrupted, 0);
        }
    }
}
