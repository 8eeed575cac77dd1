//! Looking at messages without taking them: no place, flag or count changes.

use posthouse_model::bitmap::SeqBitmap;
use posthouse_model::chunk::Received;
use posthouse_model::delays::DelayRange;
use posthouse_model::ids::{Seq, first_of_level, level_of};

use super::Queue;
use super::chunks::{Held, Residence};

/// A chunk with messages to look at. It is valid for as long as the queue's lock is held; later the messages may have
/// been taken or settled, and the chunk may have moved to another segment.
#[derive(Clone, Debug)]
pub struct Glimpse<L> {
    /// Identifies the chunk within its queue.
    pub first_seq: Seq,
    /// Where its bytes are.
    pub residence: Residence<L>,
    /// When its messages were received.
    pub received: Received,
    /// The ready and delayed ones among its messages.
    pub ready: Vec<Ready>,
}

/// Consecutive messages that are ready, or will be at the same time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ready {
    /// The first one's number.
    pub first: Seq,
    /// The last one's number.
    pub last: Seq,
    /// Whether they may have been delivered before.
    pub redelivered: bool,
    /// When they are ready, if they wait for that; in milliseconds since the Unix epoch.
    pub delayed_until_ms: Option<u64>,
}

impl<L: Copy, W: Clone> Queue<L, W> {
    /// The number of the message, ready or delayed, that `skip` others precede; `None` when there are not so many.
    pub fn nth_ready(&mut self, skip: u64) -> Option<Seq> {
        let mut left = skip;
        let lines = self.levels_in_order(None);
        lines.into_iter().find_map(|level| self.in_line(level, |queue| queue.nth_ready_of_line(&mut left)))
    }

    /// The same of one level; `left` is how many of `skip` are left.
    fn nth_ready_of_line(&mut self, left: &mut u64) -> Option<Seq> {
        self.close_tail();
        for held in self.held() {
            let untouched = held.first_seq >= self.cursor;
            if untouched && u64::from(held.live) <= *left {
                *left -= u64::from(held.live);
                continue;
            }
            for ready in self.ready_in(held) {
                let count = ready.last - ready.first + 1;
                if *left < count {
                    return Some(ready.first + *left);
                }
                *left -= count;
            }
        }
        None
    }

    /// The next chunks with messages, ready or delayed, numbered `from` or above in its level, or of the levels after it, until their records
    /// exceed `most` bytes, where `bytes_of` tells a place's size; at least one, unless no such message is left.
    pub fn glimpse(&mut self, from: Seq, most: usize, bytes_of: impl Fn(L) -> usize) -> Vec<Glimpse<L>> {
        let (mut glimpses, mut bytes) = (Vec::new(), 0);
        for level in self.levels_in_order(Some(from)) {
            let from = if level == level_of(from) { from } else { first_of_level(level) };
            self.in_line(level, |queue| {
                queue.glimpse_of_line(from, most, &bytes_of, &mut bytes, &mut glimpses);
            });
        }
        glimpses
    }

    /// As [`Self::glimpse`], of one level; and whether more is left in it.
    pub fn glimpse_level(
        &mut self,
        level: u8,
        from: Seq,
        most: usize,
        bytes_of: impl Fn(L) -> usize,
    ) -> (Vec<Glimpse<L>>, bool) {
        let (mut glimpses, mut bytes) = (Vec::new(), 0);
        let mut look =
            |queue: &mut Self| queue.glimpse_of_line(from, most, &bytes_of, &mut bytes, &mut glimpses);
        let more = if level == 0 { look(self) } else { self.in_level(level, look) };
        (glimpses, more)
    }

    /// Whether more is left than there is room for.
    fn glimpse_of_line(
        &mut self,
        from: Seq,
        most: usize,
        bytes_of: &impl Fn(L) -> usize,
        bytes: &mut usize,
        glimpses: &mut Vec<Glimpse<L>>,
    ) -> bool {
        self.close_tail();
        let mut index = self.chunks.index_at_or_after(from);
        while let Some(held) = self.chunks.get(index) {
            index += 1;
            let mut ready = self.ready_in(held);
            ready.retain(|run| run.last >= from);
            if let Some(first) = ready.first_mut() {
                first.first = first.first.max(from);
                *bytes += match (held.residence.chunk(), held.residence.location()) {
                    (Some(chunk), _) => chunk.bytes().len(),
                    (None, Some(location)) => bytes_of(location),
                    (None, None) => 0,
                };
                if *bytes > most && !glimpses.is_empty() {
                    return true;
                }
                let (first_seq, residence, received) =
                    (held.first_seq, held.residence.clone(), held.received);
                glimpses.push(Glimpse { first_seq, residence, received, ready });
            }
        }
        false
    }

