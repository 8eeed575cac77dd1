//! A stream on a simulated disk: what was synced is there at its number after the power was lost, whatever failed
//! before, down to where retention says.

use posthouse_model::props::HeaderView;
use posthouse_model::stream_args::{StreamConsumerArguments, StreamOffset};
use posthouse_queue::machine::{Limits, TakeEnd};

use super::*;
use crate::waker::ConsumerWaker;

const STREAM: &str = "s";
const READER: u64 = 1 << 40;
const NAMED: u64 = READER + 1;
const NAME: &[u8] = b"n";

/// Opens what is on `disk`; the stream keeps about 150 messages.
fn open(disk: &SimDisk, definitions: &[MetaOp]) -> (Node, Arc<QueueHandle>) {
    let node = Node::open(disk, definitions);
    let entry = |name: &str, value| (name.to_owned(), value);
    let arguments = FieldTable(vec![
        entry("x-queue-type", FieldValue::string("stream")),
        entry("x-max-length-bytes", FieldValue::I32(200_000)),
        entry("x-stream-max-segment-size-bytes", FieldValue::I32(1)),
    ]);
    let name = STREAM.to_owned();
    let declaration = QueueDeclaration { name, durable: true, arguments, ..QueueDeclaration::default() };
    let vhost = node.broker.vhost("/").unwrap();
    let queue = node.broker.declare_queue(&vhost, declaration, 0).unwrap().queue;
    (node, queue)
}

/// What was on disk before something failed.
#[derive(Clone, Copy, Default, Debug)]
struct Synced {
    /// Messages.
    messages: u64,
    /// The named consumer's offset.
    offset: u64,
    /// The same, though maybe not on disk.
    offset_at_most: u64,
}

/// Publishes the numbers from 0 on, each under its own number, has a named consumer settle them, and checkpoints.
fn work(node: &Node, queue: &Arc<QueueHandle>) -> Synced {
    let waker = ConsumerWaker::new(node.waker.clone(), 0, 1, "t".into());
    let arguments = StreamConsumerArguments { offset: StreamOffset::First, ..Default::default() };
    crate::streams::add_reader(&node.broker, queue, NAMED, waker, &arguments, Some(NAME)).unwrap();
    let mut synced = Synced::default();
    let mut publisher = Publisher::new(node.broker.clone(), node.waker.clone());
    let slot = publisher.slot(&[queue.id], |_| Some(queue.clone())).unwrap();
    let mut header = Vec::new();
    // Streams keep transient messages, too.
    Properties::default().encode(BODY_BYTES as u64, &mut header);
    let mut next = 0;
    for round in 0..ROUNDS {
        for _ in 0..3 * BATCH {
            publisher.append(slot, false, b"\0\0", &numbered(&header, next), &body(next));
            publisher.note_numbered(slot);
            next += 1;
        }
        publisher.flush();
        synced.offset_at_most = settle(node, queue, 2 * BATCH as u32);
        if !node.sync() {
            return synced;
        }
        synced = Synced { messages: next, offset: synced.offset_at_most, ..synced };
        if round % 8 == 7 && !node.checkpoint() {
            return synced;
        }
    }
    synced
}

/// A header with the publisher's number of its message.
fn numbered(header: &[u8], id: u64) -> Vec<u8> {
    let entries = vec![
        ("x-stream-publisher-reference".to_owned(), FieldValue::string("p")),
        ("x-stream-publishing-id".to_owned(), FieldValue::I64(id as i64)),
    ];
    let mut table = Vec::new();
    FieldTable(entries).encode(&mut table);
    HeaderView::parse(header).unwrap().with_headers(Some(&table))
}

/// The named consumer settles as many messages; where it is then.
fn settle(node: &Node, queue: &Arc<QueueHandle>, messages: u32) -> u64 {
    let mut runs = Vec::new();
    let limits = Limits { messages, bytes: usize::MAX };
    while deliver::take(&node.broker, queue, NAMED, limits, false, &mut runs).end == TakeEnd::NeedsLoad {
        std::thread::yield_now();
    }
    let ranges: Vec<_> = runs.iter().map(|run| (run.first_seq, run.last_seq())).collect();
    crate::streams::settle(&node.broker, queue, NAMED, &ranges, crate::streams::Outcome::Settled);
    offset(queue).unwrap()
}

