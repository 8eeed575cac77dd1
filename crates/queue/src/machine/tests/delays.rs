//! Delayed retries: who waits for how long, what waiting messages count for, and what ends it.

use posthouse_model::delayed_retry::{DelayedRetry, RetryType};
use posthouse_model::delays::DelayRange;
use posthouse_model::ids::first_of_level;
use posthouse_model::name::Name;

use super::super::chunks::Residence;
use super::super::departures::Reason;
use super::super::single_active::Activity;
use super::super::times::NEVER_MS;
use super::*;

#[path = "delays/model.rs"]
mod model;

/// A multiple of every slot that these tests have.
const START_MS: u64 = 1 << 40;

fn retry(kind: RetryType, min_ms: u64, max_ms: u64) -> DelayedRetry {
    DelayedRetry { kind: Some(kind), min_ms: Some(min_ms), max_ms: Some(max_ms) }
}

/// Delays of 80 ms a failure, 200 at most.
fn delaying() -> QueueSettings {
    QueueSettings { delayed_retry: retry(RetryType::All, 80, 200), ..QueueSettings::default() }
}

fn queue(settings: QueueSettings) -> TestQueue {
    let mut queue = TestQueue::default();
    queue.set_settings(settings);
    queue
}

fn back(queue: &mut TestQueue, first: Seq, last: Seq, why: Return, at_ms: u64) {
    queue.take_back(first, last, Back { why, now_ms: START_MS + at_ms }, &mut Vec::new());
}

fn fail(queue: &mut TestQueue, first: Seq, last: Seq, at_ms: u64) {
    back(queue, first, last, Return::Failed, at_ms);
}

fn pass(queue: &mut TestQueue, at_ms: u64) {
    while queue.expire(START_MS + at_ms) {}
}

/// Milliseconds until the next thing is due.
fn due(queue: &TestQueue) -> u64 {
    queue.next_due_ms() - START_MS
}

fn counts(queue: &TestQueue) -> (u64, u64, u64) {
    (queue.ready(), queue.delayed(), queue.unacked())
}

/// Takes messages without settling them.
fn seqs(queue: &mut TestQueue, messages: u32) -> Vec<Seq> {
    let mut runs = Vec::new();
    queue.take_any(Limits { messages, bytes: usize::MAX }, false, &mut runs);
    runs.iter().flat_map(|run| run.first_seq..=run.last_seq()).collect()
}

#[test]
fn a_failed_message_waits_longer_each_time_and_keeps_its_place() {
    let mut queue = queue(delaying());
    push(&mut queue, 3);
    assert_eq!(seqs(&mut queue, 2), [0, 1]);
    let mut now = 0;
    for (times, delay) in [(1, 80), (2, 160), (3, 200), (4, 200)] {
        fail(&mut queue, 0, 0, now);
        assert_eq!((counts(&queue), due(&queue)), ((1, 1, 1), now + delay), "failed {times} times");
        pass(&mut queue, now + delay - 1);
        assert_eq!(counts(&queue), (1, 1, 1), "not before");
        now += delay;
        pass(&mut queue, now);
        assert_eq!((counts(&queue), queue.next_due_ms()), ((2, 0, 1), NEVER_MS));
        let mut runs = Vec::new();
        queue.take_any(Limits { messages: 1, bytes: 1 }, false, &mut runs);
        assert_eq!(taken(&runs), [(0, true)], "before what was never handed out");
        assert_eq!((runs[0].attempts.failed, runs[0].attempts.acquired), (times, times));
    }
    queue.settle(0, 1);
    assert_eq!((counts(&queue), queue.attempts().count()), ((1, 0, 0), 0));
}

#[test]
fn types_choose_who_waits() {
    use Return::{Failed, Nacked, Released};
    for (kind, expected) in [
        (RetryType::All, [true, true, true]),
        (RetryType::Failed, [true, true, false]),
        (RetryType::Returned, [true, false, true]),
        (RetryType::Disabled, [false, false, false]),
    ] {
        for (why, waits) in [Nacked, Failed, Released].into_iter().zip(expected) {
            let mut queue =
                queue(QueueSettings { delayed_retry: retry(kind, 80, 80), ..QueueSettings::default() });
            push(&mut queue, 1);
            seqs(&mut queue, 1);
            back(&mut queue, 0, 0, why, 0);
            assert_eq!(queue.delayed() == 1, waits, "{kind:?} {why:?}");
            assert_eq!(queue.ready() + queue.delayed(), 1);
        }
    }
}

