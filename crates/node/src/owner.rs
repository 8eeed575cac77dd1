//! The queues as the checkpoint cycle sees them, and as a start finds them again.

use std::sync::Arc;

use posthouse_model::chunk::Chunk;
use posthouse_model::ids::{Lsn, QueueId, Seq, level_of};
use posthouse_queue::machine::chunks::{Held, Persistence, Residence};
use posthouse_queue::machine::keeping::ToKeep;
use posthouse_queue::machine::producers::Recalled;
use posthouse_queue::machine::{Queue, Recovered};
use posthouse_queue::stream::notes;
use posthouse_storage::StorageError;
use posthouse_storage::checkpoint::{BlockRef, Note, QueueState};
use posthouse_storage::engine::{ChunkSink, LiveChunk, QueueOwner, RecoveredQueue, Source};
use posthouse_storage::segment::{Class, Location, is_gone};
use tracing::error;

use crate::broker::Broker;
use crate::queue_handle::{Machine, QueueHandle};
use crate::waker::ConsumerWaker;
use crate::{clock, residency, streams};

impl QueueOwner for Broker {
    fn collect(&self, below: Lsn, sink: ChunkSink<'_>) -> Result<(), StorageError> {
        for queue in self.durable_queues() {
            if queue.is_stream {
                streams::collect(&queue, below, sink)?;
            } else {
                self.collect_queue(&queue, below, sink)?;
            }
        }
        Ok(())
    }

    fn relocated(&self, queue: QueueId, first_seq: Seq, location: Location) {
        let Some(segments) = self.segments() else { return };
        match self.queue_by_id(queue.without_level()) {
            Some(queue) => {
                let mut state = queue.lock();
                match &mut state.machine {
                    Machine::Classic(machine) if !queue.is_stream => {
                        residency::note_written(machine, segments, first_seq, location, false);
                    }
                    machine => streams::written(machine, segments, first_seq, location),
                }
                residency::release(&mut state, segments);
            }
            None => segments.release(&location),
        }
    }

    fn states(&self, sink: &mut dyn FnMut(QueueState)) {
        // What was moved to other queues is settled here once the log has it; it has everything below the position
        // that the checkpoint is for.
        let durable = self.wal().map_or(Lsn::MAX, |wal| wal.durable());
        let now_ms = clock::now_ms();
        for queue in self.durable_queues() {
            let mut state = queue.lock();
            if let Some(machine) = state.machine.classic() {
                machine.finish_moves(durable);
            }
            if let Some(segments) = self.segments() {
                residency::release(&mut state, segments);
            }
            let states: Vec<_> = match &state.machine {
                Machine::Classic(machine) => {
                    machine.levels().map(|level| level_state(queue.id, level, durable, now_ms)).collect()
                }
                Machine::Stream(stream) => vec![streams::state(&queue, stream)],
            };
            drop(state);
            states.into_iter().for_each(&mut *sink);
        }
        for vhost in self.vhosts() {
            let states = vhost.seen().states(durable, now_ms);
            states.into_iter().for_each(&mut *sink);
        }
    }

    fn spilled(&self, sink: &mut dyn FnMut(QueueId, BlockRef)) {
        for queue in self.vhosts().iter().flat_map(|vhost| vhost.all_queues()) {
            let blocks: Vec<_> = match &queue.lock().machine {
                Machine::Classic(machine) => machine.levels().flat_map(spilled_blocks).collect(),
                // Streams are durable.
                Machine::Stream(_) => continue,
            };
            blocks.into_iter().for_each(|block| sink(queue.id, block));
        }
    }
}

impl Broker {
    /// What a checkpoint needs of one queue: what is in the log only, and where everything is kept what would not survive
    /// a restart.
    fn collect_queue(
        &self,
        queue: &QueueHandle,
        below: Lsn,
        sink: ChunkSink<'_>,
    ) -> Result<(), StorageError> {
        let (mut writes, mut keeping) = (Vec::new(), Vec::new());
        {
            let mut state = queue.lock();
            let keeps_all = queue.keeps_messages(&state);
            if let Some(machine) = state.machine.classic() {
                machine.plan_migration(below, &mut writes);
                if keeps_all {
                    machine.plan_keeping(&mut keeping);
                }
            }
        }
        let logged = writes.into_iter().map(|write| {
            let residence = Residence::Memory(write.chunk);
            ToKeep { first_seq: write.first_seq, residence, settled: write.settled }
        });
        keeping.extend(logged);
        keeping.sort_by_key(|chunk| chunk.first_seq);
        for ToKeep { first_seq, residence, settled } in keeping {
            let chunk = match residence {
                Residence::Memory(chunk) | Residence::Both(chunk, _) => chunk,
                Residence::Stored(at) | Residence::Loading(at) => {
                    let Some(chunk) = self.read_spilled(queue, first_seq, at)? else { continue };
                    Arc::new(chunk)
                }
            };
            sink(LiveChunk { queue: queue.id, first_seq, chunk, settled, summary: Vec::new() })?;
        }
        Ok(())
    }

