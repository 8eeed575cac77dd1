//! Watching a run from the main thread: a live line per second, memory peaks, marks between which rates are taken.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::process::Process;
use super::report::{count, print_live};
use super::shared::{Shared, Totals};

const STEP: Duration = Duration::from_millis(5);
const LIVE: Duration = Duration::from_secs(1);
const MEMORY: Duration = Duration::from_millis(100);

/// A moment of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    /// When.
    pub(super) at: Instant,
    /// Counters.
    pub(super) totals: Totals,
    /// CPU time of the broker so far; zero when it is not watched.
    pub(super) broker_cpu: Duration,
    /// CPU time of this process so far.
    pub(super) own_cpu: Duration,
}

/// Resident memory of the broker, bytes.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Memory {
    /// Before the run.
    pub(super) first: u64,
    /// Largest seen.
    pub(super) peak: u64,
}

/// See the module.
pub(super) struct Monitor<'a> {
    shared: &'a Shared,
    broker: Option<Process>,
    memory: Memory,
    to_stderr: bool,
    last_live: Mark,
    next_memory: Instant,
}

impl<'a> Monitor<'a> {
    /// Starts watching. Live lines go to stderr when the summary is for a program.
    pub(super) fn new(shared: &'a Shared, broker: Option<Process>, to_stderr: bool) -> Result<Self> {
        let first = broker.map(|b| b.rss_bytes()).transpose()?.unwrap_or(0);
        let memory = Memory { first, peak: first };
        let last_live = mark(shared, broker)?;
        Ok(Self { shared, broker, memory, to_stderr, last_live, next_memory: last_live.at })
    }

    /// This moment.
    pub(super) fn mark(&self) -> Result<Mark> {
        mark(self.shared, self.broker)
    }

    /// What the broker's memory did, if it is watched.
    pub(super) fn memory(&self) -> Option<Memory> {
        self.broker.map(|_| self.memory)
    }

    /// Watches until `done`; an error as soon as a thread failed.
    pub(super) fn until(&mut self, mut done: impl FnMut(&Totals) -> bool) -> Result<()> {
        loop {
            if let Some(error) = self.shared.failure() {
                return Err(error);
            }
            if done(&self.shared.totals()) {
                return Ok(());
            }
            std::thread::sleep(STEP);
            self.observe()?;
        }
    }

    /// Watches for a time.
    pub(super) fn during(&mut self, seconds: f64) -> Result<()> {
        let end = Instant::now() + Duration::from_secs_f64(seconds);
        self.until(|_| Instant::now() >= end)
    }

    fn observe(&mut self) -> Result<()> {
        let now = Instant::now();
        if let Some(broker) = self.broker.filter(|_| now >= self.next_memory) {
            self.memory.peak = self.memory.peak.max(broker.rss_bytes()?);
            self.next_memory = now + MEMORY;
        }
        if now - self.last_live.at >= LIVE {
            let mark = self.mark()?;
            let last = std::mem::replace(&mut self.last_live, mark);
            print_live(&self.line(&last, &mark)?, self.to_stderr);
        }
        Ok(())
    }

    fn line(&self, last: &Mark, mark: &Mark) -> Result<String> {
        let seconds = (mark.at - last.at).as_secs_f64();
        let rate = |from: u64, to: u64| count((to - from) as f64 / seconds);
        let (from, to) = (&last.totals, &mark.totals);
        let mut line = format!(
            "{:>4.0} s  published {:>10}/s  confirmed {:>10}/s  consumed {:>10}/s",
            self.shared.start.elapsed().as_secs_f64(),
            rate(from.published, to.published),
            rate(from.confirmed, to.confirmed),
            rate(from.consumed, to.consumed)
        );
        if let Some(broker) = self.broker {
            let cores = (mark.broker_cpu - last.broker_cpu).as_secs_f64() / seconds;
            line += &format!("  broker {cores:.2} cores {} MiB", broker.rss_bytes()? >> 20);
        }
        Ok(line)
    }
}

fn mark(shared: &Shared, broker: Option<Process>) -> Result<Mark> {
    Ok(Mark {
        at: Instant::now(),
        totals: shared.totals(),
        broker_cpu: broker.map(|b| b.cpu()).transpose()?.unwrap_or_default(),
        own_cpu: Process::own().cpu()?,
    })
}
