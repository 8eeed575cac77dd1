//! Message groups: who gets which, who is woken for it, and the machine against a plain model.

use posthouse_model::delayed_retry::{DelayedRetry, RetryType};
use posthouse_model::field::{FieldTable, FieldValue};
use posthouse_model::ids::first_of_level;
use posthouse_model::props::Properties;

use super::super::browse::Ready;
use super::super::groups::WINDOW_MESSAGES;
use super::super::roster::ConsumerId;
use super::*;

#[path = "groups/model.rs"]
mod model;

const NOTHING: [Seq; 0] = [];
const NOBODY: [u32; 0] = [];

fn grouped() -> TestQueue {
    let mut queue = TestQueue::default();
    queue.set_settings(QueueSettings { message_groups: true, ..QueueSettings::default() });
    queue
}

/// A message per group name, whose body is its number; an empty name is none.
fn records(first: Seq, groups: &[&str]) -> Chunk {
    let values: Vec<_> =
        groups.iter().map(|group| Some(FieldValue::string(group)).filter(|_| !group.is_empty())).collect();
    records_of(first, &values)
}

fn records_of(first: Seq, groups: &[Option<FieldValue>]) -> Chunk {
    let mut builder = ChunkBuilder::default();
    for (seq, group) in (first..).zip(groups) {
        let entry = |value: &FieldValue| ("x-message-group".to_owned(), value.clone());
        let headers = group.as_ref().map(|value| FieldTable(vec![entry(value)]));
        let mut header = Vec::new();
        Properties { headers, ..Properties::default() }.encode(8, &mut header);
        builder.push(0, 0, b"\0\x01q", &header, 8, &seq.to_le_bytes());
    }
    builder.finish()
}

/// Publishes messages of the groups with these one-letter names, `-` for none, and says who is woken.
fn publish(queue: &mut TestQueue, groups: &str) -> Vec<u32> {
    let names: Vec<&str> = groups.split("").filter(|name| !name.is_empty()).collect();
    let names: Vec<&str> = names.iter().map(|name| if *name == "-" { "" } else { *name }).collect();
    let mut wakes = Vec::new();
    let chunk = records(queue.next_seq(), &names);
    queue.push_shared(Arc::new(chunk), Persistence::Persistent, 0, &mut wakes);
    wakes
}

fn join(queue: &mut TestQueue, id: ConsumerId, priority: i64) {
    queue.roster.add(id, id as u32, priority, false);
    queue.roster.set(id, Standing::Parked);
}

/// What a consumer with a credit of `messages` gets, and who is woken by its taking.
fn take_as(queue: &mut TestQueue, id: ConsumerId, messages: u32) -> (Vec<Seq>, Vec<u32>) {
    let (mut runs, mut wakes, mut left) = (Vec::new(), Vec::new(), messages);
    while left > 0 {
        let limits = Limits { messages: left, bytes: usize::MAX };
        let (end, _) = queue.take(id, limits, false, &mut runs, &mut wakes);
        left = messages - runs.iter().map(|run| run.count).sum::<u32>();
        if end != TakeEnd::Limit {
            break;
        }
    }
    if left == 0 {
        queue.roster.set(id, Standing::Blocked);
    }
    (taken(&runs).into_iter().map(|(seq, _)| seq).collect(), wakes)
}

fn settle(queue: &mut TestQueue, seqs: &[Seq]) -> Vec<u32> {
    let mut wakes = Vec::new();
    for &seq in seqs {
        queue.settle(seq, seq);
    }
    queue.wake_after_settling(&mut wakes);
    wakes
}

fn get(queue: &mut TestQueue) -> Option<(Seq, bool)> {
    let mut runs = Vec::new();
    queue.take_any(Limits { messages: 1, bytes: usize::MAX }, false, &mut runs);
    taken(&runs).pop()
}

#[test]
fn a_group_stays_until_its_last_message_is_settled() {
    let mut queue = grouped();
    join(&mut queue, 1, 0);
    publish(&mut queue, "aabab-");
    assert_eq!(take_as(&mut queue, 1, 2).0, [0, 1]);
    join(&mut queue, 2, 0);
    assert_eq!(take_as(&mut queue, 2, 9).0, [2, 4, 5], "what is blocked at the head stops nobody");
    assert_eq!((queue.ready(), queue.unacked()), (1, 5));
    assert_eq!(settle(&mut queue, &[0]), NOBODY);
    assert_eq!(take_as(&mut queue, 2, 9).0, NOTHING);
    assert_eq!(settle(&mut queue, &[1]), [2], "the group is free now");
    assert_eq!(take_as(&mut queue, 2, 9).0, [3]);
}

