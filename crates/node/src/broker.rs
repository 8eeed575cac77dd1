//! One running broker: what all its sessions share.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use hashbrown::HashMap;
use posthouse_auth::authorities::Authorities;
use posthouse_model::ids::{Lsn, QueueId};
use posthouse_model::name::Name;
use posthouse_storage::disk::Disk;
use posthouse_storage::disk::real::RealDisk;
use posthouse_storage::engine::{MessageStore, Storage};
use posthouse_storage::meta::{MetaOp, MetaPos, MetaStore, MetaWaiter};
use posthouse_storage::segment::SegmentStore;
use posthouse_storage::wal::Wal;
use serde_json::Value;

use crate::alarms::Alarms;
use crate::connections::{ConnectionInfo, Connections};
use crate::dead_letters::DeadLetters;
use crate::deadlines::Deadlines;
use crate::events::Events;
use crate::positions::Positions;
use crate::queue_handle::MemoryUse;
use crate::quotas::Account;
use crate::records;
use crate::residency::Residency;
use crate::schedule::Bell;
use crate::timers::Timers;
use crate::unknown_arguments::UnknownArguments;
use crate::vhost::VirtualHost;
use crate::waker::SessionWaker;
use crate::workers::Workers;

mod parameters;
mod vhosts;
mod watching;

/// Queue identities are reserved in the metadata store by so many.
const QUEUE_ID_STEP: u64 = 1024;

/// What an operator can set.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Largest message body in bytes.
    pub max_message_bytes: u64,
    /// Memory of messages from which on queues keep little of their own in memory.
    pub memory_budget_bytes: usize,
    /// Memory of messages from which on publishers are held back.
    pub memory_watermark_bytes: usize,
    /// Free disk space below which publishers are held back.
    pub disk_free_limit_bytes: u64,
    /// Consumers per channel.
    pub max_consumers_per_channel: u32,
    /// Connections at a time.
    pub max_connections: u32,
}

/// Where messages and definitions are kept.
pub enum Store {
    /// In memory only.
    Memory(MetaStore),
    /// In a data directory.
    Log(Box<Storage>),
}

impl Store {
    /// Definitions.
    pub fn meta(&self) -> &MetaStore {
        match self {
            Self::Memory(meta) => meta,
            Self::Log(storage) => &storage.meta,
        }
    }

    /// Messages; none when everything is in memory only.
    #[inline]
    fn messages(&self) -> Option<&MessageStore> {
        match self {
            Self::Memory(_) => None,
            Self::Log(storage) => Some(&storage.messages),
        }
    }

    /// Bytes that may still be written to the disk; none when nothing is, or it cannot be told.
    pub fn free_space(&self) -> Option<u64> {
        match self {
            Self::Memory(_) => None,
            Self::Log(storage) => RealDisk.free_space(storage.path()).ok(),
        }
    }
}

/// See the module's documentation.
pub struct Broker {
    settings: Settings,
    store: Store,
    residency: Option<Residency>,
    dead_letters: DeadLetters,
    timers: Timers,
    workers: Workers,
    bell: Arc<Bell>,
    authorities: Arc<Authorities>,
    vhosts: RwLock<HashMap<Name, Arc<VirtualHost>, foldhash::quality::RandomState>>,
    connections: Connections,
    alarms: Alarms,
    deadlines: Deadlines,
    memory: Arc<MemoryUse>,
    meta_applied: AtomicU64,
    consumer_ids: AtomicU64,
    queue_ids: Mutex<QueueIds>,
    parameters: Mutex<BTreeMap<String, Value>>,
    events: Arc<Events>,
    pub(crate) unknown_arguments: UnknownArguments,
    /// Of users who have had a quota while they were connected.
    accounts: Mutex<HashMap<Name, Arc<Account>, foldhash::quality::RandomState>>,
    /// Ends the process; absent until the broker has started.
    on_fatal: OnceLock<fn(&str)>,
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Identities are given out below `reserved` only, which is kept.
#[derive(Debug)]
pub(crate) struct QueueIds {
    pub(crate) next: u64,
    pub(crate) reserved: u64,
}

impl Broker {
    /// A broker without virtual hosts; [`crate::start::start`] makes a complete one.
    pub(crate) fn new(
        settings: Settings,
        store: Store,
        residency: Option<Residency>,
        dead_letters: DeadLetters,
        authorities: Arc<Authorities>,
        first_queue_id: u64,
        event_vhost: Option<Name>,
    ) -> Self {
        Self {
            settings,
            store,
            residency,
            dead_letters,
            timers: Timers::default(),
            workers: Workers::default(),
            bell: Arc::default(),
            authorities,
            vhosts: RwLock::default(),
            connections: Connections::default(),
            alarms: Alarms::default(),
            deadlines: Deadlines::default(),
            memory: Arc::default(),
            meta_applied: AtomicU64::new(0),
            consumer_ids: AtomicU64::new(0),
            queue_ids: Mutex::new(QueueIds { next: first_queue_id, reserved: first_queue_id }),
            parameters: Mutex::default(),
            events: Arc::new(Events::new(event_vhost)),
            unknown_arguments: UnknownArguments::default(),
            accounts: Mutex::default(),
            on_fatal: OnceLock::new(),
        }
    }

