//! The levels that a queue had under the types it was converted from.
//!
//! A conversion moves no message: what is in the queue keeps its level and its number, and the new type's levels come
//! after the ones there are. What this page says is in which order all of them are served: messages that were there keep
//! their order among each other, and go before those of their priority that come later.

use std::fmt;
use std::sync::Arc;

use crate::priorities::Levels;

/// Levels a queue can have: a level is a byte.
const LEVELS_MAX: usize = 256;

/// See the module's documentation. Empty for a queue that was never converted. In order, the oldest first.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct FormerLevels(Option<Arc<[(u8, u8)]>>);

/// The order in which a converted queue's levels are served. A *place* is a level's rank in it: the level at the highest
/// place is first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServingOrder {
    /// By place.
    levels: Vec<u8>,
    /// By level.
    places: Vec<u8>,
    /// The priority that the messages of a level have by now, by place.
    priorities: Vec<u8>,
}

impl FormerLevels {
    /// Reads what [`Self::pairs`] gave; none when a queue cannot have so many levels.
    pub fn from_pairs(pairs: &[(u8, u8)]) -> Option<Self> {
        if pairs.is_empty() {
            return Some(Self::default());
        }
        let former = Self(Some(pairs.into()));
        (former.count() < LEVELS_MAX).then_some(former)
    }

    /// For each type the highest priority and that of messages that say none.
    pub fn pairs(&self) -> &[(u8, u8)] {
        self.0.as_deref().unwrap_or_default()
    }

    /// Whether the queue was never converted.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// How many levels they are.
    fn count(&self) -> usize {
        self.pairs().iter().map(|&(max, _)| usize::from(max) + 1).sum()
    }

    /// The first level that is none of them.
    pub fn base(&self) -> u8 {
        // There are fewer than 256 of them, so that another one has room.
        self.count() as u8
    }

    /// The former levels of a queue that has had `now` after these and is to have `next`: none when all of them together
    /// are more than a queue can have.
    pub fn then(&self, now: Levels, next: Levels) -> Option<Self> {
        if (now.max, now.effective_default()) == (next.max, next.effective_default()) {
            return Some(self.clone());
        }
        let mut pairs = self.pairs().to_vec();
        pairs.push((now.max, now.default));
        let former = Self(Some(pairs.into()));
        (former.count() + usize::from(next.max) < LEVELS_MAX).then_some(former)
    }

    /// The order in which these levels and those of the queue's type are served. With each conversion a message counts as
    /// having the priority that it had, but at least the one that a message without any gets from now on, and at most the
    /// highest one. Of one priority what was there goes first, in the order that it had.
    pub fn order(&self, now: Levels) -> ServingOrder {
        // Priorities and levels by place.
        let mut served: Vec<(u8, u8)> = Vec::new();
        for &(max, default) in self.pairs().iter().chain([&(now.max, now.default)]) {
            let former = served.iter().map(|&(priority, level)| (priority.max(default).min(max), level));
            let base = served.len() as u8;
            let mut all: Vec<_> = (0..=max).map(|own| (own, base + own)).chain(former).collect();
            all.sort_by_key(|&(priority, _)| priority);
            served = all;
        }
        let mut places = vec![0; served.len()];
        for (place, &(_, level)) in (0..=u8::MAX).zip(&served) {
            places[usize::from(level)] = place;
        }
        let (priorities, levels) = served.into_iter().unzip();
        ServingOrder { levels, places, priorities }
    }
}

impl ServingOrder {
    /// The level at a place.
    pub fn level(&self, place: u8) -> u8 {
        self.levels.get(usize::from(place)).copied().unwrap_or(place)
    }

    /// The place of a level.
    pub fn place(&self, level: u8) -> u8 {
        self.places.get(usize::from(level)).copied().unwrap_or(level)
    }

    /// The priority that the messages at a place have by now.
    pub fn priority(&self, place: u8) -> u8 {
        self.priorities.get(usize::from(place)).copied().unwrap_or(place)
    }

