//! The end of the log that recovery read and nothing proves to be on disk.
//!
//! A process that is killed leaves what it wrote in the kernel's memory. The next one reads it back and acts on it:
//! hands messages out, takes their settlements, goes on at the positions after them. A loss of power would then take
//! records away that later ones build upon. So before anybody hears of them they are made durable.
//!
//! They are written again and not only synced: when the process before stopped at a failed sync, the kernel may count
//! its pages as clean and would have nothing to write. The bytes are the same, so a write cut short changes nothing.

use posthouse_model::ids::Lsn;

use super::format::BatchHeader;
use super::scan::{Place, Source};
use crate::error::StorageError;

/// Bytes copied at once.
const RUN: u64 = 1 << 20;

/// Batches that may not be on disk, as recovery finds them, in order.
#[derive(Default)]
pub(super) struct Unproven {
    batches: Vec<Batch>,
}

struct Batch {
    place: Place,
    bytes: u64,
    end: Lsn,
}

impl Unproven {
    /// Notes a batch. It is proof of those below the position that was durable when it was written, so what stays is
    /// what was written between two syncs.
    pub(super) fn note(&mut self, place: Place, header: &BatchHeader) {
        self.batches.retain(|batch| batch.end > header.durable_before);
        if header.length > 0 {
            self.batches.push(Batch { place, bytes: header.file_bytes(), end: header.end() });
        }
    }

    /// Writes them again and syncs their files.
    pub(super) fn make_durable(&self, sources: &[Source]) -> Result<(), StorageError> {
        for batch in &self.batches {
            rewrite(&sources[batch.place.source], batch)?;
        }
        let mut files: Vec<usize> = self.batches.iter().map(|batch| batch.place.source).collect();
        files.dedup();
        files.into_iter().try_for_each(|source| sources[source].log_file.sync())
    }
}

fn rewrite(source: &Source, batch: &Batch) -> Result<(), StorageError> {
    let file = &source.log_file;
    let mut buffer = vec![0; batch.bytes.min(RUN) as usize];
    let mut at = batch.place.offset;
    let end = at + batch.bytes;
    while at < end {
        let run = &mut buffer[..(end - at).min(RUN) as usize];
        file.file
            .read_exact_at(run, at)
            .map_err(|error| StorageError::io_at("read", &file.path, at, error))?;
        file.file
            .write_all_at(run, at)
            .map_err(|error| StorageError::io_at("write", &file.path, at, error))?;
        at += run.len() as u64;
    }
    Ok(())
}
