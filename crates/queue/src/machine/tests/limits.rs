//! Length limits, alone and against a plain model.

use std::collections::{BTreeMap, VecDeque};

use posthouse_model::bitmap::SeqBitmap;
use posthouse_model::queue_settings::Overflow;

use super::*;
use crate::machine::chunks::Residence;

fn sized(sizes: &[u32]) -> Chunk {
    let mut builder = ChunkBuilder::default();
    for &size in sizes {
        let body = vec![b'x'; size as usize];
        builder.push(0, 0, b"\0\x01q", b"", body.len(), &body);
    }
    builder.finish()
}

fn limited(max_length: Option<u64>, max_length_bytes: Option<u64>, overflow: Overflow) -> TestQueue {
    let mut queue = TestQueue::default();
    queue.set_settings(QueueSettings { max_length, max_length_bytes, overflow, ..QueueSettings::default() });
    queue
}

fn refused(queue: &TestQueue, sizes: &[u32]) -> Vec<u32> {
    let mut refused = Vec::new();
    queue.refuse(sized(sizes).bytes(), sizes.len() as u32, &mut refused);
    refused
}

#[test]
fn a_queue_drops_from_the_head() {
    let mut queue = limited(Some(3), None, Overflow::DropHead);
    push(&mut queue, 2);
    push(&mut queue, 5);
    assert_eq!((queue.ready(), queue.take_departed().ranges), (3, vec![(0, 3)]));
    assert!(!queue.has_departed());
    assert_eq!(queue.departure_counts().max_length, 4);
}

#[test]
fn what_is_handed_out_does_not_count_and_what_comes_back_does() {
    let mut queue = limited(Some(2), None, Overflow::DropHead);
    push(&mut queue, 2);
    assert_eq!(take_any(&mut queue, 2), [0, 1]);
    push(&mut queue, 2);
    assert!(!queue.has_departed());
    queue.requeue(0, 1, &mut Vec::new());
    assert_eq!((queue.take_departed().ranges, queue.ready()), (vec![(0, 1)], 2));
}

#[test]
fn nothing_is_dropped_while_a_consumer_is_about_to_take() {
    let mut queue = limited(Some(1), None, Overflow::DropHead);
    consumer(&mut queue);
    push(&mut queue, 3);
    assert_eq!(take(&mut queue, 1).len(), 1);
    queue.roster.set(CONSUMER, Standing::Blocked);
    queue.enforce_limits();
    assert_eq!((queue.take_departed().ranges, queue.ready()), (vec![(1, 1)], 1));
}

#[test]
fn each_message_is_refused_or_not_by_itself() {
    let queue = limited(Some(3), None, Overflow::RejectPublish);
    assert_eq!(refused(&queue, &[1, 1, 1]), [] as [u32; 0]);
    assert_eq!(refused(&queue, &[1, 1, 1, 1, 1]), [3, 4]);
    let queue = limited(None, Some(10), Overflow::RejectPublish);
    assert_eq!(refused(&queue, &[4, 7, 6, 0, 1]), [1, 4]);
}

#[test]
fn above_a_limit_in_bytes_an_empty_message_is_refused_too() {
    let mut queue = TestQueue::default();
    push(&mut queue, 1);
    for (bytes, expected) in [(8, &[] as &[u32]), (7, &[0])] {
        let overflow = Overflow::RejectPublish;
        queue.set_settings(QueueSettings {
            max_length_bytes: Some(bytes),
            overflow,
            ..QueueSettings::default()
        });
        assert_eq!(refused(&queue, &[0]), expected);
    }
}

#[test]
fn a_limit_in_bytes_waits_until_all_sizes_are_known() {
    let mut queue = TestQueue::default();
    push(&mut queue, 4);
    spill_all(&mut queue);
    let bytes = QueueSettings { max_length_bytes: Some(16), ..QueueSettings::default() };
    queue.set_settings(bytes);
    push(&mut queue, 4);
    assert_eq!((queue.ready(), queue.plan_survey(100, |_| 1)), (8, vec![(0, 0)]));
    queue.surveyed(0, &chunk(0, 4));
    queue.enforce_limits();
    assert_eq!((queue.take_departed().ranges, queue.ready()), (vec![(0, 5)], 2));
    assert_eq!(queue.plan_survey(100, |_| 1), []);
}

