//! Queues that remember values for longer than their messages are there, against a list of what came.

use posthouse_model::field::{FieldTable, FieldValue};
use posthouse_model::props::Properties;
use posthouse_model::queue_settings::Overflow;

use super::super::admission::{Admission, Batch};
use super::*;
use crate::stream::notes::Note;

fn window(size: u64, ttl_ms: Option<u64>) -> QueueSettings {
    QueueSettings { unique: true, cache_size: Some(size), cache_ttl_ms: ttl_ms, ..QueueSettings::default() }
}

fn queue_with(settings: QueueSettings) -> TestQueue {
    let mut queue = TestQueue::default();
    queue.set_settings(settings);
    queue
}

fn records(values: &[i64]) -> Chunk {
    let mut builder = ChunkBuilder::default();
    for value in values {
        let headers = FieldTable(vec![("x-deduplication-header".to_owned(), FieldValue::I64(*value))]);
        let mut header = Vec::new();
        Properties { headers: Some(headers), ..Properties::default() }.encode(1, &mut header);
        builder.push(0, 0, b"\0\x01q", &header, 1, b"x");
    }
    builder.finish()
}

/// Publishes messages with these values as the broker does; which entered, which were refused, and what the log is told.
fn offer(
    queue: &mut TestQueue,
    values: &[i64],
    logged: bool,
    now_ms: u64,
) -> (Vec<i64>, Vec<i64>, Vec<Note>) {
    let chunk = records(values);
    let mut admission = Admission::default();
    queue.admit(Batch { records: chunk.bytes(), logged, may_refuse: true, now_ms }, &mut admission);
    let Admission { entered_before, refused, notes } = admission;
    let is_new = |(position, _): &(u32, _)| !entered_before.contains(position) && !refused.contains(position);
    let new: Vec<i64> = (0..).zip(values.iter().copied()).filter(is_new).map(|(_, value)| value).collect();
    let part = records(&new);
    if part.count() > 0 {
        queue.push_copied(part.bytes(), part.count(), Persistence::Persistent, 0, &mut Vec::new());
    }
    queue.admitted(queue.next_seq(), 0);
    let refused = refused.iter().map(|&position| values[position as usize]).collect();
    (new, refused, notes)
}

fn publish(queue: &mut TestQueue, values: &[i64], now_ms: u64) -> Vec<i64> {
    offer(queue, values, true, now_ms).0
}

fn restarted(settings: QueueSettings, notes: &[Note]) -> TestQueue {
    let mut queue = TestQueue::default();
    let notes = notes.iter().map(|note| (&note.key[..], &note.value[..]));
    assert_eq!(queue.remember_values(notes), 0);
    queue.set_settings(settings);
    queue
}

#[test]
fn a_value_stays_when_its_message_is_gone() {
    let mut queue = queue_with(window(3, Some(100)));
    assert_eq!(publish(&mut queue, &[1, 2, 1], 0), [1, 2]);
    queue.purge(&mut Vec::new());
    assert_eq!(publish(&mut queue, &[1, 3], 99), [3]);
    assert_eq!(queue.departure_counts().duplicate, 2);
    assert_eq!(publish(&mut queue, &[1, 2, 3], 100), [1, 2], "their time is over");
    queue.purge(&mut Vec::new());
    assert_eq!(publish(&mut queue, &[4, 2, 5, 2, 1], 101), [4, 5, 1], "the oldest made room");
}

/// As in a queue without a window.
#[test]
fn a_message_that_is_there_has_its_value_however_old_it_is() {
    let mut queue = queue_with(window(1, Some(10)));
    assert_eq!(publish(&mut queue, &[1, 2], 0), [1, 2]);
    assert_eq!(publish(&mut queue, &[1, 2], 1_000), [] as [i64; 0]);
    queue.purge(&mut Vec::new());
    assert_eq!(publish(&mut queue, &[1, 2], 1_000), [1, 2]);
}

#[test]
fn what_is_refused_is_not_remembered() {
    let mut queue = queue_with(QueueSettings {
        max_length: Some(2),
        overflow: Overflow::RejectPublish,
        ..window(9, None)
    });
    let (new, refused, _) = offer(&mut queue, &[1, 2, 1, 3, 3], true, 0);
    assert_eq!((new, refused), (vec![1, 2], vec![3, 3]));
    queue.purge(&mut Vec::new());
    assert_eq!(publish(&mut queue, &[1, 3, 3], 0), [3]);
}

