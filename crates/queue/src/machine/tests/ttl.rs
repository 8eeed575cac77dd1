//! Time to live, alone and against a plain model.

use std::collections::BTreeMap;

use posthouse_model::props::{HeaderView, Property};
use posthouse_model::record::FLAG_EXPIRES;

use super::super::chunks::{Held, Residence};
use super::super::expiry::GRACE_MS;
use super::super::times::NEVER_MS;
use super::*;

const START_MS: u64 = 1_700_000_000_000;
const NOTHING: [Seq; 0] = [];

/// Messages received at `at_ms`, some with a time to live of their own.
fn received(first: Seq, at_ms: u64, own: &[Option<u64>]) -> Chunk {
    let plain = [&60u16.to_be_bytes()[..], &[0; 12]].concat();
    let mut builder = ChunkBuilder::default();
    for (seq, ttl) in (first..).zip(own) {
        let (flags, header) = match ttl {
            None => (0, plain.clone()),
            Some(ms) => {
                let header = HeaderView::parse(&plain).unwrap();
                (FLAG_EXPIRES, header.with_short(Property::Expiration, Some(ms.to_string().as_bytes())))
            }
        };
        builder.push(flags, at_ms, b"\0\x01q", &header, 8, &seq.to_le_bytes());
    }
    builder.finish()
}

fn publish(queue: &mut TestQueue, at_ms: u64, own: &[Option<u64>]) {
    let chunk = received(queue.next_seq(), at_ms, own);
    queue.push_copied(chunk.bytes(), own.len() as u32, Persistence::Persistent, 0, &mut Vec::new());
}

fn ttl(ms: Option<u64>) -> QueueSettings {
    QueueSettings { message_ttl_ms: ms, ..QueueSettings::default() }
}

fn with_ttl(ms: u64) -> TestQueue {
    let mut queue = TestQueue::default();
    queue.set_settings(ttl(Some(ms)));
    queue
}

/// What has gone by that time.
fn expired(queue: &mut TestQueue, at_ms: u64) -> Vec<Seq> {
    while queue.expire(at_ms) {}
    queue.take_departed().ranges.into_iter().flat_map(|(first, last)| first..=last).collect()
}

fn take_any(queue: &mut TestQueue, messages: u32) -> Vec<Seq> {
    let mut runs = Vec::new();
    queue.take_any(Limits { messages, bytes: usize::MAX }, false, &mut runs);
    runs.iter().flat_map(|run| run.first_seq..=run.last_seq()).collect()
}

#[test]
fn messages_go_when_their_time_is_over_and_not_before() {
    let mut queue = with_ttl(500);
    publish(&mut queue, 1_000, &[None, None]);
    publish(&mut queue, 1_200, &[None]);
    assert_eq!(queue.next_due_ms(), 1_500);
    assert_eq!(expired(&mut queue, 1_499), NOTHING);
    assert_eq!(expired(&mut queue, 1_500), [0, 1]);
    assert_eq!((queue.ready(), queue.next_due_ms()), (1, 1_700));
    publish(&mut queue, 1_650, &[None]);
    assert_eq!(expired(&mut queue, 1_700), [2]);
    assert_eq!(take_any(&mut queue, 9), [3]);
    assert_eq!(queue.departure_counts().expired, 3);
}

#[test]
fn the_shorter_time_counts_and_nothing_waits_for_what_stands_before_it() {
    let mut queue = with_ttl(500);
    publish(&mut queue, 1_000, &[None, Some(100), Some(900), Some(200)]);
    assert_eq!(queue.next_due_ms(), 1_100);
    assert_eq!(expired(&mut queue, 1_100), [1]);
    assert_eq!(expired(&mut queue, 1_200), [3]);
    assert_eq!(queue.ready(), 2);
    assert_eq!(expired(&mut queue, 1_500), [0, 2]);
    assert_eq!((queue.ready(), queue.next_due_ms(), queue.memory_bytes()), (0, NEVER_MS, 0));
    assert!(!queue.may_expire());
}

