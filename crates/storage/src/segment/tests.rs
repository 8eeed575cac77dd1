mod sharing;

use super::format::FILE_HEADER;
use super::*;
use crate::disk::sim::{Fault, Op, SimDisk};
use posthouse_model::chunk::ChunkBuilder;

fn chunk(messages: u32, body: usize) -> Arc<Chunk> {
    let mut builder = ChunkBuilder::default();
    for i in 0..messages {
        builder.push(1, 5, b"\0\x01q", b"head", body, &vec![i as u8; body]);
    }
    Arc::new(builder.finish())
}

fn block(queue: u64, first_seq: Seq, chunk: &Arc<Chunk>) -> BlockIn {
    BlockIn { queue: QueueId(queue), first_seq, chunk: Arc::clone(chunk), summary: Vec::new() }
}

fn disk(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    for dir in ["/d/segments", "/d/spill"] {
        disk.create_dir_all(Path::new(dir)).unwrap();
    }
    disk
}

fn open(disk: &SimDisk) -> SegmentStore {
    SegmentStore::open(Arc::new(disk.clone()), Path::new("/d"), 0, SEGMENT_BYTES).unwrap()
}

fn names(disk: &SimDisk, dir: &str) -> usize {
    disk.list(Path::new(dir)).unwrap().len()
}

#[test]
fn reads_back_what_was_written() {
    let disk = disk(1);
    let store = open(&disk);
    let (a, b) = (chunk(3, 10), chunk(1, 0));
    let placed = store.write(Class::Durable, &[block(1, 5, &a), block(2, 0, &b)]).unwrap();
    let more = store.write(Class::Durable, &[block(1, 8, &b)]).unwrap();
    assert_eq!(placed[0].file, more[0].file);
    for (location, queue, seq, chunk) in [(placed[0], 1, 5, &a), (placed[1], 2, 0, &b), (more[0], 1, 8, &b)] {
        assert_eq!(store.read(&location, QueueId(queue), seq).unwrap().bytes(), chunk.bytes());
    }
    let error = store.read(&placed[0], QueueId(1), 6).unwrap_err().to_string();
    assert!(
        error.contains("block owner: expected queue 1 from message 6, got queue 1 from message 5"),
        "{error}"
    );
}

#[test]
fn a_summary_and_a_time_are_read_without_the_records() {
    let disk = disk(1);
    let store = open(&disk);
    for summary in [Vec::new(), vec![7; 17], vec![9; 256], vec![1; 4000]] {
        let with_summary = BlockIn { summary: summary.clone(), ..block(1, 5, &chunk(3, 1000)) };
        let placed = store.write(Class::Durable, &[with_summary]).unwrap()[0];
        assert_eq!(store.read_summary(&placed, QueueId(1), 5).unwrap(), summary);
        assert_eq!(store.read_first_ms(&placed, QueueId(1), 5).unwrap(), 5);
        let (read, with) = store.read_with_summary(&placed, QueueId(1), 5).unwrap();
        assert_eq!((read.bytes(), with), (chunk(3, 1000).bytes(), summary.clone()));
        assert!(store.read_summary(&placed, QueueId(2), 5).is_err());
        if !summary.is_empty() {
            let path = Path::new("/d/segments/0000000000000000.seg");
            let at = u64::from(placed.offset) + BLOCK_HEADER as u64 + 3;
            disk.corrupt(path, at, 1);
            let error = store.read_summary(&placed, QueueId(1), 5).unwrap_err().to_string();
            assert!(error.contains("summary checksum"), "{error}");
            assert!(store.read(&placed, QueueId(1), 5).is_err());
        }
    }
}

#[test]
fn rolls_at_the_limit_and_takes_one_oversize_block() {
    let store = open(&disk(1));
    let mebibyte = chunk(1, 1 << 20);
    let placed = store.write(Class::Durable, &vec![block(1, 0, &mebibyte); 40]).unwrap();
    let mut per_file = std::collections::BTreeMap::new();
    for location in &placed {
        *per_file.entry(location.file).or_insert(0) += 1;
        assert!(location.offset + location.len <= SEGMENT_BYTES);
    }
    assert_eq!(per_file.into_values().collect::<Vec<_>>(), [15, 15, 10]);
    let giant =
        store.write(Class::Durable, &[block(1, 0, &chunk(1, 20 << 20)), block(1, 1, &mebibyte)]).unwrap();
    assert!(giant[0].len > SEGMENT_BYTES && giant[0].offset == FILE_HEADER as u32);
    assert_ne!(giant[0].file, giant[1].file);
    assert_eq!(
        store.read(&giant[0], QueueId(1), 0).unwrap().bytes().len() + BLOCK_HEADER,
        giant[0].len as usize
    );
}

#[test]
fn dead_files_go_durable_ones_only_after_a_checkpoint() {
    let disk = disk(1);
    let store = open(&disk);
    let mebibyte = chunk(1, 1 << 20);
    for class in [Class::Durable, Class::Spill] {
        let placed = store.write(class, &vec![block(1, 0, &mebibyte); 16]).unwrap();
        assert_eq!(store.usage(class).files, 2);
        for location in &placed[..15] {
            store.release(location);
        }
    }
    assert_eq!((names(&disk, "/d/segments"), names(&disk, "/d/spill")), (2, 1));
    let retired = store.retired();
    assert_eq!(retired, [SegmentId(0)]);
    store.checkpoint_done(&retired).unwrap();
    assert_eq!(names(&disk, "/d/segments"), 1);
    assert_eq!(store.usage(Class::Durable).files, 1);
}