/// They come back when no place is found elsewhere, and must not be duplicates of themselves.
#[test]
fn what_clients_do_not_publish_is_not_compared_with_what_has_left() {
    let mut queue = queue_with(window(9, None));
    publish(&mut queue, &[1], 0);
    queue.purge(&mut Vec::new());
    let chunk = records(&[1, 2]);
    queue.push_copied(chunk.bytes(), 2, Persistence::Persistent, 0, &mut Vec::new());
    assert_eq!(queue.ready(), 2);
    queue.purge(&mut Vec::new());
    assert_eq!(publish(&mut queue, &[1, 2], 0), [2], "nor is it remembered");
}

#[test]
fn a_restart_brings_back_what_the_log_has() {
    let mut queue = queue_with(window(9, None));
    let (_, _, notes) = offer(&mut queue, &[1, 2], true, 0);
    let (_, _, none) = offer(&mut queue, &[3], false, 0);
    assert_eq!((notes.len(), none.len()), (1, 0));
    queue.purge(&mut Vec::new());
    assert_eq!(publish(&mut restarted(window(9, None), &notes), &[1, 2, 3], 0), [3]);
    assert_eq!(publish(&mut restarted(window(9, None), &queue.notes(Lsn::MAX, 0)), &[1, 2, 3], 0), [3]);
    let plain = QueueSettings { unique: true, ..QueueSettings::default() };
    assert_eq!(restarted(plain, &notes).descriptor_bytes(), TestQueue::default().descriptor_bytes());
    assert_eq!(TestQueue::default().remember_values([(&b"\x05"[..], &b""[..])]), 1);
}

#[test]
fn a_plain_queue_looks_at_no_values() {
    let mut queue = queue_with(QueueSettings { unique: true, ..QueueSettings::default() });
    let mut admission = Admission::default();
    let chunk = records(&[1, 1]);
    queue.admit(Batch { records: chunk.bytes(), logged: true, may_refuse: true, now_ms: 0 }, &mut admission);
    assert_eq!(admission, Admission::default());
}

#[test]
fn memory_is_that_of_the_window() {
    let mut queue = queue_with(window(1_000, None));
    for value in 0..20_000 {
        publish(&mut queue, &[value], 0);
        let on_disk = queue.next_seq();
        queue.admitted(on_disk, on_disk);
        queue.purge(&mut Vec::new());
    }
    let bytes = queue.descriptor_bytes();
    assert!((100_000..300_000).contains(&bytes), "{bytes} bytes");
}

proptest! {
    #[test]
    fn agrees_with_a_list(
        ops in prop::collection::vec((prop::collection::vec(0i64..12, 1..5), 0u64..30, 0u8..8), 1..80)
    ) {
        const TTL_MS: u64 = 60;
        let settings = window(5, Some(TTL_MS));
        let (mut queue, mut now_ms) = (queue_with(settings.clone()), 0);
        // The values that came, the oldest first, with their ends; and those of messages that are there.
        let (mut came, mut there) = (Vec::<(i64, u64)>::new(), Vec::<i64>::new());
        let mut log = Vec::new();
        for (values, pause_ms, op) in ops {
            now_ms += pause_ms;
            let mut expected = Vec::new();
            for &value in &values {
                let in_window = came.iter().any(|&(known, until_ms)| known == value && until_ms > now_ms);
                if in_window || there.contains(&value) {
                    continue;
                }
                expected.push(value);
                came.retain(|(known, _)| *known != value);
                came.push((value, now_ms + TTL_MS));
                while came[0].1 <= now_ms || came.len() > 5 {
                    came.remove(0);
                }
            }
            let (new, _, notes) = offer(&mut queue, &values, true, now_ms);
            prop_assert_eq!(&new, &expected);
            there.extend(new);
            log.extend(notes);
            match op {
                0 | 1 => {
                    queue.purge(&mut Vec::new());
                    there.clear();
                }
                // A checkpoint, and a restart of an empty queue.
                2 => {
                    log = queue.notes(Lsn::MAX - 1, now_ms);
                    queue = restarted(settings.clone(), &log);
                    there.clear();
                }
                // A crash after everything is on disk.
                3 => {
                    queue = restarted(settings.clone(), &log);
                    there.clear();
                }
                _ => {}
            }
        }
    }
}