#[test]
fn what_comes_back_together_is_one_entry_and_nothing_is_left_of_it() {
    let mut queue = queue(delaying());
    push(&mut queue, 10_000);
    seqs(&mut queue, 10_000);
    let bytes = queue.descriptor_bytes();
    fail(&mut queue, 0, 4_999, 3);
    fail(&mut queue, 6_000, 9_999, 5);
    fail(&mut queue, 5_000, 5_999, 8);
    assert_eq!((due(&queue), queue.delayed_within(0, Seq::MAX).count()), (88, 1), "times are rounded up");
    assert!(queue.descriptor_bytes() - bytes < 300);
    pass(&mut queue, 88);
    assert_eq!((counts(&queue), queue.delays.is_none()), ((10_000, 0, 0), true));
}

#[test]
fn a_waiting_consumer_is_woken_when_time_is_over() {
    let mut queue = queue(delaying());
    consumer(&mut queue);
    push(&mut queue, 1);
    let (mut runs, mut wakes) = (Vec::new(), Vec::new());
    queue.take(CONSUMER, ALL, false, &mut runs, &mut wakes);
    queue.take_back(0, 0, Back { why: Return::Nacked, now_ms: START_MS }, &mut wakes);
    assert_eq!(queue.take(CONSUMER, ALL, false, &mut runs, &mut wakes).0, TakeEnd::Parked);
    pass(&mut queue, 79);
    queue.wake_after_settling(&mut wakes);
    assert_eq!(wakes, [] as [u32; 0]);
    assert!(!queue.has_freed());
    pass(&mut queue, 80);
    assert!(queue.has_freed());
    queue.wake_after_settling(&mut wakes);
    assert_eq!(wakes.len(), 1);
    queue.wake_after_settling(&mut wakes);
    assert_eq!((wakes.len(), queue.has_freed()), (1, false), "once");
    queue.take(CONSUMER, ALL, true, &mut runs, &mut wakes);
    assert_eq!(counts(&queue), (0, 0, 0));
}

#[test]
fn time_to_live_goes_on() {
    let mut queue = queue(QueueSettings { message_ttl_ms: Some(100), ..delaying() });
    let mut builder = ChunkBuilder::default();
    for at_ms in [0, 50] {
        builder.push(0, START_MS + at_ms, b"\0\x01q", b"", 1, b"x");
    }
    queue.push_copied(builder.bytes(), 2, Persistence::Persistent, 0, &mut Vec::new());
    seqs(&mut queue, 2);
    fail(&mut queue, 0, 1, 40);
    pass(&mut queue, 99);
    assert_eq!(counts(&queue), (0, 2, 0));
    pass(&mut queue, 100);
    assert_eq!((counts(&queue), queue.take_departed().ranges), ((0, 1, 0), vec![(0, 0)]));
    pass(&mut queue, 120);
    assert_eq!(counts(&queue), (1, 0, 0));
    pass(&mut queue, 150);
    assert_eq!((counts(&queue), queue.take_departed().ranges), ((0, 0, 0), vec![(1, 1)]));
    assert_eq!(queue.departure_counts().expired, 2);
}

#[test]
fn the_delivery_limit_and_rejecting_end_it() {
    let exchange = Name::new("dlx").ok();
    let mut queue =
        queue(QueueSettings { delivery_limit: Some(1), dead_letter_exchange: exchange, ..delaying() });
    push(&mut queue, 2);
    seqs(&mut queue, 2);
    fail(&mut queue, 0, 1, 0);
    pass(&mut queue, 80);
    assert_eq!(seqs(&mut queue, 2), [0, 1]);
    fail(&mut queue, 0, 0, 80);
    assert_eq!((counts(&queue), queue.leaving()), ((0, 0, 1), 1), "it is spent, and waits for nothing");
    queue.reject(1, 1, Reason::Rejected);
    assert_eq!((counts(&queue), queue.leaving(), queue.next_due_ms()), ((0, 0, 0), 2, NEVER_MS));
}

