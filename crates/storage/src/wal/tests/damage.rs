//! Bit rot, missing files, bytes of earlier uses, other versions.

use super::*;

/// Twelve records of one batch each in several files; the log closed. Returns each record's end.
fn written(disk: &SimDisk) -> Vec<(Lsn, Entry)> {
    let (wal, _, _, _events) = open(disk, small(), 0).unwrap();
    let mut staged = Vec::new();
    for round in 0..12 {
        let entry = enqueue(1, round, 3, 1000);
        staged.push((entry.stage(&wal, false), entry));
        wal.sync().unwrap();
    }
    wal.close().unwrap();
    staged
}

/// Where in the files the batches are: `(path, offset, first lsn, length)`.
fn batches(disk: &SimDisk) -> Vec<(PathBuf, u64, Lsn, u32)> {
    let mut found = Vec::new();
    for (path, bytes) in disk.contents() {
        let salt = u64::from_le_bytes(bytes[24..32].try_into().unwrap());
        for at in (4096..bytes.len()).step_by(512) {
            if let Some(header) = format::BatchHeader::decode(&bytes[at..], salt)
                && header.records > 0
            {
                found.push((path.clone(), at as u64, header.first, header.length));
            }
        }
    }
    found.sort_by_key(|batch| batch.2);
    found
}

#[test]
fn rot_in_any_place_loses_only_what_it_hit_and_is_reported() {
    let sound = SimDisk::new(3);
    let staged = written(&sound);
    let places = batches(&sound);
    assert!(places.len() == 12 && places[0].0 != places[11].0);
    for (hit, (path, at, first, length)) in places.iter().enumerate() {
        for into in [2, 9, 30, 45, 56, 58, 60, 75, 78, 100, 2000, 55 + u64::from(*length)] {
            let disk = SimDisk::new(3);
            assert_eq!(written(&disk), staged);
            disk.corrupt(path, at + into, 0x10);
            let untouched = disk.contents();
            let check = verify(&disk, Path::new(DIR), 0, &mut |_, _| Ok(())).unwrap();
            assert_eq!(disk.contents(), untouched, "verifying changes nothing");
            let (_, report, entries, _) = open(&disk, small(), 0).unwrap();
            let mut expected: Vec<Entry> = staged.iter().map(|(_, entry)| entry.clone()).collect();
            expected.remove(hit);
            assert_eq!(entries_of(&entries), expected, "batch {hit}, byte {into}");
            let [damage] = &report.damage[..] else { panic!("{:?}", report.damage) };
            assert_eq!((&damage.path, &damage.lsns), (path, &(*first..staged[hit].0)));
            assert!((*at..=at + 56).contains(&damage.offset));
            let copy = damage.copy.as_ref().unwrap();
            assert_eq!(disk.open(copy, Access::Read).unwrap().size().unwrap(), damage.bytes);
            assert_eq!(check.damage[0].lsns, damage.lsns);
            assert_eq!(report.end, staged[11].0);
        }
    }
}

#[test]
fn one_bad_record_does_not_cost_its_batch() {
    let disk = SimDisk::new(1);
    let (wal, _, _, _events) = open(&disk, small(), 0).unwrap();
    {
        let mut stage = wal.stage();
        for below in 0..10 {
            stage.settle(QueueId(1), &[(0, below)]);
        }
    }
    wal.sync().unwrap();
    wal.close().unwrap();
    let (path, at, ..) = batches(&disk)[0].clone();
    disk.corrupt(&path, at + 56 + 48 * 3, 0xff); // the fourth record's length
    disk.corrupt(&path, at + 56 + 48 * 6 + 30, 1); // the seventh's body
    let (_, report, entries, _) = open(&disk, small(), 0).unwrap();
    let expected = [0, 1, 2, 4, 5, 7, 8, 9].map(|below| Entry::Settle(QueueId(1), vec![(0, below)]));
    assert_eq!(entries_of(&entries), expected);
    let lost: Vec<_> = report.damage.iter().map(|damage| (damage.lsns.clone(), damage.kind)).collect();
    assert_eq!(lost, [(144..192, DamageKind::Record), (288..336, DamageKind::Record)]);
}

