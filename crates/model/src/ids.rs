//! Numbers that identify things for the life of a data directory.

use std::fmt;

/// A queue's identity. Never reused within a data directory, so a log record can never be applied to a later
/// queue of the same name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct QueueId(pub u64);

/// A message's place in its queue: 0, 1, 2 ... in order of arrival, never reused. In a queue with priorities each level
/// counts for itself, and the level is the top byte: the messages of level 3 are 3 << 56, (3 << 56) + 1 ...
pub type Seq = u64;

/// Bits of a [`Seq`] below its level.
const LEVEL_SHIFT: u32 = 56;

/// The level of a message's priority. Queues without priorities have level 0 only.
#[inline]
pub fn level_of(seq: Seq) -> u8 {
    (seq >> LEVEL_SHIFT) as u8
}

/// The number of the first message of a level.
pub fn first_of_level(level: u8) -> Seq {
    Seq::from(level) << LEVEL_SHIFT
}

impl QueueId {
    /// What storage knows the messages of one level by: each level of a queue is a queue of its own there, whose
    /// identity has the level in its top byte.
    #[must_use]
    pub fn with_level_of(self, seq: Seq) -> Self {
        Self(self.without_level().0 | first_of_level(level_of(seq)))
    }

    /// The queue that a level belongs to.
    #[must_use]
    pub fn without_level(self) -> Self {
        Self(self.0 & ((1 << LEVEL_SHIFT) - 1))
    }
}

/// A position in the write-ahead log: the count of bytes staged before it since the data directory was made.
/// `appended >= durable >= committed >= applied` are different positions, see `ARCHITECTURE.md`.
pub type Lsn = u64;

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_the_top_byte() {
        let queue = QueueId(7);
        assert_eq!(queue.with_level_of(41), queue);
        let last = first_of_level(255) + 9;
        assert_eq!((level_of(last), level_of(last - 10)), (255, 254));
        let level = queue.with_level_of(last);
        assert_eq!((level, level.without_level()), (QueueId(0xff00_0000_0000_0007), queue));
        assert_eq!(level.with_level_of(first_of_level(1)), QueueId(0x0100_0000_0000_0007));
    }
}
