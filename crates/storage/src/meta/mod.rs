//! The metadata store: virtual hosts, users, permissions, exchanges, queues, bindings, parameters.
//!
//! A generic ordered map of bytes to bytes per table; what the bytes mean (versioned JSON) is the caller's
//! business. Changes are queued without blocking and ONE writer thread commits everything queued meanwhile in one
//! durable transaction (group commit), so ten thousand pipelined declarations cost a few syncs, not ten thousand:
//!
//! ```text
//!  apply(ops) -> MetaPos          writer thread                        waiters
//!  ------------------------> [queue] --take all--> one transaction --> committed = pos --> each woken once
//! ```
//!
//! A commit that finds the disk full waits for room, and everybody who waits for it with it: `patient.rs`. Any other
//! failed commit is fatal: the handler given at opening is called once, nothing is retried, and the committed position
//! never moves again.
//!
//! On disk it is one redb file, `meta.redb`, with one redb table per [`MetaTable`]; the key `format` of the
//! `system` table holds the format version as decimal text. Version 1.

mod patient;
mod redb_store;
mod writer;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use redb_store::RedbStore;
pub(crate) use redb_store::exists;
pub use redb_store::{MetaCensus, inspect};
use writer::Writer;

/// The format version this build writes and the newest it reads.
pub const META_FORMAT: u32 = 1;

/// Queued bytes from which [`MetaStore::congested`] says so.
const CONGESTED_BYTES: usize = 8 << 20;

/// The tables. What keys and values hold is the caller's business, except for the key `format` in `System`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum MetaTable {
    /// Virtual hosts.
    Vhosts,
    /// Users and their password hashes.
    Users,
    /// What users may do in which virtual host.
    Permissions,
    /// What users may publish and bind in which topic exchange.
    TopicPermissions,
    /// Durable exchanges.
    Exchanges,
    /// Durable queues.
    Queues,
    /// Bindings between durable ends.
    Bindings,
    /// Runtime parameters and policies of virtual hosts.
    Parameters,
    /// Parameters of the broker as a whole.
    GlobalParameters,
    /// What the broker notes about itself: the format version, counters, the node's identity.
    System,
}

impl MetaTable {
    /// Every table.
    pub const ALL: [Self; 10] = [
        Self::Vhosts,
        Self::Users,
        Self::Permissions,
        Self::TopicPermissions,
        Self::Exchanges,
        Self::Queues,
        Self::Bindings,
        Self::Parameters,
        Self::GlobalParameters,
        Self::System,
    ];

    /// The table's name on disk. Never changes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vhosts => "vhosts",
            Self::Users => "users",
            Self::Permissions => "permissions",
            Self::TopicPermissions => "topic_permissions",
            Self::Exchanges => "exchanges",
            Self::Queues => "queues",
            Self::Bindings => "bindings",
            Self::Parameters => "parameters",
            Self::GlobalParameters => "global_parameters",
            Self::System => "system",
        }
    }
}

/// One change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MetaOp {
    /// Sets a key's value, whether or not it existed.
    Put {
        /// Where.
        table: MetaTable,
        /// The key.
        key: Vec<u8>,
        /// The value.
        value: Vec<u8>,
    },
    /// Removes a key; nothing happens when it is not there.
    Delete {
        /// Where.
        table: MetaTable,
        /// The key.
        key: Vec<u8>,
    },
}

impl MetaOp {
    fn memory_bytes(&self) -> usize {
        let payload = match self {
            Self::Put { key, value, .. } => key.len() + value.len(),
            Self::Delete { key, .. } => key.len(),
        };
        payload + size_of::<Self>()
    }
}

/// A position in the order of changes: how many changes were queued up to and including it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct MetaPos(pub u64);

/// Somebody who waits for a position to be committed.
pub trait MetaWaiter: Send + Sync {
    /// Everything up to `pos` is on disk. Called once per registration, from the writer thread (or from the
    /// registering one when the position had passed already): it must not block.
    fn committed(&self, pos: MetaPos);
}

/// Called once when a commit fails, with the explanation. It is expected to stop the process.
pub type MetaFatal = Arc<dyn Fn(&str) + Send + Sync>;

/// Why the metadata store cannot be opened, read or flushed.
#[derive(Debug, thiserror::Error)]
pub enum MetaError {
    /// The file was written by a newer version.
    #[error("metadata store {path} has format {got}, this version reads formats up to {expected}")]
    Newer {
        /// The file.
        path: String,
        /// The newest format this build reads.
        expected: u32,
        /// The file's format.
        got: u32,
    },
    /// The format key holds something else than a number.
    #[error("metadata store {path}: format key is damaged: expected a decimal number, got {got:?}")]
    BadFormat {
        /// The file.
        path: String,
        /// What was there.
        got: String,
    },
    /// The store's own error: input or output failed, or the file is damaged.
    #[error("metadata store {path}: {text}")]
    Store {
        /// The file.
        path: String,
        /// What went wrong.
        text: String,
    },
    /// An earlier commit failed; nothing is committed any more.
    #[error("the metadata store has stopped after a failed commit: {0}")]
    Stopped(String),
}

