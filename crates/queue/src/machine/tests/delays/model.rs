//! The machine against a state and a time per message.

use std::collections::BTreeMap;

use super::super::super::delays::due_ms;
use super::*;

const LEVELS: [u8; 2] = [0, 3];

#[derive(Clone, Debug)]
enum Step {
    Push(usize, Vec<u8>),
    Clock(u64),
    Take(u32, bool),
    Settle(usize, usize),
    Back(usize, usize, Return),
    Retry(Option<(RetryType, u64, u64)>),
    Limit(Option<u64>),
    MaxLength(Option<u64>),
    Ttl(Option<u64>),
    Claim(usize, u64),
    Purge,
    Spill(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let why = prop_oneof![Just(Return::Nacked), Just(Return::Failed), Just(Return::Released)];
    let kind = prop_oneof![
        Just(RetryType::All),
        Just(RetryType::Failed),
        Just(RetryType::Returned),
        Just(RetryType::Disabled)
    ];
    let retry = (kind, 1u64..300, 1u64..900);
    prop_oneof![
        4 => ((0usize..2), prop::collection::vec(0u8..9, 1..20)).prop_map(|(l, sizes)| Step::Push(l, sizes)),
        4 => (1u64..200).prop_map(Step::Clock),
        5 => ((1u32..30), prop::bool::weighted(0.1)).prop_map(|(n, settle)| Step::Take(n, settle)),
        2 => ((0usize..50), (0usize..9)).prop_map(|(at, n)| Step::Settle(at, n)),
        6 => ((0usize..50), (0usize..9), why).prop_map(|(at, n, why)| Step::Back(at, n, why)),
        1 => prop::option::weighted(0.8, retry).prop_map(Step::Retry),
        1 => prop::option::of(0u64..5).prop_map(Step::Limit),
        1 => prop::option::of(0u64..30).prop_map(Step::MaxLength),
        1 => prop::option::of(100u64..900).prop_map(Step::Ttl),
        1 => ((0usize..50), (0u64..9)).prop_map(|(at, n)| Step::Claim(at, n)),
        1 => prop::bool::weighted(0.2).prop_map(|purge| if purge { Step::Purge } else { Step::Clock(500) }),
        2 => (0usize..2_000).prop_map(Step::Spill),
    ]
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Ready,
    Until(u64),
    Unacked,
}

#[derive(Clone, Copy, Debug)]
struct Message {
    fate: Fate,
    failed: u32,
    acquired: u32,
    received_ms: u64,
    bytes: u64,
}

struct World {
    queue: TestQueue,
    messages: BTreeMap<Seq, Message>,
    next: BTreeMap<u8, Seq>,
    disk: Disk,
    now_ms: u64,
    gone: Vec<Seq>,
}

impl World {
    fn new() -> Self {
        let settings = QueueSettings { max_priority: 3, max_length_bytes: Some(1 << 40), ..delaying() };
        Self {
            queue: queue(settings),
            messages: BTreeMap::new(),
            next: BTreeMap::new(),
            disk: Disk::default(),
            now_ms: START_MS,
            gone: Vec::new(),
        }
    }

    /// Waiting messages, those that are handed out first first.
    fn waiting(&self) -> Vec<Seq> {
        let mut waiting: Vec<Seq> =
            self.messages.iter().filter(|(_, m)| m.fate != Fate::Unacked).map(|(&seq, _)| seq).collect();
        waiting.sort_by_key(|&seq| (std::cmp::Reverse(seq >> 56), seq));
        waiting
    }

    fn count(&self, is: impl Fn(Fate) -> bool) -> (u64, u64) {
        let those = self.messages.values().filter(|message| is(message.fate));
        those.fold((0, 0), |(count, bytes), message| (count + 1, bytes + message.bytes))
    }

    fn leave(&mut self, seqs: impl IntoIterator<Item = Seq>) {
        for seq in seqs {
            assert!(self.messages.remove(&seq).is_some());
            self.gone.push(seq);
        }
    }

    fn enforce(&mut self) {
        let Some(most) = self.queue.settings().max_length else { return };
        let waiting = self.waiting();
        let excess = waiting.len().saturating_sub(most as usize);
        let mut by_level = waiting;
        by_level.sort_unstable();
        self.leave(by_level.into_iter().take(excess));
    }

    fn pick(&self, at: usize, count: usize) -> Option<(Seq, Seq)> {
        let unacked: Vec<Seq> =
            self.messages.iter().filter(|(_, m)| m.fate == Fate::Unacked).map(|(&seq, _)| seq).collect();
        let first = *unacked.get(at % unacked.len().max(1))?;
        let mut last = first;
        while last - first < count as u64 && unacked.contains(&(last + 1)) {
            last += 1;
        }
        Some((first, last))
    }

