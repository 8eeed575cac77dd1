//! A log in good health.

use super::*;

#[test]
fn everything_staged_comes_back_in_order() {
    let disk = SimDisk::new(1);
    let (wal, report, entries, _) = open(&disk, small(), 0).unwrap();
    assert_eq!((report.end, report.files, entries.len()), (0, 0, 0));
    let staged = [
        enqueue(1, 0, 3, 100),
        Entry::Enqueue(vec![(QueueId(1), 3), (QueueId(2), 0)], 2, messages(2, 1000)),
        Entry::Settle(QueueId(1), vec![(0, 1), (4, 4)]),
        Entry::Settle(QueueId(2), vec![(0, 1)]),
        Entry::Enqueue(vec![], 0, vec![]),
        Entry::Deleted(QueueId(2)),
    ];
    let mut ends = Vec::new();
    for (at, entry) in staged.iter().enumerate() {
        ends.push(entry.stage(&wal, at % 2 == 1));
    }
    wal.sync().unwrap();
    assert_eq!((wal.appended(), wal.durable()), (ends[5], ends[5]));
    assert_eq!(wal.stage().position(), ends[5]);
    wal.close().unwrap();
    let (wal, report, entries, _) = open(&disk, small(), 0).unwrap();
    assert_eq!(entries_of(&entries), staged);
    assert_eq!(entries.iter().map(|(lsn, _)| *lsn).skip(1).collect::<Vec<_>>(), ends[..5]);
    assert!(report.closed && report.torn.is_none() && report.damage.is_empty());
    assert_eq!((report.records, report.end, wal.appended()), (6, ends[5], ends[5]));
    drop(wal);
    let (_wal, _, entries, _) = open(&disk, small(), ends[2]).unwrap();
    assert_eq!(entries_of(&entries), staged[3..], "from the checkpoint's position on");
}

struct Count(AtomicUsize, Mutex<Sender<Lsn>>);

impl LogWaiter for Count {
    fn passed(&self, lsn: Lsn) {
        self.0.fetch_add(1, Ordering::SeqCst);
        self.1.lock().unwrap().send(lsn).unwrap();
    }
}

#[test]
fn waiters_are_told_once_each_and_not_before() {
    let disk = SimDisk::new(1);
    let (wal, _, _, _) = open(&disk, small(), 0).unwrap();
    let (sender, told) = mpsc::channel();
    let waiter = Arc::new(Count(AtomicUsize::new(0), Mutex::new(sender)));
    for round in 0..50 {
        let end = enqueue(1, round, 1, 10).stage(&wal, false);
        wal.notify_when_durable(end, waiter.clone());
        assert!(told.recv().unwrap() >= end);
        assert!(wal.durable() >= end);
    }
    wal.notify_when_durable(wal.durable(), waiter.clone());
    assert_eq!(told.try_recv(), Ok(wal.durable()), "at once when it is durable already");
    assert_eq!(waiter.0.load(Ordering::SeqCst), 51);
    // Settlements are held back, but not from one who waits.
    drop(wal);
    let patient = WalOptions { settle_delay: Duration::from_secs(3600), ..small() };
    let (wal, _, _, _) = open(&disk, patient, 0).unwrap();
    let end = Entry::Settle(QueueId(1), vec![(0, 5)]).stage(&wal, false);
    wal.notify_when_durable(end, waiter);
    assert!(told.recv().unwrap() >= end);
    Entry::Settle(QueueId(1), vec![(0, 6)]).stage(&wal, false);
    wal.sync().unwrap();
    Entry::Settle(QueueId(1), vec![(0, 7)]).stage(&wal, false);
    wal.close().unwrap();
    assert_eq!(wal.durable(), wal.appended());
}

#[test]
fn what_need_only_be_written_is_synced_when_somebody_asks_or_later() {
    let disk = SimDisk::new(1);
    let patient = WalOptions { sync_delay: Duration::from_secs(3600), ..small() };
    let (wal, _, _, _) = open(&disk, patient, 0).unwrap();
    let (sender, told) = mpsc::channel();
    let waiter = Arc::new(Count(AtomicUsize::new(0), Mutex::new(sender)));
    let write = |first| {
        let end = enqueue(1, first, 1, 10).stage_relaxed(&wal);
        wal.notify_when_written(end, waiter.clone());
        assert!(told.recv().unwrap() >= end);
        assert!(wal.written() >= end && wal.durable() < end);
        end
    };
    // Somebody waits for it to be durable: one that is told, one that blocks.
    let end = write(0);
    wal.notify_when_durable(end, waiter.clone());
    assert!(told.recv().unwrap() >= end);
    let end = write(1);
    wal.sync().unwrap();
    assert!(wal.durable() >= end);
    // Something that must be synced comes after it.
    let end = write(2);
    let strict = enqueue(1, 3, 1, 10).stage(&wal, false);
    wal.notify_when_durable(strict, waiter.clone());
    assert!(told.recv().unwrap() >= end);
    // The log is closed.
    write(4);
    wal.close().unwrap();
    assert_eq!(wal.durable(), wal.appended());
    // It has waited long enough.
    let (wal, report, _, _) = open(&disk, small(), 0).unwrap();
    assert!(report.closed);
    let end = enqueue(1, 5, 1, 10).stage_relaxed(&wal);
    while wal.durable() < end {
        std::thread::yield_now();
    }
    // It has come to too much: the last of these batches need not be synced.
    let patient = WalOptions { sync_delay: Duration::from_secs(3600), staging_bytes: 1 << 30, ..small() };
    drop(wal);
    let (wal, _, _, _) = open(&disk, patient, 0).unwrap();
    for first in 0..1000 {
        enqueue(1, first, 1, 16_000).stage_relaxed(&wal);
    }
    while wal.written() < wal.appended() {
        std::thread::yield_now();
    }
    assert!(wal.durable() > wal.appended() - (9 << 20));
}

