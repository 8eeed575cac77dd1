//! When messages are tried again that found no place.
//!
//! They are tried all together, from time to time and when routes have changed: each pass is as much work as there are
//! messages, so the pauses are as long as the passes, and longer while nothing has changed. Those behind a full queue are
//! not among them: they are told when it has room ([`crate::room`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use posthouse_model::ids::QueueId;
use posthouse_queue::machine::leaving::stalled::Line;

use crate::queue_handle::QueueHandle;
use crate::transfer::Done;

/// How long a queue's messages rest when some of them could go on, and at most.
const REST_MIN: Duration = Duration::from_millis(5);
const REST_MAX: Duration = Duration::from_millis(320);

/// A pass is followed by a pause so many times as long, if nothing changes.
const PASS_PAUSE: u32 = 10;

/// Queues with messages that found no place, by when to look at them.
#[derive(Default)]
pub(super) struct Retries(BTreeMap<(Instant, QueueId), Retry>);

impl Retries {
    /// Has a queue looked at after a rest.
    pub(super) fn add(&mut self, mut retry: Retry, now: Instant) {
        let rest = retry.rest();
        self.0.insert((now + rest, retry.queue.id), retry);
    }

    /// When the first is to be looked at.
    pub(super) fn next_at(&self) -> Option<Instant> {
        self.0.first_key_value().map(|(&(at, _), _)| at)
    }

    /// The first, if it is time.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Retry> {
        self.0.first_entry().filter(|first| first.key().0 <= now).map(|first| first.remove())
    }
}

/// A queue with messages that found no place.
pub(super) struct Retry {
    pub(super) queue: Arc<QueueHandle>,
    /// Whether any could go on this time.
    moved: bool,
    rest: Duration,
    pass: Pass,
}

/// A pass of all of them: the one that goes on, or the last one.
struct Pass {
    began: Instant,
    ended: Instant,
    /// What the routes were then.
    epoch: u64,
    /// Messages still to be tried.
    left: u64,
}

impl Retry {
    /// A queue with messages that found no place just now.
    pub(super) fn new(queue: Arc<QueueHandle>, now: Instant) -> Self {
        let pass = Pass { began: now, ended: now, epoch: 0, left: 0 };
        Self { queue, moved: false, rest: REST_MIN, pass }
    }

    /// Begins a pass if it is time, with routes of that epoch; whether it is.
    pub(super) fn begin(&mut self, epoch: u64, now: Instant) -> bool {
        self.moved = false;
        let messages = self.queue.lock().machine.classic().map_or(0, |machine| machine.messages_apart());
        if messages > 0 && self.pass.is_due(epoch, now) {
            self.pass = Pass { began: now, ended: now, epoch, left: messages };
        }
        !self.is_over()
    }

    /// So many messages were tried.
    pub(super) fn note(&mut self, done: &Done, count: u64, now: Instant) {
        self.moved |= done.moved + done.dropped > 0;
        let has_more =
            self.queue.lock().machine.classic().is_some_and(|machine| machine.has_in_line(Line::Apart));
        self.pass.left = if has_more { self.pass.left.saturating_sub(count) } else { 0 };
        self.pass.ended = now;
    }

    /// Whether all were tried.
    pub(super) fn is_over(&self) -> bool {
        self.pass.left == 0
    }

    /// How long it rests now.
    fn rest(&mut self) -> Duration {
        self.rest = if self.moved { REST_MIN } else { (2 * self.rest).min(REST_MAX) };
        self.rest
    }
}

impl Pass {
    fn is_due(&self, epoch: u64, now: Instant) -> bool {
        let took = self.ended.duration_since(self.began);
        let pause = if epoch == self.epoch { took * PASS_PAUSE } else { took };
        now.duration_since(self.ended) >= pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue_handle::testing::queue;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn pauses_grow_until_something_moves() {
        let (mut retries, now) = (Retries::default(), Instant::now());
        retries.add(Retry::new(queue(), now), now);
        assert!(retries.pop_due(now + 9 * MS).is_none());
        let mut retry = retries.pop_due(now + 10 * MS).unwrap();
        for expected in [20, 40, 80, 160, 320, 320] {
            retries.add(retry, now);
            assert_eq!(retries.next_at(), Some(now + expected * MS));
            retry = retries.pop_due(now + expected * MS).unwrap();
        }
        retry.moved = true;
        retries.add(retry, now);
        assert_eq!(retries.next_at(), Some(now + REST_MIN));
    }

    #[test]
    fn a_long_pass_is_followed_by_a_long_pause_unless_routes_change() {
        let began = Instant::now();
        let ended = began + 100 * MS;
        let pass = Pass { began, ended, epoch: 7, left: 0 };
        assert!(!pass.is_due(7, ended + 999 * MS) && pass.is_due(7, ended + 1_000 * MS));
        assert!(!pass.is_due(8, ended + 99 * MS) && pass.is_due(8, ended + 100 * MS));
    }
}
