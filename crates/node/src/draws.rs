//! Random numbers for exchanges that choose by chance.

/// A sequence of random numbers, one for each message that is routed by chance. SplitMix64: quick, evenly spread, and
/// not for secrets.
#[derive(Debug)]
pub struct Draws(u64);

impl Draws {
    /// A sequence that starts anywhere.
    pub fn seeded() -> Self {
        let mut seed = [0; 8];
        // The kernel's generator fails only before it is seeded at boot; every sequence is as good as another then.
        let _ = getrandom::fill(&mut seed);
        Self(u64::from_le_bytes(seed))
    }

    /// The next number.
    #[inline]
    pub fn next_draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_differ() {
        let mut draws = Draws::seeded();
        let mut seen: Vec<u64> = (0..1000).map(|_| draws.next_draw()).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 1000);
        assert!(seen[500] > u64::MAX / 4 && seen[500] < u64::MAX / 4 * 3);
    }
}
