//! How many bytes queues hold, of a virtual host and of what a user published: added up ten times a second where there is a
//! limit, by the chunk. Who published is in every record, and each chunk knows its publishers' shares, so nothing is read
//! for it, and it is as right after a restart as before.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use posthouse_auth::authorities::Identity;
use posthouse_model::shares::UserNumber;
use posthouse_storage::segment::Location;

use super::Account;
use crate::broker::Broker;
use crate::connections::ConnectionInfo;
use crate::queue_handle::Machine;

/// With more chunks than this in all queues, bytes are added up less often.
const CHUNKS_MANY: usize = 100_000;
/// How often then.
const LOOK_SELDOM: Duration = Duration::from_secs(1);

/// What queues hold, as it was last added up.
#[derive(Debug, Default)]
pub(super) struct Stored {
    bytes: AtomicU64,
    /// Whether that is more than it may be.
    is_full: AtomicBool,
}

impl Stored {
    /// Whether publishers wait for it.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Notes it; whether it was full before.
    pub(super) fn set(&self, bytes: u64, is_full: bool) -> bool {
        self.bytes.store(bytes, Ordering::Relaxed);
        self.is_full.swap(is_full, Ordering::Relaxed)
    }
}

/// Adds up what queues hold.
#[derive(Debug, Default)]
pub(crate) struct StoredBytes {
    /// Rounds to be left out.
    skip: u32,
    /// The generation of the users that `users` are of.
    generation: Option<u64>,
    /// Users with a limit.
    users: Vec<LimitedUser>,
}

#[derive(Debug)]
struct LimitedUser {
    identity: Arc<Identity>,
    account: Arc<Account>,
    max: u64,
    bytes: u64,
}

impl StoredBytes {
    /// Looks at everybody who has a limit, and lets their publishers wait or go on. Called every `period`.
    pub(crate) fn look(&mut self, broker: &Broker, period: Duration) {
        if self.skip > 0 {
            self.skip -= 1;
            return;
        }
        self.find_users(broker);
        let mut chunks = 0;
        for vhost in broker.vhosts() {
            let max = vhost.max_stored_bytes();
            let mut bytes = 0;
            if max.is_some() || !self.users.is_empty() {
                for queue in vhost.all_queues() {
                    let machine = &queue.lock().machine;
                    self.add_shares(machine);
                    bytes += stored(machine, &mut chunks);
                }
            }
            let whose = |info: &ConnectionInfo| info.vhost == **vhost.name();
            let held = if max.is_some() { bytes } else { 0 };
            if set(broker, vhost.account(), held, max, whose) {
                tracing::info!(vhost = %vhost.name(), bytes, ?max, "publishers wait because queues hold too many bytes, or go on");
            }
        }
        for LimitedUser { identity, account, max, bytes } in &mut self.users {
            let (user, bytes) = (&identity.user, std::mem::take(bytes));
            if set(broker, account, bytes, Some(*max), |info| info.user == **user) {
                tracing::info!(%user, bytes, max, "publishers wait because queues hold too many of their bytes, or go on");
            }
        }
        if chunks > CHUNKS_MANY {
            self.skip = u32::try_from(LOOK_SELDOM.as_millis() / period.as_millis().max(1)).unwrap_or(1);
        }
    }

    /// Finds out who has a limit, when users may have changed.
    fn find_users(&mut self, broker: &Broker) {
        let generation = broker.authorities().generation();
        if self.generation == Some(generation) {
            return;
        }
        self.generation = Some(generation);
        let limited = broker.authorities().stored_limits();
        let before = std::mem::take(&mut self.users);
        self.users = limited
            .into_iter()
            .map(|(identity, max)| {
                let account = broker.user_account(&identity.user);
                LimitedUser { identity, account, max, bytes: 0 }
            })
            .collect();
        self.users.sort_unstable_by_key(|user| user.identity.number);
        for LimitedUser { identity, account, .. } in before {
            if self.find(identity.number).is_none() {
                set(broker, &account, 0, None, |info| info.user == *identity.user);
            }
        }
    }

    fn find(&mut self, number: UserNumber) -> Option<&mut LimitedUser> {
        let at = self.users.binary_search_by_key(&number, |user| user.identity.number).ok()?;
        self.users.get_mut(at)
    }

    fn add_shares(&mut self, machine: &Machine) {
        if self.users.is_empty() {
            return;
        }
        let mut add = |number, bytes| {
            if let Some(user) = self.find(number) {
                user.bytes += bytes;
            }
        };
        match machine {
            Machine::Classic(queue) => {
                let bytes_of = |location: Location| u64::from(location.len);
                queue.levels().for_each(|level| level.shares(bytes_of, &mut add));
            }
            Machine::Stream(stream) => stream.shares(add),
        }
    }
}

/// Bytes that a queue's messages take, in memory or on disk.
fn stored(machine: &Machine, chunks: &mut usize) -> u64 {
    match machine {
        Machine::Classic(queue) => {
            let held = queue.levels().flat_map(|level| level.held()).inspect(|_| *chunks += 1);
            let on_disk = held.filter(|held| held.residence.chunk().is_none());
            let on_disk: u64 =
                on_disk.filter_map(|held| held.residence.location()).map(|at| u64::from(at.len)).sum();
            on_disk + queue.memory_bytes() as u64
        }
        Machine::Stream(stream) => stream.bytes(),
    }
}

/// Notes what is held; whether publishers wait since now or go on, of which the connections concerned are told.
fn set(
    broker: &Broker,
    account: &Account,
    bytes: u64,
    max: Option<u64>,
    concerns: impl Fn(&ConnectionInfo) -> bool,
) -> bool {
    let is_full = max.is_some_and(|max| max < bytes);
    if account.stored.set(bytes, is_full) == is_full {
        return false;
    }
    for connection in broker.connections().list() {
        if concerns(&connection) {
            connection.waker.room();
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use posthouse_model::chunk::ChunkBuilder;
    use posthouse_model::queue_settings::QueueSettings;
    use posthouse_queue::machine::chunks::Persistence;
    use posthouse_storage::segment::{Class, SegmentId};

    use super::*;

    #[test]
    fn what_is_stored_is_counted_in_every_level() {
        let mut machine = Machine::default();
        machine.set_settings(QueueSettings { max_priority: 9, ..QueueSettings::default() });
        let mut location = Location {
            file: SegmentId(1),
            class: Class::Durable,
            shared: false,
            offset: 0,
            len: 1_000,
            records: 1,
        };
        for level in [0, 5, 9] {
            let mut builder = ChunkBuilder::default();
            builder.push(0, 0, b"\0\x01q", b"", 100, &[0; 100]);
            let chunk = Arc::new(builder.finish());
            let first = machine.push_shared(level, chunk, Persistence::Persistent, 0, &mut Vec::new());
            location.len += 1;
            machine.classic().unwrap().written(first, location, true);
        }
        let mut chunks = 0;
        assert_eq!((stored(&machine, &mut chunks), chunks), (3_006, 3));
    }
}
