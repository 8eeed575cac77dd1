//! Messages that leave a queue without having been acknowledged: for good, or for the queue's dead-letter exchange.

use posthouse_model::ids::Seq;

use super::Queue;

/// Why a message leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// The queue was longer than it may be.
    MaxLength,
    /// Its time to live was over.
    Expired,
    /// A consumer rejected it with `basic.reject`.
    Rejected,
    /// A consumer rejected it with `basic.nack`.
    Nacked,
    /// It came back more often than it may.
    DeliveryLimit,
}

impl Reason {
    /// Its name in `x-death`.
    pub fn name(self) -> &'static str {
        match self {
            Self::MaxLength => "maxlen",
            Self::Expired => "expired",
            Self::Rejected | Self::Nacked => "rejected",
            Self::DeliveryLimit => "delivery_limit",
        }
    }

    /// Whether a delivery of the message from the queue that it is dead-lettered to counts as a repeated one. RabbitMQ
    /// makes this difference between its two ways of rejecting.
    pub fn marks_redelivered(self) -> bool {
        match self {
            Self::Rejected | Self::DeliveryLimit => true,
            Self::MaxLength | Self::Expired | Self::Nacked => false,
        }
    }
}

/// What has left for good since it was last asked for: the log must be told.
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
    /// [`Reason::Expired`].
    pub expired: u64,
    /// [`Reason::Rejected`] and [`Reason::Nacked`].
    pub rejected: u64,
    /// [`Reason::DeliveryLimit`].
    pub delivery_limit: u64,
    /// Messages that were in the queue already, by their `x-deduplication-header`.
    pub duplicate: u64,
}

impl<L: Copy, W: Clone> Queue<L, W> {
    /// `first..=last`, neither ready nor handed out any more, leave: for the dead-letter exchange where there is one,
    /// for good otherwise. How many there were.
    pub(super) fn depart(&mut self, first: Seq, last: Seq, reason: Reason) -> u64 {
        self.attempts.forget(first, last);
        self.forget_groups(first, last);
        let count = if self.settings.dead_letter_exchange.is_some() {
            self.let_leave(first, last, reason)
        } else {
            self.depart_for_good(first, last)
        };
        let counts = &mut self.departure_counts;
        match reason {
            Reason::MaxLength => counts.max_length += count,
            Reason::Expired => counts.expired += count,
            Reason::Rejected | Reason::Nacked => counts.rejected += count,
            Reason::DeliveryLimit => counts.delivery_limit += count,
        }
        count
    }

    /// The same, for good whatever the queue's dead-letter exchange.
    pub(super) fn depart_for_good(&mut self, first: Seq, last: Seq) -> u64 {
        let settled = self.chunks.settle(first, last);
        self.departed.persistent |= settled.persistent;
        match self.departed.ranges.last_mut() {
            Some(range) if range.1 + 1 == first => range.1 = last,
            _ => self.departed.ranges.push((first, last)),
        }
        settled.count
    }

    /// Whether anything has left for good since [`Self::take_departed`].
    pub fn has_departed(&self) -> bool {
        !self.departed.ranges.is_empty()
    }

    /// What has left for good since the last call.
    pub fn take_departed(&mut self) -> Departed {
        std::mem::take(&mut self.departed)
    }

    /// How many have left since the machine was made.
    pub fn departure_counts(&self) -> DepartureCounts {
        self.departure_counts
    }
}
