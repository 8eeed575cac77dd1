//! A small ordered set of sequence numbers, kept as inclusive ranges.

use std::collections::BTreeMap;

use posthouse_model::ids::Seq;

/// Sequence numbers as disjoint, non-adjacent inclusive ranges.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SeqRanges {
    by_first: BTreeMap<Seq, Seq>,
    count: u64,
}

impl SeqRanges {
    /// How many numbers are in the set.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Bytes of memory it takes, as far as they grow with it.
    pub fn memory_bytes(&self) -> usize {
        // Nodes of such a tree are two thirds full on average.
        self.by_first.len() * size_of::<(Seq, Seq)>() * 3 / 2
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The lowest range.
    pub fn first(&self) -> Option<(Seq, Seq)> {
        self.by_first.first_key_value().map(|(&first, &last)| (first, last))
    }

    /// Adds `first..=last`, none of which may be in the set yet.
    pub fn insert(&mut self, mut first: Seq, mut last: Seq) {
        debug_assert!(first <= last);
        self.count += last - first + 1;
        if let Some((&before, &before_last)) = self.by_first.range(..first).next_back() {
            debug_assert!(before_last < first, "range added twice");
            if before_last + 1 == first {
                self.by_first.remove(&before);
                first = before;
            }
        }
        if let Some(after_last) = self.by_first.remove(&(last + 1)) {
            last = after_last;
        }
        self.by_first.insert(first, last);
    }

    /// Takes the lowest `count` numbers of the lowest range away, which has at least as many.
    pub fn drop_first(&mut self, count: u64) {
        let Some((first, last)) = self.by_first.pop_first() else { return };
        debug_assert!(count <= last - first + 1);
        self.count -= count;
        if first + count <= last {
            self.by_first.insert(first + count, last);
        }
    }

    /// Removes what lies in `first..=last` and says how many numbers that was.
    pub fn take_within(&mut self, first: Seq, last: Seq) -> u64 {
        let before = self.count;
        let start = self.by_first.range(..first).next_back().map_or(first, |(&f, _)| f);
        let touched: Vec<(Seq, Seq)> =
            self.by_first.range(start..=last).map(|(&f, &l)| (f, l)).filter(|&(_, l)| l >= first).collect();
        for (f, l) in touched {
            self.by_first.remove(&f);
            self.count -= l - f + 1;
            if f < first {
                self.insert(f, first - 1);
            }
            if l > last {
                self.insert(last + 1, l);
            }
        }
        before - self.count
    }

    /// What lies in `first..=last`, in order.
    pub fn within(&self, first: Seq, last: Seq) -> impl Iterator<Item = (Seq, Seq)> + '_ {
        let start = self.by_first.range(..first).next_back().map_or(first, |(&f, _)| f);
        let touched =
            self.by_first.range(start..=last.max(start)).filter(move |&(&f, &l)| l >= first && f <= last);
        touched.map(move |(&f, &l)| (f.max(first), l.min(last)))
    }

    /// Whether any of `first..=last` is in the set.
    pub fn touches(&self, first: Seq, last: Seq) -> bool {
        !self.is_empty() && self.within(first, last).next().is_some()
    }

    /// All ranges in order.
    pub fn iter(&self) -> impl Iterator<Item = (Seq, Seq)> + '_ {
        self.by_first.iter().map(|(&first, &last)| (first, last))
    }

    /// Empties the set.
    pub fn clear(&mut self) {
        self.by_first.clear();
        self.count = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_neighbours_on_both_sides() {
        let mut set = SeqRanges::default();
        set.insert(1, 2);
        set.insert(5, 6);
        set.insert(3, 4);
        assert_eq!((set.first(), set.count()), (Some((1, 6)), 6));
    }

    #[test]
    fn takes_a_window_out_of_the_middle() {
        let mut set = SeqRanges::default();
        set.insert(0, 9);
        set.insert(20, 29);
        assert_eq!(set.within(5, 24).collect::<Vec<_>>(), [(5, 9), (20, 24)]);
        assert_eq!(set.within(10, 19).count(), 0);
        assert_eq!(set.take_within(5, 24), 10);
        assert_eq!(set.iter().collect::<Vec<_>>(), [(0, 4), (25, 29)]);
        assert_eq!(set.count(), 10);
        assert_eq!(set.take_within(5, 24), 0);
    }

    #[test]
    fn drops_from_the_front() {
        let mut set = SeqRanges::default();
        set.insert(1, 3);
        set.insert(9, 9);
        set.drop_first(2);
        assert_eq!(set.first(), Some((3, 3)));
        set.drop_first(1);
        assert_eq!((set.first(), set.count()), (Some((9, 9)), 1));
    }
}
