//! Which values a deduplication exchange has seen: what `x-message-deduplication` exchanges find duplicates by.
//!
//! A value is remembered from when a message with it was routed, for a time or for ever, and until so many others came
//! that it must make room. It is kept as a hash of 128 bits, with about 100 bytes of memory.

use std::collections::VecDeque;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use posthouse_model::exchange_args::SeenWindow;
use posthouse_model::name::Name;
use posthouse_model::props::HeaderView;
use posthouse_model::raw_table::RawValue;

use crate::header_value;

/// The header by which messages are told apart.
const HEADER: &[u8] = b"x-deduplication-header";

/// The header that says how long the message's value is remembered, in milliseconds.
const TTL_HEADER: &[u8] = b"x-cache-ttl";

/// Values that are gone are cleared out of the order when there are more of them than of others, and so many.
const GONE_MAX: usize = 64;

/// Of a value that is remembered for ever.
const NEVER_MS: u64 = u64::MAX;

/// What a message is told from others by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    /// Its value, hashed.
    pub value: u128,
    /// How long it asks to be remembered, in milliseconds.
    pub ttl_ms: Option<u64>,
}

/// Says of messages that are routed whether they are duplicates.
pub trait Duplicates {
    /// Whether `exchange` has seen a message's value, within its window. It has from now on.
    fn is_duplicate(&mut self, exchange: &Name, window: SeenWindow, message: Seen) -> bool;
}

/// For messages that are not compared with others: none is a duplicate, and nothing is remembered of them.
#[derive(Clone, Copy, Debug)]
pub struct NotCompared;

impl Duplicates for NotCompared {
    fn is_duplicate(&mut self, _: &Name, _: SeenWindow, _: Seen) -> bool {
        false
    }
}

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub struct SeenValues {
    by_value: HashMap<u128, Entry, RandomState>,
    /// The values in the order in which they came, with their stamps; some may be gone.
    order: VecDeque<(u128, Stamp)>,
    next_stamp: Stamp,
}

/// Tells the times apart that one value came.
pub type Stamp = u64;

#[derive(Clone, Copy, Debug)]
struct Entry {
    until_ms: u64,
    stamp: Stamp,
}

impl Seen {
    /// Reads a message's headers; none when there is nothing to tell it from others by.
    pub(super) fn of(header: HeaderView<'_>) -> Option<Self> {
        let headers = header.headers()?;
        let value = headers.get(HEADER).and_then(header_value::hash)?;
        let ttl_ms = match headers.get(TTL_HEADER) {
            Some(RawValue::I8(ms)) => u64::try_from(ms).ok(),
            Some(RawValue::U8(ms)) => Some(ms.into()),
            Some(RawValue::I16(ms)) => u64::try_from(ms).ok(),
            Some(RawValue::U16(ms)) => Some(ms.into()),
            Some(RawValue::I32(ms)) => u64::try_from(ms).ok(),
            Some(RawValue::U32(ms)) => Some(ms.into()),
            Some(RawValue::I64(ms)) => u64::try_from(ms).ok(),
            _ => None,
        };
        Some(Self { value, ttl_ms: ttl_ms.filter(|&ms| ms > 0) })
    }
}

impl SeenValues {
    /// A message comes: none when its value was seen and is remembered, else the stamp to [`Self::forget`] it with.
    pub fn enter(&mut self, message: Seen, window: SeenWindow, now_ms: u64) -> Option<Stamp> {
        if self.by_value.get(&message.value).is_some_and(|entry| entry.until_ms > now_ms) {
            return None;
        }
        let ttl_ms = message.ttl_ms.or(window.ttl_ms);
        let until_ms = ttl_ms.map_or(NEVER_MS, |ttl_ms| now_ms.saturating_add(ttl_ms));
        let stamp = self.next_stamp;
        self.next_stamp += 1;
        self.by_value.insert(message.value, Entry { until_ms, stamp });
        self.order.push_back((message.value, stamp));
        self.make_room(window.size, now_ms);
        Some(stamp)
    }

    /// The message that came with this stamp counts as not seen.
    pub fn forget(&mut self, value: u128, stamp: Stamp) {
        if self.by_value.get(&value).is_some_and(|entry| entry.stamp == stamp) {
            self.by_value.remove(&value);
        }
    }

    /// How many values are remembered.
    pub fn len(&self) -> usize {
        self.by_value.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.by_value.is_empty()
    }