    fn set(&mut self, change: impl FnOnce(&mut QueueSettings)) {
        let mut settings = self.queue.settings().clone();
        change(&mut settings);
        self.queue.set_settings(settings);
        let settings = self.queue.settings().clone();
        for message in self.messages.values_mut() {
            if !settings.delayed_retry.is_on() && matches!(message.fate, Fate::Until(_)) {
                message.fate = Fate::Ready;
            }
            if settings.delivery_limit().is_none() {
                (message.failed, message.acquired) = (0, 0);
            }
        }
        self.enforce();
    }

    fn push(&mut self, level: u8, sizes: &[u8]) {
        let first = *self.next.entry(level).or_insert(first_of_level(level));
        let mut builder = ChunkBuilder::default();
        for (seq, &size) in (first..).zip(sizes) {
            let body = vec![0; size.into()];
            builder.push(0, self.now_ms, b"\0\x01q", b"", body.len(), &body);
            let (received_ms, bytes) = (self.now_ms, u64::from(size));
            let message = Message { fate: Fate::Ready, failed: 0, acquired: 0, received_ms, bytes };
            self.messages.insert(seq, message);
        }
        let (count, none) = (builder.count(), &mut Vec::new());
        if count.is_multiple_of(2) {
            self.queue.push_copied_at(level, builder.bytes(), count, Persistence::Persistent, 0, none);
        } else {
            let chunk = Arc::new(builder.finish());
            self.queue.push_shared_at(level, chunk, Persistence::Persistent, 0, none);
        }
        self.next.insert(level, first + sizes.len() as u64);
        self.enforce();
    }

    fn take(&mut self, count: u32, settle: bool) {
        let ready = self.waiting().into_iter().filter(|seq| self.messages[seq].fate == Fate::Ready);
        let expected: Vec<_> = ready
            .take(count as usize)
            .map(|seq| (seq, self.messages[&seq].failed, self.messages[&seq].acquired))
            .collect();
        let mut runs: Vec<Run> = Vec::new();
        loop {
            let left = count - runs.iter().map(|run| run.count).sum::<u32>();
            let limits = Limits { messages: left, bytes: 300 };
            match self.queue.take_any(limits, settle, &mut runs).0 {
                TakeEnd::Parked => break,
                TakeEnd::NeedsLoad => load(&mut self.queue, &self.disk),
                TakeEnd::Limit if left == 0 => break,
                TakeEnd::Limit => {}
            }
        }
        let counted: Vec<_> = runs
            .iter()
            .flat_map(|run| {
                let attempts = run.attempts;
                (run.first_seq..=run.last_seq()).map(move |seq| (seq, attempts.failed, attempts.acquired))
            })
            .collect();
        assert_eq!(counted, expected);
        for (seq, ..) in expected {
            match settle {
                true => assert!(self.messages.remove(&seq).is_some()),
                false => self.messages.get_mut(&seq).unwrap().fate = Fate::Unacked,
            }
        }
    }

    fn come_back(&mut self, first: Seq, last: Seq, why: Return) {
        self.queue.take_back(first, last, Back { why, now_ms: self.now_ms }, &mut Vec::new());
        let settings = self.queue.settings().clone();
        let mut spent = Vec::new();
        for seq in first..=last {
            let message = self.messages.get_mut(&seq).unwrap();
            message.fate = Fate::Ready;
            let Some(limit) = settings.delivery_limit() else { continue };
            message.failed += u32::from(why != Return::Released);
            message.acquired += 1;
            if why != Return::Released && u64::from(message.failed) > limit {
                spent.push(seq);
                continue;
            }
            let DelayedRetry { kind: Some(kind), min_ms: Some(min), max_ms: Some(max) } =
                settings.delayed_retry
            else {
                continue;
            };
            let waits = match kind {
                RetryType::Disabled => false,
                RetryType::All => true,
                RetryType::Failed => why != Return::Released,
                RetryType::Returned => why != Return::Failed,
            };
            if waits {
                let delay = (min * u64::from(message.failed.max(1))).min(max);
                message.fate = Fate::Until(due_ms(self.now_ms, delay));
            }
        }
        self.leave(spent);
        self.enforce();
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Push(level, sizes) => self.push(LEVELS[level], &sizes),
            Step::Clock(ms) => self.now_ms += ms,
            Step::Take(count, settle) => self.take(count, settle),
            Step::Settle(at, count) => {
                if let Some((first, last)) = self.pick(at, count) {
                    assert_eq!(self.queue.settle(first, last).count, last - first + 1);
                    self.messages.retain(|&seq, _| seq < first || seq > last);
                }
            }
            Step::Back(at, count, why) => {
                if let Some((first, last)) = self.pick(at, count) {
                    self.come_back(first, last, why);
                }
            }
            Step::Retry(retry) => self.set(|settings| {
                settings.delayed_retry =
                    retry.map_or(DelayedRetry::default(), |(kind, min, max)| super::retry(kind, min, max));
            }),
            Step::Limit(limit) => self.set(|settings| settings.delivery_limit = limit),
            Step::MaxLength(most) => self.set(|settings| settings.max_length = most),
            Step::Ttl(ttl_ms) => self.set(|settings| settings.message_ttl_ms = ttl_ms),
            Step::Claim(at, count) => {
                let waiting = self.waiting();
                let Some(&first) = waiting.get(at % waiting.len().max(1)) else { return };
                let mut claimed = Vec::new();
                self.queue.claim(first, first + count, &mut claimed);
                let mut claimed: Vec<Seq> = claimed.into_iter().flat_map(|(a, b)| a..=b).collect();
                claimed.sort_unstable();
                let expected: Vec<Seq> =
                    waiting.into_iter().filter(|seq| (first..=first + count).contains(seq)).collect();
                assert_eq!(claimed, expected);
                for seq in claimed {
                    self.queue.dropped(seq, seq);
                    self.messages.remove(&seq);
                }
            }
            Step::Purge => {
                let waiting = self.waiting();
                assert_eq!(self.queue.purge(&mut Vec::new()).count as usize, waiting.len());
                self.messages.retain(|seq, _| !waiting.contains(seq));
            }
            Step::Spill(keep) => {
                let mut writes = Vec::new();
                self.queue.plan_spill(keep, 20_000, &mut writes);
                for write in writes {
                    self.disk.next += 1;
                    self.disk.stored.insert(self.disk.next, write.chunk);
                    self.queue.written(write.first_seq, self.disk.next, true);
                }
            }
        }
    }

