//! A fixed-length set of small numbers: which messages of a chunk are settled.
//!
//! Encoded little-endian, version 1 (the version is carried by the file that holds it):
//!
//! ```text
//! +-------------+--------------------------------------+
//! | length u32  | ceil(length / 8) bytes, bit 0 lowest |
//! +-------------+--------------------------------------+
//! ```
//!
//! Bits past `length` in the last byte are zero.

/// A bitmap over `0..len`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SeqBitmap {
    words: Vec<u64>,
    len: u32,
    set: u32,
}

impl SeqBitmap {
    /// An empty set over `0..len`.
    pub fn new(len: u32) -> Self {
        Self { words: vec![0; len.div_ceil(64) as usize], len, set: 0 }
    }

    /// How many numbers it covers.
    #[allow(clippy::len_without_is_empty, reason = "the length is fixed; whether bits are set is `count`")]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether `at` is in the set; numbers past the end are not.
    #[inline]
    pub fn get(&self, at: u32) -> bool {
        self.words.get((at / 64) as usize).is_some_and(|w| w >> (at % 64) & 1 == 1)
    }

    /// Adds `at`; whether it was new. Numbers past the end are ignored.
    #[inline]
    pub fn set(&mut self, at: u32) -> bool {
        if at >= self.len || self.get(at) {
            return false;
        }
        self.words[(at / 64) as usize] |= 1 << (at % 64);
        self.set += 1;
        true
    }

    /// Adds `from..to`, cut to the length; how many of them were new.
    pub fn set_range(&mut self, from: u32, to: u32) -> u32 {
        let to = to.min(self.len);
        let (before, mut at) = (self.set, from);
        while at < to {
            let bit = at % 64;
            let span = (64 - bit).min(to - at);
            let mask = (u64::MAX >> (64 - span)) << bit;
            let word = &mut self.words[(at / 64) as usize];
            self.set += (mask & !*word).count_ones();
            *word |= mask;
            at += span;
        }
        self.set - before
    }

    /// Takes `from..to`, cut to the length, out of the set.
    pub fn clear_range(&mut self, from: u32, to: u32) {
        for at in from..to.min(self.len) {
            let word = &mut self.words[(at / 64) as usize];
            self.set -= (*word >> (at % 64) & 1) as u32;
            *word &= !(1 << (at % 64));
        }
    }

    /// Takes out what is not in another set as well.
    pub fn retain(&mut self, other: &Self) {
        let others = other.words.iter().chain(std::iter::repeat(&0));
        for (word, other) in self.words.iter_mut().zip(others) {
            *word &= other;
        }
        self.set = self.words.iter().map(|word| word.count_ones()).sum();
    }

    /// The first number at or after `from` that is not in the set.
    pub fn next_unset(&self, from: u32) -> Option<u32> {
        let mut at = from;
        while at < self.len {
            let free = !self.words[(at / 64) as usize] >> (at % 64);
            if free != 0 {
                let found = at + free.trailing_zeros();
                return (found < self.len).then_some(found);
            }
            at = (at / 64 + 1) * 64;
        }
        None
    }

    /// The first number at or after `from` that is in the set.
    pub fn next_set(&self, from: u32) -> Option<u32> {
        let mut at = from;
        while at < self.len {
            let set = self.words[(at / 64) as usize] >> (at % 64);
            if set != 0 {
                return Some(at + set.trailing_zeros());
            }
            at = (at / 64 + 1) * 64;
        }
        None
    }

    /// How many are in the set.
    pub fn count(&self) -> u32 {
        self.set
    }

    /// Whether every number is in the set.
    pub fn all_set(&self) -> bool {
        self.set == self.len
    }

    /// Bytes of memory it holds.
    pub fn memory_bytes(&self) -> usize {
        self.words.capacity() * 8 + size_of::<Self>()
    }

    /// Appends the encoding drawn above.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.len.to_le_bytes());
        let end = out.len() + self.len.div_ceil(8) as usize;
        for word in &self.words {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.truncate(end);
    }

    /// Reads an encoding off the front of `bytes` and returns what follows; `None` when it is cut short or has
    /// bits past its length.
    pub fn decode(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (len, rest) = bytes.split_first_chunk::<4>()?;
        let len = u32::from_le_bytes(*len);
        let (bits, rest) = rest.split_at_checked(len.div_ceil(8) as usize)?;
        let mut words = Vec::with_capacity(len.div_ceil(64) as usize);
        for part in bits.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            words.push(u64::from_le_bytes(word));
        }
        if !len.is_multiple_of(64) && words.last().is_some_and(|w| w >> (len % 64) != 0) {
            return None;
        }
        let set = words.iter().map(|w| w.count_ones()).sum();
        Some((Self { words, len, set }, rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn version_1_bytes_are_fixed() {
        let mut bitmap = SeqBitmap::new(10);
        assert!(bitmap.set(0) && bitmap.set(9) && !bitmap.set(9) && !bitmap.set(10));
        let mut bytes = Vec::new();
        bitmap.encode(&mut bytes);
        assert_eq!(bytes, [10, 0, 0, 0, 0b1, 0b10]);
        bytes.push(77);
        assert_eq!(SeqBitmap::decode(&bytes), Some((bitmap, &[77u8][..])));
    }

    #[test]
    fn refuses_damage() {
        assert!(SeqBitmap::decode(&[10, 0, 0, 0, 1]).is_none());
        assert!(SeqBitmap::decode(&[10, 0, 0, 0, 1, 0b100]).is_none());
        assert!(SeqBitmap::decode(&[255, 255, 255, 255]).is_none());
    }

    proptest! {
        #[test]
        fn retains_what_both_sets_have(lens in (0u32..200, 0u32..200), seed in prop::collection::vec(0u32..200, 0..80)) {
            let (mut some, mut other) = (SeqBitmap::new(lens.0), SeqBitmap::new(lens.1));
            for (at, number) in seed.into_iter().enumerate() {
                if at % 3 != 0 { some.set(number); }
                if at % 3 != 1 { other.set(number); }
            }
            let before = some.clone();
            some.retain(&other);
            (0..200).for_each(|at| assert_eq!(some.get(at), before.get(at) && other.get(at)));
            prop_assert_eq!(some.count() as usize, (0..200).filter(|&at| some.get(at)).count());
        }

        #[test]
        fn agrees_with_a_plain_set(
            len in 0u32..300,
            ranges in prop::collection::vec((0u32..320, 0u32..130), 0..8),
        ) {
            let mut bitmap = SeqBitmap::new(len);
            let mut plain = std::collections::BTreeSet::new();
            for (from, span) in ranges {
                let new = (from..(from + span).min(len)).filter(|&i| plain.insert(i)).count();
                prop_assert_eq!(bitmap.set_range(from, from + span) as usize, new);
            }
            prop_assert_eq!(bitmap.count() as usize, plain.len());
            prop_assert_eq!(bitmap.all_set(), plain.len() == len as usize);
            for i in 0..320 {
                prop_assert_eq!(bitmap.get(i), plain.contains(&i));
                prop_assert_eq!(bitmap.next_unset(i), (i..len).find(|n| !plain.contains(n)));
                prop_assert_eq!(bitmap.next_set(i), (i..len).find(|n| plain.contains(n)));
            }
            let mut bytes = Vec::new();
            bitmap.encode(&mut bytes);
            prop_assert_eq!(SeqBitmap::decode(&bytes), Some((bitmap, &[][..])));
        }
    }
}
