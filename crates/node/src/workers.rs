//! Threads that work by themselves while a broker runs: an orderly stop tells them to end, and waits until they have.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The threads. Dropping it leaves them alone: they end when they find that their broker is gone.
#[derive(Debug, Default)]
pub(crate) struct Workers {
    stopping: Arc<Stopping>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// Whether it is time to end.
#[derive(Debug, Default)]
pub(crate) struct Stopping {
    told: Mutex<bool>,
    changed: Condvar,
}

impl Workers {
    /// Starts a thread. It must come to its end soon after it was told to.
    ///
    /// # Errors
    /// When the system has no room for a thread.
    pub(crate) fn spawn(
        &self,
        name: &str,
        work: impl FnOnce(&Stopping) + Send + 'static,
    ) -> std::io::Result<()> {
        let stopping = self.stopping.clone();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || work(&stopping))?;
        lock(&self.threads).push(thread);
        Ok(())
    }

    /// Tells them to end; those that wait for something else than [`Stopping::rest`] are to be woken by `wake`. Returns
    /// when all have ended.
    pub(crate) fn stop(&self, wake: impl FnOnce()) {
        *lock(&self.stopping.told) = true;
        self.stopping.changed.notify_all();
        wake();
        for thread in std::mem::take(&mut *lock(&self.threads)) {
            let name = thread.thread().name().unwrap_or_default().to_owned();
            if thread.join().is_err() {
                tracing::error!(name, "a thread has panicked");
            }
        }
    }
}

impl Stopping {
    /// Whether it is time to end.
    pub(crate) fn is_told(&self) -> bool {
        *lock(&self.told)
    }

    /// Waits for so long, or until it is time to end; whether to go on.
    pub(crate) fn rest(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        let mut told = lock(&self.told);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if *told || left.is_zero() {
                return !*told;
            }
            told = self.changed.wait_timeout(told, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_stop_ends_those_that_rest_and_those_that_are_woken() {
        let workers = Workers::default();
        let (sender, receiver) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let rested = tell.clone();
        workers
            .spawn("rests", move |stopping| {
                assert!(stopping.rest(Duration::ZERO), "it goes on");
                rested.send("began").unwrap();
                while stopping.rest(Duration::from_secs(3600)) {}
                rested.send("rests").unwrap();
            })
            .unwrap();
        assert_eq!(told.recv(), Ok("began"));
        workers
            .spawn("listens", move |stopping| {
                while receiver.recv().is_ok() {}
                assert!(stopping.is_told());
                tell.send("listens").unwrap();
            })
            .unwrap();
        workers.stop(|| drop(sender));
        let mut ended: Vec<_> = told.try_iter().collect();
        ended.sort_unstable();
        assert_eq!(ended, ["listens", "rests"], "both have ended by now");
    }
}
