use super::*;
use crate::disk::sim::{Fault, Op, SimDisk};
use crate::segment::{Class, SegmentId};
use posthouse_model::attempts::Attempts;
use posthouse_model::bitmap::SeqBitmap;
use posthouse_model::chunk::Received;
use posthouse_model::ids::QueueId;
use posthouse_model::shares::{Share, Shares, UserNumber};
use proptest::prelude::*;

const DIR: &str = "/d";

fn disk(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    disk.create_dir_all(Path::new(DIR)).unwrap();
    disk
}

fn save(disk: &SimDisk, checkpoint: &Checkpoint) -> Result<(), StorageError> {
    let Checkpoint { number, lsn, clean, queues } = checkpoint;
    let mut writer = CheckpointWriter::begin(disk, Path::new(DIR), *number, *lsn, *clean)?;
    for queue in queues {
        writer.add(queue)?;
    }
    writer.finish(|| Ok(()))?;
    recycle_older(disk, Path::new(DIR), *number)
}

fn reload(disk: &SimDisk) -> Result<Loaded, StorageError> {
    load(disk, Path::new(DIR))
}

fn block(file: u64, offset: u32, first_seq: Seq, span: u32, settled: &[u32]) -> BlockRef {
    let (file, class, shared) = (SegmentId(file), Class::Durable, file == 3);
    let location = Location { file, class, shared, offset, len: 99, records: span };
    let settled = (!settled.is_empty()).then(|| {
        let mut bitmap = SeqBitmap::new(span);
        settled.iter().for_each(|at| assert!(bitmap.set(*at)));
        bitmap
    });
    let received = Received { first_ms: u64::from(offset), last_ms: u64::from(offset) + 3 };
    let share = |user, bytes| Share { user: UserNumber(user), bytes };
    let shares = match file.0 {
        3 => Shares::One(UserNumber(9)),
        1 => Shares::Several([share(2, 300), share(300, 5)].into()),
        _ => Shares::default(),
    };
    BlockRef { location, first_seq, span, settled, received, expires: offset > 1_000, shares }
}

fn range(first: Seq, last: Seq, failed: u32, acquired: u32) -> AttemptRange {
    AttemptRange { first, last, attempts: Attempts { failed, acquired } }
}

fn delay(first: Seq, last: Seq, due_ms: u64) -> DelayRange {
    DelayRange { first, last, due_ms }
}

fn sample() -> Checkpoint {
    let blocks = vec![block(3, 24, 100, 10, &[]), block(1, 5000, 120, 300, &[0, 7, 299])];
    let idle = |id| QueueState {
        id: QueueId(id),
        next_seq: 0,
        floor: 0,
        covered: 0,
        delivered_below: 0,
        blocks: Vec::new(),
        notes: Vec::new(),
        attempts: Vec::new(),
        delays: Vec::new(),
    };
    let notes = vec![Note { key: b"ab"[..].into(), value: b"xyz"[..].into() }];
    let busy = QueueState {
        id: QueueId(9),
        next_seq: 500,
        floor: 100,
        covered: 420,
        delivered_below: 130,
        blocks,
        notes,
        attempts: vec![range(101, 103, 1, 2), range(104, 104, 2, 300)],
        delays: vec![delay(101, 102, 300), delay(104, 104, 100)],
    };
    Checkpoint { number: 5, lsn: 0x0102_0304, clean: true, queues: vec![idle(1), busy, idle(u64::MAX)] }
}

/// What [`pinned`] is as bytes, from the header on to the trailer's checksum.
const QUEUES: &[u8] = b"\x01\0\0\0\0\0\0\0\0\
    \x09\xf4\x03\x90\x03\x50\xf2\x02\x02\
    \x64\xac\x01\0\x06\x18\x63\x30\x03\x01\x09\
    \x0a\xcb\x01\0\x03\x88\x27\x63\xe0\x4d\x03\x02\x02\xac\x02\xac\x02\x05\x0c\0\0\0\x81\0\
    \x01\x02ab\x03xyz\
    \x02\x65\x02\x01\x02\x01\0\x02\xac\x02\
    \x02\x65\x01\xd8\x04\x02\0\x8f\x03\
    \xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\0\0\0\0\0\0\0\0\
    \x03\0\0\0\0\0\0\0";

