//! Queues whose publishers number their messages, against what each publisher has published.

use std::collections::{BTreeMap, BTreeSet};

use posthouse_model::field::{FieldTable, FieldValue};
use posthouse_model::ids::Lsn;
use posthouse_model::props::Properties;

use posthouse_model::queue_settings::Overflow;

use super::super::admission::{Admission, Batch};
use super::super::producers::{GAPS_MAX, PRODUCERS_MAX, Recalled};
use super::*;
use crate::stream::notes::Note;

fn numbered() -> TestQueue {
    let mut queue = TestQueue::default();
    queue.set_settings(settings());
    queue
}

fn settings() -> QueueSettings {
    QueueSettings { publisher_deduplication: true, ..QueueSettings::default() }
}

fn records(messages: &[(&str, i64)]) -> Chunk {
    let mut builder = ChunkBuilder::default();
    for (name, id) in messages {
        let entry = |name: &str, value| (name.to_owned(), value);
        let reference = entry("x-stream-publisher-reference", FieldValue::string(name));
        let headers = FieldTable(vec![reference, entry("x-stream-publishing-id", FieldValue::I64(*id))]);
        let mut header = Vec::new();
        Properties { headers: Some(headers), ..Properties::default() }.encode(1, &mut header);
        builder.push(0, 0, b"\0\x01q", &header, 1, b"x");
    }
    builder.finish()
}

fn one_batch(chunk: &Chunk, may_refuse: bool) -> Batch<'_> {
    Batch { records: chunk.bytes(), logged: true, may_refuse, now_ms: 0 }
}

/// Publishes messages as the broker does; which of them entered, which were refused, and what the log is told.
fn offer(queue: &mut TestQueue, messages: &[(&str, i64)]) -> (Vec<i64>, Vec<i64>, Vec<Note>) {
    let chunk = records(messages);
    let mut admission = Admission::default();
    queue.admit(one_batch(&chunk, true), &mut admission);
    let Admission { entered_before, refused, notes } = admission;
    let is_new = |(position, _): &(u32, _)| !entered_before.contains(position) && !refused.contains(position);
    let new: Vec<(&str, i64)> = (0..).zip(messages.iter().copied()).filter(is_new).map(|(_, m)| m).collect();
    let part = records(&new);
    if part.count() > 0 {
        queue.push_copied(part.bytes(), part.count(), Persistence::Persistent, 0, &mut Vec::new());
    }
    queue.admitted(queue.next_seq(), 0);
    let refused = refused.iter().map(|&position| messages[position as usize].1).collect();
    (new.iter().map(|(_, id)| *id).collect(), refused, notes)
}

/// The same for a queue that refuses nothing.
fn publish(queue: &mut TestQueue, messages: &[(&str, i64)]) -> (Vec<i64>, Vec<Note>) {
    let (new, refused, notes) = offer(queue, messages);
    assert_eq!(refused, [] as [i64; 0]);
    (new, notes)
}

fn refusing(max_length: u64) -> TestQueue {
    let mut queue = TestQueue::default();
    queue.set_settings(QueueSettings {
        max_length: Some(max_length),
        overflow: Overflow::RejectPublish,
        ..settings()
    });
    queue
}

#[test]
fn what_was_refused_enters_when_it_comes_again() {
    let mut queue = refusing(3);
    let (new, refused, _) = offer(&mut queue, &[("a", 1), ("a", 2), ("a", 3), ("a", 4), ("a", 6), ("a", 6)]);
    assert_eq!((new, refused), (vec![1, 2, 3], vec![4, 6, 6]));
    queue.purge(&mut Vec::new());
    // It goes on with the next ones, and sends what was refused after that.
    let (new, refused, notes) = offer(&mut queue, &[("a", 8), ("a", 9)]);
    assert_eq!((new, refused, notes), (vec![8, 9], vec![], vec![Note::entered(b"a", 9, &[(4, 7)])]));
    assert_eq!(offer(&mut queue, &[("a", 8), ("a", 6), ("a", 3)]).0, [6]);
    assert_eq!(offer(&mut queue, &[("a", 4)]).1, [4], "there is no room again");
    queue.purge(&mut Vec::new());
    let (new, _, notes) = offer(&mut queue, &[("a", 4), ("a", 6), ("a", 4), ("a", 10)]);
    assert_eq!(new, [4, 10]);
    assert_eq!(notes, [Note::entered(b"a", 10, &[(5, 5), (7, 7)])]);
}