#[test]
fn what_is_handed_out_expires_when_it_is_given_back() {
    let mut queue = with_ttl(500);
    publish(&mut queue, 1_000, &[None, Some(90), None]);
    assert_eq!(take_any(&mut queue, 2), [0, 1]);
    assert_eq!(expired(&mut queue, 1_600), [2]);
    assert_eq!(queue.next_due_ms(), NEVER_MS);
    queue.requeue(1, 1, &mut Vec::new());
    assert_eq!(expired(&mut queue, 1_600), [1]);
    queue.requeue(0, 0, &mut Vec::new());
    assert_eq!((expired(&mut queue, 1_600), queue.ready(), queue.unacked()), (vec![0], 0, 0));
}

#[test]
fn a_consumer_that_waits_gets_what_may_not_wait() {
    let mut queue = with_ttl(0);
    publish(&mut queue, 1_000, &[None]);
    assert_eq!(expired(&mut queue, 1_000), [0], "nobody waits");
    consumer(&mut queue);
    publish(&mut queue, 1_000, &[None, Some(3)]);
    assert_eq!(expired(&mut queue, 1_000 + GRACE_MS - 1), NOTHING);
    assert_eq!(take(&mut queue, 1).len(), 1);
    queue.roster.set(CONSUMER, Standing::Blocked);
    assert!(queue.may_expire());
    assert_eq!(expired(&mut queue, 1_000), [2], "it cannot take any more");
    queue.requeue(1, 1, &mut Vec::new());
    queue.roster.set(CONSUMER, Standing::Parked);
    assert_eq!(expired(&mut queue, 1_000), [1], "it has had its chance");
    publish(&mut queue, 1_000, &[None]);
    assert_eq!(expired(&mut queue, 1_000 + GRACE_MS), [3], "it does not take");
}

#[test]
fn a_consumer_that_waits_does_not_get_what_has_waited() {
    let mut queue = with_ttl(500);
    consumer(&mut queue);
    publish(&mut queue, 1_000, &[None, Some(400), Some(10)]);
    publish(&mut queue, 1_395, &[None, Some(10)]);
    assert_eq!(expired(&mut queue, 1_405), [1, 2]);
    assert_eq!(take(&mut queue, 9).len(), 3);
}

#[test]
fn another_time_applies_to_what_is_there() {
    let mut queue = with_ttl(500);
    publish(&mut queue, 1_000, &[None, Some(700)]);
    queue.set_settings(ttl(None));
    assert_eq!((expired(&mut queue, 1_600), queue.next_due_ms()), (vec![], 1_700));
    queue.set_settings(ttl(Some(650)));
    assert_eq!(queue.next_due_ms(), 1_650);
    assert_eq!(expired(&mut queue, 1_650), [0, 1]);
}

#[test]
fn chunks_on_disk_go_without_being_read_where_they_can() {
    let mut queue = with_ttl(500);
    publish(&mut queue, 1_000, &[None]);
    publish(&mut queue, 1_015, &[None]);
    spill_all(&mut queue);
    publish(&mut queue, 1_100, &[None]);
    publish(&mut queue, 1_300, &[None]);
    spill_all(&mut queue);
    assert_eq!((expired(&mut queue, 1_500), queue.next_due_ms()), (vec![], 1_515));
    assert!(queue.is_surveyed());
    assert_eq!(expired(&mut queue, 1_515), [0, 1]);
    assert_eq!(expired(&mut queue, 1_600), NOTHING);
    assert_eq!(queue.plan_survey(1, |_| 1), [(2, 2)], "it lies across the line");
    let mut read = ChunkBuilder::default();
    read.append_records(received(2, 1_100, &[None]).bytes());
    read.append_records(received(3, 1_300, &[None]).bytes());
    queue.surveyed(2, &read.finish());
    assert!(queue.is_surveyed());
    assert_eq!(expired(&mut queue, 1_600), [2]);
    assert_eq!((queue.next_due_ms(), queue.memory_bytes()), (1_800, 0));
    assert_eq!(expired(&mut queue, 1_800), [3]);
}