/// The same in version 6.
const QUEUES_WITHOUT_DELAYS: &[u8] = b"\x01\0\0\0\0\0\0\0\
    \x09\xf4\x03\x90\x03\x50\xf2\x02\x02\
    \x64\xac\x01\0\x06\x18\x63\x30\x03\x01\x09\
    \x0a\xcb\x01\0\x03\x88\x27\x63\xe0\x4d\x03\x02\x02\xac\x02\xac\x02\x05\x0c\0\0\0\x81\0\
    \x01\x02ab\x03xyz\
    \x02\x65\x02\x01\x02\x01\0\x02\xac\x02\
    \xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\0\0\0\0\0\0\0\
    \x03\0\0\0\0\0\0\0";

/// The same in version 5.
const QUEUES_WITHOUT_PUBLISHERS: &[u8] = b"\x01\0\0\0\0\0\0\0\
    \x09\xf4\x03\x90\x03\x50\xf2\x02\x02\
    \x64\x54\0\x06\x18\x63\x30\x03\
    \x0a\x63\0\x03\x88\x27\x63\xe0\x4d\x03\x0c\0\0\0\x81\0\
    \x01\x02ab\x03xyz\
    \x02\x65\x02\x01\x02\x01\0\x02\xac\x02\
    \xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\0\0\0\0\0\0\0\
    \x03\0\0\0\0\0\0\0";

/// The same in version 4.
const QUEUES_WITHOUT_SHARED: &[u8] = b"\x01\0\0\0\0\0\0\0\
    \x09\xf4\x03\x90\x03\x50\xf2\x02\x02\
    \x64\x28\0\x06\x18\x63\x30\x03\
    \x0a\x33\0\x03\x88\x27\x63\xe0\x4d\x03\x0c\0\0\0\x81\0\
    \x01\x02ab\x03xyz\
    \x02\x65\x02\x01\x02\x01\0\x02\xac\x02\
    \xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\0\0\0\0\0\0\0\
    \x03\0\0\0\0\0\0\0";

/// The same in version 3.
const QUEUES_WITHOUT_ATTEMPTS: &[u8] = b"\x01\0\0\0\0\0\0\
    \x09\xf4\x03\x90\x03\x50\xf2\x02\x02\
    \x64\x28\0\x06\x18\x63\x30\x03\
    \x0a\x33\0\x03\x88\x27\x63\xe0\x4d\x03\x0c\0\0\0\x81\0\
    \x01\x02ab\x03xyz\
    \xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\0\0\0\0\0\0\
    \x03\0\0\0\0\0\0\0";

/// The same in version 2.
const QUEUES_WITHOUT_TIMES: &[u8] = b"\x01\0\0\0\0\0\0\
    \x09\xf4\x03\x90\x03\x50\xf2\x02\x02\
    \x64\x14\0\x06\x18\x63\
    \x0a\x19\0\x03\x88\x27\x63\x0c\0\0\0\x81\0\
    \x01\x02ab\x03xyz\
    \xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\0\0\0\0\0\0\
    \x03\0\0\0\0\0\0\0";

/// The same in version 1.
const QUEUES_WITHOUT_NOTES: &[u8] = b"\x01\0\0\0\0\0\
    \x09\xf4\x03\x90\x03\x50\xf2\x02\x02\
    \x64\x14\0\x06\x18\x63\
    \x0a\x19\0\x03\x88\x27\x63\x0c\0\0\0\x81\0\
    \xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\0\0\0\0\0\
    \x03\0\0\0\0\0\0\0";

/// [`sample`] with a smaller bitmap.
fn pinned() -> Checkpoint {
    let mut checkpoint = sample();
    checkpoint.queues[1].blocks.pop();
    checkpoint.queues[1].blocks.push(block(1, 5000, 120, 12, &[0, 7]));
    checkpoint
}

#[test]
fn version_7_bytes_are_fixed() {
    let disk = disk(1);
    save(&disk, &pinned()).unwrap();
    assert_eq!(disk.contents()[Path::new("/d/checkpoint-0000000000000005")], file_of(7, QUEUES));
    assert_eq!(reload(&disk).unwrap().checkpoint, Some(pinned()));
}

/// The bytes of checkpoint 5 in a version whose header has a length.
fn file_of(version: u8, queues: &[u8]) -> Vec<u8> {
    let mut bytes = b"PHCK\0\0\x01\0\x05\0\0\0\0\0\0\0\x04\x03\x02\x01\0\0\0\0".to_vec();
    bytes[4] = version;
    // Header, queues with their count, checksum and magic.
    bytes.extend_from_slice(&(40 + queues.len() as u64 + 8).to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(queues);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&5u64.to_le_bytes()), queues);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(b"KCHP");
    bytes
}

