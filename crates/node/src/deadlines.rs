//! When sessions must look at deliveries that have not been acknowledged: one ordered set for all of them, looked at by
//! the thread that watches the watermarks.
//!
//! A session has one entry at most, for the first of its deliveries that is due, and none while nothing it handed out has
//! a time limit.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::clock::monotonic_us;
use crate::waker::SessionWaker;

/// A time that never comes.
pub const NEVER_MS: u64 = u64::MAX;

/// Deliveries of one time limit share so many due times, so that they can be noted together.
const STEPS: u64 = 64;

/// See the module's documentation. Times are those of [`now_ms`].
#[derive(Debug, Default)]
pub struct Deadlines {
    /// By time and connection.
    entries: Mutex<BTreeMap<(u64, u64), Weak<SessionWaker>>>,
}

impl Deadlines {
    /// Wakes a connection's session with `overdue` at `at_ms`, and not at `before_ms` any more.
    pub fn change(&self, connection: u64, before_ms: u64, at_ms: u64, session: &Arc<SessionWaker>) {
        let mut entries = self.lock();
        entries.remove(&(before_ms, connection));
        if at_ms != NEVER_MS {
            entries.insert((at_ms, connection), Arc::downgrade(session));
        }
    }

    /// Wakes those whose time has come.
    pub(crate) fn look(&self) {
        loop {
            let session = {
                let mut entries = self.lock();
                let Some(first) = entries.first_entry() else { return };
                // The clock is read only while anything waits.
                if first.key().0 > now_ms() {
                    return;
                }
                first.remove()
            };
            if let Some(session) = session.upgrade() {
                session.overdue();
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<(u64, u64), Weak<SessionWaker>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Milliseconds of a clock that nobody sets.
pub fn now_ms() -> u64 {
    monotonic_us() / 1_000
}

/// When a delivery of now is due that may take `timeout_ms`: never early, and late by 1/64 of that at most.
pub fn due_ms(now_ms: u64, timeout_ms: u64) -> u64 {
    let step = (timeout_ms / STEPS).max(1);
    now_ms.saturating_add(timeout_ms).div_ceil(step).saturating_mul(step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::waker::Inbox;

    fn is_overdue(session: &SessionWaker) -> bool {
        let mut inbox = Inbox::default();
        session.take(&mut inbox);
        inbox.overdue
    }

    #[test]
    fn due_times_are_few_and_never_early() {
        for timeout in [1u64, 63, 64, 1_000, 1_800_000] {
            let mut seen = std::collections::BTreeSet::new();
            for now in (0..timeout * 2).step_by(timeout.div_ceil(1_000) as usize) {
                let due = due_ms(now, timeout);
                assert!(
                    (now + timeout..=now + timeout + timeout / 64 + 1).contains(&due),
                    "{now} + {timeout}: {due}"
                );
                seen.insert(due);
            }
            assert!(seen.len() <= 136, "{} times in two timeouts of {timeout}", seen.len());
        }
        assert_eq!(due_ms(u64::MAX - 1, u64::MAX), NEVER_MS);
    }

    #[test]
    fn sessions_are_woken_once_their_time_has_come() {
        let deadlines = Deadlines::default();
        let [past, moved, future, gone] = [(); 4].map(|()| Arc::new(SessionWaker::default()));
        deadlines.change(1, NEVER_MS, 0, &past);
        deadlines.change(2, NEVER_MS, 0, &moved);
        deadlines.change(2, 0, u64::MAX - 1, &moved);
        deadlines.change(3, NEVER_MS, u64::MAX - 1, &future);
        deadlines.change(4, NEVER_MS, 0, &gone);
        drop(gone);
        deadlines.look();
        assert_eq!([&past, &moved, &future].map(|session| is_overdue(session)), [true, false, false]);
        deadlines.look();
        assert!(!is_overdue(&past), "once");
        deadlines.change(2, u64::MAX - 1, NEVER_MS, &moved);
        assert_eq!(deadlines.lock().len(), 1);
    }
}
