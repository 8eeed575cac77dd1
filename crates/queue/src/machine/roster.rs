//! A queue's consumers: who is next, who waits, who may not take now.
//!
//! Consumers pull. A consumer that finds nothing *parks*; a push wakes parked consumers of the highest priority
//! that can take, in the order in which they parked, which is what makes single messages go round. A consumer
//! without credit, or whose socket does not drain, is *blocked* and leaves its turn to lower priorities.
//!
//! With a [single active consumer](super::single_active) all others are as if they were not there.

use std::collections::VecDeque;

use hashbrown::HashMap;

use super::single_active::SingleActive;

/// Identifies a consumer within the broker.
pub type ConsumerId = u64;

/// What a consumer is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Waits for messages, has credit.
    Parked,
    /// Was woken and is taking.
    Running,
    /// Cannot take: no credit, or its socket is full.
    Blocked,
}

/// One consumer as its queue knows it.
#[derive(Clone, Debug)]
pub struct Consumer<W> {
    /// How to wake it.
    pub waker: W,
    /// `x-priority`; higher is served first.
    pub priority: i64,
    /// Whether it asked for exclusive use of the queue.
    pub exclusive: bool,
    standing: Standing,
}

#[derive(Clone, Debug)]
struct Level {
    priority: i64,
    parked: VecDeque<ConsumerId>,
    running: usize,
    members: usize,
}

/// All consumers of a queue.
#[derive(Clone, Debug)]
pub struct Roster<W> {
    consumers: HashMap<ConsumerId, Consumer<W>, foldhash::fast::FixedState>,
    /// By descending priority. Standings are counted of those who may take: [`Self::may_take`].
    levels: Vec<Level>,
    /// Set where one consumer at a time may take.
    pub(super) single: Option<Box<SingleActive>>,
}

impl<W> Default for Roster<W> {
    fn default() -> Self {
        Self { consumers: HashMap::default(), levels: Vec::new(), single: None }
    }
}

