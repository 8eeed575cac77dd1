//! Messages that are due and have no room where they go.
//!
//! They stand in one line for each queue that is full, in the order in which they were due, and are tried when it has
//! room; what is due later for such a queue joins the line. Those that no room will help stand apart. All of them are
//! looked at again when routes have changed: they may go elsewhere by then.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use posthouse_model::ids::QueueId;

use super::Waiting;
use crate::machine::leaving::stalled::Obstacle;

/// How long those that stand rest at least before all are looked at again.
const REVIEW_MS_MIN: u64 = 1_000;

/// For so many of them a millisecond is added: looking at one takes some microseconds.
const REVIEWED_PER_MS: u64 = 10;

/// After so long those that stand apart are tried though no route has changed: a limit may have.
const APART_MS: u64 = 60_000;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Lines {
    behind: BTreeMap<QueueId, VecDeque<Waiting>>,
    apart: Vec<Waiting>,
    /// Queues with a line of which somebody has said that they have room.
    roomy: BTreeSet<QueueId>,
    messages: usize,
    /// What the routes were when the first of them was looked at, or all were last.
    epoch: u64,
    reviewed_ms: u64,
}

impl Lines {
    /// How many messages stand in lines.
    pub(super) fn messages(&self) -> usize {
        self.messages
    }

    /// The queues with a line.
    pub(super) fn queues(&self) -> impl Iterator<Item = QueueId> + '_ {
        self.behind.keys().copied()
    }

    /// Whether messages stand behind that queue.
    pub(super) fn has(&self, queue: QueueId) -> bool {
        self.behind.contains_key(&queue)
    }

    /// A message cannot go on, as was found with routes of that epoch.
    pub(super) fn stand(&mut self, waiting: Waiting, obstacle: Obstacle, epoch: u64, now_ms: u64) {
        if self.messages == 0 {
            (self.epoch, self.reviewed_ms) = (epoch, now_ms);
        }
        match obstacle {
            Obstacle::Full(queue) => self.behind.entry(queue).or_default().push_back(waiting),
            Obstacle::NoPlace | Obstacle::Unreadable => self.apart.push(waiting),
        }
        self.messages += 1;
    }

    /// These, which were taken from the line, are first in it again, in this order.
    pub(super) fn stand_first(&mut self, queue: QueueId, messages: &[Waiting]) {
        if messages.is_empty() {
            return;
        }
        let line = self.behind.entry(queue).or_default();
        messages.iter().rev().for_each(|waiting| line.push_front(*waiting));
        self.messages += messages.len();
    }

    /// A queue has room; whether anybody stands there.
    pub(super) fn has_room(&mut self, queue: QueueId) -> bool {
        self.has(queue) && self.roomy.insert(queue)
    }

    /// A queue that has room for those in its line.
    pub(super) fn next_roomy(&mut self) -> Option<QueueId> {
        self.roomy.pop_first()
    }

    /// Takes the first messages of a line, at most so many.
    pub(super) fn take(&mut self, queue: QueueId, most: usize) -> Vec<Waiting> {
        let Some(line) = self.behind.get_mut(&queue) else { return Vec::new() };
        let taken: Vec<_> = line.drain(..most.min(line.len())).collect();
        if line.is_empty() {
            self.behind.remove(&queue);
        }
        self.messages -= taken.len();
        taken
    }

    /// Takes all, when it is time to look at them again.
    pub(super) fn take_for_review(&mut self, epoch: u64, now_ms: u64) -> Vec<Waiting> {
        let rested_ms = now_ms.abs_diff(self.reviewed_ms);
        let pause_ms = REVIEW_MS_MIN + self.messages as u64 / REVIEWED_PER_MS;
        let is_time = (epoch != self.epoch || !self.apart.is_empty() && rested_ms >= APART_MS)
            && rested_ms >= pause_ms
            && self.messages > 0;
        if !is_time {
            return Vec::new();
        }
        (self.epoch, self.reviewed_ms, self.messages) = (epoch, now_ms, 0);
        self.roomy.clear();
        let behind = std::mem::take(&mut self.behind).into_values().flatten();
        behind.chain(std::mem::take(&mut self.apart)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: QueueId = QueueId(1);
    const B: QueueId = QueueId(2);

    fn waiting(id: u64) -> Waiting {
        Waiting { due_ms: 7, id, seq: id }
    }

    fn ids(taken: &[Waiting]) -> Vec<u64> {
        taken.iter().map(|waiting| waiting.id).collect()
    }

    /// Numbers stand in turn behind the two queues.
    fn lines(messages: u64) -> Lines {
        let mut lines = Lines::default();
        for id in 0..messages {
            let queue = if id % 2 == 0 { A } else { B };
            lines.stand(waiting(id), Obstacle::Full(queue), 1, 0);
        }
        lines
    }

    #[test]
    fn each_line_keeps_its_order_and_is_tried_when_there_is_room() {
        let mut lines = lines(8);
        assert_eq!(lines.next_roomy(), None);
        assert!(lines.has_room(A) && !lines.has_room(A) && !lines.has_room(QueueId(3)));
        assert_eq!((lines.next_roomy(), lines.next_roomy()), (Some(A), None));
        assert_eq!(ids(&lines.take(A, 3)), [0, 2, 4]);
        lines.stand_first(A, &[waiting(2), waiting(4)]);
        assert_eq!((lines.messages(), lines.queues().collect::<Vec<_>>()), (7, vec![A, B]));
        assert_eq!(ids(&lines.take(A, 9)), [2, 4, 6]);
        lines.stand_first(A, &[]);
        assert_eq!((lines.has(A), lines.has_room(A)), (false, false), "nobody stands there");
        assert_eq!((ids(&lines.take(B, 9)), lines.messages()), (vec![1, 3, 5, 7], 0));
    }

    #[test]
    fn all_are_looked_at_again_when_routes_have_changed_but_not_all_the_time() {
        let mut lines = lines(60_000);
        assert!(lines.take_for_review(1, 1_000_000).is_empty(), "nothing has changed");
        assert!(lines.take_for_review(2, 6_999).is_empty());
        lines.has_room(B);
        assert_eq!(lines.take_for_review(2, 7_000).len(), 60_000);
        assert_eq!((lines.messages(), lines.next_roomy()), (0, None));
        lines.stand(waiting(1), Obstacle::Full(A), 2, 7_500);
        assert!(lines.take_for_review(2, 9_000).is_empty());
        assert_eq!(ids(&lines.take_for_review(3, 9_000)), [1]);
    }

    #[test]
    fn those_that_no_room_helps_are_tried_from_time_to_time() {
        let mut lines = Lines::default();
        lines.stand(waiting(1), Obstacle::NoPlace, 1, 500);
        assert_eq!((lines.queues().count(), lines.messages()), (0, 1));
        assert!(lines.take_for_review(1, 60_499).is_empty());
        assert_eq!(ids(&lines.take_for_review(1, 60_500)), [1]);
    }
}