#[test]
fn a_lower_limit_applies_at_once() {
    let mut queue = TestQueue::default();
    push(&mut queue, 9);
    queue.set_settings(QueueSettings { max_length: Some(0), ..QueueSettings::default() });
    assert_eq!((queue.take_departed().ranges, queue.ready()), (vec![(0, 8)], 0));
}

fn take_any(queue: &mut TestQueue, messages: u32) -> Vec<Seq> {
    let mut runs = Vec::new();
    queue.take_any(Limits { messages, bytes: usize::MAX }, false, &mut runs);
    runs.iter().flat_map(|run| run.first_seq..=run.last_seq()).collect()
}

#[derive(Clone, Debug)]
enum Step {
    Push(Vec<u32>, bool),
    Take(u32),
    Settle(usize),
    Requeue(usize),
    Limit(Option<u64>, Option<u64>, bool),
    Spill,
}

fn step() -> impl Strategy<Value = Step> {
    let limit = || prop::option::of(0u64..40);
    prop_oneof![
        4 => (prop::collection::vec(0u32..9, 1..12), any::<bool>()).prop_map(|(s, shared)| Step::Push(s, shared)),
        3 => (1u32..12).prop_map(Step::Take),
        2 => (0usize..50).prop_map(Step::Settle),
        2 => (0usize..50).prop_map(Step::Requeue),
        1 => (limit(), limit(), any::<bool>()).prop_map(|(n, b, r)| Step::Limit(n, b, r)),
        1 => Just(Step::Spill),
    ]
}

#[derive(Default)]
struct Plain {
    ready: VecDeque<Seq>,
    unacked: Vec<Seq>,
    sizes: BTreeMap<Seq, u32>,
    settings: QueueSettings,
    dropped: Vec<Seq>,
    next: Seq,
}

impl Plain {
    fn bytes(&self) -> u64 {
        self.ready.iter().map(|seq| u64::from(self.sizes[seq])).sum()
    }

    fn enforce(&mut self) {
        let QueueSettings { max_length, max_length_bytes, overflow, .. } = self.settings;
        let (most, bytes) = (max_length.unwrap_or(u64::MAX), max_length_bytes.unwrap_or(u64::MAX));
        while overflow == Overflow::DropHead && (self.ready.len() as u64 > most || self.bytes() > bytes) {
            self.dropped.extend(self.ready.pop_front());
        }
    }

    /// Publishes one; whether it was refused.
    fn push(&mut self, size: u32) -> bool {
        let limits = &self.settings;
        let fits = (self.ready.len() as u64) < limits.max_length.unwrap_or(u64::MAX)
            && self.bytes() + u64::from(size) <= limits.max_length_bytes.unwrap_or(u64::MAX);
        if limits.refuses() && !fits {
            return true;
        }
        self.ready.push_back(self.next);
        self.sizes.insert(self.next, size);
        self.next += 1;
        false
    }
}