#[test]
fn deadlines_survive_a_restart() {
    let own = [Some(300), None, Some(1_000)];
    let chunk = received(0, 1_000, &own);
    let stored = || -> Held<u32> {
        Held::recovered(0, 3, None, Residence::Stored(5)).with_times(chunk.received(), true)
    };
    let restarted = |chunks| {
        let mut queue = TestQueue::recover(Recovered { chunks, next_seq: 3, redelivered_below: 3 });
        queue.set_settings(ttl(Some(600)));
        queue
    };
    let mut in_memory =
        restarted(vec![Held::new(0, Arc::new(received(0, 1_000, &own)), Persistence::Persistent, 0)]);
    assert_eq!(in_memory.next_due_ms(), 1_300);
    let mut on_disk = restarted(vec![stored()]);
    assert_eq!(on_disk.plan_survey(1, |_| 1), [(0, 5)]);
    on_disk.surveyed(0, &chunk);
    for queue in [&mut in_memory, &mut on_disk] {
        assert_eq!(expired(queue, 1_300), [0]);
        assert_eq!(expired(queue, 1_600), [1, 2]);
    }
    let mut unread = restarted(vec![stored()]);
    assert_eq!(expired(&mut unread, 1_600), [0, 1, 2], "by the queue's time nothing must be read");
    let mut unknown = restarted(vec![Held::recovered(0, 3, None, Residence::Stored(5))]);
    assert_eq!(expired(&mut unknown, 9_000), NOTHING);
    unknown.surveyed(0, &received(0, 8_500, &[None, None, None]));
    assert_eq!((expired(&mut unknown, 9_000), unknown.next_due_ms()), (vec![], 9_100));
}

#[test]
fn a_message_costs_four_bytes_and_only_one_with_a_time_of_its_own() {
    const COUNT: usize = 100_000;
    let descriptors = |own: Option<u64>| {
        let mut queue = with_ttl(1_000);
        for _ in 0..COUNT / 1_000 {
            let chunk = received(queue.next_seq(), 1_000, &vec![own; 1_000]);
            queue.push_shared(Arc::new(chunk), Persistence::Persistent, 0, &mut Vec::new());
        }
        spill_all(&mut queue);
        queue.descriptor_bytes()
    };
    let (without, with) = (descriptors(None), descriptors(Some(5)));
    assert!(without < COUNT / 2, "{without} bytes");
    assert!((with - without) / COUNT <= 4, "{} bytes", with - without);
}

#[test]
fn the_work_of_one_call_is_bounded() {
    let mut queue = with_ttl(10);
    for _ in 0..1_000 {
        let chunk = received(queue.next_seq(), START_MS, &[None; 3]);
        queue.push_shared(Arc::new(chunk), Persistence::Persistent, 0, &mut Vec::new());
    }
    let mut calls = 1;
    while queue.expire(START_MS + 10) {
        calls += 1;
    }
    assert!((2..1_000).contains(&calls), "{calls} calls");
    assert_eq!((queue.ready(), queue.take_departed().ranges), (0, vec![(0, 2_999)]));
}

#[test]
fn a_large_chunk_whose_messages_go_one_by_one_is_exact() {
    const MESSAGES: u64 = 500;
    let mut queue = TestQueue::default();
    // Due in an order of their own, 7 ms apart.
    let due = |seq: Seq| 100 + (seq * 211 % MESSAGES) * 7;
    let own: Vec<Option<u64>> = (0..MESSAGES).map(|seq| Some(due(seq))).collect();
    publish(&mut queue, START_MS, &own);
    let mut out = take_any(&mut queue, 100);
    let mut ready: Vec<Seq> = (100..MESSAGES).collect();
    for ms in (90..100 + MESSAGES * 7).step_by(3) {
        if ms % 10 == 0
            && let Some(seq) = out.pop()
        {
            queue.requeue(seq, seq, &mut Vec::new());
            ready.push(seq);
        }
        let (mut gone, stays): (Vec<Seq>, Vec<Seq>) = ready.into_iter().partition(|&seq| due(seq) <= ms);
        gone.sort_unstable();
        assert_eq!(expired(&mut queue, START_MS + ms), gone, "after {ms} ms");
        let next = stays.iter().map(|&seq| START_MS + due(seq)).min().unwrap_or(NEVER_MS);
        assert!(queue.next_due_ms() <= next && queue.next_due_ms() > START_MS + ms);
        ready = stays;
    }
    assert_eq!((queue.ready(), queue.unacked()), (0, 0));
}

