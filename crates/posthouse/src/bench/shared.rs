//! What the threads of a run share: flags, counters, the clock. Each counter has one writer and is written once per
//! read or write, never per message.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// A counter on a cache line of its own.
#[derive(Default)]
#[repr(align(128))]
pub(super) struct Counter(AtomicU64);

impl Counter {
    /// Sets it; for its one writer.
    pub(super) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Reads it, possibly a little late.
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One per producer.
#[derive(Default)]
pub(super) struct ProducerCounters {
    /// Written to the socket.
    pub(super) published: Counter,
    /// Acked by the broker.
    pub(super) confirmed: Counter,
}

/// Sums over all threads at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Totals {
    /// Written to sockets.
    pub(super) published: u64,
    /// Acked by the broker.
    pub(super) confirmed: u64,
    /// Received by consumers.
    pub(super) consumed: u64,
}

/// See the module.
pub(super) struct Shared {
    /// Time zero of all stamps.
    pub(super) start: Instant,
    /// Producers publish while this is not set.
    pub(super) stop: AtomicBool,
    /// Consumers read while this is not set.
    pub(super) quit: AtomicBool,
    /// Latencies count while this is set.
    pub(super) measuring: AtomicBool,
    /// By producer.
    pub(super) producers: Vec<ProducerCounters>,
    /// By consumer: messages received.
    pub(super) consumers: Vec<Counter>,
    /// By rejecting consumer: messages rejected.
    pub(super) rejecters: Vec<Counter>,
    /// The first error of any thread.
    failure: Mutex<Option<anyhow::Error>>,
}

impl Shared {
    /// Everything at zero.
    pub(super) fn new(producers: usize, consumers: usize, rejecters: usize) -> Self {
        let counters = |count| std::iter::repeat_with(Counter::default).take(count).collect();
        Self {
            start: Instant::now(),
            stop: AtomicBool::new(false),
            quit: AtomicBool::new(false),
            measuring: AtomicBool::new(false),
            producers: std::iter::repeat_with(ProducerCounters::default).take(producers).collect(),
            consumers: counters(consumers),
            rejecters: counters(rejecters),
            failure: Mutex::new(None),
        }
    }

    /// Ends the run because of an error; the first one is kept.
    pub(super) fn fail(&self, error: anyhow::Error) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.end();
    }

    /// Tells every thread to end.
    pub(super) fn end(&self) {
        set(&self.stop);
        set(&self.quit);
    }

    /// The first error of any thread, once.
    pub(super) fn failure(&self) -> Option<anyhow::Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Nanoseconds since the start.
    #[inline]
    pub(super) fn nanos(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// The counters' sums.
    pub(super) fn totals(&self) -> Totals {
        Totals {
            published: self.producers.iter().map(|p| p.published.get()).sum(),
            confirmed: self.producers.iter().map(|p| p.confirmed.get()).sum(),
            consumed: self.consumers.iter().map(Counter::get).sum(),
        }
    }
}

/// Whether a flag is set.
pub(super) fn is_set(flag: &AtomicBool) -> bool {
    flag.load(Ordering::Relaxed)
}

/// Sets a flag.
pub(super) fn set(flag: &AtomicBool) {
    flag.store(true, Ordering::Relaxed);
}
