//! Finding messages by their numbers, for who keeps an account of what is in a queue.

use posthouse_model::ids::{Seq, level_of};

use super::Queue;
use super::chunks::Residence;
use super::times::NEVER_MS;

/// How much of a level there is.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Extent {
    /// Messages.
    pub messages: u64,
    /// Bytes of their chunks' records.
    pub bytes: usize,
}

impl Extent {
    /// Whether it is no more than `most`.
    pub fn is_within(self, most: Self) -> bool {
        self.messages <= most.messages && self.bytes <= most.bytes
    }
}

impl<L: Copy, W: Clone> Queue<L, W> {
    /// How much of a level there is in chunks that do not end before `from`, where `bytes_of` tells a place's size. What
    /// comes after the chunk with which it is more than `most` is not counted.
    pub fn extent(&mut self, level: u8, from: Seq, most: Extent, bytes_of: impl Fn(L) -> usize) -> Extent {
        let look = |queue: &mut Self| {
            queue.close_tail();
            let mut extent = Extent::default();
            let mut index = queue.chunks.index_at_or_after(from);
            while extent.is_within(most)
                && let Some(held) = queue.chunks.get(index)
            {
                extent.messages += u64::from(held.live);
                extent.bytes += match (held.residence.chunk(), held.residence.location()) {
                    (Some(chunk), _) => chunk.bytes().len(),
                    (None, location) => location.map_or(0, &bytes_of),
                };
                index += 1;
            }
            extent
        };
        if level == 0 { look(self) } else { self.in_level(level, look) }
    }

    /// The chunk of a message that is neither settled nor leaving: the number of its first message, and where its bytes
    /// are. It is valid for as long as the queue's lock is held; later the chunk may have moved to another segment.
    pub fn locate(&mut self, seq: Seq) -> Option<(Seq, Residence<L>)> {
        let look = |queue: &mut Self| {
            queue.close_tail();
            let held = queue.chunks.get(queue.chunks.index_at_or_after(seq))?;
            let delta = u32::try_from(seq.checked_sub(held.first_seq)?).ok()?;
            (!held.is_settled(delta)).then(|| (held.first_seq, held.residence.clone()))
        };
        match level_of(seq) {
            0 => look(self),
            level => self.in_level(level, look),
        }
    }

    /// Every level with messages, and the earliest time of one of their records.
    pub fn earliest(&mut self) -> Vec<(u8, u64)> {
        let mut earliest = Vec::new();
        let mut look = |queue: &mut Self| {
            queue.close_tail();
            let first = queue.held().map(|held| held.received.first_ms).min();
            if let Some(first_ms) = first.filter(|&first_ms| first_ms != NEVER_MS) {
                earliest.push((level_of(queue.next_seq()), first_ms));
            }
        };
        self.in_levels(&mut look);
        look(self);
        earliest
    }
}

#[cfg(test)]
mod tests {
    use posthouse_model::chunk::ChunkBuilder;
    use posthouse_model::ids::first_of_level;

    use super::super::Queue;
    use super::super::chunks::Persistence;
    use super::*;

    fn push(queue: &mut Queue<u32, u32>, level: u8, times: &[u64]) -> Seq {
        let mut builder = ChunkBuilder::default();
        times.iter().for_each(|&time| builder.push(0, time, b"\0\x01q", b"", 1, b"x"));
        let (count, none) = (builder.count(), &mut Vec::new());
        queue.push_copied_at(level, builder.bytes(), count, Persistence::Transient, 0, none)
    }

    #[test]
    fn messages_of_each_level_are_found() {
        let mut queue = Queue::default();
        push(&mut queue, 0, &[50, 40]);
        let first = push(&mut queue, 9, &[70, 60, 80]);
        assert_eq!(first, first_of_level(9));
        assert_eq!(queue.earliest(), [(9, 60), (0, 40)]);
        let all = Extent { messages: u64::MAX, bytes: usize::MAX };
        let extent = queue.extent(9, first, all, |_| 0);
        assert_eq!((extent.messages, extent.bytes), (3, 3 * (24 + 3 + 1)));
        assert_eq!(queue.extent(9, first + 3, all, |_| 0), Extent::default());
        assert_eq!(queue.extent(8, first, all, |_| 0), Extent::default());
        assert_eq!(queue.locate(first + 2).map(|(chunk, _)| chunk), Some(first));
        let mut claimed = Vec::new();
        queue.claim(first + 2, first + 2, &mut claimed);
        assert!(queue.locate(first + 2).is_none() && queue.locate(first + 3).is_none());
        assert!(queue.locate(1).is_some() && queue.locate(2).is_none());
        let (glimpses, more) = queue.glimpse_level(9, first, usize::MAX, |_| 0);
        assert_eq!((glimpses.len(), glimpses[0].ready[0].last, more), (1, first + 1, false));
        push(&mut queue, 9, &[90]);
        assert!(queue.glimpse_level(9, first, 1, |_| 0).1);
    }

    #[test]
    fn no_more_is_counted_than_is_asked_for() {
        let mut queue = Queue::default();
        for _ in 0..100 {
            push(&mut queue, 0, &[1, 2]);
            queue.close_tail();
        }
        let looked = std::cell::Cell::new(0);
        for first in (0..200).step_by(2) {
            queue.written(first, 7, true);
        }
        let bytes_of = |_: u32| {
            looked.set(looked.get() + 1);
            10
        };
        let most = Extent { messages: 9, bytes: usize::MAX };
        let extent = queue.extent(0, 0, most, bytes_of);
        assert_eq!((extent.messages, extent.is_within(most), looked.get()), (10, false, 5));
        let most = Extent { messages: u64::MAX, bytes: 20 };
        assert_eq!(queue.extent(0, 190, most, bytes_of), Extent { messages: 6, bytes: 30 });
        assert_eq!(looked.get(), 8);
    }
}
