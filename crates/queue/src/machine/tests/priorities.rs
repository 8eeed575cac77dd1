//! Priorities, alone and against a plain model: a list of messages for each level.

use std::collections::{BTreeMap, HashMap};

use posthouse_model::ids::{first_of_level, level_of};
use posthouse_model::priorities::{OverflowPriority, PriorityOrder};
use posthouse_model::queue_settings::Overflow;

use super::*;

fn leveled(max_priority: u8) -> TestQueue {
    let mut queue = TestQueue::default();
    queue.set_settings(QueueSettings { max_priority, ..QueueSettings::default() });
    queue
}

/// Adds a message for each priority, in order.
fn publish(queue: &mut TestQueue, priorities: &[u8]) {
    for &priority in priorities {
        let level = queue.settings().levels().of(Some(priority));
        push_at(queue, level, 1, true);
    }
}

fn push_at(queue: &mut TestQueue, level: u8, count: u32, shared: bool) {
    let first = queue.levels().map(TestQueue::next_seq).find(|&seq| level_of(seq) == level);
    let first = first.unwrap_or(first_of_level(level));
    let chunk = chunk(first, count);
    let got = if shared {
        queue.push_shared_at(level, Arc::new(chunk), Persistence::Persistent, 0, &mut Vec::new())
    } else {
        queue.push_copied_at(level, chunk.bytes(), count, Persistence::Persistent, 0, &mut Vec::new())
    };
    assert_eq!(got, first);
}

/// Takes messages: their levels, and their places there.
fn take_levels(queue: &mut TestQueue, messages: u32) -> Vec<(u8, u64)> {
    let mut runs = Vec::new();
    queue.take_any(Limits { messages, bytes: usize::MAX }, false, &mut runs);
    taken(&runs).into_iter().map(|(seq, _)| (level_of(seq), seq - first_of_level(level_of(seq)))).collect()
}

fn levels(queue: &mut TestQueue, messages: u32) -> Vec<u8> {
    take_levels(queue, messages).into_iter().map(|(level, _)| level).collect()
}

#[test]
fn the_highest_is_first_and_above_the_maximum_is_the_maximum() {
    let mut queue = leveled(10);
    publish(&mut queue, &[0, 4, 255, 9, 10, 5, 0]);
    assert_eq!((queue.ready(), queue.levels().count()), (7, 5));
    let expected = [(10, 0), (10, 1), (9, 0), (5, 0), (4, 0), (0, 0), (0, 1)];
    assert_eq!(take_levels(&mut queue, 99), expected);
    assert_eq!((queue.ready(), queue.unacked()), (0, 7));
}

#[test]
fn what_is_handed_out_stays_and_the_next_take_looks_again() {
    let mut queue = leveled(5);
    publish(&mut queue, &[1, 1, 0]);
    assert_eq!(take_levels(&mut queue, 1), [(1, 0)]);
    publish(&mut queue, &[5]);
    assert_eq!(take_levels(&mut queue, 2), [(5, 0), (1, 1)]);
}

#[test]
fn a_message_given_back_returns_to_its_place_in_its_level() {
    let mut queue = leveled(5);
    publish(&mut queue, &[3, 3, 3, 4]);
    assert_eq!(take_levels(&mut queue, 3), [(4, 0), (3, 0), (3, 1)]);
    publish(&mut queue, &[4]);
    queue.requeue(first_of_level(3), first_of_level(3) + 1, &mut Vec::new());
    assert_eq!(take_levels(&mut queue, 9), [(4, 1), (3, 0), (3, 1), (3, 2)]);
    assert_eq!(queue.settle(first_of_level(4), first_of_level(4) + 1).count, 2);
    assert_eq!(queue.settle(first_of_level(3), first_of_level(3) + 2).count, 3);
    assert_eq!((queue.ready(), queue.unacked(), queue.memory_bytes()), (0, 0, 0));
}

#[test]
fn a_push_to_any_level_wakes_a_consumer() {
    let mut queue = leveled(255);
    consumer(&mut queue);
    let mut wakes = Vec::new();
    let records = chunk(first_of_level(255), 1);
    queue.push_copied_at(255, records.bytes(), 1, Persistence::Transient, 0, &mut wakes);
    assert_eq!(wakes, [7]);
    assert_eq!(take(&mut queue, 9).len(), 1);
    queue.requeue(first_of_level(255), first_of_level(255), &mut wakes);
    assert_eq!(wakes, [7, 7]);
}

