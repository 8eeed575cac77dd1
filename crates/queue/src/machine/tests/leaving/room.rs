//! What there is room for: dead letters that cannot go on, and what they take from others.

use posthouse_model::queue_settings::{DeadLetterStrategy, Overflow};

use super::super::super::leaving::stalled::{KEPT_BYTES_MIN, KEPT_MIN};
use super::super::super::limits::Room;
use super::*;

/// A queue with so many messages that left and could not go on; what there was no room to keep.
fn overfull(settings: QueueSettings, count: u32) -> (TestQueue, Vec<(Seq, Seq)>) {
    let mut queue = TestQueue::default();
    queue.set_settings(settings);
    push(&mut queue, count);
    let excess = stall_all(&mut queue, Line::New, FULL);
    (queue, excess)
}

#[test]
fn a_queue_that_drops_keeps_as_many_dead_letters_as_its_limit_allows() {
    let (mut queue, excess) = overfull(with_dead_letters(Some(2_000)), 4_500);
    assert_eq!(excess, [(2_000, 2_499)]);
    queue.dropped(2_000, 2_499);
    assert_eq!((queue.ready(), queue.leaving()), (2_000, 2_000));
    // Those that are tried again stay whatever comes.
    assert_eq!(stall_all(&mut queue, BEHIND, FULL), []);
    push(&mut queue, 1);
    assert_eq!(stall_all(&mut queue, Line::New, FULL), [(2_500, 2_500)]);
    queue.dropped(2_500, 2_500);
    // As soon as some are gone there is room for others.
    assert_eq!(leave_line(&mut queue, BEHIND, usize::MAX).len(), 1);
    queue.moved(0, 9, 1);
    queue.stall(BEHIND, &[(run(10, 1_999, Reason::MaxLength), FULL)], &mut Vec::new());
    push(&mut queue, 11);
    assert_eq!(stall_all(&mut queue, Line::New, FULL), [(2_511, 2_511)]);
    // A small limit does not mean that there is no patience at all.
    let (_, excess) = overfull(with_dead_letters(Some(0)), KEPT_MIN as u32 + 1);
    assert_eq!(excess, [(KEPT_MIN, KEPT_MIN)]);
    // What cannot be read now is another matter.
    let (mut queue, _) = overfull(with_dead_letters(Some(0)), KEPT_MIN as u32);
    push(&mut queue, 1);
    assert_eq!(stall_all(&mut queue, Line::New, Obstacle::Unreadable), []);
    // Without a limit there is none for them.
    let (mut queue, _) = overfull(with_dead_letters(None), 3_000);
    take_any(&mut queue, 3_000);
    queue.reject(0, 2_999, Reason::Rejected);
    assert_eq!(stall_all(&mut queue, Line::New, FULL), []);
}

#[test]
fn a_limit_in_bytes_bounds_dead_letters_that_wait() {
    const BODY: u64 = 8;
    let settings = QueueSettings { max_length_bytes: Some(BODY), ..with_dead_letters(None) };
    let (mut queue, excess) = overfull(settings, (KEPT_BYTES_MIN / BODY) as u32 + 1);
    assert_eq!((excess, queue.leaving_bytes()), (vec![], KEPT_BYTES_MIN));
    push(&mut queue, 1);
    assert_eq!(stall_all(&mut queue, Line::New, FULL).len(), 1);
}

