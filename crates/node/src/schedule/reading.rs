//! Reading what waits: slots before they begin, and the messages that are due.

use std::collections::BTreeMap;
use std::sync::Arc;

use posthouse_model::chunk::Chunk;
use posthouse_model::ids::{Lsn, Seq};
use posthouse_model::record::{FLAG_DEATHS, FLAG_MAYBE_DELIVERED, FLAG_PERSISTENT, FLAG_REDELIVERED, Record};
use posthouse_queue::machine::browse::Ready;
use posthouse_queue::machine::chunks::Residence;
use posthouse_queue::schedule::wheel::Place;
use posthouse_queue::schedule::{Fate, Waiting};
use posthouse_storage::segment::Location;

use super::{Schedule, id_of};
use crate::broker::Broker;
use crate::queue_handle::{MemoryUse, QueueHandle};
use crate::residency::{self, FailedRead, READ_AGAIN_AFTER};
use crate::transfer::{Mode, Moving, Target, Targets, Transfer};

/// Bytes of records read in one step.
const STEP_BYTES: usize = 1 << 20;

/// Bytes of chunks that were read from segments and are kept for the messages in them that are due next.
const CACHE_BYTES: usize = 32 << 20;

/// The same while all queues together are over the memory budget.
const CACHE_BYTES_TIGHT: usize = 2 << 20;

/// `FLAG_*` bits that a message keeps, however often it is moved: one may have been delivered before a crash and not have
/// left the schedule on disk.
pub(super) const KEPT_FLAGS: u16 = FLAG_PERSISTENT | FLAG_DEATHS | FLAG_REDELIVERED | FLAG_MAYBE_DELIVERED;

/// Chunks read from segments, by queue and first number. They count as memory of messages.
#[derive(Debug)]
pub(super) struct Cache {
    memory: Arc<MemoryUse>,
    budget_bytes: usize,
    chunks: BTreeMap<(u64, Seq), (Arc<Chunk>, u64)>,
    /// Their keys by when they were last used: a large chunk may take the place of thousands.
    by_use: BTreeMap<u64, (u64, Seq)>,
    bytes: usize,
    clock: u64,
}

impl Cache {
    /// An empty one, which makes itself small while memory is above the budget.
    pub(super) fn new(broker: &Broker) -> Self {
        Self::with(broker.memory().clone(), broker.settings().memory_budget_bytes)
    }

    fn with(memory: Arc<MemoryUse>, budget_bytes: usize) -> Self {
        let (chunks, by_use, bytes, clock) = Default::default();
        Self { memory, budget_bytes, chunks, by_use, bytes, clock }
    }

    /// Empties it.
    pub(super) fn clear(&mut self) {
        self.memory.change(self.bytes, 0);
        self.bytes = 0;
        self.chunks.clear();
        self.by_use.clear();
    }

    fn get(&mut self, key: (u64, Seq)) -> Option<Arc<Chunk>> {
        let (chunk, used) = self.chunks.get_mut(&key)?;
        self.by_use.remove(used);
        self.clock += 1;
        *used = self.clock;
        self.by_use.insert(self.clock, key);
        Some(chunk.clone())
    }

