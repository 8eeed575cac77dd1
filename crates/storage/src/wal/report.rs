//! What reading the log back found: its end, what was torn there, what is damaged.

use std::ops::Range;
use std::path::PathBuf;

use posthouse_model::ids::Lsn;

use crate::error::StorageError;

/// What reading the log back found.
#[derive(Clone, Debug, Default)]
pub struct ReplayReport {
    /// The position replay was asked to start from.
    pub start: Lsn,
    /// Where the log goes on.
    pub end: Lsn,
    /// Records handed out.
    pub records: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Log files found.
    pub files: usize,
    /// The log had been closed in good order.
    pub closed: bool,
    /// What a crash left half written at the end, and was cut.
    pub torn: Option<TornTail>,
    /// What should be readable and is not.
    pub damage: Vec<Damage>,
}

/// The place from which the end of the log was cut. Nothing durable was there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TornTail {
    /// The file.
    pub path: PathBuf,
    /// Byte offset of the first batch that is cut.
    pub offset: u64,
    /// Its position.
    pub lsn: Lsn,
}

/// A range of the log that cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// The file; for [`DamageKind::Missing`] the last one before the gap.
    pub path: PathBuf,
    /// Byte offset of the damage.
    pub offset: u64,
    /// Bytes concerned.
    pub bytes: u64,
    /// Positions lost.
    pub lsns: Range<Lsn>,
    /// Which part is damaged.
    pub kind: DamageKind,
    /// Where the bytes were copied to, when that was asked for and succeeded.
    pub copy: Option<PathBuf>,
}

/// Which part of the log is damaged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DamageKind {
    /// Both copies of a file's header.
    FileHeader,
    /// A batch's header.
    BatchHeader,
    /// A record.
    Record,
    /// A record is intact and of a kind this version does not know.
    UnknownRecord,
    /// The positions are in no file.
    Missing,
}

impl DamageKind {
    /// What is damaged, in words.
    pub fn name(self) -> &'static str {
        match self {
            Self::FileHeader => "log file header",
            Self::BatchHeader => "log batch header",
            Self::Record => "log record",
            Self::UnknownRecord => "log record of unknown kind",
            Self::Missing => "missing log records",
        }
    }
}

impl Damage {
    /// What an operator is told of it.
    pub(crate) fn error(&self) -> StorageError {
        StorageError::Corrupt {
            path: self.path.clone(),
            offset: self.offset,
            what: self.kind.name(),
            expected: format!("log positions {} to {}", self.lsns.start, self.lsns.end),
            got: format!("{} unreadable bytes", self.bytes),
        }
    }
}
