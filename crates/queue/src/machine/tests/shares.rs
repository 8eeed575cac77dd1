//! Who published what a queue holds.

use std::collections::BTreeMap;

use posthouse_model::record::stamp;
use posthouse_model::shares::UserNumber;

use super::*;

/// Messages of 100 bytes of these users.
fn of_users(users: &[u16]) -> Chunk {
    let mut builder = ChunkBuilder::default();
    for &user in users {
        builder.push(0, stamp(1, UserNumber(user)), b"\0\x01q", b"", 73, &[0; 73]);
    }
    builder.finish()
}

fn shares(queue: &Queue<u32, u32>) -> Vec<(u16, u64)> {
    let mut bytes = BTreeMap::new();
    let mut add = |user: UserNumber, more| *bytes.entry(user.0).or_default() += more;
    queue.levels().for_each(|level| level.shares(u64::from, &mut add));
    bytes.into_iter().filter(|(_, bytes)| *bytes > 0).collect()
}

#[test]
fn chunks_in_memory_and_on_disk_and_the_open_tail_count() {
    let mut queue: Queue<u32, u32> = Queue::default();
    let mut wakes = Vec::new();
    queue.push_shared(Arc::new(of_users(&[1, 1, 2])), Persistence::Persistent, 0, &mut wakes);
    queue.push_copied(of_users(&[2]).bytes(), 1, Persistence::Persistent, 0, &mut wakes);
    queue.push_copied(of_users(&[3]).bytes(), 1, Persistence::Persistent, 0, &mut wakes);
    assert_eq!(shares(&queue), [(1, 200), (2, 200), (3, 100)]);
    // Its place is its length here; what was settled before is left out.
    queue.written(0, 150, true);
    assert_eq!(shares(&queue), [(1, 100), (2, 150), (3, 100)]);
    queue.purge(&mut Vec::new());
    assert_eq!(shares(&queue), []);
}

#[test]
fn shares_of_several_users_count_as_memory() {
    let mut queue: Queue<u32, u32> = Queue::default();
    let descriptor = |queue: &mut Queue<u32, u32>, users: &[u16]| {
        let before = queue.descriptor_bytes();
        queue.push_shared(Arc::new(of_users(users)), Persistence::Transient, 0, &mut Vec::new());
        queue.descriptor_bytes() - before
    };
    descriptor(&mut queue, &[1]);
    assert_eq!(descriptor(&mut queue, &[1, 1]), 0);
    assert_eq!(descriptor(&mut queue, &[1, 2, 1, 3]), 3 * 8);
    queue.purge(&mut Vec::new());
    assert_eq!(shares(&queue), []);
}
