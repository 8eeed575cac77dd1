//! A single active consumer: who it is, when it changes, and the machine against a plain model.

use std::collections::VecDeque;

use super::super::roster::ConsumerId;
use super::super::single_active::Activity;
use super::*;

const NOTHING: [Seq; 0] = [];
const NOBODY: [u32; 0] = [];

fn single_active() -> TestQueue {
    let mut queue = TestQueue::default();
    queue.set_settings(QueueSettings { single_active_consumer: true, ..QueueSettings::default() });
    queue
}

fn join(queue: &mut TestQueue, id: ConsumerId, priority: i64) {
    queue.roster.add(id, id as u32, priority, false);
}

fn leave(queue: &mut TestQueue, id: ConsumerId) -> Vec<u32> {
    queue.roster.remove(id);
    let (mut wakes, ready) = (Vec::new(), queue.ready());
    queue.roster.wake(ready, &mut wakes);
    wakes
}

fn take_as(queue: &mut TestQueue, id: ConsumerId, messages: u32) -> Vec<Seq> {
    let mut runs = Vec::new();
    let limits = Limits { messages, bytes: usize::MAX };
    queue.take(id, limits, false, &mut runs, &mut Vec::new());
    taken(&runs).into_iter().map(|(seq, _)| seq).collect()
}

fn settle(queue: &mut TestQueue, first: Seq, last: Seq) -> Vec<u32> {
    let mut wakes = Vec::new();
    queue.settle(first, last);
    queue.wake_after_settling(&mut wakes);
    wakes
}

fn status(queue: &TestQueue) -> Vec<(ConsumerId, &'static str)> {
    let mut ids: Vec<ConsumerId> = queue.roster.iter().map(|(id, _)| id).collect();
    ids.sort_unstable();
    ids.into_iter().map(|id| (id, queue.roster.activity(id).name())).collect()
}

#[test]
fn the_first_is_active_and_the_next_takes_over() {
    let mut queue = single_active();
    for id in 1..=3 {
        join(&mut queue, id, 0);
    }
    push(&mut queue, 6);
    assert_eq!(take_as(&mut queue, 2, 9), NOTHING);
    assert_eq!(take_as(&mut queue, 3, 9), NOTHING);
    assert_eq!(take_as(&mut queue, 1, 2), [0, 1], "alone, whoever else is there");
    assert_eq!(status(&queue), [(1, "single_active"), (2, "waiting"), (3, "waiting")]);
    assert_eq!(queue.roster.active_waker(), Some(&1));
    assert_eq!(leave(&mut queue, 3), NOBODY, "nothing changes for the active one");
    assert_eq!(leave(&mut queue, 1), [2], "parked since it asked");
    // What the former one still has stays its own.
    assert_eq!(take_as(&mut queue, 2, 9), [2, 3, 4, 5]);
    assert_eq!(settle(&mut queue, 0, 1), NOBODY);
    queue.requeue(2, 3, &mut Vec::new());
    assert_eq!(take_as(&mut queue, 2, 9), [2, 3]);
    assert_eq!(leave(&mut queue, 2), NOBODY);
    assert_eq!(queue.roster.active_waker(), None);
}

#[test]
fn a_blocked_one_stays_active() {
    let mut queue = single_active();
    join(&mut queue, 1, 0);
    join(&mut queue, 2, 0);
    push(&mut queue, 2);
    assert_eq!(take_as(&mut queue, 2, 9), NOTHING);
    assert_eq!(take_as(&mut queue, 1, 1), [0]);
    queue.roster.set(1, Standing::Blocked);
    let mut wakes = Vec::new();
    queue.roster.wake(9, &mut wakes);
    assert_eq!(wakes, NOBODY);
    assert!(!queue.roster.any_active(), "then the length limits hold");
}

