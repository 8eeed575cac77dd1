//! The data directory: its layout, its format version, and the lock that keeps a second process out.
//!
//! ```text
//! posthouse-data/
//!   LOCK            held with flock while a process uses the directory; holds that process's number
//!   FORMAT          "posthouse data directory, format 8\n"
//!   meta.redb       the metadata store
//!   checkpoint-<n>  states of all queues at a log position; replay starts there
//!   checkpoint.new  space reserved for the next one
//!   wal/            the write-ahead log: preallocated files, used in turn
//!   segments/       backlog that left the log: synced blocks of records
//!   spill/          backlog of transient messages: never synced, wiped at every start
//!   wal/quarantine/ damaged parts of the log, set aside for inspection
//! ```
//!
//! Opening never removes anything but what lies in `spill/`. Format 2: segments may have blocks of version 2. Format 3: the
//! log may have moves. Format 4: the log may have notes, and checkpoints are of version 2. Format 5: the log may have
//! attempts, and checkpoints are of version 4. Format 6: segments may have blocks of version 3, and checkpoints are of
//! version 5. Format 7: records say who published them, the log may have groups, and checkpoints are of version 6. Format 8:
//! the log may have delays, and checkpoints are of version 7. Opening a directory of an older format makes it one of
//! format 8.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::disk::Disk;
use crate::disk::real::RealDisk;

/// The format this build writes and the newest it reads.
pub const DATA_FORMAT: u32 = 8;

const FORMAT_PREFIX: &str = "posthouse data directory, format ";
const SUB_DIRECTORIES: [&str; 3] = ["wal", "segments", "spill"];
/// What an otherwise empty directory may hold before it becomes a data directory.
const HARMLESS: [&str; 3] = ["LOCK", "FORMAT.new", "lost+found"];

/// A locked data directory. Dropping it releases the lock.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Held for its lock.
    _lock: File,
}

