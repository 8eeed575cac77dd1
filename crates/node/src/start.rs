//! From a data directory, or nothing, to a running broker, and back.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::JoinHandle;

use posthouse_auth::authorities::{AuthError, AuthSettings, Authorities};
use posthouse_auth::password::{PasswordError, PasswordHash};
use posthouse_auth::users::{AuthChange, DecodeError};
use posthouse_model::ids::Lsn;
use posthouse_model::name::Name;
use posthouse_storage::StorageError;
use posthouse_storage::engine::{OpenError, Recovered, Storage, StorageOptions};
use posthouse_storage::meta::{MetaError, MetaOp, MetaStore, MetaTable};
use posthouse_storage::wal::{Shortage, WalEvents, WalOptions};
use tracing::{error, info, warn};

use crate::admin::AdminError;
use crate::broker::{Broker, Settings, Store};
use crate::dead_letters::{self, DeadLetters};
use crate::definitions;
use crate::metadata::VhostMetadata;
use crate::records::{self, RecordError};
use crate::residency::{self, Residency};
use crate::{schedule, timers};

/// The virtual host that a new broker has.
const DEFAULT_VHOST: &str = "/";

/// Where everything is kept.
#[derive(Clone, Debug)]
pub enum Keep {
    /// In memory: no file is opened.
    InMemory,
    /// In a data directory.
    InDirectory {
        /// The directory.
        path: PathBuf,
        /// The log's options.
        wal: WalOptions,
        /// What becomes of messages that no defined queue has, after an orderly stop.
        undefined_queues: UndefinedQueues,
    },
}

/// What becomes of messages of queues that no definition names, when it is certain that the definitions are not those
/// that the messages were kept with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum UndefinedQueues {
    /// The broker does not start.
    #[default]
    Refuse,
    /// They are deleted.
    Discard,
}

/// Everything a broker needs to start.
#[derive(Clone, Debug)]
pub struct StartOptions {
    /// What an operator can set.
    pub settings: Settings,
    /// Logins.
    pub auth: AuthSettings,
    /// Made, with its password, when there is no user.
    pub default_user: (String, String),
    /// A document of definitions to be imported before anything else happens. With one, a new broker gets neither the
    /// default virtual host nor the default user.
    pub definitions: Option<Vec<u8>>,
    /// The virtual host in which `amq.rabbitmq.event` is; none for no events.
    pub event_vhost: Option<String>,
    /// Where everything is kept.
    pub keep: Keep,
    /// Called once when the disk failed: nothing can be promised any more, the process must end.
    pub on_fatal: fn(&str),
}

