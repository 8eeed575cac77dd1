//! Messages that leave a queue without having been acknowledged.

use posthouse_model::ids::Seq;

use super::Queue;

/// Why a message leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// The queue was longer than it may be.
    MaxLength,
}

/// What has left since it was last asked for: the log must be told.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Departed {
    /// Inclusive ranges of their numbers.
    pub ranges: Vec<(Seq, Seq)>,
    /// Whether any of them may be persistent.
    pub persistent: bool,
}

/// How many messages have left for each reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DepartureCounts {
    /// [`Reason::MaxLength`].
    pub max_length: u64,
}

impl<L: Copy, W: Clone> Queue<L, W> {
    /// `first..=last`, neither ready nor handed out any more, are done with.
    pub(super) fn depart(&mut self, first: Seq, last: Seq, reason: Reason) {
        let settled = self.chunks.settle(first, last);
        match reason {
            Reason::MaxLength => self.departure_counts.max_length += settled.count,
        }
        self.departed.persistent |= settled.persistent;
        match self.departed.ranges.last_mut() {
            Some(range) if range.1 + 1 == first => range.1 = last,
            _ => self.departed.ranges.push((first, last)),
        }
    }

    /// Whether anything has left since [`Self::take_departed`].
    pub fn has_departed(&self) -> bool {
        !self.departed.ranges.is_empty()
    }

    /// What has left since the last call.
    pub fn take_departed(&mut self) -> Departed {
        std::mem::take(&mut self.departed)
    }

    /// How many have left since the machine was made.
    pub fn departure_counts(&self) -> DepartureCounts {
        self.departure_counts
    }
}