proptest! {
    #[test]
    fn agrees_with_a_plain_queue(steps in prop::collection::vec(step(), 1..60)) {
        let (mut queue, mut plain) = (TestQueue::default(), Plain::default());
        let mut stored: HashMap<Seq, Arc<Chunk>> = HashMap::new();
        let mut dropped = Vec::new();
        for step in steps {
            match step {
                Step::Push(sizes, shared) => {
                    let turned_away = refused(&queue, &sizes);
                    let mut kept = Vec::new();
                    for (position, &size) in (0..).zip(&sizes) {
                        let was_refused = plain.push(size);
                        prop_assert_eq!(turned_away.contains(&position), was_refused, "{} of {:?}", position, sizes);
                        if !was_refused {
                            kept.push(size);
                        }
                    }
                    plain.enforce();
                    let (chunk, count) = (sized(&kept), kept.len() as u32);
                    match shared {
                        _ if count == 0 => {}
                        true => queue.push_shared(Arc::new(chunk), Persistence::Persistent, 0, &mut Vec::new()),
                        false => queue.push_copied(chunk.bytes(), count, Persistence::Persistent, 0, &mut Vec::new()),
                    }
                }
                Step::Take(count) => {
                    let expected: Vec<Seq> = plain.ready.drain(..plain.ready.len().min(count as usize)).collect();
                    for (first_seq, _) in queue.plan_load(usize::MAX, |_| 1) {
                        queue.loaded(first_seq, stored[&first_seq].clone(), &mut Vec::new());
                    }
                    prop_assert_eq!(&take_any(&mut queue, count), &expected);
                    plain.unacked.extend(expected);
                }
                Step::Settle(at) | Step::Requeue(at) if !plain.unacked.is_empty() => {
                    let seq = plain.unacked.swap_remove(at % plain.unacked.len());
                    if matches!(step, Step::Settle(_)) {
                        queue.settle(seq, seq);
                    } else {
                        queue.requeue(seq, seq, &mut Vec::new());
                        let at = plain.ready.partition_point(|&other| other < seq);
                        plain.ready.insert(at, seq);
                        plain.enforce();
                    }
                }
                Step::Settle(_) | Step::Requeue(_) => {}
                Step::Limit(max_length, max_length_bytes, refuse) => {
                    let overflow = if refuse { Overflow::RejectPublish } else { Overflow::DropHead };
                    plain.settings =
                        QueueSettings { max_length, max_length_bytes, overflow, ..QueueSettings::default() };
                    plain.enforce();
                    queue.set_settings(plain.settings.clone());
                }
                Step::Spill => {
                    let mut writes = Vec::new();
                    queue.plan_spill(0, usize::MAX, &mut writes);
                    for write in writes {
                        stored.insert(write.first_seq, write.chunk);
                        queue.written(write.first_seq, write.first_seq as u32, true);
                    }
                }
            }
            for (first_seq, _) in queue.plan_survey(usize::MAX, |_| 1) {
                queue.surveyed(first_seq, &stored[&first_seq]);
            }
            queue.enforce_limits();
            prop_assert_eq!(queue.ready() as usize, plain.ready.len());
            for (first, last) in queue.take_departed().ranges {
                dropped.extend(first..=last);
            }
            dropped.sort_unstable();
            plain.dropped.sort_unstable();
            prop_assert_eq!(&dropped, &plain.dropped);
        }
    }
}

/// The rest of the chunk at the cursor is settled, and what came after it is in the open tail.
#[test]
fn the_limit_holds_behind_a_chunk_that_has_no_more() {
    let mut settled = SeqBitmap::new(3);
    settled.set_range(1, 3);
    let residence = Residence::Memory(Arc::new(chunk(0, 3)));
    let chunks = vec![Held::recovered(0, 3, Some(settled), residence)];
    let mut queue = TestQueue::recover(Recovered { chunks, next_seq: 3, redelivered_below: 3 });
    queue.set_settings(QueueSettings { max_length: Some(2), ..QueueSettings::default() });
    let mut runs = Vec::new();
    queue.take_any(Limits { messages: 1, bytes: usize::MAX }, false, &mut runs);
    queue.push_copied(chunk(3, 5).bytes(), 5, Persistence::Persistent, 0, &mut Vec::new());
    assert_eq!((queue.ready(), queue.unacked(), queue.take_departed().ranges), (2, 1, vec![(3, 5)]));
}

#[test]
fn room_that_is_kept_is_not_for_others() {
    let mut queue = TestQueue::default();
    assert_eq!(queue.room(), Room::UNLIMITED);
    let settings = QueueSettings {
        max_length: Some(4),
        max_length_bytes: Some(30),
        overflow: Overflow::RejectPublish,
        ..QueueSettings::default()
    };
    queue.set_settings(settings);
    push(&mut queue, 1);
    let mut room = queue.room();
    assert_eq!(room, Room { messages: 3, bytes: 22 });
    assert!(room.has_place_for(22) && !room.has_place_for(23));
    let one = Room { messages: 1, bytes: 8 };
    queue.reserve(one);
    room.take_up(8);
    assert_eq!(queue.room(), room);
    let mut refused = Vec::new();
    queue.refuse(chunk(1, 2).bytes(), 2, &mut refused);
    assert_eq!(refused, [1], "14 bytes are left");
    // What room was kept for comes.
    queue.end_reservation(one);
    push(&mut queue, 1);
    assert_eq!(queue.room(), room);
}