/// [`pinned`] as far as a version without delays can say it.
fn without_delays() -> Checkpoint {
    let mut checkpoint = pinned();
    checkpoint.queues[1].delays.clear();
    checkpoint
}

/// The same as far as a version that does not know who published can.
fn without_publishers() -> Checkpoint {
    let mut checkpoint = without_delays();
    checkpoint.queues[1].blocks.iter_mut().for_each(|block| block.shares = Shares::default());
    checkpoint
}

/// The same as far as a version without shared blocks can.
fn without_shared() -> Checkpoint {
    let mut checkpoint = without_publishers();
    checkpoint.queues[1].blocks.iter_mut().for_each(|block| block.location.shared = false);
    checkpoint
}

/// The same as far as a version without what came back can.
fn without_attempts() -> Checkpoint {
    let mut checkpoint = without_shared();
    checkpoint.queues[1].attempts.clear();
    checkpoint
}

/// The same as far as a version without times can.
fn without_times() -> Checkpoint {
    let mut checkpoint = without_attempts();
    for block in &mut checkpoint.queues[1].blocks {
        (block.received, block.expires) = (Received::UNKNOWN, false);
    }
    checkpoint
}

#[test]
fn versions_1_to_6_are_read() {
    let mut without_notes = without_times();
    without_notes.queues[1].notes.clear();
    for (version, queues, expected) in [
        (1, QUEUES_WITHOUT_NOTES, without_notes),
        (2, QUEUES_WITHOUT_TIMES, without_times()),
        (3, QUEUES_WITHOUT_ATTEMPTS, without_attempts()),
        (4, QUEUES_WITHOUT_SHARED, without_shared()),
        (5, QUEUES_WITHOUT_PUBLISHERS, without_publishers()),
        (6, QUEUES_WITHOUT_DELAYS, without_delays()),
    ] {
        let mut bytes = file_of(version, queues);
        if version < 3 {
            bytes.truncate(24);
            bytes.extend_from_slice(queues);
            bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
            bytes.extend_from_slice(b"KCHP");
        }
        let disk = disk(1);
        let path = Path::new("/d/checkpoint-0000000000000005");
        disk.create(path).unwrap().write_all_at(&bytes, 0).unwrap();
        let loaded = reload(&disk).unwrap();
        assert_eq!((loaded.checkpoint, loaded.bytes), (Some(expected), bytes.len() as u64));
        for offset in 0..bytes.len() as u64 {
            disk.corrupt(path, offset, 0x40);
            assert!(reload(&disk).is_err(), "byte {offset} of version {version}");
            disk.corrupt(path, offset, 0x40);
        }
    }
}

/// Version 3 as it was for a few hours: neither misread, nor passed over for an older checkpoint, whose log may be gone.
#[test]
fn version_3_without_times_is_refused() {
    let path = Path::new("/d/checkpoint-0000000000000005");
    let refused = |queues: &[u8]| {
        let disk = disk(1);
        disk.create(path).unwrap().write_all_at(&file_of(3, queues), 0).unwrap();
        reload(&disk).map(|loaded| loaded.checkpoint)
    };
    let error = refused(QUEUES_WITHOUT_TIMES).unwrap_err().to_string();
    let expected = "/d/checkpoint-0000000000000005 has format version 3 as it never was in a release: its blocks have no \
                    times: it cannot be read";
    assert_eq!(error, expected);
    // Without blocks both are the same.
    let without_blocks = b"\x09\x04\x04\0\0\0\x01\x02ab\x03xyz\x01\0\0\0\0\0\0\0";
    assert_eq!(refused(without_blocks).unwrap().unwrap().queues[0].next_seq, 4);
}

#[test]
fn an_empty_directory_has_none() {
    let loaded = reload(&disk(1)).unwrap();
    assert_eq!((loaded.checkpoint, loaded.next_number), (None, 0));
}

#[test]
fn a_newer_format_is_refused() {
    let disk = disk(1);
    save(&disk, &sample()).unwrap();
    disk.corrupt(Path::new("/d/checkpoint-0000000000000005"), 4, 15);
    let error = reload(&disk).unwrap_err().to_string();
    assert!(error.contains("format version 8, expected at most 7"), "{error}");
}

#[test]
fn every_damaged_byte_is_noticed() {
    let disk = disk(1);
    save(&disk, &sample()).unwrap();
    let path = Path::new("/d/checkpoint-0000000000000005");
    for offset in 0..disk.contents()[path].len() as u64 {
        disk.corrupt(path, offset, 0x40);
        assert!(reload(&disk).is_err(), "byte {offset}");
        disk.corrupt(path, offset, 0x40);
    }
    reload(&disk).unwrap();
}

