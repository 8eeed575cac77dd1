//! A set of binding destinations that is small most of the time and may be huge.

use std::hash::Hash;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use smallvec::SmallVec;

/// Above this many members, positions are looked up by hash instead of by scan.
const SCAN_MAX: usize = 32;

/// A set with dense storage, so that visiting all members is a walk over memory. Insertion and removal cost
/// O(1) however large it is. The order of members is unspecified but depends on nothing but the operations.
#[derive(Clone, Debug)]
pub struct DenseSet<V: Copy + Eq + Hash> {
    members: SmallVec<[V; 1]>,
    /// Where each member is, once there are many.
    positions: Option<Box<HashMap<V, u32, RandomState>>>,
}

impl<V: Copy + Eq + Hash> Default for DenseSet<V> {
    fn default() -> Self {
        Self { members: SmallVec::new(), positions: None }
    }
}

impl<V: Copy + Eq + Hash> DenseSet<V> {
    /// Adds `value`; false when it was there already.
    pub fn insert(&mut self, value: V) -> bool {
        if self.position(value).is_some() {
            return false;
        }
        let at = self.members.len() as u32;
        self.members.push(value);
        match &mut self.positions {
            Some(positions) => {
                positions.insert(value, at);
            }
            None if self.members.len() > SCAN_MAX => {
                let positions = self.members.iter().zip(0..).map(|(&member, at)| (member, at)).collect();
                self.positions = Some(Box::new(positions));
            }
            None => {}
        }
        true
    }

    /// Removes `value`; false when it was not there.
    pub fn remove(&mut self, value: V) -> bool {
        let Some(at) = self.position(value) else { return false };
        self.members.swap_remove(at);
        if let Some(positions) = &mut self.positions {
            positions.remove(&value);
            if let Some(&moved) = self.members.get(at) {
                positions.insert(moved, at as u32);
            }
            if self.members.len() <= SCAN_MAX / 2 {
                self.positions = None;
                self.members.shrink_to_fit();
            }
        }
        true
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The members.
    #[inline]
    pub fn as_slice(&self) -> &[V] {
        &self.members
    }

    fn position(&self, value: V) -> Option<usize> {
        match &self.positions {
            Some(positions) => positions.get(&value).map(|&at| at as usize),
            None => self.members.iter().position(|&member| member == value),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_as_a_set(ops in prop::collection::vec((any::<bool>(), 0u32..100), 0..400)) {
            let mut set = DenseSet::default();
            let mut model = BTreeSet::new();
            for (insert, value) in ops {
                if insert {
                    prop_assert_eq!(set.insert(value), model.insert(value));
                } else {
                    prop_assert_eq!(set.remove(value), model.remove(&value));
                }
                let members: BTreeSet<u32> = set.as_slice().iter().copied().collect();
                prop_assert_eq!(&members, &model);
                prop_assert_eq!(set.as_slice().len(), model.len());
                prop_assert_eq!(set.is_empty(), model.is_empty());
            }
        }
    }
}