#[test]
fn weighted_levels_share_by_their_weights_and_none_starves() {
    let mut queue = leveled(3);
    queue.set_settings(QueueSettings { priority_order: PriorityOrder::Weighted, ..queue.settings().clone() });
    for level in [0, 1, 3] {
        push_at(&mut queue, level, 20, true);
    }
    let round = [3, 3, 3, 3, 1, 1, 0];
    for _ in 0..2 {
        assert_eq!(levels(&mut queue, 3), round[..3], "one take need not be a round");
        assert_eq!(levels(&mut queue, 4), round[3..]);
    }
    assert_eq!(levels(&mut queue, 5), round[..5]);
    publish(&mut queue, &[2]);
    assert_eq!(levels(&mut queue, 3), [2, 1, 0], "a level that comes has its turn in the same round");
    queue.set_settings(QueueSettings { priority_order: PriorityOrder::Strict, ..queue.settings().clone() });
    assert_eq!(levels(&mut queue, 9), [vec![3; 8], vec![1]].concat());
}

#[test]
fn the_lowest_makes_room_or_the_highest_where_that_is_said() {
    for (overflow_priority, left) in
        [(OverflowPriority::Lowest, [(9, 0), (5, 0)]), (OverflowPriority::Highest, [(1, 0), (0, 0)])]
    {
        let mut queue = leveled(9);
        let max_length = Some(2);
        queue.set_settings(QueueSettings { max_length, overflow_priority, ..queue.settings().clone() });
        publish(&mut queue, &[9, 0, 5, 1]);
        assert_eq!(queue.departure_counts().max_length, 2);
        let departed = queue.take_departed();
        assert!(departed.persistent && departed.ranges.len() == 2);
        assert_eq!(take_levels(&mut queue, 9), left);
    }
}

#[test]
fn bytes_of_all_levels_count_for_a_limit() {
    let mut queue = leveled(2);
    queue.set_settings(QueueSettings { max_length_bytes: Some(30), ..queue.settings().clone() });
    publish(&mut queue, &[2, 1, 0, 2]);
    assert_eq!(take_levels(&mut queue, 9), [(2, 0), (2, 1), (1, 0)], "8 bytes each");
    queue.requeue(first_of_level(1), first_of_level(1), &mut Vec::new());
    publish(&mut queue, &[0, 1, 1]);
    assert_eq!(take_levels(&mut queue, 9), [(1, 0), (1, 1), (1, 2)], "three are 24 bytes");
}

#[test]
fn browsing_sees_the_order_of_delivery() {
    let mut queue = leveled(9);
    publish(&mut queue, &[0, 9, 0, 5, 5]);
    let expected: Vec<Seq> =
        [(9, 0), (5, 0), (5, 1), (0, 0), (0, 1)].map(|(level, at)| first_of_level(level) + at).into();
    let seen = |queue: &mut TestQueue, from, most| {
        let glimpses = queue.glimpse(from, most, |_| 1);
        let ready: Vec<_> = glimpses.into_iter().flat_map(|glimpse| glimpse.ready).collect();
        ready.into_iter().flat_map(|ready| ready.first..=ready.last).collect::<Vec<Seq>>()
    };
    assert_eq!(seen(&mut queue, first_of_level(9), usize::MAX), expected);
    assert_eq!(seen(&mut queue, first_of_level(5) + 1, usize::MAX), expected[2..]);
    assert_eq!(seen(&mut queue, first_of_level(9), 1), expected[..1], "a chunk at a time");
    for (skip, &seq) in (0..).zip(&expected) {
        assert_eq!(queue.nth_ready(skip), Some(seq));
    }
    assert_eq!(queue.nth_ready(5), None);
}

#[test]
fn a_level_costs_nothing_before_its_first_message() {
    let mut queue = leveled(255);
    assert_eq!((queue.levels().count(), queue.descriptor_bytes()), (1, 0));
    publish(&mut queue, &[0]);
    assert_eq!(queue.levels().count(), 1);
    publish(&mut queue, &[255]);
    assert_eq!(queue.levels().count(), 2);
    assert!(queue.descriptor_bytes() < 4096, "{} bytes", queue.descriptor_bytes());
}

#[test]
fn open_tails_of_many_levels_do_not_stay_in_memory() {
    let mut queue = leveled(255);
    let body = vec![0; 900];
    let mut builder = ChunkBuilder::default();
    builder.push(0, 0, b"\0\x01q", b"", body.len(), &body);
    for level in 0..=255 {
        queue.push_copied_at(level, builder.bytes(), 1, Persistence::Transient, 0, &mut Vec::new());
    }
    let mut writes = Vec::new();
    queue.plan_spill(100 << 10, usize::MAX, &mut writes);
    let written: usize = writes.iter().map(|write| write.chunk.bytes().len()).sum();
    assert!(queue.memory_bytes() - written < 160 << 10, "{} of {}", written, queue.memory_bytes());
    assert_eq!(writes.last().map(|write| level_of(write.first_seq)), Some(0), "the lowest go");
}