#[test]
fn what_was_refused_before_a_restart_enters_when_it_comes_again() {
    let mut disk = Disk::default();
    let mut queue = refusing(1);
    let (new, refused, notes) = offer(&mut queue, &[("a", 5), ("a", 6)]);
    assert_eq!((new, refused), (vec![5], vec![6]));
    disk.keep(notes);
    let mut queue = disk.start();
    let refusing = QueueSettings { max_length: Some(100), overflow: Overflow::RejectPublish, ..settings() };
    queue.set_settings(refusing);
    assert_eq!(publish(&mut queue, &[("a", 7), ("a", 5), ("a", 6), ("a", 6), ("a", 7)]).0, [7, 6]);
    // Nothing is known of who was refused only.
    assert_eq!(publish(&mut queue, &[("b", 3), ("b", 1), ("b", 3), ("b", 9), ("b", 7)]).0, [3, 1, 9, 7]);
}

#[test]
fn the_lowest_gap_is_given_up_for_another() {
    let mut queue = refusing(1);
    for id in 0..2 * GAPS_MAX as i64 + 2 {
        // Every other number is refused.
        assert_eq!(offer(&mut queue, &[("a", 2 * id), ("a", 2 * id + 1)]).0, [2 * id]);
        queue.purge(&mut Vec::new());
    }
    let (new, refused, notes) = offer(&mut queue, &[("a", 1)]);
    assert_eq!((new, refused, notes), (vec![], vec![], vec![]), "taken for one that has entered");
    let last = 2 * (2 * GAPS_MAX as i64 + 1);
    assert_eq!(offer(&mut queue, &[("a", last - 1)]).0, [last - 1]);
    let note = &queue.producer_notes(Lsn::MAX)[0];
    assert_eq!(note.value.len(), 8 + 16 * (GAPS_MAX - 1));
}

#[test]
fn limits_that_were_set_after_a_batch_was_gathered_refuse_nothing() {
    let mut queue = refusing(1);
    let mut admission = Admission::default();
    queue.admit(one_batch(&records(&[("a", 1), ("a", 2)]), false), &mut admission);
    assert_eq!((admission.entered_before, admission.refused), (vec![], vec![]));
}

#[test]
fn a_checkpoint_says_what_is_on_disk() {
    let mut queue = numbered();
    publish(&mut queue, &[("a", 1)]);
    publish(&mut queue, &[("a", 2), ("b", 5)]);
    publish(&mut queue, &[("a", 3)]);
    let told = |queue: &TestQueue, durable| {
        let mut notes = queue.producer_notes(durable);
        notes.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        notes
    };
    let note = |name: &[u8], id| Note::entered(name, id, &[]);
    assert_eq!(told(&queue, 0), []);
    assert_eq!(told(&queue, 1), [note(b"a", 1)]);
    assert_eq!(told(&queue, 2), [note(b"a", 1)], "half a batch");
    assert_eq!(told(&queue, 3), [note(b"a", 2), note(b"b", 5)]);
    assert_eq!(told(&queue, 4), [note(b"a", 3), note(b"b", 5)]);
    queue.admitted(4, 3);
    assert_eq!(queue.producer_notes(0).len(), 2, "what is known to be on disk is not undone any more");
    queue.admit(one_batch(&records(&[("c", 1)]), true), &mut Admission::default());
    assert_eq!(queue.producer_notes(Lsn::MAX - 1).len(), 2, "where it ends is not known yet");
}

#[test]
fn a_number_enters_once() {
    let mut queue = numbered();
    assert_eq!(publish(&mut queue, &[("a", 0), ("a", 1), ("a", 1), ("b", 1)]).0, [0, 1, 1]);
    assert_eq!(publish(&mut queue, &[("a", 0), ("a", 5), ("a", 3), ("b", 1)]).0, [5], "a gap is no matter");
    queue.purge(&mut Vec::new());
    assert_eq!(publish(&mut queue, &[("a", 5), ("a", 6)]).0, [6], "whatever becomes of the messages");
    let chunk = chunk(0, 3);
    let mut admission = Admission::default();
    queue.admit(one_batch(&chunk, true), &mut admission);
    assert_eq!(admission, Admission::default(), "messages without a number are new");
}

#[test]
fn a_plain_queue_looks_at_no_numbers() {
    let mut queue = TestQueue::default();
    assert_eq!(publish(&mut queue, &[("a", 0), ("a", 0)]), (vec![0, 0], vec![]));
    assert_eq!(queue.descriptor_bytes() - queue.chunks.descriptor_bytes(), 0);
}

