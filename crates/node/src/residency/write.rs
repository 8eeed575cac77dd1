//! Writing what is too much for memory to segments.

use std::sync::Arc;

use posthouse_model::ids::Seq;
use posthouse_queue::machine::Queue;
use posthouse_queue::machine::chunks::Persistence;
use posthouse_queue::machine::residency::ToWrite;
use posthouse_storage::StorageError;
use posthouse_storage::segment::{BlockIn, Class, Location, SegmentStore};
use tracing::error;

use super::{end_spill, keep_bytes, release};
use crate::queue_handle::{Machine, QueueHandle};
use crate::streams;
use crate::waker::ConsumerWaker;

/// Written per turn, so that many queues take turns.
pub(crate) const WRITE_BYTES: usize = 2 << 20;

/// Writes a queue's excess to segments, in turns so that many queues take theirs.
pub(super) fn spill_queue(queue: &Arc<QueueHandle>, segments: &SegmentStore, over_budget: impl Fn() -> bool) {
    if queue.is_stream {
        return streams::spill(queue, segments, over_budget);
    }
    let plan = |machine: &mut Machine| {
        let mut writes = Vec::new();
        let keep = keep_bytes(machine, over_budget());
        if let Some(machine) = machine.classic() {
            machine.plan_spill(keep, WRITE_BYTES, &mut writes);
        }
        writes
    };
    in_turns(queue, plan, |writes| write_chunks(queue, segments, &writes, true));
}

/// Plans, with the queue's lock held, and writes, until nothing is left to be written.
pub(crate) fn in_turns<T>(
    queue: &QueueHandle,
    plan: impl Fn(&mut Machine) -> Vec<T>,
    write: impl Fn(Vec<T>) -> Result<(), StorageError>,
) {
    loop {
        let mut state = queue.lock();
        let writes = if state.deleted { Vec::new() } else { plan(&mut state.machine) };
        if writes.is_empty() {
            return end_spill(&mut state);
        }
        drop(state);
        if let Err(problem) = write(writes) {
            // The messages stay in memory; publishers are held back by the memory watermark.
            error!(queue = %queue.definition.name, %problem, "cannot write messages to a segment");
            return end_spill(&mut queue.lock());
        }
    }
}

/// Writes chunks of one queue to segments and tells the queue where they are.
pub fn write_chunks(
    queue: &QueueHandle,
    segments: &SegmentStore,
    writes: &[ToWrite],
    evict: bool,
) -> Result<(), StorageError> {
    for persistence in [Persistence::Persistent, Persistence::Transient] {
        let of_class: Vec<&ToWrite> = writes.iter().filter(|w| w.persistence == persistence).collect();
        if of_class.is_empty() {
            continue;
        }
        let blocks: Vec<BlockIn> = of_class
            .iter()
            .map(|w| {
                let (first_seq, chunk) = (w.first_seq, w.chunk.clone());
                BlockIn { queue: queue.id, first_seq, chunk, summary: Vec::new() }
            })
            .collect();
        let class = match persistence {
            Persistence::Persistent => Class::Durable,
            Persistence::Transient => Class::Spill,
        };
        let locations = segments.write(class, &blocks)?;
        let mut state = queue.lock();
        for (write, location) in of_class.iter().zip(locations) {
            if let Some(machine) = state.machine.classic() {
                note_written(machine, segments, write.first_seq, location, evict);
            }
        }
        release(&mut state, segments);
    }
    Ok(())
}

/// A chunk was written to a segment. What is in a durable one survives a restart from then on, and what does must not go
/// back to a spill file, for which somebody may have written it before.
pub(crate) fn note_written(
    machine: &mut Queue<Location, ConsumerWaker>,
    segments: &SegmentStore,
    first_seq: Seq,
    location: Location,
    evict: bool,
) {
    match location.class {
        Class::Spill if machine.is_kept(first_seq) => segments.release(&location),
        Class::Spill => machine.written(first_seq, location, evict),
        Class::Durable => {
            machine.written(first_seq, location, evict);
            machine.keep(first_seq);
        }
    }
}
