//! `posthouse check DIR`: verifies a stopped broker's data directory and says what is in it. Changes nothing.
//!
//! Everything is read: the metadata's checksums (in a copy in memory, since opening it may repair it), the newest
//! checkpoint, every block that it names, and the log from the checkpoint's position on. Blocks in segment files that
//! nothing names are dead space, not damage.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use posthouse_model::ids::QueueId;

use crate::checkpoint;
use crate::datadir::DataDir;
use crate::disk::Disk;
use crate::disk::real::RealDisk;
use crate::engine::{OpenError, Presence, Replay};
use crate::error::StorageError;
use crate::meta::{self, MetaCensus};
use crate::segment::{self, Class, SEGMENT_BYTES, SegmentStore};
use crate::wal;

/// What is in a data directory.
#[derive(Debug, Default)]
pub struct CheckReport {
    /// The metadata; `None` when it is damaged or was never made.
    pub meta: Option<MetaCensus>,
    /// Queues that have messages or a state, in ascending order, and how many live durable messages each has.
    pub queues: Vec<(QueueId, u64)>,
    /// Bytes of blocks that have a live message.
    pub live_bytes: u64,
    /// Bytes of all segment files.
    pub segment_bytes: u64,
    /// Segment files.
    pub segment_files: u64,
    /// Records in the log from the checkpoint on.
    pub log_records: u64,
    /// Bytes of those records.
    pub log_bytes: u64,
    /// The last stop was orderly.
    pub clean: bool,
    /// Every damaged place, each naming file, offset, expected and got. Empty when all is well.
    pub damages: Vec<String>,
}

impl CheckReport {
    /// Live durable messages.
    pub fn messages(&self) -> u64 {
        self.queues.iter().map(|(_, messages)| messages).sum()
    }

    /// Bytes of segment files that are in no such block.
    pub fn dead_bytes(&self) -> u64 {
        self.segment_bytes.saturating_sub(self.live_bytes)
    }
}

/// Checks the data directory `dir`.
///
/// # Errors
/// When it is in use, is not a data directory, is of a newer format, or cannot be read. Damage is no error but in the
/// report.
pub fn check(dir: &Path) -> Result<CheckReport, OpenError> {
    let data = DataDir::open_read_only(dir)?;
    let mut report = CheckReport::default();
    if meta::exists(&data.meta_file()) {
        match meta::inspect(&data.meta_file()) {
            Ok(census) => report.meta = Some(census),
            Err(damage) => report.damages.push(damage.to_string()),
        }
    } else if let Err(incomplete) = Presence::of(&RealDisk, dir)?.allows_no_definitions(dir) {
        report.damages.push(incomplete.to_string());
    }
    check_messages(Arc::new(RealDisk), dir, &mut report)?;
    Ok(report)
}

/// Checks the log, the segments and the checkpoints in `dir`.
fn check_messages(disk: Arc<dyn Disk>, dir: &Path, report: &mut CheckReport) -> Result<(), StorageError> {
    let loaded = match checkpoint::load(&*disk, dir) {
        Ok(loaded) => loaded,
        Err(damage @ StorageError::Corrupt { .. }) => {
            report.damages.push(damage.to_string());
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    report.damages.extend(loaded.damages.iter().map(ToString::to_string));
    let (start, was_clean, states) =
        loaded.checkpoint.map_or((0, false, Vec::new()), |c| (c.lsn, c.clean, c.queues));
    let names_segments = states.iter().any(|state| !state.blocks.is_empty());
    if let Err(incomplete) = Presence::of(&*disk, dir)?.check(dir, names_segments) {
        report.damages.push(incomplete.to_string());
    }
    // Opening only lists the files; nothing is written or deleted below.
    let segments = SegmentStore::open(Arc::clone(&disk), dir, 0, SEGMENT_BYTES)?;
    let mut shared = HashSet::new();
    for state in &states {
        for block in &state.blocks {
            // A shared block says nothing of who refers to it: every reference to it that is the same is as good.
            if block.location.shared && !shared.insert(block.location) {
                continue;
            }
            match segments.read(&block.location, state.id, block.first_seq) {
                Err(error @ StorageError::Corrupt { .. }) => report.damages.push(error.to_string()),
                // Reported below, with how much is lost.
                Err(error) if segment::is_gone(&error) => {}
                read => drop(read?),
            }
        }
    }
    let mut replay = Replay::counting(&segments, states);
    let log = wal::verify(&*disk, &dir.join("wal"), start, &mut |_, record| replay.apply(record))?;
    report.log_records = log.records;
    report.log_bytes = log.bytes;
    report.clean = was_clean && log.records == 0;
    let queues = replay.finish(report.clean);
    let mut by_queue = BTreeMap::new();
    for level in &queues {
        *by_queue.entry(level.id.without_level()).or_insert(0) += level.live();
    }
    report.queues = by_queue.into_iter().collect();
    report.damages.extend(log.damage.iter().map(|damage| damage.error().to_string()));
    let missing: Vec<_> = replay.damages.iter().map(ToString::to_string).collect();
    report.damages.extend(missing);
    report.damages.sort();
    report.damages.dedup();
    let usage = segments.usage(Class::Durable);
    report.segment_files = usage.files;
    report.segment_bytes = usage.bytes;
    report.live_bytes = usage.live_bytes;
    Ok(())
}

#[cfg(test)]
mod tests;