#[test]
fn the_log_is_told_once_for_a_batch() {
    let mut queue = numbered();
    let (_, notes) = publish(&mut queue, &[("a", 4), ("b", 1), ("a", 7)]);
    assert_eq!(notes, [Note::entered(b"a", 7, &[]), Note::entered(b"b", 1, &[])]);
    let (_, notes) = publish(&mut queue, &[("a", 7), ("a", 8), ("a", 9)]);
    assert_eq!(notes, [Note::entered(b"a", 9, &[])]);
    assert_eq!(publish(&mut queue, &[("a", 9), ("b", 0)]), (vec![], vec![]));
}

#[test]
fn who_is_quiet_for_longest_is_forgotten() {
    let mut queue = numbered();
    let names: Vec<String> = (0..PRODUCERS_MAX).map(|n| n.to_string()).collect();
    for name in &names {
        publish(&mut queue, &[(name, 9)]);
    }
    publish(&mut queue, &[("0", 9)]);
    publish(&mut queue, &[("another", 9)]);
    assert_eq!(publish(&mut queue, &[("0", 9)]).0, [] as [i64; 0], "what is sent again counts");
    assert_eq!(publish(&mut queue, &[("1", 9)]).0, [9], "it had to make room");
    assert_eq!(queue.producer_notes(Lsn::MAX).len(), PRODUCERS_MAX);
    assert!(queue.descriptor_bytes() < 250 * PRODUCERS_MAX, "{} bytes", queue.descriptor_bytes());
}

#[test]
fn other_notes_are_not_known() {
    let mut queue = numbered();
    for (key, value) in [(&b"\x02a"[..], &[0; 16][..]), (b"\x03a", &[0; 9]), (b"\x04a", &[0; 9]), (b"", &[])]
    {
        assert_eq!(queue.remember_producer(key, value), Recalled::Unknown);
    }
}

/// Older brokers told the log of a number in a record of its own, before the batch.
#[test]
fn older_notes_count_if_their_batch_is_there() {
    let start = |notes: &[Note], next_seq| {
        let mut disk = Disk { next_seq, ..Disk::default() };
        disk.keep(notes.to_vec());
        (disk.start(), disk.notes)
    };
    let notes = [Note::producer(b"a", 9, 3, Some(7)), Note::producer(b"b", 1, 3, None)];
    let (mut queue, told) = start(&notes, 4);
    assert_eq!(told.len(), 2);
    assert_eq!(publish(&mut queue, &[("a", 8), ("a", 9), ("b", 1)]).0, [] as [i64; 0]);
    let (mut queue, told) = start(&notes, 3);
    assert_eq!(told.len(), 1, "who had published nothing before is not known");
    assert_eq!(publish(&mut queue, &[("a", 7), ("a", 9), ("b", 1)]).0, [9, 1]);
    // A newer one goes before.
    let (mut queue, _) = start(&[notes[0].clone(), Note::entered(b"a", 20, &[])], 4);
    assert_eq!(publish(&mut queue, &[("a", 20), ("a", 21)]).0, [21]);
}

/// What is on disk: the last note of each publisher, and how far the messages go.
#[derive(Default)]
struct Disk {
    notes: BTreeMap<Vec<u8>, Vec<u8>>,
    next_seq: Seq,
}

impl Disk {
    fn keep(&mut self, notes: Vec<Note>) {
        for Note { key, value } in notes {
            match value.is_empty() {
                true => drop(self.notes.remove(&key)),
                false => drop(self.notes.insert(key, value)),
            }
        }
    }

    fn start(&mut self) -> TestQueue {
        let found = Recovered { chunks: Vec::new(), next_seq: self.next_seq, redelivered_below: 0 };
        let mut queue = TestQueue::recover(found);
        for (key, value) in self.notes.clone() {
            match queue.remember_producer(&key, &value) {
                Recalled::NotThere(truth) => self.keep(vec![truth]),
                recalled => assert_eq!(recalled, Recalled::AsItSays),
            }
        }
        queue.was_restarted();
        queue.set_settings(settings());
        queue
    }
}