#[test]
fn whom_a_group_is_with_gets_more_of_it_and_is_woken_for_it() {
    let mut queue = grouped();
    join(&mut queue, 1, 0);
    join(&mut queue, 2, 0);
    publish(&mut queue, "a");
    assert_eq!(take_as(&mut queue, 1, 9).0, [0]);
    assert_eq!(take_as(&mut queue, 2, 9).0, NOTHING);
    assert_eq!(publish(&mut queue, "a"), [1]);
    assert_eq!(take_as(&mut queue, 1, 9).0, [1]);
    assert_eq!(publish(&mut queue, "a"), [2], "who waits longest looks first");
    assert_eq!(take_as(&mut queue, 2, 9), (vec![], vec![1]), "and passes it over");
    assert_eq!(take_as(&mut queue, 1, 9).0, [2]);
}

#[test]
fn groups_are_spread() {
    let mut queue = grouped();
    for id in 1..=3 {
        join(&mut queue, id, 0);
    }
    publish(&mut queue, "abcdefabcdef");
    let mut all: Vec<Vec<Seq>> = vec![Vec::new(); 4];
    let mut woken: Vec<u32> = vec![1, 2, 3];
    while let Some(id) = woken.pop() {
        let (seqs, wakes) = take_as(&mut queue, u64::from(id), 99);
        all[id as usize].extend(seqs);
        woken.extend(wakes);
    }
    assert_eq!((queue.ready(), queue.unacked()), (0, 12));
    for seqs in &all[1..] {
        assert_eq!(seqs.len(), 4, "{all:?}");
        assert!(seqs.iter().all(|seq| seqs.contains(&((seq + 6) % 12))), "whole groups: {all:?}");
    }
}

#[test]
fn what_comes_back_comes_first_and_in_order() {
    let mut queue = grouped();
    join(&mut queue, 1, 0);
    publish(&mut queue, "a-aba");
    assert_eq!(take_as(&mut queue, 1, 3).0, [0, 1, 2]);
    join(&mut queue, 2, 0);
    assert_eq!(take_as(&mut queue, 2, 9).0, [3]);
    queue.roster.remove(1);
    let mut wakes = Vec::new();
    queue.release(0, 2, &mut wakes);
    assert_eq!(wakes, [2]);
    let mut runs = Vec::new();
    queue.take(2, ALL, false, &mut runs, &mut Vec::new());
    assert_eq!(taken(&runs), [(0, true), (1, true), (2, true), (4, false)]);
    queue.requeue(1, 2, &mut Vec::new());
    assert_eq!(take_as(&mut queue, 2, 9).0, [1, 2], "of a group that is still with it");
}

#[test]
fn who_is_gone_keeps_its_groups_until_they_are_settled_or_come_back() {
    let mut queue = grouped();
    join(&mut queue, 1, 0);
    publish(&mut queue, "aa");
    assert_eq!(take_as(&mut queue, 1, 1).0, [0]);
    queue.roster.remove(1);
    join(&mut queue, 2, 0);
    assert_eq!(take_as(&mut queue, 2, 9).0, NOTHING);
    assert_eq!(settle(&mut queue, &[0]), [2]);
    assert_eq!(take_as(&mut queue, 2, 9).0, [1]);
}

#[test]
fn getting_takes_one_message_of_a_group_at_a_time() {
    let mut queue = grouped();
    publish(&mut queue, "aab-");
    assert_eq!(get(&mut queue), Some((0, false)));
    assert_eq!(get(&mut queue), Some((2, false)));
    assert_eq!(get(&mut queue), Some((3, false)));
    assert_eq!(get(&mut queue), None);
    assert_eq!(queue.ready(), 1);
    settle(&mut queue, &[0]);
    assert_eq!(get(&mut queue), Some((1, false)));
    queue.requeue(1, 2, &mut Vec::new());
    assert_eq!([get(&mut queue), get(&mut queue)], [Some((1, true)), Some((2, true))]);
}