/// Why a directory cannot be used. Each is one line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process holds the lock.
    #[error("data directory {path} is in use by process {pid}")]
    InUse {
        /// The directory.
        path: String,
        /// The other process's number, as it wrote it down.
        pid: String,
    },
    /// It was written by a newer version.
    #[error("data directory {path} has format {got}, this version reads formats up to {expected}")]
    Newer {
        /// The directory.
        path: String,
        /// The newest format this build reads.
        expected: u32,
        /// The directory's format.
        got: u32,
    },
    /// The FORMAT file does not say what it should.
    #[error("data directory {path}: FORMAT is damaged: expected \"{FORMAT_PREFIX}N\", got {got:?}")]
    BadFormat {
        /// The directory.
        path: String,
        /// The file's beginning.
        got: String,
    },
    /// It holds something, but not a data directory.
    #[error("{path} is not a data directory: it has no FORMAT file, but holds {found:?}")]
    Foreign {
        /// The directory.
        path: String,
        /// One of the things in it.
        found: String,
    },
    /// Nothing of ours is there (only when it must not be created).
    #[error("{path} is not a data directory: it has no FORMAT file")]
    Missing {
        /// The directory.
        path: String,
    },
    /// The operating system refused.
    #[error("data directory {path} cannot be used: {action}: {source}")]
    Unusable {
        /// The directory.
        path: String,
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

impl DataDir {
    /// Locks the directory, creating it and what belongs in it, and wipes `spill/`.
    ///
    /// # Errors
    /// When another process uses it, its format is newer, it holds something else, or it is not writable.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let unusable = |action| move |source| DataDirError::Unusable { path: shown(path), action, source };
        make(path).map_err(unusable("creating it"))?;
        let mut lock = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join("LOCK"))
            .map_err(unusable("opening LOCK"))?;
        take_lock(path, &mut lock)?;
        match note_process(&mut lock) {
            // It is only for the message that a second process gets.
            Err(problem) if problem.kind() == io::ErrorKind::StorageFull => {}
            noted => noted.map_err(unusable("writing LOCK"))?,
        }
        match read_format(path)? {
            Some(DATA_FORMAT) => {}
            // From now on there may be what the older version cannot read.
            Some(_) => write_format(path).map_err(unusable("writing FORMAT"))?,
            None => {
                refuse_foreign(path)?;
                write_format(path).map_err(unusable("writing FORMAT"))?;
            }
        }
        for name in SUB_DIRECTORIES {
            fs::create_dir_all(path.join(name)).map_err(unusable("creating a subdirectory"))?;
        }
        wipe(&path.join("spill")).map_err(unusable("wiping spill"))?;
        sync_directory(path).map_err(unusable("syncing it"))?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Locks an existing data directory without changing anything in it.
    ///
    /// # Errors
    /// As [`Self::open`], and when it is not a data directory.
    pub fn open_read_only(path: &Path) -> Result<Self, DataDirError> {
        let unusable = |action| move |source| DataDirError::Unusable { path: shown(path), action, source };
        fs::read_dir(path).map_err(unusable("listing it"))?;
        if !path.join("FORMAT").exists() {
            return Err(DataDirError::Missing { path: shown(path) });
        }
        let mut lock = File::open(path.join("LOCK")).map_err(unusable("opening LOCK"))?;
        take_lock(path, &mut lock)?;
        read_format(path)?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The metadata store's file.
    pub fn meta_file(&self) -> PathBuf {
        self.path.join("meta.redb")
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// Makes the directory, if it is not there, for its owner only: there are messages and password hashes in it.
fn make(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    RealDisk.create_dir_all(parent)?;
    match fs::DirBuilder::new().mode(0o700).create(path) {
        // Somebody else may have made it meanwhile.
        Err(error) if !path.is_dir() => Err(error),
        _ => sync_directory(parent),
    }
}

fn take_lock(path: &Path, lock: &mut File) -> Result<(), DataDirError> {
    match lock.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // The holder may be writing its number just now; the error is as true without it.
            let _ = lock.take(20).read_to_string(&mut pid);
            let pid = if pid.trim().is_empty() { "(unknown)" } else { pid.trim() };
            Err(DataDirError::InUse { path: shown(path), pid: pid.to_owned() })
        }
        Err(TryLockError::Error(source)) => {
            Err(DataDirError::Unusable { path: shown(path), action: "locking LOCK", source })
        }
    }
}

fn note_process(lock: &mut File) -> io::Result<()> {
    // Over what is there, so that on a full disk it needs no new block.
    let line = format!("{}\n", std::process::id());
    lock.rewind()?;
    lock.write_all(line.as_bytes())?;
    lock.set_len(line.len() as u64)
}

fn read_format(path: &Path) -> Result<Option<u32>, DataDirError> {
    let mut text = Vec::new();
    let read = File::open(path.join("FORMAT")).and_then(|file| file.take(200).read_to_end(&mut text));
    match read {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(DataDirError::Unusable { path: shown(path), action: "reading FORMAT", source });
        }
    }
    let text = String::from_utf8_lossy(&text);
    match text.trim_end().strip_prefix(FORMAT_PREFIX).and_then(|n| n.parse::<u32>().ok()) {
        Some(format) if (1..=DATA_FORMAT).contains(&format) => Ok(Some(format)),
        Some(got) if got > DATA_FORMAT => {
            Err(DataDirError::Newer { path: shown(path), expected: DATA_FORMAT, got })
        }
        _ => Err(DataDirError::BadFormat { path: shown(path), got: text.chars().take(80).collect() }),
    }
}

/// A directory with other people's files in it is most likely a slip of the pen.
fn refuse_foreign(path: &Path) -> Result<(), DataDirError> {
    let unusable = |source| DataDirError::Unusable { path: shown(path), action: "listing it", source };
    for entry in fs::read_dir(path).map_err(unusable)? {
        let name = entry.map_err(unusable)?.file_name();
        if !HARMLESS.iter().any(|known| name == *known) {
            return Err(DataDirError::Foreign {
                path: shown(path),
                found: name.to_string_lossy().into_owned(),
            });
        }
    }
    Ok(())
}

