//! A full disk: nothing is lost, what is dead makes room, and a directory is opened all the same.

use super::*;

#[test]
fn a_full_disk_passes() {
    let disk = new_disk(1);
    let (owner, _) = start(&disk, None);
    owner.enqueue(&[1], 20, 300, 0);
    owner.store.wal().sync().unwrap();
    disk.set_capacity(0);
    let error = owner.store.checkpoint(&owner, false).unwrap_err();
    assert!(error.is_disk_full(), "{error}");
    disk.set_capacity(u64::MAX);
    let report = owner.store.checkpoint(&owner, false).unwrap();
    assert!(report.moved_bytes > 0);
    restart(&disk, owner);
}

/// The log waits for room that does not come: an orderly stop ends all the same, and nothing that was durable is lost.
#[test]
fn closing_on_a_full_disk_ends_and_keeps_what_was_durable() {
    let disk = new_disk(1);
    let (owner, _) = start(&disk, None);
    owner.enqueue(&[1], 20, 300, 0);
    owner.store.wal().sync().unwrap();
    disk.set_capacity(0);
    while owner.store.wal().shortage().is_none() {
        owner.enqueue(&[1], 5, 300, 0);
        std::thread::yield_now();
    }
    // More than what is left of the files that were made ahead.
    (0..20).for_each(|_| owner.enqueue(&[1], 20, 300, 0));
    let (told, result) = std::sync::mpsc::channel();
    let closing = std::thread::spawn(move || {
        told.send(owner.store.close(&owner)).unwrap();
        owner
    });
    let error = result.recv_timeout(Duration::from_secs(30)).expect("it ends").unwrap_err().to_string();
    assert_eq!(error, "storage has stopped: the disk is full while closing");
    let owner = closing.join().unwrap();
    assert!(owner.store.wal().durable() < owner.store.wal().appended());
    let (reopened, recovered) = start(&disk.crash(), Some(&owner));
    assert!(!recovered.clean);
    owner.check(owner.store.wal().durable(), &reopened);
}

/// A queue whose messages are in segments and dead, and one whose messages are in the log and live.
fn dead_and_live(owner: &Owner) {
    for _ in 0..4 {
        (0..2).for_each(|_| owner.enqueue(&[1], 10, 300, 0));
        owner.store.wal().sync().unwrap();
        owner.store.checkpoint(owner, false).unwrap();
    }
    (0..3).for_each(|_| owner.enqueue(&[2], 10, 300, 0));
    owner.settle(1, 0, 80);
    owner.store.wal().sync().unwrap();
}

fn used(disk: &SimDisk) -> u64 {
    disk.contents().values().map(|bytes| bytes.len() as u64).sum()
}

/// What is new cannot be moved for want of room; what is dead makes some.
#[test]
fn dead_segments_go_while_the_disk_is_full() {
    for clean in [false, true] {
        let mut disk = new_disk(1);
        let (owner, _) = start(&disk, None);
        dead_and_live(&owner);
        disk.set_capacity(0);
        let dead = owner.store.segments().retired().len() as u64;
        assert!(dead > 1, "{dead} dead files");
        // What they leave is still too little.
        let error = owner.store.checkpoint(&owner, false).unwrap_err();
        assert!(error.is_disk_full(), "{error}");
        assert_eq!(owner.store.segments().retired().len(), 0);
        disk.set_capacity(u64::MAX);
        owner.settle(2, 3, 5);
        if clean {
            restart(&disk, owner);
        } else {
            owner.store.wal().sync().unwrap();
            crash(&mut disk, owner);
        }
    }
}

#[test]
fn what_dead_segments_leave_is_used_at_once() {
    let mut disk = new_disk(1);
    let (owner, _) = start(&disk, None);
    dead_and_live(&owner);
    disk.set_capacity(used(&disk));
    let report = owner.store.checkpoint(&owner, false).unwrap();
    assert!(report.moved_bytes > 0 && report.deleted_files > 1, "{report:?}");
    crash(&mut disk, owner);
}

/// The files of the log that are whole and in which nothing was written yet.
fn prepared(disk: &SimDisk) -> Vec<PathBuf> {
    let is_prepared = |path: &PathBuf| {
        let file = disk.open(path, crate::disk::Access::Read).unwrap();
        let starts_with_zeroes = |at| {
            let mut first = [0; 4];
            file.read_at(&mut first, at).unwrap() < 4 || first == [0; 4]
        };
        // The header is written when its copy is synced.
        path.starts_with("/data/wal") && !starts_with_zeroes(0) && starts_with_zeroes(4096)
    };
    disk.contents().into_keys().filter(is_prepared).collect()
}

/// A crash at a moment when the log's keeper, which works beside, has a file ready.
fn crash_with_a_prepared_file(disk: &SimDisk) -> SimDisk {
    loop {
        let crashed = disk.crash();
        if !prepared(&crashed).is_empty() {
            return crashed;
        }
        std::thread::yield_now();
    }
}

#[test]
fn a_full_disk_is_opened_and_what_cannot_be_spilled_stays_in_memory() {
    let disk = new_disk(1);
    let (owner, _) = start(&disk, None);
    for i in 0..200 {
        owner.enqueue(&[i % 3], 5, 200, 0);
    }
    owner.store.wal().sync().unwrap();
    let crashed = crash_with_a_prepared_file(&disk);
    // Room for a small part of what replay would write, and for no whole log file.
    crashed.set_capacity(used(&crashed) + 10_000);
    let (reopened, recovered) = start(&crashed, Some(&owner));
    owner.check(owner.store.wal().durable(), &reopened);
    assert_eq!(recovered.queues.iter().map(RecoveredQueue::live).sum::<u64>(), 1000);
    // It goes on in what was prepared; then there is none.
    let full = disk.crash();
    prepared(&full).iter().for_each(|path| full.remove(path).unwrap());
    full.set_capacity(0);
    let error = open(&full).err().unwrap().to_string();
    assert!(error.starts_with("no room for a log file in /data/wal: free at least 4194304 bytes"), "{error}");
    full.set_capacity(u64::MAX);
    let (reopened, _) = start(&full, Some(&owner));
    owner.check(owner.store.wal().durable(), &reopened);
}
