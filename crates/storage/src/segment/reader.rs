//! Reading blocks, with all checks.

use std::path::Path;
use std::sync::Arc;

use posthouse_model::buffers;
use posthouse_model::chunk::Chunk;
use posthouse_model::ids::{QueueId, Seq};
use posthouse_model::record;

use super::format::{self, BLOCK_HEADER, BlockHeader, FILE_HEADER, Owner};
use super::{Location, MAX_BLOCK_BYTES, SegmentStore, lock};
use crate::corrupt::{bad_crc, corrupt, fill, io, read_exact};
use crate::disk::DiskFile;
use crate::error::StorageError;

impl SegmentStore {
    /// Reads a block and checks that it is the one wanted and whole.
    ///
    /// # Errors
    /// Damage is an error naming file, offset, expected and got. A block that was released and whose file has been
    /// deleted meanwhile gives an error for which [`is_gone`](super::is_gone) is true.
    pub fn read(&self, location: &Location, queue: QueueId, first_seq: Seq) -> Result<Chunk, StorageError> {
        self.read_with_summary(location, queue, first_seq).map(|(chunk, _)| chunk)
    }

    /// As [`Self::read`], with the block's summary.
    pub(crate) fn read_with_summary(
        &self,
        location: &Location,
        queue: QueueId,
        first_seq: Seq,
    ) -> Result<(Chunk, Vec<u8>), StorageError> {
        let head = self.read_head(location, queue, first_seq)?;
        let (path, offset) = (self.path(location), u64::from(location.offset));
        let length = location.len as usize - head.records_at;
        let mut bytes = buffers::take(length);
        bytes.resize(length, 0);
        fill(&*head.file, &path, offset + head.records_at as u64, &mut bytes)?;
        Ok((check_records(&head.header, bytes, &path, offset)?, head.summary))
    }

    /// Reads a block's summary and nothing else of it; empty when it has none.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_summary(
        &self,
        location: &Location,
        queue: QueueId,
        first_seq: Seq,
    ) -> Result<Vec<u8>, StorageError> {
        Ok(self.read_head(location, queue, first_seq)?.summary)
    }

    /// Reads when a block's first message was received, in milliseconds since the Unix epoch, and nothing else. Its
    /// records' checksum is not looked at.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_first_ms(
        &self,
        location: &Location,
        queue: QueueId,
        first_seq: Seq,
    ) -> Result<u64, StorageError> {
        let head = self.read_head(location, queue, first_seq)?;
        let (path, offset) = (self.path(location), u64::from(location.offset));
        let mut fixed = [0; record::FIXED_BYTES];
        let end = head.records_at + fixed.len();
        if end > location.len as usize {
            return Err(corrupt(&path, offset, "block length", end, location.len));
        }
        fill(&*head.file, &path, offset + head.records_at as u64, &mut fixed)?;
        Ok(record::received_ms(&fixed))
    }

    /// Reads what precedes a block's records and checks that it is the block wanted.
    fn read_head(
        &self,
        location: &Location,
        queue: QueueId,
        first_seq: Seq,
    ) -> Result<BlockHead, StorageError> {
        /// Enough for the summaries that there are.
        const GUESS: usize = BLOCK_HEADER + 300;
        let (path, offset) = (self.path(location), u64::from(location.offset));
        if location.len < BLOCK_HEADER as u32 || location.len > MAX_BLOCK_BYTES {
            let expected = format!("{BLOCK_HEADER} to {MAX_BLOCK_BYTES} bytes");
            return Err(corrupt(&path, offset, "block length", expected, location.len));
        }
        let file = self.file_of(location, &path)?;
        let mut bytes = read_exact(&*file, &path, offset, GUESS.min(location.len as usize))?;
        let header = BlockHeader::decode(&bytes, &path, offset)?;
        check_owner(&header, location, queue, first_seq, &path)?;
        let records_at = BLOCK_HEADER + header.summary_bytes();
        if records_at > bytes.len() {
            bytes = read_exact(&*file, &path, offset, records_at.min(location.len as usize))?;
        }
        let Some(between) = bytes.get(BLOCK_HEADER..records_at) else {
            return Err(corrupt(&path, offset, "block length", records_at, location.len));
        };
        let summary = format::check_summary(between, &path, offset)?.to_vec();
        Ok(BlockHead { file, header, summary, records_at })
    }

    /// The file that a block is in.
    fn file_of(&self, location: &Location, path: &Path) -> Result<Arc<dyn DiskFile>, StorageError> {
        if let Some(file) = lock(&self.handles).get(location.file) {
            return Ok(file);
        }
        let file = self.disk.open(path, crate::disk::Access::Read).map_err(io("open", path))?;
        let header = read_exact(&*file, path, 0, FILE_HEADER)?;
        format::check_file_header(&header, path, location.file, location.class)?;
        lock(&self.handles).put(location.file, Arc::clone(&file));
        Ok(file)
    }
}

/// What precedes a block's records.
struct BlockHead {
    file: Arc<dyn DiskFile>,
    header: BlockHeader,
    summary: Vec<u8>,
    /// Where the records begin, from the block's beginning.
    records_at: usize,
}

/// Checks that a block is the one wanted.
fn check_owner(
    header: &BlockHeader,
    location: &Location,
    queue: QueueId,
    first_seq: Seq,
    path: &Path,
) -> Result<(), StorageError> {
    let offset = u64::from(location.offset);
    let expected = Owner::of(location, queue, first_seq);
    if header.owner != expected {
        return Err(corrupt(path, offset, "block owner", expected, header.owner));
    }
    if header.count != location.records {
        return Err(corrupt(path, offset, "number of records", location.records, header.count));
    }
    Ok(())
}

/// Checks a block's record bytes against its header.
fn check_records(
    header: &BlockHeader,
    bytes: Vec<u8>,
    path: &Path,
    offset: u64,
) -> Result<Chunk, StorageError> {
    if header.length as usize != bytes.len() {
        return Err(corrupt(path, offset, "block length", bytes.len(), header.length));
    }
    let crc = crc32c::crc32c(&bytes);
    if crc != header.crc {
        return Err(bad_crc(path, offset, "block checksum", header.crc, crc));
    }
    match Chunk::parse(bytes) {
        Some(chunk) if chunk.count() == header.count => Ok(chunk),
        parsed => {
            let got = parsed.map_or("other bytes".to_owned(), |chunk| chunk.count().to_string());
            Err(corrupt(path, offset, "number of records", header.count, got))
        }
    }
}
