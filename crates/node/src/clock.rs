//! The only place that asks what time it is, for this crate and those above.

use std::sync::LazyLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Milliseconds since the Unix epoch. It may be set back.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_millis() as u64)
}

/// Microseconds of a clock that nobody sets.
pub fn monotonic_us() -> u64 {
    u64::try_from(START.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// Milliseconds since some time in this process: what durations are measured with, whatever becomes of the clock.
pub fn uptime_ms() -> u64 {
    START.elapsed().as_millis() as u64
}
