//! Queues that drop duplicates, against a list of what is in them.

use posthouse_model::field::{FieldTable, FieldValue};
use posthouse_model::ids::{first_of_level, level_of};
use posthouse_model::name::Name;
use posthouse_model::props::Properties;

use super::super::departures::Reason;
use super::super::leaving::stalled::Line;
use super::*;

fn unique_queue() -> TestQueue {
    let mut queue = TestQueue::default();
    queue.set_settings(QueueSettings { unique: true, ..QueueSettings::default() });
    queue
}

/// Records with these values, whose bodies are their numbers; none has no header.
fn records(first: Seq, values: &[Option<FieldValue>]) -> Chunk {
    let mut builder = ChunkBuilder::default();
    for (seq, value) in (first..).zip(values) {
        let entry = |value: &FieldValue| ("x-deduplication-header".to_owned(), value.clone());
        let headers = value.as_ref().map(|value| FieldTable(vec![entry(value)]));
        let mut header = Vec::new();
        Properties { headers, ..Properties::default() }.encode(8, &mut header);
        builder.push(0, 0, b"\0\x01q", &header, 8, &seq.to_le_bytes());
    }
    builder.finish()
}

fn push_values(queue: &mut TestQueue, shared: bool, values: &[Option<FieldValue>]) {
    let chunk = records(queue.next_seq(), values);
    let wakes = &mut Vec::new();
    if shared {
        queue.push_shared(Arc::new(chunk), Persistence::Persistent, 0, wakes);
    } else {
        queue.push_copied(chunk.bytes(), chunk.count(), Persistence::Persistent, 0, wakes);
    }
}

fn text(value: &str) -> Option<FieldValue> {
    Some(FieldValue::string(value))
}

#[test]
fn a_value_is_free_again_when_its_message_is_gone() {
    let mut queue = unique_queue();
    consumer(&mut queue);
    push_values(&mut queue, false, &[text("a"), None, text("b"), text("a"), None]);
    assert_eq!((queue.ready(), queue.departure_counts().duplicate), (4, 1));
    let departed = queue.take_departed();
    assert_eq!((departed.ranges, departed.persistent), (vec![(3, 3)], true));
    assert_eq!(take(&mut queue, 9).iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), [0, 1, 2, 4]);
    push_values(&mut queue, true, &[text("a")]);
    assert_eq!((queue.ready(), queue.unacked()), (0, 4), "it is still outstanding");
    queue.requeue(0, 0, &mut Vec::new());
    queue.settle(1, 2);
    push_values(&mut queue, true, &[text("a"), text("b")]);
    assert_eq!((queue.ready(), queue.unacked()), (2, 1));
    queue.purge(&mut Vec::new());
    push_values(&mut queue, false, &[text("a"), text("b"), text("b")]);
    assert_eq!(queue.ready(), 2);
}

#[test]
fn numbers_are_compared_by_value_and_not_with_texts() {
    let mut queue = unique_queue();
    let values = [FieldValue::I32(7), FieldValue::I64(7), FieldValue::string("7"), FieldValue::F64(7.0)];
    push_values(&mut queue, false, &values.map(Some));
    assert_eq!(queue.ready(), 3);
}

#[test]
fn a_plain_queue_drops_nothing() {
    let mut queue = TestQueue::default();
    push_values(&mut queue, false, &[text("a"), text("a")]);
    assert_eq!((queue.ready(), queue.descriptor_bytes()), (2, 0));
}

#[test]
fn a_dead_letters_value_is_free_when_it_leaves() {
    let mut queue = unique_queue();
    dead_lettering(&mut queue);
    consumer(&mut queue);
    push_values(&mut queue, true, &[text("a"), text("a"), text("b")]);
    assert_eq!(
        (queue.leaving(), queue.take_departed().ranges),
        (0, vec![(1, 1)]),
        "duplicates are no dead letters"
    );
    take(&mut queue, 1);
    queue.reject(0, 0, Reason::Rejected);
    // It may come back to this very queue.
    push_values(&mut queue, true, &[text("a"), text("b")]);
    assert_eq!((queue.leaving(), queue.ready(), queue.departure_counts().duplicate), (1, 2, 2));
    queue.take_leaving(Line::New, usize::MAX, |_| 0);
    queue.moved(0, 0, 7);
    queue.finish_moves(7);
    push_values(&mut queue, true, &[text("a")]);
    assert_eq!((queue.leaving(), queue.ready()), (0, 2), "the one that came after it is there");
}

/// One message that nobody settles must not keep the values of all that came after it.
#[test]
fn memory_follows_what_is_in_the_queue() {
    let mut queue = unique_queue();
    consumer(&mut queue);
    push_values(&mut queue, true, &[text("stays")]);
    take(&mut queue, 1);
    for n in 0..10_000 {
        push_values(&mut queue, true, &[text(&n.to_string())]);
        let (seq, _) = take(&mut queue, 1)[0];
        queue.settle(seq, seq);
    }
    assert!(queue.descriptor_bytes() < 20_000, "{} bytes", queue.descriptor_bytes());
}

