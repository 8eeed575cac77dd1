//! The log, the segments, the metadata store: the only crate that opens files.

pub mod datadir;
pub mod disk;
pub mod meta;