#[test]
fn a_damaged_newest_falls_back_and_is_reported() {
    let disk = disk(1);
    let old = sample();
    save(&disk, &old).unwrap();
    disk.fail(Op::Rename, 2, Fault::Io);
    let new = Checkpoint { number: 6, ..sample() };
    save(&disk, &new).unwrap_err();
    assert_eq!(reload(&disk).unwrap().checkpoint, Some(new));
    disk.corrupt(Path::new("/d/checkpoint-0000000000000006"), 30, 1);
    let loaded = reload(&disk).unwrap();
    assert_eq!((loaded.checkpoint, loaded.damages.len(), loaded.next_number), (Some(old), 1, 7));
}

#[test]
fn once_there_was_room_no_checkpoint_needs_any() {
    let disk = disk(1);
    let dir = Path::new(DIR);
    disk.set_capacity(0);
    let new = |number| Checkpoint { number, ..sample() };
    reserve(&disk, dir, 0).unwrap();
    assert!(save(&disk, &new(5)).unwrap_err().is_disk_full());
    disk.set_capacity(u64::MAX);
    for number in [6, 7] {
        reserve(&disk, dir, 0).unwrap();
        save(&disk, &new(number)).unwrap();
    }
    disk.set_capacity(0);
    for number in 8..20 {
        save(&disk, &new(number)).unwrap();
        let loaded = reload(&disk.crash()).unwrap();
        assert_eq!((loaded.checkpoint, loaded.next_number), (Some(new(number)), number + 1));
        assert!(loaded.bytes < 200, "what an earlier one has left does not count: {}", loaded.bytes);
        reserve(&disk, dir, loaded.bytes).unwrap();
        assert!(disk.contents().values().all(|file| file.len() as u64 == RESERVED_MIN));
    }
}

#[test]
fn what_is_reserved_follows_what_is_needed() {
    let disk = disk(1);
    let reserved = || disk.contents()[&Path::new(DIR).join(TEMPORARY)].len() as u64;
    for (last_bytes, expected) in
        [(0, 1 << 20), (3 << 20, 6 << 20), (2 << 20, 6 << 20), (700 << 10, 1400 << 10), (0, 1400 << 10)]
    {
        reserve(&disk, Path::new(DIR), last_bytes).unwrap();
        assert_eq!(reserved(), expected, "after {last_bytes}");
    }
}

#[test]
fn a_failure_at_any_step_leaves_the_old_or_the_new() {
    let old = sample();
    let new = Checkpoint { number: 6, lsn: 1 << 40, ..sample() };
    for op in [Op::Create, Op::Write, Op::Sync, Op::Rename, Op::SyncDir, Op::Remove] {
        for seed in 0..10 {
            let disk = disk(seed);
            save(&disk, &old).unwrap();
            disk.fail(op, 1, Fault::Io);
            let result = save(&disk, &new);
            let found = reload(&disk.crash()).unwrap().checkpoint.unwrap();
            assert!(found == new || (found == old && result.is_err()), "{op:?} {seed}");
        }
    }
}

#[test]
fn many_queues_and_many_blocks_stay_small_and_load_fast() {
    let disk = disk(1);
    let mut queues: Vec<_> = (0..100_000)
        .map(|id| QueueState {
            id: QueueId(id),
            next_seq: id * 3,
            floor: id * 3,
            covered: id * 3,
            delivered_below: id * 3,
            blocks: Vec::new(),
            notes: Vec::new(),
            attempts: Vec::new(),
            delays: Vec::new(),
        })
        .collect();
    let blocks = (0..40_000).map(|i| block(u64::from(i) / 60, i % 60 * 99, u64::from(i) * 6000, 6000, &[]));
    queues.push(QueueState {
        id: QueueId(100_000),
        next_seq: 1 << 30,
        floor: 0,
        covered: 240_000_000,
        delivered_below: 3,
        blocks: blocks.collect(),
        notes: Vec::new(),
        attempts: Vec::new(),
        delays: Vec::new(),
    });
    let checkpoint = Checkpoint { number: 0, lsn: 7, clean: false, queues };
    save(&disk, &checkpoint).unwrap();
    let bytes = disk.contents()[Path::new("/d/checkpoint-0000000000000000")].len();
    let started = std::time::Instant::now();
    let loaded = reload(&disk).unwrap().checkpoint.unwrap();
    println!(
        "100,000 idle queues and one of 40,000 blocks: {bytes} bytes, loaded in {:?}",
        started.elapsed()
    );
    assert!(bytes < 2_000_000, "{bytes}");
    assert_eq!(loaded, checkpoint);
}