#[test]
fn a_missing_file_is_reported() {
    let disk = SimDisk::new(3);
    let staged = written(&disk);
    let places = batches(&disk);
    let middle = places[places.len() / 2].0.clone();
    let (kept, lost): (Vec<_>, Vec<_>) = places.iter().partition(|place| place.0 != middle);
    disk.remove(&middle).unwrap();
    let (_, report, entries, _) = open(&disk, small(), 0).unwrap();
    assert_eq!(entries.len(), kept.len());
    let [damage] = &report.damage[..] else { panic!("{:?}", report.damage) };
    let end = lost.last().map(|place| place.2 + u64::from(place.3)).unwrap();
    assert_eq!((damage.kind, &damage.lsns), (DamageKind::Missing, &(lost[0].2..end)));
    assert_eq!(report.end, staged[11].0);
}

#[test]
fn a_file_header_has_a_copy_and_losing_both_is_reported() {
    let disk = SimDisk::new(3);
    let staged = written(&disk);
    let (path, ..) = batches(&disk)[6].clone();
    disk.corrupt(&path, 20, 1);
    let (wal, report, entries, _) = open(&disk, small(), 0).unwrap();
    assert_eq!((entries.len(), report.damage.len()), (12, 0));
    drop(wal);
    disk.corrupt(&path, 2048 + 20, 1);
    let (_, report, entries, _) = open(&disk, small(), 0).unwrap();
    assert!(entries.len() < 12);
    let kinds: Vec<_> = report.damage.iter().map(|damage| damage.kind).collect();
    assert_eq!(kinds, [DamageKind::Missing, DamageKind::FileHeader]);
    let aside = report.damage[1].copy.as_ref().unwrap();
    assert!(aside.starts_with("/data/wal/quarantine") && disk.contents().contains_key(aside));
    assert_eq!(report.end, staged[11].0);
}

#[test]
fn the_first_and_the_last_file_lost_do_not_go_unnoticed() {
    let disk = SimDisk::new(3);
    written(&disk);
    let places = batches(&disk);
    disk.remove(&places[0].0).unwrap();
    let (_, report, ..) = open(&disk, small(), 0).unwrap();
    assert_eq!((report.damage.len(), report.damage[0].lsns.start), (1, 0));
    let disk = SimDisk::new(3);
    written(&disk);
    let last = places[11].0.clone();
    disk.corrupt(&last, 20, 1);
    disk.corrupt(&last, 2048 + 20, 1);
    let (_, report, ..) = open(&disk, small(), 0).unwrap();
    assert_eq!(report.damage[0].kind, DamageKind::FileHeader);
}

#[test]
fn a_reused_file_never_replays_its_earlier_records() {
    let disk = SimDisk::new(1);
    let mut start = 0;
    for run in 0..6 {
        let (wal, report, entries, _) = open(&disk, small(), start).unwrap();
        assert_eq!((entries.len(), report.damage.len()), (usize::from(run > 0), 0), "run {run}");
        for round in 0..30 {
            enqueue(1, round, 1, 2000).stage(&wal, false);
            wal.sync().unwrap();
            wal.release_below(wal.durable());
        }
        start = wal.durable();
        enqueue(2, run, 1, 10).stage(&wal, false);
        wal.sync().unwrap();
        wal.close().unwrap();
        assert!(disk.list(Path::new(DIR)).unwrap().len() <= 4);
    }
}

#[test]
fn a_newer_version_is_refused() {
    let disk = SimDisk::new(3);
    written(&disk);
    let path = batches(&disk)[0].0.clone();
    let file = disk.open(&path, Access::ReadWrite).unwrap();
    let mut header = [0; 32];
    file.read_exact_at(&mut header, 0).unwrap();
    header[8] = 2;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &header[16..]);
    header[12..16].copy_from_slice(&crc.to_le_bytes());
    file.write_all_at(&header, 0).unwrap();
    let error = open(&disk, small(), 0).err().unwrap().to_string();
    assert!(error.ends_with("has format version 2, expected at most 1: it was written by a newer Posthouse"));
}

#[test]
fn an_error_of_the_owner_ends_replay() {
    let disk = SimDisk::new(3);
    written(&disk);
    let (events, _receiver) = Recorder::new();
    let result = Wal::open(Arc::new(disk), Path::new(DIR), small(), 0, events, &mut |_, _| {
        Err(StorageError::Stopped { reason: "enough".into() })
    });
    assert_eq!(result.err().unwrap().to_string(), "storage has stopped: enough");
}