#[test]
fn a_purge_and_whoever_moves_messages_take_them_too() {
    let mut queue = queue(delaying());
    push(&mut queue, 6);
    seqs(&mut queue, 5);
    fail(&mut queue, 1, 1, 0);
    fail(&mut queue, 3, 3, 0);
    let shown: Vec<_> = queue.glimpse(0, usize::MAX, |_| 0)[0].ready.iter().map(|run| run.first).collect();
    assert_eq!(shown, [1, 3, 5], "they can be looked at");
    assert_eq!((queue.nth_ready(1), queue.nth_ready(3)), (Some(3), None));
    let mut claimed = Vec::new();
    queue.claim(2, 9, &mut claimed);
    assert_eq!((claimed, counts(&queue)), (vec![(3, 3), (5, 5)], (0, 1, 3)));
    let mut ranges = Vec::new();
    assert_eq!(queue.purge(&mut ranges).count, 1);
    assert_eq!((ranges, counts(&queue), queue.next_due_ms()), (vec![(1, 1)], (0, 0, 3), NEVER_MS));
    assert_eq!(queue.attempts().count(), 0);
}

#[test]
fn they_are_claimed_in_their_places() {
    let mut queue = queue(delaying());
    push(&mut queue, 3);
    seqs(&mut queue, 2);
    fail(&mut queue, 1, 1, 0);
    fail(&mut queue, 0, 0, 50);
    pass(&mut queue, 80);
    assert_eq!(counts(&queue), (2, 1, 0));
    let mut claimed = Vec::new();
    queue.claim(0, 2, &mut claimed);
    assert_eq!(claimed, [(0, 0), (1, 1), (2, 2)]);
}

#[test]
fn they_count_where_a_length_is_limited() {
    let limits = QueueSettings { max_length: Some(3), max_length_bytes: Some(1 << 20), ..delaying() };
    let mut dropping = queue(limits.clone());
    push(&mut dropping, 3);
    seqs(&mut dropping, 2);
    fail(&mut dropping, 0, 1, 0);
    let delayed_bytes = dropping.delayed_bytes;
    assert!(delayed_bytes > 0 && counts(&dropping) == (1, 2, 0));
    push(&mut dropping, 1);
    assert_eq!(dropping.take_departed().ranges, [(0, 0)], "the oldest makes room, delayed or not");
    assert_eq!((counts(&dropping), dropping.delayed_bytes), ((2, 1, 0), delayed_bytes / 2));
    pass(&mut dropping, 80);
    assert_eq!((counts(&dropping), dropping.delayed_bytes), ((3, 0, 0), 0));

    let mut refusing =
        queue(QueueSettings { overflow: posthouse_model::queue_settings::Overflow::RejectPublish, ..limits });
    push(&mut refusing, 3);
    seqs(&mut refusing, 3);
    assert!(refusing.room().has_place_for(0));
    fail(&mut refusing, 0, 2, 0);
    assert!(!refusing.room().has_place_for(0));
    let mut refused = Vec::new();
    refusing.refuse(chunk(3, 2).bytes(), 2, &mut refused);
    assert_eq!(refused, [0, 1]);
}

#[test]
fn a_consumer_that_waits_does_not_let_delayed_messages_pile_up() {
    let mut queue = queue(QueueSettings { max_length: Some(2), ..delaying() });
    consumer(&mut queue);
    push(&mut queue, 5);
    let (mut runs, mut wakes) = (Vec::new(), Vec::new());
    queue.take(CONSUMER, ALL, false, &mut runs, &mut wakes);
    queue.take(CONSUMER, ALL, false, &mut runs, &mut wakes);
    assert!(queue.roster.any_active());
    fail(&mut queue, 0, 4, 0);
    assert_eq!(queue.take_departed().ranges, [(0, 2)]);
    push(&mut queue, 3);
    assert_eq!(
        (counts(&queue), queue.has_departed()),
        ((3, 2, 0), false),
        "what it can take is not too much"
    );
}