#[test]
fn in_a_queue_that_refuses_those_that_wait_take_room() {
    for overflow in [Overflow::RejectPublish, Overflow::RejectPublishDlx] {
        let settings = QueueSettings { overflow, max_length_bytes: Some(40), ..with_dead_letters(Some(4)) };
        let mut queue = TestQueue::default();
        queue.set_settings(settings);
        push(&mut queue, 3);
        take_any(&mut queue, 2);
        queue.reject(0, 1, Reason::Rejected);
        let mut refused = Vec::new();
        queue.refuse(chunk(3, 4).bytes(), 4, &mut refused);
        assert_eq!(refused, [3], "those that have only just left do not count");
        assert_eq!(stall_all(&mut queue, Line::New, FULL), []);
        refused.clear();
        queue.refuse(chunk(3, 4).bytes(), 4, &mut refused);
        assert_eq!((refused, queue.room()), (vec![1, 2, 3], Room { messages: 1, bytes: 16 }));
        push(&mut queue, 1);
        assert_eq!(queue.room(), Room { messages: 0, bytes: 8 });
        let runs = leave_line(&mut queue, BEHIND, usize::MAX);
        assert_eq!(
            queue.room().messages,
            0,
            "while it is tried whether they can go on, they still take room"
        );
        let mut excess = Vec::new();
        queue.moved(0, 0, 1);
        queue.stall(BEHIND, &[(Leaving { first: 1, ..runs[0] }, FULL)], &mut excess);
        assert_eq!((excess, queue.room().messages), (vec![], 1), "one could");
        assert!(queue.is_too_small_for(41) && !queue.is_too_small_for(40));
    }
}

#[test]
fn what_was_refused_is_not_kept_beyond_the_limit() {
    let settings = QueueSettings { overflow: Overflow::RejectPublishDlx, ..with_dead_letters(Some(1)) };
    let mut queue = TestQueue::default();
    queue.set_settings(settings);
    let count = KEPT_MIN as u32 + 5;
    push(&mut queue, count);
    queue.turn_away(1, count - 1);
    assert_eq!(stall_all(&mut queue, Line::New, FULL), [(KEPT_MIN + 1, KEPT_MIN + 4)]);
    take_any(&mut queue, 1);
    queue.reject(0, 0, Reason::Rejected);
    assert_eq!(stall_all(&mut queue, Line::New, FULL), [], "nobody was told of that one");
}

#[test]
fn drops_that_are_not_moved_as_fast_hold_publishers_back() {
    let mut queue = TestQueue::default();
    queue.set_settings(with_dead_letters(Some(0)));
    push(&mut queue, 10_000);
    assert!(!queue.has_too_many_drops());
    push(&mut queue, 1);
    assert!(queue.has_too_many_drops());
    leave(&mut queue, 1);
    assert!(!queue.has_too_many_drops());
    let mut queue = dead_lettering();
    push(&mut queue, 20_000);
    take_any(&mut queue, 20_000);
    queue.reject(0, 19_999, Reason::Rejected);
    assert!(!queue.has_too_many_drops(), "publishers are not to blame");
}

#[test]
fn what_is_turned_away_leaves_though_it_came_last() {
    let mut queue = TestQueue::default();
    let overflow = Overflow::RejectPublishDlx;
    queue.set_settings(QueueSettings { overflow, max_length: Some(2), ..with_dead_letters(None) });
    let mut refused = Vec::new();
    queue.refuse(chunk(0, 4).bytes(), 4, &mut refused);
    assert_eq!(refused, [2, 3]);
    push(&mut queue, 4);
    queue.turn_away(2, 2);
    assert_eq!(take_any(&mut queue, 9), [0, 1]);
    assert_eq!(leave(&mut queue, usize::MAX), [run(2, 3, Reason::MaxLength)]);
    push(&mut queue, 1);
    assert_eq!(take_any(&mut queue, 9), [4]);
}

#[test]
fn those_that_stay_for_want_of_a_place_count_as_long_as_they_do() {
    let mut queue = TestQueue::default();
    let settings = QueueSettings {
        overflow: Overflow::RejectPublish,
        max_length_bytes: Some(20),
        dead_letter_strategy: Some(DeadLetterStrategy::AtLeastOnce),
        ..with_dead_letters(Some(3))
    };
    queue.set_settings(settings);
    push(&mut queue, 2);
    take_any(&mut queue, 2);
    queue.reject(0, 1, Reason::Rejected);
    let mut refused = Vec::new();
    queue.refuse(chunk(2, 2).bytes(), 2, &mut refused);
    assert_eq!(refused, [0, 1], "16 of 20 bytes are taken");
}
