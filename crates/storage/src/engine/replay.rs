//! Recovery: the checkpoint's states, then the log's records applied to them, in bounded memory.
//!
//! * An enqueue contributes the messages at or above the queue's `covered` that no earlier record brought: the ones
//!   below are in segments or settled. The log's order is each queue's order, so "no earlier record" is one number.
//! * Settles only ever set bits, so applying one twice changes nothing.
//! * `next_seq` is past every number that any record names, also of messages that were never logged (transient
//!   ones): a number is not used again while a record in the log may still speak of it.
//! * Attempts only ever grow, delays only ever end later, and those of settled messages are forgotten.
//! * A large record of several queues becomes one chunk that all of them hold, as it was when it was published; in the
//!   budget it counts once per queue, since each of them may be the last to have it.
//! * Small runs of one queue are merged. When all that is in memory exceeds the budget it goes to segments at once,
//!   so a log of any size is replayed in the same memory.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use posthouse_model::attempts::AttemptMap;
use posthouse_model::bitmap::SeqBitmap;
use posthouse_model::chunk::{Chunk, ChunkBuilder, Records};
use posthouse_model::delays::DelayMap;
use posthouse_model::ids::{QueueId, Seq};
use posthouse_model::record::FLAG_EXPIRES;

use super::NO_QUEUE;
use super::recovered::{RecoveredChunk, RecoveredQueue, Source, without_settled};
use crate::checkpoint::{BlockRef, Note, QueueState};
use crate::error::StorageError;
use crate::segment::{BlockIn, Class, Location, SegmentStore};
use crate::wal::{Enqueue, LogRecord, Ranges};

/// Merged chunks are closed at this many bytes.
const CHUNK_BYTES: usize = 256 << 10;
/// And at this many sequence numbers, so that gaps do not make giant bitmaps.
const CHUNK_SPAN: u64 = 1 << 16;
/// Bytes handed to one segment write.
const WRITE_BYTES: usize = 8 << 20;

pub(crate) struct Replay<'a> {
    segments: &'a SegmentStore,
    /// Bytes of records that may be in memory.
    budget: usize,
    /// Bytes of a record from which on its queues hold it together.
    shared_bytes: usize,
    /// Messages are counted, and forgotten instead of written.
    counting: bool,
    in_memory: usize,
    queues: BTreeMap<QueueId, Queue>,
    deleted: HashSet<QueueId>,
    pub(crate) damages: Vec<StorageError>,
    pub(super) records: u64,
}

#[derive(Default)]
struct Queue {
    next_seq: Seq,
    delivered_below: Seq,
    /// What is below came from the checkpoint or from an earlier record.
    replayed_to: Seq,
    lost: u64,
    /// What is below was in segments when the checkpoint was made.
    covered: Seq,
    notes: BTreeMap<Box<[u8]>, Box<[u8]>>,
    /// Bytes of records in memory.
    memory: usize,
    chunks: VecDeque<RecoveredChunk>,
    open: Option<Open>,
    attempts: AttemptMap,
    delays: DelayMap,
}

/// A chunk that still grows.
struct Open {
    first_seq: Seq,
    builder: ChunkBuilder,
    /// Settled numbers, `from..to`.
    settled: Vec<(Seq, Seq)>,
}

impl<'a> Replay<'a> {
    /// Starts from a checkpoint's states. Blocks that are missing are reported and left out.
    pub(super) fn new(
        segments: &'a SegmentStore,
        budget: usize,
        shared_bytes: usize,
        states: Vec<QueueState>,
    ) -> Self {
        let mut damages = Vec::new();
        let queues =
            states.into_iter().map(|state| (state.id, adopt(segments, state, &mut damages))).collect();
        let deleted = HashSet::new();
        let (counting, in_memory, records) = (false, 0, 0);
        Self { segments, budget, shared_bytes, counting, in_memory, queues, deleted, damages, records }
    }

    /// As [`Self::new`], for a look that writes nothing: the chunks of what it finishes may be without records.
    pub(crate) fn counting(segments: &'a SegmentStore, states: Vec<QueueState>) -> Self {
        Self { counting: true, ..Self::new(segments, 64 << 20, usize::MAX, states) }
    }

