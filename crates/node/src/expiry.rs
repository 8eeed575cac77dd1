//! Letting go what time is over for: messages of a queue, and queues that nobody uses; and letting messages be ready again
//! that had to wait.
//!
//! A queue with `x-expires` goes when for so long it had no consumer, no `basic.get` and, unless it is a quorum queue, no
//! declaration. The time is measured by a clock that nobody can set, and begins anew with the broker.

use std::sync::Arc;
use std::time::Duration;

use posthouse_model::args::QueueKind;
use posthouse_queue::machine::times::NEVER_MS;

use crate::broker::Broker;
use crate::clock::{now_ms, uptime_ms};
use crate::deliver::{log_departed, take_departed};
use crate::queue_handle::{Machine, QueueGuard, QueueHandle, QueueState};
use crate::workers::Stopping;
use crate::{dead_letters, residency};

/// How long the timers' thread rests while the log has too much to write.
const CONGESTED_PAUSE: Duration = Duration::from_millis(10);

impl QueueState {
    /// Somebody uses the queue.
    pub(crate) fn renew_lease(&mut self) {
        if self.expires_ms().is_some() {
            self.used_at_ms = uptime_ms();
        }
    }

    /// Somebody declares the queue again, or asks whether it is there. That is use of a classic queue, and as in RabbitMQ none
    /// of a quorum queue.
    pub(crate) fn renew_by_declaration(&mut self) {
        if self.setup.kind() != QueueKind::Quorum {
            self.renew_lease();
        }
    }

    /// Milliseconds after which the queue goes unless somebody uses it until then; `None` when it does not go.
    pub(crate) fn lease_left_ms(&self) -> Option<u64> {
        let expires_ms = self.expires_ms().filter(|_| self.machine.roster().is_empty())?;
        Some(expires_ms.saturating_sub(uptime_ms().saturating_sub(self.used_at_ms)))
    }

    /// Streams do not expire, whatever a policy says.
    fn expires_ms(&self) -> Option<u64> {
        match &self.machine {
            Machine::Classic(queue) => queue.settings().expires_ms,
            Machine::Stream(_) => None,
        }
    }
}

/// Locks a queue from which everything has gone that has expired.
pub(crate) fn lock_current<'a>(broker: &Broker, queue: &'a Arc<QueueHandle>) -> QueueGuard<'a> {
    let mut state = queue.lock();
    // Queues in which nothing expires cost no look at the clock.
    if !state.machine.may_expire() {
        return state;
    }
    let now_ms = now_ms();
    loop {
        let more = expire(broker, queue, &mut state, now_ms);
        if !more && !state.machine.has_departed() && !state.machine.has_freed() {
            return state;
        }
        let left = take_departed(broker, queue, &mut state);
        drop(state);
        log_departed(broker, queue, left);
        state = queue.lock();
    }
}

/// Lets messages of a locked queue go that have expired, and those be ready that have waited long enough, as far as one call
/// does, and sees to the next ones. What has gone, and who is to be woken, is for the caller to take. Whether there may be
/// more.
#[inline]
pub(crate) fn expire(broker: &Broker, queue: &Arc<QueueHandle>, state: &mut QueueState, now_ms: u64) -> bool {
    if !state.machine.may_expire() {
        return false;
    }
    let more = state.machine.expire(now_ms);
    dead_letters::schedule(broker, queue, state);
    residency::survey(broker, queue, state);
    await_messages(broker, queue, state);
    more
}

/// As [`expire`], by the clock.
pub(crate) fn expire_now(broker: &Broker, queue: &Arc<QueueHandle>, state: &mut QueueState) {
    if state.machine.may_expire() {
        expire(broker, queue, state, now_ms());
    }
}

/// Has a locked queue looked at when its next message may expire, or is ready again.
#[inline]
fn await_messages(broker: &Broker, queue: &Arc<QueueHandle>, state: &mut QueueState) {
    set_timer(broker, queue, state, state.machine.next_due_ms());
}

/// Has a locked queue looked at when its time is over, unless somebody uses it.
pub(crate) fn await_lease(broker: &Broker, queue: &Arc<QueueHandle>, state: &mut QueueState) {
    if let Some(left_ms) = state.lease_left_ms() {
        set_timer(broker, queue, state, now_ms() + left_ms);
    }
}

fn set_timer(broker: &Broker, queue: &Arc<QueueHandle>, state: &mut QueueState, at_ms: u64) {
    // A timer that is too early costs one look.
    if at_ms < state.timer_ms && !state.deleted {
        broker.timers().change(state.timer_ms, at_ms, queue);
        state.timer_ms = at_ms;
    }
}

/// Does what is due in a queue. `due_ms` is the time of the timer that is gone by this. A stop ends it early.
pub(crate) fn look_after(broker: &Broker, queue: &Arc<QueueHandle>, due_ms: u64, stopping: &Stopping) {
    {
        let mut state = queue.lock();
        if state.timer_ms == due_ms {
            state.timer_ms = NEVER_MS;
        }
    }
    loop {
        let mut state = queue.lock();
        if state.deleted {
            return;
        }
        let more = expire(broker, queue, &mut state, now_ms());
        let left = take_departed(broker, queue, &mut state);
        drop(state);
        log_departed(broker, queue, left);
        if !more {
            break;
        }
        while broker.is_congested() {
            // A full disk may hold the log up for ever.
            if !stopping.rest(CONGESTED_PAUSE) {
                return;
            }
        }
    }
    let is_over = {
        let mut state = queue.lock();
        await_lease(broker, queue, &mut state);
        state.lease_left_ms() == Some(0)
    };
    if is_over && let Ok(vhost) = broker.vhost(&queue.definition.vhost) {
        // Somebody may have come meanwhile; then it stays. Nothing is refused.
        let _ = broker.remove_queue_if(&vhost, queue, |state| Ok(state.lease_left_ms() == Some(0)));
    }
}
