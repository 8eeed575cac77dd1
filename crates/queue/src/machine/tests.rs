//! The machine against a plain model: a list of messages and what became of each.

use std::collections::HashMap;

use posthouse_model::attempts::Return;
use posthouse_model::chunk::ChunkBuilder;
use posthouse_model::chunk::Records;
use proptest::prelude::*;

use super::roster::Standing;
use super::*;

mod converting;
mod delays;
mod delivery_limit;
mod groups;
mod leaving;
mod limits;
mod priorities;
mod producers;
mod residency;
mod shares;
mod single_active;
mod ttl;
mod unique;
mod window;

type TestQueue = Queue<u32, u32>;

const CONSUMER: u64 = 1;
const ALL: Limits = Limits { messages: u32::MAX, bytes: usize::MAX };

impl<L: Copy, W: Clone> Queue<L, W> {
    /// Gives back what was handed out, as a failure, in a queue that delays nothing.
    pub(super) fn requeue(&mut self, first: Seq, last: Seq, wakes: &mut Vec<W>) {
        self.take_back(first, last, Back { why: Return::Failed, now_ms: 0 }, wakes);
    }

    /// The same, but nobody is to blame.
    pub(super) fn release(&mut self, first: Seq, last: Seq, wakes: &mut Vec<W>) {
        self.take_back(first, last, Back { why: Return::Released, now_ms: 0 }, wakes);
    }
}

fn chunk(first: Seq, count: u32) -> Chunk {
    let mut builder = ChunkBuilder::default();
    for i in 0..count {
        builder.push(0, 0, b"\0\x01q", b"", 8, &(first + Seq::from(i)).to_le_bytes());
    }
    builder.finish()
}

fn push(queue: &mut TestQueue, count: u32) {
    let chunk = chunk(queue.next_seq(), count);
    queue.push_shared(Arc::new(chunk), Persistence::Persistent, 0, &mut Vec::new());
}

fn consumer(queue: &mut TestQueue) {
    queue.roster.add(CONSUMER, 7, 0, false);
    queue.roster.set(CONSUMER, Standing::Parked);
}

/// `(seq, redelivered)` of every message in the runs; checks that the bodies are those of the numbers.
fn taken(runs: &[Run]) -> Vec<(Seq, bool)> {
    let mut all = Vec::new();
    for run in runs {
        let mut records = Records::new(&run.chunk.bytes()[run.offset as usize..]);
        for seq in run.first_seq..=run.last_seq() {
            let body = records.next().unwrap().body().to_vec();
            assert_eq!(body, seq.to_le_bytes());
            all.push((seq, run.redelivered));
        }
    }
    all
}

fn take(queue: &mut TestQueue, messages: u32) -> Vec<(Seq, bool)> {
    let mut runs = Vec::new();
    queue.take(CONSUMER, Limits { messages, bytes: usize::MAX }, false, &mut runs, &mut Vec::new());
    taken(&runs)
}

#[test]
fn returned_messages_come_first_and_are_marked() {
    let mut queue = TestQueue::default();
    consumer(&mut queue);
    push(&mut queue, 4);
    assert_eq!(take(&mut queue, 3), [(0, false), (1, false), (2, false)]);
    queue.requeue(1, 2, &mut Vec::new());
    assert_eq!(take(&mut queue, 9), [(1, true), (2, true), (3, false)]);
    assert_eq!((queue.ready(), queue.unacked()), (0, 4));
}

#[test]
fn a_push_wakes_a_parked_consumer_once() {
    let mut queue = TestQueue::default();
    consumer(&mut queue);
    let mut wakes = Vec::new();
    queue.push_copied(chunk(0, 1).bytes(), 1, Persistence::Transient, 0, &mut wakes);
    queue.push_copied(chunk(1, 1).bytes(), 1, Persistence::Transient, 0, &mut wakes);
    assert_eq!(wakes, [7]);
    assert_eq!(take(&mut queue, 9).len(), 2);
}

#[test]
fn two_takers_share_what_is_ready() {
    let mut queue = TestQueue::default();
    consumer(&mut queue);
    queue.roster.add(2, 8, 0, false);
    queue.roster.set(2, Standing::Parked);
    push(&mut queue, 10);
    assert_eq!(take(&mut queue, 100).len(), 5);
}

