//! A queue that is converted to another type: the levels of both, and messages that become durable.

use std::collections::VecDeque;

use posthouse_model::former_levels::FormerLevels;
use posthouse_model::ids::{first_of_level, level_of};
use posthouse_model::priorities::{OverflowPriority, PriorityOrder};

use super::*;

fn plain() -> QueueSettings {
    QueueSettings::default()
}

fn quorum() -> QueueSettings {
    QueueSettings { max_priority: 31, default_priority: 4, ..QueueSettings::default() }
}

/// Gives the queue the settings of another type, as a conversion does.
fn convert(queue: &mut TestQueue, to: QueueSettings) {
    let settings = queue.settings();
    let is_empty = |level| queue.is_level_empty(level);
    let former = settings.former_levels.then(settings.levels(), to.levels(), is_empty).unwrap();
    queue.set_settings(QueueSettings { former_levels: former, ..to });
}

/// Adds a message for each priority, in order, and says their numbers.
fn publish(queue: &mut TestQueue, priorities: &[Option<u8>], persistence: Persistence) -> Vec<Seq> {
    let mut seqs = Vec::new();
    for &priority in priorities {
        let level = queue.settings().levels().of(priority);
        let next = queue.levels().map(TestQueue::next_seq).find(|&seq| level_of(seq) == level);
        let chunk = chunk(next.unwrap_or(first_of_level(level)), 1);
        seqs.push(queue.push_copied_at(level, chunk.bytes(), 1, persistence, 0, &mut Vec::new()));
    }
    seqs
}

fn take(queue: &mut TestQueue, messages: u32) -> Vec<Seq> {
    let mut runs = Vec::new();
    queue.take_any(Limits { messages, bytes: usize::MAX }, false, &mut runs);
    taken(&runs).into_iter().map(|(seq, _)| seq).collect()
}

fn seen(queue: &mut TestQueue) -> Vec<Seq> {
    (0..queue.ready()).map(|skip| queue.nth_ready(skip).unwrap()).collect()
}

/// Everything in the order in which browsing shows it.
fn browsed(queue: &mut TestQueue) -> Vec<Seq> {
    let (mut all, mut from) = (Vec::new(), queue.nth_ready(0));
    while let Some(next) = from {
        let glimpses = queue.glimpse(next, 1, |_| 1);
        let runs = glimpses.iter().flat_map(|glimpse| &glimpse.ready);
        runs.for_each(|run| all.extend(run.first..=run.last));
        from = (!glimpses.is_empty()).then(|| all.last().unwrap() + 1);
    }
    all
}

#[test]
fn messages_keep_their_order_and_go_before_later_ones_of_their_priority() {
    let mut queue = TestQueue::default();
    let old = publish(&mut queue, &[None, Some(9), None], Persistence::Persistent);
    assert_eq!(take(&mut queue, 1), [old[0]]);
    convert(&mut queue, quorum());
    let new = publish(&mut queue, &[None, Some(5), Some(0), None], Persistence::Persistent);
    let order = [new[1], old[1], old[2], new[0], new[3], new[2]];
    assert_eq!((seen(&mut queue), browsed(&mut queue)), (order.to_vec(), order.to_vec()));
    // What comes back has its old place.
    queue.requeue(old[0], old[0], &mut Vec::new());
    assert_eq!(take(&mut queue, 3), [new[1], old[0], old[1]]);
    queue.requeue(new[1], new[1], &mut Vec::new());
    queue.requeue(old[0], old[1], &mut Vec::new());
    // And back, with messages of five levels: all of them in that order, then what comes later.
    convert(&mut queue, plain());
    let last = publish(&mut queue, &[Some(31), None], Persistence::Persistent);
    let expected = [new[1], old[0], old[1], old[2], new[0], new[3], new[2], last[0], last[1]];
    assert_eq!(seen(&mut queue), expected);
    assert_eq!(take(&mut queue, 99), expected);
    assert_eq!((queue.ready(), queue.unacked()), (0, 9));
    for seq in expected {
        assert_eq!(queue.settle(seq, seq).count, 1);
    }
    assert_eq!((queue.unacked(), queue.memory_bytes()), (0, 0));
}

#[test]
fn room_is_made_by_the_priority_that_messages_have_by_now() {
    let mut queue = TestQueue::default();
    let old = publish(&mut queue, &[None, None], Persistence::Persistent);
    convert(&mut queue, quorum());
    let new = publish(&mut queue, &[Some(2), Some(7)], Persistence::Persistent);
    let limited = |max_length, overflow_priority, queue: &TestQueue| QueueSettings {
        max_length: Some(max_length),
        overflow_priority,
        ..queue.settings().clone()
    };
    let settings = limited(2, OverflowPriority::Lowest, &queue);
    queue.set_settings(settings);
    // The lowest is the new one of priority 2; then the old ones, which count as having 4.
    assert_eq!(seen(&mut queue), [new[1], old[1]]);
    let settings = limited(1, OverflowPriority::Highest, &queue);
    queue.set_settings(settings);
    assert_eq!(seen(&mut queue), [old[1]]);
}

