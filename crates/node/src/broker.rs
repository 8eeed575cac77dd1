//! One running broker: what all its sessions share.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use hashbrown::HashMap;
use posthouse_auth::authorities::Authorities;
use posthouse_model::args::QueueKind;
use posthouse_model::errors;
use posthouse_model::field::FieldValue;
use posthouse_model::ids::{Lsn, QueueId};
use posthouse_model::name::Name;
use posthouse_model::reply::ReplyError;
use posthouse_storage::disk::Disk;
use posthouse_storage::disk::real::RealDisk;
use posthouse_storage::engine::{MessageStore, Storage};
use posthouse_storage::meta::{MetaOp, MetaPos, MetaStore, MetaWaiter};
use posthouse_storage::segment::SegmentStore;
use posthouse_storage::wal::{Shortage, Wal};
use serde_json::Value;

use crate::alarms::Alarms;
use crate::connections::{ConnectionInfo, Connections};
use crate::dead_letters::DeadLetters;
use crate::deadlines::Deadlines;
use crate::events::{self, Events};
use crate::metadata::VhostMetadata;
use crate::positions::Positions;
use crate::queue_handle::{MemoryUse, QueueHandle};
use crate::quotas::Account;
use crate::records::{self, LIMITS, VHOST_LIMITS};
use crate::residency::Residency;
use crate::schedule::Bell;
use crate::timers::Timers;
use crate::unknown_arguments::UnknownArguments;
use crate::vhost::VirtualHost;
use crate::waker::SessionWaker;
use crate::workers::Workers;

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

    /// The virtual host of that name, or the error of `connection.open`.
    pub fn vhost(&self, name: &str) -> Result<Arc<VirtualHost>, ReplyError> {
        let vhosts = self.vhosts.read().unwrap_or_else(PoisonError::into_inner);
        vhosts.get(name).cloned().ok_or_else(|| errors::vhost_not_found(name))
    }

    /// All virtual hosts by name.
    pub fn vhosts(&self) -> Vec<Arc<VirtualHost>> {
        let vhosts = self.vhosts.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = vhosts.values().cloned().collect();
        all.sort_unstable_by(|a, b| a.name().cmp(b.name()));
        all
    }

    /// Adds a virtual host; false when it is there already.
    pub fn add_vhost(&self, name: &Name, metadata: VhostMetadata) -> bool {
        let mut vhosts = self.vhosts.write().unwrap_or_else(PoisonError::into_inner);
        if vhosts.contains_key(name) {
            return false;
        }
        let vhost = VirtualHost::new(name.clone(), self.events.clone());
        events::add_exchange(self, &vhost);
        vhost.change(|inner| inner.metadata = metadata);
        self.keep(vec![records::put_vhost(name, &vhost.metadata())]);
        let metadata = vhost.metadata();
        vhosts.insert(name.clone(), Arc::new(vhost));
        self.events.emit("vhost.created", |fields| {
            let kind = metadata.default_queue_type.map_or("undefined", QueueKind::name);
            fields
                .text("name", name)
                .text("description", &metadata.description)
                .texts("tags", &metadata.tags)
                .text("default_queue_type", kind)
                .flag("tracing", false)
        });
        true
    }

    /// Deletes a virtual host with everything in it and closes its connections; false when there is none.
    pub fn delete_vhost(&self, name: &str) -> bool {
        let removed = self.vhosts.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        let Some(vhost) = removed else { return false };
        // From here on nothing is declared in it any more, whoever holds it.
        vhost.change(|inner| inner.deleted = true);
        self.connections.close(|info| info.vhost == name, &errors::vhost_deleted(name));
        for queue in vhost.all_queues() {
            // Without conditions nothing is refused.
            let _ = self.remove_queue(&vhost, &queue, crate::declare::DeleteIf::default());
        }
        let (exchanges, bindings) = vhost.with_topology(|topology| {
            let names: Vec<Name> = topology.exchanges().iter().map(|e| e.name.clone()).collect();
            (names, topology.bindings())
        });
        for binding in bindings {
            // Those between predeclared exchanges are kept, too.
            let _ = self.unbind(&vhost, binding);
        }
        for exchange in exchanges {
            // Predeclared ones are refused, and are not kept anyway.
            let _ = self.delete_exchange(&vhost, &exchange, false);
        }
        let changes = self.authorities.forget_vhost(name);
        self.keep_auth(&changes);
        let mut ops = vhost.look(|inner| inner.policies.forget(name));
        let others = vhost.look(|inner| inner.parameters.keys().cloned().collect::<Vec<_>>());
        let forget = |(component, key): &(String, String)| records::delete_parameter(name, component, key);
        ops.extend(others.iter().map(forget));
        ops.push(records::delete_parameter(name, VHOST_LIMITS, LIMITS));
        ops.push(records::delete_schedule(name));
        ops.push(records::delete_vhost(name));
        self.keep(ops);
        self.events.emit("vhost.deleted", |fields| fields.text("name", name));
        true
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

    /// Parameters of the broker as a whole, by name.
    pub fn global_parameters(&self) -> BTreeMap<String, Value> {
        self.lock_parameters().clone()
    }

    /// Sets a parameter of the broker as a whole.
    pub(crate) fn put_global_parameter(&self, name: &str, value: Value) {
        let mut parameters = self.lock_parameters();
        // Under the lock, so that changes are kept in the order in which they were made.
        self.keep(vec![records::put_global_parameter(name, &value)]);
        self.events.emit("parameter.set", |fields| {
            fields
                .text("component", "global")
                .text("name", name)
                .with("value", FieldValue::string(&value.to_string()))
        });
        parameters.insert(name.to_owned(), value);
    }

    /// Removes one; false when there is none of that name.
    pub(crate) fn remove_global_parameter(&self, name: &str) -> bool {
        let mut parameters = self.lock_parameters();
        let removed = parameters.remove(name).is_some();
        if removed {
            self.keep(vec![records::delete_global_parameter(name)]);
            self.events
                .emit("parameter.cleared", |fields| fields.text("component", "global").text("name", name));
        }
        removed
    }

    /// Makes one known that was read back.
    pub(crate) fn restore_global_parameter(&self, name: String, value: Value) {
        self.lock_parameters().insert(name, value);
    }

    fn lock_parameters(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Value>> {
        self.parameters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets a parameter of a virtual host that means nothing here.
    pub(crate) fn put_parameter(&self, vhost: &VirtualHost, component: String, name: String, value: Value) {
        vhost.change(|inner| {
            self.keep(vec![records::put_parameter(vhost.name(), &component, &name, &value)]);
            inner.parameters.insert((component, name), value);
        });
    }

    /// The durable queue of that identity.
    pub(crate) fn queue_by_id(&self, id: QueueId) -> Option<Arc<QueueHandle>> {
        self.vhosts().iter().find_map(|vhost| vhost.queue_by_id(id))
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

    /// Whether publishers are held back.
    #[inline]
    pub fn alarm_on(&self) -> bool {
        self.alarms.any()
    }

    /// Whether publishers are held back because the disk is low or full.
    pub(crate) fn disk_alarm_on(&self) -> bool {
        self.alarms.disk()
    }

    /// Why publishers are held back.
    pub fn alarm_reason(&self) -> Option<&'static str> {
        self.alarms.reason()
    }

    /// Sets the alarms by memory use and by what is known of the disk, and tells every session when they change.
    pub fn watch(&self, disk_free_bytes: Option<u64>) {
        let memory = self.memory.bytes() > self.settings.memory_watermark_bytes;
        let shortage = self.wal().and_then(|wal| wal.shortage());
        let full = shortage == Some(Shortage::Disk) || self.store.meta().is_disk_full();
        let disk = full || disk_free_bytes.is_some_and(|free| free < self.settings.disk_free_limit_bytes);
        let before = self.alarms.reason();
        if self.alarms.set(memory, disk, shortage == Some(Shortage::Files)) {
            self.tell_alarms(before, disk_free_bytes);
        }
    }

    /// Sets the memory alarm as soon as a publisher crosses the watermark: a fast one sends 100 MB until the next
    /// [`Self::watch`], which is what takes the alarm back.
    #[inline]
    pub(crate) fn watch_memory(&self) {
        let over = self.memory.bytes() > self.settings.memory_watermark_bytes;
        if over && !self.alarms.memory() && self.alarms.raise_memory() {
            self.tell_alarms(None, None);
        }
    }

    fn tell_alarms(&self, before: Option<&'static str>, disk_free_bytes: Option<u64>) {
        let (now, memory_bytes) = (self.alarms.reason(), self.memory.bytes());
        tracing::warn!(
            ?before,
            ?now,
            memory_bytes,
            ?disk_free_bytes,
            "publishers are held back or let go on"
        );
        for connection in self.connections.list() {
            connection.waker.alarms_changed();
        }
    }

    /// Whether sessions should read nothing new: the log or the metadata store has too much to write.
    pub fn is_congested(&self) -> bool {
        self.store.meta().congested() || self.wal().is_some_and(|wal| wal.is_congested())
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

    /// Makes a virtual host known that was read back, or for the first start.
    pub(crate) fn insert_vhost(&self, vhost: Arc<VirtualHost>) {
        let mut vhosts = self.vhosts.write().unwrap_or_else(PoisonError::into_inner);
        vhosts.insert(vhost.name().clone(), vhost);
    }
}

impl MetaWaiter for SessionWaker {
    fn committed(&self, _pos: MetaPos) {
        self.synced();
    }
}
