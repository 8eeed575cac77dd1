//! Handing out messages to one reader.

use std::sync::Arc;

use posthouse_model::chunk::Chunk;
use posthouse_model::ids::Seq;

use super::Stream;
use super::reader::{Left, Walked};
use crate::machine::roster::{ConsumerId, Standing};
use crate::machine::{Limits, Run, TakeEnd};

/// Bytes of messages that a reader may pass over in one taking.
const PASSED_OVER_BYTES_MAX: usize = 1 << 20;

/// Where a reader's next message is.
enum Found {
    /// In memory: what the chunk covers, and the chunk.
    Chunk((Seq, Seq), Arc<Chunk>),
    /// In a block that was read back: the same, and the block's index.
    Cached((Seq, Seq), Arc<Chunk>, usize),
    /// In a block that must be read.
    Stored(Seq),
    /// There is none.
    End,
}

impl<L: Copy, W: Clone> Stream<L, W> {
    /// Takes messages for a reader, appending to `runs`, and moves its cursor behind them. One that waits for its turn
    /// gets none; it is woken when that comes.
    pub fn take(&mut self, id: ConsumerId, limits: Limits, runs: &mut Vec<Run>) -> TakeEnd {
        if !self.may_take(id) {
            self.roster.set(id, Standing::Blocked);
            return TakeEnd::Parked;
        }
        let from = runs.len();
        let end = self.take_some(id, limits, runs);
        if let Some(tracking) = self.readers.get_mut(&id).and_then(|reader| reader.tracking.as_mut()) {
            runs[from..].iter().for_each(|run| tracking.handed_out(run.first_seq, run.last_seq()));
        }
        let standing = match end {
            TakeEnd::Limit => Standing::Running,
            TakeEnd::Parked => Standing::Parked,
            TakeEnd::NeedsLoad => Standing::Blocked,
        };
        self.roster.set(id, standing);
        end
    }

    fn take_some(&mut self, id: ConsumerId, limits: Limits, runs: &mut Vec<Run>) -> TakeEnd {
        let mut left = Left { limits, passed_over: PASSED_OVER_BYTES_MAX, took: false };
        if self.is_seeking(id) && self.seek(id).is_some() {
            return self.wait(id, None);
        }
        loop {
            let Some(reader) = self.readers.get(&id) else { return TakeEnd::Parked };
            let cursor = reader.cursor.max(self.floor);
            let found = self.find(cursor);
            let Some(reader) = self.readers.get_mut(&id) else { return TakeEnd::Parked };
            reader.cursor = cursor;
            match found {
                Found::End => {
                    // Whatever comes now is later.
                    reader.not_before_ms = None;
                    self.release(id);
                    return TakeEnd::Parked;
                }
                Found::Stored(first_seq) => return self.wait(id, Some(first_seq)),
                Found::Chunk(covers, chunk) => {
                    if reader.walk(covers, &chunk, &mut left, runs) == Walked::Limit {
                        return TakeEnd::Limit;
                    }
                }
                Found::Cached(covers, chunk, index) => {
                    reader.claim = Some(covers.0);
                    let (filtered, walked) =
                        (reader.filter.is_some(), reader.walk(covers, &chunk, &mut left, runs));
                    if !filtered {
                        self.read_ahead(index + 1);
                    }
                    if walked == Walked::Limit {
                        return TakeEnd::Limit;
                    }
                    self.release(id);
                }
            }
            if left.limits.messages == 0 || (left.took && left.limits.bytes == 0) {
                return TakeEnd::Limit;
            }
        }
    }

    fn find(&mut self, cursor: Seq) -> Found {
        if cursor >= self.next_seq() {
            return Found::End;
        }
        let in_memory = self.window.first_seq();
        if cursor < in_memory {
            let index = self.blocks.index_at_or_after(cursor);
            if let Some(block) = self.blocks.get(index).filter(|block| block.first_seq < in_memory) {
                let (first_seq, end_seq) = (block.first_seq, block.end_seq());
                let Some(chunk) = self.cache.get(first_seq) else { return Found::Stored(first_seq) };
                return Found::Cached((first_seq, end_seq), chunk.clone(), index);
            }
        }
        match self.window.at_or_after(cursor) {
            Some(recent) => Found::Chunk((recent.first_seq, recent.end_seq()), recent.chunk.clone()),
            None => Found::End,
        }
    }

    /// Has the block at an index read, if readers will not find it in memory.
    fn read_ahead(&mut self, index: usize) {
        let in_memory = self.window.first_seq();
        let Some(block) = self.blocks.get(index).filter(|block| block.first_seq < in_memory) else { return };
        let first_seq = block.first_seq;
        if !self.cache.has(first_seq) && !self.ahead.contains(&first_seq) {
            self.ahead.push_back(first_seq);
            self.has_work = true;
        }
    }

    /// The reader waits until a block, or what its search needs, is read.
    fn wait(&mut self, id: ConsumerId, claim: Option<Seq>) -> TakeEnd {
        if let Some(reader) = self.readers.get_mut(&id) {
            reader.claim = claim;
        }
        if !self.waiting.contains(&id) {
            self.waiting.push_back(id);
        }
        self.has_work = true;
        TakeEnd::NeedsLoad
    }

    /// The reader is through with the block it was in.
    fn release(&mut self, id: ConsumerId) {
        let Some(reader) = self.readers.get_mut(&id) else { return };
        if reader.claim.take().is_some() && !self.waiting.is_empty() {
            self.has_work = true;
        }
    }
}