#[test]
fn a_higher_priority_takes_over_once_nothing_is_outstanding() {
    let mut queue = single_active();
    join(&mut queue, 1, 0);
    push(&mut queue, 10);
    assert_eq!(take_as(&mut queue, 1, 3), [0, 1, 2]);
    join(&mut queue, 2, 5);
    assert_eq!(take_as(&mut queue, 2, 9), NOTHING);
    assert_eq!(take_as(&mut queue, 1, 9), NOTHING, "it gets no more");
    assert_eq!(status(&queue), [(1, "single_active"), (2, "waiting")]);
    assert_eq!(settle(&mut queue, 0, 0), NOBODY);
    queue.requeue(2, 2, &mut Vec::new());
    assert_eq!(settle(&mut queue, 1, 1), [2]);
    assert_eq!(status(&queue), [(1, "waiting"), (2, "single_active")]);
    assert_eq!(take_as(&mut queue, 2, 2), [2, 3]);
    assert_eq!(settle(&mut queue, 2, 3), NOBODY);
    join(&mut queue, 3, 5);
    assert_eq!(take_as(&mut queue, 2, 1), [4], "an equal one has to wait");
    assert_eq!(settle(&mut queue, 4, 4), NOBODY);
    join(&mut queue, 4, 6);
    assert_eq!(take_as(&mut queue, 4, 1), [5], "nothing was outstanding");
}

#[test]
fn the_active_one_goes_on_when_the_higher_one_leaves() {
    let mut queue = single_active();
    join(&mut queue, 1, 0);
    push(&mut queue, 4);
    assert_eq!(take_as(&mut queue, 1, 1), [0]);
    join(&mut queue, 2, 1);
    assert_eq!(take_as(&mut queue, 1, 1), NOTHING);
    assert_eq!(leave(&mut queue, 2), [1]);
    assert_eq!(take_as(&mut queue, 1, 9), [1, 2, 3]);
}

#[test]
fn what_nobody_has_any_more_does_not_hinder_a_handover() {
    let mut queue = single_active();
    join(&mut queue, 1, 0);
    join(&mut queue, 2, 0);
    push(&mut queue, 4);
    assert_eq!(take_as(&mut queue, 1, 2), [0, 1]);
    leave(&mut queue, 1);
    queue.take_any(Limits { messages: 1, bytes: usize::MAX }, false, &mut Vec::new());
    join(&mut queue, 3, 1);
    assert_eq!(take_as(&mut queue, 3, 9), [3]);
}

#[derive(Clone, Debug)]
enum Op {
    Join(i64),
    Leave(usize),
    Push(u32),
    Take(usize, u32),
    Block(usize),
    Settle(usize, usize),
    Requeue(usize, usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0i64..3).prop_map(Op::Join),
        (0usize..8).prop_map(Op::Leave),
        (1u32..20).prop_map(Op::Push),
        ((0usize..8), (1u32..10)).prop_map(|(who, n)| Op::Take(who, n)),
        (0usize..8).prop_map(Op::Block),
        ((0usize..50), (0usize..8)).prop_map(|(at, n)| Op::Settle(at, n)),
        ((0usize..50), (0usize..8)).prop_map(|(at, n)| Op::Requeue(at, n)),
    ]
}

/// Consumers in order of arrival with their priorities, and who has which messages.
#[derive(Default)]
struct Crowd {
    members: Vec<(ConsumerId, i64)>,
    active: Option<ConsumerId>,
    held: Vec<(Option<ConsumerId>, Seq)>,
    ready: VecDeque<Seq>,
    next: ConsumerId,
}

impl Crowd {
    fn member(&self, at: usize) -> Option<ConsumerId> {
        self.members.get(at).map(|&(id, _)| id)
    }

    fn priority(&self, wanted: ConsumerId) -> i64 {
        self.members.iter().find(|&&(id, _)| id == wanted).unwrap().1
    }

    fn best(&self) -> Option<ConsumerId> {
        let highest = self.members.iter().map(|&(_, priority)| priority).max()?;
        self.members.iter().find(|&&(_, priority)| priority == highest).map(|&(id, _)| id)
    }

    fn outranked(&self) -> bool {
        let (Some(active), Some(best)) = (self.active, self.best()) else { return false };
        self.priority(active) < self.priority(best)
    }

