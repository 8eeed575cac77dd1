//! Batches for queues with priorities: taken apart once, before any lock, whatever number of queues get them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use posthouse_model::chunk::{Chunk, ChunkBuilder, Records};
use posthouse_model::durability::Durability;
use posthouse_model::ids::{Lsn, QueueId, Seq};
use posthouse_model::priorities::Levels;
use posthouse_model::props::HeaderView;
use posthouse_model::queue_settings::QueueSettings;
use posthouse_queue::machine::chunks::Persistence;
use posthouse_storage::wal::{Payload, Stage};

use crate::publish::{SHARE_BYTES_MIN, enqueue, finish};
use crate::queue_handle::{Machine, QueueHandle};
use crate::waker::ConsumerWaker;

/// A batch as queues that level messages in the same way want it: a part for each level.
#[derive(Debug)]
pub(crate) struct ByLevel {
    levels: Levels,
    /// By level.
    builders: Vec<ChunkBuilder>,
    /// Of this batch, each with at least one message.
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    level: u8,
    count: u32,
    /// The records, where they are handed over by reference; otherwise they are in the level's builder.
    shared: Option<Arc<Chunk>>,
    /// The queues whose log gets it, and their numbers for the first message.
    logged: Vec<(QueueId, Seq)>,
}

impl ByLevel {
    /// What queues need of which some may have priorities, one for each way to level messages; and whether any has none.
    pub(crate) fn of_queues<'a>(queues: impl Iterator<Item = &'a Arc<QueueHandle>>) -> (Vec<Self>, bool) {
        let mut different: BTreeSet<Levels> =
            queues.map(|queue| queue.lock().machine.settings().levels()).collect();
        let any_plain = different.first().is_some_and(|levels| levels.has_one());
        different.retain(|levels| !levels.has_one());
        (different.into_iter().map(Self::new).collect(), any_plain)
    }

    fn new(levels: Levels) -> Self {
        Self { levels, builders: Vec::new(), parts: Vec::new() }
    }

    /// Whether the parts are what a queue wants.
    pub(crate) fn fit(&self, queue: &Machine) -> bool {
        self.levels == queue.settings().levels()
    }

    /// Takes a batch for so many queues apart.
    pub(crate) fn split(&mut self, records: &[u8], queues: usize) {
        let mut rest = records;
        for record in Records::new(records) {
            let (bytes, after) = rest.split_at(record.len());
            let level = usize::from(self.levels.of(priority(record.header())));
            if self.builders.len() <= level {
                self.builders.resize_with(level + 1, ChunkBuilder::default);
            }
            let builder = &mut self.builders[level];
            builder.copy_record_as(bytes, builder.end_delta());
            rest = after;
        }
        for (level, builder) in (0..=u8::MAX).zip(&mut self.builders).rev() {
            let count = builder.count();
            if count > 0 {
                let shared = (builder.bytes().len() >= SHARE_BYTES_MIN).then(|| finish(builder, queues));
                self.parts.push(Part { level, count, shared, logged: Vec::new() });
            }
        }
    }

    /// Adds the parts to a queue, and notes for the log where they are with `logged`.
    pub(crate) fn push(
        &mut self,
        queue: QueueId,
        machine: &mut Machine,
        (persistence, lsn): (Persistence, Lsn),
        logged: bool,
        wakes: &mut Vec<ConsumerWaker>,
    ) {
        for part in &mut self.parts {
            let (level, count) = (part.level, part.count);
            let first = match &part.shared {
                Some(chunk) => machine.push_shared(level, chunk.clone(), persistence, lsn, wakes),
                None => {
                    let records = self.builders[usize::from(level)].bytes();
                    machine.push_copied(level, records, count, persistence, lsn, wakes)
                }
            };
            if logged {
                part.logged.push((queue, first));
            }
        }
    }

    /// Whether the log is about to get some of this batch.
    pub(crate) fn is_logged(&self) -> bool {
        self.parts.iter().any(|part| !part.logged.is_empty())
    }

    /// Tells the log, and is ready for the next batch.
    pub(crate) fn finish(&mut self, mut stage: Option<&mut Stage<'_>>, durability: Durability) {
        for part in self.parts.drain(..) {
            let builder = &mut self.builders[usize::from(part.level)];
            if let Some(stage) = stage.as_mut().filter(|_| !part.logged.is_empty()) {
                let payload = match part.shared {
                    Some(chunk) => Payload::Shared(chunk),
                    None => Payload::Copy(builder.bytes()),
                };
                enqueue(stage, durability, &part.logged, part.count, payload);
            }
            builder.clear();
        }
    }

    /// Memory kept for the next batch.
    pub(crate) fn room_bytes(&self) -> usize {
        self.builders.iter().map(ChunkBuilder::room_bytes).sum()
    }

    /// Gives that memory up.
    pub(crate) fn give_up_room(&mut self) {
        self.builders = Vec::new();
    }
}

/// Takes some messages apart for one queue.
pub(crate) fn split(records: ChunkBuilder, settings: &QueueSettings) -> BTreeMap<u8, ChunkBuilder> {
    let mut parts = BTreeMap::new();
    let levels = settings.levels();
    if levels.has_one() {
        parts.insert(0, records);
        return parts;
    }
    let mut rest = records.bytes();
    for record in Records::new(records.bytes()) {
        let (bytes, after) = rest.split_at(record.len());
        let level = levels.of(priority(record.header()));
        parts.entry(level).or_insert_with(ChunkBuilder::default).append_records(bytes);
        rest = after;
    }
    parts
}

/// The priority that a content header says, if any.
#[inline]
pub(crate) fn priority(header: &[u8]) -> Option<u8> {
    HeaderView::parse(header).ok().and_then(|header| header.priority())
}
