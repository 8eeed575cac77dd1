//! Delayed retries: a message that came back waits before it is ready again.
//!
//! Such a message keeps its place, and is neither ready nor handed out. It counts wherever the length of the queue does,
//! and expires, is purged and makes room as if it were ready.
//!
//! No message has a timer. Those that come back together and wait for the same time are one entry, and times are rounded up
//! to slots (`slot_ms`) for that; the queue is looked at when the first entry is due, as it is for what expires.

use posthouse_model::attempts::{AttemptRange, Return};
use posthouse_model::delays::DelayRange;
use posthouse_model::ids::{Seq, level_of};

use super::Queue;
use super::times::NEVER_MS;

/// Entries that become ready in one go.
const ENTRIES_AT_ONCE: usize = 4096;

/// The finest slot.
const SLOT_MS_MIN: u64 = 8;

/// A slot is no longer than this part of a delay, but for the finest one.
const SLOTS_OF_DELAY: u64 = 128;

/// Messages come back.
#[derive(Clone, Copy, Debug)]
pub struct Back {
    /// Why.
    pub why: Return,
    /// When, in milliseconds since the Unix epoch; nobody looks at it in a queue that delays nothing.
    pub now_ms: u64,
}

/// The length of the slots for that delay: a power of two, so that they nest.
fn slot_ms(delay_ms: u64) -> u64 {
    let most = (delay_ms / SLOTS_OF_DELAY).max(SLOT_MS_MIN);
    1 << most.ilog2()
}

/// When what came back at `now_ms` is ready again: the end of the slot in which its delay ends.
pub(super) fn due_ms(now_ms: u64, delay_ms: u64) -> u64 {
    now_ms.saturating_add(delay_ms).next_multiple_of(slot_ms(delay_ms))
}

impl<L: Copy, W: Clone> Queue<L, W> {
    /// Messages of all levels that came back and wait for a time.
    pub fn delayed(&self) -> u64 {
        self.delayed
    }

    /// Whether delayed messages have become ready for which nobody was woken: [`Self::wake_after_settling`] does.
    pub fn has_freed(&self) -> bool {
        self.freed
    }

    /// Whether messages that come back may have to wait for a time.
    #[inline]
    pub fn delays_retries(&self) -> bool {
        self.settings.delayed_retry.is_on()
    }

    /// When a message of this level is ready again.
    #[inline]
    pub(super) fn delays_due_ms(&self) -> u64 {
        self.delays.as_ref().and_then(|delays| delays.next_due_ms()).unwrap_or(NEVER_MS)
    }

    /// Bytes of memory that what is known of delayed messages of this level takes.
    pub(super) fn delays_bytes(&self) -> usize {
        self.delays.as_ref().map_or(0, |delays| delays.memory_bytes())
    }

