//! The confirm window of one producer: which publishes are outstanding, and what a confirm says about them.

use std::collections::VecDeque;

use anyhow::{Result, bail};

use super::histogram::Histogram;

/// Outstanding publishes, numbered from 1 as the broker numbers them.
pub(super) struct Window {
    limit: u64,
    /// Whether each publish from `base` on has been answered; the first has not.
    answered: VecDeque<bool>,
    base: u64,
    outstanding: u64,
    confirmed: u64,
    refused: u64,
    /// Last tag and time of each write, oldest first.
    writes: VecDeque<(u64, u64)>,
    latency: Histogram,
}

impl Window {
    /// A window of `limit` outstanding publishes.
    pub(super) fn new(limit: u32) -> Self {
        Self {
            limit: u64::from(limit),
            answered: VecDeque::with_capacity(limit as usize),
            base: 1,
            outstanding: 0,
            confirmed: 0,
            refused: 0,
            writes: VecDeque::with_capacity(limit as usize),
            latency: Histogram::default(),
        }
    }

    /// How many more may be published now.
    pub(super) fn room(&self) -> u64 {
        self.limit - self.outstanding
    }

    /// Published and not answered.
    pub(super) fn outstanding(&self) -> u64 {
        self.outstanding
    }

    /// Answered with an ack.
    pub(super) fn confirmed(&self) -> u64 {
        self.confirmed
    }

    /// Answered with a nack.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    /// Time from write to answer.
    pub(super) fn into_latency(self) -> Histogram {
        self.latency
    }

    /// Takes note of `n` publishes written at `nanos`.
    pub(super) fn sent(&mut self, n: u64, nanos: u64) {
        self.answered.extend(std::iter::repeat_n(false, n as usize));
        self.outstanding += n;
        self.writes.push_back((self.base + self.answered.len() as u64 - 1, nanos));
    }

    /// Takes note of an answer that came at `nanos`. An error when the broker answers what was not asked.
    pub(super) fn answer(&mut self, tag: u64, multiple: bool, refused: bool, nanos: u64) -> Result<()> {
        let end = self.base + self.answered.len() as u64;
        // Tag 0 with `multiple` means everything so far.
        let tag = if tag == 0 && multiple { end - 1 } else { tag };
        if tag >= end || (tag < self.base && !multiple) {
            bail!("the broker confirmed {tag}, outstanding are {} to {}", self.base, end - 1);
        }
        let last = tag.checked_sub(self.base).map_or(0, |index| index as usize + 1);
        let first = if multiple { 0 } else { last - 1 };
        let mut newly = 0;
        for answered in self.answered.range_mut(first..last) {
            newly += u64::from(!std::mem::replace(answered, true));
        }
        if newly == 0 && !multiple {
            bail!("the broker confirmed {tag} twice");
        }
        self.outstanding -= newly;
        *if refused { &mut self.refused } else { &mut self.confirmed } += newly;
        if let Some(written) = self.written(tag).filter(|_| newly > 0) {
            self.latency.record(nanos.saturating_sub(written), newly);
        }
        while self.answered.front() == Some(&true) {
            self.answered.pop_front();
            self.base += 1;
        }
        while self.writes.front().is_some_and(|(last, _)| *last < self.base) {
            self.writes.pop_front();
        }
        Ok(())
    }

    fn written(&self, tag: u64) -> Option<u64> {
        let index = self.writes.partition_point(|(last, _)| *last < tag);
        self.writes.get(index).map(|(_, nanos)| *nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn singles_in_any_order_and_multiples() {
        let mut window = Window::new(10);
        window.sent(6, 100);
        window.sent(4, 200);
        assert_eq!(window.room(), 0);
        window.answer(3, false, false, 300).unwrap();
        assert_eq!((window.room(), window.base), (1, 1));
        window.answer(4, true, false, 400).unwrap();
        assert_eq!((window.room(), window.base, window.confirmed()), (4, 5, 4));
        window.answer(6, true, true, 400).unwrap();
        assert_eq!((window.refused(), window.outstanding()), (2, 4));
        window.answer(0, true, false, 500).unwrap();
        assert_eq!((window.room(), window.confirmed(), window.base), (10, 8, 11));
        assert!(window.writes.is_empty());
        let latency = window.into_latency();
        assert_eq!((latency.count(), latency.max()), (10, 300));
    }

    #[test]
    fn answers_to_nothing_are_errors() {
        let mut window = Window::new(10);
        window.sent(2, 0);
        window.answer(1, false, false, 0).unwrap();
        for (tag, multiple, expected) in [
            (3, false, "the broker confirmed 3, outstanding are 2 to 2"),
            (3, true, "the broker confirmed 3, outstanding are 2 to 2"),
            (1, false, "the broker confirmed 1, outstanding are 2 to 2"),
        ] {
            assert_eq!(window.answer(tag, multiple, false, 0).unwrap_err().to_string(), expected);
        }
        window.answer(1, true, false, 0).unwrap();
        assert_eq!(window.outstanding(), 1);
    }
}