/// Header and first batch of a file of version 1.
const VERSION_1_HEADER: &str = "504857414c4f470a01000000e482950a0100000000000000350cb25a600fe30f";
const VERSION_1_BATCH: &str = "\
    50484254b5000000be02a6fc030000000000000000000000350cb25a600fe30f00000000000000000000000000000000\
    00000000000000005500000001000000000000000000000000000000bf6f5c1401000000010000000201000000000000\
    0700000000000000250000000000000001000300060000004d0000000000000000017168656164657200010203400000\
    00020000000000000000000000000000008edd9a30020100000000000001000000000000000300000000000000050000\
    000000000005000000000000002000000004000000000000000000000000000000bef192a70a00000000000000";

const LATER_KINDS_BATCH: &str = "\
    50484254010100007eefe4a8030000000000000000000000350cb25a600fe30f00000000000000000000000000000000\
    00000000000000002c00000006000000000000000000000000000000ba7c16bb0201000000000000030000006b657976\
    616c756550000000070000000000000000000000000000005f3f96e90201000000000000010000000000000003000000\
    000000000100000002000000050000000000000005000000000000000000000004030201850000000500000000000000\
    000000000000000024fa1ba6010000000100000002000000000000000a00000000000000020100000000000007000000\
    000000000100000000000000030000000000000005000000000000000500000000000000250000000000000001000300\
    060000004d0000000000000000017168656164657200010203";

const DELAYS_BATCH: &str = "\
    5048425470000000ec4d3cc4020000000000000000000000350cb25a600fe30f00000000000000000000000000000000\
    000000000000000050000000090000000000000000000000000000004746f22702010000000000000100000000000000\
    030000000000000006050403020100000500000000000000050000000000000007000000000000002000000004000000\
    000000000000000000000000d75785020a00000000000000";

#[test]
fn version_1_bytes_stay_readable() {
    let bytes = |hex: &str| -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    };
    let disk = SimDisk::new(1);
    disk.create_dir_all(Path::new(DIR)).unwrap();
    let file = disk.create(&Path::new(DIR).join("0000000000000001.log")).unwrap();
    file.allocate(16 * 1024).unwrap();
    file.write_all_at(&bytes(VERSION_1_HEADER), 0).unwrap();
    file.write_all_at(&bytes(VERSION_1_BATCH), 4096).unwrap();
    let mut found = Vec::new();
    let report = verify(&disk, Path::new(DIR), 0, &mut |lsn, record| {
        found.push((lsn, Entry::of(record)));
        Ok(())
    });
    let expected = [
        (0, enqueue(258, 7, 1, 4)),
        (85, Entry::Settle(QueueId(258), vec![(1, 3), (5, 5)])),
        (149, Entry::Deleted(QueueId(10))),
    ];
    assert_eq!(found, expected);
    assert_eq!(report.unwrap().end, 181);
}

/// Written and read: a note, attempts, and a move.
#[test]
fn the_bytes_of_later_kinds_are_fixed() {
    let attempts =
        |first, last, failed, acquired| AttemptRange { first, last, attempts: Attempts { failed, acquired } };
    let staged = [
        Entry::Note(QueueId(258), b"key".to_vec(), b"value".to_vec()),
        Entry::Attempts(QueueId(258), vec![attempts(1, 3, 1, 2), attempts(5, 5, 0, 0x0102_0304)]),
        Entry::Move(
            Box::new(enqueue(258, 7, 1, 4)),
            Box::new(Entry::Settle(QueueId(10), vec![(1, 3), (5, 5)])),
        ),
    ];
    pinned(&staged, LATER_KINDS_BATCH);
}

#[test]
fn the_bytes_of_delays_are_fixed() {
    let delay = |first, last, due_ms| DelayRange { first, last, due_ms };
    let staged = [
        Entry::Delays(QueueId(258), vec![delay(1, 3, 0x0102_0304_0506), delay(5, 5, 7)]),
        Entry::Deleted(QueueId(10)),
    ];
    pinned(&staged, DELAYS_BATCH);
}

/// Stages entries, the last of which waits for nothing, and compares the bytes of their batch.
fn pinned(staged: &[Entry], expected: &str) {
    let disk = SimDisk::new(1);
    // One batch: the others wait for the last.
    let options = WalOptions { settle_delay: Duration::from_secs(3600), ..small() };
    let (wal, _, _, _) = open(&disk, options, 0).unwrap();
    for entry in staged {
        entry.stage(&wal, false);
    }
    wal.sync().unwrap();
    let bytes = &disk.contents()[&used_files(&disk)[0]][4096..];
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(&hex[..expected.len()], expected);
    drop(wal);
    assert_eq!(entries_of(&open(&disk, small(), 0).unwrap().2), staged);
}
