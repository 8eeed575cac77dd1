//! The redb file behind the metadata store: opening, one transaction per batch, scans, and a census for the check
//! command. Knows nothing of positions and waiters.

use std::cell::Cell;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::{Arc, Once};

use redb::backends::{FileBackend, InMemoryBackend};
use redb::{
    Database, Durability, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition, TableError,
};

use super::patient::{PatientFile, Room};
use super::{META_FORMAT, MetaEntries, MetaError, MetaOp, MetaTable};

/// Pages redb may keep in memory. Everything is scanned once at boot and written afterwards.
const CACHE_BYTES: usize = 16 << 20;
const FORMAT_KEY: &[u8] = b"format";

type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;

fn definition(table: MetaTable) -> Definition {
    TableDefinition::new(table.name())
}

pub(super) struct RedbStore {
    database: Database,
    path: String,
    room: Arc<Room>,
}

impl RedbStore {
    pub(super) fn open(path: &Path) -> Result<Self, MetaError> {
        guarded(&path.display().to_string(), || Self::try_open(path))
    }

    fn try_open(path: &Path) -> Result<Self, MetaError> {
        let name = path.display().to_string();
        if exists(path) {
            let file = File::options().read(true).write(true).open(path);
            // A process that was killed may have left its last commit in the kernel's memory only.
            let file = file.and_then(|file| file.sync_all().map(|()| file)).map_err(|e| failed(&name, &e))?;
            return Self::on(FileBackend::new(file).map_err(|e| failed(&name, &e))?, name);
        }
        // Under another name until it is whole: what has the name is always a store.
        let unfinished = path.with_extension("redb.new");
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&unfinished);
        let file = FileBackend::new(file.map_err(|e| failed(&name, &e))?).map_err(|e| failed(&name, &e))?;
        let store = Self::on(file, name)?;
        rename_durably(&unfinished, path).map_err(|e| failed(&store.path, &e))?;
        Ok(store)
    }

    /// Opens what is in a file, or makes a store of it when it is empty. From then on writes wait for room.
    pub(super) fn on(file: impl StorageBackend, name: String) -> Result<Self, MetaError> {
        let room = Arc::new(Room::default());
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES);
        let opened = builder.create_with_backend(PatientFile::new(file, Arc::clone(&room)));
        let store = Self { database: opened.map_err(|e| failed(&name, &e))?, path: name, room };
        match store.format()? {
            Some(_) => {}
            None => store.commit(&[MetaOp::Put {
                table: MetaTable::System,
                key: FORMAT_KEY.to_vec(),
                value: META_FORMAT.to_string().into_bytes(),
            }])?,
        }
        store.room.set_waits(true);
        Ok(store)
    }

    /// Whether a write waits for room on the disk, or gave up waiting.
    pub(super) fn is_disk_full(&self) -> bool {
        self.room.is_full()
    }

    /// From now on a write that finds no room fails: nobody can make any before the process ends.
    pub(super) fn stop_waiting(&self) {
        self.room.set_waits(false);
    }

    /// One durable transaction. Quick repair keeps the allocator's state in every commit, so that an unclean stop
    /// does not make the next start walk the whole file; it costs a second sync, shared by the whole batch.
    pub(super) fn commit(&self, ops: &[MetaOp]) -> Result<(), MetaError> {
        guarded(&self.path, || self.try_commit(ops).map_err(|e| failed(&self.path, &*e)))
    }

    fn try_commit(&self, ops: &[MetaOp]) -> Result<(), Box<dyn std::error::Error>> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        transaction.set_quick_repair(true);
        {
            let mut tables = [const { None }; MetaTable::ALL.len()];
            for op in ops {
                let (table, key, value) = match op {
                    MetaOp::Put { table, key, value } => (*table, key, Some(value)),
                    MetaOp::Delete { table, key } => (*table, key, None),
                };
                let slot = &mut tables[table as usize];
                let open = match slot {
                    Some(open) => open,
                    None => slot.insert(transaction.open_table(definition(table))?),
                };
                match value {
                    Some(value) => open.insert(&key[..], &value[..])?,
                    None => open.remove(&key[..])?,
                };
            }
        }
        transaction.commit()?;
        Ok(())
    }

    pub(super) fn scan(&self, table: MetaTable) -> Result<MetaEntries, MetaError> {
        guarded(&self.path, || self.try_scan(table).map_err(|e| failed(&self.path, &*e)))
    }

    fn try_scan(&self, table: MetaTable) -> Result<MetaEntries, Box<dyn std::error::Error>> {
        let transaction = self.database.begin_read()?;
        let open = match transaction.open_table(definition(table)) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            other => other?,
        };
        let mut found = Vec::new();
        for entry in open.iter()? {
            let (key, value) = entry?;
            if table != MetaTable::System || key.value() != FORMAT_KEY {
                found.push((key.value().to_vec(), value.value().to_vec()));
            }
        }
        Ok(found)
    }

    fn format(&self) -> Result<Option<u32>, MetaError> {
        let read = || -> Result<Option<Vec<u8>>, Box<dyn std::error::Error>> {
            let transaction = self.database.begin_read()?;
            match transaction.open_table(definition(MetaTable::System)) {
                Err(TableError::TableDoesNotExist(_)) => Ok(None),
                other => Ok(other?.get(FORMAT_KEY)?.map(|value| value.value().to_vec())),
            }
        };
        let Some(bytes) = read().map_err(|e| failed(&self.path, &*e))? else { return Ok(None) };
        let text = String::from_utf8_lossy(&bytes).into_owned();
        match text.parse::<u32>() {
            Ok(format) if (1..=META_FORMAT).contains(&format) => Ok(Some(format)),
            Ok(0) | Err(_) => Err(MetaError::BadFormat { path: self.path.clone(), got: text }),
            Ok(got) => Err(MetaError::Newer { path: self.path.clone(), expected: META_FORMAT, got }),
        }
    }
}

