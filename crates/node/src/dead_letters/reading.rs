//! Reading the chunks of messages that leave.

use std::collections::VecDeque;
use std::sync::Arc;

use posthouse_model::chunk::Chunk;
use posthouse_model::ids::Seq;
use posthouse_queue::machine::leaving::Parcel;
use posthouse_storage::segment::Location;

use crate::broker::Broker;
use crate::queue_handle::QueueHandle;
use crate::residency::{self, FailedRead};

/// Chunks that are kept when they were read.
const RECENT_MAX: usize = 4;

/// The chunks of one queue's parcels. Those that were read last are kept: where messages leave one by one, here and there,
/// a chunk has thousands of parcels, and those of a few chunks alternate where several consumers reject.
#[derive(Default)]
pub(super) struct Reading {
    recent: VecDeque<(Seq, Arc<Chunk>)>,
}

impl Reading {
    /// A parcel's chunk, which `read` gets when it is not in memory; none when it cannot.
    pub(super) fn chunk_of(
        &mut self,
        parcel: &Parcel<Location>,
        read: impl FnOnce() -> Option<Arc<Chunk>>,
    ) -> Option<Arc<Chunk>> {
        if let Some(chunk) = parcel.residence.chunk() {
            return Some(chunk.clone());
        }
        if let Some((_, chunk)) = self.recent.iter().find(|(first_seq, _)| *first_seq == parcel.first_seq) {
            return Some(chunk.clone());
        }
        let chunk = read()?;
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back((parcel.first_seq, chunk.clone()));
        Some(chunk)
    }
}

/// Reads a parcel's chunk from its segment; none when that is not possible now.
pub(super) fn read(
    broker: &Broker,
    queue: &Arc<QueueHandle>,
    parcel: &Parcel<Location>,
) -> Option<Arc<Chunk>> {
    let (segments, location) = (broker.segments()?, parcel.residence.location()?);
    match segments.read(&location, queue.id, parcel.first_seq) {
        Ok(chunk) => Some(Arc::new(chunk)),
        Err(problem) => {
            let mut state = queue.lock();
            // Moved to another segment meanwhile, it is looked for again.
            if let Some(machine) = state.machine.classic()
                && machine.lies_at(parcel.first_seq, location)
                && residency::after_failed_read(&problem) == FailedRead::Damage
            {
                residency::give_up(queue, machine, parcel.first_seq, &problem, &mut Vec::new());
            }
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use posthouse_model::chunk::ChunkBuilder;
    use posthouse_queue::machine::chunks::Residence;
    use posthouse_queue::machine::departures::Reason;
    use posthouse_queue::machine::leaving::Run;
    use posthouse_storage::segment::{Class, SegmentId};

    use super::*;

    fn parcel(first_seq: Seq, at: Seq) -> Parcel<Location> {
        let location = Location {
            file: SegmentId(1),
            class: Class::Durable,
            shared: false,
            offset: 0,
            len: 100,
            records: 1,
        };
        let run = Run { first: first_seq + at, last: first_seq + at, reason: Reason::Rejected };
        Parcel { run, first_seq, residence: Residence::Stored(location) }
    }

    #[test]
    fn messages_here_and_there_in_a_few_chunks_cost_a_read_per_chunk() {
        let mut reading = Reading::default();
        let mut reads = 0;
        for at in 0..100 {
            for first_seq in [0, 1000, 2000, 3000] {
                let chunk = reading.chunk_of(&parcel(first_seq, 2 * at), || {
                    reads += 1;
                    Some(Arc::new(ChunkBuilder::default().finish()))
                });
                assert!(chunk.is_some());
            }
        }
        assert_eq!(reads, 4);
        assert!(reading.chunk_of(&parcel(4000, 0), || None).is_none());
        reading.chunk_of(&parcel(4000, 0), || Some(Arc::new(ChunkBuilder::default().finish())));
        assert_eq!(reading.recent.len(), RECENT_MAX, "they are given up for others");
    }
}
