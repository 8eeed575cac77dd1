//! Deleting queues.

use std::sync::Arc;

use posthouse_model::errors::{self, Resource};
use posthouse_model::reply::ReplyError;

use super::DeleteIf;
use crate::broker::Broker;
use crate::queue_handle::{Machine, QueueHandle, QueueState};
use crate::vhost::VirtualHost;
use crate::waker::ConsumerWaker;
use crate::{records, residency};

impl Broker {
    /// Deletes a queue by name; the number of messages it had that were not handed out. A missing one is fine.
    pub fn delete_queue(
        &self,
        vhost: &VirtualHost,
        name: &str,
        when: DeleteIf,
        connection: Option<u64>,
    ) -> Result<u64, ReplyError> {
        let Some(queue) = vhost.find_queue(name) else { return Ok(0) };
        if let Some(connection) = connection {
            vhost.check_owner(&queue, connection)?;
        }
        self.remove_queue(vhost, &queue, when)
    }

    /// Deletes a queue; the number of ready messages it had.
    pub fn remove_queue(
        &self,
        vhost: &VirtualHost,
        queue: &Arc<QueueHandle>,
        when: DeleteIf,
    ) -> Result<u64, ReplyError> {
        let resource = Resource::queue(vhost.name(), &queue.definition.name);
        self.remove_queue_if(vhost, queue, |state| {
            if when.unused && !state.machine.roster().is_empty() {
                return Err(errors::in_use(resource));
            }
            if when.empty && state.machine.ready() + state.machine.delayed() > 0 {
                return Err(errors::not_empty(resource));
            }
            Ok(true)
        })
    }

    /// Deletes a queue if `may` says so of its state; the number of ready messages it had.
    pub(crate) fn remove_queue_if(
        &self,
        vhost: &VirtualHost,
        queue: &Arc<QueueHandle>,
        may: impl FnOnce(&QueueState) -> Result<bool, ReplyError>,
    ) -> Result<u64, ReplyError> {
        // What the log knows the queue by.
        let mut levels = Vec::new();
        let (messages, consumers) = vhost.change(|inner| {
            let mut state = queue.lock();
            if !may(&state)? || std::mem::replace(&mut state.deleted, true) {
                return Ok((0, Vec::new()));
            }
            let messages = state.machine.ready() + state.machine.delayed();
            let consumers: Vec<ConsumerWaker> =
                state.machine.roster().iter().map(|(_, consumer)| consumer.waker.clone()).collect();
            let locations = state.machine.locations();
            levels = state.machine.next_seqs().into_iter().map(|seq| queue.id.with_level_of(seq)).collect();
            if let Some(segments) = self.segments() {
                residency::release(&mut state, segments);
                for location in &locations {
                    segments.release(location);
                }
            }
            state.machine = Machine::default();
            self.timers().cancel(state.timer_ms, queue.id);
            let (waiting, getting) = (std::mem::take(&mut state.waiting), std::mem::take(&mut state.getting));
            waiting.iter().chain(&getting).for_each(|session| session.room());
            drop(state);
            inner.queues.remove(&queue.id);
            let behind_reply_to = queue.definition.name.starts_with(crate::vhost::REPLY_QUEUE_PREFIX);
            inner.reply_queues -= usize::from(behind_reply_to);
            let mut ops = Vec::new();
            if queue.definition.durable {
                ops.push(records::delete_queue(vhost.name(), &queue.definition.name));
            }
            let changes = inner.topology.remove_queue(queue.id);
            ops.extend(self.topology_ops(vhost, &changes));
            self.keep(ops);
            Ok((messages, consumers))
        })?;
        if queue.definition.durable
            && let Some(wal) = self.wal()
        {
            let mut stage = wal.stage();
            for level in levels {
                stage.queue_deleted(level);
            }
        }
        for consumer in consumers {
            consumer.cancelled();
        }
        Ok(messages)
    }
}
