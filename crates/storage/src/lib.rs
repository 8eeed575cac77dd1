//! The log, the segments, the metadata store: the only crate that opens files.

pub mod check;
pub mod checkpoint;
mod corrupt;
pub mod datadir;
pub mod disk;
pub mod engine;
pub mod error;
mod fields;
pub mod meta;
pub mod segment;
mod varint;
pub mod wal;

pub use error::StorageError;