    /// A chunk in a spill file; none when it is not there any more, or damaged: it stays as it is, and whoever takes it
    /// finds out.
    fn read_spilled(
        &self,
        queue: &QueueHandle,
        first_seq: Seq,
        at: Location,
    ) -> Result<Option<Chunk>, StorageError> {
        let Some(segments) = self.segments() else { return Ok(None) };
        match segments.read(&at, queue.id, first_seq) {
            Ok(chunk) => Ok(Some(chunk)),
            Err(problem) if is_gone(&problem) => Ok(None),
            Err(problem @ StorageError::Corrupt { .. }) => {
                tracing::error!(queue = %queue.definition.name, %problem, "messages cannot be kept");
                Ok(None)
            }
            Err(problem) => Err(problem),
        }
    }

    fn durable_queues(&self) -> Vec<Arc<QueueHandle>> {
        let mut queues: Vec<_> = self.vhosts().iter().flat_map(|vhost| vhost.all_queues()).collect();
        queues.retain(|queue| queue.definition.durable);
        queues.sort_unstable_by_key(|queue| queue.id);
        queues
    }
}

/// Where a chunk is, if it is in a segment file.
fn block(machine: &Queue<Location, ConsumerWaker>, held: &Held<Location>) -> Option<BlockRef> {
    let location = held.residence.location()?;
    let (first_seq, span) = (held.first_seq, held.span);
    let (settled, received, expires) = (machine.settled_for_good(held), held.received, held.expires);
    let shares = held.shares.clone();
    Some(BlockRef { location, first_seq, span, settled, received, expires, shares })
}

fn spilled_blocks(machine: &Queue<Location, ConsumerWaker>) -> impl Iterator<Item = BlockRef> {
    let blocks = machine.held().filter_map(|held| block(machine, held));
    blocks.filter(|block| block.location.class == Class::Spill)
}

/// The state of one level of a queue.
fn level_state(
    queue: QueueId,
    machine: &Queue<Location, ConsumerWaker>,
    durable: Lsn,
    now_ms: u64,
) -> QueueState {
    let covered = machine.covered();
    let blocks = machine
        .held()
        .filter(|held| held.persistence == Persistence::Persistent && held.first_seq < covered)
        .filter_map(|held| block(machine, held))
        .collect();
    QueueState {
        id: queue.with_level_of(machine.next_seq()),
        next_seq: machine.next_seq(),
        floor: machine.floor().min(covered),
        covered,
        delivered_below: machine.delivered_below(),
        blocks,
        notes: machine.notes(durable, now_ms).into_iter().map(note).collect(),
        attempts: machine.attempts().collect(),
        delays: machine.delays().collect(),
    }
}

/// Something that a queue remembers beside its messages, as it is kept.
pub(crate) fn note(note: notes::Note) -> Note {
    Note { key: note.key.into(), value: note.value.into() }
}

/// A queue with what a start found of each of its levels, in ascending order; and what the log must be told of its publishers
/// before anything else.
pub(crate) fn recovered(levels: Vec<RecoveredQueue>) -> (Queue<Location, ConsumerWaker>, Vec<notes::Note>) {
    let mut machine = Queue::default();
    let mut remembered = Vec::new();
    for mut found in levels {
        remembered.append(&mut found.notes);
        match level_of(found.next_seq) {
            0 => machine = Queue::recover(of_level(found)),
            level => machine.recover_level(level, of_level(found)),
        }
    }
    machine.was_restarted();
    let is_of_values = |note: &mut Note| notes::Note::is_of_values(&note.key);
    let values: Vec<Note> = remembered.extract_if(.., is_of_values).collect();
    if !values.is_empty() {
        let unknown = machine.remember_values(values.iter().map(|note| (&*note.key, &*note.value)));
        if unknown > 0 {
            error!(unknown, "notes of values that a queue has seen have no form that is known");
        }
    }
    let mut truth = Vec::new();
    for note in remembered {
        match machine.remember_producer(&note.key, &note.value) {
            Recalled::Unknown => error!(key = ?note.key, "a note of a queue has no form that is known"),
            Recalled::AsItSays => {}
            Recalled::NotThere(note) => truth.push(note),
        }
    }
    (machine, truth)
}

fn of_level(found: RecoveredQueue) -> Recovered<Location> {
    let chunks = found.chunks.into_iter().map(|chunk| {
        let residence = match chunk.source {
            Source::Memory(chunk) => Residence::Memory(chunk),
            Source::Block(location) => Residence::Stored(location),
        };
        Held::recovered(chunk.first_seq, chunk.span, chunk.settled, residence)
            .with_times(chunk.received, chunk.expires)
            .with_shares(chunk.shares)
    });
    let (next_seq, redelivered_below) = (found.next_seq, found.delivered_below);
    Recovered { chunks: chunks.collect(), next_seq, redelivered_below }
}