#[test]
fn of_a_priority_only_what_is_ready_comes_first() {
    let mut queue = queue(QueueSettings { max_priority: 5, max_length: Some(4), ..delaying() });
    let high = first_of_level(5);
    let add = |queue: &mut TestQueue, level, first, count| {
        let (chunk, none) = (chunk(first, count), &mut Vec::new());
        queue.push_copied_at(level, chunk.bytes(), count, Persistence::Persistent, 0, none);
    };
    add(&mut queue, 5, high, 2);
    add(&mut queue, 0, 0, 1);
    assert_eq!(seqs(&mut queue, 2), [high, high + 1]);
    fail(&mut queue, high, high + 1, 0);
    assert_eq!((counts(&queue), due(&queue)), ((1, 2, 0), 80));
    assert_eq!(seqs(&mut queue, 9), [0], "the lower one need not wait");
    pass(&mut queue, 80);
    assert_eq!(seqs(&mut queue, 9), [high, high + 1]);
    fail(&mut queue, 0, 0, 80);
    fail(&mut queue, high, high + 1, 80);
    add(&mut queue, 5, high + 2, 2);
    assert_eq!(queue.take_departed().ranges, [(0, 0)], "the lowest makes room, although it is delayed");
    assert_eq!(counts(&queue), (2, 2, 0));
    let mut wakes = Vec::new();
    queue.set_settings(QueueSettings { delayed_retry: DelayedRetry::default(), ..queue.settings().clone() });
    consumer(&mut queue);
    queue.wake_after_settling(&mut wakes);
    assert_eq!((counts(&queue), wakes.len()), ((4, 0, 0), 1), "without delays all of them are ready");
}

#[test]
fn changed_settings_hold_for_what_comes_back_later_and_off_ends_all_delays() {
    let mut queue = queue(delaying());
    push(&mut queue, 4);
    seqs(&mut queue, 4);
    fail(&mut queue, 0, 0, 0);
    queue.set_settings(QueueSettings { delayed_retry: retry(RetryType::All, 8, 8), ..delaying() });
    fail(&mut queue, 1, 1, 0);
    assert_eq!((due(&queue), queue.delayed()), (8, 2));
    pass(&mut queue, 8);
    assert_eq!((due(&queue), queue.delayed()), (80, 1));
    for off in [DelayedRetry::default(), retry(RetryType::Disabled, 80, 200)] {
        fail(&mut queue, 2, 2, 0);
        queue.set_settings(QueueSettings { delayed_retry: off, ..delaying() });
        assert_eq!((queue.delayed(), queue.next_due_ms()), (0, NEVER_MS));
        assert!(queue.freed, "somebody is to be woken");
        queue.set_settings(delaying());
        assert_eq!(seqs(&mut queue, 3), [0, 1, 2]);
        fail(&mut queue, 0, 1, 0);
    }
}

#[test]
fn a_chunk_that_is_lost_takes_its_delayed_messages_along() {
    let mut queue = queue(delaying());
    push(&mut queue, 5);
    push(&mut queue, 2);
    seqs(&mut queue, 3);
    fail(&mut queue, 1, 1, 0);
    queue.chunks.set_residence(0, Residence::Loading(9));
    assert_eq!(queue.lost(0, &mut Vec::new()), 5);
    assert_eq!((counts(&queue), queue.next_due_ms()), ((2, 0, 0), NEVER_MS));
}

#[test]
fn a_message_on_disk_is_read_when_its_time_has_come() {
    let mut queue = queue(delaying());
    push(&mut queue, 3);
    seqs(&mut queue, 3);
    fail(&mut queue, 1, 2, 0);
    let mut writes = Vec::new();
    queue.plan_spill(0, usize::MAX, &mut writes);
    let written = writes.remove(0);
    queue.written(0, 7, true);
    assert_eq!((queue.memory_bytes(), queue.plan_load(usize::MAX, |_| 1).len()), (0, 0), "no reading before");
    pass(&mut queue, 80);
    assert_eq!(queue.take_any(ALL, false, &mut Vec::new()).0, TakeEnd::NeedsLoad);
    assert_eq!(queue.plan_load(usize::MAX, |_| 1), [(0, 7)]);
    queue.loaded(0, written.chunk, &mut Vec::new());
    assert_eq!(seqs(&mut queue, 9), [1, 2]);
}

/// As a restart finds a queue of ten messages in two chunks, of which number 4 is settled.
fn recovered(settings: QueueSettings) -> TestQueue {
    let mut settled = posthouse_model::bitmap::SeqBitmap::new(6);
    settled.set(4);
    let held = |first, span, settled| {
        Held::recovered(first, span, settled, Residence::Memory(Arc::new(chunk(first, span))))
    };
    let chunks = vec![held(0, 6, Some(settled)), held(6, 4, None)];
    let mut queue = Queue::recover(Recovered { chunks, next_seq: 10, redelivered_below: 10 });
    queue.set_settings(settings);
    queue
}

