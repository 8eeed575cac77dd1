//! The one error of this crate.

use std::io;
use std::path::{Path, PathBuf};

/// Why storage could not do what was asked. Every variant about a file names it, and the byte offset where one
/// applies.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The operating system refused an operation.
    #[error("cannot {action} {}{}: {source}", path.display(), at(*offset))]
    Io {
        /// What was being done, as a verb: "write", "sync".
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Byte offset, where the operation has one.
        offset: Option<u64>,
        /// What the operating system said.
        source: io::Error,
    },
    /// Bytes on disk are not what they must be.
    #[error("{} is damaged{}: {what}: expected {expected}, got {got}", path.display(), at(Some(*offset)))]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Byte offset of the damage.
        offset: u64,
        /// Which part of the format.
        what: &'static str,
        /// What would have been valid.
        expected: String,
        /// What is there.
        got: String,
    },
    /// A file was written by a newer Posthouse.
    #[error("{} has format version {got}, expected at most {expected}: it was written by a newer Posthouse", path.display())]
    UnsupportedVersion {
        /// The file.
        path: PathBuf,
        /// The newest version this build reads.
        expected: u32,
        /// The version found.
        got: u32,
    },
    /// A file is as some build between two releases wrote it.
    #[error(
        "{} has format version {version} as it never was in a release: {problem}: it cannot be read",
        path.display()
    )]
    Unreleased {
        /// The file.
        path: PathBuf,
        /// The version that it says.
        version: u32,
        /// What is not as in that version.
        problem: &'static str,
    },
    /// A part of a data directory is gone that must be there, given what else is.
    #[error(
        "data directory {} is incomplete: {missing} is missing, found {found}: put back what belongs to it, or move \
         these away to give up all messages",
        dir.display()
    )]
    Incomplete {
        /// The data directory.
        dir: PathBuf,
        /// What is not there.
        missing: &'static str,
        /// What is.
        found: String,
    },
    /// The disk is so full that not even the smallest log file can be made.
    #[error(
        "no room for a log file in {}: free at least {bytes} bytes on its file system and start again, nothing is lost",
        dir.display()
    )]
    NoRoom {
        /// The log's directory.
        dir: PathBuf,
        /// What a start needs to be sure.
        bytes: u64,
    },
    /// A setting is out of range.
    #[error("setting {name}: expected {expected}, got {got}")]
    Setting {
        /// The setting's name.
        name: &'static str,
        /// The valid range.
        expected: String,
        /// The value given.
        got: u64,
    },
    /// Storage stopped for good after an earlier error; nothing more becomes durable.
    #[error("storage has stopped: {reason}")]
    Stopped {
        /// The error that stopped it.
        reason: String,
    },
}

impl StorageError {
    /// An [`StorageError::Io`] without an offset.
    pub fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), offset: None, source }
    }

    /// An [`StorageError::Io`] at a byte offset.
    pub fn io_at(action: &'static str, path: &Path, offset: u64, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), offset: Some(offset), source }
    }

    /// Whether it may pass by itself and nothing was lost: there was no room on the disk, or no file descriptor.
    pub fn may_pass(&self) -> bool {
        self.is_disk_full() || self.is_out_of_files()
    }

    /// Whether the process, or the machine, may open no more files for now.
    pub fn is_out_of_files(&self) -> bool {
        use rustix::io::Errno;
        let limits = [Errno::MFILE.raw_os_error(), Errno::NFILE.raw_os_error()];
        matches!(self, Self::Io { source, .. } if source.raw_os_error().is_some_and(|os| limits.contains(&os)))
    }

    /// Whether the disk, or the user's share of it, is full.
    pub fn is_disk_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Self::Io { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
    }
}

fn at(offset: Option<u64>) -> String {
    offset.map(|offset| format!(" at offset {offset}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_name_file_offset_expected_and_got() {
        let error = StorageError::io_at("write", Path::new("wal/1.log"), 512, io::Error::other("boom"));
        assert_eq!(error.to_string(), "cannot write wal/1.log at offset 512: boom");
        let error = StorageError::Corrupt {
            path: "a".into(),
            offset: 7,
            what: "record checksum",
            expected: "1".into(),
            got: "2".into(),
        };
        assert_eq!(error.to_string(), "a is damaged at offset 7: record checksum: expected 1, got 2");
        let full = StorageError::io("allocate", Path::new("x"), io::ErrorKind::StorageFull.into());
        assert!(full.is_disk_full() && !error.is_disk_full());
        let out_of_files = |os| StorageError::io("create", Path::new("x"), io::Error::from_raw_os_error(os));
        assert!(
            [23, 24].into_iter().all(|os| out_of_files(os).is_out_of_files() && out_of_files(os).may_pass())
        );
        assert!(
            full.may_pass() && !full.is_out_of_files() && !error.may_pass() && !out_of_files(5).may_pass()
        );
    }
}
