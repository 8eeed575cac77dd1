//! What is known of memory without walking all chunks.

use super::super::residency::ToWrite;
use super::*;

/// Compares what is kept up to date with what a walk over all chunks finds.
#[track_caller]
pub(super) fn check(queue: &mut TestQueue) {
    let cursor = queue.cursor;
    let ahead = queue.held().filter(|held| held.end_seq() > cursor);
    let waiting: usize = ahead.map(|held| held.residence.memory_bytes()).sum();
    assert_eq!(queue.waiting_bytes(), waiting + queue.tail.bytes().len());
    let in_memory = queue.held().filter(|held| held.residence.chunk().is_some());
    let expected: Vec<Seq> = in_memory.map(|held| held.first_seq).collect();
    let resident: Vec<Seq> = queue.chunks.resident().map(|(_, held)| held.first_seq).collect();
    assert_eq!(resident, expected);
    for (index, held) in queue.chunks.resident() {
        assert_eq!(queue.chunks.get(index).map(|held| held.first_seq), Some(held.first_seq));
    }
}

/// A client that sends persistent and transient messages in turn makes a chunk of each. With a walk over all of them
/// whenever one arrives this takes minutes.
#[test]
fn a_chunk_per_message_costs_no_more_when_there_are_many() {
    const MESSAGES: u64 = 100_000;
    let mut queue = TestQueue::default();
    let mut writes: Vec<ToWrite> = Vec::new();
    for n in 0..MESSAGES {
        let persistence = if n % 2 == 0 { Persistence::Persistent } else { Persistence::Transient };
        let one = chunk(n, 1);
        queue.push_copied(one.bytes(), 1, persistence, 0, &mut Vec::new());
        if queue.waiting_bytes() > 20_000 {
            queue.plan_spill(10_000, 20_000, &mut writes);
            for write in writes.drain(..) {
                queue.written(write.first_seq, 1, true);
            }
        }
    }
    assert_eq!(queue.ready(), MESSAGES);
    assert!(queue.memory_bytes() < 40_000, "{} bytes", queue.memory_bytes());
    check(&mut queue);
}
