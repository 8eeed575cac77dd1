//! A set of levels: one bit for each.

/// See the module's documentation. Iterates from the highest level down.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct LevelSet([u64; 4]);

impl LevelSet {
    /// Adds a level, or removes it.
    pub(super) fn set(&mut self, level: u8, member: bool) {
        let (word, bit) = (&mut self.0[usize::from(level / 64)], 1 << (level % 64));
        if member {
            *word |= bit;
        } else {
            *word &= !bit;
        }
    }

    /// The highest level in it.
    pub(super) fn highest(self) -> Option<u8> {
        let word = self.0.iter().rposition(|&word| word != 0)?;
        Some((word as u32 * 64 + 63 - self.0[word].leading_zeros()) as u8)
    }

    /// The lowest level in it.
    pub(super) fn lowest(self) -> Option<u8> {
        let word = self.0.iter().position(|&word| word != 0)?;
        Some((word as u32 * 64 + self.0[word].trailing_zeros()) as u8)
    }

    /// Those that are not in `other`.
    pub(super) fn without(self, other: Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] & !other.0[word]))
    }
}

impl Iterator for LevelSet {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let level = self.highest()?;
        self.set(level, false);
        Some(level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_and_the_difference() {
        let mut set = LevelSet::default();
        assert_eq!((set.highest(), set.lowest()), (None, None));
        for level in [0, 63, 64, 255] {
            set.set(level, true);
        }
        assert_eq!((set.highest(), set.lowest()), (Some(255), Some(0)));
        let mut some = LevelSet::default();
        some.set(255, true);
        some.set(7, true);
        assert_eq!(set.without(some).collect::<Vec<_>>(), [64, 63, 0]);
        set.set(0, false);
        assert_eq!(set.lowest(), Some(63));
    }
}
