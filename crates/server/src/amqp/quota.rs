//! What a session publishes is charged to quotas of its user and virtual host.

use std::time::Duration;

use posthouse_node::quotas::{Published, Quota, UsedUp};

use super::session::Session;
use posthouse_node::clock::monotonic_us;

/// A throttled connection looks again this soon, because quotas may be changed meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

impl Session {
    /// Finds out which quotas there are.
    pub(crate) fn load_quota(&mut self) {
        self.quota = Quota::of(&self.broker, &self.peer.vhost, &self.peer.identity.user);
    }

    /// Charges what was handed over since the last call; how long the connection must not be read from for it. Without
    /// quotas this is a look at memory.
    pub(crate) fn throttle(&mut self) -> Option<Duration> {
        let published = self.publisher.take_published();
        let was_used_up = std::mem::take(&mut self.used_up);
        let quota = self.quota.as_ref()?;
        let mut longest = Duration::ZERO;
        if published != Published::default() || !was_used_up.is_none() {
            (longest, self.used_up) = quota.charge(monotonic_us(), published);
        }
        let full = if self.publishes { quota.full() } else { UsedUp::default() };
        if !full.is_none() {
            self.used_up = self.used_up.and(full);
            longest = LOOK_AGAIN;
        }
        (!self.used_up.is_none()).then(|| longest.min(LOOK_AGAIN))
    }
}