#[test]
fn every_priority_expires() {
    let mut queue = with_ttl(500);
    for (level, at_ms, own) in [(0, 1_000, None), (7, 1_100, None), (3, 1_200, Some(50))] {
        let chunk = received(0, at_ms, &[own, own]);
        queue.push_copied_at(level, chunk.bytes(), 2, Persistence::Persistent, 0, &mut Vec::new());
    }
    let levels = |seqs: Vec<Seq>| seqs.into_iter().map(|seq| seq >> 56).collect::<Vec<_>>();
    assert_eq!(queue.next_due_ms(), 1_250);
    assert_eq!(levels(expired(&mut queue, 1_250)), [3, 3]);
    assert_eq!((queue.ready(), queue.next_due_ms()), (4, 1_500));
    assert_eq!(levels(expired(&mut queue, 1_500)), [0, 0]);
    queue.set_settings(ttl(Some(450)));
    assert_eq!(queue.next_due_ms(), 1_550);
    assert_eq!(levels(expired(&mut queue, 1_550)), [7, 7]);
    assert_eq!((queue.ready(), queue.may_expire(), queue.departure_counts().expired), (0, false, 6));
    consumer(&mut queue);
    queue.set_settings(ttl(Some(0)));
    let chunk = received(0, 2_000, &[None]);
    queue.push_copied_at(5, chunk.bytes(), 1, Persistence::Persistent, 0, &mut Vec::new());
    assert_eq!(expired(&mut queue, 2_000), NOTHING);
    queue.roster.set(CONSUMER, Standing::Blocked);
    assert_eq!(levels(expired(&mut queue, 2_000)), [5]);
}

#[derive(Clone, Debug)]
enum Step {
    Push(Vec<Option<u64>>, bool),
    /// The clock goes on, or back. Chunks on disk expire as a whole where that makes less of a difference.
    Clock(i64),
    Take(u32),
    Settle(usize),
    Requeue(usize),
    Ttl(Option<u64>),
    Spill,
}

fn step() -> impl Strategy<Value = Step> {
    let own = prop_oneof![2 => Just(None), 1 => (0u64..80).prop_map(|n| Some(n * 25))];
    prop_oneof![
        4 => (prop::collection::vec(own, 1..12), any::<bool>()).prop_map(|(own, shared)| Step::Push(own, shared)),
        4 => prop_oneof![9 => 1i64..20, 1 => -40i64..0].prop_map(|n| Step::Clock(n * 25)),
        3 => (1u32..12).prop_map(Step::Take),
        2 => (0usize..50).prop_map(Step::Settle),
        2 => (0usize..50).prop_map(Step::Requeue),
        1 => prop::option::of((0u64..60).prop_map(|n| n * 25)).prop_map(Step::Ttl),
        1 => Just(Step::Spill),
    ]
}

#[derive(Default)]
struct Plain {
    ready: BTreeMap<Seq, (u64, Option<u64>)>,
    unacked: BTreeMap<Seq, (u64, Option<u64>)>,
    ttl: Option<u64>,
    gone: Vec<Seq>,
}

impl Plain {
    fn due_ms(&self, (received_ms, own): (u64, Option<u64>)) -> u64 {
        [self.ttl, own].into_iter().flatten().min().map_or(NEVER_MS, |ttl| received_ms + ttl)
    }

    fn expire(&mut self, now_ms: u64) {
        let due = |times: &(u64, Option<u64>)| self.due_ms(*times) <= now_ms;
        let gone: Vec<Seq> = self.ready.iter().filter(|(_, times)| due(times)).map(|(&seq, _)| seq).collect();
        self.ready.retain(|seq, _| !gone.contains(seq));
        self.gone.extend(gone);
    }

