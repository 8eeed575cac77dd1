//! The levels that a queue had under the types it was converted from.
//!
//! A conversion moves no message: what is in the queue keeps its level and its number, and the new type gets levels that
//! are empty. What this page says is in which order all of them are served: messages that were there keep their order
//! among each other, and go before those of their priority that come later.
//!
//! When the levels of the oldest types are empty they are forgotten, and may be a new type's.

use std::fmt;
use std::sync::Arc;

use crate::priorities::Levels;

/// Levels a queue can have: a level is a byte.
const LEVELS_MAX: usize = 256;

/// See the module's documentation. Empty for a queue that was never converted.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct FormerLevels(Option<Arc<Former>>);

#[derive(PartialEq, Eq)]
struct Former {
    /// The levels of each type, the oldest first.
    types: Box<[Levels]>,
    /// The first level of the type that it has.
    base: u8,
}

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
    /// Those of former types, the oldest first, in a queue whose own begin at `base`; none when they are not apart from each
    /// other, or more than a queue can have.
    pub fn of(types: &[Levels], base: u8) -> Option<Self> {
        if types.is_empty() && base == 0 {
            return Some(Self::default());
        }
        let mut taken = [false; LEVELS_MAX];
        for level in types.iter().flat_map(|levels| levels.numbers()) {
            let taken = taken.get_mut(level)?;
            if std::mem::replace(taken, true) {
                return None;
            }
        }
        let is_free = !taken.get(usize::from(base)).copied().unwrap_or_default();
        is_free.then(|| Self(Some(Arc::new(Former { types: types.into(), base }))))
    }

    /// The levels of former types, the oldest first.
    pub fn types(&self) -> &[Levels] {
        self.0.as_ref().map(|former| &former.types[..]).unwrap_or_default()
    }

    /// Whether the queue was never converted.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The first level that the queue's type has.
    pub fn base(&self) -> u8 {
        self.0.as_ref().map_or(0, |former| former.base)
    }

    /// The former levels of a queue that has had `now` after these and is to have `next`, where `is_empty` says of a level
    /// that no message is in it: none when there are not as many in a row as `next` has.
    pub fn then(&self, now: Levels, next: Levels, is_empty: impl Fn(u8) -> bool) -> Option<Self> {
        if (now.max, now.effective_default()) == (next.max, next.effective_default()) {
            return Some(self.clone());
        }
        let has_none = |level: usize| u8::try_from(level).is_ok_and(&is_empty);
        // Those after one that stays say which priority its messages have by now.
        let left = self.types().iter().copied().skip_while(|levels| levels.numbers().all(has_none));
        let types: Vec<Levels> = left.chain([Levels { base: self.base(), ..now }]).collect();
        let is_free =
            |level: usize| has_none(level) && !types.iter().any(|levels| levels.numbers().contains(&level));
        let fits = |base: &u8| Levels { base: *base, ..next }.numbers().all(is_free);
        let base = (0..=u8::MAX).find(fits)?;
        Some(Self(Some(Arc::new(Former { types: types.into(), base }))))
    }

    /// The order in which these levels and those of the queue's type are served. With each conversion a message counts as
    /// having the priority that it had, but at least the one that a message without any gets from now on, and at most the
    /// highest one. Of one priority what was there goes first, in the order that it had.
    pub fn order(&self, now: Levels) -> ServingOrder {
        // Priorities and levels by place.
        let mut served: Vec<(u8, u8)> = Vec::new();
        for &Levels { base, max, default } in
            self.types().iter().chain([&Levels { base: self.base(), ..now }])
        {
            let former = served.iter().map(|&(priority, level)| (priority.max(default).min(max), level));
            let mut all: Vec<_> =
                (0..=max).map(|own| (own, base.saturating_add(own))).chain(former).collect();
            all.sort_by_key(|&(priority, _)| priority);
            served = all;
        }
        // What is in no level of these was acknowledged, and a crash has undone that after the level was forgotten.
        let is_known = |level: u8| served.iter().any(|&(_, known)| known == level);
        let forgotten: Vec<_> =
            (0..=u8::MAX).filter(|&level| !is_known(level)).map(|level| (now.max, level)).collect();
        served.extend(forgotten);
        let mut places = vec![0; LEVELS_MAX];
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
        f.debug_list().entries(self.types()).entry(&self.base()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Levels = Levels { base: 0, max: 0, default: 0 };
    const QUORUM: Levels = Levels { base: 0, max: 31, default: 4 };

    /// The levels in the order in which they are served, but for those that were forgotten.
    fn served(former: &FormerLevels, now: Levels) -> Vec<u8> {
        let order = former.order(now);
        let served: Vec<u8> = (0..=u8::MAX).rev().map(|place| order.level(place)).collect();
        for (distance, &level) in served.iter().enumerate() {
            assert_eq!(usize::from(order.place(level)), served.len() - 1 - distance);
        }
        let now = Levels { base: former.base(), ..now };
        let known: Vec<usize> =
            former.types().iter().chain([&now]).flat_map(|levels| levels.numbers()).collect();
        served.into_iter().filter(|&level| known.contains(&usize::from(level))).collect()
    }

    /// A conversion of a queue with messages everywhere up to that level.
    fn filled_to(last: u8) -> impl Fn(u8) -> bool {
        move |level| level > last
    }

    #[test]
    fn what_a_plain_queue_had_goes_before_messages_without_a_priority() {
        let former = FormerLevels::default().then(PLAIN, QUORUM, filled_to(0)).unwrap();
        assert_eq!((former.base(), former.types()), (1, &[PLAIN][..]));
        let mut expected: Vec<u8> = (6..=32).rev().collect(); // priorities 31 to 5
        expected.extend([0, 5, 4, 3, 2, 1]);
        assert_eq!(served(&former, QUORUM), expected);
        assert_eq!(former.order(QUORUM).priority(former.order(QUORUM).place(0)), 4);
    }

    #[test]
    fn what_a_queue_with_priorities_had_goes_first_in_its_order_where_there_are_none() {
        let former = FormerLevels::default().then(QUORUM, PLAIN, filled_to(31)).unwrap();
        assert_eq!(former.base(), 32);
        let expected: Vec<u8> = (0..32).rev().chain([32]).collect();
        assert_eq!(served(&former, PLAIN), expected);
        // And back: all of it counts as being without a priority, in the same order.
        let former = former.then(PLAIN, QUORUM, filled_to(32)).unwrap();
        let mut expected: Vec<u8> = (33 + 5..=33 + 31).rev().collect();
        expected.extend((0..33).rev().skip_while(|&level| level == 32));
        expected.extend([32, 33 + 4, 33 + 3, 33 + 2, 33 + 1, 33]);
        assert_eq!(served(&former, QUORUM), expected);
    }

    #[test]
    fn priorities_that_both_types_have_stay_what_they_are() {
        let (classic, quorum) = (Levels { max: 9, ..PLAIN }, Levels { max: 9, ..QUORUM });
        let former = FormerLevels::default().then(classic, quorum, filled_to(9)).unwrap();
        // Priority 5 of before, 5 of later; below it what is at least 4 by now, in the order it had.
        let served = served(&former, quorum);
        assert_eq!(served[..10], [9, 19, 8, 18, 7, 17, 6, 16, 5, 15]);
        assert_eq!(served[10..], [4, 3, 2, 1, 0, 14, 13, 12, 11, 10]);
    }

    #[test]
    fn types_with_the_same_levels_need_no_others() {
        let none = Levels { default: 4, ..PLAIN };
        assert!(FormerLevels::default().then(PLAIN, none, |_| false).unwrap().is_empty());
    }

    #[test]
    fn levels_that_are_empty_are_used_again() {
        let (mut former, mut types) = (FormerLevels::default(), [PLAIN, QUORUM]);
        for conversion in 0..1_000 {
            former = former.then(types[0], types[1], |_| true).unwrap();
            types.reverse();
            assert_eq!(FormerLevels::of(former.types(), former.base()), Some(former.clone()));
            // Messages may still come for the type that it had until now.
            assert!(former.types().len() == 1 && former.base() <= 33, "{conversion}: {former:?}");
        }
        // What has a message stays, and what comes after it for its sake.
        let has_message = former.base();
        let former = former.then(types[0], types[1], |_| true).unwrap();
        let former = former.then(types[1], types[0], |level| level != has_message).unwrap();
        assert_eq!((former.types().len(), former.types()[0].base), (2, has_message));
        let former = former.then(types[0], types[1], |level| level != has_message).unwrap();
        assert_eq!((former.types().len(), former.types()[0].base), (3, has_message));
        assert_eq!(former.then(types[1], types[0], |_| true).unwrap().types().len(), 1);
    }

    #[test]
    fn there_is_an_end_to_it_while_the_oldest_messages_stay() {
        let (mut former, mut types, mut conversions) = (FormerLevels::default(), [PLAIN, QUORUM], 0);
        while let Some(next) = former.then(types[0], types[1], |level| level != 0) {
            (former, conversions) = (next, conversions + 1);
            types.reverse();
        }
        assert_eq!(conversions, 14);
        let most = Levels { max: 255, ..PLAIN };
        assert_eq!(FormerLevels::default().then(most, PLAIN, |_| true), None);
    }

    #[test]
    fn levels_that_overlap_are_none() {
        let at = |base, max| Levels { base, max, default: 0 };
        assert!(FormerLevels::of(&[at(0, 31), at(40, 0)], 32).is_some());
        assert_eq!(FormerLevels::of(&[at(0, 31), at(31, 0)], 40), None);
        assert_eq!(FormerLevels::of(&[at(0, 31)], 31), None);
        assert_eq!(FormerLevels::of(&[at(240, 31)], 0), None);
        assert_eq!(FormerLevels::of(&[], 0), Some(FormerLevels::default()));
        assert_eq!(FormerLevels::of(&[], 7).map(|former| former.base()), Some(7));
    }

    #[test]
    fn what_is_in_a_forgotten_level_is_served_first() {
        let former = FormerLevels::of(&[Levels { base: 40, ..PLAIN }], 1).unwrap();
        let order = former.order(QUORUM);
        assert!(order.place(0) > order.place(32) && order.place(255) > order.place(40));
    }
}