    /// Lets the oldest values go whose time is over, or of which there are more than `size`.
    fn make_room(&mut self, size: usize, now_ms: u64) {
        while let Some(&(value, stamp)) = self.order.front() {
            let current = self.by_value.get(&value).filter(|entry| entry.stamp == stamp);
            if current.is_some_and(|entry| entry.until_ms > now_ms && self.by_value.len() <= size) {
                break;
            }
            if current.is_some() {
                self.by_value.remove(&value);
            }
            self.order.pop_front();
        }
        if self.order.len() > GONE_MAX + 2 * self.by_value.len() {
            // One that stays would keep all that are gone.
            let by_value = &self.by_value;
            self.order
                .retain(|(value, stamp)| by_value.get(value).is_some_and(|entry| entry.stamp == *stamp));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const FOREVER: SeenWindow = SeenWindow { size: 3, ttl_ms: None };

    fn enter(seen: &mut SeenValues, value: u128, window: SeenWindow, now_ms: u64) -> bool {
        seen.enter(Seen { value, ttl_ms: None }, window, now_ms).is_some()
    }

    #[test]
    fn the_oldest_make_room() {
        let mut seen = SeenValues::default();
        for value in [1, 2, 3] {
            assert!(enter(&mut seen, value, FOREVER, 0));
            assert!(!enter(&mut seen, 1, FOREVER, u64::MAX - 1));
        }
        assert!(enter(&mut seen, 4, FOREVER, 0));
        assert_eq!(seen.len(), 3);
        assert!(enter(&mut seen, 1, FOREVER, 0), "it made room");
        assert!(!enter(&mut seen, 3, FOREVER, 0));
    }

    #[test]
    fn a_value_is_new_when_its_time_is_over() {
        let window = SeenWindow { size: 9, ttl_ms: Some(100) };
        let mut seen = SeenValues::default();
        assert!(enter(&mut seen, 1, window, 0));
        assert!(!enter(&mut seen, 1, window, 99), "which does not prolong it");
        assert!(enter(&mut seen, 1, window, 100));
        assert!(seen.enter(Seen { value: 2, ttl_ms: Some(5) }, window, 100).is_some());
        assert!(enter(&mut seen, 2, window, 105), "the message's word goes first");
        assert!(enter(&mut seen, 3, window, 300));
        assert_eq!((seen.len(), seen.order.len()), (1, 1), "the others are gone");
    }

    #[test]
    fn what_is_forgotten_is_new() {
        let mut seen = SeenValues::default();
        let one = Seen { value: 1, ttl_ms: Some(10) };
        let first = seen.enter(one, FOREVER, 0).unwrap();
        let second = seen.enter(one, FOREVER, 10).unwrap();
        seen.forget(1, first);
        assert_eq!(seen.enter(one, FOREVER, 11), None, "the second one was not forgotten");
        seen.forget(1, second);
        assert!(seen.is_empty());
        assert!(seen.enter(one, FOREVER, 11).is_some());
    }

    proptest! {
        #[test]
        fn agrees_with_a_list(ops in prop::collection::vec((0u128..12, 0u64..40, 0u64..30), 1..300)) {
            let window = SeenWindow { size: 5, ttl_ms: Some(60) };
            let (mut seen, mut now_ms) = (SeenValues::default(), 0);
            let mut list: BTreeMap<Stamp, (u128, u64)> = BTreeMap::new();
            for (value, ttl_ms, pause_ms) in ops {
                now_ms += pause_ms;
                let is_known = list.values().any(|&(known, until_ms)| known == value && until_ms > now_ms);
                let own = Some(ttl_ms).filter(|&ttl_ms| ttl_ms > 0);
                let entered = seen.enter(Seen { value, ttl_ms: own }, window, now_ms);
                prop_assert_eq!(entered.is_none(), is_known);
                if let Some(stamp) = entered {
                    list.retain(|_, (known, _)| *known != value);
                    list.insert(stamp, (value, now_ms + own.unwrap_or(60)));
                    // The oldest go whose time is over, and then those that are too many.
                    while list.first_key_value().is_some_and(|(_, (_, until_ms))| *until_ms <= now_ms) || list.len() > 5 {
                        list.pop_first();
                    }
                }
                prop_assert_eq!(seen.len(), list.len());
                prop_assert!(seen.order.len() <= GONE_MAX + 2 * list.len());
            }
        }
    }
}