#[test]
fn delays_go_on_after_a_restart() {
    let range = |first, last, due| DelayRange { first, last, due_ms: START_MS + due };
    let kept = [range(1, 2, 100), range(4, 6, 120), range(8, 8, 1_000_000)];
    let mut queue = recovered(delaying());
    queue.restore_delays(&kept, START_MS);
    assert_eq!((counts(&queue), due(&queue)), ((4, 5, 0), 100), "what is settled stays away");
    let delays: Vec<_> = queue.delays().collect();
    let expected = [range(1, 2, 100), range(5, 6, 120), range(8, 8, 200)];
    assert_eq!(delays, expected, "none waits for longer than the settings say");
    let mut runs = Vec::new();
    queue.take_any(ALL, false, &mut runs);
    assert_eq!(taken(&runs), [(0, true), (3, true), (7, true), (9, true)]);
    pass(&mut queue, 100);
    assert_eq!((seqs(&mut queue, 9), due(&queue)), (vec![1, 2], 120));
    pass(&mut queue, 200);
    assert_eq!((seqs(&mut queue, 9), queue.next_due_ms()), (vec![5, 6, 8], NEVER_MS));

    let mut off = recovered(QueueSettings::default());
    off.restore_delays(&kept, START_MS);
    let mut grouped = recovered(QueueSettings { message_groups: true, ..delaying() });
    grouped.restore_delays(&kept, START_MS);
    assert_eq!((counts(&off), counts(&grouped)), ((9, 0, 0), (9, 0, 0)));
}

#[test]
fn each_priority_keeps_its_own_delays() {
    let settings = QueueSettings { max_priority: 5, ..delaying() };
    let mut queue = queue(settings.clone());
    let high = first_of_level(5);
    for (level, first) in [(0, 0), (5, high)] {
        let (chunk, none) = (chunk(first, 3), &mut Vec::new());
        queue.push_copied_at(level, chunk.bytes(), 3, Persistence::Persistent, 0, none);
    }
    seqs(&mut queue, 6);
    fail(&mut queue, 0, 1, 0);
    fail(&mut queue, high + 1, high + 1, 0);
    let mut noted = Vec::new();
    queue.note_delays(0, 2, &mut noted);
    queue.note_delays(high, high + 2, &mut noted);
    let due_ms = START_MS + 80;
    let expected =
        [DelayRange { first: 0, last: 1, due_ms }, DelayRange { first: high + 1, last: high + 1, due_ms }];
    assert_eq!(noted, expected);
    let of_level = |first| Recovered {
        chunks: vec![Held::recovered(first, 3, None, Residence::Memory(Arc::new(chunk(first, 3))))],
        next_seq: first + 3,
        redelivered_below: first + 3,
    };
    let mut again = Queue::recover(of_level(0));
    again.recover_level(5, of_level(high));
    again.set_settings(settings);
    again.restore_delays(&noted, START_MS);
    assert_eq!((counts(&again), due(&again)), ((3, 3, 0), 80));
    assert_eq!(seqs(&mut again, 9), [high, high + 2, 2]);
    pass(&mut again, 80);
    assert_eq!(seqs(&mut again, 9), [high + 1, 0, 1]);
}

#[test]
fn a_single_active_consumer_hands_over_although_its_messages_are_delayed() {
    let mut queue = queue(QueueSettings { single_active_consumer: true, ..delaying() });
    consumer(&mut queue);
    push(&mut queue, 1);
    let (mut runs, mut wakes) = (Vec::new(), Vec::new());
    queue.take(CONSUMER, ALL, false, &mut runs, &mut wakes);
    queue.roster.add(2, 2, 5, false);
    queue.roster.set(2, Standing::Parked);
    assert_eq!(queue.roster.activity(CONSUMER), Activity::SingleActive);
    queue.take_back(0, 0, Back { why: Return::Nacked, now_ms: START_MS }, &mut wakes);
    assert_eq!(queue.roster.activity(2), Activity::SingleActive);
    wakes.clear();
    pass(&mut queue, 80);
    queue.wake_after_settling(&mut wakes);
    assert_eq!(wakes, [2]);
}