#[test]
fn of_slots_of_time_the_nearest_stay_in_memory() {
    let mut queue = leveled(255);
    queue.order_levels_by_time();
    // Numbers of levels say nothing of it: slots are used again and again.
    for (level, time_ms) in [(0, 300), (9, 100), (40, 400), (200, 200)] {
        let mut builder = ChunkBuilder::default();
        builder.push(0, time_ms, b"\0\x01q", b"", 1_000, &[0; 1_000]);
        queue.push_copied_at(level, builder.bytes(), 1, Persistence::Transient, 0, &mut Vec::new());
    }
    (0..=255).for_each(|level| queue.in_line(level, |line| line.close_tail()));
    let mut writes = Vec::new();
    queue.plan_spill(1_500, usize::MAX, &mut writes);
    let levels: Vec<u8> = writes.iter().map(|write| level_of(write.first_seq)).collect();
    assert_eq!(levels, [0, 40], "those of 100 and 200 ms stay");
}

#[derive(Clone, Debug)]
enum Step {
    Push(u8, u32, bool),
    Take(u32, bool),
    Settle(usize, usize),
    Requeue(usize, usize),
    Purge,
    Spill(usize),
    Limit(Option<u64>, bool),
    Order(bool),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => ((0u8..6), (1u32..30), any::<bool>()).prop_map(|(level, n, shared)| Step::Push(level, n, shared)),
        3 => ((1u32..60), any::<bool>()).prop_map(|(n, settle)| Step::Take(n, settle)),
        2 => ((0usize..100), (0usize..20)).prop_map(|(at, n)| Step::Settle(at, n)),
        2 => ((0usize..100), (0usize..20)).prop_map(|(at, n)| Step::Requeue(at, n)),
        1 => Just(Step::Purge),
        1 => (0usize..3_000).prop_map(Step::Spill),
        1 => (prop::option::of(0u64..80), any::<bool>()).prop_map(|(most, highest)| Step::Limit(most, highest)),
        1 => any::<bool>().prop_map(Step::Order),
        1 => Just(Step::Restart),
    ]
}

#[derive(Default)]
struct Plain {
    ready: BTreeMap<u8, Vec<Seq>>,
    unacked: Vec<Seq>,
    next: BTreeMap<u8, u64>,
    settings: QueueSettings,
    /// By level: how many it handed out in this round.
    handed: HashMap<u8, u32>,
    dropped: Vec<Seq>,
}

impl Plain {
    fn ready(&self) -> usize {
        self.ready.values().map(Vec::len).sum()
    }

    fn push(&mut self, level: u8, count: u32) {
        let next = self.next.entry(level).or_default();
        let first = first_of_level(level) + *next;
        self.ready.entry(level).or_default().extend(first..first + u64::from(count));
        *next += u64::from(count);
        self.enforce();
    }

    fn filled(&self) -> impl DoubleEndedIterator<Item = u8> + '_ {
        self.ready.iter().filter(|(_, ready)| !ready.is_empty()).map(|(&level, _)| level)
    }

    fn enforce(&mut self) {
        while self.ready() as u64 > self.settings.max_length.unwrap_or(u64::MAX) {
            let level = match self.settings.overflow_priority {
                OverflowPriority::Lowest => self.filled().next(),
                OverflowPriority::Highest => self.filled().next_back(),
            };
            let dropped = self.ready.get_mut(&level.unwrap()).unwrap().remove(0);
            self.dropped.push(dropped);
        }
    }

    fn take_one(&mut self) -> Option<Seq> {
        let highest = self.filled().next_back()?;
        let level = match self.settings.priority_order {
            // There are no turns while there is nothing to choose.
            _ if self.next.keys().all(|&level| level == 0) => highest,
            PriorityOrder::Strict => highest,
            PriorityOrder::Weighted => {
                let may = |level: &u8| *self.handed.get(level).unwrap_or(&0) <= u32::from(*level);
                let level = self.filled().rev().find(may);
                if level.is_none() {
                    self.handed.clear();
                }
                let level = level.unwrap_or(highest);
                *self.handed.entry(level).or_default() += 1;
                level
            }
        };
        Some(self.ready.get_mut(&level)?.remove(0))
    }

    /// Consecutive unacknowledged numbers from the `at`-th on.
    fn pick(&mut self, at: usize, count: usize) -> Option<(Seq, Seq)> {
        self.unacked.sort_unstable();
        let first = *self.unacked.get(at % self.unacked.len().max(1))?;
        let mut last = first;
        while last - first < count as u64 && self.unacked.contains(&(last + 1)) {
            last += 1;
        }
        self.unacked.retain(|&seq| seq < first || seq > last);
        Some((first, last))
    }

    fn restart(&mut self) {
        for seq in std::mem::take(&mut self.unacked) {
            self.ready.entry(level_of(seq)).or_default().push(seq);
        }
        self.ready.values_mut().for_each(|level| level.sort_unstable());
        self.handed.clear();
    }
}

