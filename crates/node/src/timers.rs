//! When queues must be looked at because of time: one ordered set and one thread for all of them.
//!
//! A queue has one entry at most, and none while nothing in it depends on time. The thread sleeps until the first entry
//! is due, and is woken before only for one that is due earlier.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use posthouse_model::ids::QueueId;
use posthouse_queue::machine::times::NEVER_MS;

use crate::broker::Broker;
use crate::clock::now_ms;
use crate::expiry;
use crate::queue_handle::QueueHandle;

/// The thread sleeps no longer, because the clock may be set meanwhile.
const SLEEP_MS_MAX: u64 = 1_000;

/// What is due within so much time is looked at in one go.
const PAUSE: Duration = Duration::from_millis(5);

/// Queues looked at in one go.
const QUEUES_AT_ONCE: usize = 1024;

/// The set. Its thread ends when it is dropped, or closed.
#[derive(Debug, Default)]
pub struct Timers(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    entries: Mutex<Entries>,
    earlier: Condvar,
}

#[derive(Debug, Default)]
struct Entries {
    /// Milliseconds since the Unix epoch.
    due: BTreeMap<(u64, QueueId), Weak<QueueHandle>>,
    /// Until then the thread sleeps if nobody wakes it; 0 while it does not sleep.
    sleeps_until_ms: u64,
    closed: bool,
}

impl Timers {
    /// Has a queue looked at at another time than `before_ms`, which may be [`NEVER_MS`].
    pub(crate) fn change(&self, before_ms: u64, at_ms: u64, queue: &Arc<QueueHandle>) {
        let mut entries = self.0.lock();
        entries.due.remove(&(before_ms, queue.id));
        entries.due.insert((at_ms, queue.id), Arc::downgrade(queue));
        if at_ms < entries.sleeps_until_ms {
            self.0.earlier.notify_one();
        }
    }

    /// A queue is gone.
    pub(crate) fn cancel(&self, at_ms: u64, queue: QueueId) {
        if at_ms != NEVER_MS {
            self.0.lock().due.remove(&(at_ms, queue));
        }
    }
}

impl Timers {
    /// From now on nothing is due any more.
    pub(crate) fn close(&self) {
        self.0.lock().closed = true;
        self.0.earlier.notify_one();
    }
}

impl Drop for Timers {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something is due; `None` when the broker is gone.
    fn wait(&self) -> Option<Vec<(u64, Weak<QueueHandle>)>> {
        let mut entries = self.lock();
        while !entries.closed {
            let now_ms = now_ms();
            let first_ms = entries.due.first_key_value().map(|(&(due_ms, _), _)| due_ms);
            let sleep_ms = first_ms.map(|due_ms| due_ms.saturating_sub(now_ms).min(SLEEP_MS_MAX));
            entries = match sleep_ms {
                Some(0) => return Some(entries.take_due(now_ms)),
                Some(sleep_ms) => {
                    entries.sleeps_until_ms = now_ms + sleep_ms;
                    let woken = self.earlier.wait_timeout(entries, Duration::from_millis(sleep_ms));
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
                None => {
                    entries.sleeps_until_ms = NEVER_MS;
                    self.earlier.wait(entries).unwrap_or_else(PoisonError::into_inner)
                }
            };
            entries.sleeps_until_ms = 0;
        }
        None
    }
}

impl Entries {
    fn take_due(&mut self, now_ms: u64) -> Vec<(u64, Weak<QueueHandle>)> {
        let mut taken = Vec::new();
        while taken.len() < QUEUES_AT_ONCE
            && let Some(first) = self.due.first_entry().filter(|first| first.key().0 <= now_ms)
        {
            let ((due_ms, _), queue) = first.remove_entry();
            taken.push((due_ms, queue));
        }
        taken
    }
}

/// Starts the thread.
pub(crate) fn start(broker: &Arc<Broker>) -> std::io::Result<()> {
    let (shared, weak) = (broker.timers().0.clone(), Arc::downgrade(broker));
    broker.workers().spawn("expiry", move |stopping| {
        while let Some(due) = shared.wait() {
            let Some(broker) = weak.upgrade() else { return };
            for (due_ms, queue) in due {
                if stopping.is_told() {
                    return;
                }
                if let Some(queue) = queue.upgrade() {
                    expiry::look_after(&broker, &queue, due_ms, stopping);
                }
            }
            drop(broker);
            if !stopping.rest(PAUSE) {
                return;
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue_handle::testing::queue;

    fn due(timers: &Timers, now_ms: u64) -> Vec<u64> {
        timers.0.lock().take_due(now_ms).into_iter().map(|(due_ms, _)| due_ms).collect()
    }

    #[test]
    fn a_queue_has_one_entry() {
        let (timers, queue) = (Timers::default(), queue());
        timers.change(NEVER_MS, 50, &queue);
        timers.change(50, 20, &queue);
        assert_eq!((due(&timers, 19), due(&timers, 99)), (vec![], vec![20]));
        timers.change(NEVER_MS, 30, &queue);
        timers.cancel(30, queue.id);
        timers.cancel(NEVER_MS, queue.id);
        assert_eq!(due(&timers, u64::MAX), [] as [u64; 0]);
    }

    #[test]
    fn an_earlier_entry_wakes_the_thread_and_the_end_ends_it() {
        let timers = Timers::default();
        let shared = timers.0.clone();
        let (told, heard) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            while let Some(due) = shared.wait() {
                due.into_iter().for_each(|(due_ms, _)| told.send(due_ms).unwrap());
            }
        });
        let (late, soon) = (queue(), queue());
        timers.change(NEVER_MS, now_ms() + 3_600_000, &late);
        timers.change(NEVER_MS, 5, &soon);
        assert_eq!(heard.recv_timeout(Duration::from_secs(20)), Ok(5));
        drop(timers);
        thread.join().unwrap();
    }
}
