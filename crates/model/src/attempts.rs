//! How often messages were handed out and came back: a small map from ranges of their numbers.
//!
//! Kept of messages that came back, and of no others. What comes back together stays one entry for as long as its
//! messages share their fate.

use std::collections::BTreeMap;

use crate::ids::Seq;

/// What became of earlier deliveries of a message.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Attempts {
    /// How many of them failed: `x-delivery-count`.
    pub failed: u32,
    /// How many there were: `x-acquired-count`.
    pub acquired: u32,
}

/// Why a message came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Return {
    /// Whoever had it gave it back with `basic.nack` or `basic.recover`.
    Nacked,
    /// Whoever had it rejected it with `basic.reject`, or is gone.
    Failed,
    /// It was not for them, or they were too slow.
    Released,
}

impl Return {
    /// Whether it counts as a failed delivery.
    pub fn counts(self) -> bool {
        self != Self::Released
    }
}

/// Consecutive messages with the same attempts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AttemptRange {
    /// The first one's number.
    pub first: Seq,
    /// The last one's number.
    pub last: Seq,
    /// Each one's attempts.
    pub attempts: Attempts,
}

/// Attempts by ranges of numbers; those in no range have none.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AttemptMap {
    by_first: BTreeMap<Seq, (Seq, Attempts)>,
}

impl AttemptMap {
    /// Whether nothing ever came back, or all of that is gone.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.by_first.is_empty()
    }

    /// About as many bytes of memory as it takes.
    pub fn memory_bytes(&self) -> usize {
        const NODE_SHARE: usize = 16;
        self.by_first.len() * (size_of::<(Seq, (Seq, Attempts))>() + NODE_SHARE)
    }

    /// The attempts of `first`, and the last number, `last` at most, up to which they are the same.
    pub fn run_at(&self, first: Seq, last: Seq) -> (Attempts, Seq) {
        if let Some((_, &(end, attempts))) = self.by_first.range(..=first).next_back()
            && end >= first
        {
            return (attempts, end.min(last));
        }
        match self.by_first.range(first..=last).next() {
            Some((&next, _)) => (Attempts::default(), next - 1),
            None => (Attempts::default(), last),
        }
    }

    /// One more attempt for each of `first..=last`.
    pub fn add(&mut self, first: Seq, last: Seq, failed: bool) {
        self.change(first, last, |before| Attempts {
            failed: before.failed.saturating_add(u32::from(failed)),
            acquired: before.acquired.saturating_add(1),
        });
    }

    /// Raises the attempts of a range to what is said of it. Saying the same again, or less, changes nothing.
    pub fn raise(&mut self, to: AttemptRange) {
        let Attempts { failed, acquired } = to.attempts;
        self.change(to.first, to.last, |before| Attempts {
            failed: before.failed.max(failed),
            acquired: before.acquired.max(acquired),
        });
    }

    /// Forgets `first..=last`.
    pub fn forget(&mut self, first: Seq, last: Seq) {
        if self.is_empty() {
            return;
        }
        self.cut_before(first);
        self.cut_before(last.saturating_add(1));
        while let Some((&inside, _)) = self.by_first.range(first..=last).next() {
            self.by_first.remove(&inside);
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.by_first.clear();
    }

    /// All ranges in order.
    pub fn iter(&self) -> impl Iterator<Item = AttemptRange> + '_ {
        self.by_first.iter().map(|(&first, &(last, attempts))| AttemptRange { first, last, attempts })
    }

    /// What lies in `first..=last`, in order; numbers without attempts are left out.
    pub fn within(&self, first: Seq, last: Seq) -> impl Iterator<Item = AttemptRange> + '_ {
        let start = self.by_first.range(..first).next_back().map_or(first, |(&before, _)| before);
        let touched = self.by_first.range(start..=last.max(start));
        touched.filter(move |&(&from, &(to, _))| to >= first && from <= last).map(
            move |(&from, &(to, attempts))| AttemptRange {
                first: from.max(first),
                last: to.min(last),
                attempts,
            },
        )
    }

    fn change(&mut self, first: Seq, last: Seq, new: impl Fn(Attempts) -> Attempts) {
        let mut at = first;
        let mut changed = Vec::new();
        loop {
            let (attempts, end) = self.run_at(at, last);
            changed.push(AttemptRange { first: at, last: end, attempts: new(attempts) });
            if end == last {
                break;
            }
            at = end + 1;
        }
        self.forget(first, last);
        for range in changed.into_iter().filter(|range| range.attempts != Attempts::default()) {
            self.insert(range);
        }
    }

    /// Adds a range none of whose numbers has an entry, as a part of its neighbours where they are the same.
    fn insert(&mut self, AttemptRange { mut first, mut last, attempts }: AttemptRange) {
        if let Some((&before, &(end, same))) = self.by_first.range(..first).next_back()
            && end + 1 == first
            && same == attempts
        {
            first = before;
        }
        if let Some(&(end, same)) = last.checked_add(1).and_then(|after| self.by_first.get(&after))
            && same == attempts
        {
            self.by_first.remove(&(last + 1));
            last = end;
        }
        self.by_first.insert(first, (last, attempts));
    }

    /// Makes `seq` the first number of its range.
    fn cut_before(&mut self, seq: Seq) {
        if let Some((_, run)) = self.by_first.range_mut(..seq).next_back()
            && run.0 >= seq
        {
            let (last, attempts) = *run;
            run.0 = seq - 1;
            self.by_first.insert(seq, (last, attempts));
        }
    }
}