    pub(crate) fn apply(&mut self, record: LogRecord<'_>) -> Result<(), StorageError> {
        self.records += 1;
        match record {
            LogRecord::Group(group) => {
                for record in group.records() {
                    self.apply(record)?;
                }
            }
            LogRecord::Enqueue(enqueue) => self.enqueue(&enqueue)?,
            LogRecord::Settle { queue, ranges } => self.settle(queue, ranges),
            LogRecord::Move { entered, source, ranges } => {
                self.enqueue(&entered)?;
                self.settle(source, ranges);
            }
            LogRecord::Note { queue, key, value } => {
                if let Some(queue) = self.known(queue) {
                    queue.note(key, value);
                }
            }
            LogRecord::Attempts { queue, attempts } => {
                if let Some(queue) = self.known(queue) {
                    for range in attempts.iter().filter(|range| range.first <= range.last) {
                        queue.next_seq = queue.next_seq.max(range.last.saturating_add(1));
                        queue.attempts.raise(range);
                    }
                }
            }
            LogRecord::Delays { queue, delays } => {
                if let Some(queue) = self.known(queue) {
                    for range in delays.iter().filter(|range| range.first <= range.last) {
                        queue.next_seq = queue.next_seq.max(range.last.saturating_add(1));
                        queue.delays.raise(range);
                    }
                }
            }
            LogRecord::QueueDeleted { queue } => {
                self.deleted.insert(queue);
                if let Some(queue) = self.queues.remove(&queue) {
                    self.in_memory -= queue.memory;
                    queue.chunks.iter().for_each(|chunk| release(self.segments, chunk));
                }
            }
        }
        Ok(())
    }

    /// Above every queue that was named so far.
    pub(super) fn next_queue_id(&self) -> u64 {
        let named = self.queues.keys().chain(&self.deleted).filter(|&&id| id != NO_QUEUE);
        named.map(|id| id.without_level().0 + 1).max().unwrap_or(0)
    }

    /// Queues that were deleted, levels left out.
    pub(super) fn deleted(&self) -> HashSet<QueueId> {
        self.deleted.iter().filter(|&&id| id != NO_QUEUE).map(|id| id.without_level()).collect()
    }

    /// The recovered queues. `clean` says that nothing happened after the checkpoint.
    pub(crate) fn finish(&mut self, clean: bool) -> Vec<RecoveredQueue> {
        let segments = self.segments;
        std::mem::take(&mut self.queues)
            .into_iter()
            .map(|(id, mut queue)| {
                queue.close();
                queue.drop_settled(segments);
                let floor = queue.chunks.front().map_or(queue.next_seq, |chunk| {
                    let first = chunk.settled.as_ref().map_or(Some(0), |settled| settled.next_unset(0));
                    chunk.first_seq + u64::from(first.unwrap_or(0))
                });
                let delivered_below = if clean { queue.delivered_below } else { queue.next_seq };
                RecoveredQueue {
                    id,
                    next_seq: queue.next_seq,
                    floor,
                    delivered_below,
                    lost: queue.lost,
                    covered: queue.covered,
                    notes: queue.notes.into_iter().map(|(key, value)| Note { key, value }).collect(),
                    chunks: queue.chunks.into(),
                    attempts: queue.attempts.within(floor, Seq::MAX).collect(),
                    delays: queue.delays.within(floor, Seq::MAX).collect(),
                }
            })
            .collect()
    }

    /// The queue's state; a settle may be the first that is heard of it, when its messages were never logged.
    fn known(&mut self, id: QueueId) -> Option<&mut Queue> {
        if self.deleted.contains(&id) { None } else { Some(self.queues.entry(id).or_default()) }
    }

    fn enqueue(&mut self, enqueue: &Enqueue<'_>) -> Result<(), StorageError> {
        let shared = self.shared(enqueue);
        for (id, first) in enqueue.targets() {
            let Some(queue) = self.known(id) else { continue };
            let before = queue.memory;
            match &shared {
                Some(chunk) if first >= queue.replayed_to => queue.push_shared(first, chunk),
                _ => queue.enqueue(first, enqueue.count(), enqueue.records()),
            }
            let after = queue.memory;
            self.in_memory = (self.in_memory + after).saturating_sub(before);
        }
        if self.in_memory <= self.budget {
            return Ok(());
        }
        self.drop_settled();
        match self.in_memory > self.budget / 2 {
            true if self.counting => self.forget(),
            true => self.spill()?,
            false => {}
        }
        Ok(())
    }

    /// A record's messages as a chunk for several queues: none when they are few bytes, or when less than two queues need
    /// all of them.
    fn shared(&mut self, enqueue: &Enqueue<'_>) -> Option<Arc<Chunk>> {
        let records = enqueue.records();
        if records.len() < self.shared_bytes || enqueue.targets().len() < 2 {
            return None;
        }
        let mut in_need = 0;
        for (id, first) in enqueue.targets() {
            in_need += usize::from(self.known(id).is_some_and(|queue| first >= queue.replayed_to));
        }
        let chunk = Chunk::parse(records.to_vec()).filter(|_| in_need > 1)?;
        let has_no_holes = chunk.count() == enqueue.count() && chunk.find(enqueue.count()).is_none();
        has_no_holes.then(|| Arc::new(chunk.for_queues(in_need)))
    }

