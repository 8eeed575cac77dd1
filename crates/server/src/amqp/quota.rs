//! What a session publishes is charged to quotas of its user and virtual host.

use std::time::Duration;

use posthouse_node::quotas::{Published, Quota};

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
    /// quotas this is two looks at memory.
    pub(crate) fn throttle(&mut self) -> Option<Duration> {
        let published = self.publisher.take_published();
        if self.publishes && self.peer.vhost.is_full() {
            self.throttled = true;
            return Some(LOOK_AGAIN);
        }
        let quota = self.quota.as_ref().filter(|_| self.throttled || published != Published::default());
        let wait = quota.map_or(Duration::ZERO, |quota| quota.charge(monotonic_us(), published));
        self.throttled = !wait.is_zero();
        self.throttled.then(|| wait.min(LOOK_AGAIN))
    }
}
