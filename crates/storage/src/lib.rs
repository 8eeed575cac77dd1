//! The log, the segments, the metadata store: the only crate that opens files.

pub mod disk;
pub mod error;
pub mod wal;

pub use error::StorageError;