    fn pass_time(&mut self) {
        while self.queue.expire(self.now_ms) {}
        for (first_seq, location) in self.queue.plan_survey(usize::MAX, |_| 1) {
            self.queue.surveyed(first_seq, &self.disk.stored[&location].clone());
        }
        while self.queue.expire(self.now_ms) {}
        let (now_ms, ttl_ms) = (self.now_ms, self.queue.settings().message_ttl_ms);
        let is_over = |message: &Message| ttl_ms.is_some_and(|ttl| message.received_ms + ttl <= now_ms);
        let over = self.messages.iter().filter(|(_, m)| m.fate != Fate::Unacked && is_over(m));
        let over: Vec<Seq> = over.map(|(&seq, _)| seq).collect();
        self.leave(over);
        for message in self.messages.values_mut() {
            if matches!(message.fate, Fate::Until(due_ms) if due_ms <= now_ms) {
                message.fate = Fate::Ready;
            }
        }
    }

    fn check(&mut self) {
        let queue = &mut self.queue;
        let departed = queue.take_departed().ranges.into_iter().flat_map(|(first, last)| first..=last);
        let mut departed: Vec<Seq> = departed.collect();
        departed.sort_unstable();
        self.gone.sort_unstable();
        assert_eq!(departed, std::mem::take(&mut self.gone));
        let queue = &self.queue;
        let delayed = self.count(|fate| matches!(fate, Fate::Until(_)));
        assert_eq!((queue.ready, queue.ready_bytes), self.count(|fate| fate == Fate::Ready));
        assert_eq!((queue.delayed, queue.delayed_bytes), delayed);
        assert_eq!(queue.unacked, self.count(|fate| fate == Fate::Unacked).0);
        let kept: BTreeMap<Seq, u64> = queue
            .levels()
            .flat_map(|level| level.delayed_within(0, Seq::MAX))
            .flat_map(|range| (range.first..=range.last).map(move |seq| (seq, range.due_ms)))
            .collect();
        let expected: BTreeMap<Seq, u64> = self
            .messages
            .iter()
            .filter_map(|(&seq, message)| match message.fate {
                Fate::Until(due_ms) => Some((seq, due_ms)),
                _ => None,
            })
            .collect();
        assert_eq!(kept, expected);
        let next_ms = expected.values().min().copied().unwrap_or(NEVER_MS);
        assert!(queue.next_due_ms() <= next_ms, "nobody would look in time");
        assert!(queue.next_due_ms() > self.now_ms);
        assert!(
            queue
                .levels()
                .all(|level| level.delays.is_none() == (level.delayed_within(0, Seq::MAX).next().is_none()))
        );
    }
}

proptest! {
    #[test]
    fn agrees_with_a_time_per_message(steps in prop::collection::vec(step(), 1..100)) {
        let mut world = World::new();
        for step in steps {
            world.apply(step);
            world.pass_time();
            world.check();
        }
    }

    #[test]
    fn nothing_is_early_and_little_is_late(now_ms in 0u64..1 << 42, delay_ms in 1u64..400_000_000_000) {
        let late = due_ms(now_ms, delay_ms) - now_ms - delay_ms;
        prop_assert!(late < 8.max(delay_ms / 128 + 1));
    }
}