    fn settle(&mut self, queue: QueueId, ranges: Ranges<'_>) {
        let Some(queue) = self.known(queue) else { return };
        for (first, last) in ranges.iter() {
            queue.next_seq = queue.next_seq.max(last.saturating_add(1));
            queue.settle(first, last.saturating_add(1));
        }
    }

    fn drop_settled(&mut self) {
        self.in_memory = 0;
        for queue in self.queues.values_mut() {
            queue.close();
            queue.drop_settled(self.segments);
            self.in_memory += queue.memory;
        }
    }

    fn forget(&mut self) {
        for queue in self.queues.values_mut() {
            queue.memory = 0;
            for chunk in queue.chunks.iter_mut().filter(|chunk| memory_of(chunk) > 0) {
                chunk.source = Source::Memory(Arc::default());
            }
        }
        self.in_memory = 0;
    }

    /// Writes every closed chunk that is in memory to segments. It needs no sync: the log still has it, and the next
    /// checkpoint syncs what it names. On a full disk they stay in memory: before the crash these messages were there, or
    /// in segments that no checkpoint named and that were deleted just now.
    fn spill(&mut self) -> Result<(), StorageError> {
        let mut locations = VecDeque::new();
        let written = self.write_chunks(&mut locations);
        self.in_memory = 0;
        for queue in self.queues.values_mut() {
            queue.memory = 0;
            for chunk in queue.chunks.iter_mut().filter(|chunk| memory_of(chunk) > 0) {
                match locations.pop_front() {
                    Some(location) => chunk.source = Source::Block(location),
                    None => queue.memory += memory_of(chunk),
                }
            }
            self.in_memory += queue.memory;
        }
        match written {
            Err(error) if error.may_pass() => {
                tracing::warn!(%error, bytes = self.in_memory, "what is replayed stays in memory for now");
                // To be tried again when it is twice as much.
                self.budget = self.budget.max(2 * self.in_memory);
                Ok(())
            }
            written => written,
        }
    }

    /// Writes the chunks in memory in order; `locations` are those of the first ones, also after an error.
    fn write_chunks(&self, locations: &mut VecDeque<Location>) -> Result<(), StorageError> {
        let mut batch: Vec<BlockIn> = Vec::new();
        let mut batch_bytes = 0;
        for (&id, queue) in &self.queues {
            for chunk in queue.chunks.iter().filter(|chunk| memory_of(chunk) > 0) {
                let Source::Memory(records) = &chunk.source else { continue };
                batch_bytes += records.bytes().len();
                let (first_seq, chunk) = (chunk.first_seq, Arc::clone(records));
                batch.push(BlockIn { queue: id, first_seq, chunk, summary: Vec::new() });
                if batch_bytes >= WRITE_BYTES {
                    locations.extend(self.segments.write(Class::Durable, &batch)?);
                    batch.clear();
                    batch_bytes = 0;
                }
            }
        }
        locations.extend(self.segments.write(Class::Durable, &batch)?);
        Ok(())
    }
}

fn adopt(segments: &SegmentStore, state: QueueState, damages: &mut Vec<StorageError>) -> Queue {
    let mut queue = Queue {
        next_seq: state.next_seq,
        delivered_below: state.delivered_below,
        replayed_to: state.covered,
        covered: state.covered,
        notes: state.notes.into_iter().map(|note| (note.key, note.value)).collect(),
        attempts: state.attempts.into_iter().collect(),
        delays: state.delays.into_iter().collect(),
        ..Queue::default()
    };
    for block in state.blocks {
        let (location, source) = (block.location, Source::Block(block.location));
        let BlockRef { first_seq, span, settled, received, expires, shares, .. } = block;
        let mut chunk = RecoveredChunk { first_seq, span, source, settled, received, expires, shares };
        chunk.settle(0, state.floor);
        if chunk.live() == 0 {
            continue;
        }
        match segments.adopt(&location) {
            Ok(()) => queue.chunks.push_back(chunk),
            Err(damage) => {
                queue.lost += u64::from(chunk.live());
                damages.push(damage);
            }
        }
    }
    queue
}

fn memory_of(chunk: &RecoveredChunk) -> usize {
    match &chunk.source {
        Source::Memory(records) => records.bytes().len(),
        Source::Block(_) => 0,
    }
}

fn release(segments: &SegmentStore, chunk: &RecoveredChunk) {
    if let Source::Block(location) = &chunk.source {
        segments.release(location);
    }
}

