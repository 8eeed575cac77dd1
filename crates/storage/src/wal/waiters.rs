//! How far the log has been written and how far it is durable, and who waits for which position.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use posthouse_model::ids::Lsn;

use super::lock;

/// Something to tell when the log has passed a position.
pub trait LogWaiter: Send + Sync {
    /// Everything below `lsn`, a position at or past the one asked for, is durable, or written, whichever was asked for.
    /// Called on the log's writer thread, or on the asking thread when it was so already, never under a lock of the
    /// log: must be quick.
    fn passed(&self, lsn: Lsn);
}

/// A position that only rises, and who waits for it.
pub(super) struct Watermark {
    position: AtomicU64,
    waiters: Mutex<Waiters>,
    /// For blocked threads; goes with `waiters`.
    risen: Condvar,
}

/// Registrations, the lowest position first.
#[derive(Default)]
struct Waiters {
    heap: BinaryHeap<Reverse<Waiting>>,
    /// Threads in [`Watermark::wait`].
    blocked: usize,
}

struct Waiting {
    lsn: Lsn,
    waiter: Arc<dyn LogWaiter>,
}

impl Watermark {
    pub(super) fn new(position: Lsn) -> Self {
        Self { position: AtomicU64::new(position), waiters: Mutex::default(), risen: Condvar::new() }
    }

    pub(super) fn position(&self) -> Lsn {
        self.position.load(Ordering::SeqCst)
    }

    /// Tells `waiter` when the position is at `lsn` or past it: at once when it is.
    pub(super) fn notify(&self, lsn: Lsn, waiter: Arc<dyn LogWaiter>) {
        let mut position = self.position();
        if position < lsn {
            let mut waiters = lock(&self.waiters);
            position = self.position();
            if position < lsn {
                waiters.heap.push(Reverse(Waiting { lsn, waiter }));
                return;
            }
        }
        waiter.passed(position);
    }

    /// Blocks until the position is at `lsn` or past it, or the log has stopped.
    pub(super) fn wait(&self, lsn: Lsn, stopped: &AtomicBool) {
        let mut waiters = lock(&self.waiters);
        waiters.blocked += 1;
        while self.position() < lsn && !stopped.load(Ordering::Acquire) {
            waiters = self.risen.wait(waiters).unwrap_or_else(PoisonError::into_inner);
        }
        waiters.blocked -= 1;
    }

    /// Raises the position and tells those who waited for it; `due` is memory lent for that.
    pub(super) fn raise(&self, position: Lsn, due: &mut Vec<Arc<dyn LogWaiter>>) {
        self.position.store(position, Ordering::SeqCst);
        {
            let mut waiters = lock(&self.waiters);
            while waiters.heap.peek().is_some_and(|first| first.0.lsn <= position) {
                due.extend(waiters.heap.pop().map(|first| first.0.waiter));
            }
            if waiters.blocked > 0 {
                self.risen.notify_all();
            }
        }
        due.drain(..).for_each(|waiter| waiter.passed(position));
    }

    /// Wakes blocked threads, because the log has stopped.
    pub(super) fn wake_blocked(&self) {
        // Under the lock, so that nobody between a look at `stopped` and his wait misses it.
        drop(lock(&self.waiters));
        self.risen.notify_all();
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
