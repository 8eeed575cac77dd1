//! A disk that fills up at every write of a commit in turn: the commit waits, nothing is lost, and it goes on.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use redb::StorageBackend;
use redb::backends::InMemoryBackend;

use super::*;

/// How many writes find room.
const ROOM: usize = usize::MAX / 2;

/// In a commit of 100,000 bytes each: large enough for the file to grow.
const CHANGES: usize = 20;

/// A disk with room for some more writes.
#[derive(Clone, Debug)]
struct SmallDisk {
    bytes: Arc<InMemoryBackend>,
    writes_left: Arc<AtomicUsize>,
    syncs_fail: Arc<AtomicUsize>,
}

impl SmallDisk {
    fn new() -> Self {
        let writes_left = Arc::new(AtomicUsize::new(ROOM));
        Self { bytes: Arc::new(InMemoryBackend::new()), writes_left, syncs_fail: Arc::default() }
    }

    fn take(&self) -> bool {
        let take = |left: usize| left.checked_sub(1);
        self.writes_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok()
    }

    /// What a crash would leave.
    fn crashed(&self) -> Self {
        let copy = Self::new();
        let mut bytes = vec![0; self.bytes.len().unwrap() as usize];
        self.bytes.read(0, &mut bytes).unwrap();
        copy.bytes.set_len(bytes.len() as u64).unwrap();
        copy.bytes.write(0, &bytes).unwrap();
        copy
    }

    fn open(&self, fatal: MetaFatal) -> MetaStore {
        MetaStore::start(RedbStore::on(self.clone(), "m".into()).unwrap(), Path::new("m"), fatal).unwrap()
    }
}

impl StorageBackend for SmallDisk {
    fn len(&self) -> io::Result<u64> {
        self.bytes.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.bytes.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if self.take() { self.bytes.set_len(len) } else { Err(io::ErrorKind::QuotaExceeded.into()) }
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.syncs_fail.load(Ordering::SeqCst) > 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.bytes.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.take() {
            return self.bytes.write(offset, data);
        }
        // As a disk does, it takes what there is room for.
        self.bytes.write(offset, &data[..data.len() / 2])?;
        Err(io::ErrorKind::StorageFull.into())
    }
}

fn no_fatal() -> MetaFatal {
    Arc::new(|text: &str| panic!("unexpected fatal error: {text}"))
}

fn put(key: &str, bytes: usize) -> MetaOp {
    MetaOp::Put { table: MetaTable::Queues, key: key.into(), value: vec![7; bytes] }
}

fn keys(store: &MetaStore) -> Vec<String> {
    let entries = store.scan(MetaTable::Queues).unwrap().into_iter();
    entries.map(|(key, _)| String::from_utf8(key).unwrap()).collect()
}

fn wait_until(what: &str, mut reached: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !reached() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_commit_waits_for_room_at_each_of_its_writes() {
    let mut waited = 0;
    for writes in 0.. {
        let disk = SmallDisk::new();
        let store = disk.open(no_fatal());
        let before = store.apply(vec![put("before", 1)]);
        store.flush().unwrap();
        disk.writes_left.store(writes, Ordering::SeqCst);
        let during = store.apply((0..CHANGES).map(|n| put(&format!("during {n:02}"), 100_000)).collect());
        wait_until("the disk is full or the commit done", || {
            store.is_disk_full() || store.committed() == during
        });
        if !store.is_disk_full() {
            break;
        }
        waited += 1;
        assert_eq!(store.committed(), before);
        let left = disk.crashed();
        // All or nothing: half of the last write may make the commit whole, though nobody was told.
        let found = keys(&left.open(no_fatal()));
        assert!(
            found == ["before"] || found.len() == 1 + CHANGES,
            "after a crash at write {writes}: {found:?}"
        );
        let late = store.apply(vec![put("late", 1)]);
        disk.writes_left.store(ROOM, Ordering::SeqCst);
        store.flush().unwrap();
        assert_eq!((store.committed(), store.is_disk_full()), (late, false));
        drop(store);
        assert_eq!(keys(&disk.open(no_fatal())).len(), 2 + CHANGES, "full at write {writes}");
    }
    assert!(waited > 10, "the commit made {waited} writes");
}

#[test]
fn a_store_that_is_closed_waits_no_more() {
    let disk = SmallDisk::new();
    let store = disk.open(no_fatal());
    store.apply(vec![put("before", 1)]);
    store.flush().unwrap();
    disk.writes_left.store(0, Ordering::SeqCst);
    store.apply(vec![put("lost", 1)]);
    wait_until("the disk is full", || store.is_disk_full());
    assert!(matches!(store.close(), Err(MetaError::Stopped(_))));
    drop(store);
    disk.writes_left.store(ROOM, Ordering::SeqCst);
    assert_eq!(keys(&disk.open(no_fatal())), ["before"]);
}

#[test]
fn a_sync_that_finds_no_room_is_fatal() {
    let disk = SmallDisk::new();
    let (fatal, fatals) = std::sync::mpsc::channel();
    let store = disk.open(Arc::new(move |text: &str| fatal.send(text.to_owned()).unwrap()));
    disk.syncs_fail.store(1, Ordering::SeqCst);
    store.apply(vec![put("lost", 1)]);
    fatals.recv().unwrap();
    assert!(matches!(store.flush(), Err(MetaError::Stopped(_))));
}