/// Settlements wait for `settle_delay`, whatever else waits to be synced.
#[test]
fn a_settlement_is_written_soon_although_something_waits_to_be_synced() {
    let disk = SimDisk::new(1);
    let patient = WalOptions { sync_delay: Duration::from_secs(3600), ..small() };
    let (wal, _, _, _) = open(&disk, patient, 0).unwrap();
    let (sender, told) = mpsc::channel();
    let waiter = Arc::new(Count(AtomicUsize::new(0), Mutex::new(sender)));
    for round in 0..20 {
        let end = enqueue(1, round, 1, 10).stage_relaxed(&wal);
        wal.notify_when_written(end, waiter.clone());
        assert!(told.recv().unwrap() >= end);
        let end = Entry::Settle(QueueId(1), vec![(round, round)]).stage(&wal, false);
        wal.notify_when_written(end, waiter.clone());
        assert!(told.recv_timeout(Duration::from_secs(20)).unwrap() >= end);
        assert!(wal.durable() < end, "nobody asked for that");
    }
}

#[test]
fn files_are_sealed_asked_for_released_and_used_again() {
    let disk = SimDisk::new(1);
    let (wal, _, _, events) = open(&disk, small(), 0).unwrap();
    let mut asked = Vec::new();
    let mut starts = Vec::new();
    for round in 0..200 {
        starts.push(wal.stage().position());
        enqueue(1, round, 1, 3000).stage(&wal, round % 2 == 0);
        wal.sync().unwrap();
        while let Ok(event) = events.try_recv() {
            let Event::Checkpoint(up_to) = event else { panic!("{event:?}") };
            assert!(starts.contains(&up_to), "a place between records");
            assert_eq!(wal.checkpoint_wanted(), Some(up_to));
            wal.release_below(up_to);
            assert_eq!(wal.checkpoint_wanted(), None);
            asked.push(up_to);
        }
    }
    assert!(asked.len() > 20 && asked.is_sorted());
    wal.close().unwrap();
    assert!(disk.list(Path::new(DIR)).unwrap().len() <= 6, "{:?}", disk.list(Path::new(DIR)));
    assert!(wal.file_bytes() <= 6 * 16 * 1024);
    let start = *asked.last().unwrap();
    let (_wal, report, entries, _) = open(&disk, small(), start).unwrap();
    let expected: Vec<Entry> = (0..200).map(|round| enqueue(1, round, 1, 3000)).collect();
    let at = starts.iter().position(|&lsn| lsn == start).unwrap();
    assert_eq!(entries_of(&entries), expected[at..]);
    assert!(report.damage.is_empty() && report.closed);
}

#[test]
fn a_record_larger_than_a_file_gets_its_own() {
    let disk = SimDisk::new(1);
    let (wal, _, _, _) = open(&disk, small(), 0).unwrap();
    let staged =
        [enqueue(1, 0, 1, 10), enqueue(1, 1, 1, 100_000), enqueue(1, 2, 1, 10), enqueue(1, 3, 2, 40_000)];
    for entry in &staged {
        entry.stage(&wal, true);
    }
    wal.close().unwrap();
    let (wal, report, entries, _) = open(&disk, small(), 0).unwrap();
    assert_eq!(entries_of(&entries), staged);
    assert!(report.damage.is_empty());
    let before = wal.file_bytes();
    wal.release_below(report.end);
    wal.close().unwrap();
    assert!(before > 180_000 && wal.file_bytes() <= 4 * 16 * 1024, "{before} {}", wal.file_bytes());
}