#[test]
fn a_read_after_deletion_says_gone() {
    let store = open(&disk(1));
    let placed = store.write(Class::Durable, &vec![block(1, 0, &chunk(1, 1 << 20)); 16]).unwrap();
    placed[..15].iter().for_each(|location| store.release(location));
    store.checkpoint_done(&store.retired()).unwrap();
    assert!(is_gone(&store.read(&placed[0], QueueId(1), 0).unwrap_err()));
}

#[test]
fn mostly_dead_counts_what_is_settled_inside_live_blocks() {
    let store = open(&disk(1));
    let placed = store.write(Class::Durable, &vec![block(1, 0, &chunk(1, 1 << 20)); 31]).unwrap();
    let total = u64::from(placed[0].len) * 15;
    let live = |a, b| HashMap::from([(SegmentId(0), a), (SegmentId(1), b)]);
    let mostly_dead = |a, b| store.mostly_dead(Class::Durable, &live(a, b));
    assert_eq!(mostly_dead(total, total), []);
    assert_eq!(mostly_dead(total / 3, total / 4), [SegmentId(1), SegmentId(0)]);
    assert_eq!(store.mostly_dead(Class::Spill, &live(0, 0)), []);
    store.set_aside(SegmentId(1));
    assert_eq!(mostly_dead(total / 3, total / 4), [SegmentId(0)]);
}

#[test]
fn adopts_what_a_checkpoint_names_and_deletes_the_rest() {
    let disk = disk(1);
    let store = open(&disk);
    let placed = store.write(Class::Durable, &vec![block(1, 7, &chunk(1, 1 << 20)); 16]).unwrap();
    store.sync().unwrap();
    let disk = disk.crash();
    let store = open(&disk);
    store.adopt(&placed[3]).unwrap();
    let missing = Location { file: SegmentId(77), ..placed[3] };
    assert!(store.adopt(&missing).unwrap_err().to_string().contains("expected a file, got none"));
    let beyond = Location { offset: 16 << 20, ..placed[3] };
    assert!(store.adopt(&beyond).unwrap_err().to_string().contains("expected it to end at byte"));
    store.delete_orphans().unwrap();
    assert_eq!(names(&disk, "/d/segments"), 1);
    store.read(&placed[3], QueueId(1), 7).unwrap();
    let next = store.write(Class::Durable, &[block(1, 8, &chunk(1, 1))]).unwrap();
    assert!(next[0].file > placed[15].file);
}

#[test]
fn what_was_synced_survives_a_crash_at_any_later_point() {
    for seed in 0..20 {
        let disk = disk(seed);
        let store = open(&disk);
        let data = chunk(4, 3000);
        let placed = store.write(Class::Durable, &vec![block(1, 7, &data); 5]).unwrap();
        store.sync().unwrap();
        store.write(Class::Durable, &vec![block(2, 0, &data); 5]).unwrap();
        let store = open(&disk.crash());
        for location in &placed {
            assert_eq!(store.read(location, QueueId(1), 7).unwrap().bytes(), data.bytes());
        }
    }
}

#[test]
fn every_damaged_byte_is_noticed_and_named() {
    let disk = disk(1);
    let store = open(&disk);
    let location = store.write(Class::Durable, &[block(1, 7, &chunk(2, 5))]).unwrap()[0];
    let path = Path::new("/d/segments/0000000000000000.seg");
    for offset in 0..u64::from(location.offset + location.len) {
        disk.corrupt(path, offset, 0x10);
        let error = open(&disk).read(&location, QueueId(1), 7).unwrap_err().to_string();
        assert!(error.contains("0000000000000000.seg is damaged at offset"), "{error}");
        disk.corrupt(path, offset, 0x10);
    }
    open(&disk).read(&location, QueueId(1), 7).unwrap();
}

#[test]
fn a_full_disk_is_survived_and_a_failed_sync_is_not() {
    let disk = disk(1);
    let store = open(&disk);
    let data = chunk(4, 100);
    for nth in 1..4 {
        disk.fail(Op::Write, nth, Fault::NoSpace);
        while let Ok(placed) = store.write(Class::Durable, &[block(1, 7, &data)]) {
            store.read(&placed[0], QueueId(1), 7).unwrap();
        }
        let placed = store.write(Class::Durable, &[block(1, 7, &data)]).unwrap();
        store.read(&placed[0], QueueId(1), 7).unwrap();
    }
    disk.fail(Op::Sync, 1, Fault::Io);
    assert!(matches!(store.sync(), Err(StorageError::Io { .. })));
    assert!(matches!(store.sync(), Err(StorageError::Stopped { .. })));
    assert!(matches!(store.write(Class::Durable, &[block(1, 7, &data)]), Err(StorageError::Stopped { .. })));
}

#[test]
fn open_handles_are_bounded() {
    let mut handles = files::Handles::default();
    let disk = disk(1);
    let file = disk.create(Path::new("/d/x")).unwrap();
    for id in 0..1000 {
        handles.put(SegmentId(id), Arc::clone(&file));
        assert!(handles.get(SegmentId(0)).is_some());
    }
    assert_eq!((0..1000).filter(|id| handles.get(SegmentId(*id)).is_some()).count(), 64);
}
