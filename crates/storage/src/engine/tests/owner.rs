//! A small owner of queues, which does to them what a broker does.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use posthouse_model::chunk::{Chunk, ChunkBuilder, Received};

use super::*;
use crate::checkpoint::{BlockRef, Note, QueueState};
use crate::segment::{BlockIn, Location};
use crate::wal::Payload;
use posthouse_model::attempts::{AttemptRange, Attempts};
use posthouse_model::bitmap::SeqBitmap;
use posthouse_model::delays::DelayRange;
use posthouse_model::ids::{Lsn, QueueId, Seq};
use posthouse_model::shares::Shares;

mod checking;
mod cycle;

/// What the test knows of a message.
#[derive(Clone, Debug)]
pub(super) struct Message {
    nonce: u64,
    enqueued: Lsn,
    settled: Option<Lsn>,
    /// Where it was moved to, by the record that ends here; it is settled for this reason only when the log has that.
    moved: Option<(QueueId, Seq, Lsn)>,
    /// How often it had come back when it was recovered, and the ends of the records that told of it since.
    came_back: (u32, Vec<Lsn>),
    /// The times for which it was said to wait, with the ends of the records that said so.
    waits: Vec<(Lsn, u64)>,
}

impl Message {
    fn new(nonce: u64, enqueued: Lsn) -> Self {
        Self { nonce, enqueued, settled: None, moved: None, came_back: (0, Vec::new()), waits: Vec::new() }
    }

    /// How often it came back, by what is durable.
    fn attempts(&self, durable: Lsn) -> u32 {
        let (before, told) = &self.came_back;
        before + told.iter().filter(|&&lsn| lsn <= durable).count() as u32
    }

    /// For which time it waits, by what is durable.
    fn waits_until(&self, durable: Lsn) -> u64 {
        self.waits.iter().filter(|(lsn, _)| *lsn <= durable).map(|&(_, due_ms)| due_ms).max().unwrap_or(0)
    }
}

#[derive(Clone, Debug)]
struct OwnerChunk {
    first_seq: Seq,
    lsn: Lsn,
    source: Source,
    settled: SeqBitmap,
}

impl OwnerChunk {
    fn end(&self) -> Seq {
        self.first_seq + u64::from(self.settled.len())
    }
}

#[derive(Clone, Debug, Default)]
struct OwnerQueue {
    next_seq: Seq,
    delivered_below: Seq,
    chunks: Vec<OwnerChunk>,
    messages: BTreeMap<Seq, Message>,
    deleted: Option<Lsn>,
    /// Every value that each note had, and when; none for a note that was taken back.
    notes: BTreeMap<u8, Vec<(Lsn, Option<u32>)>>,
}

/// Queues with their messages, the store beneath, and the model beside.
pub(super) struct Owner {
    pub(super) store: MessageStore,
    queues: Mutex<BTreeMap<QueueId, OwnerQueue>>,
    nonce: Mutex<u64>,
    /// Ids that were ever deleted. The metadata never gives one out again.
    deleted: Mutex<BTreeSet<u64>>,
}

fn body(queue: QueueId, seq: Seq, nonce: u64, bytes: usize) -> Vec<u8> {
    let mut body = format!("{nonce}/{queue}/{seq}/").into_bytes();
    body.resize(body.len().max(bytes), b'.');
    body
}

fn attempted(seq: Seq, times: u32) -> AttemptRange {
    AttemptRange { first: seq, last: seq, attempts: Attempts { failed: times, acquired: times } }
}

/// A message that has come back so often waits for this time.
fn delayed(attempt: &AttemptRange) -> DelayRange {
    DelayRange {
        first: attempt.first,
        last: attempt.last,
        due_ms: 1_000 * u64::from(attempt.attempts.failed),
    }
}

impl Owner {
    /// An owner that goes on with what was recovered.
    pub(super) fn new(store: MessageStore, recovered: &Recovered, before: Option<&Self>) -> Self {
        let nonce = before.map_or(1, |before| *before.nonce.lock().unwrap());
        let deleted = before.map(|before| before.deleted.lock().unwrap().clone()).unwrap_or_default();
        let (nonce, deleted) = (Mutex::new(nonce), Mutex::new(deleted));
        let owner = Self { store, queues: Mutex::default(), nonce, deleted };
        for queue in &recovered.queues {
            let chunks = queue.chunks.iter().map(|chunk| OwnerChunk {
                first_seq: chunk.first_seq,
                lsn: 0,
                source: chunk.source.clone(),
                settled: chunk.settled.clone().unwrap_or_else(|| SeqBitmap::new(chunk.span)),
            });
            let state = OwnerQueue {
                next_seq: queue.next_seq,
                delivered_below: queue.delivered_below,
                chunks: chunks.collect(),
                messages: owner.read_all(queue),
                deleted: None,
                notes: queue
                    .notes
                    .iter()
                    .map(|note| (note.key[0], vec![(0, Some(read_note(note)))]))
                    .collect(),
            };
            owner.queues.lock().unwrap().insert(queue.id, state);
        }
        owner
    }

