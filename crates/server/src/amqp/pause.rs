//! Why and how long a connection is not read from: queues or the disk are behind, or a quota is used up.

use std::sync::atomic::Ordering;
use std::time::Duration;

use posthouse_node::connections::ConnectionState;
use posthouse_node::quotas::UsedUp;
use tokio::time::Instant;

use super::session::Session;
use posthouse_node::clock::now_ms;

/// How often a paced publisher looks itself whether it may go on. Whoever makes room wakes it earlier.
const PRESSURE_WAIT: Duration = Duration::from_millis(100);

/// A pause of a connection's reading.
#[derive(Debug, Default)]
pub(crate) struct Pause {
    /// When to look again; none while the connection is read from.
    until: Option<Instant>,
    /// Why it is not.
    reason: ConnectionState,
    /// What others are told, and which quotas are used up.
    shown: (ConnectionState, UsedUp),
}

impl Pause {
    /// Whether the connection is not to be read from.
    pub(crate) fn is_on(&self) -> bool {
        self.until.is_some()
    }

    /// Whether that is because a quota is used up.
    pub(crate) fn is_throttled(&self) -> bool {
        self.is_on() && self.reason == ConnectionState::Throttled
    }

    /// Waits until it is time to [`Self::look_again`]; for ever when there is nothing to wait for. Cancel-safe.
    pub(crate) async fn over(&self) {
        match self.until {
            Some(until) => tokio::time::sleep_until(until).await,
            None => std::future::pending().await,
        }
    }

    /// After a batch: whether reading must pause.
    pub(crate) fn look(&mut self, session: &mut Session) {
        let throttled = session.throttle();
        if self.until.is_none() {
            if session.publisher.is_pressed() || session.broker.is_congested() {
                self.begin(ConnectionState::Flow, PRESSURE_WAIT);
            } else if let Some(wait) = throttled {
                self.begin(ConnectionState::Throttled, wait);
            }
        }
        let state = match (session.blocked, self.until) {
            (true, _) => ConnectionState::Blocked,
            (false, Some(_)) => self.reason,
            (false, None) => ConnectionState::Running,
        };
        let used_up = if state == ConnectionState::Throttled { session.used_up } else { UsedUp::default() };
        if (state, used_up) != self.shown {
            self.shown = (state, used_up);
            session.peer.info.state.set(state);
            session.peer.info.used_up.store(used_up.bits(), Ordering::Relaxed);
        }
    }

    /// The time is up, or somebody says that there is room: looked at again.
    pub(crate) fn look_again(&mut self, session: &mut Session) {
        self.until = None;
        // In case nobody could say that there is room.
        if session.publisher.must_wait(now_ms()) {
            return self.begin(ConnectionState::Flow, PRESSURE_WAIT);
        }
        // Quotas may have changed.
        session.check_epoch();
        if let Some(wait) = session.throttle() {
            self.begin(ConnectionState::Throttled, wait);
        }
    }

    fn begin(&mut self, reason: ConnectionState, wait: Duration) {
        self.until = Some(Instant::now() + wait);
        self.reason = reason;
    }
}