#[test]
fn byte_limits_let_one_message_through() {
    let mut queue = TestQueue::default();
    push(&mut queue, 10);
    let mut runs = Vec::new();
    let (end, _) = queue.take_any(Limits { messages: 10, bytes: 1 }, false, &mut runs);
    assert_eq!((taken(&runs).len(), end), (1, TakeEnd::Limit));
}

#[test]
fn after_a_restart_the_old_are_marked_and_the_settled_stay_away() {
    let mut queue = TestQueue::default();
    push(&mut queue, 6);
    queue.take_any(Limits { messages: 4, bytes: usize::MAX }, false, &mut Vec::new());
    queue.settle(0, 0);
    queue.settle(2, 2);
    let found = Recovered {
        chunks: queue.held().cloned().collect(),
        next_seq: queue.next_seq(),
        redelivered_below: queue.delivered_below(),
    };
    let mut queue = TestQueue::recover(found);
    assert_eq!(queue.ready(), 4);
    let mut runs = Vec::new();
    queue.take_any(ALL, true, &mut runs);
    assert_eq!(taken(&runs), [(1, true), (3, true), (4, false), (5, false)]);
}

#[test]
fn what_is_lost_on_disk_leaves_the_counts_right() {
    let mut queue = TestQueue::default();
    push(&mut queue, 6);
    push(&mut queue, 2);
    queue.take_any(Limits { messages: 4, bytes: usize::MAX }, false, &mut Vec::new());
    queue.settle(1, 1);
    queue.requeue(3, 3, &mut Vec::new());
    queue.written(0, 9, true);
    assert_eq!(queue.plan_load(1, |_| 10), [(0, 9)]);
    assert_eq!(queue.lost(0, &mut Vec::new()), 5);
    assert_eq!((queue.ready(), queue.unacked()), (2, 0));
    assert_eq!(queue.take_released(), [9]);
    let mut runs = Vec::new();
    queue.take_any(ALL, false, &mut runs);
    assert_eq!(taken(&runs), [(6, false), (7, false)]);
}

#[derive(Clone, Debug)]
enum Op {
    PushShared(u32),
    PushCopied(u32, bool),
    Take(u32),
    TakeSettled(u32),
    Settle(usize, usize),
    Requeue(usize, usize),
    Purge,
    Spill(usize),
    Load,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (1u32..200).prop_map(Op::PushShared),
        ((1u32..20), any::<bool>()).prop_map(|(n, p)| Op::PushCopied(n, p)),
        (1u32..150).prop_map(Op::Take),
        (1u32..150).prop_map(Op::TakeSettled),
        ((0usize..100), (0usize..60)).prop_map(|(at, n)| Op::Settle(at, n)),
        ((0usize..100), (0usize..60)).prop_map(|(at, n)| Op::Requeue(at, n)),
        Just(Op::Purge),
        (0usize..20_000).prop_map(Op::Spill),
        Just(Op::Load),
    ]
}

#[derive(Default)]
struct Model {
    ready: Vec<(Seq, bool)>,
    unacked: Vec<Seq>,
    next: Seq,
}

impl Model {
    fn push(&mut self, count: u32) {
        for _ in 0..count {
            self.ready.push((self.next, false));
            self.next += 1;
        }
    }

    /// Consecutive unacknowledged numbers from the `at`-th on.
    fn pick(&mut self, at: usize, count: usize) -> Option<(Seq, Seq)> {
        let at = at % self.unacked.len().max(1);
        let first = *self.unacked.get(at)?;
        let mut last = first;
        while last - first < count as u64 && self.unacked.contains(&(last + 1)) {
            last += 1;
        }
        self.unacked.retain(|&seq| seq < first || seq > last);
        Some((first, last))
    }
}

#[derive(Default)]
struct Disk {
    stored: HashMap<u32, Arc<Chunk>>,
    next: u32,
}

fn take_all(queue: &mut TestQueue, disk: &Disk, messages: u32, settle: bool) -> Vec<(Seq, bool)> {
    let mut runs = Vec::new();
    loop {
        let left = messages - runs.iter().map(|r: &Run| r.count).sum::<u32>();
        let (end, _) = queue.take_any(Limits { messages: left, bytes: 5_000 }, settle, &mut runs);
        match end {
            TakeEnd::Parked => break,
            TakeEnd::NeedsLoad => load(queue, disk),
            TakeEnd::Limit if left == 0 => break,
            TakeEnd::Limit => {}
        }
    }
    taken(&runs)
}

