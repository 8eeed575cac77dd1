//! What storage hands to the owner of the queues at start.

use std::collections::HashSet;
use std::sync::Arc;

use posthouse_model::attempts::AttemptRange;
use posthouse_model::bitmap::SeqBitmap;
use posthouse_model::chunk::{Chunk, ChunkBuilder, Received};
use posthouse_model::delays::DelayRange;
use posthouse_model::ids::{QueueId, Seq};
use posthouse_model::shares::Shares;

use crate::checkpoint::Note;
use crate::error::StorageError;
use crate::segment::Location;

/// Everything that was recovered.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Queues that have a state, in ascending order of id; of a queue with priorities each level. A durable queue that is not here never had a message. One
    /// that the metadata does not know is to be dropped: see `MessageStore::discard`.
    pub queues: Vec<RecoveredQueue>,
    /// Above the identity, its level left out, of every queue that the checkpoint or the log names, deleted ones included. A queue with
    /// one of these would be given, or denied, another one's messages when the log is replayed again.
    pub next_queue_id: u64,
    /// The queues, levels left out, of which the log says that they are deleted, whatever it says of them after that. When
    /// the metadata still knows one, because its deletion was not kept there before a crash or because it is an older
    /// copy, the queue must go on under another identity: messages that it gets would be taken for a deleted one's.
    pub deleted: HashSet<QueueId>,
    /// Nothing was ever kept here.
    pub new: bool,
    /// The last stop was orderly: nothing happened after the checkpoint.
    pub clean: bool,
    /// Files and places that are damaged; what is not named here is whole, as far as opening looks.
    pub damages: Vec<StorageError>,
    /// Records read from the log.
    pub replayed_records: u64,
}

/// One queue's durable state.
#[derive(Clone, Debug, PartialEq)]
pub struct RecoveredQueue {
    /// Which queue.
    pub id: QueueId,
    /// The number the next message gets.
    pub next_seq: Seq,
    /// Everything below is settled.
    pub floor: Seq,
    /// Messages below may have been delivered before: `next_seq` after an unclean stop.
    pub delivered_below: Seq,
    /// Messages that were in damaged or missing files, as far as is known.
    pub lost: u64,
    /// Messages below were in segments when the last checkpoint was made; those from here on come from the log.
    pub covered: Seq,
    /// What the owner had remembered, one note for each key.
    pub notes: Vec<Note>,
    /// The live messages, in ascending order of `first_seq`, not overlapping; each chunk has at least one.
    pub chunks: Vec<RecoveredChunk>,
    /// How often messages that came back have been handed out, in ascending order; some may be gone by now.
    pub attempts: Vec<AttemptRange>,
    /// For which time messages wait that came back, in ascending order; some may be gone by now, or may have been handed out.
    pub delays: Vec<DelayRange>,
}

/// A run of a queue's messages. What is in memory is also in the log: the owner hands it out in
/// `QueueOwner::collect` of the next checkpoint, whatever position that asks for.
#[derive(Clone, Debug)]
pub struct RecoveredChunk {
    /// The sequence number that delta 0 stands for.
    pub first_seq: Seq,
    /// How many sequence numbers it covers. Each is a record of the chunk or is set in `settled`.
    pub span: u32,
    /// Where the records are.
    pub source: Source,
    /// The numbers, less `first_seq`, that are settled or were never there; `None` when there are none.
    pub settled: Option<SeqBitmap>,
    /// When its messages were received.
    pub received: Received,
    /// Whether a message in it may have a time to live of its own.
    pub expires: bool,
    /// Who published how much of it.
    pub shares: Shares,
}

/// Where a recovered chunk's records are.
#[derive(Clone, Debug)]
pub enum Source {
    /// In memory, read from the log.
    Memory(Arc<Chunk>),
    /// In a durable segment.
    Block(Location),
}

impl PartialEq for RecoveredChunk {
    fn eq(&self, other: &Self) -> bool {
        let source = match (&self.source, &other.source) {
            (Source::Memory(a), Source::Memory(b)) => a.bytes() == b.bytes(),
            (Source::Block(a), Source::Block(b)) => a == b,
            _ => false,
        };
        source
            && (self.first_seq, self.span) == (other.first_seq, other.span)
            && self.settled == other.settled
            && (self.received, self.expires) == (other.received, other.expires)
            && self.shares == other.shares
    }
}

impl RecoveredQueue {
    /// How many messages are live.
    pub fn live(&self) -> u64 {
        self.chunks.iter().map(|chunk| u64::from(chunk.live())).sum()
    }
}

impl RecoveredChunk {
    /// How many messages are live.
    pub fn live(&self) -> u32 {
        self.span - self.settled.as_ref().map_or(0, SeqBitmap::count)
    }

    /// The number after the last one it covers.
    pub fn end(&self) -> Seq {
        self.first_seq + u64::from(self.span)
    }

    /// Settles `from..to` as far as the chunk covers it.
    pub(super) fn settle(&mut self, from: Seq, to: Seq) {
        let (from, to) = (from.max(self.first_seq), to.min(self.end()));
        if from < to {
            let settled = self.settled.get_or_insert_with(|| SeqBitmap::new(self.span));
            settled.set_range((from - self.first_seq) as u32, (to - self.first_seq) as u32);
        }
    }
}

/// A copy of the chunk without the records whose delta is in `settled`; the others keep their deltas.
pub(super) fn without_settled(chunk: &Chunk, settled: &SeqBitmap) -> Chunk {
    let mut builder = ChunkBuilder::default();
    let mut rest = chunk.bytes();
    for record in chunk.records() {
        let (bytes, after) = rest.split_at(record.len());
        if !settled.get(record.delta()) {
            builder.copy_record(bytes);
        }
        rest = after;
    }
    builder.finish()
}