    fn review(&mut self) {
        let idle = |active| !self.held.iter().any(|&(holder, _)| holder == Some(active));
        if self.active.is_none_or(|active| self.outranked() && idle(active)) {
            self.active = self.best();
        }
    }

    fn pick(&mut self, at: usize, count: usize) -> Option<(Seq, Seq)> {
        let first = self.held.get(at % self.held.len().max(1))?.1;
        let holds = |seq| self.held.iter().any(|&(_, held)| held == seq);
        let last = (first..=first + count as u64).take_while(|&seq| holds(seq)).last()?;
        self.held.retain(|&(_, seq)| seq < first || seq > last);
        Some((first, last))
    }
}

fn apply(op: &Op, queue: &mut TestQueue, crowd: &mut Crowd) {
    match *op {
        Op::Join(priority) => {
            crowd.next += 1;
            crowd.members.push((crowd.next, priority));
            join(queue, crowd.next, priority);
        }
        Op::Leave(who) => {
            let Some(id) = crowd.member(who) else { return };
            crowd.members.retain(|&(member, _)| member != id);
            if crowd.active == Some(id) {
                crowd.active = None;
                crowd.held.iter_mut().for_each(|(holder, _)| *holder = holder.filter(|&h| h != id));
            }
            leave(queue, id);
        }
        Op::Push(count) => {
            crowd.ready.extend(queue.next_seq()..queue.next_seq() + u64::from(count));
            push(queue, count);
        }
        Op::Take(who, count) => {
            let Some(id) = crowd.member(who) else { return };
            let may = crowd.active == Some(id) && !crowd.outranked();
            let count = if may { crowd.ready.len().min(count as usize) } else { 0 };
            let expected: Vec<Seq> = crowd.ready.drain(..count).collect();
            crowd.held.extend(expected.iter().map(|&seq| (Some(id), seq)));
            let most = if may { count as u32 } else { 9 };
            assert_eq!(take_as(queue, id, most.max(1)), expected);
        }
        Op::Block(who) => {
            if let Some(id) = crowd.member(who) {
                queue.roster.set(id, Standing::Blocked);
            }
        }
        Op::Settle(at, count) => {
            if let Some((first, last)) = crowd.pick(at, count) {
                settle(queue, first, last);
            }
        }
        Op::Requeue(at, count) => {
            if let Some((first, last)) = crowd.pick(at, count) {
                queue.requeue(first, last, &mut Vec::new());
                crowd.ready.extend(first..=last);
                crowd.ready.make_contiguous().sort_unstable();
            }
        }
    }
    crowd.review();
}

proptest! {
    #[test]
    fn agrees_with_the_model_of_a_crowd(ops in prop::collection::vec(op(), 1..120)) {
        let (mut queue, mut crowd) = (single_active(), Crowd::default());
        for op in &ops {
            apply(op, &mut queue, &mut crowd);
            prop_assert_eq!(queue.roster.active_waker().copied(), crowd.active.map(|id| id as u32));
            prop_assert_eq!(queue.ready() as usize, crowd.ready.len());
            for &(id, _) in &crowd.members {
                let waits = queue.roster.activity(id) == Activity::Waiting;
                prop_assert_eq!(waits, crowd.active != Some(id));
            }
        }
        // Whoever is left gets the rest, one after the other.
        while crowd.active.is_some() {
            let held: Vec<Seq> = crowd.held.drain(..).map(|(_, seq)| seq).collect();
            for seq in held {
                settle(&mut queue, seq, seq);
            }
            crowd.review();
            let now = crowd.active.unwrap();
            let got = take_as(&mut queue, now, 1);
            prop_assert_eq!(got.first().copied(), crowd.ready.pop_front());
            let place = crowd.members.iter().position(|&(id, _)| id == now).unwrap();
            apply(&Op::Leave(place), &mut queue, &mut crowd);
        }
        prop_assert!(queue.roster.is_empty());
    }
}