/// What a metadata file holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MetaCensus {
    /// Entries per table, in the order of [`MetaTable::ALL`].
    pub entries: [u64; MetaTable::ALL.len()],
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Keys of the `queues` table with their values, for cross-checks.
    pub queues: MetaEntries,
    /// The same of the `system` table.
    pub system: MetaEntries,
}

/// Verifies every checksum of the metadata file and counts its entries, without touching the file: what redb would
/// repair at opening is repaired in a copy in memory.
///
/// # Errors
/// When the file cannot be read, is damaged, or has a newer format.
pub fn inspect(path: &Path) -> Result<MetaCensus, MetaError> {
    guarded(&path.display().to_string(), || try_inspect(path))
}

fn try_inspect(path: &Path) -> Result<MetaCensus, MetaError> {
    let name = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|e| failed(&name, &e))?;
    let copy = InMemoryBackend::new();
    copy.set_len(bytes.len() as u64).and_then(|()| copy.write(0, &bytes)).map_err(|e| failed(&name, &e))?;
    let opened = Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(copy);
    let mut database = opened.map_err(|e| failed(&name, &e))?;
    match database.check_integrity() {
        Ok(true) => {}
        Ok(false) => {
            return Err(MetaError::Store { path: name, text: "checksums do not match".to_owned() });
        }
        Err(e) => return Err(failed(&name, &e)),
    }
    let store = RedbStore { database, path: name, room: Arc::default() };
    store.format()?;
    let mut census = MetaCensus { file_bytes: bytes.len() as u64, ..MetaCensus::default() };
    for table in MetaTable::ALL {
        let entries = store.scan(table)?;
        census.entries[table as usize] = entries.len() as u64;
        match table {
            MetaTable::Queues => census.queues = entries,
            MetaTable::System => census.system = entries,
            _ => {}
        }
    }
    Ok(census)
}

/// Whether there is a store: an empty file is none.
pub(crate) fn exists(path: &Path) -> bool {
    match fs::metadata(path) {
        Ok(found) => found.len() > 0,
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

fn rename_durably(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    let dir = to.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir)?.sync_all()
}

thread_local! {
    /// This thread is in [`guarded`]: a panic becomes an error, so it is not printed.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// redb checks checksums when it repairs a file; other damage makes it panic where it meets it. That is an error as any
/// other here, in one line.
fn guarded<T>(path: &str, call: impl FnOnce() -> Result<T, MetaError>) -> Result<T, MetaError> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !GUARDED.get() {
                print(panic);
            }
        }));
    });
    let before = GUARDED.replace(true);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call));
    GUARDED.set(before);
    result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or_default();
        // An assertion's text goes on with the values over several lines.
        let first_line = text.lines().next().unwrap_or_default();
        Err(failed(path, &format_args!("the file is damaged: {first_line}")))
    })
}

fn failed(path: &str, error: &(impl std::fmt::Display + ?Sized)) -> MetaError {
    MetaError::Store { path: path.to_owned(), text: error.to_string() }
}
