//! Who is connected: the entries that listings show and that commands act on, and how many connections and channels
//! users and virtual hosts have, which may be limited.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hashbrown::HashMap;
use posthouse_model::errors;
use posthouse_model::field::FieldTable;
use posthouse_model::name::Name;
use posthouse_model::reply::ReplyError;

use crate::quotas::UsedUp;
use crate::waker::SessionWaker;

/// A connection as others see it.
#[derive(Debug)]
pub struct ConnectionInfo {
    /// Unique while the broker runs.
    pub id: u64,
    /// `PEER -> LOCAL`
    pub name: String,
    /// `PROTOCOL VERSION`, such as `AMQP 0-9-1`.
    pub protocol: &'static str,
    /// User name.
    pub user: String,
    /// Virtual host.
    pub vhost: String,
    /// What the client says of itself.
    pub client_properties: FieldTable,
    /// When it was opened, in milliseconds since the Unix epoch.
    pub connected_at_ms: u64,
    /// Open channels.
    pub channels: AtomicU32,
    /// What it is doing.
    pub state: StateCell,
    /// Which quotas are used up while it is throttled, as [`UsedUp::bits`].
    pub used_up: AtomicU8,
    /// How to reach it.
    pub waker: Arc<SessionWaker>,
}

impl ConnectionInfo {
    /// Which quotas are used up while it is throttled.
    pub fn throttled_by(&self) -> UsedUp {
        UsedUp::from_bits(self.used_up.load(Ordering::Relaxed))
    }
}

/// What a connection is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ConnectionState {
    /// It is read from.
    #[default]
    Running,
    /// It is not read from because queues, or the disk, have too much of what was published.
    Flow,
    /// It is not read from because it publishes while an alarm is on.
    Blocked,
    /// It is not read from because it has published more than a quota allows.
    Throttled,
}

impl ConnectionState {
    const ALL: [Self; 4] = [Self::Running, Self::Flow, Self::Blocked, Self::Throttled];

    /// Its name in listings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Flow => "flow",
            Self::Blocked => "blocked",
            Self::Throttled => "throttled",
        }
    }
}

/// A state that one thread changes and others look at.
#[derive(Debug, Default)]
pub struct StateCell(AtomicU8);

impl StateCell {
    /// Changes it.
    pub fn set(&self, state: ConnectionState) {
        self.0.store(state as u8, Ordering::Relaxed);
    }

    /// Looks at it.
    pub fn get(&self) -> ConnectionState {
        ConnectionState::ALL.get(usize::from(self.0.load(Ordering::Relaxed))).copied().unwrap_or_default()
    }
}

/// All open connections.
#[derive(Debug, Default)]
pub struct Connections {
    next: AtomicU64,
    open: Mutex<BTreeMap<u64, Arc<ConnectionInfo>>>,
    counts: Arc<Mutex<Counts>>,
}

/// Connections by user and by virtual host; nobody has an entry who has none.
#[derive(Debug, Default)]
struct Counts {
    users: HashMap<Name, UserCount, foldhash::quality::RandomState>,
    vhosts: HashMap<Name, u32, foldhash::quality::RandomState>,
}

#[derive(Debug, Default)]
struct UserCount {
    connections: u32,
    channels: u32,
}

/// A connection's place among those of its user and of its virtual host; dropping it gives the place back, and those of
/// its channels.
#[derive(Debug)]
pub struct Place {
    user: Name,
    vhost: Name,
    channels: u32,
    counts: Arc<Mutex<Counts>>,
}

impl Place {
    /// Counts a channel, unless the user has `max` already; whether it was counted.
    pub fn add_channel(&mut self, max: Option<u32>) -> bool {
        let mut counts = lock(&self.counts);
        let Some(user) = counts.users.get_mut(&self.user) else { return false };
        if max.is_some_and(|max| user.channels >= max) {
            return false;
        }
        user.channels += 1;
        self.channels += 1;
        true
    }