    /// Publishes to all of `targets` at once, after `gap` transient messages that nobody logs.
    pub(super) fn enqueue(&self, targets: &[u64], count: u32, bytes: usize, gap: u64) {
        let mut stage = self.store.wal().stage();
        let mut queues = self.queues.lock().unwrap();
        let mut nonce = self.nonce.lock().unwrap();
        for &id in targets {
            queues.entry(QueueId(id)).or_default().next_seq += gap;
        }
        // The body names the first target only: a fan-out has one body.
        let firsts: Vec<_> = targets.iter().map(|&id| (QueueId(id), queues[&QueueId(id)].next_seq)).collect();
        let mut builder = ChunkBuilder::default();
        for i in 0..count {
            let body = body(firsts[0].0, firsts[0].1, *nonce + u64::from(i), bytes);
            builder.push(1, 0, b"\0\0", b"h", body.len(), &body);
        }
        let chunk = Arc::new(builder.finish().for_queues(targets.len()));
        let lsn = stage.enqueue(&firsts, count, Payload::Shared(Arc::clone(&chunk)));
        for (id, first_seq) in firsts {
            let queue = queues.get_mut(&id).unwrap();
            queue.next_seq += u64::from(count);
            let settled = SeqBitmap::new(count);
            let source = Source::Memory(Arc::clone(&chunk));
            queue.chunks.push(OwnerChunk { first_seq, lsn, source, settled });
            for i in 0..u64::from(count) {
                queue.messages.insert(first_seq + i, Message::new(*nonce + i, lsn));
            }
        }
        *nonce += u64::from(count);
    }

    /// Moves up to `count` unsettled messages, from the `skip`th on, to another queue.
    pub(super) fn transfer(&self, from: u64, to: u64, skip: usize, count: usize) {
        let mut stage = self.store.wal().stage();
        let mut queues = self.queues.lock().unwrap();
        let mut nonce = self.nonce.lock().unwrap();
        let Some(source) = queues.get(&QueueId(from)) else { return };
        let open = source.messages.iter().filter(|(_, m)| m.settled.is_none() && m.moved.is_none());
        let seqs: Vec<_> = open.map(|(seq, _)| *seq).skip(skip).take(count).collect();
        if seqs.is_empty() {
            return;
        }
        let ranges: Vec<_> = seqs.iter().map(|&seq| (seq, seq)).collect();
        let (target, moved) = (QueueId(to), seqs.len() as u32);
        let first_seq = queues.entry(target).or_default().next_seq;
        let mut builder = ChunkBuilder::default();
        for i in 0..moved {
            let body = body(target, first_seq, *nonce + u64::from(i), 100);
            builder.push(1, 0, b"\0\0", b"h", body.len(), &body);
        }
        let chunk = Arc::new(builder.finish());
        let payload = Payload::Shared(Arc::clone(&chunk));
        let lsn = stage.transfer(QueueId(from), &ranges, &[(target, first_seq)], moved, payload);
        let queue = queues.entry(target).or_default();
        queue.next_seq += u64::from(moved);
        let (settled, source) = (SeqBitmap::new(moved), Source::Memory(chunk));
        queue.chunks.push(OwnerChunk { first_seq, lsn, source, settled });
        for i in 0..u64::from(moved) {
            let message = Message::new(*nonce + i, lsn);
            queue.messages.insert(first_seq + i, message);
        }
        *nonce += u64::from(moved);
        let source = queues.entry(QueueId(from)).or_default();
        for (seq, at) in seqs.into_iter().zip(first_seq..) {
            if let Some(message) = source.messages.get_mut(&seq) {
                message.moved = Some((target, at, lsn));
            }
        }
    }

    /// Settles what was moved by records that the log has.
    fn finish_moves(&self, queue: &mut OwnerQueue) {
        let durable = self.store.wal().durable();
        let finished = |m: &Message| m.moved.filter(|moved| m.settled.is_none() && moved.2 <= durable);
        let done: Vec<_> =
            queue.messages.iter().filter_map(|(seq, m)| Some((*seq, finished(m)?.2))).collect();
        for (seq, lsn) in done {
            self.settle_range(queue, seq, seq + 1, lsn);
        }
    }

    /// Settles up to `count` unsettled messages from the `skip`th on.
    pub(super) fn settle(&self, id: u64, skip: usize, count: usize) {
        let mut stage = self.store.wal().stage();
        let mut queues = self.queues.lock().unwrap();
        let Some(queue) = queues.get_mut(&QueueId(id)) else { return };
        let open = queue.messages.iter().filter(|(_, m)| m.settled.is_none() && m.moved.is_none());
        let seqs: Vec<_> = open.map(|(seq, _)| *seq).skip(skip).take(count).collect();
        if seqs.is_empty() {
            return;
        }
        let ranges: Vec<_> = seqs.iter().map(|&seq| (seq, seq)).collect();
        let lsn = stage.settle(QueueId(id), &ranges);
        for seq in seqs {
            queue.delivered_below = queue.delivered_below.max(seq + 1);
            self.settle_range(queue, seq, seq + 1, lsn);
        }
    }