fn write_format(path: &Path) -> io::Result<()> {
    let temporary = path.join("FORMAT.new");
    let mut file = File::create(&temporary)?;
    writeln!(file, "{FORMAT_PREFIX}{DATA_FORMAT}")?;
    file.sync_all()?;
    fs::rename(&temporary, path.join("FORMAT"))?;
    sync_directory(path)
}

fn wipe(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        fs::remove_file(entry?.path())?;
    }
    Ok(())
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn error(path: &Path) -> String {
        DataDir::open(path).unwrap_err().to_string()
    }

    #[test]
    fn creates_the_layout_and_wipes_only_the_spill() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let data = DataDir::open(&path).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        assert_eq!(fs::read_to_string(path.join("FORMAT")).unwrap(), "posthouse data directory, format 8\n");
        for name in SUB_DIRECTORIES {
            fs::write(path.join(name).join("file"), b"x").unwrap();
        }
        drop(data);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
        DataDir::open(&path).unwrap();
        assert_eq!(mode(&path), 0o750, "what is there stays as it is");
        let left: Vec<_> = SUB_DIRECTORIES.iter().filter(|n| path.join(n).join("file").exists()).collect();
        assert_eq!(left, [&"wal", &"segments"]);
    }

    #[test]
    fn an_older_format_is_read_and_becomes_the_present_one() {
        let dir = tempfile::tempdir().unwrap();
        let format = dir.path().join("FORMAT");
        drop(DataDir::open(dir.path()).unwrap());
        fs::write(&format, "posthouse data directory, format 1\n").unwrap();
        DataDir::open_read_only(dir.path()).unwrap();
        assert_eq!(fs::read_to_string(&format).unwrap(), "posthouse data directory, format 1\n");
        DataDir::open(dir.path()).unwrap();
        assert_eq!(fs::read_to_string(&format).unwrap(), "posthouse data directory, format 8\n");
    }

    #[test]
    fn a_second_process_gets_one_clear_line() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataDir::open(dir.path()).unwrap();
        let expected =
            format!("data directory {} is in use by process {}", dir.path().display(), std::process::id());
        assert_eq!(error(dir.path()), expected);
        assert_eq!(DataDir::open_read_only(dir.path()).unwrap_err().to_string(), expected);
        drop(held);
        DataDir::open_read_only(dir.path()).unwrap();
        DataDir::open(dir.path()).unwrap();
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        let dir = tempfile::tempdir().unwrap();
        let shown = dir.path().display();
        fs::write(dir.path().join("letter.txt"), b"dear").unwrap();
        assert_eq!(
            error(dir.path()),
            format!("{shown} is not a data directory: it has no FORMAT file, but holds \"letter.txt\"")
        );
        for (text, expected) in [
            ("posthouse data directory, format 9\n", "has format 9, this version reads formats up to 8"),
            (
                "garbage",
                "FORMAT is damaged: expected \"posthouse data directory, format N\", got \"garbage\"",
            ),
            ("", "got \"\""),
        ] {
            fs::write(dir.path().join("FORMAT"), text).unwrap();
            let error = error(dir.path());
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_read_only_look_creates_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let error = DataDir::open_read_only(dir.path()).unwrap_err().to_string();
        assert!(error.ends_with("is not a data directory: it has no FORMAT file"), "{error}");
        let error = DataDir::open_read_only(&dir.path().join("none")).unwrap_err().to_string();
        assert!(error.contains("cannot be used: listing it"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_path_that_is_a_file_is_one_clear_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, b"x").unwrap();
        let error = error(&file);
        assert!(error.contains("cannot be used: creating it"), "{error}");
    }
}
