//! The delivery limit: who leaves when, what is counted, and the machine against a plain model.

use std::collections::BTreeMap;

use posthouse_model::attempts::{AttemptRange, Attempts};
use posthouse_model::ids::first_of_level;

use super::super::chunks::Residence;
use super::super::departures::Departed;
use super::*;

fn limited(limit: u64) -> TestQueue {
    let mut queue = TestQueue::default();
    queue.set_settings(QueueSettings { delivery_limit: Some(limit), ..QueueSettings::default() });
    queue
}

/// `(seq, failed, acquired)` of what is taken.
fn take_counted(queue: &mut TestQueue, messages: u32) -> Vec<(Seq, u32, u32)> {
    let mut runs = Vec::new();
    queue.take_any(Limits { messages, bytes: usize::MAX }, false, &mut runs);
    counted(&runs)
}

fn counted(runs: &[Run]) -> Vec<(Seq, u32, u32)> {
    let of = |run: &Run| {
        let Attempts { failed, acquired } = run.attempts;
        (run.first_seq..=run.last_seq()).map(move |seq| (seq, failed, acquired))
    };
    runs.iter().flat_map(of).collect()
}

fn requeue(queue: &mut TestQueue, first: Seq, last: Seq) {
    queue.requeue(first, last, &mut Vec::new());
}

#[test]
fn a_limit_of_n_means_n_plus_1_deliveries() {
    for limit in 0..4 {
        let mut queue = limited(limit);
        push(&mut queue, 1);
        let mut deliveries = 0;
        while !take_counted(&mut queue, 1).is_empty() {
            deliveries += 1;
            requeue(&mut queue, 0, 0);
        }
        assert_eq!(deliveries, limit + 1);
        assert_eq!(queue.take_departed(), Departed { ranges: vec![(0, 0)], persistent: true });
        assert_eq!(queue.departure_counts().delivery_limit, 1);
        assert_eq!((queue.ready(), queue.unacked(), queue.attempts().count()), (0, 0, 0));
    }
}

#[test]
fn what_is_released_was_handed_out_and_has_not_failed() {
    let mut queue = limited(1);
    push(&mut queue, 2);
    assert_eq!(take_counted(&mut queue, 9), [(0, 0, 0), (1, 0, 0)]);
    for times in 1..5 {
        queue.release(0, 1, &mut Vec::new());
        assert_eq!(take_counted(&mut queue, 9), [(0, 0, times), (1, 0, times)]);
    }
    requeue(&mut queue, 1, 1);
    queue.release(0, 0, &mut Vec::new());
    assert_eq!(take_counted(&mut queue, 9), [(0, 0, 5), (1, 1, 5)]);
    requeue(&mut queue, 0, 1);
    assert_eq!(take_counted(&mut queue, 9), [(0, 1, 6)], "the other one has failed twice");
}

#[test]
fn some_of_a_range_leave() {
    let mut queue = limited(1);
    push(&mut queue, 5);
    take_counted(&mut queue, 9);
    requeue(&mut queue, 1, 2);
    requeue(&mut queue, 4, 4);
    take_counted(&mut queue, 9);
    requeue(&mut queue, 0, 4);
    assert_eq!(queue.take_departed().ranges, [(1, 2), (4, 4)]);
    assert_eq!((queue.ready(), queue.unacked()), (2, 0));
    assert_eq!(take_counted(&mut queue, 9), [(0, 1, 1), (3, 1, 1)]);
}

#[test]
fn without_a_limit_nothing_is_kept() {
    let mut queue = TestQueue::default();
    push(&mut queue, 1);
    take_counted(&mut queue, 1);
    requeue(&mut queue, 0, 0);
    assert_eq!((queue.attempts().count(), take_counted(&mut queue, 1)), (0, vec![(0, 0, 0)]));
    let mut queue = limited(u64::MAX);
    push(&mut queue, 1);
    for times in 0..100 {
        assert_eq!(take_counted(&mut queue, 1), [(0, times, times)]);
        requeue(&mut queue, 0, 0);
    }
    queue.set_settings(QueueSettings::default());
    assert_eq!((queue.attempts().count(), take_counted(&mut queue, 1)), (0, vec![(0, 0, 0)]));
}

