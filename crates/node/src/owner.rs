//! The queues as the checkpoint cycle sees them.

use std::sync::Arc;

use posthouse_model::ids::{Lsn, QueueId, Seq};
use posthouse_queue::machine::Queue;
use posthouse_queue::machine::chunks::Persistence;
use posthouse_storage::StorageError;
use posthouse_storage::checkpoint::{BlockRef, QueueState};
use posthouse_storage::engine::{ChunkSink, LiveChunk, QueueOwner};
use posthouse_storage::segment::Location;

use crate::broker::Broker;
use crate::queue_handle::{Machine, QueueHandle};
use crate::waker::ConsumerWaker;
use crate::{residency, streams};

impl QueueOwner for Broker {
    fn collect(&self, below: Lsn, sink: ChunkSink<'_>) -> Result<(), StorageError> {
        let mut writes = Vec::new();
        for queue in self.durable_queues() {
            if queue.is_stream {
                streams::collect(&queue, below, sink)?;
                continue;
            }
            if let Some(machine) = queue.lock().machine.classic() {
                machine.plan_migration(below, &mut writes);
            }
            for write in writes.drain(..) {
                let (first_seq, chunk, settled) = (write.first_seq, write.chunk, write.settled);
                sink(LiveChunk { queue: queue.id, first_seq, chunk, settled, summary: Vec::new() })?;
            }
        }
        Ok(())
    }

    fn relocated(&self, queue: QueueId, first_seq: Seq, location: Location) {
        let Some(segments) = self.segments() else { return };
        match self.queue_by_id(queue) {
            Some(queue) => {
                let mut state = queue.lock();
                match &mut state.machine {
                    Machine::Classic(machine) if !queue.is_stream => {
                        machine.written(first_seq, location, false);
                    }
                    machine => streams::written(machine, segments, first_seq, location),
                }
                residency::release(&mut state, segments);
            }
            None => segments.release(&location),
        }
    }

    fn states(&self, sink: &mut dyn FnMut(QueueState)) {
        for queue in self.durable_queues() {
            let state = match &queue.lock().machine {
                Machine::Classic(machine) => queue_state(queue.id, machine),
                Machine::Stream(stream) => streams::state(&queue, stream),
            };
            sink(state);
        }
    }
}

impl Broker {
    fn durable_queues(&self) -> Vec<Arc<QueueHandle>> {
        let mut queues: Vec<_> = self.vhosts().iter().flat_map(|vhost| vhost.all_queues()).collect();
        queues.retain(|queue| queue.definition.durable);
        queues.sort_unstable_by_key(|queue| queue.id);
        queues
    }
}

fn queue_state(id: QueueId, machine: &Queue<Location, ConsumerWaker>) -> QueueState {
    let covered = machine.covered();
    let blocks = machine
        .held()
        .filter(|held| held.persistence == Persistence::Persistent && held.first_seq < covered)
        .filter_map(|held| {
            let location = held.residence.location()?;
            let (first_seq, span) = (held.first_seq, held.span);
            Some(BlockRef { location, first_seq, span, settled: held.settled_bitmap() })
        })
        .collect();
    QueueState {
        id,
        next_seq: machine.next_seq(),
        floor: machine.floor().min(covered),
        covered,
        delivered_below: machine.delivered_below(),
        blocks,
    }
}
