//! Consumers come and go, and with the last one a queue that is deleted then.

use std::sync::Arc;

use posthouse_model::errors::{self, Resource};
use posthouse_model::reply::ReplyError;
use posthouse_queue::machine::roster::ConsumerId;

use super::DeleteIf;
use crate::broker::Broker;
use crate::queue_handle::QueueHandle;
use crate::vhost::VirtualHost;
use crate::waker::ConsumerWaker;
use crate::{deliver, expiry, residency, streams};

impl Broker {
    /// Adds a consumer to a queue.
    pub fn add_consumer(
        &self,
        queue: &QueueHandle,
        consumer: ConsumerId,
        waker: ConsumerWaker,
        priority: i64,
        exclusive: bool,
    ) -> Result<(), ReplyError> {
        let mut state = queue.lock();
        let definition = &queue.definition;
        if state.deleted {
            return Err(errors::no_queue(&definition.vhost, &definition.name));
        }
        let Some(machine) = state.machine.classic() else {
            return Err(errors::no_queue(&definition.vhost, &definition.name));
        };
        let roster = &mut machine.roster;
        let alone = roster.is_empty() && !roster.is_single_active();
        if roster.has_exclusive() || (exclusive && !alone) {
            return Err(errors::exclusive_consumer(Resource::queue(&definition.vhost, &definition.name)));
        }
        roster.add(consumer, waker, priority, exclusive);
        Ok(())
    }

    /// Removes a consumer; an auto-delete queue goes with its last one.
    pub fn remove_consumer(&self, vhost: &VirtualHost, queue: &Arc<QueueHandle>, consumer: ConsumerId) {
        let mut wakes = Vec::new();
        let (unused, left) = {
            let mut stage = self.wal().filter(|_| queue.is_stream).map(|wal| wal.stage());
            let mut state = queue.lock();
            let unused = state.machine.remove_consumer(consumer, &mut wakes);
            if let Some(stream) = state.machine.stream() {
                // Another one of its name may begin.
                streams::log_notes(queue, stream, stage.as_mut());
            }
            residency::read_for_stream(self, queue, &mut state);
            expiry::expire_now(self, queue, &mut state);
            if unused {
                state.renew_lease();
                expiry::await_lease(self, queue, &mut state);
            }
            (unused, deliver::take_departed(self, queue, &mut state))
        };
        deliver::log_departed(self, queue, left);
        deliver::wake_all(&mut wakes);
        if unused && queue.definition.auto_delete {
            // Somebody may have come meanwhile; then it stays.
            let _ = self.remove_queue(vhost, queue, DeleteIf { unused: true, empty: false });
        }
    }
}