    fn insert(&mut self, key: (u64, Seq), chunk: Arc<Chunk>) {
        self.clock += 1;
        let before = self.bytes;
        self.bytes += chunk.memory_bytes();
        self.by_use.insert(self.clock, key);
        if let Some((former, used)) = self.chunks.insert(key, (chunk, self.clock)) {
            self.by_use.remove(&used);
            self.bytes -= former.memory_bytes();
        }
        let is_tight = self.memory.bytes() > self.budget_bytes;
        let most = if is_tight { CACHE_BYTES_TIGHT } else { CACHE_BYTES };
        while self.bytes > most
            && self.chunks.len() > 1
            && let Some((_, oldest)) = self.by_use.pop_first()
            && let Some((chunk, _)) = self.chunks.remove(&oldest)
        {
            self.bytes -= chunk.memory_bytes();
        }
        self.memory.change(before, self.bytes);
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Why a chunk was not read.
pub(super) enum Unread {
    /// It is not there any more, or somewhere else.
    Moved,
    /// It cannot be read now.
    Later,
}

/// A chunk's bytes.
pub(super) fn read_chunk(
    broker: &Broker,
    queue: &Arc<QueueHandle>,
    first_seq: Seq,
    residence: &Residence<Location>,
    cache: &mut Cache,
) -> Result<Arc<Chunk>, Unread> {
    if let Some(chunk) = residence.chunk() {
        return Ok(chunk.clone());
    }
    let key = (queue.id.0, first_seq);
    if let Some(chunk) = cache.get(key) {
        return Ok(chunk);
    }
    let (Some(segments), Some(location)) = (broker.segments(), residence.location()) else {
        return Err(Unread::Moved);
    };
    match segments.read(&location, queue.id, first_seq) {
        Ok(chunk) => {
            let chunk = Arc::new(chunk);
            cache.insert(key, chunk.clone());
            Ok(chunk)
        }
        Err(problem) => {
            let mut state = queue.lock();
            match (state.machine.classic(), residency::after_failed_read(&problem)) {
                (Some(machine), FailedRead::Damage) if machine.lies_at(first_seq, location) => {
                    residency::give_up(queue, machine, first_seq, &problem, &mut Vec::new());
                    Err(Unread::Moved)
                }
                (Some(machine), FailedRead::TryAgain) if machine.lies_at(first_seq, location) => {
                    Err(Unread::Later)
                }
                _ => Err(Unread::Moved),
            }
        }
    }
}

/// Reads a part of a level: notes its messages, or moves them to finer slots. The position up to which the log must be on
/// disk before the schedule settles what was moved, 0 for none.
pub(super) fn read_level(
    broker: &Broker,
    schedule: &Schedule,
    level: u8,
    now_ms: u64,
    cache: &mut Cache,
) -> Lsn {
    let queue = &schedule.queue;
    let bytes_of = |location: Location| location.len as usize;
    let (from, bounds) = {
        let agenda = schedule.agenda();
        (agenda.read_below(level), agenda.bounds())
    };
    let unread = queue.lock().machine.classic().map(|machine| machine.extent(level, from, bounds, bytes_of));
    let Some(unread) = unread else { return 0 };
    // From here on, who adds messages has the level read again; so what is looked at must be looked at after it.
    let pass = schedule.agenda().begin(level, now_ms, unread);
    let glimpsed = queue
        .lock()
        .machine
        .classic()
        .map(|machine| machine.glimpse_level(level, from, STEP_BYTES, bytes_of));
    let Some((glimpses, mut more)) = glimpsed else { return 0 };
    let mut next = from;
    let mut moved = Vec::new();
    let mut transfer = Transfer::new(broker, queue, Mode::Ready, now_ms);
    for glimpse in &glimpses {
        let chunk = match read_chunk(broker, queue, glimpse.first_seq, &glimpse.residence, cache) {
            Ok(chunk) => chunk,
            Err(unread) => {
                if matches!(unread, Unread::Later) {
                    std::thread::sleep(READ_AGAIN_AFTER);
                }
                more = true;
                break;
            }
        };
        let records = ready_records(&chunk, glimpse.first_seq, &glimpse.ready);
        let fates: Vec<Fate> = {
            let mut agenda = schedule.agenda();
            records.iter().map(|(waiting, _)| agenda.read(&pass, *waiting)).collect()
        };
        for ((waiting, record), fate) in records.iter().zip(fates) {
            if let Fate::Moves(place) = fate {
                add_move(&mut transfer, queue, waiting, record, place);
                moved.push(place);
            }
            next = next.max(waiting.seq + 1);
        }
    }
    let until = schedule.commit(transfer);
    let mut agenda = schedule.agenda();
    moved.into_iter().for_each(|place| agenda.arrived(place));
    agenda.end(&pass, next, more);
    until
}

/// The messages of a chunk that are ready.
pub(super) fn ready_records<'a>(
    chunk: &'a Chunk,
    first_seq: Seq,
    ready: &[Ready],
) -> Vec<(Waiting, Record<'a>)> {
    let mut records = Vec::new();
    for run in ready {
        let place = chunk.find((run.first - first_seq) as u32);
        let mut offset = place.map_or(u32::MAX, |place| place.offset);
        while let Some(record) = chunk.record_at(offset) {
            let seq = first_seq + Seq::from(record.delta());
            if seq > run.last {
                break;
            }
            records.push((waiting_of(&record, seq), record));
            offset += record.len() as u32;
        }
    }
    records
}

/// What is known of a message that waits.
fn waiting_of(record: &Record<'_>, seq: Seq) -> Waiting {
    Waiting { due_ms: record.received_ms(), id: id_of(record), seq }
}

/// Moves a message within the schedule, to where it waits until it is due.
pub(super) fn add_move(
    transfer: &mut Transfer<'_>,
    queue: &Arc<QueueHandle>,
    waiting: &Waiting,
    record: &Record<'_>,
    place: Place,
) {
    let targets: Targets = std::iter::once(Target::at(queue.clone(), place.level)).collect();
    let moving = Moving {
        seq: waiting.seq,
        reason: None,
        flags: record.flags() & KEPT_FLAGS,
        publisher: record.publisher(),
        waits_until_ms: Some(waiting.due_ms),
        traces: None,
        route: record.routes(),
        header: record.header(),
        body: record.body(),
    };
    transfer.add(&targets, moving);
}

#[cfg(test)]
mod tests {
    use posthouse_model::chunk::ChunkBuilder;

