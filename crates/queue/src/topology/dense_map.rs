//! A map that is small most of the time and may be huge, with its entries one after the other.

use std::hash::{BuildHasher, Hash};

use foldhash::quality::RandomState;
use hashbrown::HashTable;
use smallvec::SmallVec;

/// Above this many entries, keys are looked up by hash instead of by scan.
const SCAN_MAX: usize = 8;

/// Insertion and removal cost O(1) however large it is. The order of entries is unspecified but depends on nothing but
/// the operations.
#[derive(Debug)]
pub(super) struct DenseMap<K, V> {
    entries: SmallVec<[(K, V); 1]>,
    /// Where each entry is, once there are many.
    positions: Option<Box<Positions>>,
}

#[derive(Debug, Default)]
struct Positions {
    table: HashTable<u32>,
    hasher: RandomState,
}

impl<K, V> Default for DenseMap<K, V> {
    fn default() -> Self {
        Self { entries: SmallVec::new(), positions: None }
    }
}

impl<K: Eq + Hash, V> DenseMap<K, V> {
    /// Adds an entry; false when there was one with that key, which stays.
    pub(super) fn insert(&mut self, key: K, value: V) -> bool {
        if self.position(&key).is_some() {
            return false;
        }
        self.entries.push((key, value));
        let all = self.entries.len();
        match &mut self.positions {
            Some(positions) => positions.insert(&self.entries, all - 1),
            None if all > SCAN_MAX => {
                let mut positions = Box::<Positions>::default();
                (0..all).for_each(|at| positions.insert(&self.entries, at));
                self.positions = Some(positions);
            }
            None => {}
        }
        true
    }

    /// Removes an entry; false when there was none.
    pub(super) fn remove(&mut self, key: &K) -> bool {
        let Some(at) = self.position(key) else { return false };
        let last = self.entries.len() - 1;
        if let Some(positions) = &mut self.positions {
            positions.remove(&self.entries, at);
            if at != last {
                // The last one takes its place.
                positions.remove(&self.entries, last);
            }
        }
        self.entries.swap_remove(at);
        if let Some(positions) = self.positions.as_mut().filter(|_| at != last) {
            positions.insert(&self.entries, at);
        }
        if self.entries.len() <= SCAN_MAX / 2 && self.positions.take().is_some() {
            self.entries.shrink_to_fit();
        }
        true
    }

    /// Whether nothing is in it.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many entries it has.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The values.
    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.entries.iter().map(|(_, value)| value)
    }

    fn position(&self, key: &K) -> Option<usize> {
        match &self.positions {
            Some(positions) => positions.find(&self.entries, key),
            None => self.entries.iter().position(|(known, _)| known == key),
        }
    }
}

impl Positions {
    fn find<K: Eq + Hash, V>(&self, entries: &[(K, V)], key: &K) -> Option<usize> {
        let same = |&at: &u32| entries[at as usize].0 == *key;
        self.table.find(self.hasher.hash_one(key), same).map(|&at| at as usize)
    }

    fn insert<K: Hash, V>(&mut self, entries: &[(K, V)], at: usize) {
        let hash = |at: usize| self.hasher.hash_one(&entries[at].0);
        self.table.insert_unique(hash(at), at as u32, |&other| hash(other as usize));
    }

    fn remove<K: Hash, V>(&mut self, entries: &[(K, V)], at: usize) {
        let hash = self.hasher.hash_one(&entries[at].0);
        if let Ok(entry) = self.table.find_entry(hash, |&other| other as usize == at) {
            entry.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_as_a_map(ops in prop::collection::vec((0u8..3, 0u32..40), 0..400)) {
            let mut map = DenseMap::default();
            let mut model = BTreeMap::new();
            for (value, (op, key)) in ops.into_iter().enumerate() {
                if op == 0 {
                    prop_assert_eq!(map.remove(&key), model.remove(&key).is_some());
                } else {
                    prop_assert_eq!(map.insert(key, value), !model.contains_key(&key));
                    model.entry(key).or_insert(value);
                }
                let mut values: Vec<usize> = map.values().copied().collect();
                values.sort_unstable();
                let mut expected: Vec<usize> = model.values().copied().collect();
                expected.sort_unstable();
                prop_assert_eq!(values, expected);
                prop_assert_eq!((map.len(), map.is_empty()), (model.len(), model.is_empty()));
            }
        }
    }
}