fn restarted(queue: &mut TestQueue) -> TestQueue {
    let mut closed = Vec::new();
    queue.plan_migration(1, &mut closed);
    let mut machine = TestQueue::default();
    let mut found: Vec<(u8, Recovered<u32>)> = Vec::new();
    for level in queue.levels() {
        let (chunks, next_seq) = (level.held().cloned().collect(), level.next_seq());
        found.push((level_of(next_seq), Recovered { chunks, next_seq, redelivered_below: next_seq }));
    }
    found.reverse();
    for (level, found) in found {
        match level {
            0 => machine = TestQueue::recover(found),
            level => machine.recover_level(level, found),
        }
    }
    machine.set_settings(queue.settings().clone());
    machine
}

fn check(steps: &[Step]) -> Result<(), TestCaseError> {
    let (mut queue, mut plain, mut disk) = (leveled(5), Plain::default(), Disk::default());
    let mut dropped = Vec::new();
    for step in steps {
        match *step {
            Step::Push(level, count, shared) => {
                push_at(&mut queue, level, count, shared);
                plain.push(level, count);
            }
            Step::Take(count, settle) => {
                let expected: Vec<Seq> = (0..count).map_while(|_| plain.take_one()).collect();
                let got = take_all(&mut queue, &disk, count, settle);
                prop_assert_eq!(got.into_iter().map(|(seq, _)| seq).collect::<Vec<_>>(), expected.clone());
                plain.unacked.extend(expected.into_iter().filter(|_| !settle));
            }
            Step::Settle(at, count) => {
                if let Some((first, last)) = plain.pick(at, count) {
                    prop_assert_eq!(queue.settle(first, last).count, last - first + 1);
                }
            }
            Step::Requeue(at, count) => {
                if let Some((first, last)) = plain.pick(at, count) {
                    queue.requeue(first, last, &mut Vec::new());
                    let level = plain.ready.entry(level_of(first)).or_default();
                    level.extend(first..=last);
                    level.sort_unstable();
                    plain.enforce();
                }
            }
            Step::Purge => {
                let mut ranges = Vec::new();
                prop_assert_eq!(queue.purge(&mut ranges).count as usize, plain.ready());
                plain.ready.clear();
            }
            Step::Spill(keep) => {
                let mut writes = Vec::new();
                queue.plan_spill(keep, 3_000, &mut writes);
                for write in writes {
                    disk.next += 1;
                    disk.stored.insert(disk.next, write.chunk);
                    queue.written(write.first_seq, disk.next, true);
                }
            }
            Step::Limit(max_length, highest) => {
                let overflow_priority =
                    if highest { OverflowPriority::Highest } else { OverflowPriority::Lowest };
                let overflow = Overflow::DropHead;
                plain.settings =
                    QueueSettings { max_length, overflow_priority, overflow, ..plain.settings.clone() };
                plain.settings.max_priority = 5;
                plain.enforce();
                queue.set_settings(plain.settings.clone());
            }
            Step::Order(weighted) => {
                plain.settings.priority_order =
                    if weighted { PriorityOrder::Weighted } else { PriorityOrder::Strict };
                plain.settings.max_priority = 5;
                queue.set_settings(plain.settings.clone());
            }
            Step::Restart => {
                queue = restarted(&mut queue);
                plain.restart();
                plain.enforce();
            }
        }
        prop_assert_eq!(queue.ready() as usize, plain.ready());
        prop_assert_eq!(queue.unacked() as usize, plain.unacked.len());
        for (first, last) in queue.take_departed().ranges {
            dropped.extend(first..=last);
        }
        dropped.sort_unstable();
        plain.dropped.sort_unstable();
        prop_assert_eq!(&dropped, &plain.dropped);
        for location in queue.take_released() {
            prop_assert!(disk.stored.remove(&location).is_some(), "released twice");
        }
    }
    let rest: Vec<Seq> = std::iter::from_fn(|| plain.take_one()).collect();
    let got = take_all(&mut queue, &disk, u32::MAX, true);
    prop_assert_eq!(got.into_iter().map(|(seq, _)| seq).collect::<Vec<_>>(), rest);
    for &seq in &plain.unacked {
        prop_assert_eq!(queue.settle(seq, seq).count, 1);
    }
    prop_assert_eq!((queue.ready(), queue.unacked(), queue.memory_bytes()), (0, 0, 0));
    for location in queue.take_released() {
        prop_assert!(disk.stored.remove(&location).is_some());
    }
    prop_assert!(disk.stored.is_empty(), "places left behind");
    Ok(())
}

proptest! {
    #[test]
    fn agrees_with_a_list_for_each_level(steps in prop::collection::vec(step(), 1..80)) {
        check(&steps)?;
    }
}