fn load(queue: &mut TestQueue, disk: &Disk) {
    for (first_seq, location) in queue.plan_load(3_000, |_| 1_000) {
        queue.loaded(first_seq, disk.stored[&location].clone(), &mut Vec::new());
    }
}

fn apply(op: &Op, queue: &mut TestQueue, model: &mut Model, disk: &mut Disk) {
    match *op {
        Op::PushShared(count) => {
            push(queue, count);
            model.push(count);
        }
        Op::PushCopied(count, persistent) => {
            let persistence = if persistent { Persistence::Persistent } else { Persistence::Transient };
            let chunk = chunk(queue.next_seq(), count);
            queue.push_copied(chunk.bytes(), count, persistence, 0, &mut Vec::new());
            model.push(count);
        }
        Op::Take(count) | Op::TakeSettled(count) => {
            let settle = matches!(op, Op::TakeSettled(_));
            let expected: Vec<_> = model.ready.drain(..model.ready.len().min(count as usize)).collect();
            assert_eq!(take_all(queue, disk, count, settle), expected);
            if !settle {
                model.unacked.extend(expected.iter().map(|&(seq, _)| seq));
                model.unacked.sort_unstable();
            }
        }
        Op::Settle(at, count) => {
            if let Some((first, last)) = model.pick(at, count) {
                assert_eq!(queue.settle(first, last).count, last - first + 1);
                assert_eq!(queue.settle(first, last).count, 0, "settled twice");
            }
        }
        Op::Requeue(at, count) => {
            if let Some((first, last)) = model.pick(at, count) {
                queue.requeue(first, last, &mut Vec::new());
                model.ready.extend((first..=last).map(|seq| (seq, true)));
                // Given-back messages precede all that were never handed out.
                model.ready.sort_unstable();
            }
        }
        Op::Purge => {
            let purged = queue.purge(&mut Vec::new()).count;
            assert_eq!(purged as usize, model.ready.len());
            model.ready.clear();
        }
        Op::Spill(keep) => {
            let mut writes = Vec::new();
            queue.plan_spill(keep, 20_000, &mut writes);
            for write in writes {
                disk.next += 1;
                disk.stored.insert(disk.next, write.chunk);
                queue.written(write.first_seq, disk.next, true);
            }
        }
        Op::Load => load(queue, disk),
    }
}

proptest! {
    #[test]
    fn agrees_with_the_model(ops in prop::collection::vec(op(), 1..80)) {
        let (mut queue, mut model, mut disk) = (TestQueue::default(), Model::default(), Disk::default());
        for op in &ops {
            apply(op, &mut queue, &mut model, &mut disk);
            prop_assert_eq!(queue.ready() as usize, model.ready.len());
            prop_assert_eq!(queue.unacked() as usize, model.unacked.len());
            residency::check(&mut queue);
            for location in queue.take_released() {
                prop_assert!(disk.stored.remove(&location).is_some(), "released twice");
            }
        }
        let rest = take_all(&mut queue, &disk, u32::MAX, true);
        prop_assert_eq!(rest, model.ready);
        for &seq in &model.unacked {
            prop_assert_eq!(queue.settle(seq, seq).count, 1);
        }
        for location in queue.take_released() {
            prop_assert!(disk.stored.remove(&location).is_some());
        }
        prop_assert_eq!(queue.memory_bytes(), 0);
        prop_assert!(disk.stored.is_empty(), "places left behind");
    }
}

/// Everything that is in memory goes to places numbered by its first message.
fn spill_all(queue: &mut TestQueue) {
    let mut writes = Vec::new();
    queue.plan_spill(0, usize::MAX, &mut writes);
    for write in &writes {
        queue.written(write.first_seq, write.first_seq as u32, true);
    }
}

fn load_next(queue: &mut TestQueue, count: u32) {
    for (first_seq, _) in queue.plan_load(1, |_| 1) {
        queue.loaded(first_seq, Arc::new(chunk(first_seq, count)), &mut Vec::new());
    }
}

