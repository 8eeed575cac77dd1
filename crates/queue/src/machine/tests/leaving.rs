//! Messages on their way to other queues: what has become of each, and what a restart would find.

use posthouse_model::ids::QueueId;
use posthouse_model::name::Name;

use super::super::chunks::Residence;
use super::super::departures::Reason;
use super::super::leaving::Run as Leaving;
use super::super::leaving::stalled::{Line, Obstacle};
use super::*;

mod model;
mod room;

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

fn expand(runs: &[Leaving]) -> Vec<Seq> {
    runs.iter().flat_map(|run| run.first..=run.last).collect()
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
    assert!(queue.has_in_line(BEHIND) && !queue.has_in_line(Line::Apart));
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

#[test]
fn what_is_known_of_those_that_leave_counts_as_memory() {
    const MESSAGES: u32 = 1_000;
    let mut queue = dead_lettering();
    push(&mut queue, MESSAGES);
    take_any(&mut queue, MESSAGES);
    let before = queue.descriptor_bytes();
    // Here and there, so that each is a run of its own.
    for seq in (0..Seq::from(MESSAGES)).step_by(2) {
        queue.reject(seq, seq, Reason::Rejected);
    }
    let runs = MESSAGES as usize / 2;
    let a_range = size_of::<(Seq, Seq)>();
    let (a_run, mut expected) = (size_of::<Leaving>(), runs * (size_of::<Leaving>() + a_range));
    let counted = |queue: &TestQueue| queue.descriptor_bytes() - before;
    assert!(counted(&queue) >= expected, "those not tried yet");
    stall_all(&mut queue, Line::New, FULL);
    // What has got room for many keeps it.
    expected += runs * a_run;
    assert!(counted(&queue) >= expected, "those that cannot go on: {} of {expected}", counted(&queue));
    for seq in (0..Seq::from(MESSAGES)).step_by(2) {
        assert_eq!(leave_line(&mut queue, BEHIND, 1), [run(seq, seq, Reason::Rejected)]);
        queue.moved(seq, seq, seq);
    }
    let stood = counted(&queue);
    assert!(stood >= expected, "those that the log has not got on disk: {stood} of {expected}");
    queue.finish_moves(Seq::MAX);
    assert!(counted(&queue) <= stood - runs * a_range, "{} after {stood}", counted(&queue));
}
