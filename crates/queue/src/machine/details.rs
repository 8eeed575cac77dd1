//! What a queue with certain settings keeps in memory of each message of a chunk, also while its bytes are on disk.
//!
//! Four bytes a message, and only in queues whose settings ask for it.

use posthouse_model::chunk::{Chunk, Records};

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub struct Details {
    /// Bytes of the bodies up to and including that of the message with this delta.
    body_sums: Vec<u32>,
}

impl Details {
    /// The details of a chunk that covers `span` numbers, some of which may be without a record.
    pub fn of(chunk: &Chunk, span: u32) -> Self {
        let mut details = Self { body_sums: Vec::with_capacity(span as usize) };
        for record in chunk.records() {
            details.fill(record.delta());
            details.add(record.body().len());
        }
        details.fill(span);
        details
    }

    /// Adds records that follow without a gap.
    pub fn append(&mut self, records: &[u8], count: u32) {
        self.body_sums.reserve(count as usize);
        for record in Records::new(records) {
            self.add(record.body().len());
        }
    }

    /// Bytes of the bodies of `from..=to`.
    pub fn body_bytes(&self, from: u32, to: u32) -> u64 {
        u64::from(self.sum_through(to) - from.checked_sub(1).map_or(0, |before| self.sum_through(before)))
    }

    /// How many messages from `from` on are needed to have `bytes` of bodies.
    pub fn messages_of(&self, from: u32, bytes: u64) -> u32 {
        let before = from.checked_sub(1).map_or(0, |before| self.sum_through(before));
        let target = u64::from(before) + bytes;
        let rest = self.body_sums.get(from as usize..).unwrap_or_default();
        let short = rest.partition_point(|&sum| u64::from(sum) < target) as u32;
        short.saturating_add(1)
    }

    fn sum_through(&self, delta: u32) -> u32 {
        self.body_sums.get(delta as usize).or(self.body_sums.last()).copied().unwrap_or(0)
    }

    fn add(&mut self, body_bytes: usize) {
        let before = self.body_sums.last().copied().unwrap_or(0);
        // A chunk is below 4 GiB.
        self.body_sums.push(before.saturating_add(body_bytes as u32));
    }

    /// Fills up to `delta` with numbers that have no record.
    fn fill(&mut self, delta: u32) {
        let before = self.body_sums.last().copied().unwrap_or(0);
        if self.body_sums.len() < delta as usize {
            self.body_sums.resize(delta as usize, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use posthouse_model::chunk::ChunkBuilder;

    use super::*;

    #[test]
    fn body_bytes_of_ranges() {
        let mut builder = ChunkBuilder::default();
        for body in [&b"a"[..], b"", b"ccc", b"dd"] {
            builder.push(0, 0, b"\0\0", b"", body.len(), body);
        }
        let mut details = Details::default();
        details.append(builder.bytes(), 4);
        assert_eq!((details.body_bytes(0, 3), details.body_bytes(1, 2), details.body_bytes(3, 3)), (6, 3, 2));
        assert_eq!(
            (details.messages_of(0, 1), details.messages_of(0, 2), details.messages_of(1, 4)),
            (1, 3, 3)
        );
        let whole = builder.finish();
        let mut holed = ChunkBuilder::default();
        for (delta, record) in (0u32..).zip(whole.records()).filter(|(delta, _)| delta % 2 == 0) {
            let at = whole.find(delta).unwrap().offset as usize;
            holed.copy_record(&whole.bytes()[at..at + record.len()]);
        }
        let details = Details::of(&holed.finish(), 4);
        assert_eq!((details.body_bytes(0, 3), details.body_bytes(1, 1), details.body_bytes(2, 3)), (4, 0, 3));
    }
}