proptest! {
    #[test]
    fn agrees_with_a_list(ops in prop::collection::vec((0u8..6, 1usize..6, any::<u8>()), 1..120)) {
        let mut queue = unique_queue();
        consumer(&mut queue);
        let (mut ready, mut unacked) = (Vec::<(Seq, u8)>::new(), Vec::<(Seq, u8)>::new());
        for (op, count, value) in ops {
            match op {
                0..=2 => {
                    let values: Vec<u8> = (0..count as u8).map(|n| (value.wrapping_mul(n + 1)) % 16).collect();
                    let fields: Vec<_> = values.iter().map(|&v| Some(FieldValue::U8(v))).collect();
                    let first = queue.next_seq();
                    push_values(&mut queue, op == 0, &fields);
                    for (seq, value) in (first..).zip(values) {
                        if ready.iter().chain(&unacked).all(|(_, known)| *known != value) {
                            ready.push((seq, value));
                        }
                    }
                }
                3 => {
                    let expected: Vec<_> = ready.drain(..count.min(ready.len())).collect();
                    let got: Vec<Seq> = take(&mut queue, count as u32).iter().map(|(seq, _)| *seq).collect();
                    prop_assert_eq!(got, expected.iter().map(|(seq, _)| *seq).collect::<Vec<_>>());
                    unacked.extend(expected);
                }
                _ if unacked.is_empty() => {}
                4 => {
                    let (seq, _) = unacked.remove(usize::from(value) % unacked.len());
                    prop_assert_eq!(queue.settle(seq, seq).count, 1);
                }
                _ => {
                    let given_back = unacked.remove(usize::from(value) % unacked.len());
                    queue.requeue(given_back.0, given_back.0, &mut Vec::new());
                    ready.push(given_back);
                    // Those that were given back come first.
                    let cursor = queue.cursor;
                    ready.sort_by_key(|(seq, _)| (*seq >= cursor, *seq));
                }
            }
            prop_assert_eq!((queue.ready() as usize, queue.unacked() as usize), (ready.len(), unacked.len()));
        }
        // A restart that finds the same drops nothing, and knows the values.
        queue.close_tail();
        let chunks: Vec<Held<u32>> = queue.held().cloned().collect();
        let next_seq = queue.next_seq();
        let mut found = TestQueue::recover(Recovered { chunks, next_seq, redelivered_below: 0 });
        found.set_settings(QueueSettings { unique: true, ..QueueSettings::default() });
        let chunks: Vec<_> = found.held().map(|h| (h.first_seq, h.residence.chunk().unwrap().clone())).collect();
        for (first_seq, chunk) in chunks {
            found.learn_values(first_seq, &chunk);
        }
        prop_assert_eq!(found.ready() as usize, ready.len() + unacked.len());
        if let Some((_, value)) = ready.first() {
            push_values(&mut found, false, &[Some(FieldValue::U8(*value))]);
            prop_assert_eq!(found.ready() as usize, ready.len() + unacked.len());
        }
    }
}

fn dead_lettering(queue: &mut TestQueue) {
    let dead_letter_exchange = Some(Name::truncated("dlx"));
    queue.set_settings(QueueSettings { unique: true, dead_letter_exchange, ..QueueSettings::default() });
}

#[test]
fn a_duplicate_that_is_turned_away_counts_once() {
    let mut queue = unique_queue();
    dead_lettering(&mut queue);
    push_values(&mut queue, false, &[text("a")]);
    push_values(&mut queue, false, &[text("a"), text("b")]);
    queue.turn_away(1, 2);
    assert_eq!((queue.ready(), queue.leaving(), queue.departure_counts().duplicate), (1, 1, 1));
}

/// A value is one value in all of a queue's priorities, before a restart and after it.
#[test]
fn priorities_share_what_is_known() {
    let settings = || QueueSettings { unique: true, max_priority: 9, ..QueueSettings::default() };
    let push_at = |queue: &mut TestQueue, level: u8, values: &[Option<FieldValue>]| {
        let next = queue.levels().map(|line| line.next_seq()).find(|&next| level_of(next) == level);
        let chunk = records(next.unwrap_or(first_of_level(level)), values);
        queue.push_shared_at(level, Arc::new(chunk), Persistence::Persistent, 0, &mut Vec::new());
    };
    let mut queue = TestQueue::default();
    queue.set_settings(settings());
    push_at(&mut queue, 5, &[text("a"), text("b"), text("a")]);
    push_at(&mut queue, 0, &[text("b"), text("c")]);
    push_at(&mut queue, 9, &[text("c"), text("d"), None]);
    assert_eq!((queue.ready(), queue.departure_counts().duplicate), (5, 3));
    let high = first_of_level(9);
    assert_eq!(
        queue.take_departed().ranges,
        [(first_of_level(5) + 2, first_of_level(5) + 2), (0, 0), (high, high)]
    );
    let mut runs = Vec::new();
    queue.take_any(Limits { messages: 1, bytes: usize::MAX }, false, &mut runs);
    queue.settle(high + 1, high + 1);
    push_at(&mut queue, 0, &[text("d")]);
    assert_eq!(queue.ready(), 5, "it is free again, for any priority");

    let line = |queue: &TestQueue, level: u8| {
        let line = queue.levels().find(|line| level_of(line.next_seq()) == level).unwrap();
        let chunks = line.held().cloned().collect();
        Recovered { chunks, next_seq: line.next_seq(), redelivered_below: 0 }
    };
    queue.close_tail();
    let mut found = TestQueue::recover(line(&queue, 0));
    [5, 9].into_iter().for_each(|level| found.recover_level(level, line(&queue, level)));
    found.set_settings(settings());
    let held: Vec<_> = found.levels().flat_map(|line| line.held()).cloned().collect();
    held.iter().for_each(|held| found.learn_values(held.first_seq, held.residence.chunk().unwrap()));
    assert_eq!(found.ready(), 5);
    push_at(&mut found, 5, &[text("a"), text("c"), text("d"), text("e")]);
    assert_eq!(found.ready(), 6);
}
