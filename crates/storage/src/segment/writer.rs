//! Appending blocks to the current file of a class.

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::format::{self, BLOCK_HEADER, BlockHeader, FILE_HEADER, Owner};
use super::sharing::Shared;
use super::{BlockIn, Class, Location, MAX_BLOCK_BYTES, SegmentId, SegmentStore, lock};
use crate::corrupt::io;
use crate::disk::DiskFile;
use crate::error::StorageError;

/// Blocks per write call: each gives two slices, and the kernel takes 1,024.
const BLOCKS_PER_WRITE: usize = 256;

pub(super) type OpenFile = (SegmentId, Arc<dyn DiskFile>);

struct Current {
    id: SegmentId,
    file: Arc<dyn DiskFile>,
    end: u32,
}

pub(super) struct Appender {
    class: Class,
    pub(super) shared: Shared,
    current: Option<Current>,
    dirty: Vec<OpenFile>,
    new_entries: bool,
}

impl Appender {
    pub(super) fn new(class: Class) -> Self {
        Self { class, shared: Shared::default(), current: None, dirty: Vec::new(), new_entries: false }
    }

    /// Durable files written, and whether any was created, since the last call.
    pub(super) fn take_dirty(&mut self) -> (Vec<OpenFile>, bool) {
        (std::mem::take(&mut self.dirty), std::mem::take(&mut self.new_entries))
    }

    /// Durable files written since they were last taken to be synced.
    pub(super) fn unsynced_files(&self) -> usize {
        self.dirty.len()
    }

    /// What [`Self::take_dirty`] said of created files holds on.
    pub(super) fn entries_not_synced(&mut self) {
        self.new_entries = true;
    }

    /// Appends the blocks; `placed` has the live ones also when a later one failed.
    pub(super) fn append(
        &mut self,
        store: &SegmentStore,
        mut blocks: &[&BlockIn],
        placed: &mut Vec<Location>,
    ) -> Result<(), StorageError> {
        for block in blocks {
            check_size(block)?;
        }
        while let Some(first) = blocks.first() {
            let needed = block_bytes(first);
            if self.current.as_ref().is_some_and(|c| c.end.saturating_add(needed) > store.file_bytes) {
                self.close(store);
            }
            let mut current = match self.current.take() {
                Some(current) => current,
                None => self.create(store)?,
            };
            let (now, later) = blocks.split_at(count_fitting(current.end, blocks, store.file_bytes));
            let written = write_blocks(store, self.class, &mut current, now);
            if self.class == Class::Durable && self.dirty.last().is_none_or(|(id, _)| *id != current.id) {
                self.dirty.push((current.id, Arc::clone(&current.file)));
            }
            self.current = Some(current);
            let written = written?;
            let mut files = lock(&store.files);
            for location in written {
                files.add(&location);
                placed.push(location);
            }
            blocks = later;
        }
        Ok(())
    }

    fn create(&mut self, store: &SegmentStore) -> Result<Current, StorageError> {
        let id = SegmentId(store.next_id.fetch_add(1, Ordering::Relaxed));
        let path = store.dirs[self.class as usize].join(super::file_name(id));
        let file = store.disk.create(&path).map_err(io("create", &path))?;
        let header = format::file_header(id, self.class);
        if let Err(error) = file.write_all_at(&header, 0) {
            // Nothing names the file, so what cannot be removed is an orphan for the next start.
            let _ = store.disk.remove(&path);
            return Err(io("write", &path)(error));
        }
        self.new_entries = true;
        lock(&store.files).created(id, self.class, FILE_HEADER as u64);
        lock(&store.handles).put(id, Arc::clone(&file));
        Ok(Current { id, file, end: FILE_HEADER as u32 })
    }

    fn close(&mut self, store: &SegmentStore) {
        if let Some(current) = self.current.take() {
            let dead = lock(&store.files).close(current.id);
            if dead && self.class == Class::Spill {
                store.delete_spill(current.id);
            }
        }
    }
}

fn check_size(block: &BlockIn) -> Result<(), StorageError> {
    let got = block.chunk.bytes().len() as u64;
    if got <= u64::from(MAX_BLOCK_BYTES) - (BLOCK_HEADER + format::summary_bytes(block.summary.len())) as u64
    {
        return Ok(());
    }
    let expected = format!("at most {MAX_BLOCK_BYTES} bytes a block");
    Err(StorageError::Setting { name: "largest message", expected, got })
}

fn block_bytes(block: &BlockIn) -> u32 {
    let summary_bytes = format::summary_bytes(block.summary.len());
    u32::try_from(block.chunk.bytes().len() + BLOCK_HEADER + summary_bytes).unwrap_or(u32::MAX)
}

/// How many of the blocks go into the file in one write: at least one, even when it is larger than a file.
fn count_fitting(mut end: u32, blocks: &[&BlockIn], limit: u32) -> usize {
    let mut count = 0;
    for block in blocks.iter().take(BLOCKS_PER_WRITE) {
        end = end.saturating_add(block_bytes(block));
        if count > 0 && end > limit {
            break;
        }
        count += 1;
    }
    count
}

fn write_blocks(
    store: &SegmentStore,
    class: Class,
    current: &mut Current,
    blocks: &[&BlockIn],
) -> Result<Vec<Location>, StorageError> {
    let start = current.end;
    let mut offset = start;
    let locations = blocks.iter().map(|block| {
        let (len, records, shared) = (block_bytes(block), block.chunk.count(), block.is_shared());
        let location = Location { file: current.id, class, shared, offset, len, records };
        offset += len;
        location
    });
    let locations: Vec<_> = locations.collect();
    let headers: Vec<_> =
        blocks.iter().zip(&locations).map(|(block, location)| header(block, location)).collect();
    let mut slices = Vec::with_capacity(blocks.len() * 2);
    for (header, block) in headers.iter().zip(blocks) {
        slices.push(IoSlice::new(header));
        slices.push(IoSlice::new(block.chunk.bytes()));
    }
    // After an error the file's end stays where it was: the next write goes over what this one left.
    current.file.write_at(&mut slices, start.into()).map_err(|error| {
        let path = store.dirs[class as usize].join(super::file_name(current.id));
        StorageError::io_at("write", &path, start.into(), error)
    })?;
    current.end = offset;
    Ok(locations)
}

/// The block header, with the summary behind it where there is one.
fn header(block: &BlockIn, location: &Location) -> Vec<u8> {
    let bytes = block.chunk.bytes();
    let header = BlockHeader {
        owner: Owner::of(location, block.queue, block.first_seq),
        count: block.chunk.count(),
        length: bytes.len() as u32,
        crc: crc32c::crc32c(bytes),
        summary: block.summary.len() as u16,
    };
    let mut head = header.encode().to_vec();
    if !block.summary.is_empty() {
        head.extend_from_slice(&block.summary);
        head.extend_from_slice(&crc32c::crc32c(&block.summary).to_le_bytes());
    }
    head
}
