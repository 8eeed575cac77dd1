//! Says how often something happened without a line for each time: whoever can cause it could fill the disk with them.

use std::sync::atomic::{AtomicU64, Ordering};

/// Between two lines.
const PAUSE_MS: u64 = 1_000;

/// Counts until it is time for a line.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    untold: AtomicU64,
    told_ms: AtomicU64,
}

impl Tally {
    /// Counts one; how many there were since the last line, when it is time for the next.
    pub(crate) fn count(&self, now_ms: u64) -> Option<u64> {
        let untold = self.untold.fetch_add(1, Ordering::Relaxed) + 1;
        let told_ms = self.told_ms.load(Ordering::Relaxed);
        // A clock that was set back does not silence it.
        let due = now_ms.abs_diff(told_ms) >= PAUSE_MS;
        let mine = due
            && self.told_ms.compare_exchange(told_ms, now_ms, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        mine.then(|| {
            self.untold.fetch_sub(untold, Ordering::Relaxed);
            untold
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_at_once_and_the_others_by_the_second() {
        let tally = Tally::default();
        assert_eq!(tally.count(50_000), Some(1));
        assert!((0..500).all(|ms| tally.count(50_001 + ms).is_none()));
        assert_eq!(tally.count(51_000), Some(501));
        assert_eq!(tally.count(51_001), None);
        assert_eq!(tally.count(10_000), Some(2), "the clock was set back");
    }
}