    /// Counts a channel less.
    pub fn remove_channel(&mut self) {
        if let Some(user) = lock(&self.counts).users.get_mut(&self.user) {
            user.channels = user.channels.saturating_sub(1);
        }
        self.channels = self.channels.saturating_sub(1);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = lock(&self.counts);
        if let Some(user) = counts.users.get_mut(&self.user) {
            user.connections -= 1;
            user.channels = user.channels.saturating_sub(self.channels);
            if user.connections == 0 {
                counts.users.remove(&self.user);
            }
        }
        if let Some(count) = counts.vhosts.get_mut(&self.vhost) {
            *count -= 1;
            if *count == 0 {
                counts.vhosts.remove(&self.vhost);
            }
        }
    }
}

fn lock(counts: &Mutex<Counts>) -> std::sync::MutexGuard<'_, Counts> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connections {
    /// An identity for a new connection.
    pub fn next_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Takes a place for a new connection: 530 when the virtual host or the user has as many as it may have.
    pub fn take_place(
        &self,
        (vhost, vhost_max): (&Name, Option<u32>),
        (user, user_max): (&Name, Option<u32>),
    ) -> Result<Place, ReplyError> {
        let mut counts = lock(&self.counts);
        let of_vhost = counts.vhosts.get(vhost).copied().unwrap_or_default();
        if let Some(max) = vhost_max.filter(|max| of_vhost >= *max) {
            return Err(errors::vhost_connection_limit(vhost, user, max));
        }
        let of_user = counts.users.get(user).map_or(0, |user| user.connections);
        if let Some(max) = user_max.filter(|max| of_user >= *max) {
            return Err(errors::user_connection_limit(user, max));
        }
        *counts.vhosts.entry(vhost.clone()).or_default() += 1;
        counts.users.entry(user.clone()).or_default().connections += 1;
        Ok(Place { user: user.clone(), vhost: vhost.clone(), channels: 0, counts: self.counts.clone() })
    }

    /// Adds one.
    pub fn add(&self, info: Arc<ConnectionInfo>) {
        self.lock().insert(info.id, info);
    }

    /// Removes one.
    pub fn remove(&self, id: u64) {
        self.lock().remove(&id);
    }

    /// All of them, oldest first.
    pub fn list(&self) -> Vec<Arc<ConnectionInfo>> {
        self.lock().values().cloned().collect()
    }

    /// Whether one is still open.
    pub fn contains(&self, id: u64) -> bool {
        self.lock().contains_key(&id)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Asks those that match to close; how many they were.
    pub fn close(&self, which: impl Fn(&ConnectionInfo) -> bool, why: &ReplyError) -> usize {
        let chosen: Vec<_> = self.list().into_iter().filter(|info| which(info)).collect();
        for info in &chosen {
            info.waker.close(why.clone());
        }
        chosen.len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Arc<ConnectionInfo>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_limited_and_given_back() {
        let connections = Connections::default();
        let (user, vhost) = (Name::truncated("u"), Name::truncated("v"));
        let take = |vhost_max, user_max| connections.take_place((&vhost, vhost_max), (&user, user_max));
        assert!(take(Some(0), None).is_err_and(|e| e == errors::vhost_connection_limit("v", "u", 0)));
        let mut first = take(Some(1), Some(1)).unwrap();
        assert!(take(Some(1), None).is_err());
        assert!(take(None, Some(1)).is_err_and(|e| e == errors::user_connection_limit("u", 1)));
        let mut second = take(Some(2), Some(2)).unwrap();
        assert!(first.add_channel(Some(2)) && second.add_channel(Some(2)) && !first.add_channel(Some(2)));
        second.remove_channel();
        assert!(first.add_channel(Some(2)));
        drop(first);
        assert!(second.add_channel(Some(1)) && !second.add_channel(Some(1)));
        drop(second);
        assert!(lock(&connections.counts).users.is_empty() && lock(&connections.counts).vhosts.is_empty());
        assert!(take(Some(1), Some(1)).is_ok());
    }
}
