//! Who waits for which position to become durable.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use posthouse_model::ids::Lsn;

/// Something to tell when a position has become durable.
pub trait DurableWaiter: Send + Sync {
    /// Everything below `lsn`, a position at or past the one asked for, is on disk. Called on the log's writer
    /// thread, or on the asking thread when it was so already, never under a lock of the log: must be quick.
    fn durable(&self, lsn: Lsn);
}

/// Registrations, the lowest position first.
#[derive(Default)]
pub(super) struct Waiters {
    heap: BinaryHeap<Reverse<Waiting>>,
    /// Threads blocked in `Wal::sync`.
    pub(super) blocked: usize,
}

struct Waiting {
    lsn: Lsn,
    waiter: Arc<dyn DurableWaiter>,
}

impl Waiters {
    pub(super) fn add(&mut self, lsn: Lsn, waiter: Arc<dyn DurableWaiter>) {
        self.heap.push(Reverse(Waiting { lsn, waiter }));
    }

    /// Moves everyone who waits for `durable` or less into `due`.
    pub(super) fn take_due(&mut self, durable: Lsn, due: &mut Vec<Arc<dyn DurableWaiter>>) {
        while self.heap.peek().is_some_and(|first| first.0.lsn <= durable) {
            due.extend(self.heap.pop().map(|first| first.0.waiter));
        }
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.lsn == other.lsn
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.lsn.cmp(&other.lsn)
    }
}