#[test]
fn counts_survive_a_restart_for_what_does() {
    let mut queue = limited(5);
    push(&mut queue, 6);
    take_counted(&mut queue, 5);
    requeue(&mut queue, 1, 4);
    queue.take_any(ALL, true, &mut Vec::new());
    let attempts = vec![AttemptRange { first: 1, last: 4, attempts: Attempts { failed: 1, acquired: 1 } }];
    push(&mut queue, 3);
    let mut kept = Queue::recover(Recovered {
        chunks: vec![Held::recovered(0, 6, None, Residence::Memory(Arc::new(chunk(0, 6))))],
        next_seq: 9,
        redelivered_below: 5,
    });
    kept.restore_attempts(attempts.clone());
    assert_eq!(kept.attempts().count(), 0, "there is no limit");
    kept.set_settings(queue.settings().clone());
    kept.chunks.settle(2, 2);
    kept.ready -= 1;
    kept.restore_attempts(attempts);
    assert_eq!(
        take_counted(&mut kept, 9),
        [(0, 0, 0), (1, 1, 1), (3, 1, 1), (4, 1, 1), (5, 0, 0)],
        "what is settled stays away"
    );
}

#[test]
fn each_priority_counts_for_itself() {
    let mut queue = TestQueue::default();
    let settings = QueueSettings { max_priority: 9, delivery_limit: Some(1), ..QueueSettings::default() };
    queue.set_settings(settings.clone());
    for level in [0, 3] {
        let chunk = Arc::new(chunk(0, 2));
        queue.push_shared_at(level, chunk, Persistence::Persistent, 0, &mut Vec::new());
    }
    let third = first_of_level(3);
    assert_eq!(take_counted(&mut queue, 3), [(third, 0, 0), (third + 1, 0, 0), (0, 0, 0)]);
    requeue(&mut queue, third, third);
    requeue(&mut queue, 0, 0);
    let mut known = Vec::new();
    queue.note_attempts(third, third, &mut known);
    let once = Attempts { failed: 1, acquired: 1 };
    assert_eq!(known, [AttemptRange { first: third, last: third, attempts: once }]);
    assert_eq!(take_counted(&mut queue, 9), [(third, 1, 1), (0, 1, 1), (1, 0, 0)]);
    requeue(&mut queue, third, third + 1);
    assert_eq!(queue.take_departed().ranges, [(third, third)]);
    assert_eq!((queue.ready(), queue.unacked()), (1, 2));
    requeue(&mut queue, 0, 0);
    assert_eq!(queue.take_departed().ranges, [(0, 0)]);
    assert_eq!(queue.departure_counts().delivery_limit, 2);
    let kept: Vec<_> = queue.levels().flat_map(|level| level.attempts()).collect();
    assert_eq!(kept, [AttemptRange { first: third + 1, last: third + 1, attempts: once }]);
    queue.set_settings(QueueSettings { delivery_limit: None, ..settings.clone() });
    assert_eq!(queue.levels().flat_map(|level| level.attempts()).count(), 0);
    queue.set_settings(settings);
    queue.restore_attempts(kept);
    assert_eq!(take_counted(&mut queue, 9), [(third + 1, 1, 1)]);
}

#[derive(Clone, Debug)]
enum Op {
    Push(u32),
    Take(u32, bool),
    Settle(usize, usize),
    Return(usize, usize, bool),
    Purge,
    Spill(usize),
    Load,
    Limit(Option<u64>),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (1u32..100).prop_map(Op::Push),
        ((1u32..80), any::<bool>()).prop_map(|(n, settle)| Op::Take(n, settle)),
        ((1u32..80), Just(false)).prop_map(|(n, settle)| Op::Take(n, settle)),
        ((0usize..100), (0usize..40)).prop_map(|(at, n)| Op::Settle(at, n)),
        ((0usize..100), (0usize..40), any::<bool>()).prop_map(|(at, n, failed)| Op::Return(at, n, failed)),
        ((0usize..100), (0usize..40), Just(true)).prop_map(|(at, n, failed)| Op::Return(at, n, failed)),
        Just(Op::Purge),
        (0usize..5_000).prop_map(Op::Spill),
        Just(Op::Load),
        prop::option::of(0u64..4).prop_map(Op::Limit),
    ]
}

/// What is known of each message, and where it is.
#[derive(Default)]
struct Counts {
    limit: Option<u64>,
    plain: Model,
    attempts: BTreeMap<Seq, (u32, u32)>,
    departed: Vec<Seq>,
}

impl Counts {
    fn of(&self, seq: Seq) -> (Seq, u32, u32) {
        let (failed, acquired) = self.attempts.get(&seq).copied().unwrap_or_default();
        (seq, failed, acquired)
    }

