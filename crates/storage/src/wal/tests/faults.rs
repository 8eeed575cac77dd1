//! Every operation on files failed in turn.

use super::*;

/// A fixed workload: fills files, has them released and used again, includes a record larger than a file.
fn workload(wal: &Wal) -> Vec<(Lsn, Entry)> {
    let mut staged = Vec::new();
    for round in 0..24 {
        let entry = enqueue(1, round, 1, if round == 11 { 20_000 } else { 3000 });
        staged.push((entry.stage(wal, round % 2 == 0), entry));
        if wal.sync().is_err() {
            break;
        }
        if round % 8 == 0 && round > 0 {
            wal.release_below(staged[round as usize - 4].0);
        }
    }
    staged
}

/// Runs the workload with one fault; whatever happens, what was durable must be there after a crash.
/// `false` when the fault was not reached.
fn survives(op: Op, nth: u64, fault: Fault) -> bool {
    let disk = SimDisk::new(nth);
    disk.fail(op, nth, fault);
    let Ok((wal, _, _, events)) = open(&disk, small(), 0) else {
        let (_, report, ..) = open(&disk.crash(), small(), 0).unwrap();
        assert_eq!((report.records, report.damage.len()), (0, 0));
        return true;
    };
    let staged = workload(&wal);
    let durable = wal.durable();
    let closed = wal.close();
    drop(wal);
    let told: Vec<Event> = events.iter().collect();
    let fatal = told.iter().filter(|event| matches!(event, Event::Fatal(_))).count();
    assert_eq!(fatal, usize::from(closed.is_err()), "{op:?} {nth} {fault:?}: {told:?}");
    if (fault == Fault::NoSpace && op != Op::Sync && op != Op::SyncDir) || fault == Fault::TooManyFiles {
        assert_eq!(fatal, 0, "{fault:?} passes: {op:?} {nth}: {told:?}");
        assert_eq!(staged.len(), 24);
    }
    if fatal == 0 {
        assert_eq!(durable, staged.last().unwrap().0);
    }
    // The workload's last release, where it got as far.
    let (start, gone) = match staged.len() {
        17.. => (staged[12].0, 13),
        9.. => (staged[4].0, 5),
        _ => (0, 0),
    };
    let (_, report, replayed, _) = open(&disk.crash(), small(), start).unwrap();
    assert_eq!(report.damage, [], "{op:?} {nth} {fault:?}");
    let promised = staged.iter().skip(gone).filter(|(end, _)| *end <= durable).count();
    assert!(replayed.len() >= promised, "{op:?} {nth} {fault:?}: {} of {promised}", replayed.len());
    for ((_, found), (_, entry)) in replayed.iter().zip(&staged[gone..]) {
        assert_eq!(found, entry);
    }
    disk.count(op) >= nth
}

/// Walks a kind of operation until a fault is no longer reached.
fn walk(op: Op, fault: Fault, at_least: u64) {
    let mut nth = 1;
    while survives(op, nth, fault) {
        nth += 1;
        assert!(nth < 1000);
    }
    assert!(nth > at_least, "{op:?} failed only {} times", nth - 1);
}

#[test]
fn every_write_failing() {
    walk(Op::Write, Fault::Io, 30);
    walk(Op::Write, Fault::NoSpace, 30);
}

#[test]
fn every_sync_failing() {
    walk(Op::Sync, Fault::Io, 30);
    walk(Op::Sync, Fault::NoSpace, 30);
    walk(Op::SyncDir, Fault::Io, 4);
}

#[test]
fn every_change_of_files_failing() {
    for fault in [Fault::Io, Fault::NoSpace] {
        walk(Op::Create, fault, 2);
        walk(Op::Allocate, fault, 2);
        walk(Op::Rename, fault, 1);
    }
    walk(Op::Remove, Fault::Io, 1);
}

#[test]
fn every_lack_of_a_file_descriptor() {
    walk(Op::Create, Fault::TooManyFiles, 2);
    walk(Op::SyncDir, Fault::TooManyFiles, 4);
}

/// Until there is one: publishers are told, and everything staged becomes durable in the end.
#[test]
fn no_file_descriptor_for_long_is_told_and_passes() {
    let disk = SimDisk::new(1);
    let (wal, _, _, events) = open(&disk, small(), 0).unwrap();
    while wal.file_bytes() < 2 * 16 * 1024 {
        std::thread::yield_now();
    }
    (1..=20).for_each(|nth| disk.fail(Op::Create, nth, Fault::TooManyFiles));
    for round in 0..12 {
        enqueue(1, round, 1, 3000).stage(&wal, false);
    }
    wal.sync().unwrap();
    let told: Vec<_> = events.try_iter().filter(|event| matches!(event, Event::Shortage(_))).collect();
    assert_eq!(told[0], Event::Shortage(Some(Shortage::Files)), "not the disk");
    assert!(disk.count(Op::Create) > 20 && !told.contains(&Event::Shortage(None)) || told.len() > 1);
    wal.close().unwrap();
}