    /// Remembers a value, or takes back what was remembered.
    pub(super) fn note(&self, id: u64, key: u8, value: Option<u32>) {
        let mut stage = self.store.wal().stage();
        let mut queues = self.queues.lock().unwrap();
        let bytes = value.map(|value| value.to_le_bytes().to_vec()).unwrap_or_default();
        let lsn = stage.note(QueueId(id), &[key], &bytes);
        queues.entry(QueueId(id)).or_default().notes.entry(key).or_default().push((lsn, value));
    }

    /// Up to `count` unsettled messages from the `skip`th on come back.
    pub(super) fn give_back(&self, id: u64, skip: usize, count: usize) {
        let mut queues = self.queues.lock().unwrap();
        let Some(queue) = queues.get_mut(&QueueId(id)) else { return };
        let open = queue.messages.iter_mut().filter(|(_, m)| m.settled.is_none() && m.moved.is_none());
        let mut given_back: Vec<_> = open.skip(skip).take(count).collect();
        if given_back.is_empty() {
            return;
        }
        let attempts: Vec<_> = given_back
            .iter()
            .map(|(seq, message)| attempted(**seq, message.attempts(Lsn::MAX) + 1))
            .collect();
        let delays: Vec<_> = attempts.iter().map(delayed).collect();
        let mut stage = self.store.wal().stage();
        let lsn = stage.attempts(QueueId(id), &attempts);
        let delays_lsn = stage.delays(QueueId(id), &delays);
        for ((_, message), delay) in given_back.iter_mut().zip(&delays) {
            message.came_back.1.push(lsn);
            message.waits.push((delays_lsn, delay.due_ms));
        }
    }

    /// Writes what a queue has in memory to segments, as it does when that is too much.
    pub(super) fn spill(&self, id: u64) -> Result<(), StorageError> {
        let blocks: Vec<_> = {
            let queues = self.queues.lock().unwrap();
            let chunks = queues.get(&QueueId(id)).into_iter().flat_map(|queue| &queue.chunks);
            let block = |chunk: &OwnerChunk| match &chunk.source {
                Source::Memory(records) => {
                    let (first_seq, chunk) = (chunk.first_seq, Arc::clone(records));
                    Some(BlockIn { queue: QueueId(id), first_seq, chunk, summary: Vec::new() })
                }
                Source::Block(_) => None,
            };
            chunks.filter_map(block).collect()
        };
        let locations = self.store.segments().write(Class::Durable, &blocks)?;
        for (block, location) in blocks.iter().zip(locations) {
            self.relocated(block.queue, block.first_seq, location);
        }
        Ok(())
    }

    pub(super) fn purge(&self, id: u64) {
        let mut stage = self.store.wal().stage();
        let mut queues = self.queues.lock().unwrap();
        let Some(queue) = queues.get_mut(&QueueId(id)) else { return };
        let below = queue.next_seq;
        if below == 0 {
            return;
        }
        let lsn = stage.settle(QueueId(id), &[(0, below - 1)]);
        self.settle_range(queue, 0, below, lsn);
    }

    pub(super) fn delete(&self, id: u64) {
        let mut stage = self.store.wal().stage();
        let mut queues = self.queues.lock().unwrap();
        let Some(queue) = queues.get_mut(&QueueId(id)) else { return };
        let lsn = stage.queue_deleted(QueueId(id));
        self.settle_range(queue, 0, u64::MAX, lsn);
        queue.deleted = Some(lsn);
        self.deleted.lock().unwrap().insert(id);
    }

    pub(super) fn was_deleted(&self, id: u64) -> bool {
        self.deleted.lock().unwrap().contains(&id)
    }

    fn settle_range(&self, queue: &mut OwnerQueue, from: Seq, to: Seq, lsn: Lsn) {
        for (_, message) in queue.messages.range_mut(from..to) {
            message.settled.get_or_insert(lsn);
        }
        queue.chunks.retain_mut(|chunk| {
            let (from, to) = (from.max(chunk.first_seq), to.min(chunk.end()));
            if from < to {
                chunk.settled.set_range((from - chunk.first_seq) as u32, (to - chunk.first_seq) as u32);
            }
            if let (true, Source::Block(location)) = (chunk.settled.all_set(), &chunk.source) {
                self.store.segments().release(location);
            }
            !chunk.settled.all_set()
        });
    }
}

fn read_note(note: &Note) -> u32 {
    u32::from_le_bytes(note.value[..].try_into().unwrap())
}
