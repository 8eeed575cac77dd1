//! Consumers that behave as sessions do, against a list of messages and of who has which.

use std::collections::BTreeMap;

use super::super::super::delays::due_ms;
use super::*;
use crate::kind::Machine;

const DELAY_MS: u64 = 80;
const RETRY: DelayedRetry =
    DelayedRetry { kind: Some(RetryType::Failed), min_ms: Some(DELAY_MS), max_ms: None };

/// What became of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Ready,
    /// Came back, and waits for this time.
    Until(u64),
    /// With a consumer, or with nobody in particular.
    With(Option<ConsumerId>),
}

#[derive(Clone, Debug)]
struct Session {
    prefetch: u32,
    /// Will be served.
    listed: bool,
    blocked: bool,
    is_gone: bool,
}

#[derive(Clone, Debug)]
enum Op {
    Publish {
        level: u8,
        groups: Vec<u8>,
    },
    Join {
        priority: i64,
        prefetch: u32,
    },
    Serve(usize),
    Get,
    Settle(usize),
    GiveBack {
        at: usize,
        count: usize,
        why: Return,
    },
    Clock(u64),
    Cancel(usize),
    CloseGone,
    Purge,
    Spill,
    Load,
    /// Everybody is served for as long as somebody is woken.
    Settled,
}

fn op() -> impl Strategy<Value = Op> {
    let groups = prop::collection::vec(0u8..5, 1..12);
    let why = prop_oneof![Just(Return::Failed), Just(Return::Released)];
    prop_oneof![
        4 => ((0u8..2), groups).prop_map(|(level, groups)| Op::Publish { level: level * 3, groups }),
        1 => ((0i64..2), (1u32..6)).prop_map(|(priority, prefetch)| Op::Join { priority, prefetch }),
        4 => (0usize..9).prop_map(Op::Serve),
        1 => Just(Op::Get),
        4 => (0usize..99).prop_map(Op::Settle),
        2 => ((0usize..99), (1usize..4), why).prop_map(|(at, count, why)| Op::GiveBack { at, count, why }),
        2 => (0u64..60).prop_map(Op::Clock),
        1 => (0usize..9).prop_map(Op::Cancel),
        1 => Just(Op::CloseGone),
        1 => Just(Op::Spill),
        1 => Just(Op::Load),
        2 => Just(Op::Settled),
        1 => (0u8..8).prop_map(|n| if n == 0 { Op::Purge } else { Op::Settled }),
    ]
}

struct World {
    machine: Machine<u32, u32>,
    messages: BTreeMap<Seq, (Option<u8>, Fate)>,
    sessions: BTreeMap<ConsumerId, Session>,
    disk: Disk,
    next: BTreeMap<u8, Seq>,
    now_ms: u64,
}

impl World {
    fn new() -> Self {
        let mut machine: Machine<u32, u32> = Machine::default();
        machine.set_settings(QueueSettings {
            message_groups: true,
            max_priority: 3,
            delayed_retry: RETRY,
            ..QueueSettings::default()
        });
        Self {
            machine,
            messages: BTreeMap::new(),
            sessions: BTreeMap::new(),
            disk: Disk::default(),
            next: BTreeMap::new(),
            now_ms: 0,
        }
    }

    fn queue(&mut self) -> &mut TestQueue {
        self.machine.classic().unwrap()
    }

    fn woken(&mut self, wakes: Vec<u32>) {
        for id in wakes {
            let session = self.sessions.get_mut(&u64::from(id)).unwrap();
            assert!(!session.is_gone, "woken after it was cancelled");
            session.listed = true;
        }
    }

    /// Who has a message of a group.
    fn owner(&self, group: u8) -> Option<Option<ConsumerId>> {
        self.messages.values().find_map(|&(of, fate)| match fate {
            Fate::With(who) if of == Some(group) => Some(who),
            _ => None,
        })
    }

    /// Whether somebody may have a message, by the rules.
    fn may_have(&self, seq: Seq, who: Option<ConsumerId>) -> bool {
        let (group, fate) = self.messages[&seq];
        let Some(group) = group else { return fate == Fate::Ready };
        let level = seq >> 56;
        let mut before = self.messages.range(level << 56..seq);
        let waits = |fate| !matches!(fate, Fate::With(_));
        let is_first = !before.any(|(_, &(of, fate))| of == Some(group) && waits(fate));
        let is_free = match self.owner(group) {
            None => true,
            Some(owner) => owner.is_some() && owner == who,
        };
        fate == Fate::Ready && is_first && is_free
    }

    fn hand_out(&mut self, runs: &[Run], who: Option<ConsumerId>) {
        for (seq, _) in taken(runs) {
            assert!(self.may_have(seq, who), "{seq} went to {who:?}: {:?}", self.messages);
            self.messages.get_mut(&seq).unwrap().1 = Fate::With(who);
        }
    }