impl<W: Clone> Roster<W> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.consumers.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.consumers.is_empty()
    }

    /// Whether one of them has exclusive use.
    pub fn has_exclusive(&self) -> bool {
        // Then there is nobody else.
        self.len() == 1 && self.consumers.values().any(|c| c.exclusive)
    }

    /// All consumers, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (ConsumerId, &Consumer<W>)> {
        self.consumers.iter().map(|(&id, c)| (id, c))
    }

    /// How to wake a consumer.
    pub(super) fn waker(&self, id: ConsumerId) -> Option<&W> {
        self.consumers.get(&id).map(|consumer| &consumer.waker)
    }

    /// Adds a consumer as blocked; its first [`Self::set`] gives it a standing.
    pub fn add(&mut self, id: ConsumerId, waker: W, priority: i64, exclusive: bool) {
        self.consumers.insert(id, Consumer { waker, priority, exclusive, standing: Standing::Blocked });
        match self.levels.binary_search_by(|level| priority.cmp(&level.priority)) {
            Ok(at) => self.levels[at].members += 1,
            Err(at) => {
                self.levels.insert(at, Level { priority, parked: VecDeque::new(), running: 0, members: 1 });
            }
        }
        self.choose_active();
    }

    /// Removes a consumer; whether it was there.
    pub fn remove(&mut self, id: ConsumerId) -> bool {
        self.set(id, Standing::Blocked);
        let Some(consumer) = self.consumers.remove(&id) else { return false };
        if let Some(at) = self.level_index(consumer.priority) {
            self.levels[at].members -= 1;
            if self.levels[at].members == 0 {
                self.levels.remove(at);
            }
        }
        self.forget_active(id);
        true
    }

    /// Changes what a consumer is doing. Parking puts it last in line.
    pub fn set(&mut self, id: ConsumerId, standing: Standing) {
        let Some(consumer) = self.consumers.get_mut(&id) else { return };
        let before = std::mem::replace(&mut consumer.standing, standing);
        let priority = consumer.priority;
        if before != standing && self.may_take(id) {
            self.uncount(id, priority, before);
            self.count(id, priority, standing);
        }
    }

    /// What a consumer is doing, and its priority.
    pub(super) fn standing(&self, id: ConsumerId) -> Option<(i64, Standing)> {
        self.consumers.get(&id).map(|consumer| (consumer.priority, consumer.standing))
    }

    /// Counts a consumer in its level, last in line if it is parked.
    pub(super) fn count(&mut self, id: ConsumerId, priority: i64, standing: Standing) {
        let Some(at) = self.level_index(priority) else { return };
        match standing {
            Standing::Parked => self.levels[at].parked.push_back(id),
            Standing::Running => self.levels[at].running += 1,
            Standing::Blocked => {}
        }
    }

    /// The opposite of [`Self::count`].
    pub(super) fn uncount(&mut self, id: ConsumerId, priority: i64, standing: Standing) {
        let Some(at) = self.level_index(priority) else { return };
        match standing {
            Standing::Parked => self.levels[at].parked.retain(|&other| other != id),
            Standing::Running => self.levels[at].running -= 1,
            Standing::Blocked => {}
        }
    }

    /// One consumer is to take whatever its standing was; how to wake it.
    pub fn run(&mut self, id: ConsumerId) -> Option<W> {
        self.set(id, Standing::Running);
        self.consumers.get(&id).map(|consumer| consumer.waker.clone())
    }

    /// How many consumers share the messages with this one, itself included; 0 when it must leave them to a
    /// consumer of higher priority.
    pub fn sharers(&self, id: ConsumerId) -> usize {
        let Some(consumer) = self.consumers.get(&id) else { return 0 };
        if !self.may_take(id) {
            return 0;
        }
        for level in &self.levels {
            let active = level.parked.len() + level.running;
            if level.priority == consumer.priority {
                return active.max(1);
            }
            if active > 0 {
                return 0;
            }
        }
        0
    }

    /// Whether any consumer could take messages now.
    pub fn any_active(&self) -> bool {
        self.levels.iter().any(|level| level.running > 0 || !level.parked.is_empty())
    }

    /// Wakes up to `messages` parked consumers of the highest priority that has an active one.
    pub fn wake(&mut self, messages: u64, wakes: &mut Vec<W>) {
        let Some(level) = self.levels.iter_mut().find(|l| l.running > 0 || !l.parked.is_empty()) else {
            return;
        };
        for _ in 0..messages.min(level.parked.len() as u64) {
            let Some(id) = level.parked.pop_front() else { return };
            level.running += 1;
            if let Some(consumer) = self.consumers.get_mut(&id) {
                consumer.standing = Standing::Running;
                wakes.push(consumer.waker.clone());
            }
        }
    }

    /// Wakes a consumer if it is parked.
    pub(super) fn wake_one(&mut self, id: ConsumerId, wakes: &mut Vec<W>) {
        if self.may_take(id) && self.standing(id).is_some_and(|(_, standing)| standing == Standing::Parked) {
            wakes.extend(self.run(id));
        }
    }

    /// Wakes the first parked consumer of the highest priority that has an active one, among those that may be chosen.
    pub(super) fn wake_any(&mut self, may: impl Fn(ConsumerId) -> bool, wakes: &mut Vec<W>) {
        let active = self.levels.iter().find(|level| level.running > 0 || !level.parked.is_empty());
        let chosen = active.and_then(|level| level.parked.iter().copied().find(|&id| may(id)));
        if let Some(id) = chosen {
            wakes.extend(self.run(id));
        }
    }

    fn level_index(&self, priority: i64) -> Option<usize> {
        self.levels.binary_search_by(|level| priority.cmp(&level.priority)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn woken(roster: &mut Roster<u64>, messages: u64) -> Vec<u64> {
        let mut wakes = Vec::new();
        roster.wake(messages, &mut wakes);
        wakes
    }

    fn parked(priorities: &[i64]) -> Roster<u64> {
        let mut roster = Roster::default();
        for (id, &priority) in priorities.iter().enumerate() {
            roster.add(id as u64, id as u64, priority, false);
            roster.set(id as u64, Standing::Parked);
        }
        roster
    }

    #[test]
    fn single_messages_go_round() {
        let mut roster = parked(&[0, 0]);
        assert_eq!(woken(&mut roster, 1), [0]);
        roster.set(0, Standing::Parked);
        assert_eq!(woken(&mut roster, 1), [1]);
        roster.set(1, Standing::Parked);
        assert_eq!(woken(&mut roster, 1), [0]);
    }

    #[test]
    fn lower_priorities_wait_until_higher_ones_are_blocked() {
        let mut roster = parked(&[0, 5, -3]);
        assert_eq!(woken(&mut roster, 9), [1]);
        assert_eq!(woken(&mut roster, 9), [] as [u64; 0], "the higher one is running");
        assert_eq!((roster.sharers(0), roster.sharers(1)), (0, 1));
        roster.set(1, Standing::Blocked);
        assert_eq!(woken(&mut roster, 9), [0]);
        roster.remove(0);
        assert_eq!(woken(&mut roster, 9), [2]);
    }

    #[test]
    fn removing_everyone_leaves_nothing() {
        let mut roster = parked(&[1, 1, 2]);
        for id in 0..3 {
            assert!(roster.remove(id));
        }
        assert!(roster.is_empty() && roster.levels.is_empty() && !roster.any_active());
        assert!(!roster.remove(0));
    }
}