/// Keys and values of a table, in key order.
pub type MetaEntries = Vec<(Vec<u8>, Vec<u8>)>;

type Memory = Mutex<BTreeMap<(MetaTable, Vec<u8>), Vec<u8>>>;

enum Kind {
    Disk { store: Arc<RedbStore>, writer: Writer },
    Memory { map: Memory, position: Mutex<u64> },
}

/// The store. Thread-safe; dropping it commits what is queued.
pub struct MetaStore {
    kind: Kind,
}

impl MetaStore {
    /// Opens or creates the store in the file `path`. `fatal` is called once when a commit fails, which one does not
    /// for lack of room: it waits.
    ///
    /// # Errors
    /// When the file cannot be opened, is damaged, or has a newer format.
    pub fn open(path: &Path, fatal: MetaFatal) -> Result<Self, MetaError> {
        Self::start(RedbStore::open(path)?, path, fatal)
    }

    fn start(store: RedbStore, path: &Path, fatal: MetaFatal) -> Result<Self, MetaError> {
        let store = Arc::new(store);
        let writer = Writer::start(Arc::clone(&store), fatal)
            .map_err(|e| MetaError::Store { path: path.display().to_string(), text: e.to_string() })?;
        Ok(Self { kind: Kind::Disk { store, writer } })
    }

    /// A store without a file: every change is committed at once and gone with the process.
    pub fn in_memory() -> Self {
        Self { kind: Kind::Memory { map: Memory::default(), position: Mutex::new(0) } }
    }

    /// Queues changes, which become durable together and in the order of calls. Never blocks; a caller that may
    /// wait should look at [`Self::congested`] first.
    pub fn apply(&self, ops: Vec<MetaOp>) -> MetaPos {
        match &self.kind {
            Kind::Disk { writer, .. } => writer.apply(ops),
            Kind::Memory { map, position } => {
                let mut map = map.lock().unwrap_or_else(PoisonError::into_inner);
                let mut position = position.lock().unwrap_or_else(PoisonError::into_inner);
                *position += ops.len() as u64;
                for op in ops {
                    match op {
                        MetaOp::Put { table, key, value } => map.insert((table, key), value),
                        MetaOp::Delete { table, key } => map.remove(&(table, key)),
                    };
                }
                MetaPos(*position)
            }
        }
    }

    /// Whether more than 8 MiB of changes are queued: stop taking new ones until what was applied is committed.
    pub fn congested(&self) -> bool {
        match &self.kind {
            Kind::Disk { writer, .. } => writer.queued_bytes() > CONGESTED_BYTES,
            Kind::Memory { .. } => false,
        }
    }

    /// Whether a commit waits for room on the disk. Everything applied waits with it.
    pub fn is_disk_full(&self) -> bool {
        match &self.kind {
            Kind::Disk { writer, .. } => writer.is_disk_full(),
            Kind::Memory { .. } => false,
        }
    }

    /// Everything up to here is on disk.
    pub fn committed(&self) -> MetaPos {
        match &self.kind {
            Kind::Disk { writer, .. } => writer.committed(),
            Kind::Memory { position, .. } => {
                MetaPos(*position.lock().unwrap_or_else(PoisonError::into_inner))
            }
        }
    }

    /// Calls `waiter` once as soon as `pos` is committed; at once when it is already. Never, when the store
    /// stopped before.
    pub fn notify_when_committed(&self, pos: MetaPos, waiter: Arc<dyn MetaWaiter>) {
        match &self.kind {
            Kind::Disk { writer, .. } => writer.notify_when_committed(pos, waiter),
            Kind::Memory { .. } => waiter.committed(self.committed()),
        }
    }

    /// Blocks until everything applied before is on disk.
    ///
    /// # Errors
    /// When a commit failed.
    pub fn flush(&self) -> Result<(), MetaError> {
        match &self.kind {
            Kind::Disk { writer, .. } => writer.flush(),
            Kind::Memory { .. } => Ok(()),
        }
    }

    /// As [`Self::flush`], before the process ends: a full disk is not waited for any more.
    ///
    /// # Errors
    /// When a commit failed, or finds no room.
    pub fn close(&self) -> Result<(), MetaError> {
        match &self.kind {
            Kind::Disk { writer, .. } => writer.close(),
            Kind::Memory { .. } => Ok(()),
        }
    }

    /// All committed entries of a table in key order, without the store's own format key.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn scan(&self, table: MetaTable) -> Result<MetaEntries, MetaError> {
        match &self.kind {
            Kind::Disk { store, .. } => store.scan(table),
            Kind::Memory { map, .. } => {
                let map = map.lock().unwrap_or_else(PoisonError::into_inner);
                Ok(map
                    .range((table, Vec::new())..)
                    .take_while(|((t, _), _)| *t == table)
                    .map(entry)
                    .collect())
            }
        }
    }
}

fn entry(((_, key), value): (&(MetaTable, Vec<u8>), &Vec<u8>)) -> (Vec<u8>, Vec<u8>) {
    (key.clone(), value.clone())
}

#[cfg(test)]
mod full_disk_tests;

#[cfg(test)]
mod tests;