    fn unacked_of(&self, id: ConsumerId) -> u32 {
        self.messages.values().filter(|(_, fate)| *fate == Fate::With(Some(id))).count() as u32
    }

    /// Has a consumer's turn as a session would.
    fn serve(&mut self, id: ConsumerId) {
        let credit = self.sessions[&id].prefetch - self.unacked_of(id);
        let session = self.sessions.get_mut(&id).unwrap();
        session.listed = false;
        let (mut runs, mut wakes) = (Vec::new(), Vec::new());
        if credit == 0 {
            session.blocked = true;
            self.machine.block(id, &mut wakes);
            return self.woken(wakes);
        }
        session.blocked = false;
        let limits = Limits { messages: credit, bytes: 150 };
        let (end, _) = self.machine.take(id, limits, false, &mut runs, &mut wakes);
        self.hand_out(&runs, Some(id));
        self.woken(wakes);
        if end == TakeEnd::Limit {
            self.sessions.get_mut(&id).unwrap().listed = true;
        }
    }

    fn load(&mut self) -> bool {
        let plan = self.queue().plan_load(3_000, |_| 1_000);
        let mut wakes = Vec::new();
        for &(first_seq, location) in &plan {
            let chunk = self.disk.stored[&location].clone();
            self.queue().loaded(first_seq, chunk, &mut wakes);
        }
        self.woken(wakes);
        !plan.is_empty()
    }

    fn settle_down(&mut self) {
        for _ in 0..10_000 {
            let listed: Vec<ConsumerId> =
                self.sessions.iter().filter(|(_, s)| s.listed && !s.is_gone).map(|(&id, _)| id).collect();
            if listed.is_empty() && !self.load() {
                return self.check_that_nobody_starves();
            }
            listed.into_iter().for_each(|id| self.serve(id));
        }
        panic!("they wake each other forever");
    }

    /// Everybody waits: nothing is there for anyone who has credit.
    fn check_that_nobody_starves(&self) {
        for (&id, session) in self.sessions.iter().filter(|(_, session)| !session.is_gone) {
            if session.prefetch > self.unacked_of(id) {
                let missed = self.messages.keys().find(|&&seq| self.may_have(seq, Some(id)));
                assert_eq!(
                    missed, None,
                    "{id} was not woken for it: {:?} {:?}",
                    self.messages, self.sessions
                );
            }
        }
    }

    /// A run of consecutive messages that one has: the `at`-th and up to `count` in all.
    fn pick(&self, at: usize, count: usize) -> Option<(Seq, Seq, Option<ConsumerId>)> {
        let with: Vec<(Seq, Option<ConsumerId>)> = self
            .messages
            .iter()
            .filter_map(|(&seq, &(_, fate))| match fate {
                Fate::With(who) => Some((seq, who)),
                Fate::Ready | Fate::Until(_) => None,
            })
            .collect();
        let &(first, who) = with.get(at % with.len().max(1))?;
        let mut last = first;
        while last - first + 1 < count as u64 && with.contains(&(last + 1, who)) {
            last += 1;
        }
        Some((first, last, who))
    }

    fn credit_back(&mut self, who: Option<ConsumerId>) {
        if let Some(session) = who.and_then(|id| self.sessions.get_mut(&id))
            && session.blocked
        {
            session.listed = true;
        }
    }

    fn give_back(&mut self, first: Seq, last: Seq, who: Option<ConsumerId>, why: Return) {
        let mut wakes = Vec::new();
        self.machine.take_back(first, last, Back { why, now_ms: self.now_ms }, &mut wakes);
        for seq in first..=last {
            self.messages.get_mut(&seq).unwrap().1 = match why {
                Return::Released => Fate::Ready,
                _ => Fate::Until(due_ms(self.now_ms, DELAY_MS)),
            };
        }
        self.woken(wakes);
        self.credit_back(who);
    }

    fn publish(&mut self, level: u8, groups: &[u8]) {
        let next = *self.next.entry(level).or_insert(first_of_level(level));
        let names = ["", "a", "b", "c", "d"];
        let chosen: Vec<&str> = groups.iter().map(|&group| names[usize::from(group)]).collect();
        let chunk = records(next, &chosen);
        let mut wakes = Vec::new();
        if groups.len().is_multiple_of(2) {
            self.machine.push_shared(level, Arc::new(chunk), Persistence::Transient, 0, &mut wakes);
        } else {
            let count = chunk.count();
            self.machine.push_copied(level, chunk.bytes(), count, Persistence::Transient, 0, &mut wakes);
        }
        for (seq, &group) in (next..).zip(groups) {
            self.messages.insert(seq, (Some(group).filter(|&group| group > 0), Fate::Ready));
        }
        self.next.insert(level, next + groups.len() as u64);
        self.woken(wakes);
    }

    fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        let now_ms = self.now_ms;
        while self.queue().expire(now_ms) {}
        for (_, fate) in self.messages.values_mut() {
            if matches!(*fate, Fate::Until(due_ms) if due_ms <= self.now_ms) {
                *fate = Fate::Ready;
            }
        }
        let mut wakes = Vec::new();
        self.queue().wake_after_settling(&mut wakes);
        self.woken(wakes);
    }

    fn cancel(&mut self, at: usize) {
        let there: Vec<ConsumerId> =
            self.sessions.iter().filter(|(_, session)| !session.is_gone).map(|(&id, _)| id).collect();
        let Some(&id) = there.get(at % there.len().max(1)) else { return };
        self.sessions.get_mut(&id).unwrap().is_gone = true;
        let mut wakes = Vec::new();
        self.machine.remove_consumer(id, &mut wakes);
        self.woken(wakes);
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Publish { level, groups } => self.publish(*level, groups),
            &Op::Join { priority, prefetch } => {
                let id = self.sessions.len() as u64 + 1;
                self.queue().roster.add(id, id as u32, priority, false);
                let session = Session { prefetch, listed: true, blocked: false, is_gone: false };
                self.sessions.insert(id, session);
            }
            Op::Serve(at) => {
                let mut listed = self.sessions.iter().filter(|(_, s)| s.listed && !s.is_gone);
                if let Some((&id, _)) = listed.nth(*at) {
                    self.serve(id);
                }
            }
            Op::Get => {
                let (mut runs, mut wakes) = (Vec::new(), Vec::new());
                self.queue().take_any(Limits { messages: 1, bytes: 1 }, false, &mut runs);
                self.queue().wake_after_settling(&mut wakes);
                self.hand_out(&runs, None);
                self.woken(wakes);
            }
            Op::Settle(at) => {
                let Some((first, last, who)) = self.pick(*at, 3) else { return };
                let mut wakes = Vec::new();
                assert_eq!(self.machine.settle(first, last).count, last - first + 1);
                self.machine.wake_after_settling(&mut wakes);
                self.messages.retain(|&seq, _| seq < first || seq > last);
                self.woken(wakes);
                self.credit_back(who);
            }
            Op::GiveBack { at, count, why } => {
                if let Some((first, last, who)) = self.pick(*at, *count) {
                    self.give_back(first, last, who, *why);
                }
            }
            Op::Clock(ms) => self.pass(*ms),
            Op::Cancel(at) => self.cancel(*at),
            Op::CloseGone => {
                let gone: Vec<Seq> = self
                    .messages
                    .iter()
                    .filter_map(|(&seq, &(_, fate))| match fate {
                        Fate::With(Some(id)) if self.sessions[&id].is_gone => Some(seq),
                        _ => None,
                    })
                    .collect();
                gone.into_iter().for_each(|seq| self.give_back(seq, seq, None, Return::Failed));
            }
            Op::Purge => {
                let mut wakes = Vec::new();
                self.queue().purge(&mut Vec::new());
                self.machine.wake_after_settling(&mut wakes);
                self.messages.retain(|_, (_, fate)| matches!(fate, Fate::With(_)));
                self.woken(wakes);
            }
            Op::Spill => {
                let mut writes = Vec::new();
                self.queue().plan_spill(0, usize::MAX, &mut writes);
                for write in writes {
                    self.disk.next += 1;
                    self.disk.stored.insert(self.disk.next, write.chunk);
                    let location = self.disk.next;
                    self.queue().written(write.first_seq, location, true);
                }
            }
            Op::Load => drop(self.load()),
            Op::Settled => self.settle_down(),
        }
        let with = self.messages.values().filter(|(_, fate)| matches!(fate, Fate::With(_))).count();
        let delayed = self.messages.values().filter(|(_, fate)| matches!(fate, Fate::Until(_))).count();
        assert_eq!((self.machine.unacked() as usize, self.machine.delayed() as usize), (with, delayed));
        assert_eq!(self.machine.ready() as usize, self.messages.len() - with - delayed);
    }

    /// One consumer alone gets and settles all that is left.
    fn finish(&mut self) {
        while let Some((first, last, who)) = self.pick(0, 1) {
            self.give_back(first, last, who, Return::Failed);
        }
        self.pass(DELAY_MS * 2);
        (0..self.sessions.len()).for_each(|_| self.cancel(0));
        self.apply(&Op::Join { priority: 0, prefetch: 5 });
        while !self.messages.is_empty() {
            self.settle_down();
            let before = self.messages.len();
            (0..5).for_each(|_| self.apply(&Op::Settle(0)));
            assert!(self.messages.len() < before, "nothing comes: {:?}", self.messages);
        }
        assert_eq!(self.queue().chunks.memory_bytes(), 0);
        assert!(self.queue().groups.as_ref().unwrap().is_empty());
    }
}

proptest! {
    #[test]
    fn groups_agree_with_the_model(ops in prop::collection::vec(op(), 1..150)) {
        let mut world = World::new();
        for op in &ops {
            world.apply(op);
        }
        world.settle_down();
        world.finish();
    }
}