    /// The delayed messages of this level, in order.
    pub fn delays(&self) -> impl Iterator<Item = DelayRange> + '_ {
        self.delayed_within(0, Seq::MAX)
    }

    /// Appends to `delays` which of `first..=last`, which are of one level, are delayed.
    pub fn note_delays(&self, first: Seq, last: Seq, delays: &mut Vec<DelayRange>) {
        let line = match self.level_of(first) {
            Some(level) => self.level(level),
            None => Some(self),
        };
        delays.extend(line.into_iter().flat_map(|line| line.delayed_within(first, last)));
    }

    /// Takes over which messages were delayed before a restart, as far as they still are by what the settings say now; in
    /// ascending order. Nobody may have taken any message yet.
    ///
    /// With groups all are ready: which group a message is of that came back is not known, and that keeps the order.
    pub fn restore_delays(&mut self, delays: &[DelayRange], now_ms: u64) {
        if !self.delays_retries() || self.groups.is_some() {
            return;
        }
        for of_level in delays.chunk_by(|a, b| level_of(a.first) == level_of(b.first)) {
            match self.level_of(of_level[0].first) {
                Some(level) => self.in_level(level, |queue| queue.restore_delays_of_line(of_level, now_ms)),
                None => self.restore_delays_of_line(of_level, now_ms),
            }
        }
    }

    fn restore_delays_of_line(&mut self, delays: &[DelayRange], now_ms: u64) {
        let retry = self.settings.delayed_retry;
        let Some(longest_ms) = retry.longest_ms() else { return };
        let latest_ms = due_ms(now_ms, longest_ms);
        self.pass_to(delays.last().map_or(0, |range| range.last.saturating_add(1)));
        for range in delays {
            // The clock may have been set back, or the settings have changed.
            let due_ms = range.due_ms.min(latest_ms);
            let there: Vec<_> = self.returned.within(range.first, range.last).collect();
            for (first, last) in there {
                self.returned.take_within(first, last);
                self.delay(DelayRange { first, last, due_ms });
            }
        }
    }

    /// Moves the cursor on to `end`, as if all before it had been handed out and given back.
    fn pass_to(&mut self, end: Seq) {
        let mut index = self.chunks.index_at_or_after(self.cursor);
        while let Some(held) = self.chunks.get(index).filter(|held| held.first_seq < end) {
            let mut from = self.cursor.saturating_sub(held.first_seq) as u32;
            while let Some((first, last)) = held.next_live(from) {
                let (first, last) = (held.first_seq + Seq::from(first), held.first_seq + Seq::from(last));
                if first >= end {
                    break;
                }
                self.returned.insert(first, last.min(end - 1));
                from = (last - held.first_seq) as u32 + 1;
            }
            index += 1;
        }
        self.cursor = self.cursor.max(end.min(self.next_seq));
        self.cursor_place = None;
    }

    /// The delayed messages of this level among `first..=last`, in order.
    pub(super) fn delayed_within(&self, first: Seq, last: Seq) -> impl Iterator<Item = DelayRange> + '_ {
        self.delays.iter().flat_map(move |delays| delays.within(first, last))
    }

    /// Messages that came back and are not spent, which were counted as ready: they wait for a time if they must, or are
    /// handed out again.
    pub(super) fn put_back(&mut self, range: AttemptRange, back: Back) {
        let AttemptRange { first, last, attempts } = range;
        match self.settings.delayed_retry.delay_ms(back.why, attempts) {
            Some(delay_ms) => self.delay(DelayRange { first, last, due_ms: due_ms(back.now_ms, delay_ms) }),
            None => self.make_ready(first, last),
        }
    }

    /// Lets `first..=last`, which were handed out before and are counted as ready, be handed out again.
    pub(super) fn make_ready(&mut self, first: Seq, last: Seq) {
        self.returned.insert(first, last);
        if let Some(groups) = &mut self.groups {
            groups.give_back(first, last);
        }
    }

    /// Lets messages wait that were counted as ready.
    fn delay(&mut self, range: DelayRange) {
        let (messages, bytes) = (range.last - range.first + 1, self.body_bytes(range.first, range.last));
        self.ready -= messages;
        self.delayed += messages;
        self.ready_bytes -= bytes;
        self.delayed_bytes += bytes;
        if let Some(groups) = &mut self.groups {
            groups.delay(range.first, range.last);
        }
        self.delays.get_or_insert_default().insert(range);
    }

    /// Those of `first..=last` that were delayed are so no more, and nothing else: how many they were, and bytes of their
    /// bodies.
    pub(super) fn take_delayed(&mut self, first: Seq, last: Seq) -> (u64, u64) {
        let Some(delays) = &mut self.delays else { return (0, 0) };
        let (mut messages, mut bytes) = (0, 0);
        for range in delays.take_within(first, last) {
            messages += range.last - range.first + 1;
            bytes += self.chunks.body_bytes(range.first, range.last);
        }
        self.delayed -= messages;
        self.delayed_bytes -= bytes;
        self.forget_no_delays();
        (messages, bytes)
    }

    /// Lets messages of this level be ready whose time has come, as far as one call does; whether there were any.
    pub(super) fn end_delays(&mut self, now_ms: u64) -> bool {
        let mut any = false;
        for _ in 0..ENTRIES_AT_ONCE {
            let due = self.delays.as_mut().and_then(|delays| delays.pop_due(now_ms));
            let Some(DelayRange { first, last, .. }) = due else { break };
            let (messages, bytes) = (last - first + 1, self.body_bytes(first, last));
            self.ready += messages;
            self.delayed -= messages;
            self.ready_bytes += bytes;
            self.delayed_bytes -= bytes;
            self.returned.insert(first, last);
            if let Some(groups) = &mut self.groups {
                groups.end_delay(first, last);
            }
            any = true;
        }
        self.forget_no_delays();
        any
    }

    /// Messages are delayed no more, because the settings say so.
    pub(super) fn review_delays(&mut self) {
        if self.delays_retries() {
            return;
        }
        while self.end_delays(NEVER_MS) {
            self.freed = true;
        }
    }

    /// Lets the memory go when nothing is delayed.
    fn forget_no_delays(&mut self) {
        self.delays.take_if(|delays| delays.is_empty());
    }
}