    fn next_due_ms(&self) -> u64 {
        self.ready.values().map(|&times| self.due_ms(times)).min().unwrap_or(NEVER_MS)
    }
}

struct Compared {
    queue: TestQueue,
    plain: Plain,
    stored: HashMap<Seq, Arc<Chunk>>,
    now_ms: u64,
}

impl Compared {
    fn apply(&mut self, step: Step) {
        let (queue, plain) = (&mut self.queue, &mut self.plain);
        match step {
            Step::Push(own, shared) => {
                let first = queue.next_seq();
                let (chunk, count) = (received(first, self.now_ms, &own), own.len() as u32);
                plain.ready.extend((first..).zip(own.iter().map(|&own| (self.now_ms, own))));
                match shared {
                    true => queue.push_shared(Arc::new(chunk), Persistence::Persistent, 0, &mut Vec::new()),
                    false => {
                        queue.push_copied(chunk.bytes(), count, Persistence::Persistent, 0, &mut Vec::new())
                    }
                }
            }
            Step::Clock(ms) => self.now_ms = self.now_ms.checked_add_signed(ms).unwrap(),
            Step::Take(count) => {
                for (first_seq, _) in queue.plan_load(usize::MAX, |_| 1) {
                    queue.loaded(first_seq, self.stored[&first_seq].clone(), &mut Vec::new());
                }
                let expected: Vec<Seq> = plain.ready.keys().take(count as usize).copied().collect();
                assert_eq!(take_any(queue, count), expected);
                plain.unacked.extend(expected.iter().map(|seq| (*seq, plain.ready.remove(seq).unwrap())));
            }
            Step::Settle(at) | Step::Requeue(at) => {
                let Some(&seq) = plain.unacked.keys().nth(at % plain.unacked.len().max(1)) else { return };
                let times = plain.unacked.remove(&seq).unwrap();
                if matches!(step, Step::Settle(_)) {
                    queue.settle(seq, seq);
                } else {
                    queue.requeue(seq, seq, &mut Vec::new());
                    plain.ready.insert(seq, times);
                }
            }
            Step::Ttl(ms) => {
                plain.ttl = ms;
                queue.set_settings(ttl(ms));
            }
            Step::Spill => {
                let mut writes = Vec::new();
                queue.plan_spill(0, usize::MAX, &mut writes);
                for write in writes {
                    self.stored.insert(write.first_seq, write.chunk);
                    queue.written(write.first_seq, write.first_seq as u32, true);
                }
            }
        }
    }

    fn expire(&mut self) {
        while self.queue.expire(self.now_ms) {}
        for (first_seq, _) in self.queue.plan_survey(usize::MAX, |_| 1) {
            self.queue.surveyed(first_seq, &self.stored[&first_seq]);
        }
        while self.queue.expire(self.now_ms) {}
        self.plain.expire(self.now_ms);
    }
}

proptest! {
    #[test]
    fn agrees_with_a_plain_queue(steps in prop::collection::vec(step(), 1..80)) {
        let (queue, plain) = (TestQueue::default(), Plain::default());
        let mut both = Compared { queue, plain, stored: HashMap::new(), now_ms: START_MS };
        let mut gone = Vec::new();
        for step in steps {
            both.apply(step);
            both.expire();
            let (queue, plain) = (&mut both.queue, &mut both.plain);
            prop_assert_eq!(queue.ready() as usize, plain.ready.len());
            prop_assert_eq!(queue.unacked() as usize, plain.unacked.len());
            prop_assert!(queue.next_due_ms() <= plain.next_due_ms(), "nobody would look in time");
            prop_assert!(queue.next_due_ms() > both.now_ms);
            gone.extend(queue.take_departed().ranges.into_iter().flat_map(|(first, last)| first..=last));
            gone.sort_unstable();
            plain.gone.sort_unstable();
            prop_assert_eq!(&gone, &plain.gone);
        }
    }
}