#[test]
fn what_was_handed_out_of_a_lost_chunk_cannot_come_back() {
    let mut queue = TestQueue::default();
    consumer(&mut queue);
    push(&mut queue, 4);
    push(&mut queue, 4);
    assert_eq!(take(&mut queue, 6).len(), 6);
    queue.requeue(0, 1, &mut Vec::new());
    spill_all(&mut queue);
    assert_eq!(queue.plan_load(1, |_| 1), [(0, 0)]);
    assert_eq!(queue.lost(0, &mut Vec::new()), 4);
    assert_eq!((queue.ready(), queue.unacked()), (2, 2));
    queue.requeue(2, 5, &mut Vec::new());
    assert_eq!((queue.ready(), queue.unacked()), (4, 0));
    load_next(&mut queue, 4);
    assert_eq!(take(&mut queue, 9), [(4, true), (5, true), (6, false), (7, false)]);
}

#[test]
fn reading_a_backlog_without_settling_it_takes_bounded_memory() {
    let mut queue = TestQueue::default();
    consumer(&mut queue);
    for _ in 0..8 {
        push(&mut queue, 4);
    }
    let one = queue.memory_bytes() / 8;
    spill_all(&mut queue);
    for n in 0..8 {
        load_next(&mut queue, 4);
        assert!(queue.memory_bytes() <= 2 * one, "{} chunks in memory", queue.memory_bytes() / one);
        assert_eq!(take(&mut queue, 4).len(), 4, "chunk {n}");
    }
    queue.requeue(1, 2, &mut Vec::new());
    load_next(&mut queue, 4);
    assert_eq!(take(&mut queue, 4), [(1, true), (2, true)]);
}

#[test]
fn a_chunk_that_could_not_be_read_is_read_again_later() {
    let mut queue = TestQueue::default();
    consumer(&mut queue);
    push(&mut queue, 4);
    spill_all(&mut queue);
    assert_eq!(queue.plan_load(1, |_| 1), [(0, 0)]);
    assert!(queue.not_loaded(0, 0));
    assert_eq!(queue.plan_load(1, |_| 1), [(0, 0)], "planned again");
    queue.written(0, 9, false);
    assert!(!queue.not_loaded(0, 0), "it was moved");
    load_next(&mut queue, 4);
    assert_eq!(take(&mut queue, 9).len(), 4);
}

#[test]
fn consumers_of_one_queue_share_what_is_there() {
    let mut queue = TestQueue::default();
    for id in 0..3u32 {
        queue.roster.add(u64::from(id), id, 0, false);
        queue.roster.set(u64::from(id), Standing::Parked);
    }
    let limits = Limits { messages: u32::MAX, bytes: usize::MAX };
    let mut counts = [0; 3];
    let mut awake = std::collections::VecDeque::new();
    let mut wakes = Vec::new();
    let chunk = chunk(queue.next_seq(), 1000);
    queue.push_shared(Arc::new(chunk), Persistence::Persistent, 0, &mut wakes);
    awake.extend(wakes.drain(..));
    while let Some(id) = awake.pop_front() {
        let mut runs = Vec::new();
        let (end, _) = queue.take(u64::from(id), limits, true, &mut runs, &mut wakes);
        assert_eq!(end, TakeEnd::Parked, "the others' turn, or nothing is left");
        counts[id as usize] += runs.iter().map(|run| run.count).sum::<u32>();
        awake.extend(wakes.drain(..));
    }
    assert_eq!(queue.ready(), 0, "nothing stays behind while everybody is parked");
    assert_eq!(counts.iter().sum::<u32>(), 1000);
    let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
    assert!(most - least <= 64, "{counts:?}");
}

#[test]
fn credit_that_ends_within_a_turn_does_not_end_it() {
    let mut queue = TestQueue::default();
    for id in 0..2u32 {
        queue.roster.add(u64::from(id), id, 0, false);
        queue.roster.set(u64::from(id), Standing::Parked);
    }
    push(&mut queue, 100);
    let limits = Limits { messages: 1, bytes: usize::MAX };
    let (mut runs, mut wakes) = (Vec::new(), Vec::new());
    let (end, _) = queue.take(0, limits, false, &mut runs, &mut wakes);
    assert_eq!((end, wakes), (TakeEnd::Limit, vec![]));
}