/// Why a broker cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The metadata store.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// A document of definitions.
    #[error("cannot import definitions: {0}")]
    Definitions(#[from] AdminError),
    /// A definition.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Messages are there, after an orderly stop, whose queues are not defined.
    #[error(
        "data directory {dir}: meta.redb does not belong to the messages: {messages} messages are in {queues} queues that \
         it does not define: put back the newer one, or set server.undefined_queues to \"discard\" to give these \
         messages up"
    )]
    Undefined {
        /// The data directory.
        dir: String,
        /// How many queues.
        queues: usize,
        /// How many messages they have.
        messages: u64,
    },
    /// A stored user or permission.
    #[error(transparent)]
    Stored(#[from] DecodeError),
    /// A user or permission.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// A thread.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// Starts a broker.
///
/// # Errors
/// When the data directory cannot be used; one line says why.
pub fn start(options: StartOptions) -> Result<Arc<Broker>, StartError> {
    let events = Arc::new(Events::new(options.on_fatal));
    let hashing = hash_ahead(&options)?;
    let (store, recovered) = open(&options, &events)?;
    run(options, store, recovered, hashing, &events)
}

/// Starts a broker on an open store.
fn run(
    options: StartOptions,
    store: Store,
    recovered: Recovered,
    hashing: Option<Hashing>,
    events: &Events,
) -> Result<Arc<Broker>, StartError> {
    let (residency, work) = match &store {
        Store::Log(_) => {
            let (residency, work) = Residency::new();
            (Some(residency), Some(work))
        }
        Store::Memory(_) => (None, None),
    };
    let authorities = Arc::new(Authorities::new(options.auth));
    let first_queue_id = first_queue_id(store.meta())?.max(recovered.next_queue_id);
    let (dead_letters, inbox) = DeadLetters::new();
    let settings = options.settings;
    let event_vhost = options.event_vhost.as_deref().map(Name::truncated);
    let broker =
        Broker::new(settings, store, residency, dead_letters, authorities, first_queue_id, event_vhost);
    broker.set_on_fatal(options.on_fatal);
    let broker = Arc::new(broker);
    let undefined_queues = match options.keep {
        Keep::InMemory => UndefinedQueues::default(),
        Keep::InDirectory { undefined_queues, .. } => undefined_queues,
    };
    let was_clean = recovered.clean;
    let queues = restore::restore(&broker, recovered, undefined_queues)?;
    if let Store::Log(storage) = broker.store()
        && was_clean
    {
        storage.messages.begin().map_err(OpenError::from)?;
    }
    restore::put_in_force(&broker, queues);
    match &options.definitions {
        Some(document) => import(&broker, document)?,
        None => first_start(&broker, &options.default_user, hashing)?,
    }
    // A failed disk is fatal; here it only means that the first definitions are not there yet.
    broker.store().meta().flush()?;
    if events.broker.set(Arc::downgrade(&broker)).is_ok()
        && let (Some(work), Some(segments)) = (work, broker.segments())
    {
        residency::start(work, &broker, segments.clone())?;
        upkeep::start_checkpoints(&broker, events.take_work(), options.on_fatal)?;
        upkeep::start_rewriting(&broker)?;
    }
    dead_letters::start(&broker, inbox)?;
    upkeep::start_watch(&broker)?;
    crate::events::start(&broker)?;
    timers::start(&broker)?;
    schedule::worker::start(&broker)?;
    if let Some(wal) = broker.wal() {
        wal.keep_ahead();
    }
    Ok(broker)
}

/// Stops a broker whose connections are gone: everything that must survive is on disk when this returns. A disk that is
/// full is not waited for.
///
/// # Errors
/// When the last checkpoint cannot be written; what was confirmed is kept all the same.
pub fn stop(broker: &Broker) -> Result<(), OpenError> {
    // Any of these may be waiting for the log.
    if let Some(wal) = broker.wal() {
        wal.begin_close();
    }
    // Whatever changes queues by itself ends first: nothing may follow the last checkpoint, or be lost with it.
    broker.workers().stop(|| {
        broker.timers().close();
        broker.bell().close();
        broker.residency().inspect(|residency| residency.close());
    });
    broker.events().stop();
    broker.dead_letters().stop();
    match broker.store() {
        Store::Memory(_) => Ok(()),
        Store::Log(storage) => storage.close(broker).map(drop),
    }
}

fn open(options: &StartOptions, events: &Arc<Events>) -> Result<(Store, Recovered), StartError> {
    let Keep::InDirectory { path, wal, .. } = &options.keep else {
        return Ok((Store::Memory(MetaStore::in_memory()), Recovered::default()));
    };
    let on_fatal = options.on_fatal;
    let storage_options = StorageOptions { wal: wal.clone(), ..StorageOptions::default() };
    let meta_fatal = Arc::new(move |problem: &str| on_fatal(problem));
    let (storage, recovered) = Storage::open(path, storage_options, events.clone(), meta_fatal)?;
    for damage in &recovered.damages {
        error!(%damage, "damage found; everything else is kept");
    }
    Ok((Store::Log(Box::new(storage)), recovered))
}

fn first_queue_id(meta: &MetaStore) -> Result<u64, StartError> {
    let system = meta.scan(MetaTable::System)?;
    match system.iter().find(|(key, _)| key == records::NEXT_QUEUE_ID) {
        Some((_, value)) => Ok(records::read_next_queue_id(value)?),
        None => Ok(1),
    }
}

/// A password being hashed on a thread of its own.
type Hashing = JoinHandle<Result<PasswordHash, PasswordError>>;

/// Starts hashing the default user's password where a first start is likely: that takes as long as all the rest.
fn hash_ahead(options: &StartOptions) -> Result<Option<Hashing>, StartError> {
    let is_new = match &options.keep {
        Keep::InMemory => true,
        Keep::InDirectory { path, .. } => !path.exists(),
    };
    if !is_new || options.definitions.is_some() {
        return Ok(None);
    }
    let (password, cost) = (options.default_user.1.clone(), options.auth.hash_cost);
    let hash = move || PasswordHash::new(password.as_bytes(), cost);
    Ok(Some(std::thread::Builder::new().name("hash".into()).spawn(hash)?))
}

/// Imports the definitions that the broker is started with.
fn import(broker: &Broker, document: &[u8]) -> Result<(), StartError> {
    let imported = definitions::import(broker, document)?;
    for left_out in &imported.left_out {
        warn!(left_out, "definitions");
    }
    info!(counts = ?imported.counts, "definitions are imported");
    Ok(())
}

/// Gives a new broker its virtual host and its user.
fn first_start(
    broker: &Broker,
    default_user: &(String, String),
    hashing: Option<Hashing>,
) -> Result<(), StartError> {
    if broker.vhosts().is_empty() {
        let description = "Default virtual host".to_owned();
        let metadata = VhostMetadata { description, ..VhostMetadata::default() };
        broker.add_vhost(&Name::truncated(DEFAULT_VHOST), metadata);
    }
    let authorities = broker.authorities();
    if authorities.users().is_empty() {
        let (user, password) = default_user;
        let hashed = hashing.and_then(|hashing| hashing.join().ok()).transpose().map_err(AuthError::from)?;
        let mut changes = match hashed {
            Some(hash) => authorities.add_user_with(user, hash)?,
            None => authorities.add_user(user, password.as_bytes())?,
        };
        changes.extend(authorities.set_user_tags(user, vec!["administrator".to_owned()])?);
        changes.extend(authorities.set_permissions(user, DEFAULT_VHOST, ".*", ".*", ".*")?);
        broker.keep_auth(&changes);
    }
    Ok(())
}

impl Broker {
    /// Keeps changes of users and permissions.
    pub fn keep_auth(&self, changes: &[AuthChange]) {
        self.keep(changes.iter().map(auth_op).collect());
    }
}

fn auth_op(change: &AuthChange) -> MetaOp {
    let pair = |user: &Name, vhost: &Name| records::key(&[user, vhost]);
    match change {
        AuthChange::PutUser(user) => {
            MetaOp::Put { table: MetaTable::Users, key: records::key(&[&user.name]), value: user.encode() }
        }
        AuthChange::DeleteUser(name) => {
            MetaOp::Delete { table: MetaTable::Users, key: records::key(&[name]) }
        }
        AuthChange::PutPermissions(record) => MetaOp::Put {
            table: MetaTable::Permissions,
            key: pair(&record.user, &record.vhost),
            value: record.encode(),
        },
        AuthChange::DeletePermissions { user, vhost } => {
            MetaOp::Delete { table: MetaTable::Permissions, key: pair(user, vhost) }
        }
        AuthChange::PutTopicPermissions(record) => MetaOp::Put {
            table: MetaTable::TopicPermissions,
            key: records::key(&[&record.user, &record.vhost, &record.exchange]),
            value: record.encode(),
        },
        AuthChange::DeleteTopicPermissions { user, vhost, exchange } => {
            MetaOp::Delete { table: MetaTable::TopicPermissions, key: records::key(&[user, vhost, exchange]) }
        }
    }
}

/// What the log tells the broker.
struct Events {
    broker: OnceLock<Weak<Broker>>,
    on_fatal: fn(&str),
    wanted: SyncSender<()>,
    work: std::sync::Mutex<Option<Receiver<()>>>,
}

impl Events {
    fn new(on_fatal: fn(&str)) -> Self {
        // One pending request is enough: a cycle looks at the position itself.
        let (wanted, work) = sync_channel(1);
        Self { broker: OnceLock::new(), on_fatal, wanted, work: std::sync::Mutex::new(Some(work)) }
    }

    fn take_work(&self) -> Option<Receiver<()>> {
        self.work.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
    }

    fn broker(&self) -> Option<Arc<Broker>> {
        self.broker.get()?.upgrade()
    }
}

impl WalEvents for Events {
    fn fatal(&self, error: &StorageError) {
        (self.on_fatal)(&error.to_string());
    }

    fn shortage(&self, of: Option<Shortage>) {
        match of {
            Some(shortage) => warn!("the log waits: {shortage}"),
            None => warn!("the log need not wait any more"),
        }
        if let Some(broker) = self.broker() {
            broker.watch(broker.store().free_space());
        }
    }

    fn checkpoint_wanted(&self, _up_to: Lsn) {
        // Full means that one is pending.
        let _ = self.wanted.try_send(());
    }

    fn drained(&self) {
        if let Some(broker) = self.broker() {
            for connection in broker.connections().list() {
                connection.waker.room();
            }
        }
    }
}

mod orphans;
mod restore;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod upkeep;