    /// Bytes of memory it takes.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.levels.capacity() + self.places.capacity() + self.priorities.capacity()
    }
}

impl fmt::Debug for FormerLevels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.pairs()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Levels = Levels { base: 0, max: 0, default: 0 };
    const QUORUM: Levels = Levels { base: 0, max: 31, default: 4 };

    /// The levels in the order in which they are served.
    fn served(former: &FormerLevels, now: Levels) -> Vec<u8> {
        let order = former.order(now);
        let served: Vec<u8> = (0..order.levels.len()).rev().map(|place| order.level(place as u8)).collect();
        for (distance, &level) in served.iter().enumerate() {
            assert_eq!(usize::from(order.place(level)), served.len() - 1 - distance);
        }
        served
    }

    #[test]
    fn what_a_plain_queue_had_goes_before_messages_without_a_priority() {
        let former = FormerLevels::default().then(PLAIN, QUORUM).unwrap();
        assert_eq!((former.base(), former.pairs()), (1, &[(0, 0)][..]));
        let mut expected: Vec<u8> = (6..=32).rev().collect(); // priorities 31 to 5
        expected.extend([0, 5, 4, 3, 2, 1]);
        assert_eq!(served(&former, QUORUM), expected);
        assert_eq!(former.order(QUORUM).priority(former.order(QUORUM).place(0)), 4);
    }

    #[test]
    fn what_a_queue_with_priorities_had_goes_first_in_its_order_where_there_are_none() {
        let former = FormerLevels::default().then(QUORUM, PLAIN).unwrap();
        assert_eq!(former.base(), 32);
        let expected: Vec<u8> = (0..32).rev().chain([32]).collect();
        assert_eq!(served(&former, PLAIN), expected);
        // And back: all of it counts as being without a priority, in the same order.
        let former = former.then(PLAIN, QUORUM).unwrap();
        let mut expected: Vec<u8> = (33 + 5..=33 + 31).rev().collect();
        expected.extend((0..33).rev().skip_while(|&level| level == 32));
        expected.extend([32, 33 + 4, 33 + 3, 33 + 2, 33 + 1, 33]);
        assert_eq!(served(&former, QUORUM), expected);
    }

    #[test]
    fn priorities_that_both_types_have_stay_what_they_are() {
        let (classic, quorum) = (Levels { max: 9, ..PLAIN }, Levels { max: 9, ..QUORUM });
        let former = FormerLevels::default().then(classic, quorum).unwrap();
        // Priority 5 of before, 5 of later; below it what is at least 4 by now, in the order it had.
        let served = served(&former, quorum);
        assert_eq!(served[..10], [9, 19, 8, 18, 7, 17, 6, 16, 5, 15]);
        assert_eq!(served[10..], [4, 3, 2, 1, 0, 14, 13, 12, 11, 10]);
    }

    #[test]
    fn types_with_the_same_levels_need_no_others() {
        let none = Levels { default: 4, ..PLAIN };
        assert!(FormerLevels::default().then(PLAIN, none).unwrap().is_empty());
    }

    #[test]
    fn there_is_an_end_to_it() {
        let (mut former, mut types, mut conversions) = (FormerLevels::default(), [PLAIN, QUORUM], 0);
        while let Some(next) = former.then(types[0], types[1]) {
            (former, conversions) = (next, conversions + 1);
            assert_eq!(FormerLevels::from_pairs(former.pairs()), Some(former.clone()));
            types.reverse();
        }
        assert_eq!(conversions, 14);
        let most = Levels { max: 255, ..PLAIN };
        assert_eq!(FormerLevels::default().then(most, PLAIN), None);
        assert_eq!(FormerLevels::from_pairs(&[(255, 0)]), None);
        assert_eq!(FormerLevels::from_pairs(&[(254, 0)]).map(|former| former.base()), Some(255));
    }
}
