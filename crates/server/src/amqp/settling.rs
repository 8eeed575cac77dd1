//! Settled messages of one batch, gathered so that each queue is told once.

use std::sync::Arc;

use posthouse_model::ids::Seq;
use posthouse_node::broker::Broker;
use posthouse_node::deliver;
use posthouse_node::queue_handle::QueueHandle;
use posthouse_node::streams::{self, Outcome};
use posthouse_queue::machine::departures::Reason;
use posthouse_queue::machine::roster::ConsumerId;

/// How deliveries are settled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum How {
    /// Acknowledged.
    Settled,
    /// Rejected for this reason.
    Rejected(Reason),
    /// By a consumer whose offset its stream stores.
    Named(ConsumerId),
}

/// Ranges of a queue that are settled in one way.
#[derive(Debug)]
struct OfQueue {
    queue: Arc<QueueHandle>,
    how: How,
    ranges: Vec<(Seq, Seq)>,
}

/// Ranges to settle per queue.
#[derive(Debug, Default)]
pub(crate) struct Settling {
    queues: Vec<OfQueue>,
    last: usize,
}

impl Settling {
    /// Adds a range. Neighbouring ranges become one.
    pub(crate) fn add(&mut self, queue: &Arc<QueueHandle>, how: How, first: Seq, last: Seq) {
        let same = |entry: &OfQueue| Arc::ptr_eq(&entry.queue, queue) && entry.how == how;
        if !self.queues.get(self.last).is_some_and(same) {
            self.last = self.queues.iter().position(same).unwrap_or_else(|| {
                self.queues.push(OfQueue { queue: queue.clone(), how, ranges: Vec::new() });
                self.queues.len() - 1
            });
        }
        let ranges = &mut self.queues[self.last].ranges;
        match ranges.last_mut() {
            Some(range) if range.1 + 1 == first => range.1 = last,
            _ => ranges.push((first, last)),
        }
    }

    /// Tells the queues and the log.
    pub(crate) fn flush(&mut self, broker: &Broker) {
        for OfQueue { queue, how, ranges } in &mut self.queues {
            match *how {
                _ if ranges.is_empty() => {}
                How::Settled => deliver::settle(broker, queue, ranges),
                How::Rejected(reason) => deliver::reject(broker, queue, ranges, reason),
                How::Named(consumer) => {
                    streams::settle(broker, queue, consumer, ranges, Outcome::Settled);
                }
            }
            ranges.clear();
        }
        // One queue's entry keeps its memory for the next batch; a queue that was deleted must not be kept alive.
        if self.queues.len() > 1
            || self.queues.first().is_some_and(|entry| Arc::strong_count(&entry.queue) == 1)
        {
            self.queues.clear();
        }
        self.last = 0;
    }
}
