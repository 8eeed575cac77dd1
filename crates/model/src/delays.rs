//! Which messages came back and wait for a time: a small map from ranges of their numbers.
//!
//! Those that wait for the same time and follow each other are one entry, of some sixty bytes.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::Seq;

/// Consecutive messages that wait for the same time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DelayRange {
    /// The first one's number.
    pub first: Seq,
    /// The last one's number.
    pub last: Seq,
    /// When they are ready again, in milliseconds since the Unix epoch.
    pub due_ms: u64,
}

/// Which messages wait for which time, by ranges of their numbers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DelayMap {
    by_first: BTreeMap<Seq, (Seq, u64)>,
    due: BTreeSet<(u64, Seq)>,
}

impl DelayMap {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.by_first.is_empty()
    }

    /// When the first of them are ready.
    #[inline]
    pub fn next_due_ms(&self) -> Option<u64> {
        self.due.first().map(|&(due_ms, _)| due_ms)
    }

    /// The lowest of them.
    pub fn first(&self) -> Option<DelayRange> {
        self.by_first.first_key_value().map(|(&first, &(last, due_ms))| DelayRange { first, last, due_ms })
    }

    /// What lies in `first..=last`, in order.
    pub fn within(&self, first: Seq, last: Seq) -> impl Iterator<Item = DelayRange> + '_ {
        let start = self.by_first.range(..first).next_back().map_or(first, |(&before, _)| before);
        let touched = self.by_first.range(start..=last.max(start));
        touched.filter(move |&(&from, &(to, _))| to >= first && from <= last).map(
            move |(&from, &(to, due_ms))| DelayRange { first: from.max(first), last: to.min(last), due_ms },
        )
    }

    /// Adds a range, none of whose numbers may be there yet.
    pub fn insert(&mut self, DelayRange { mut first, mut last, due_ms }: DelayRange) {
        if let Some((&before, &(end, same))) = self.by_first.range(..first).next_back()
            && end + 1 == first
            && same == due_ms
        {
            self.remove(before);
            first = before;
        }
        if let Some(after) = last.checked_add(1)
            && let Some(&(end, same)) = self.by_first.get(&after)
            && same == due_ms
        {
            self.remove(after);
            last = end;
        }
        self.by_first.insert(first, (last, due_ms));
        self.due.insert((due_ms, first));
    }

    /// Lets each message of a range wait until then, if it does not wait for longer. Saying the same again, or less, changes
    /// nothing.
    pub fn raise(&mut self, to: DelayRange) {
        let mut next = to.first;
        for before in self.take_within(to.first, to.last) {
            if next < before.first {
                self.insert(DelayRange { first: next, last: before.first - 1, ..to });
            }
            self.insert(DelayRange { due_ms: before.due_ms.max(to.due_ms), ..before });
            let Some(after) = before.last.checked_add(1) else { return };
            next = after;
        }
        if next <= to.last {
            self.insert(DelayRange { first: next, ..to });
        }
    }

    fn remove(&mut self, first: Seq) -> Option<DelayRange> {
        let (last, due_ms) = self.by_first.remove(&first)?;
        self.due.remove(&(due_ms, first));
        Some(DelayRange { first, last, due_ms })
    }

    /// Takes the first range that is due.
    pub fn pop_due(&mut self, now_ms: u64) -> Option<DelayRange> {
        let &(_, first) = self.due.first().filter(|&&(due_ms, _)| due_ms <= now_ms)?;
        self.remove(first)
    }

    /// Takes what lies in `first..=last` away, in order.
    pub fn take_within(&mut self, first: Seq, last: Seq) -> Vec<DelayRange> {
        let taken: Vec<DelayRange> = self.within(first, last).collect();
        for range in &taken {
            let start = self.by_first.range(..=range.first).next_back().map(|(&start, _)| start);
            let Some(whole) = start.and_then(|start| self.remove(start)) else { continue };
            if whole.first < range.first {
                self.insert(DelayRange { last: range.first - 1, ..whole });
            }
            if whole.last > range.last {
                self.insert(DelayRange { first: range.last + 1, ..whole });
            }
        }
        taken
    }

    /// Bytes of memory it takes, about.
    pub fn memory_bytes(&self) -> usize {
        let of_entry = size_of::<(Seq, (Seq, u64))>() + size_of::<(u64, Seq)>();
        size_of::<Self>() + self.by_first.len() * of_entry * 3 / 2
    }
}