impl Queue {
    fn enqueue(&mut self, first: Seq, count: u32, records: &[u8]) {
        let end = first.saturating_add(count.into());
        self.next_seq = self.next_seq.max(end);
        let start = self.replayed_to;
        if end <= start {
            return;
        }
        self.replayed_to = end;
        let mut rest = records;
        for record in Records::new(records) {
            let (bytes, after) = rest.split_at(record.len());
            rest = after;
            let seq = first + u64::from(record.delta());
            if seq >= start {
                self.push(seq, bytes);
            }
        }
    }

    /// As [`Self::enqueue`], of a chunk that other queues hold, too, and of which no message was there before.
    fn push_shared(&mut self, first_seq: Seq, chunk: &Arc<Chunk>) {
        self.close();
        let span = chunk.count();
        let end = first_seq.saturating_add(span.into());
        self.next_seq = self.next_seq.max(end);
        self.replayed_to = end;
        self.memory += chunk.bytes().len();
        let (received, expires) = (chunk.received(), chunk.flags() & FLAG_EXPIRES != 0);
        let (source, shares) = (Source::Memory(Arc::clone(chunk)), chunk.shares().clone());
        let settled = None;
        self.chunks.push_back(RecoveredChunk { first_seq, span, source, settled, received, expires, shares });
    }

    fn push(&mut self, seq: Seq, record: &[u8]) {
        let full = self.open.as_ref().is_some_and(|open| {
            open.builder.bytes().len() + record.len() > CHUNK_BYTES || seq - open.first_seq >= CHUNK_SPAN
        });
        if full {
            self.close();
        }
        let open = self.open.get_or_insert_with(|| Open {
            first_seq: seq,
            builder: ChunkBuilder::default(),
            settled: Vec::new(),
        });
        open.builder.copy_record_as(record, (seq - open.first_seq) as u32);
        self.memory += record.len();
    }

    /// Of notes with one key the last one counts, so applying the same ones twice changes nothing.
    fn note(&mut self, key: &[u8], value: &[u8]) {
        if value.is_empty() {
            self.notes.remove(key);
        } else {
            self.notes.insert(key.into(), value.into());
        }
    }

    fn settle(&mut self, from: Seq, to: Seq) {
        if from < to {
            self.attempts.forget(from, to - 1);
            self.delays.take_within(from, to - 1);
        }
        let at = self.chunks.partition_point(|chunk| chunk.end() <= from);
        for chunk in self.chunks.iter_mut().skip(at).take_while(|chunk| chunk.first_seq < to) {
            chunk.settle(from, to);
        }
        if let Some(open) = &mut self.open
            && to > open.first_seq
        {
            match open.settled.last_mut() {
                Some(last) if last.1 == from => last.1 = to,
                _ => open.settled.push((from, to)),
            }
        }
    }

    /// Closes the open chunk. It is dropped when nothing in it is live, and rewritten when less than half is.
    fn close(&mut self) {
        let Some(open) = self.open.take() else { return };
        self.memory -= open.builder.bytes().len();
        let span = open.builder.end_delta();
        let holes = open.builder.count() < span;
        let (received, expires) = (open.builder.received(), open.builder.flags() & FLAG_EXPIRES != 0);
        let records = Arc::new(open.builder.finish());
        let (first_seq, shares, settled) = (open.first_seq, records.shares().clone(), None);
        let source = Source::Memory(records);
        let mut chunk = RecoveredChunk { first_seq, span, source, settled, received, expires, shares };
        if holes {
            chunk.settled = Some(holes_of(&chunk, span));
        }
        open.settled.iter().for_each(|&(from, to)| chunk.settle(from, to));
        if let (Source::Memory(records), Some(settled)) = (&chunk.source, &chunk.settled)
            && chunk.live() < records.count() / 2
        {
            chunk.source = Source::Memory(Arc::new(without_settled(records, settled)));
        }
        if chunk.live() > 0 {
            self.memory += memory_of(&chunk);
            self.chunks.push_back(chunk);
        }
    }

    fn drop_settled(&mut self, segments: &SegmentStore) {
        self.chunks.retain(|chunk| {
            let live = chunk.live() > 0;
            if !live {
                self.memory -= memory_of(chunk);
                release(segments, chunk);
            }
            live
        });
    }
}

fn holes_of(chunk: &RecoveredChunk, span: u32) -> SeqBitmap {
    let mut holes = SeqBitmap::new(span);
    let mut next = 0;
    if let Source::Memory(records) = &chunk.source {
        for record in records.records() {
            holes.set_range(next, record.delta());
            next = record.delta() + 1;
        }
    }
    holes
}
