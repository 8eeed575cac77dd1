//! The newest messages of a stream, in memory: chunks without holes, and the open tail behind them.

use std::collections::VecDeque;
use std::sync::Arc;

use posthouse_model::chunk::{Chunk, ChunkBuilder};
use posthouse_model::ids::{Lsn, Seq};
use posthouse_model::shares::UserNumber;

/// The open tail is closed at this size, so that a chunk stays a good unit for reading and writing.
const TAIL_BYTES_MAX: usize = 256 << 10;

/// Consecutive messages in memory.
#[derive(Clone, Debug)]
pub(super) struct Recent {
    /// The number of the first; the record of delta 0.
    pub(super) first_seq: Seq,
    /// The records, without holes.
    pub(super) chunk: Arc<Chunk>,
    /// The log position at which the first message's record starts.
    pub(super) lsn: Lsn,
}

impl Recent {
    /// The number after the last.
    pub(super) fn end_seq(&self) -> Seq {
        self.first_seq + Seq::from(self.chunk.count())
    }

    /// When the first message was received, in milliseconds since the Unix epoch.
    pub(super) fn first_ms(&self) -> u64 {
        self.chunk.record_at(0).map_or(0, |record| record.received_ms())
    }
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Window {
    chunks: VecDeque<Recent>,
    tail: ChunkBuilder,
    tail_first: Seq,
    tail_lsn: Lsn,
    next_seq: Seq,
    memory_bytes: usize,
}

impl Window {
    /// A window whose next message gets the number `next_seq`.
    pub(super) fn starting_at(next_seq: Seq) -> Self {
        Self { next_seq, ..Self::default() }
    }

    /// The number the next message gets.
    pub(super) fn next_seq(&self) -> Seq {
        self.next_seq
    }

    /// The number of the oldest message in memory; the next message's when there is none.
    pub(super) fn first_seq(&self) -> Seq {
        match self.chunks.front() {
            Some(first) => first.first_seq,
            None if self.tail.is_empty() => self.next_seq,
            None => self.tail_first,
        }
    }

    /// Bytes of memory taken.
    pub(super) fn memory_bytes(&self) -> usize {
        self.memory_bytes + self.tail.bytes().len()
    }

    /// Adds what a restart found: its numbers are not below those there are.
    pub(super) fn restore(&mut self, recent: Recent) {
        debug_assert!(recent.first_seq >= self.chunks.back().map_or(0, Recent::end_seq));
        self.memory_bytes += recent.chunk.memory_bytes();
        self.chunks.push_back(recent);
    }

    /// Adds a chunk whose deltas are `0..count`, by reference.
    pub(super) fn push_shared(&mut self, chunk: Arc<Chunk>, lsn: Lsn) {
        self.close_tail();
        let first_seq = self.next_seq;
        self.next_seq += Seq::from(chunk.count());
        self.memory_bytes += chunk.memory_bytes();
        self.chunks.push_back(Recent { first_seq, chunk, lsn });
    }

    /// Adds a few records by copying them behind those that came before.
    pub(super) fn push_copied(&mut self, records: &[u8], count: u32, lsn: Lsn) {
        if self.tail.bytes().len() + records.len() > TAIL_BYTES_MAX {
            self.close_tail();
        }
        if self.tail.is_empty() {
            self.tail_first = self.next_seq;
            self.tail_lsn = lsn;
            self.tail = ChunkBuilder::with_room(records.len());
        }
        self.tail.append_records(records);
        self.next_seq += Seq::from(count);
    }

    /// Makes the open tail a chunk like the others.
    pub(super) fn close_tail(&mut self) {
        if self.tail.is_empty() {
            return;
        }
        let chunk = Arc::new(std::mem::take(&mut self.tail).finish());
        self.memory_bytes += chunk.memory_bytes();
        self.chunks.push_back(Recent { first_seq: self.tail_first, chunk, lsn: self.tail_lsn });
    }

    /// Closes the tail if it begins below `lsn`.
    pub(super) fn close_tail_below(&mut self, lsn: Lsn) {
        if self.tail_lsn < lsn {
            self.close_tail();
        }
    }

    /// The chunk with the first message at or after `seq`; closes the tail when it is there.
    pub(super) fn at_or_after(&mut self, seq: Seq) -> Option<&Recent> {
        let index = self.index_at_or_after(seq);
        if index == self.chunks.len() {
            self.close_tail();
        }
        self.chunks.get(index)
    }

    /// Chunks from the first that ends after `seq`.
    pub(super) fn from(&self, seq: Seq) -> impl Iterator<Item = &Recent> {
        self.chunks.iter().skip(self.index_at_or_after(seq))
    }

    /// Chunks that lie within `from..to`.
    pub(super) fn within(&self, from: Seq, to: Seq) -> impl Iterator<Item = &Recent> {
        self.from(from).take_while(move |recent| recent.end_seq() <= to)
    }

    /// The lowest number at or after `seq` that is in memory; the next message's when there is none.
    pub(super) fn next_at_or_after(&self, seq: Seq) -> Seq {
        match self.chunks.get(self.index_at_or_after(seq)) {
            Some(recent) => recent.first_seq.max(seq),
            None if self.tail.is_empty() => self.next_seq,
            None => self.tail_first.max(seq).min(self.next_seq),
        }
    }

    /// Frees chunks from the oldest on that lie below `seq`, until about `keep` bytes are taken.
    pub(super) fn evict(&mut self, seq: Seq, keep: usize) {
        while self.memory_bytes() > keep
            && let Some(first) = self.chunks.front().filter(|first| first.end_seq() <= seq)
        {
            self.memory_bytes -= first.chunk.memory_bytes();
            self.chunks.pop_front();
        }
    }

    /// Who published how much of what is in memory from `seq` on, which is a chunk's first number.
    pub(super) fn shares_from(&self, seq: Seq, mut to: impl FnMut(UserNumber, u64)) {
        for recent in self.from(seq) {
            recent.chunk.shares().divide(recent.chunk.bytes().len() as u64, &mut to);
        }
        self.tail.shares().divide(self.tail.bytes().len() as u64, to);
    }

    /// Bytes taken by the newest messages, from the chunk with `seq` on.
    pub(super) fn bytes_from(&self, seq: Seq) -> usize {
        let newest_first = self.chunks.iter().rev().take_while(|recent| recent.end_seq() > seq);
        newest_first.map(|recent| recent.chunk.memory_bytes()).sum::<usize>() + self.tail.bytes().len()
    }

    fn index_at_or_after(&self, seq: Seq) -> usize {
        self.chunks.partition_point(|recent| recent.end_seq() <= seq)
    }
}
