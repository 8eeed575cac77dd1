use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use posthouse_model::chunk::{Chunk, ChunkBuilder, Received};
use posthouse_model::ids::{Lsn, QueueId, Seq};
use posthouse_model::shares::Shares;

use super::*;
use crate::checkpoint::{BlockRef, QueueState};
use crate::engine::{ChunkSink, LiveChunk, QueueOwner, Storage, StorageOptions};
use crate::meta::{MetaOp, MetaTable};
use crate::segment::Location;
use crate::wal::{Payload, WalEvents, WalOptions};

struct NoEvents;
impl WalEvents for NoEvents {
    fn fatal(&self, error: &StorageError) {
        panic!("{error}");
    }
    fn shortage(&self, _: Option<crate::wal::Shortage>) {}
    fn checkpoint_wanted(&self, _: Lsn) {}
    fn drained(&self) {}
}

/// Queues 1 and so on, all of which have one chunk of ten messages.
struct Queues {
    count: u64,
    chunk: Arc<Chunk>,
    at: std::sync::Mutex<Option<Location>>,
}

impl QueueOwner for Queues {
    fn collect(&self, _: Lsn, sink: ChunkSink<'_>) -> Result<(), StorageError> {
        (1..=self.count).map(QueueId).try_for_each(|queue| {
            let chunk = Arc::clone(&self.chunk);
            sink(LiveChunk { queue, first_seq: 0, chunk, settled: None, summary: Vec::new() })
        })
    }

    fn relocated(&self, _: QueueId, _: Seq, location: Location) {
        *self.at.lock().unwrap() = Some(location);
    }

    fn spilled(&self, _: &mut dyn FnMut(QueueId, BlockRef)) {}

    fn states(&self, sink: &mut dyn FnMut(QueueState)) {
        let location = self.at.lock().unwrap().unwrap();
        let received = Received::UNKNOWN;
        for id in (1..=self.count).map(QueueId) {
            sink(QueueState {
                id,
                next_seq: 10,
                floor: 0,
                covered: 10,
                delivered_below: 0,
                blocks: vec![BlockRef {
                    location,
                    first_seq: 0,
                    span: 10,
                    settled: None,
                    received,
                    expires: false,
                    shares: Shares::default(),
                }],
                notes: Vec::new(),
                attempts: Vec::new(),
                delays: Vec::new(),
            });
        }
    }
}

/// A directory with one queue.
fn fill(dir: &Path, close: bool) -> Storage {
    fill_queues(dir, close, 1)
}

fn fill_queues(dir: &Path, close: bool, count: u64) -> Storage {
    let wal = WalOptions { file_bytes: 64 << 10, ..WalOptions::default() };
    let options = StorageOptions { wal, ..StorageOptions::default() };
    let fatal = Arc::new(|text: &str| panic!("{text}"));
    let (storage, _) = Storage::open(dir, options, Arc::new(NoEvents), fatal).unwrap();
    storage.meta.apply(vec![MetaOp::Put {
        table: MetaTable::Queues,
        key: b"q".to_vec(),
        value: b"{}".to_vec(),
    }]);
    let mut builder = ChunkBuilder::default();
    (0..10).for_each(|_| builder.push(1, 0, b"\0\0", b"h", 100, &[7; 100]));
    let chunk = Arc::new(builder.finish().for_queues(count as usize));
    let owner = Queues { count, chunk, at: std::sync::Mutex::default() };
    let targets: Vec<_> = (1..=count).map(|id| (QueueId(id), 0)).collect();
    let payload = Payload::Shared(Arc::clone(&owner.chunk));
    storage.messages.wal().stage().enqueue(&targets, 10, payload);
    if close {
        storage.close(&owner).unwrap();
    } else {
        storage.messages.wal().stage().settle(QueueId(1), &[(2, 4)]);
        storage.messages.wal().sync().unwrap();
    }
    storage
}

