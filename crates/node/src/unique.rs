//! Queues that drop duplicates: what a restart must know of their messages.

use std::sync::Arc;

use tracing::error;

use crate::broker::Broker;
use crate::deliver;
use crate::queue_handle::QueueHandle;

/// Reads the messages of a queue that a restart found, those in segments too, so that their duplicates are known. Blocks
/// for as long as that takes; to be called before anything is published.
pub(crate) fn learn(broker: &Broker, queue: &Arc<QueueHandle>) {
    let chunks: Vec<_> = match queue.lock().machine.classic() {
        Some(machine) => {
            let held = machine.levels().flat_map(|level| level.held());
            held.map(|held| (held.first_seq, held.residence.clone())).collect()
        }
        None => return,
    };
    for (first_seq, residence) in chunks {
        let chunk = match (residence.chunk(), residence.location(), broker.segments()) {
            (Some(chunk), ..) => Ok(chunk.clone()),
            (None, Some(location), Some(segments)) => {
                segments.read(&location, queue.id, first_seq).map(Arc::new)
            }
            _ => continue,
        };
        match chunk {
            Ok(chunk) => {
                if let Some(machine) = queue.lock().machine.classic() {
                    machine.learn_values(first_seq, &chunk);
                }
            }
            Err(problem) => {
                error!(queue = %queue.definition.name, %problem, "duplicates of some messages will not be known");
            }
        }
    }
    let left = deliver::take_departed(broker, queue, &mut queue.lock());
    deliver::log_departed(broker, queue, left);
}