    use super::*;

    fn chunk(body_bytes: usize) -> Arc<Chunk> {
        let (mut builder, body) = (ChunkBuilder::default(), vec![0; body_bytes]);
        builder.push(0, 0, &[0, 0], &[], body.len(), &body);
        Arc::new(builder.finish())
    }

    #[test]
    fn what_was_not_used_for_longest_makes_room() {
        let mut cache = Cache::with(Arc::default(), usize::MAX);
        for seq in 0..4 {
            cache.insert((1, seq), chunk(CACHE_BYTES / 5));
        }
        assert!(cache.get((1, 0)).is_some());
        cache.insert((1, 4), chunk(CACHE_BYTES / 5));
        let left = |cache: &Cache| cache.chunks.keys().map(|&(_, seq)| seq).collect::<Vec<_>>();
        assert_eq!(left(&cache), [0, 2, 3, 4]);
        cache.insert((1, 2), chunk(1));
        cache.insert((1, 5), chunk(CACHE_BYTES / 5));
        assert_eq!(left(&cache), [0, 2, 3, 4, 5], "the same chunk counts once");
        cache.insert((2, 0), chunk(2 * CACHE_BYTES));
        assert_eq!(cache.chunks.len(), 1, "one stays, however large");
        assert_eq!(cache.by_use.len(), 1);
        assert_eq!(cache.bytes, cache.chunks[&(2, 0)].0.memory_bytes());
    }

    #[test]
    fn what_it_keeps_counts_as_memory_and_is_little_when_that_is_short() {
        let memory: Arc<MemoryUse> = Arc::default();
        let mut cache = Cache::with(memory.clone(), 3 * CACHE_BYTES_TIGHT);
        for seq in 0..3 {
            cache.insert((1, seq), chunk(CACHE_BYTES_TIGHT / 2));
            assert_eq!(memory.bytes(), cache.bytes);
        }
        assert_eq!(cache.chunks.len(), 3);
        memory.change(0, 3 * CACHE_BYTES_TIGHT);
        cache.insert((1, 3), chunk(CACHE_BYTES_TIGHT / 4));
        assert_eq!(cache.chunks.keys().map(|&(_, seq)| seq).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(memory.bytes(), 3 * CACHE_BYTES_TIGHT + cache.bytes);
        drop(cache);
        assert_eq!(memory.bytes(), 3 * CACHE_BYTES_TIGHT);
    }

    /// It took a minute when each looked at all that were left.
    #[test]
    fn a_large_chunk_takes_the_place_of_many_small_ones() {
        let (mut cache, small) = (Cache::with(Arc::default(), usize::MAX), chunk(1));
        let many = (CACHE_BYTES / small.memory_bytes()).min(100_000) as Seq;
        (0..many).for_each(|seq| cache.insert((1, seq), small.clone()));
        let started = std::time::Instant::now();
        cache.insert((2, 0), chunk(2 * CACHE_BYTES));
        assert_eq!(cache.chunks.len(), 1);
        assert!(started.elapsed() < std::time::Duration::from_secs(3));
    }
}