fn snapshot(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(snapshot(&path));
        } else {
            let content = fs::read(&path).unwrap();
            found.insert(path, content);
        }
    }
    found
}

#[test]
fn says_what_is_there_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    drop(fill(dir.path(), true));
    let before = snapshot(dir.path());
    let report = check(dir.path()).unwrap();
    assert!(before == snapshot(dir.path()), "something was changed");
    assert_eq!((&report.queues[..], report.messages(), report.log_records), (&[(QueueId(1), 10)][..], 10, 0));
    assert!(report.clean && report.damages.is_empty(), "{report:?}");
    assert_eq!((report.segment_files, report.dead_bytes()), (1, 24));
    assert_eq!(report.meta.unwrap().entries[MetaTable::Queues as usize], 1);
}

#[test]
fn what_queues_share_is_counted_and_found_damaged_once() {
    let dir = tempfile::tempdir().unwrap();
    drop(fill_queues(dir.path(), true, 3));
    let report = check(dir.path()).unwrap();
    assert_eq!((report.messages(), report.queues.len()), (30, 3));
    assert_eq!((report.live_bytes + 24, report.dead_bytes()), (report.segment_bytes, 24));
    assert!(report.damages.is_empty() && report.segment_bytes < 2 * 10 * 130, "{report:?}");
    let files = snapshot(dir.path());
    let (path, content) = files.iter().find(|(path, _)| path.extension() == Some("seg".as_ref())).unwrap();
    let mut wrong = content.clone();
    wrong[200] ^= 1;
    fs::write(path, &wrong).unwrap();
    let report = check(dir.path()).unwrap();
    assert_eq!(report.damages.len(), 1, "{report:?}");
    assert!(report.damages[0].contains("block checksum"), "{report:?}");
    fs::remove_file(path).unwrap();
    let report = check(dir.path()).unwrap();
    assert_eq!((report.messages(), report.live_bytes), (0, 0));
}

#[test]
fn reads_the_log_of_an_unclean_stop() {
    let dir = tempfile::tempdir().unwrap();
    drop(fill(dir.path(), false));
    let report = check(dir.path()).unwrap();
    assert_eq!((&report.queues[..], report.log_records, report.clean), (&[(QueueId(1), 7)][..], 2, false));
    assert_eq!(report.damages, Vec::<String>::new());
}

#[test]
fn refuses_a_running_broker() {
    let dir = tempfile::tempdir().unwrap();
    let running = fill(dir.path(), false);
    let error = check(dir.path()).unwrap_err().to_string();
    assert!(error.contains("is in use by process"), "{error}");
    drop(running);
    check(dir.path()).unwrap();
}

#[test]
fn names_every_damaged_file() {
    for (name, at) in [("segments", 200), ("checkpoint-", 30), ("meta.redb", 4096)] {
        let dir = tempfile::tempdir().unwrap();
        drop(fill(dir.path(), true));
        let files = snapshot(dir.path());
        let (path, content) = files
            .iter()
            .find(|(path, _)| path.strip_prefix(dir.path()).unwrap().to_string_lossy().starts_with(name))
            .unwrap();
        let mut wrong = content.clone();
        // In the metadata's file a single byte may well be free space.
        let end = if name == "meta.redb" { wrong.len() } else { at + 1 };
        wrong[at..end].iter_mut().for_each(|byte| *byte ^= 0xff);
        fs::write(path, &wrong).unwrap();
        let report = check(dir.path()).unwrap();
        assert_eq!(report.damages.len(), 1, "{name}: {report:?}");
        assert!(report.damages[0].contains(&path.display().to_string()), "{}", report.damages[0]);
        fs::remove_file(path).unwrap();
        if name == "segments" {
            let report = check(dir.path()).unwrap();
            assert!(report.damages[0].contains("expected a file, got none"), "{report:?}");
            assert_eq!(report.messages(), 0);
        }
    }
}