#[test]
fn positions_go_on_when_every_file_was_released() {
    let disk = SimDisk::new(1);
    let (wal, _, _, _) = open(&disk, small(), 0).unwrap();
    let end = enqueue(1, 0, 1, 10).stage(&wal, false);
    wal.close().unwrap();
    drop(wal);
    for _ in 0..3 {
        let (wal, report, entries, _) = open(&disk, small(), end).unwrap();
        assert_eq!((report.end, wal.appended(), entries.len()), (end, end, 0));
        assert!(report.damage.is_empty());
    }
}

#[test]
fn congestion_shows_and_its_end_is_told() {
    let disk = SimDisk::new(1);
    let options = WalOptions { staging_bytes: 4096, settle_delay: Duration::from_secs(3600), ..small() };
    let (wal, _, _, events) = open(&disk, options, 0).unwrap();
    assert!(!wal.is_congested());
    {
        let mut stage = wal.stage();
        for _ in 0..200 {
            stage.settle(QueueId(1), &[(0, 1)]);
        }
    }
    assert!(wal.is_congested(), "only settlements, nobody waits: all still staged");
    wal.sync().unwrap();
    assert_eq!(events.recv(), Ok(Event::Drained));
    assert!(!wal.is_congested());
}

#[test]
fn too_many_unreleased_files_congest() {
    let disk = SimDisk::new(1);
    let options = WalOptions { max_files: 6, ..small() };
    let (wal, _, _, events) = open(&disk, options, 0).unwrap();
    while !wal.is_congested() {
        enqueue(1, 0, 1, 3000).stage(&wal, false);
        wal.sync().unwrap();
    }
    enqueue(1, 0, 1, 3000).stage(&wal, false);
    wal.sync().unwrap();
    wal.release_below(wal.durable());
    assert!(events.iter().any(|event| event == Event::Drained));
    assert!(!wal.is_congested());
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let run = |seed| {
        let disk = SimDisk::new(seed);
        let options = WalOptions { salt_seed: seed, settle_delay: Duration::from_secs(3600), ..small() };
        let (wal, _, _, _) = open(&disk, options, 0).unwrap();
        for round in 0..40 {
            // One stage per sync: what a batch holds must not depend on the writer thread's timing.
            let chunk = Arc::new(Chunk::parse(messages(1, 900)).unwrap());
            let mut stage = wal.stage();
            stage.enqueue(&[(QueueId(1), round)], 1, Payload::Shared(chunk));
            stage.settle(QueueId(1), &[(0, round)]);
            drop(stage);
            wal.sync().unwrap();
        }
        wal.close().unwrap();
        let contents: BTreeMap<_, _> = used_files(&disk)
            .into_iter()
            .map(|path| (path.clone(), disk.contents()[&path].clone()))
            .collect();
        contents
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}

#[test]
fn wrong_settings_are_refused_by_name() {
    let wrong = WalOptions { file_bytes: 1000, ..small() };
    let error = open(&SimDisk::new(1), wrong, 0).err().unwrap().to_string();
    assert_eq!(
        error,
        "setting log file bytes: expected a multiple of 4096 from 16384 to 2147483648, got 1000"
    );
}

#[test]
fn a_group_is_one_record_however_its_messages_are_kept() {
    let disk = SimDisk::new(1);
    let (wal, ..) = open(&disk, small(), 0).unwrap();
    let note = Entry::Note(QueueId(1), b"key".to_vec(), b"value".to_vec());
    let group = Entry::Group(vec![note.clone(), enqueue(1, 0, 3, 10), enqueue(2, 0, 3, 10), note.clone()]);
    let last_is_shared = Entry::Group(vec![enqueue(1, 3, 2, 10), note, enqueue(1, 5, 2, 10)]);
    let all: Vec<_> = [&group, &group, &last_is_shared, &last_is_shared].into_iter().cloned().collect();
    for (entry, shared) in all.iter().zip([false, true, false, true]) {
        let before = wal.appended();
        let end = entry.stage(&wal, shared);
        assert!(end > before);
    }
    let empty = wal.appended();
    assert_eq!(wal.stage().group(|_| {}), empty, "nothing is nothing");
    // Groups within one are part of it.
    wal.stage().group(|stage| {
        group.put(stage, true);
    });
    wal.sync().unwrap();
    drop(wal);
    let (.., entries, _) = open(&disk, small(), 0).unwrap();
    assert_eq!(entries_of(&entries), [all, vec![group]].concat());
}

#[test]
fn a_group_that_is_too_large_becomes_several() {
    let disk = SimDisk::new(1);
    let (wal, ..) = open(&disk, small(), 0).unwrap();
    let large = enqueue(1, 0, 1, 3 << 20);
    Entry::Group(vec![large.clone(); 5]).stage(&wal, true);
    wal.sync().unwrap();
    drop(wal);
    let (.., entries, _) = open(&disk, small(), 0).unwrap();
    let groups: Vec<_> = [2, 2, 1].map(|members| Entry::Group(vec![large.clone(); members])).into();
    assert_eq!(entries_of(&entries), groups);
}
