//! Chunks that several queues hold: written once, read by all of them, dead when the last one lets go.

use super::*;

const QUEUES: u64 = 10;

fn fanned_out(messages: u32, body: usize) -> Arc<Chunk> {
    let chunk = Arc::into_inner(chunk(messages, body)).unwrap();
    Arc::new(chunk.for_queues(QUEUES as usize))
}

/// Each queue has other numbers for the same messages.
fn first_seq(queue: u64) -> Seq {
    queue * 1000
}

fn write(store: &SegmentStore, class: Class, queue: u64, chunk: &Arc<Chunk>) -> Location {
    store.write(class, &[block(queue, first_seq(queue), chunk)]).unwrap()[0]
}

fn live_bytes(store: &SegmentStore) -> u64 {
    store.usage(Class::Durable).live_bytes
}

#[test]
fn one_block_serves_all_queues_until_the_last_lets_go() {
    let disk = disk(1);
    for class in [Class::Durable, Class::Spill] {
        let store = open(&disk);
        let shared = fanned_out(3, 100 << 10);
        // Some at once, others one by one.
        let blocks: Vec<_> = (0..4).map(|queue| block(queue, first_seq(queue), &shared)).collect();
        let mut placed = store.write(class, &blocks).unwrap();
        placed.extend((4..QUEUES).map(|queue| write(&store, class, queue, &shared)));
        let once = (FILE_HEADER + BLOCK_HEADER + shared.bytes().len()) as u64;
        assert_eq!(store.usage(class).bytes, once);
        for (queue, location) in (0..).zip(&placed) {
            let read = store.read(location, QueueId(queue), first_seq(queue)).unwrap();
            assert_eq!(read.bytes(), shared.bytes());
        }
        // The file is closed.
        write(&store, class, 0, &chunk(1, 20 << 20));
        for location in &placed[1..] {
            store.release(location);
            assert_eq!(store.usage(class).files, 2);
            store.read(&placed[0], QueueId(0), 0).unwrap();
        }
        store.release(&placed[0]);
        store.checkpoint_done(&store.retired()).unwrap();
        assert_eq!(store.usage(class).files, 1);
        assert!(is_gone(&store.read(&placed[0], QueueId(0), 0).unwrap_err()));
        // Whoever still has it in memory writes it again.
        let again = write(&store, class, 3, &shared);
        assert_eq!(store.read(&again, QueueId(3), first_seq(3)).unwrap().bytes(), shared.bytes());
    }
}

#[test]
fn classes_do_not_share() {
    let store = open(&disk(1));
    let shared = fanned_out(1, 1000);
    let places = [Class::Durable, Class::Spill].map(|class| write(&store, class, 1, &shared));
    assert_ne!(places[0].file, places[1].file);
}

#[test]
fn a_block_with_a_summary_is_one_queues_own() {
    let store = open(&disk(1));
    let shared = fanned_out(1, 1000);
    let with_summary = BlockIn { summary: vec![7; 17], ..block(1, first_seq(1), &shared) };
    let own = store.write(Class::Durable, &[with_summary]).unwrap()[0];
    assert!(!own.shared && write(&store, Class::Durable, 2, &shared) != own);
    assert_eq!(store.read_summary(&own, QueueId(1), first_seq(1)).unwrap(), [7; 17]);
}

#[test]
fn other_chunks_at_the_same_address_are_other_chunks() {
    let store = open(&disk(1));
    let mut places = std::collections::HashSet::new();
    for body in 0..2000 {
        // Freed at once, so that the next one may well lie where this one did.
        let shared = fanned_out(1, body);
        let location = write(&store, Class::Durable, 1, &shared);
        assert!(places.insert((location.file, location.offset)));
        assert_eq!(store.read(&location, QueueId(1), first_seq(1)).unwrap().bytes(), shared.bytes());
    }
}

