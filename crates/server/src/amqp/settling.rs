//! Settled messages of one batch, gathered so that each queue is told once.

use std::sync::Arc;

use posthouse_model::ids::Seq;
use posthouse_node::broker::Broker;
use posthouse_node::deliver;
use posthouse_node::queue_handle::QueueHandle;

/// A queue and the ranges to settle in it.
type OfQueue = (Arc<QueueHandle>, Vec<(Seq, Seq)>);

/// Ranges to settle per queue.
#[derive(Debug, Default)]
pub(crate) struct Settling {
    queues: Vec<OfQueue>,
    last: usize,
}

impl Settling {
    /// Adds a range. Neighbouring ranges become one.
    pub(crate) fn add(&mut self, queue: &Arc<QueueHandle>, first: Seq, last: Seq) {
        let same = |entry: &OfQueue| Arc::ptr_eq(&entry.0, queue);
        if !self.queues.get(self.last).is_some_and(same) {
            self.last = self.queues.iter().position(same).unwrap_or_else(|| {
                self.queues.push((queue.clone(), Vec::new()));
                self.queues.len() - 1
            });
        }
        let ranges = &mut self.queues[self.last].1;
        match ranges.last_mut() {
            Some(range) if range.1 + 1 == first => range.1 = last,
            _ => ranges.push((first, last)),
        }
    }

    /// Tells the queues and the log.
    pub(crate) fn flush(&mut self, broker: &Broker) {
        for (queue, ranges) in &mut self.queues {
            if !ranges.is_empty() {
                deliver::settle(broker, queue, ranges);
                ranges.clear();
            }
        }
        // One queue's entry keeps its memory for the next batch; a queue that was deleted must not be kept alive.
        if self.queues.len() > 1
            || self.queues.first().is_some_and(|(queue, _)| Arc::strong_count(queue) == 1)
        {
            self.queues.clear();
        }
        self.last = 0;
    }
}
