//! The slots into which time is divided: eight wheels of 32 slots each, from slots of one millisecond up to slots of a
//! year.
//!
//! ```text
//!  level = wheel * 32 + digit         a slot of wheel w is 32^w ms wide
//!
//!  wheel       7      6      5      4      3     2     1     0
//!  slot      1.1 y  12 d   9.3 h  17 min  33 s  1 s  32 ms  1 ms
//! ```
//!
//! Read as a number with base 32, a time has a digit for each wheel. A message goes to the wheel of the highest digit in
//! which its time differs from now, to the slot of that digit. All wheels together reach 34 years.

/// Bits of a digit.
const DIGIT_BITS: u32 = 5;

/// Slots of one wheel.
const SLOTS: u64 = 1 << DIGIT_BITS;

/// How many wheels there are.
const WHEELS: u32 = 8;

/// A slot is read so long before it begins at least.
const LEAD_MS_MIN: u64 = 20;

/// A slot as it is at some time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The level of the queue.
    pub level: u8,
    /// When the slot begins, in milliseconds since the Unix epoch.
    pub start_ms: u64,
}

/// Where a message that is due at `due_ms` waits, when it is `now_ms`. What is farther away than all wheels reach goes
/// to a slot of the last, and is looked at earlier than it would have to be.
pub fn place(now_ms: u64, due_ms: u64) -> Place {
    let apart = now_ms ^ due_ms;
    let highest_bit = u64::BITS - 1 - (apart | 1).leading_zeros();
    let wheel = (highest_bit / DIGIT_BITS).min(WHEELS - 1);
    on_wheel(wheel, due_ms)
}

/// The slot of the same wheel as `level` that `time_ms` falls into.
pub fn on_wheel_of(level: u8, time_ms: u64) -> Place {
    on_wheel(u32::from(level) / SLOTS as u32, time_ms)
}

fn on_wheel(wheel: u32, time_ms: u64) -> Place {
    let shift = wheel * DIGIT_BITS;
    let number = time_ms >> shift;
    Place { level: (u64::from(wheel) * SLOTS + number % SLOTS) as u8, start_ms: number << shift }
}

/// How wide a slot of this level is, in milliseconds.
pub fn width_ms(level: u8) -> u64 {
    1 << (u32::from(level) / SLOTS as u32 * DIGIT_BITS)
}

/// How long before it begins a slot of this level is read, in milliseconds.
pub fn lead_ms(level: u8) -> u64 {
    (width_ms(level) / SLOTS).max(LEAD_MS_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR_MS: u64 = 366 * 24 * 3_600_000;

    #[test]
    fn the_wheel_is_that_of_the_highest_digit_that_differs() {
        const NOW: u64 = 1_800_000_000_000;
        for (after, wheel) in [
            (0, 0),
            (1, 0),
            (31, 0),
            (32, 1),
            (1_023, 1),
            (1_024, 2),
            (32_768, 3),
            (1 << 20, 4),
            (1 << 25, 5),
            (1 << 30, 6),
            (1 << 35, 7),
        ] {
            let now = NOW >> 35 << 35;
            let place = place(now, now + after);
            assert_eq!(u32::from(place.level) / 32, wheel, "after {after} ms");
            assert!(place.start_ms <= now + after && now + after < place.start_ms + width_ms(place.level));
        }
    }

    #[test]
    fn ten_years_fit_whatever_the_time() {
        for now in [0, 1_700_000_000_000, 1_800_000_000_123, (1 << 40) - 1] {
            let due = now + 10 * YEAR_MS;
            let place = place(now, due);
            assert!(place.start_ms <= due && due < place.start_ms + width_ms(place.level));
            // Never in a slot of the time that is now: it would be looked at at once, and again and again.
            assert!(place.start_ms > now);
        }
    }

    #[test]
    fn slots_begin_after_those_of_finer_wheels_before_them() {
        let now = 1_800_000_000_000;
        let mut before = place(now, now);
        for after in 1..200_000 {
            let next = place(now, now + after);
            assert!(next.start_ms >= before.start_ms);
            before = next;
        }
    }
}
