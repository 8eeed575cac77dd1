//! Deliveries that are not acknowledged in time: they go back to their queue, and the consumer ends.

use posthouse_amqp::method::Method;
use posthouse_model::attempts::Return;
use posthouse_model::errors;
use posthouse_node::deadlines::{NEVER_MS, due_ms, now_ms};
use posthouse_node::deliver;
use tracing::warn;

use super::session::{Failure, Session};
use super::unacked::Outstanding;

impl Session {
    /// When a delivery of now is due, where there is a time limit.
    pub(crate) fn due(&self, timeout_ms: Option<u64>) -> u64 {
        timeout_ms.map_or(NEVER_MS, |timeout_ms| due_ms(now_ms(), timeout_ms))
    }

    /// Has the session woken at `due_ms` if it would not be by then.
    #[inline]
    pub(crate) fn await_deadline(&mut self, due_ms: u64) {
        if due_ms < self.deadline_ms {
            let connection = self.peer.info.id;
            self.broker.deadlines().change(connection, self.deadline_ms, due_ms, &self.waker);
            self.deadline_ms = due_ms;
        }
    }

    /// Has the session not woken any more.
    pub(crate) fn forget_deadline(&mut self) {
        if self.deadline_ms != NEVER_MS {
            let connection = self.peer.info.id;
            self.broker.deadlines().change(connection, self.deadline_ms, NEVER_MS, &self.waker);
            self.deadline_ms = NEVER_MS;
        }
    }

    /// Takes back what is overdue on any channel.
    pub(crate) fn end_overdue(&mut self) -> Result<(), Failure> {
        let now_ms = now_ms();
        self.forget_deadline();
        for number in 0..self.channels.len() {
            let number = number as u16;
            let Some(channel) = self.channel(number) else { continue };
            let mut overdue = Vec::new();
            let next_ms = channel.unacked.take_overdue(now_ms, |run| overdue.push(run));
            self.await_deadline(next_ms);
            if !overdue.is_empty() {
                self.take_back(number, &overdue)?;
            }
        }
        Ok(())
    }

    fn take_back(&mut self, number: u16, overdue: &[Outstanding]) -> Result<(), Failure> {
        let mut slots: Vec<u32> = overdue.iter().filter_map(|run| run.consumer).collect();
        slots.sort_unstable();
        slots.dedup();
        for &slot in &slots {
            // It must not get its messages again.
            if let Some(consumer) = self.consumers.get_mut(slot) {
                deliver::block(&self.broker, &consumer.queue, consumer.id);
            }
        }
        for run in overdue {
            if let Some(channel) = self.channels.get_mut(usize::from(number)).and_then(|c| c.as_deref_mut()) {
                self.consumers.credit_back_of(channel, run);
            }
            let ranges = [(run.first_seq, run.last_seq())];
            deliver::give_back(&self.broker, &run.queue, &ranges, Return::Released);
        }
        let mut longest_ms = None;
        for slot in slots {
            longest_ms = longest_ms.max(self.note_timeout(slot));
            if self.peer.consumer_cancel_notify
                && let Some(consumer) = self.end_consumer(slot)
            {
                let cancel = Method::BasicCancel { consumer_tag: &consumer.tag, nowait: true };
                self.send(number, &cancel);
            }
        }
        match longest_ms {
            // Nothing else tells such a client that its consumer has ended.
            Some(timeout_ms) if !self.peer.consumer_cancel_notify => {
                self.fail(number, Failure::general(errors::delivery_timeout(number, timeout_ms)))
            }
            _ => Ok(()),
        }
    }

    /// Logs that a consumer was too slow; its time limit.
    fn note_timeout(&mut self, slot: u32) -> Option<u64> {
        let connection = &self.peer.info.name;
        let consumer = self.consumers.get_mut(slot)?;
        let timeout_ms =
            consumer.timeout_ms.or_else(|| consumer.queue.consumer_timeout_ms()).unwrap_or_default();
        let (queue, tag, channel) = (&*consumer.queue.definition.name, &*consumer.tag, consumer.channel);
        warn!(
            connection,
            channel,
            consumer = tag,
            queue,
            timeout_ms,
            "a consumer did not acknowledge in time and is cancelled"
        );
        Some(timeout_ms)
    }
}