#[test]
fn every_read_failing_at_start() {
    let disk = SimDisk::new(1);
    let (wal, _, _, _events) = open(&disk, small(), 0).unwrap();
    let staged: Vec<Entry> = workload(&wal).into_iter().map(|(_, entry)| entry).collect();
    wal.close().unwrap();
    for op in [Op::List, Op::Open, Op::Read] {
        let mut nth = 1;
        loop {
            disk.fail(op, nth, Fault::Io);
            let mut found = Vec::new();
            let result = verify(&disk, Path::new(DIR), 0, &mut |_, record| {
                found.push(Entry::of(record));
                Ok(())
            });
            match result {
                Err(StorageError::Io { .. }) => nth += 1,
                Err(other) => panic!("{other}"),
                Ok(_) => break,
            }
            assert!(staged.ends_with(&found) || found.len() < staged.len());
        }
        assert!(nth > 1, "{op:?}");
    }
}

#[test]
fn a_full_disk_is_told_while_the_reserve_lasts_and_passes() {
    let disk = SimDisk::new(1);
    let (wal, _, _, events) = open(&disk, WalOptions { reserve_files: 3, ..small() }, 0).unwrap();
    while wal.file_bytes() < 4 * 16 * 1024 {
        std::thread::yield_now();
    }
    disk.set_capacity(0);
    // Two of the four files; what the owner stages after he is told goes into the others.
    let rounds = 6;
    for round in 0..rounds {
        enqueue(1, round, 1, 3000).stage(&wal, false);
        wal.sync().unwrap();
    }
    assert_eq!(events.recv(), Ok(Event::Shortage(Some(Shortage::Disk))));
    for seq in 0..10 {
        Entry::Settle(QueueId(1), vec![(seq, seq)]).stage(&wal, false);
        wal.sync().unwrap();
    }
    disk.set_capacity(u64::MAX);
    assert_eq!(events.recv(), Ok(Event::Shortage(None)));
    assert_eq!(wal.shortage(), None);
    enqueue(1, rounds, 1, 20_000).stage(&wal, false);
    wal.close().unwrap();
    let (_, report, entries, _) = open(&disk, small(), 0).unwrap();
    assert_eq!((entries.len() as u64, report.damage.len()), (rounds + 11, 0));
}

#[test]
fn a_released_file_serves_while_the_disk_is_full() {
    let disk = SimDisk::new(1);
    let (wal, _, _, _events) = open(&disk, small(), 0).unwrap();
    for round in 0..20 {
        enqueue(1, round, 1, 3000).stage(&wal, false);
        wal.sync().unwrap();
    }
    disk.set_capacity(0);
    for round in 20..80 {
        wal.release_below(wal.durable());
        enqueue(1, round, 1, 3000).stage(&wal, false);
        wal.sync().unwrap();
    }
    wal.close().unwrap();
}

#[test]
fn closing_on_a_full_disk_says_that_not_all_is_durable() {
    let disk = SimDisk::new(1);
    let (wal, _, _, events) = open(&disk, small(), 0).unwrap();
    disk.set_capacity(0);
    for round in 0..40 {
        enqueue(1, round, 1, 3000).stage(&wal, false);
    }
    assert_eq!(events.recv(), Ok(Event::Shortage(Some(Shortage::Disk))));
    let error = wal.close().unwrap_err().to_string();
    assert_eq!(error, "storage has stopped: the disk is full while closing");
    assert!(wal.durable() < wal.appended());
    assert!(!events.try_iter().any(|event| matches!(event, Event::Fatal(_))), "no failure of the disk");
}

/// Connections that are gone leave descriptors: closing does not give up at the first file that cannot be opened.
#[test]
fn closing_waits_a_little_for_a_file_descriptor() {
    let disk = SimDisk::new(1);
    let (wal, _, _, events) = open(&disk, small(), 0).unwrap();
    while wal.file_bytes() < 2 * 16 * 1024 {
        std::thread::yield_now();
    }
    wal.begin_close();
    (1..=2).for_each(|nth| disk.fail(Op::Create, nth, Fault::TooManyFiles));
    for round in 0..12 {
        enqueue(1, round, 1, 3000).stage(&wal, false);
    }
    wal.close().unwrap();
    assert_eq!(events.recv(), Ok(Event::Shortage(Some(Shortage::Files))));
    assert_eq!(wal.durable(), wal.appended());
}

#[test]
fn a_stopped_log_takes_no_memory_and_says_so() {
    let disk = SimDisk::new(1);
    let (wal, _, _, events) = open(&disk, small(), 0).unwrap();
    while wal.file_bytes() < 2 * 16 * 1024 {
        std::thread::yield_now(); // until the keeper is done: the fault is meant for the writer
    }
    disk.fail(Op::Sync, 1, Fault::Io);
    let end = enqueue(1, 0, 1, 10).stage(&wal, false);
    let error = wal.sync().unwrap_err().to_string();
    assert!(error.starts_with("storage has stopped: cannot sync /data/wal/0000"), "{error}");
    assert!(wal.is_congested());
    assert!(enqueue(1, 0, 1, 10).stage(&wal, false) > end);
    assert!(wal.sync().is_err() && wal.close().is_err());
    assert_eq!(wal.durable(), 0);
    assert!(matches!(events.recv(), Ok(Event::Fatal(_))));
}
