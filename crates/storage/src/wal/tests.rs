//! The log as a whole, on the simulated disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use posthouse_model::attempts::{AttemptRange, Attempts};
use posthouse_model::chunk::Chunk;
use posthouse_model::delays::DelayRange;
use posthouse_model::ids::{Lsn, QueueId, Seq};
use posthouse_model::record;
use proptest::prelude::*;

use super::*;
use crate::disk::sim::{Fault, Op, SimDisk};
use crate::disk::{Access, Disk};

mod crash;
mod damage;
mod faults;
mod running;

const DIR: &str = "/data/wal";

/// What the log told its owner.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    Fatal(String),
    Shortage(Option<Shortage>),
    Checkpoint(Lsn),
    Drained,
}

struct Recorder(Mutex<Sender<Event>>);

impl Recorder {
    fn new() -> (Arc<Self>, Receiver<Event>) {
        let (sender, receiver) = mpsc::channel();
        (Arc::new(Self(Mutex::new(sender))), receiver)
    }

    fn send(&self, event: Event) {
        let _ = self.0.lock().unwrap().send(event);
    }
}

impl WalEvents for Recorder {
    fn fatal(&self, error: &StorageError) {
        self.send(Event::Fatal(error.to_string()));
    }

    fn shortage(&self, of: Option<Shortage>) {
        self.send(Event::Shortage(of));
    }

    fn checkpoint_wanted(&self, up_to: Lsn) {
        self.send(Event::Checkpoint(up_to));
    }

    fn drained(&self) {
        self.send(Event::Drained);
    }
}

/// A record as the tests compare it.
#[derive(Clone, Debug, PartialEq)]
enum Entry {
    Enqueue(Vec<(QueueId, Seq)>, u32, Vec<u8>),
    Settle(QueueId, Vec<(Seq, Seq)>),
    Note(QueueId, Vec<u8>, Vec<u8>),
    Attempts(QueueId, Vec<AttemptRange>),
    Delays(QueueId, Vec<DelayRange>),
    Deleted(QueueId),
    Move(Box<Self>, Box<Self>),
    Group(Vec<Self>),
}

impl Entry {
    fn of(record: LogRecord<'_>) -> Self {
        match record {
            LogRecord::Enqueue(enqueue) => {
                Self::Enqueue(enqueue.targets().collect(), enqueue.count(), enqueue.records().to_vec())
            }
            LogRecord::Move { entered, source, ranges } => {
                let left = LogRecord::Settle { queue: source, ranges };
                Self::Move(Box::new(Self::of(LogRecord::Enqueue(entered))), Box::new(Self::of(left)))
            }
            LogRecord::Settle { queue, ranges } => Self::Settle(queue, ranges.iter().collect()),
            LogRecord::Note { queue, key, value } => Self::Note(queue, key.to_vec(), value.to_vec()),
            LogRecord::Attempts { queue, attempts } => Self::Attempts(queue, attempts.iter().collect()),
            LogRecord::Delays { queue, delays } => Self::Delays(queue, delays.iter().collect()),
            LogRecord::QueueDeleted { queue } => Self::Deleted(queue),
            LogRecord::Group(group) => Self::Group(group.records().map(Self::of).collect()),
        }
    }

    /// Stages it, with a shared payload where `shared`, and returns the record's end.
    fn stage(&self, wal: &Wal, shared: bool) -> Lsn {
        self.put(&mut wal.stage(), shared)
    }

    fn put(&self, stage: &mut Stage<'_>, shared: bool) -> Lsn {
        match self {
            Self::Group(members) => stage.group(|stage| {
                for member in members {
                    member.put(stage, shared);
                }
            }),
            Self::Enqueue(targets, count, bytes) if shared => {
                let chunk = Arc::new(Chunk::parse(bytes.clone()).unwrap());
                stage.enqueue(targets, *count, Payload::Shared(chunk))
            }
            Self::Enqueue(targets, count, bytes) => stage.enqueue(targets, *count, Payload::Copy(bytes)),
            Self::Settle(queue, ranges) => stage.settle(*queue, ranges),
            Self::Note(queue, key, value) => stage.note(*queue, key, value),
            Self::Attempts(queue, attempts) => stage.attempts(*queue, attempts),
            Self::Delays(queue, delays) => stage.delays(*queue, delays),
            Self::Deleted(queue) => stage.queue_deleted(*queue),
            Self::Move(entered, left) => match (&**entered, &**left) {
                (Self::Enqueue(targets, count, bytes), Self::Settle(source, ranges)) => {
                    let payload = match shared {
                        true => Payload::Shared(Arc::new(Chunk::parse(bytes.clone()).unwrap())),
                        false => Payload::Copy(bytes),
                    };
                    stage.transfer(*source, ranges, targets, *count, payload)
                }
                other => panic!("not a move: {other:?}"),
            },
        }
    }

    /// Stages it so that it need only be written, if it can be, and returns the record's end.
    fn stage_relaxed(&self, wal: &Wal) -> Lsn {
        match self {
            Self::Enqueue(targets, count, bytes) => {
                wal.stage().enqueue_relaxed(targets, *count, Payload::Copy(bytes))
            }
            other => other.stage(wal, false),
        }
    }
}

/// `count` message records with bodies of `body` bytes.
fn messages(count: u32, body: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for delta in 0..count {
        record::append_head(&mut bytes, delta, record::FLAG_PERSISTENT, 77, b"\x00\x01q", b"header", body);
        bytes.extend((0..body).map(|i| (i as u32 ^ delta) as u8));
    }
    bytes
}

fn enqueue(queue: u64, first: Seq, count: u32, body: usize) -> Entry {
    Entry::Enqueue(vec![(QueueId(queue), first)], count, messages(count, body))
}

fn small() -> WalOptions {
    WalOptions {
        file_bytes: 16 * 1024,
        ring_files: 4,
        reserve_files: 1,
        max_files: 64,
        batch_bytes: 4096,
        staging_bytes: 64 * 1024,
        settle_delay: Duration::from_millis(1),
        sync_delay: Duration::from_millis(5),
        retry: Duration::from_millis(2),
        salt_seed: 42,
    }
}

type Opened = (Arc<Wal>, ReplayReport, Vec<(Lsn, Entry)>, Receiver<Event>);

fn open(disk: &SimDisk, options: WalOptions, start: Lsn) -> Result<Opened, StorageError> {
    let (events, receiver) = Recorder::new();
    let mut entries = Vec::new();
    let (wal, report) =
        Wal::open(Arc::new(disk.clone()), Path::new(DIR), options, start, events, &mut |lsn, record| {
            entries.push((lsn, Entry::of(record)));
            Ok(())
        })?;
    wal.keep_ahead();
    Ok((wal, report, entries, receiver))
}

fn entries_of(entries: &[(Lsn, Entry)]) -> Vec<Entry> {
    entries.iter().map(|(_, entry)| entry.clone()).collect()
}

/// The log files that hold batches, by name.
fn used_files(disk: &SimDisk) -> Vec<PathBuf> {
    let contents = disk.contents();
    let used = contents.iter().filter(|(path, bytes)| {
        path.parent() == Some(Path::new(DIR)) && bytes.get(4096..).is_some_and(format::looks_like_batch)
    });
    used.map(|(path, _)| path.clone()).collect()
}
