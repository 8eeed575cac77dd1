//! Who is connected: the entries that listings show and that commands act on.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use posthouse_model::field::FieldTable;
use posthouse_model::reply::ReplyError;

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
    /// How to reach it.
    pub waker: Arc<SessionWaker>,
}

/// All open connections.
#[derive(Debug, Default)]
pub struct Connections {
    next: AtomicU64,
    open: Mutex<BTreeMap<u64, Arc<ConnectionInfo>>>,
}

impl Connections {
    /// An identity for a new connection.
    pub fn next_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed) + 1
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