#[test]
fn weights_are_those_of_the_priorities_by_now() {
    let mut queue = TestQueue::default();
    publish(&mut queue, &[None; 20], Persistence::Persistent);
    convert(&mut queue, QueueSettings { priority_order: PriorityOrder::Weighted, ..quorum() });
    publish(&mut queue, &[Some(1); 20], Persistence::Persistent);
    // Five of the old ones, which count as having priority 4, for two of priority 1.
    let levels: Vec<u8> = take(&mut queue, 14).into_iter().map(level_of).collect();
    assert_eq!(levels, [0, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 0, 2, 2]);
}

#[test]
fn a_restart_finds_the_same_order() {
    let mut queue = TestQueue::default();
    publish(&mut queue, &[None, None], Persistence::Persistent);
    convert(&mut queue, quorum());
    publish(&mut queue, &[Some(6), None, Some(1)], Persistence::Persistent);
    let before = seen(&mut queue);
    let mut restarted = TestQueue::default();
    let mut levels: Vec<_> = queue.levels().map(|level| (level.next_seq(), level)).collect();
    levels.sort_unstable_by_key(|(next_seq, _)| *next_seq);
    for (next_seq, level) in levels {
        let found = Recovered { chunks: level.held().cloned().collect(), next_seq, redelivered_below: 0 };
        match level_of(next_seq) {
            0 => restarted = TestQueue::recover(found),
            level => restarted.recover_level(level, found),
        }
    }
    restarted.set_settings(queue.settings().clone());
    assert_eq!(seen(&mut restarted), before);
    assert_eq!(take(&mut restarted, 9), before);
}

#[test]
fn never_converted_costs_nothing() {
    let mut queue = TestQueue::default();
    queue.set_settings(QueueSettings { former_levels: FormerLevels::default(), ..quorum() });
    assert_eq!(queue.descriptor_bytes(), 0);
}

#[test]
fn transient_messages_survive_once_their_chunks_are_where_those_do_that_survive() {
    let mut queue = TestQueue::default();
    let kept = publish(&mut queue, &[None], Persistence::Persistent);
    let first = publish(&mut queue, &[None, None], Persistence::Transient);
    let mut tail = publish(&mut queue, &[None], Persistence::Persistent);
    tail.extend(publish(&mut queue, &[None], Persistence::Transient));
    assert_eq!(take(&mut queue, 2), [kept[0], first[0]]);
    assert!(!queue.settle(first[0], first[0]).persistent);
    assert!(
        queue.has_transient() && !queue.keeps_any(first[1], first[1]) && queue.keeps_any(kept[0], first[1])
    );
    let mut plan = Vec::new();
    queue.plan_keeping(&mut plan);
    let firsts: Vec<Seq> = plan.iter().map(|chunk| chunk.first_seq).collect();
    assert_eq!(firsts, [first[0], tail[1]]);
    assert_eq!(plan[0].settled.as_ref().map(|bits| bits.count()), Some(1));
    for (chunk, location) in plan.iter().zip(1..) {
        assert!(!queue.is_kept(chunk.first_seq) && queue.has_transient());
        queue.written(chunk.first_seq, location, false);
        queue.keep(chunk.first_seq);
        assert!(queue.is_kept(chunk.first_seq));
    }
    assert!(!queue.has_transient());
    assert_eq!(take(&mut queue, 1), [first[1]]);
    assert!(queue.settle(first[1], first[1]).persistent, "the log must be told from now on");
}

#[test]
fn all_levels_are_kept() {
    let mut queue = TestQueue::default();
    queue.set_settings(QueueSettings { max_priority: 3, ..QueueSettings::default() });
    publish(&mut queue, &[Some(0), Some(3), Some(1)], Persistence::Transient);
    let mut plan = Vec::new();
    queue.plan_keeping(&mut plan);
    assert_eq!(plan.len(), 3);
    plan.iter().for_each(|chunk| queue.keep(chunk.first_seq));
    assert!(!queue.has_transient());
}

#[test]
fn levels_are_used_again_by_and_by_and_no_order_is_lost() {
    let mut queue = TestQueue::default();
    let mut types = [quorum(), plain()].into_iter().cycle();
    let mut expected = VecDeque::new();
    for conversion in 0..60 {
        expected.extend(publish(&mut queue, &[None, None, None], Persistence::Persistent));
        convert(&mut queue, types.next().unwrap());
        let seqs = take(&mut queue, 3);
        assert_eq!(seqs, expected.drain(..3).collect::<Vec<_>>(), "{conversion}");
        queue.requeue(seqs[2], seqs[2], &mut Vec::new());
        expected.push_front(seqs[2]);
        for &seq in &seqs[..2] {
            queue.settle(seq, seq);
        }
        assert_eq!(seen(&mut queue), expected.iter().copied().collect::<Vec<_>>());
        let level = level_of(seqs[0]);
        assert!(!queue.is_level_empty(level));
        assert_eq!(take(&mut queue, 1), [expected.pop_front().unwrap()]);
        assert!(!queue.is_level_empty(level), "it is with a consumer");
        queue.settle(seqs[2], seqs[2]);
        assert!(queue.is_level_empty(level));
    }
}
