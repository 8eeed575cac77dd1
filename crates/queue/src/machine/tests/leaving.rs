//! Messages on their way to other queues: what has become of each, and what a restart would find.

use posthouse_model::name::Name;
use posthouse_model::queue_settings::{DeadLetterStrategy, Overflow};

use super::super::chunks::Residence;
use super::super::departures::Reason;
use super::super::leaving::Run as Leaving;
use super::*;

fn with_dead_letters(max_length: Option<u64>) -> QueueSettings {
    let dead_letter_exchange = Name::new("dlx").ok();
    QueueSettings { max_length, dead_letter_exchange, ..QueueSettings::default() }
}

fn dead_lettering() -> TestQueue {
    let mut queue = TestQueue::default();
    queue.set_settings(with_dead_letters(None));
    queue
}

fn take_any(queue: &mut TestQueue, messages: u32) -> Vec<Seq> {
    let mut runs = Vec::new();
    queue.take_any(Limits { messages, bytes: usize::MAX }, false, &mut runs);
    taken(&runs).into_iter().map(|(seq, _)| seq).collect()
}

fn leave(queue: &mut TestQueue, most: usize) -> Vec<Leaving> {
    queue.take_leaving(most, |_| 100).into_iter().map(|parcel| parcel.run).collect()
}

fn run(first: Seq, last: Seq, reason: Reason) -> Leaving {
    Leaving { first, last, reason }
}

/// What a restart would find ready.
fn recovered(queue: &mut TestQueue) -> Vec<Seq> {
    queue.close_tail();
    let chunks = queue.held().map(|held| {
        let settled = queue.settled_for_good(held);
        Held::recovered(held.first_seq, held.span, settled, held.residence.clone())
    });
    let chunks: Vec<_> = chunks.filter(|held| held.live > 0).collect();
    let live: Vec<Seq> = chunks
        .iter()
        .flat_map(|held| {
            (0..held.span).filter(|&d| !held.is_settled(d)).map(|d| held.first_seq + Seq::from(d))
        })
        .collect();
    assert_eq!(live.first().copied().unwrap_or(queue.next_seq()), queue.floor());
    live
}