impl FromIterator<DelayRange> for DelayMap {
    fn from_iter<I: IntoIterator<Item = DelayRange>>(ranges: I) -> Self {
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

    #[test]
    fn the_last_number_of_all_is_one_like_any_other() {
        let mut map = DelayMap::default();
        map.raise(DelayRange { first: Seq::MAX, last: Seq::MAX, due_ms: 1 });
        map.raise(DelayRange { first: Seq::MAX - 1, last: Seq::MAX, due_ms: 2 });
        assert_eq!(map.first(), Some(DelayRange { first: Seq::MAX - 1, last: Seq::MAX, due_ms: 2 }));
    }

    #[derive(Clone, Debug)]
    enum Op {
        Insert(u64),
        Raise(u64),
        Take,
        PopDue(u64),
    }

    proptest! {
        #[test]
        fn agrees_with_an_entry_per_number(
            ops in prop::collection::vec(
                (0u64..40, 0u64..12, prop_oneof![
                    3 => (0u64..4).prop_map(Op::Insert),
                    2 => (0u64..4).prop_map(Op::Raise),
                    1 => Just(Op::Take),
                    1 => (0u64..4).prop_map(Op::PopDue),
                ]),
                1..60,
            )
        ) {
            let (mut map, mut plain) = (DelayMap::default(), Plain::<Seq, u64>::new());
            let flat = |ranges: Vec<DelayRange>| -> Vec<(Seq, u64)> {
                ranges.iter().flat_map(|range| (range.first..=range.last).map(|seq| (seq, range.due_ms))).collect()
            };
            for (first, more, op) in ops {
                let last = first + more;
                match op {
                    Op::Insert(due_ms) => {
                        if !plain.range(first..=last).any(|_| true) {
                            map.insert(DelayRange { first, last, due_ms });
                            plain.extend((first..=last).map(|seq| (seq, due_ms)));
                        }
                    }
                    Op::Raise(due_ms) => {
                        map.raise(DelayRange { first, last, due_ms });
                        for seq in first..=last {
                            let due = plain.entry(seq).or_insert(due_ms);
                            *due = due_ms.max(*due);
                        }
                    }
                    Op::Take => {
                        let expected: Vec<_> = plain.range(first..=last).map(|(&s, &d)| (s, d)).collect();
                        prop_assert_eq!(flat(map.within(first, last).collect()), expected.clone());
                        prop_assert_eq!(flat(map.take_within(first, last)), expected);
                        plain.retain(|seq, _| !(first..=last).contains(seq));
                    }
                    Op::PopDue(now_ms) => {
                        let mut due = Vec::new();
                        while let Some(range) = map.pop_due(now_ms) {
                            due.extend(flat(vec![range]));
                        }
                        due.sort_unstable();
                        let expected: Vec<_> =
                            plain.iter().filter(|(_, due)| **due <= now_ms).map(|(&s, &d)| (s, d)).collect();
                        prop_assert_eq!(due, expected);
                        plain.retain(|_, due| *due > now_ms);
                    }
                }
                let ranges: Vec<DelayRange> = map.within(0, 99).collect();
                for pair in ranges.windows(2) {
                    prop_assert!(pair[0].last + 1 < pair[1].first || pair[0].due_ms != pair[1].due_ms);
                }
                prop_assert_eq!(map.first(), ranges.first().copied());
                prop_assert_eq!(map.next_due_ms(), plain.values().min().copied());
                prop_assert_eq!(map.is_empty(), plain.is_empty());
                prop_assert_eq!(map.due.len(), ranges.len());
                prop_assert_eq!(flat(ranges), plain.iter().map(|(&s, &d)| (s, d)).collect::<Vec<_>>());
            }
        }
    }
}