    /// A chunk's messages that are ready or delayed, in order.
    fn ready_in(&self, held: &Held<L>) -> Vec<Ready> {
        let mut ready = Vec::new();
        let returned = self.returned.within(held.first_seq, held.end_seq() - 1);
        for (first, last) in returned {
            match &self.groups {
                None => ready.push(Ready { first, last, redelivered: true, delayed_until_ms: None }),
                Some(groups) => ready.extend((first..=last).map(|seq| {
                    let redelivered = !groups.is_passed(seq) || seq < self.redelivered_below;
                    Ready { first: seq, last: seq, redelivered, delayed_until_ms: None }
                })),
            }
        }
        let delayed = self.delayed_within(held.first_seq, held.end_seq() - 1);
        ready.extend(delayed.map(|DelayRange { first, last, due_ms }| Ready {
            first,
            last,
            redelivered: true,
            delayed_until_ms: Some(due_ms),
        }));
        if self.delays.is_some() {
            ready.sort_unstable_by_key(|run| run.first);
        }
        let settled = held.settled_bitmap();
        let is_settled = |seq: Seq| {
            settled.as_ref().is_some_and(|bits: &SeqBitmap| bits.get((seq - held.first_seq) as u32))
        };
        let mut run: Option<Ready> = None;
        for seq in self.cursor.max(held.first_seq)..held.end_seq() {
            let redelivered = seq < self.redelivered_below;
            if is_settled(seq) {
                ready.extend(run.take());
            } else if let Some(run) = run.as_mut().filter(|run| run.redelivered == redelivered) {
                run.last = seq;
            } else {
                let next = Ready { first: seq, last: seq, redelivered, delayed_until_ms: None };
                ready.extend(run.replace(next));
            }
        }
        ready.extend(run);
        ready
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use posthouse_model::chunk::ChunkBuilder;

    use super::super::chunks::Persistence;
    use super::super::{Limits, Queue};
    use super::*;

    type TestQueue = Queue<u32, u32>;

    fn push(queue: &mut TestQueue, count: u32) {
        let mut builder = ChunkBuilder::default();
        (0..count).for_each(|_| builder.push(0, 0, b"\0\x01q", b"", 1, b"x"));
        queue.push_shared(Arc::new(builder.finish()), Persistence::Transient, 0, &mut Vec::new());
    }

    /// All ready messages, a chunk at a time.
    fn seen(queue: &mut TestQueue) -> Vec<(Seq, bool)> {
        let (mut all, mut from) = (Vec::new(), 0);
        loop {
            let glimpses = queue.glimpse(from, 1, |_| 1);
            let Some(last) = glimpses.last().and_then(|glimpse| glimpse.ready.last()) else { return all };
            from = last.last + 1;
            for run in glimpses.iter().flat_map(|glimpse| &glimpse.ready) {
                all.extend((run.first..=run.last).map(|seq| (seq, run.redelivered)));
            }
        }
    }

    fn take(queue: &mut TestQueue, messages: u32) {
        queue.take_any(Limits { messages, bytes: usize::MAX }, false, &mut Vec::new());
    }

    #[test]
    fn what_is_ready_is_seen_in_the_order_of_delivery_and_stays() {
        let mut queue = TestQueue::default();
        push(&mut queue, 4);
        push(&mut queue, 4);
        take(&mut queue, 6);
        queue.requeue(1, 2, &mut Vec::new());
        queue.requeue(5, 5, &mut Vec::new());
        queue.settle(0, 0);
        let expected = [(1, true), (2, true), (5, true), (6, false), (7, false)];
        for _ in 0..2 {
            assert_eq!(seen(&mut queue), expected);
            assert_eq!((queue.ready(), queue.unacked()), (5, 2));
        }
        let places: Vec<Option<Seq>> = (0..6).map(|skip| queue.nth_ready(skip)).collect();
        assert_eq!(places, [Some(1), Some(2), Some(5), Some(6), Some(7), None]);
    }

    #[test]
    fn settled_ones_beyond_the_cursor_are_passed_over() {
        let mut queue = TestQueue::default();
        push(&mut queue, 5);
        take(&mut queue, 5);
        queue.settle(1, 1);
        queue.settle(3, 3);
        let found = super::super::Recovered {
            chunks: queue.held().cloned().collect(),
            next_seq: queue.next_seq(),
            redelivered_below: 3,
        };
        let mut queue = TestQueue::recover(found);
        assert_eq!(seen(&mut queue), [(0, true), (2, true), (4, false)]);
        assert_eq!(queue.nth_ready(2), Some(4));
        assert_eq!(queue.nth_ready(3), None);
    }

    #[test]
    fn the_open_tail_and_an_empty_queue() {
        let mut queue = TestQueue::default();
        assert_eq!(seen(&mut queue), []);
        assert_eq!(queue.nth_ready(0), None);
        let mut builder = ChunkBuilder::default();
        builder.push(0, 0, b"\0\x01q", b"", 1, b"x");
        queue.push_copied(builder.bytes(), 1, Persistence::Transient, 0, &mut Vec::new());
        assert_eq!(seen(&mut queue), [(0, false)]);
    }
}
