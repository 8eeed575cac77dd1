//! A point of time per message, in four bytes each.
//!
//! ```text
//! 0 | milliseconds (30 bits)        | short    from the base on, to the millisecond: 12 days
//! 1 | units of 256 ms (31 bits)                later ones, rounded up: 17 years
//! all ones                                     none
//! ```
//!
//! The bit `short` is the user's. Numbers are in the order of the times they stand for.

/// No time at all, in milliseconds since the Unix epoch.
pub const NEVER_MS: u64 = u64::MAX;

const NONE: u32 = u32::MAX;
const FAR: u32 = 1 << 31;
const NEAR_MS_MAX: u64 = (1 << 30) - 1;
const FAR_UNIT_MS: u64 = 256;

/// The times of messages that are numbered from 0 on.
#[derive(Clone, Debug)]
pub(super) struct Times {
    /// The first time that was added, or an earlier one.
    base_ms: u64,
    after: Vec<u32>,
}

impl Default for Times {
    fn default() -> Self {
        Self { base_ms: NEVER_MS, after: Vec::new() }
    }
}

/// A time, and the bit that came with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Time {
    pub(super) at_ms: u64,
    pub(super) short: bool,
}

impl Times {
    /// How many messages it covers.
    pub(super) fn len(&self) -> usize {
        self.after.len()
    }

    /// Whether it covers none.
    pub(super) fn is_empty(&self) -> bool {
        self.after.is_empty()
    }

    /// Bytes of memory it takes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.after.capacity() * size_of::<u32>()
    }

    /// Makes room for so many more.
    pub(super) fn reserve(&mut self, count: usize) {
        self.after.reserve(count);
    }

    /// Covers messages up to `end` without a time.
    pub(super) fn fill(&mut self, end: u32) {
        if self.after.len() < end as usize {
            self.after.resize(end as usize, NONE);
        }
    }

    /// Adds the next message's time.
    pub(super) fn push(&mut self, at_ms: u64, short: bool) {
        if at_ms < self.base_ms {
            self.rebase(at_ms);
        }
        self.after.push(encode(at_ms - self.base_ms, short));
    }

    /// A message's time, if it has one.
    #[inline]
    pub(super) fn get(&self, number: u32) -> Option<Time> {
        self.decode(*self.after.get(number as usize)?)
    }

    /// The earliest of `from..=to`; [`NEVER_MS`] when none of them has one.
    pub(super) fn earliest_ms(&self, from: u32, to: u32) -> u64 {
        let end = self.after.len().min(to as usize + 1);
        let earliest = self.after.get(from as usize..end).and_then(|part| part.iter().min());
        earliest.and_then(|&code| self.decode(code)).map_or(NEVER_MS, |time| time.at_ms)
    }

    #[inline]
    fn decode(&self, code: u32) -> Option<Time> {
        match code {
            NONE => None,
            far if far & FAR != 0 => {
                Some(Time { at_ms: self.base_ms + u64::from(far & !FAR) * FAR_UNIT_MS, short: false })
            }
            near => Some(Time { at_ms: self.base_ms + u64::from(near >> 1), short: near & 1 != 0 }),
        }
    }

    /// Lets the base be earlier: it is the first time, or the clock was set back.
    #[cold]
    fn rebase(&mut self, base_ms: u64) {
        let times: Vec<Option<Time>> = self.after.iter().map(|&code| self.decode(code)).collect();
        self.base_ms = base_ms;
        let code = |time: Option<Time>| time.map_or(NONE, |time| encode(time.at_ms - base_ms, time.short));
        self.after = times.into_iter().map(code).collect();
    }
}

fn encode(after_ms: u64, short: bool) -> u32 {
    if after_ms <= NEAR_MS_MAX {
        return (after_ms as u32) << 1 | u32::from(short);
    }
    FAR | after_ms.div_ceil(FAR_UNIT_MS).min(u64::from(NONE & !FAR) - 1) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_exact_for_days_and_not_early_for_years() {
        const DAY_MS: u64 = 86_400_000;
        let mut times = Times::default();
        let base = 1_700_000_000_000;
        let after = [0, 1, 12 * DAY_MS, 13 * DAY_MS + 1, 3_650 * DAY_MS];
        for ms in after {
            times.push(base + ms, false);
        }
        for (number, ms) in (0..).zip(after) {
            let late = times.get(number).unwrap().at_ms - (base + ms);
            assert!(if ms <= 12 * DAY_MS { late == 0 } else { late < 256 }, "{ms}: {late}");
        }
        assert_eq!(
            (times.get(5), times.earliest_ms(1, 9), times.earliest_ms(5, 9)),
            (None, base + 1, NEVER_MS)
        );
    }

    #[test]
    fn gaps_have_no_time_and_an_earlier_one_moves_the_base() {
        let mut times = Times::default();
        const START: u64 = 1_700_000_000_000;
        times.fill(2);
        times.push(START + 1_000, true);
        times.push(START + 400, false);
        times.push(START + 2_000, false);
        let at = |number| times.get(number).map(|time| (time.at_ms - START, time.short));
        assert_eq!((at(0), at(1), at(2)), (None, None, Some((1_000, true))));
        assert_eq!((at(3), at(4)), (Some((400, false)), Some((2_000, false))));
        assert_eq!((times.earliest_ms(0, 4), times.earliest_ms(0, 2)), (START + 400, START + 1_000));
        assert_eq!(times.memory_bytes() / 4, times.after.capacity());
    }
}