fn offset(queue: &QueueHandle) -> Option<u64> {
    queue.lock().machine.stream().unwrap().stored_offsets().first().map(|stored| stored.next)
}

/// Reads the stream from its beginning, and compares.
fn verify(node: &Node, queue: &Arc<QueueHandle>, synced: Synced, what: &str) {
    let Synced { messages: synced, offset: settled, offset_at_most } = synced;
    // It may be forgotten only where it was never on disk.
    let stored = offset(queue).unwrap_or(0);
    assert!((settled..=offset_at_most).contains(&stored), "{what}: {stored}, {settled} was synced");
    let waker = ConsumerWaker::new(node.waker.clone(), 0, 1, "t".into());
    let arguments =
        StreamConsumerArguments { offset: StreamOffset::First, ..StreamConsumerArguments::default() };
    crate::streams::add_reader(&node.broker, queue, READER, waker, &arguments, None).unwrap();
    let (floor, end) = {
        let state = queue.lock();
        let next = state.machine.next_seqs()[0];
        (next - state.machine.ready(), next)
    };
    assert!(end >= synced, "{what}: {end} messages, {synced} were synced");
    // What retention leaves never goes below what is to be kept less a segment.
    assert!(floor + 80 <= synced.max(80), "{what}: begins at {floor}, {synced} were synced");
    let mut next = floor;
    loop {
        let mut runs = Vec::new();
        let limits = Limits { messages: 50, bytes: 20_000 };
        let taken = deliver::take(&node.broker, queue, READER, limits, false, &mut runs);
        for run in runs {
            let mut offset = run.offset;
            for seq in run.first_seq..run.first_seq + u64::from(run.count) {
                let record = run.chunk.record_at(offset).unwrap();
                assert_eq!((seq, number_of(record.body())), (next, next), "{what}");
                offset += record.len() as u32;
                next += 1;
            }
        }
        match taken.end {
            TakeEnd::Parked => break,
            TakeEnd::Limit => {}
            TakeEnd::NeedsLoad => std::thread::yield_now(),
        }
    }
    // A checkpoint may know the numbers of messages that were never on disk: those are not given out again.
    assert!((synced..=end).contains(&next), "{what}: read up to {next} of {end}, {synced} were synced");
    let known = queue.lock().machine.stream().unwrap().known_publishers();
    let last = known.first().map(|publisher| publisher.last_id + 1);
    assert_eq!(last.unwrap_or(0), next, "{what}: the publisher's number is that of its last message");
}

#[test]
fn power_is_lost_at_any_moment() {
    let definitions = open(&SimDisk::new(0), &[]).0.definitions();
    for seed in 0..8 {
        let disk = SimDisk::new(seed);
        let (node, queue) = open(&disk, &definitions);
        let synced = work(&node, &queue);
        assert_eq!(synced.messages, ROUNDS * 3 * BATCH, "nothing failed");
        let after = disk.crash();
        for (disk, time) in [(after.clone(), "first"), (after.crash(), "second")] {
            let (node, queue) = open(&disk, &definitions);
            verify(&node, &queue, synced, &format!("seed {seed}, {time} time"));
        }
    }
}

#[test]
fn each_operation_of_the_disk_fails_in_turn() {
    let definitions = open(&SimDisk::new(0), &[]).0.definitions();
    let clean = SimDisk::new(1);
    let (node, queue) = open(&clean, &definitions);
    let before: Vec<u64> = OPERATIONS.iter().map(|&(op, _)| clean.count(op)).collect();
    work(&node, &queue);
    for (&(op, fault), before) in OPERATIONS.iter().zip(before) {
        let times = clean.count(op) - before;
        assert!(times > 0, "{op:?} was never done");
        for nth in (1..=times).step_by((times as usize).div_ceil(8)) {
            let disk = SimDisk::new(nth);
            let (node, queue) = open(&disk, &definitions);
            disk.fail(op, nth, fault);
            let synced = work(&node, &queue);
            let (node, queue) = open(&disk.crash(), &definitions);
            verify(&node, &queue, synced, &format!("{op:?} number {nth} failed with {fault:?}"));
        }
    }
}