proptest! {
    /// Whatever is published again, before or after crashes that cut the log anywhere, each number that is on disk is there
    /// once, and none that is not is taken for one that is.
    #[test]
    fn crashes_lose_and_repeat_nothing(
        batches in prop::collection::vec(
            (prop::collection::vec((0usize..3, 0i64..40), 1..6), 0u8..8),
            1..60,
        )
    ) {
        const NAMES: [&str; 3] = ["a", "b", "c"];
        let (mut queue, mut disk) = (numbered(), Disk::default());
        let mut highest: BTreeMap<&str, i64> = BTreeMap::new();
        for (batch, event) in batches {
            let messages: Vec<(&str, i64)> = batch.iter().map(|&(name, id)| (NAMES[name], id)).collect();
            let before = highest.clone();
            let mut expected = Vec::new();
            for &(name, id) in &messages {
                if highest.get(name).is_none_or(|highest| id > *highest) {
                    highest.insert(name, id);
                    expected.push(id);
                }
            }
            let (new, notes) = publish(&mut queue, &messages);
            prop_assert_eq!(new, expected);
            match event {
                // A crash before anything of the batch is on disk.
                0 | 1 => {
                    highest = before;
                    queue = disk.start();
                }
                2 => {
                    disk.keep(notes);
                    disk.next_seq = queue.next_seq();
                    queue = disk.start();
                }
                // A checkpoint after the batch is on disk.
                3 => {
                    disk.notes.clear();
                    disk.keep(queue.producer_notes(queue.next_seq()));
                    disk.next_seq = queue.next_seq();
                }
                // A checkpoint, and a crash before it is.
                4 => {
                    disk.notes.clear();
                    disk.keep(queue.producer_notes(disk.next_seq));
                    highest = before;
                    queue = disk.start();
                }
                _ => {
                    disk.keep(notes);
                    disk.next_seq = queue.next_seq();
                }
            }
        }
    }

    /// In a queue that refuses messages: nothing enters twice, and what was refused is never taken for something that has
    /// entered, whatever was published meanwhile and whatever a crash has taken.
    #[test]
    fn what_was_refused_may_always_come_again(
        batches in prop::collection::vec(
            (prop::collection::vec((0usize..3, 0i64..30), 1..6), 0u8..8, any::<bool>()),
            1..60,
        )
    ) {
        const NAMES: [&str; 3] = ["a", "b", "c"];
        let refuse = |mut queue: TestQueue| {
            queue.set_settings(QueueSettings {
                max_length: Some(4),
                overflow: Overflow::RejectPublish,
                ..settings()
            });
            queue
        };
        let (mut queue, mut disk) = (refuse(numbered()), Disk::default());
        let mut entered: BTreeSet<(&str, i64)> = BTreeSet::new();
        let mut refused: BTreeSet<(&str, i64)> = BTreeSet::new();
        for (batch, event, empties) in batches {
            let messages: Vec<(&str, i64)> = batch.iter().map(|&(name, id)| (NAMES[name], id)).collect();
            let before = entered.clone();
            let mut admission = Admission::default();
            queue.admit(one_batch(&records(&messages), true), &mut admission);
            let mut part = Vec::new();
            for (position, &message) in (0..).zip(&messages) {
                if admission.entered_before.contains(&position) {
                    prop_assert!(entered.contains(&message) || !refused.contains(&message), "{message:?} is lost");
                } else if admission.refused.contains(&position) {
                    prop_assert!(!entered.contains(&message));
                    refused.insert(message);
                } else {
                    prop_assert!(entered.insert(message), "{message:?} is there twice");
                    part.push(message);
                }
            }
            let part = records(&part);
            if part.count() > 0 {
                queue.push_copied(part.bytes(), part.count(), Persistence::Persistent, 0, &mut Vec::new());
            }
            queue.admitted(queue.next_seq(), 0);
            if empties {
                queue.purge(&mut Vec::new());
            }
            match event {
                0 => {
                    entered = before;
                    queue = refuse(disk.start());
                }
                1 => {
                    disk.notes.clear();
                    disk.keep(queue.producer_notes(disk.next_seq));
                    entered = before;
                    queue = refuse(disk.start());
                }
                2 => {
                    disk.keep(admission.notes);
                    disk.next_seq = queue.next_seq();
                    queue = refuse(disk.start());
                }
                3 => {
                    disk.notes.clear();
                    disk.keep(queue.producer_notes(queue.next_seq()));
                    disk.next_seq = queue.next_seq();
                }
                _ => {
                    disk.keep(admission.notes);
                    disk.next_seq = queue.next_seq();
                }
            }
        }
    }
}