#[test]
fn what_is_settled_at_once_is_with_nobody() {
    let mut queue = grouped();
    join(&mut queue, 1, 0);
    publish(&mut queue, "aab");
    assert_eq!(take_as(&mut queue, 1, 1).0, [0]);
    let mut runs = Vec::new();
    let (end, settled) = queue.take_any(ALL, true, &mut runs);
    assert_eq!((taken(&runs), end, settled.count), (vec![(2, false)], TakeEnd::Parked, 1));
    assert_eq!((queue.ready(), queue.unacked()), (1, 1));
    settle(&mut queue, &[0]);
    runs.clear();
    queue.take_any(ALL, true, &mut runs);
    assert_eq!(taken(&runs), [(1, false)]);
    assert_eq!((queue.ready(), queue.unacked()), (0, 0));
}

#[test]
fn a_lower_priority_gets_what_is_of_its_groups() {
    let mut queue = grouped();
    join(&mut queue, 1, 0);
    publish(&mut queue, "a");
    assert_eq!(take_as(&mut queue, 1, 9).0, [0]);
    queue.roster.set(1, Standing::Parked);
    join(&mut queue, 2, 5);
    assert_eq!(publish(&mut queue, "ab"), [2]);
    assert_eq!(take_as(&mut queue, 2, 9), (vec![2], vec![1]));
    assert_eq!(take_as(&mut queue, 1, 9).0, [1]);
    publish(&mut queue, "c");
    assert_eq!(take_as(&mut queue, 1, 9).0, NOTHING, "free groups are for the higher one");
}

#[test]
fn the_window_is_bounded_and_opens_again() {
    let mut queue = grouped();
    join(&mut queue, 1, 0);
    join(&mut queue, 2, 0);
    publish(&mut queue, "a");
    assert_eq!(take_as(&mut queue, 1, 1).0, [0]);
    for _ in 0..WINDOW_MESSAGES / 100 {
        publish(&mut queue, &"a".repeat(100));
    }
    publish(&mut queue, "ab");
    assert_eq!(take_as(&mut queue, 2, 9).0, NOTHING, "too much is blocked");
    assert!(queue.descriptor_bytes() < WINDOW_MESSAGES * 150, "{} bytes", queue.descriptor_bytes());
    // Some are gone without anyone having taken them.
    let mut claimed = Vec::new();
    queue.claim(5, 6, &mut claimed);
    let mut wakes = Vec::new();
    queue.wake_after_settling(&mut wakes);
    assert_eq!((claimed, wakes), (vec![(5, 6)], vec![2]));
    let last = WINDOW_MESSAGES as Seq + 2;
    assert_eq!(take_as(&mut queue, 2, 9).0, [last]);
    assert_eq!(settle(&mut queue, &[0]), [2]);
    assert_eq!(take_as(&mut queue, 2, 3).0, [1, 2, 3]);
}

#[test]
fn groups_have_any_scalar_for_a_name() {
    let mut queue = grouped();
    let values = [
        FieldValue::I32(7),
        FieldValue::I64(7),
        FieldValue::string("7"),
        FieldValue::Bool(true),
        FieldValue::Void,
        FieldValue::Void,
        FieldValue::Table(FieldTable::default()),
        FieldValue::string(""),
        FieldValue::string(""),
    ];
    let chunk = records_of(0, &values.map(Some));
    queue.push_copied(chunk.bytes(), chunk.count(), Persistence::Transient, 0, &mut Vec::new());
    let got: Vec<Seq> = std::iter::from_fn(|| get(&mut queue)).map(|(seq, _)| seq).collect();
    assert_eq!(got, [0, 2, 3, 4, 5, 6, 7], "8 and 7 in another width are of groups that are taken");
}

#[test]
fn looking_finds_what_is_passed_over() {
    let mut queue = grouped();
    publish(&mut queue, "aab");
    assert_eq!([get(&mut queue), get(&mut queue)], [Some((0, false)), Some((2, false))]);
    queue.requeue(2, 2, &mut Vec::new());
    let ready: Vec<Ready> = queue.glimpse(0, 1_000, |_| 0).into_iter().flat_map(|g| g.ready).collect();
    let one = |first, redelivered| Ready { first, last: first, redelivered, delayed_until_ms: None };
    assert_eq!(ready, [one(1, false), one(2, true)]);
}