impl FromIterator<AttemptRange> for AttemptMap {
    fn from_iter<I: IntoIterator<Item = AttemptRange>>(ranges: I) -> Self {
        let mut map = Self::default();
        ranges.into_iter().for_each(|range| map.raise(range));
        map
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap as Plain;

    use proptest::prelude::*;

    use super::*;

    fn range(first: Seq, last: Seq, failed: u32, acquired: u32) -> AttemptRange {
        AttemptRange { first, last, attempts: Attempts { failed, acquired } }
    }

    #[test]
    fn what_comes_back_together_is_one_entry() {
        let mut map = AttemptMap::default();
        map.add(10, 1_000_000, true);
        map.add(5, 9, true);
        assert_eq!(map.iter().collect::<Vec<_>>(), [range(5, 1_000_000, 1, 1)]);
        map.add(20, 20, false);
        assert_eq!(
            map.iter().collect::<Vec<_>>(),
            [range(5, 19, 1, 1), range(20, 20, 1, 2), range(21, 1_000_000, 1, 1)]
        );
        assert_eq!(map.within(20, 30).collect::<Vec<_>>(), [range(20, 20, 1, 2), range(21, 30, 1, 1)]);
        map.forget(0, 20);
        assert_eq!(map.iter().collect::<Vec<_>>(), [range(21, 1_000_000, 1, 1)]);
        map.forget(21, 1_000_000);
        assert!(map.is_empty());
    }

    #[test]
    fn runs_end_where_attempts_change() {
        let mut map = AttemptMap::default();
        map.add(10, 19, true);
        assert_eq!(map.run_at(0, 5), (Attempts::default(), 5));
        assert_eq!(map.run_at(0, 99), (Attempts::default(), 9));
        assert_eq!(map.run_at(12, 99), (Attempts { failed: 1, acquired: 1 }, 19));
        assert_eq!(map.run_at(12, 15), (Attempts { failed: 1, acquired: 1 }, 15));
        assert_eq!(map.run_at(20, Seq::MAX), (Attempts::default(), Seq::MAX));
    }

    #[derive(Clone, Debug)]
    enum Op {
        Add(bool),
        Raise(u32, u32),
        Forget,
    }

    proptest! {
        #[test]
        fn agrees_with_an_entry_per_number(
            ops in prop::collection::vec(
                ((0u64..40), (0u64..12), prop_oneof![
                    any::<bool>().prop_map(Op::Add),
                    ((0u32..3), (0u32..3)).prop_map(|(f, a)| Op::Raise(f, a)),
                    Just(Op::Forget),
                ]),
                1..40,
            )
        ) {
            let (mut map, mut plain) = (AttemptMap::default(), Plain::<Seq, Attempts>::new());
            for (first, more, op) in ops {
                let last = first + more;
                for seq in first..=last {
                    let before = plain.get(&seq).copied().unwrap_or_default();
                    let after = match op {
                        Op::Add(failed) => Attempts {
                            failed: before.failed + u32::from(failed),
                            acquired: before.acquired + 1,
                        },
                        Op::Raise(failed, acquired) => Attempts {
                            failed: before.failed.max(failed),
                            acquired: before.acquired.max(acquired),
                        },
                        Op::Forget => Attempts::default(),
                    };
                    plain.insert(seq, after);
                }
                match op {
                    Op::Add(failed) => map.add(first, last, failed),
                    Op::Raise(failed, acquired) => map.raise(range(first, last, failed, acquired)),
                    Op::Forget => map.forget(first, last),
                }
                plain.retain(|_, attempts| *attempts != Attempts::default());
                let flat: Vec<_> = map.iter()
                    .flat_map(|range| (range.first..=range.last).map(move |seq| (seq, range.attempts)))
                    .collect();
                prop_assert_eq!(&flat, &plain.iter().map(|(&seq, &attempts)| (seq, attempts)).collect::<Vec<_>>());
                let neighbours: Vec<_> = map.iter().collect();
                for pair in neighbours.windows(2) {
                    prop_assert!(pair[0].last + 1 < pair[1].first || pair[0].attempts != pair[1].attempts);
                }
            }
        }
    }
}
