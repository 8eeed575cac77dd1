//! A log-linear histogram of durations: 2,048 buckets, each at most 1/64 wide of its value, so every quantile is within
//! 1.6 percent. Recording is a shift and an increment.
//!
//! ```text
//! values below 64 ns: one bucket each; then 64 buckets for every doubling, up to 137 s, which the last bucket takes too
//! ```

const SUB_BITS: u32 = 6;
const SUB: usize = 1 << SUB_BITS;
const BUCKETS: usize = 2_048;

/// Durations in nanoseconds.
#[derive(Clone)]
pub(super) struct Histogram {
    buckets: Box<[u64; BUCKETS]>,
    count: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: Box::new([0; BUCKETS]), count: 0, max: 0 }
    }
}

impl Histogram {
    /// Adds `times` durations of `nanos`.
    #[inline]
    pub(super) fn record(&mut self, nanos: u64, times: u64) {
        self.buckets[bucket(nanos)] += times;
        self.count += times;
        self.max = self.max.max(nanos);
    }

    /// Adds everything recorded in another.
    pub(super) fn merge(&mut self, other: &Self) {
        for (to, from) in self.buckets.iter_mut().zip(other.buckets.iter()) {
            *to += from;
        }
        self.count += other.count;
        self.max = self.max.max(other.max);
    }

    /// How many were recorded.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The largest, exact. Zero when nothing was recorded.
    pub(super) fn max(&self) -> u64 {
        self.max
    }

    /// The duration that the part `q` (0 to 1) of all does not exceed, nanoseconds. Zero when nothing was recorded.
    pub(super) fn quantile(&self, q: f64) -> u64 {
        let rank = ((self.count as f64 * q).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return middle(index).min(self.max);
            }
        }
        self.max
    }
}

fn bucket(nanos: u64) -> usize {
    let index = match nanos.checked_ilog2() {
        Some(exponent) if exponent >= SUB_BITS => {
            let octave = (exponent - SUB_BITS) as usize;
            octave * SUB + (nanos >> octave) as usize
        }
        _ => nanos as usize,
    };
    index.min(BUCKETS - 1)
}

/// The middle of a bucket: the inverse of [`bucket`].
fn middle(index: usize) -> u64 {
    let octave = (index / SUB).saturating_sub(1);
    let low = ((index - octave * SUB) as u64) << octave;
    low + (1 << octave) / 2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn buckets_are_contiguous() {
        let mut last = 0;
        for nanos in 0..100_000 {
            let index = bucket(nanos);
            assert!(index == last || index == last + 1, "{nanos}: {last} then {index}");
            last = index;
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_of_known_values() {
        let mut histogram = Histogram::default();
        assert_eq!((histogram.quantile(0.5), histogram.max()), (0, 0));
        for micros in 1..=1_000 {
            histogram.record(micros * 1_000, 1);
        }
        for (q, expected) in [(0.5, 500_000.0), (0.99, 990_000.0), (0.001, 1_000.0)] {
            let got = histogram.quantile(q) as f64;
            assert!((got - expected).abs() <= expected / 60.0, "{q}: {got}");
        }
        assert_eq!(
            (histogram.quantile(1.0), histogram.max(), histogram.count()),
            (1_000_000, 1_000_000, 1_000)
        );
    }

    proptest! {
        #[test]
        fn a_bucket_is_narrow(nanos in 0u64..100_000_000_000) {
            let error = middle(bucket(nanos)).abs_diff(nanos);
            prop_assert!(error as f64 <= nanos as f64 / 64.0, "{} {}", nanos, middle(bucket(nanos)));
        }

        #[test]
        fn merging_is_recording_both(a in prop::collection::vec(0u64..1_000_000_000, 0..50),
                                     b in prop::collection::vec(0u64..1_000_000_000, 0..50)) {
            let record = |values: &[u64]| {
                let mut histogram = Histogram::default();
                values.iter().for_each(|v| histogram.record(*v, 1));
                histogram
            };
            let mut merged = record(&a);
            merged.merge(&record(&b));
            let both = record(&[a, b].concat());
            prop_assert_eq!(&merged.buckets[..], &both.buckets[..]);
            prop_assert_eq!((merged.count, merged.max), (both.count, both.max));
        }
    }
}
