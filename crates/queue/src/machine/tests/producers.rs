//! Queues whose publishers number their messages, against what each publisher has published.

use std::collections::BTreeMap;

use posthouse_model::field::{FieldTable, FieldValue};
use posthouse_model::ids::Lsn;
use posthouse_model::props::Properties;

use super::super::producers::{PRODUCERS_MAX, Recalled};
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

/// Publishes messages as the broker does; which of them were new, and what the log is told.
fn publish(queue: &mut TestQueue, messages: &[(&str, i64)]) -> (Vec<i64>, Vec<Note>) {
    let chunk = records(messages);
    let (mut before, mut notes) = (Vec::new(), Vec::new());
    queue.admit(chunk.bytes(), true, &mut before, &mut notes);
    let is_new = |(position, _): &(usize, _)| !before.contains(&(*position as u32));
    let new: Vec<(&str, i64)> = messages.iter().copied().enumerate().filter(is_new).map(|(_, m)| m).collect();
    let part = records(&new);
    if part.count() > 0 {
        queue.push_copied(part.bytes(), part.count(), Persistence::Persistent, 0, &mut Vec::new());
    }
    queue.admitted(queue.next_seq(), 0);
    (new.iter().map(|(_, id)| *id).collect(), notes)
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
    let note = |name: &[u8], id| Note::producer(name, id, 0, None);
    assert_eq!(told(&queue, 0), []);
    assert_eq!(told(&queue, 1), [note(b"a", 1)]);
    assert_eq!(told(&queue, 2), [note(b"a", 1)], "half a batch");
    assert_eq!(told(&queue, 3), [note(b"a", 2), note(b"b", 5)]);
    assert_eq!(told(&queue, 4), [note(b"a", 3), note(b"b", 5)]);
    queue.admitted(4, 3);
    assert_eq!(queue.producer_notes(0).len(), 2, "what is known to be on disk is not undone any more");
    let (mut before, mut notes) = (Vec::new(), Vec::new());
    queue.admit(records(&[("c", 1)]).bytes(), true, &mut before, &mut notes);
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
    let (mut before, mut notes) = (Vec::new(), Vec::new());
    queue.admit(chunk.bytes(), true, &mut before, &mut notes);
    assert_eq!((before.len(), notes.len()), (0, 0), "messages without a number are new");
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
    assert_eq!(notes, [Note::producer(b"a", 7, 0, None), Note::producer(b"b", 1, 0, None)]);
    let (_, notes) = publish(&mut queue, &[("a", 7), ("a", 8), ("a", 9)]);
    assert_eq!(notes, [Note::producer(b"a", 9, 3, Some(7))]);
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
    assert!(queue.descriptor_bytes() < 200 * PRODUCERS_MAX, "{} bytes", queue.descriptor_bytes());
}

#[test]
fn other_notes_are_not_known() {
    let mut queue = numbered();
    for (key, value) in [(&b"\x02a"[..], &[0; 16][..]), (b"\x03a", &[0; 9]), (b"", &[])] {
        assert_eq!(queue.remember_producer(key, value), Recalled::Unknown);
    }
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
                // A crash before anything of the batch is on disk, or between a note and the messages.
                0 | 1 => {
                    disk.keep(notes.into_iter().take(usize::from(event) * 2).collect());
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
}