fn any_attempts() -> impl Strategy<Value = Vec<AttemptRange>> {
    let parts = prop::collection::vec((1u64..50, 0u64..200, any::<u32>(), any::<u32>()), 0..6);
    parts.prop_map(|parts| {
        let mut end = 0;
        let ranges = parts.into_iter().map(|(gap, more, failed, acquired)| {
            let first = end + gap;
            end = first + more;
            range(first, end, failed, acquired)
        });
        ranges.collect()
    })
}

fn any_delays() -> impl Strategy<Value = Vec<DelayRange>> {
    let parts = prop::collection::vec((1u64..50, 0u64..200, any::<u64>()), 0..6);
    parts.prop_map(|parts| {
        let mut end = 0;
        let ranges = parts.into_iter().map(|(gap, more, due_ms)| {
            let first = end + gap;
            end = first + more;
            delay(first, end, due_ms)
        });
        ranges.collect()
    })
}

fn any_state() -> impl Strategy<Value = QueueState> {
    let block_parts = (
        0u64..50,
        1u32..200,
        any::<u64>(),
        any::<u32>(),
        prop::option::of(any::<u64>()),
        any::<(u64, u64)>(),
    );
    let blocks = prop::collection::vec(block_parts, 0..6);
    let bytes = || prop::collection::vec(any::<u8>(), 0..20);
    let notes = prop::collection::vec((bytes(), bytes()), 0..4);
    let parts = (any::<u64>(), blocks, any::<[u32; 3]>(), notes, any_attempts(), any_delays());
    parts.prop_map(|(id, parts, below, notes, attempts, delays)| {
        let mut end = 0;
        let blocks = parts.into_iter().map(|(gap, span, file, offset, settled, (a, b))| {
            let first_seq = end + gap;
            end = first_seq + u64::from(span);
            let location = Location {
                file: SegmentId(file),
                class: Class::Durable,
                shared: offset & 1 == 1,
                offset,
                len: offset / 2,
                records: offset % (span + 1),
            };
            let settled = settled.map(|bits| {
                let mut bitmap = SeqBitmap::new(span);
                (0..span).filter(|i| bits >> (i % 64) & 1 == 1).for_each(|i| assert!(bitmap.set(i)));
                bitmap
            });
            let received = Received { first_ms: a.min(b), last_ms: a.max(b) };
            let shares = match b % 4 {
                0 => Shares::default(),
                1 => Shares::One(UserNumber(a as u16)),
                _ => {
                    let share = |(user, bytes): (u16, u32)| Share { user: UserNumber(user), bytes };
                    Shares::Several([(3, span), (4, 0), (a as u16 | 8, offset)].map(share).into())
                }
            };
            BlockRef { location, first_seq, span, settled, received, expires: a & 1 == 1, shares }
        });
        let blocks = blocks.collect();
        let [floor, covered, delivered_below] = below.map(u64::from);
        let next_seq = end.max(u64::from(u32::MAX));
        let note = |(key, value): (Vec<u8>, Vec<u8>)| Note { key: key.into(), value: value.into() };
        let notes = notes.into_iter().map(note).collect();
        QueueState {
            id: QueueId(id),
            next_seq,
            floor,
            covered,
            delivered_below,
            blocks,
            notes,
            attempts,
            delays,
        }
    })
}

proptest! {
    #[test]
    fn what_was_saved_is_loaded(queues in prop::collection::vec(any_state(), 0..5), lsn: u64, clean: bool) {
        let disk = disk(1);
        let checkpoint = Checkpoint { number: 3, lsn, clean, queues };
        save(&disk, &checkpoint).unwrap();
        prop_assert_eq!(reload(&disk).unwrap().checkpoint, Some(checkpoint));
    }

    #[test]
    fn any_bytes_are_survived(content in prop::collection::vec(any::<u8>(), 0..200), queues in 0u64..9) {
        let mut bytes = b"PHCK\x06\0\0\0\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec();
        bytes.extend_from_slice(&((HEADER + content.len() + TRAILER) as u64).to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        bytes.resize(HEADER, 0);
        bytes.extend_from_slice(&content);
        bytes.extend_from_slice(&queues.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&3u64.to_le_bytes()), &bytes[HEADER..]);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(&END_MAGIC);
        let _ = parse(&bytes, Path::new("checkpoint-3"), 3);
    }
}