#[test]
fn what_failed_counts_for_nobody() {
    for nth in 1..4 {
        let disk = disk(nth);
        let store = open(&disk);
        let (known, new) = (fanned_out(1, 1000), fanned_out(1, 10 << 20));
        let before = write(&store, Class::Durable, 0, &known);
        let counted = live_bytes(&store);
        // Two files, and writes to both.
        let blocks = [(1, &known), (1, &new), (2, &new), (1, &chunk(1, 10 << 20)), (2, &known)];
        let blocks = blocks.map(|(queue, chunk)| block(queue, first_seq(queue), chunk));
        disk.fail(Op::Write, nth, Fault::NoSpace);
        if store.write(Class::Durable, &blocks).is_ok() {
            assert!(nth > 2, "write {nth} did not fail");
            continue;
        }
        assert_eq!(live_bytes(&store), counted);
        let placed = store.write(Class::Durable, &blocks).unwrap();
        assert_eq!((placed[0], placed[1], placed[4]), (before, placed[2], before));
        placed.iter().chain([&before]).for_each(|location| store.release(location));
        assert_eq!(live_bytes(&store), 0);
    }
}

#[test]
fn what_a_checkpoint_names_lives_as_long_as_one_queue_has_it() {
    let disk = disk(1);
    let store = open(&disk);
    let shared = fanned_out(2, 1000);
    let placed: Vec<_> = (0..3).map(|queue| write(&store, Class::Durable, queue, &shared)).collect();
    store.sync().unwrap();
    let store = open(&disk.crash());
    placed.iter().for_each(|location| store.adopt(location).unwrap());
    assert_eq!(live_bytes(&store), u64::from(placed[0].len));
    for location in &placed[1..] {
        store.release(location);
        assert_eq!(store.retired(), []);
    }
    assert_eq!(store.read(&placed[0], QueueId(0), 0).unwrap().bytes(), shared.bytes());
    store.release(&placed[0]);
    assert_eq!((store.retired(), live_bytes(&store)), (vec![placed[0].file], 0));
}

#[test]
fn a_block_at_another_place_is_noticed() {
    let disk = disk(1);
    let store = open(&disk);
    let (a, b) = (fanned_out(1, 100), fanned_out(1, 100));
    let [a, b] = [&a, &b].map(|chunk| write(&store, Class::Durable, 1, chunk));
    let own = write(&store, Class::Durable, 1, &chunk(1, 100));
    // As a disk would that writes to the wrong place.
    let path = Path::new("/d/segments/0000000000000000.seg");
    let bytes = disk.contents()[path].clone();
    let from = b.offset as usize..(b.offset + b.len) as usize;
    let file = disk.open(path, crate::disk::Access::ReadWrite).unwrap();
    for wrong in [a, own] {
        file.write_all_at(&bytes[from.clone()], wrong.offset.into()).unwrap();
        let error = store.read(&wrong, QueueId(1), first_seq(1)).unwrap_err().to_string();
        assert!(error.contains("block owner"), "{error}");
    }
    store.read(&b, QueueId(1), first_seq(1)).unwrap();
    let own_for_shared = Location { shared: false, ..b };
    let error = store.read(&own_for_shared, QueueId(1), 5).unwrap_err().to_string();
    assert!(error.contains("expected queue 1 from message 5, got several queues at byte"), "{error}");
}

#[test]
fn a_file_with_damage_is_not_shared_any_more() {
    let store = open(&disk(1));
    let shared = fanned_out(1, 1000);
    let first = write(&store, Class::Durable, 1, &shared);
    store.set_aside(first.file);
    assert_ne!(write(&store, Class::Durable, 2, &shared), first);
}

/// Every queue has a thread that writes and lets go, as queues do that spill while a checkpoint moves what they hold.
#[test]
fn threads_that_write_the_same_chunks_share_them() {
    let store = Arc::new(open(&disk(1)));
    for _ in 0..20 {
        let chunks: Vec<_> = (0..50).map(|n| fanned_out(1, 100 + n)).collect();
        std::thread::scope(|scope| {
            for queue in 0..4 {
                let (store, chunks) = (&store, &chunks);
                scope.spawn(move || {
                    let batches = chunks.chunks(1 + queue as usize);
                    for batch in batches {
                        let blocks: Vec<_> =
                            batch.iter().map(|chunk| block(queue, first_seq(queue), chunk)).collect();
                        let placed = store.write(Class::Durable, &blocks).unwrap();
                        for (location, chunk) in placed.iter().zip(batch) {
                            let read = store.read(location, QueueId(queue), first_seq(queue)).unwrap();
                            assert_eq!(read.bytes(), chunk.bytes());
                            store.release(location);
                        }
                    }
                });
            }
        });
        assert_eq!(live_bytes(&store), 0);
    }
}