    /// Says how the process ends when the disk failed.
    pub(crate) fn set_on_fatal(&self, on_fatal: fn(&str)) {
        // Nobody has set it before.
        let _ = self.on_fatal.set(on_fatal);
    }

    /// The disk failed: nothing can be promised any more, the process ends.
    pub(crate) fn fatal(&self, problem: &str) {
        if let Some(on_fatal) = self.on_fatal.get() {
            on_fatal(problem);
        }
    }

    /// What an operator can set.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What happens is told to these.
    pub fn events(&self) -> &Arc<Events> {
        &self.events
    }

    /// Users and what they may do.
    pub fn authorities(&self) -> &Arc<Authorities> {
        &self.authorities
    }

    /// Who is connected.
    pub fn connections(&self) -> &Connections {
        &self.connections
    }

    /// When deliveries must have been acknowledged.
    pub fn deadlines(&self) -> &Deadlines {
        &self.deadlines
    }

    /// Bytes of memory that messages take.
    pub fn memory(&self) -> &Arc<MemoryUse> {
        &self.memory
    }

    /// The log; none when everything is in memory only.
    #[inline]
    pub fn wal(&self) -> Option<&Arc<Wal>> {
        self.store.messages().map(MessageStore::wal)
    }

    /// The segments; none when everything is in memory only.
    #[inline]
    pub fn segments(&self) -> Option<&Arc<SegmentStore>> {
        self.store.messages().map(MessageStore::segments)
    }

    /// Where messages and definitions are kept.
    pub fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn residency(&self) -> Option<&Residency> {
        self.residency.as_ref()
    }

    pub(crate) fn dead_letters(&self) -> &DeadLetters {
        &self.dead_letters
    }

    pub(crate) fn timers(&self) -> &Timers {
        &self.timers
    }

    pub(crate) fn workers(&self) -> &Workers {
        &self.workers
    }

    /// Wakes the thread that hands over what waits for a time.
    pub(crate) fn bell(&self) -> &Arc<Bell> {
        &self.bell
    }

    /// An identity for a new consumer.
    pub fn next_consumer_id(&self) -> u64 {
        self.consumer_ids.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// What a user publishes is charged to this.
    pub(crate) fn user_account(&self, user: &str) -> Arc<Account> {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        accounts.entry(Name::truncated(user)).or_default().clone()
    }

    /// Forgets what a user has used of quotas, because the user is deleted.
    pub(crate) fn forget_account(&self, user: &str) {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner).remove(user);
    }

    /// Queues changes of definitions to be kept.
    pub(crate) fn keep(&self, ops: Vec<MetaOp>) {
        if !ops.is_empty() {
            let MetaPos(position) = self.store.meta().apply(ops);
            self.meta_applied.fetch_max(position, Ordering::AcqRel);
        }
    }

    /// The position after all changes of definitions made so far.
    pub fn meta_applied(&self) -> u64 {
        self.meta_applied.load(Ordering::Acquire)
    }

    /// The position after everything in the log so far.
    pub fn appended(&self) -> Lsn {
        self.wal().map_or(0, |wal| wal.appended())
    }

    /// The positions passed by now.
    pub fn passed(&self) -> Positions {
        Positions {
            lsn: self.wal().map_or(Lsn::MAX, |wal| wal.durable()),
            written: self.wal().map_or(Lsn::MAX, |wal| wal.written()),
            meta: self.store.meta().committed().0,
        }
    }

    /// Tells the session, once, when one of these positions has been passed: that of the log while it has not.
    pub fn notify_when_passed(&self, needs: Positions, waker: &Arc<SessionWaker>) {
        let passed = self.passed();
        match self.wal() {
            Some(wal) if needs.lsn > passed.lsn => wal.notify_when_durable(needs.lsn, waker.clone()),
            Some(wal) if needs.written > passed.written => {
                wal.notify_when_written(needs.written, waker.clone());
            }
            _ => self.store.meta().notify_when_committed(MetaPos(needs.meta), waker.clone()),
        }
    }

    /// Forgets a connection.
    pub fn connection_closed(&self, info: &ConnectionInfo) {
        self.connections.remove(info.id);
    }

    /// The next queue identity.
    pub(crate) fn next_queue_id(&self) -> QueueId {
        let mut ids = self.queue_ids.lock().unwrap_or_else(PoisonError::into_inner);
        if ids.next == ids.reserved {
            ids.reserved += QUEUE_ID_STEP;
            // Under the lock, so that it is kept before any queue that has one of these.
            self.keep(vec![records::put_next_queue_id(ids.reserved)]);
        }
        ids.next += 1;
        QueueId(ids.next - 1)
    }
}

impl MetaWaiter for SessionWaker {
    fn committed(&self, _pos: MetaPos) {
        self.synced();
    }
}