#[test]
fn the_rejected_leave_in_the_order_of_their_rejection() {
    let mut queue = dead_lettering();
    push(&mut queue, 6);
    assert_eq!(take_any(&mut queue, 5).len(), 5);
    for seq in [3, 1, 2] {
        queue.reject(seq, seq, Reason::Rejected);
    }
    queue.reject(4, 4, Reason::Nacked);
    assert_eq!((queue.ready(), queue.unacked(), queue.leaving()), (1, 1, 4));
    assert!(queue.has_leaving() && !queue.has_departed());
    let order = [run(3, 3, Reason::Rejected), run(1, 2, Reason::Rejected), run(4, 4, Reason::Nacked)];
    assert_eq!(leave(&mut queue, usize::MAX), order);
    assert!(!queue.has_leaving());
    assert_eq!(queue.departure_counts().rejected, 4);
    assert_eq!(recovered(&mut queue), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn without_an_exchange_the_rejected_are_done_with() {
    let mut queue = TestQueue::default();
    push(&mut queue, 3);
    take_any(&mut queue, 3);
    queue.reject(0, 1, Reason::Rejected);
    assert_eq!((queue.take_departed().ranges, queue.leaving(), queue.unacked()), (vec![(0, 1)], 0, 1));
    assert_eq!(recovered(&mut queue), [2]);
}

#[test]
fn what_was_moved_is_settled_when_the_log_has_it() {
    let mut queue = dead_lettering();
    push(&mut queue, 4);
    take_any(&mut queue, 4);
    queue.reject(0, 3, Reason::Rejected);
    leave(&mut queue, usize::MAX);
    queue.moved(0, 1, 10);
    queue.moved(2, 3, 20);
    queue.finish_moves(9);
    assert_eq!(recovered(&mut queue), [0, 1, 2, 3]);
    queue.finish_moves(10);
    assert_eq!(recovered(&mut queue), [2, 3]);
    queue.finish_moves(20);
    assert_eq!((queue.leaving(), queue.memory_bytes(), queue.floor()), (0, 0, 4));
}

#[test]
fn those_without_a_place_to_go_are_tried_again_before_the_others() {
    let mut queue = dead_lettering();
    push(&mut queue, 4);
    take_any(&mut queue, 4);
    queue.reject(0, 1, Reason::Rejected);
    leave(&mut queue, usize::MAX);
    queue.stalled(run(0, 1, Reason::Rejected));
    queue.reject(2, 2, Reason::Nacked);
    assert!(queue.has_stalled());
    queue.retry_stalled();
    assert_eq!(leave(&mut queue, usize::MAX), [run(0, 1, Reason::Rejected), run(2, 2, Reason::Nacked)]);
    assert_eq!(queue.dropped(0, 1).count, 2);
    assert_eq!(recovered(&mut queue), [2, 3]);
}

#[test]
fn turns_are_bounded_and_go_on_where_the_last_one_ended() {
    let mut queue = dead_lettering();
    for _ in 0..3 {
        push(&mut queue, 10);
    }
    take_any(&mut queue, 30);
    queue.reject(5, 29, Reason::Rejected);
    assert_eq!(leave(&mut queue, 1), [run(5, 9, Reason::Rejected)]);
    assert_eq!(leave(&mut queue, 1), [run(10, 19, Reason::Rejected)]);
    assert_eq!(leave(&mut queue, 1), [run(20, 29, Reason::Rejected)]);
}

#[test]
fn a_lost_chunk_takes_what_was_leaving_with_it() {
    let mut queue = dead_lettering();
    push(&mut queue, 3);
    push(&mut queue, 3);
    take_any(&mut queue, 6);
    queue.reject(1, 4, Reason::Rejected);
    spill_all(&mut queue);
    queue.requeue(0, 0, &mut Vec::new());
    assert_eq!(queue.lost(0, &mut Vec::new()), 3);
    assert_eq!((queue.ready(), queue.unacked(), queue.leaving()), (0, 1, 2));
    assert_eq!(leave(&mut queue, usize::MAX), [run(3, 4, Reason::Rejected)]);
}

#[test]
fn those_that_are_too_many_leave_and_need_not_be_read_for_others() {
    let mut queue = TestQueue::default();
    queue.set_settings(with_dead_letters(Some(2)));
    push(&mut queue, 2);
    spill_all(&mut queue);
    push(&mut queue, 2);
    assert_eq!((queue.ready(), queue.leaving()), (2, 2));
    assert_eq!(take_any(&mut queue, 9), [2, 3]);
    let parcels = queue.take_leaving(usize::MAX, |_| 1);
    assert!(matches!(parcels[0].residence, Residence::Stored(0)), "{parcels:?}");
    queue.set_settings(QueueSettings::default());
    assert_eq!(queue.dead_letter_target().unwrap().exchange, Name::new("dlx").unwrap());
}

#[test]
fn what_is_turned_away_leaves_though_it_came_last() {
    let mut queue = TestQueue::default();
    let overflow = Overflow::RejectPublishDlx;
    queue.set_settings(QueueSettings { overflow, max_length: Some(2), ..with_dead_letters(None) });
    let mut refused = Vec::new();
    queue.refuse(chunk(0, 4).bytes(), 4, &mut refused);
    assert_eq!(refused, [2, 3]);
    push(&mut queue, 4);
    queue.turn_away(2, 2);
    assert_eq!(take_any(&mut queue, 9), [0, 1]);
    assert_eq!(leave(&mut queue, usize::MAX), [run(2, 3, Reason::MaxLength)]);
    push(&mut queue, 1);
    assert_eq!(take_any(&mut queue, 9), [4]);
}

#[test]
fn those_that_stay_for_want_of_a_place_count_as_long_as_they_do() {
    let mut queue = TestQueue::default();
    let settings = QueueSettings {
        overflow: Overflow::RejectPublish,
        max_length_bytes: Some(20),
        dead_letter_strategy: Some(DeadLetterStrategy::AtLeastOnce),
        ..with_dead_letters(Some(3))
    };
    queue.set_settings(settings);
    push(&mut queue, 2);
    take_any(&mut queue, 2);
    queue.reject(0, 1, Reason::Rejected);
    let mut refused = Vec::new();
    queue.refuse(chunk(2, 2).bytes(), 2, &mut refused);
    assert_eq!(refused, [0, 1], "16 of 20 bytes are taken");
}

#[test]
fn levels_leave_by_one_way() {
    let mut queue = TestQueue::default();
    queue.set_settings(QueueSettings { max_priority: 9, ..with_dead_letters(Some(3)) });
    let mut wakes = Vec::new();
    for level in [0, 5, 5, 9] {
        let bytes = chunk(0, 1);
        queue.push_copied_at(level, bytes.bytes(), 1, Persistence::Persistent, 0, &mut wakes);
    }
    let (five, nine) = (5 << 56, 9 << 56);
    assert_eq!((queue.ready(), queue.leaving()), (3, 1));
    let mut runs = Vec::new();
    queue.take_any(ALL, false, &mut runs);
    queue.reject(five, five + 1, Reason::Nacked);
    queue.reject(nine, nine, Reason::Nacked);
    let order =
        [run(0, 0, Reason::MaxLength), run(five, five + 1, Reason::Nacked), run(nine, nine, Reason::Nacked)];
    assert_eq!(leave(&mut queue, usize::MAX), order);
    assert_eq!((queue.unacked(), queue.leaving()), (0, 4));
    queue.moved(five, five + 1, 7);
    queue.moved(nine, nine, 8);
    queue.finish_moves(7);
    assert_eq!((queue.leaving(), queue.dropped(0, 0).count), (2, 1));
    queue.finish_moves(8);
    assert_eq!((queue.leaving(), queue.memory_bytes()), (0, 0));
}

#[derive(Clone, Debug)]
enum Step {
    Push(u32, bool),
    Take(u32),
    Settle(usize),
    Reject(usize, usize),
    Requeue(usize),
    Purge,
    Spill,
    Leave(usize),
    Moved(u64),
    Stalled,
    Retry,
    Dropped,
    Claim(Seq, Seq, u64),
    Finish(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => ((1u32..30), any::<bool>()).prop_map(|(count, shared)| Step::Push(count, shared)),
        4 => (1u32..40).prop_map(Step::Take),
        2 => (0usize..40).prop_map(Step::Settle),
        6 => ((0usize..40), (1usize..20)).prop_map(|(at, count)| Step::Reject(at, count)),
        2 => (0usize..40).prop_map(Step::Requeue),
        1 => Just(Step::Purge),
        2 => Just(Step::Spill),
        4 => (1usize..3000).prop_map(Step::Leave),
        3 => (1u64..9).prop_map(Step::Moved),
        2 => Just(Step::Stalled),
        1 => Just(Step::Retry),
        1 => Just(Step::Dropped),
        2 => ((0u64..300), (0u64..20), (1u64..9)).prop_map(|(first, more, log)| Step::Claim(first, more, log)),
        2 => (1u64..9).prop_map(Step::Finish),
    ]
}

/// A queue as lists of numbers.
#[derive(Default)]
struct Plain {
    ready: Vec<Seq>,
    unacked: Vec<Seq>,
    waiting: Vec<Seq>,
    in_hand: Vec<Seq>,
    stalled: Vec<Seq>,
    moved: Vec<(u64, Seq)>,
    log: u64,
    max_length: usize,
}

impl Plain {
    fn enforce(&mut self) {
        let excess = self.ready.len().saturating_sub(self.max_length);
        self.waiting.extend(self.ready.drain(..excess));
    }

    fn unsettled(&self) -> Vec<Seq> {
        let moved = self.moved.iter().map(|&(_, seq)| seq);
        let mut all: Vec<Seq> = [&self.ready, &self.unacked, &self.waiting, &self.in_hand, &self.stalled]
            .into_iter()
            .flatten()
            .copied()
            .chain(moved)
            .collect();
        all.sort_unstable();
        all
    }
}

fn expand(runs: &[Leaving]) -> Vec<Seq> {
    runs.iter().flat_map(|run| run.first..=run.last).collect()
}

/// Does a step to both; the runs that the mover has in its hands are the queue's side of `in_hand`.
fn act(step: &Step, queue: &mut TestQueue, plain: &mut Plain, hand: &mut Vec<Leaving>, disk: &mut Disk) {
    match *step {
        Step::Push(count, shared) => {
            let first = queue.next_seq();
            plain.ready.extend(first..first + Seq::from(count));
            plain.enforce();
            match shared {
                true => push(queue, count),
                false => queue.push_copied(
                    chunk(first, count).bytes(),
                    count,
                    Persistence::Persistent,
                    0,
                    &mut Vec::new(),
                ),
            }
        }
        Step::Take(count) => {
            let expected: Vec<Seq> = plain.ready.drain(..plain.ready.len().min(count as usize)).collect();
            let got: Vec<Seq> = take_all(queue, disk, count, false).into_iter().map(|(seq, _)| seq).collect();
            assert_eq!(got, expected);
            plain.unacked.extend(expected);
        }
        Step::Settle(at) | Step::Requeue(at) => {
            let Some(&seq) = plain.unacked.get(at) else { return };
            plain.unacked.remove(at);
            if matches!(step, Step::Settle(_)) {
                assert_eq!(queue.settle(seq, seq).count, 1);
            } else {
                let at = plain.ready.partition_point(|&other| other < seq);
                plain.ready.insert(at, seq);
                plain.enforce();
                queue.requeue(seq, seq, &mut Vec::new());
            }
        }
        Step::Reject(at, count) => {
            let end = plain.unacked.len().min(at + count);
            for seq in plain.unacked.drain(at.min(end)..end) {
                queue.reject(seq, seq, Reason::Rejected);
                plain.waiting.push(seq);
            }
        }
        Step::Purge => {
            let mut ranges = Vec::new();
            assert_eq!(queue.purge(&mut ranges).count as usize, plain.ready.len());
            // The log is told of these: nothing else may be among them.
            let purged = ranges.iter().flat_map(|&(first, last)| first..=last);
            let unsettled = plain.unsettled();
            let purged: Vec<Seq> = purged.filter(|seq| unsettled.contains(seq)).collect();
            assert_eq!(purged, std::mem::take(&mut plain.ready));
        }
        Step::Spill => {
            let mut writes = Vec::new();
            queue.plan_spill(0, usize::MAX, &mut writes);
            for write in writes {
                disk.next += 1;
                disk.stored.insert(disk.next, write.chunk);
                queue.written(write.first_seq, disk.next, true);
            }
        }
        Step::Leave(most) => {
            let runs = leave(queue, most);
            let taken = expand(&runs);
            assert_eq!(taken, plain.waiting.drain(..taken.len()).collect::<Vec<_>>());
            assert!(!taken.is_empty() || plain.waiting.is_empty());
            plain.in_hand.extend(taken);
            hand.extend(runs);
        }
        Step::Moved(bytes) if !hand.is_empty() => {
            let run = hand.remove(0);
            plain.log += bytes;
            queue.moved(run.first, run.last, plain.log);
            let moved = plain.in_hand.drain(..(run.last - run.first + 1) as usize);
            plain.moved.extend(moved.map(|seq| (plain.log, seq)));
        }
        Step::Stalled if !hand.is_empty() => {
            let run = hand.remove(0);
            queue.stalled(run);
            plain.stalled.extend(plain.in_hand.drain(..(run.last - run.first + 1) as usize));
        }
        Step::Dropped if !hand.is_empty() => {
            let run = hand.remove(0);
            assert_eq!(queue.dropped(run.first, run.last).count, run.last - run.first + 1);
            plain.in_hand.drain(..(run.last - run.first + 1) as usize);
        }
        Step::Claim(first, more, bytes) => {
            let mut claimed = Vec::new();
            queue.claim(first, first + more, &mut claimed);
            let chosen = |seq: &Seq| (first..=first + more).contains(seq);
            let expected: Vec<Seq> = plain.ready.iter().copied().filter(chosen).collect();
            plain.ready.retain(|seq| !chosen(seq));
            let seqs = claimed.iter().flat_map(|&(first, last)| first..=last);
            assert_eq!(seqs.collect::<Vec<_>>(), expected);
            plain.log += bytes;
            for (first, last) in claimed {
                queue.moved(first, last, plain.log);
            }
            plain.moved.extend(expected.into_iter().map(|seq| (plain.log, seq)));
        }
        Step::Moved(_) | Step::Stalled | Step::Dropped => {}
        Step::Retry => {
            queue.retry_stalled();
            plain.stalled.append(&mut plain.waiting);
            std::mem::swap(&mut plain.stalled, &mut plain.waiting);
        }
        Step::Finish(back) => {
            let durable = plain.log.saturating_sub(back);
            queue.finish_moves(durable);
            plain.moved.retain(|&(until, _)| until > durable);
        }
    }
}

proptest! {
    #[test]
    fn a_restart_finds_all_that_had_not_arrived(
        max_length in prop_oneof![Just(usize::MAX), 0usize..30],
        steps in prop::collection::vec(step(), 1..100),
    ) {
        let (mut queue, mut plain) = (TestQueue::default(), Plain { max_length, ..Plain::default() });
        queue.set_settings(with_dead_letters(Some(max_length as u64)));
        let (mut hand, mut disk) = (Vec::new(), Disk::default());
        for step in &steps {
            act(step, &mut queue, &mut plain, &mut hand, &mut disk);
            prop_assert_eq!(queue.ready() as usize, plain.ready.len());
            prop_assert_eq!(queue.unacked() as usize, plain.unacked.len());
            let unsettled = plain.unsettled();
            let leaving = unsettled.len() - plain.ready.len() - plain.unacked.len();
            prop_assert_eq!(queue.leaving() as usize, leaving);
            prop_assert_eq!(recovered(&mut queue), unsettled);
            prop_assert!(!queue.has_departed());
        }
    }
}