/// A consumer that waits for a message on disk has that read, whatever else is there.
#[test]
fn what_waits_on_disk_is_read_when_its_turn_comes() {
    let mut queue = grouped();
    join(&mut queue, 1, 0);
    for groups in ["aa", "bb", "cc"] {
        publish(&mut queue, groups);
    }
    assert_eq!(take_as(&mut queue, 1, 1).0, [0]);
    join(&mut queue, 2, 0);
    assert_eq!(take_as(&mut queue, 2, 2).0, [2, 3]);
    spill_all(&mut queue);
    settle(&mut queue, &[2, 3]);
    let (seqs, _) = take_as(&mut queue, 2, 9);
    assert_eq!((seqs, queue.plan_load(usize::MAX, |_| 1)), (vec![], vec![(4, 4)]), "not what is blocked");
    let mut wakes = Vec::new();
    queue.loaded(4, Arc::new(records(4, &["c", "c"])), &mut wakes);
    assert_eq!(wakes, [2]);
    assert_eq!(take_as(&mut queue, 2, 9).0, [4, 5]);
    assert_eq!(settle(&mut queue, &[0]), [2]);
    assert_eq!(take_as(&mut queue, 2, 9).0, NOTHING);
    assert_eq!(queue.plan_load(usize::MAX, |_| 1), [(0, 0)]);
    queue.loaded(0, Arc::new(records(0, &["a", "a"])), &mut wakes);
    assert_eq!(take_as(&mut queue, 2, 9).0, [1]);
}

#[test]
fn a_blocked_priority_does_not_stop_a_lower_one() {
    let mut queue = TestQueue::default();
    let settings = QueueSettings { message_groups: true, max_priority: 5, ..QueueSettings::default() };
    queue.set_settings(settings);
    join(&mut queue, 1, 0);
    let high = first_of_level(5);
    let push = |queue: &mut TestQueue, first: Seq, level: u8, groups: &[&str]| {
        let chunk = Arc::new(records(first, groups));
        queue.push_shared_at(level, chunk, Persistence::Transient, 0, &mut Vec::new());
    };
    push(&mut queue, high, 5, &["a", "a"]);
    push(&mut queue, 0, 0, &["a", "b"]);
    assert_eq!(take_as(&mut queue, 1, 1).0, [high]);
    join(&mut queue, 2, 0);
    assert_eq!(take_as(&mut queue, 2, 9).0, [1]);
    assert_eq!(settle(&mut queue, &[high]), [2]);
    assert_eq!(take_as(&mut queue, 2, 9).0, [high + 1, 0]);
}

#[test]
fn a_delayed_message_keeps_its_group_back() {
    let mut queue = grouped();
    let delayed_retry = DelayedRetry { kind: Some(RetryType::All), min_ms: Some(80), max_ms: None };
    queue.set_settings(QueueSettings { delayed_retry, ..queue.settings().clone() });
    publish(&mut queue, "aba-");
    let back = |queue: &mut TestQueue, seq| {
        queue.take_back(seq, seq, Back { why: Return::Failed, now_ms: 0 }, &mut Vec::new());
    };
    let get = |queue: &mut TestQueue| {
        let mut runs = Vec::new();
        queue.take_any(Limits { messages: 1, bytes: 1 }, false, &mut runs);
        taken(&runs).first().map(|&(seq, _)| seq)
    };
    assert_eq!(get(&mut queue), Some(0));
    back(&mut queue, 0);
    assert_eq!((get(&mut queue), get(&mut queue), get(&mut queue)), (Some(1), Some(3), None));
    back(&mut queue, 3);
    assert_eq!((queue.ready(), queue.delayed()), (1, 2));
    assert!(!queue.expire(79) && get(&mut queue).is_none());
    queue.expire(80);
    assert_eq!((get(&mut queue), get(&mut queue), get(&mut queue)), (Some(0), Some(3), None), "in order");
    back(&mut queue, 0);
    // What was before it is gone: the next one need not wait any longer.
    queue.claim(0, 0, &mut Vec::new());
    queue.dropped(0, 0);
    assert!(queue.take_freed());
    assert_eq!(get(&mut queue), Some(2));
}
