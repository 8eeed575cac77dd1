//! A hash that is the same on every machine and in every version: which queue a key goes to must survive restarts and
//! upgrades. FNV-1a over the bytes, then the finisher of SplitMix64, because FNV alone leaves the high bits of short
//! keys nearly equal.

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// Hashes byte strings one after the other; where one ends is part of the hash.
#[derive(Clone, Copy, Debug)]
pub(super) struct StableHasher(u64);

impl StableHasher {
    /// A hash of nothing.
    pub(super) fn new() -> Self {
        Self(FNV_OFFSET)
    }

    /// Adds a byte string.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        // No byte of a UTF-8 text is 255.
        let ended = bytes.iter().copied().chain([0xff]);
        self.0 = ended.fold(self.0, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME));
    }

    /// The hash of what was added.
    pub(super) fn finish(self) -> u64 {
        mix(self.0)
    }
}

/// The hash of one byte string.
pub(super) fn stable_hash(bytes: &[u8]) -> u64 {
    let mut hasher = StableHasher::new();
    hasher.add(bytes);
    hasher.finish()
}

/// Spreads every bit of `value` over all bits; distinct values stay distinct.
#[inline]
pub(super) fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A number below `count`, each equally likely if `random` is any number with equal likelihood.
#[inline]
pub(super) fn below(count: usize, random: u64) -> usize {
    ((u128::from(random) * count as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_same_for_ever() {
        assert_eq!(stable_hash(b""), 0x4f2d_b50f_1240_40cd);
        assert_eq!(stable_hash(b"orders.eu"), 0xeb78_ca7c_2d53_0cd7);
    }

    #[test]
    fn strings_do_not_run_together() {
        let of = |parts: &[&[u8]]| {
            let mut hasher = StableHasher::new();
            parts.iter().for_each(|part| hasher.add(part));
            hasher.finish()
        };
        assert_ne!(of(&[b"ab", b"c"]), of(&[b"a", b"bc"]));
        assert_ne!(of(&[b"a"]), of(&[b"a", b""]));
    }

    #[test]
    fn a_number_below_another() {
        assert_eq!((below(3, 0), below(3, u64::MAX / 2), below(3, u64::MAX)), (0, 1, 2));
        assert_eq!(below(1, u64::MAX), 0);
    }
}