    fn come_back(&mut self, first: Seq, last: Seq, failed: bool) {
        for seq in first..=last {
            if let Some(limit) = self.limit {
                let counts = self.attempts.entry(seq).or_default();
                counts.0 += u32::from(failed);
                counts.1 += 1;
                if failed && u64::from(counts.0) > limit {
                    self.departed.push(seq);
                    self.attempts.remove(&seq);
                    continue;
                }
            }
            self.plain.ready.push((seq, true));
        }
        self.plain.ready.sort_unstable();
    }
}

fn take_some(queue: &mut TestQueue, disk: &Disk, messages: u32, settle: bool) -> Vec<(Seq, u32, u32)> {
    let mut runs = Vec::new();
    loop {
        let left = messages - runs.iter().map(|run: &Run| run.count).sum::<u32>();
        match queue.take_any(Limits { messages: left, bytes: 3_000 }, settle, &mut runs).0 {
            TakeEnd::Parked => break,
            TakeEnd::NeedsLoad => load(queue, disk),
            TakeEnd::Limit if left == 0 => break,
            TakeEnd::Limit => {}
        }
    }
    taken(&runs);
    counted(&runs)
}

fn step(step: &Op, queue: &mut TestQueue, counts: &mut Counts, disk: &mut Disk) {
    match *step {
        Op::Push(count) => {
            push(queue, count);
            counts.plain.push(count);
        }
        Op::Take(count, settle) => {
            let count = counts.plain.ready.len().min(count as usize);
            let seqs: Vec<Seq> = counts.plain.ready.drain(..count).map(|(seq, _)| seq).collect();
            let expected: Vec<_> = seqs.iter().map(|&seq| counts.of(seq)).collect();
            assert_eq!(take_some(queue, disk, count as u32, settle), expected);
            if settle {
                counts.attempts.retain(|seq, _| !seqs.contains(seq));
            } else {
                counts.plain.unacked.extend(seqs);
                counts.plain.unacked.sort_unstable();
            }
        }
        Op::Settle(at, count) => {
            if let Some((first, last)) = counts.plain.pick(at, count) {
                queue.settle(first, last);
                counts.attempts.retain(|&seq, _| seq < first || seq > last);
            }
        }
        Op::Return(at, count, failed) => {
            if let Some((first, last)) = counts.plain.pick(at, count) {
                match failed {
                    true => queue.requeue(first, last, &mut Vec::new()),
                    false => queue.release(first, last, &mut Vec::new()),
                }
                counts.come_back(first, last, failed);
            }
        }
        Op::Purge => {
            queue.purge(&mut Vec::new());
            for (seq, _) in counts.plain.ready.drain(..) {
                counts.attempts.remove(&seq);
            }
        }
        Op::Limit(limit) => {
            queue.set_settings(QueueSettings { delivery_limit: limit, ..QueueSettings::default() });
            counts.limit = limit;
            if limit.is_none() {
                counts.attempts.clear();
            }
        }
        Op::Spill(keep) => super::apply(&super::Op::Spill(keep), queue, &mut counts.plain, disk),
        Op::Load => load(queue, disk),
    }
}

proptest! {
    #[test]
    fn agrees_with_a_count_per_message(ops in prop::collection::vec(op(), 1..80)) {
        let (mut queue, mut counts, mut disk) = (TestQueue::default(), Counts::default(), Disk::default());
        for op in &ops {
            step(op, &mut queue, &mut counts, &mut disk);
            prop_assert_eq!(queue.ready() as usize, counts.plain.ready.len());
            prop_assert_eq!(queue.unacked() as usize, counts.plain.unacked.len());
            let kept: BTreeMap<Seq, (u32, u32)> = queue
                .attempts()
                .flat_map(|AttemptRange { first, last, attempts: Attempts { failed, acquired } }| {
                    (first..=last).map(move |seq| (seq, (failed, acquired)))
                })
                .collect();
            prop_assert_eq!(&kept, &counts.attempts);
            let departed = queue.take_departed().ranges;
            let departed: Vec<Seq> = departed.into_iter().flat_map(|(first, last)| first..=last).collect();
            prop_assert_eq!(departed, std::mem::take(&mut counts.departed));
            for location in queue.take_released() {
                prop_assert!(disk.stored.remove(&location).is_some(), "released twice");
            }
        }
    }
}
