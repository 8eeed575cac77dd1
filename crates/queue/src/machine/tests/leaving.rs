//! Messages on their way to other queues: what has become of each, and what a restart would find.

use posthouse_model::name::Name;
use posthouse_model::queue_settings::{DeadLetterStrategy, Overflow};

use super::super::chunks::Residence;
use super::super::departures::Reason;
use posthouse_model::ids::QueueId;

use super::super::leaving::Run as Leaving;
use super::super::leaving::stalled::{KEPT_BYTES_MIN, KEPT_MIN, Line, Obstacle};
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
    leave_line(queue, Line::New, most)
}

fn leave_line(queue: &mut TestQueue, line: Line, most: usize) -> Vec<Leaving> {
    queue.take_leaving(line, most, |_| 100).into_iter().map(|parcel| parcel.run).collect()
}

const FULL: Obstacle = Obstacle::Full(QueueId(1));
const BEHIND: Line = Line::Behind(QueueId(1));

/// Takes all from a line and says that none of it can go on; what there is no room to keep.
fn stall_all(queue: &mut TestQueue, from: Line, obstacle: Obstacle) -> Vec<(Seq, Seq)> {
    let runs: Vec<_> = leave_line(queue, from, usize::MAX).into_iter().map(|run| (run, obstacle)).collect();
    let mut excess = Vec::new();
    queue.stall(from, &runs, &mut excess);
    excess
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
fn those_that_cannot_go_on_are_in_nobodys_way() {
    let mut queue = dead_lettering();
    push(&mut queue, 9);
    take_any(&mut queue, 9);
    queue.reject(0, 3, Reason::Rejected);
    assert_eq!(stall_all(&mut queue, Line::New, FULL), []);
    queue.reject(4, 4, Reason::Nacked);
    queue.reject(5, 5, Reason::Rejected);
    assert!(queue.has_stalled() && queue.has_in_line(BEHIND) && !queue.has_in_line(Line::Apart));
    assert_eq!(queue.stand_behind().collect::<Vec<_>>(), [QueueId(1)]);
    assert_eq!(leave(&mut queue, usize::MAX), [run(4, 4, Reason::Nacked), run(5, 5, Reason::Rejected)]);
    let mut excess = Vec::new();
    // One more comes to the line, and one that nobody takes.
    let stalled = [(run(4, 4, Reason::Nacked), Obstacle::NoPlace), (run(5, 5, Reason::Rejected), FULL)];
    queue.stall(Line::New, &stalled, &mut excess);
    let line = leave_line(&mut queue, BEHIND, usize::MAX);
    assert_eq!(line, [run(0, 3, Reason::Rejected), run(5, 5, Reason::Rejected)]);
    assert!(!queue.has_in_line(BEHIND) && queue.stand_behind().next().is_none());
    // The first of them is gone; the others are where they were, in front of what comes later.
    queue.moved(0, 0, 1);
    queue.stall(BEHIND, &[(run(1, 3, Reason::Rejected), FULL), (line[1], FULL)], &mut excess);
    queue.reject(6, 6, Reason::Rejected);
    stall_all(&mut queue, Line::New, FULL);
    let line = leave_line(&mut queue, BEHIND, usize::MAX);
    assert_eq!(line, [run(1, 3, Reason::Rejected), run(5, 6, Reason::Rejected)]);
    assert_eq!(queue.messages_apart(), 1);
    assert_eq!(leave_line(&mut queue, Line::Apart, 1), [run(4, 4, Reason::Nacked)]);
    assert_eq!((excess, queue.dropped(1, 6).count), (vec![], 6));
    assert_eq!(recovered(&mut queue), [0, 7, 8]);
}

#[test]
fn one_pass_tries_each_that_stands_apart_once() {
    let mut queue = dead_lettering();
    push(&mut queue, 3);
    take_any(&mut queue, 3);
    for seq in [0, 2] {
        queue.reject(seq, seq, Reason::Rejected);
    }
    stall_all(&mut queue, Line::New, Obstacle::NoPlace);
    for expected in [0, 2, 0] {
        let runs = leave_line(&mut queue, Line::Apart, 1);
        assert_eq!(expand(&runs), [expected]);
        queue.stall(Line::Apart, &[(runs[0], Obstacle::NoPlace)], &mut Vec::new());
    }
}

/// A queue with so many messages that left and could not go on; what there was no room to keep.
fn overfull(settings: QueueSettings, count: u32) -> (TestQueue, Vec<(Seq, Seq)>) {
    let mut queue = TestQueue::default();
    queue.set_settings(settings);
    push(&mut queue, count);
    let excess = stall_all(&mut queue, Line::New, FULL);
    (queue, excess)
}

#[test]
fn a_queue_that_drops_keeps_as_many_dead_letters_as_its_limit_allows() {
    let (mut queue, excess) = overfull(with_dead_letters(Some(2_000)), 4_500);
    assert_eq!(excess, [(2_000, 2_499)]);
    queue.dropped(2_000, 2_499);
    assert_eq!((queue.ready(), queue.leaving()), (2_000, 2_000));
    // Those that are tried again stay whatever comes.
    assert_eq!(stall_all(&mut queue, BEHIND, FULL), []);
    push(&mut queue, 1);
    assert_eq!(stall_all(&mut queue, Line::New, FULL), [(2_500, 2_500)]);
    queue.dropped(2_500, 2_500);
    // As soon as some are gone there is room for others.
    assert_eq!(leave_line(&mut queue, BEHIND, usize::MAX).len(), 1);
    queue.moved(0, 9, 1);
    queue.stall(BEHIND, &[(run(10, 1_999, Reason::MaxLength), FULL)], &mut Vec::new());
    push(&mut queue, 11);
    assert_eq!(stall_all(&mut queue, Line::New, FULL), [(2_511, 2_511)]);
    // A small limit does not mean that there is no patience at all.
    let (_, excess) = overfull(with_dead_letters(Some(0)), KEPT_MIN as u32 + 1);
    assert_eq!(excess, [(KEPT_MIN, KEPT_MIN)]);
    // What cannot be read now is another matter.
    let (mut queue, _) = overfull(with_dead_letters(Some(0)), KEPT_MIN as u32);
    push(&mut queue, 1);
    assert_eq!(stall_all(&mut queue, Line::New, Obstacle::Unreadable), []);
    // Without a limit there is none for them.
    let (mut queue, _) = overfull(with_dead_letters(None), 3_000);
    take_any(&mut queue, 3_000);
    queue.reject(0, 2_999, Reason::Rejected);
    assert_eq!(stall_all(&mut queue, Line::New, FULL), []);
}

#[test]
fn a_limit_in_bytes_bounds_dead_letters_that_wait() {
    const BODY: u64 = 8;
    let settings = QueueSettings { max_length_bytes: Some(BODY), ..with_dead_letters(None) };
    let (mut queue, excess) = overfull(settings, (KEPT_BYTES_MIN / BODY) as u32 + 1);
    assert_eq!((excess, queue.leaving_bytes()), (vec![], KEPT_BYTES_MIN));
    push(&mut queue, 1);
    assert_eq!(stall_all(&mut queue, Line::New, FULL).len(), 1);
}

#[test]
fn in_a_queue_that_refuses_those_that_wait_take_room() {
    for overflow in [Overflow::RejectPublish, Overflow::RejectPublishDlx] {
        let settings = QueueSettings { overflow, max_length_bytes: Some(40), ..with_dead_letters(Some(4)) };
        let mut queue = TestQueue::default();
        queue.set_settings(settings);
        push(&mut queue, 3);
        take_any(&mut queue, 2);
        queue.reject(0, 1, Reason::Rejected);
        let mut refused = Vec::new();
        queue.refuse(chunk(3, 4).bytes(), 4, &mut refused);
        assert_eq!(refused, [3], "those that have only just left do not count");
        assert_eq!(stall_all(&mut queue, Line::New, FULL), []);
        refused.clear();
        queue.refuse(chunk(3, 4).bytes(), 4, &mut refused);
        assert_eq!((refused, queue.is_full()), (vec![1, 2, 3], false));
        push(&mut queue, 1);
        assert!(queue.is_full());
        let runs = leave_line(&mut queue, BEHIND, usize::MAX);
        assert!(queue.is_full(), "while it is tried whether they can go on, they still take room");
        let mut excess = Vec::new();
        queue.moved(0, 0, 1);
        queue.stall(BEHIND, &[(Leaving { first: 1, ..runs[0] }, FULL)], &mut excess);
        assert_eq!((excess, queue.is_full()), (vec![], false), "one could");
        assert!(queue.is_too_small_for(41) && !queue.is_too_small_for(40));
    }
}

#[test]
fn what_was_refused_is_not_kept_beyond_the_limit() {
    let settings = QueueSettings { overflow: Overflow::RejectPublishDlx, ..with_dead_letters(Some(1)) };
    let mut queue = TestQueue::default();
    queue.set_settings(settings);
    let count = KEPT_MIN as u32 + 5;
    push(&mut queue, count);
    queue.turn_away(1, count - 1);
    assert_eq!(stall_all(&mut queue, Line::New, FULL), [(KEPT_MIN + 1, KEPT_MIN + 4)]);
    take_any(&mut queue, 1);
    queue.reject(0, 0, Reason::Rejected);
    assert_eq!(stall_all(&mut queue, Line::New, FULL), [], "nobody was told of that one");
}

#[test]
fn drops_that_are_not_moved_as_fast_hold_publishers_back() {
    let mut queue = TestQueue::default();
    queue.set_settings(with_dead_letters(Some(0)));
    push(&mut queue, 10_000);
    assert!(!queue.has_too_many_drops());
    push(&mut queue, 1);
    assert!(queue.has_too_many_drops());
    leave(&mut queue, 1);
    assert!(!queue.has_too_many_drops());
    let mut queue = dead_lettering();
    push(&mut queue, 20_000);
    take_any(&mut queue, 20_000);
    queue.reject(0, 19_999, Reason::Rejected);
    assert!(!queue.has_too_many_drops(), "publishers are not to blame");
}

#[test]
fn what_is_claimed_is_not_remembered_to_have_come_back() {
    let mut queue = TestQueue::default();
    queue.set_settings(QueueSettings { delivery_limit: Some(5), ..QueueSettings::default() });
    push(&mut queue, 4);
    take_any(&mut queue, 4);
    queue.requeue(0, 3, &mut Vec::new());
    let mut claimed = Vec::new();
    queue.claim(1, 2, &mut claimed);
    queue.moved(1, 2, 1);
    queue.finish_moves(1);
    let known: Vec<(Seq, Seq)> = queue.attempts().map(|range| (range.first, range.last)).collect();
    assert_eq!((claimed, known), (vec![(1, 2)], vec![(0, 0), (3, 3)]));
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
    let parcels = queue.take_leaving(Line::New, usize::MAX, |_| 1);
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
    Stalled(u64),
    Retry(u64, usize),
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
        2 => (0u64..3).prop_map(Step::Stalled),
        2 => ((0u64..3), (1usize..3000)).prop_map(|(line, most)| Step::Retry(line, most)),
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
    /// The numbers in the mover's hands, and the lines they come from.
    in_hand: Vec<(Line, Seq)>,
    /// By line, the first one being that of those which stand apart.
    stalled: [Vec<Seq>; 3],
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
        let mut all: Vec<Seq> = [&self.ready, &self.unacked, &self.waiting]
            .into_iter()
            .chain(&self.stalled)
            .flatten()
            .copied()
            .chain(self.in_hand.iter().map(|&(_, seq)| seq))
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
fn act(
    step: &Step,
    queue: &mut TestQueue,
    plain: &mut Plain,
    hand: &mut Vec<(Line, Leaving)>,
    disk: &mut Disk,
) {
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
            plain.in_hand.extend(taken.into_iter().map(|seq| (Line::New, seq)));
            hand.extend(runs.into_iter().map(|run| (Line::New, run)));
        }
        Step::Moved(bytes) if !hand.is_empty() => {
            let (_, run) = hand.remove(0);
            plain.log += bytes;
            queue.moved(run.first, run.last, plain.log);
            let moved = plain.in_hand.drain(..(run.last - run.first + 1) as usize);
            plain.moved.extend(moved.map(|(_, seq)| (plain.log, seq)));
        }
        Step::Stalled(line) if !hand.is_empty() => {
            let (from, run) = hand.remove(0);
            let obstacle = if line == 0 { Obstacle::NoPlace } else { Obstacle::Full(QueueId(line)) };
            let mut excess = Vec::new();
            queue.stall(from, &[(run, obstacle)], &mut excess);
            assert_eq!(excess, [], "that few are kept");
            let stalled: Vec<Seq> = plain.in_hand.drain(..run.count() as usize).map(|(_, seq)| seq).collect();
            let at =
                if line != 0 && obstacle.line() == from { 0 } else { plain.stalled[line as usize].len() };
            plain.stalled[line as usize].splice(at..at, stalled);
        }
        Step::Dropped if !hand.is_empty() => {
            let (_, run) = hand.remove(0);
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
        Step::Moved(_) | Step::Stalled(_) | Step::Dropped => {}
        Step::Retry(number, most) => {
            let line = if number == 0 { Line::Apart } else { Line::Behind(QueueId(number)) };
            let runs = leave_line(queue, line, most);
            let (taken, stalled) = (expand(&runs), &mut plain.stalled[number as usize]);
            assert_eq!(taken, stalled.drain(..taken.len()).collect::<Vec<_>>());
            assert_eq!(queue.has_in_line(line), !stalled.is_empty());
            plain.in_hand.extend(taken.into_iter().map(|seq| (line, seq)));
            hand.extend(runs.into_iter().map(|run| (line, run)));
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
        let max_length_bytes = Some(u64::MAX);
        queue.set_settings(QueueSettings { max_length_bytes, ..with_dead_letters(Some(max_length as u64)) });
        let (mut hand, mut disk) = (Vec::new(), Disk::default());
        for step in &steps {
            act(step, &mut queue, &mut plain, &mut hand, &mut disk);
            prop_assert_eq!(queue.ready() as usize, plain.ready.len());
            prop_assert_eq!(queue.unacked() as usize, plain.unacked.len());
            let unsettled = plain.unsettled();
            let leaving = unsettled.len() - plain.ready.len() - plain.unacked.len();
            prop_assert_eq!(queue.leaving() as usize, leaving);
            prop_assert_eq!(queue.leaving_bytes() as usize, 8 * leaving);
            let stalled = plain.stalled.iter().map(Vec::len).sum::<usize>() as u64;
            prop_assert_eq!(queue.stalled(), (stalled, 8 * stalled));
            prop_assert_eq!(recovered(&mut queue), unsettled);
            prop_assert!(!queue.has_departed());
        }
    }
}
