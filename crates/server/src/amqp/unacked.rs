//! What a channel has handed out and not had settled, by delivery tag.
//!
//! Deliveries come in runs of consecutive messages, so what is outstanding is a short list of runs and not an
//! entry per message: acknowledging in order shrinks the first run, acknowledging in the middle splits one.

use std::collections::VecDeque;
use std::sync::Arc;

use posthouse_model::ids::Seq;
use posthouse_node::deadlines::NEVER_MS;
use posthouse_node::queue_handle::QueueHandle;
use posthouse_queue::machine::ranges::SeqRanges;

/// Consecutive deliveries of consecutive messages of one queue.
#[derive(Clone, Debug)]
pub(crate) struct Outstanding {
    /// The first delivery's tag.
    pub first_tag: u64,
    /// How many deliveries.
    pub count: u32,
    /// The first message's number.
    pub first_seq: Seq,
    /// Where they came from.
    pub queue: Arc<QueueHandle>,
    /// The consumer's slot in the session; none for `basic.get`.
    pub consumer: Option<u32>,
    /// When they must have been settled, by [`posthouse_node::deadlines`].
    pub due_ms: u64,
}

impl Outstanding {
    fn end_tag(&self) -> u64 {
        self.first_tag + u64::from(self.count)
    }

    /// The last message's number.
    pub(crate) fn last_seq(&self) -> Seq {
        self.first_seq + Seq::from(self.count) - 1
    }

    /// Cuts `count` deliveries off the front.
    fn split_front(&mut self, count: u32) -> Self {
        let front = Self { count, ..self.clone() };
        self.first_tag += u64::from(count);
        self.first_seq += Seq::from(count);
        self.count -= count;
        front
    }
}

/// Outstanding deliveries of a channel in order of tags.
#[derive(Debug, Default)]
pub(crate) struct Unacked {
    runs: VecDeque<Outstanding>,
    last_tag: u64,
    /// Tags of deliveries that were taken back because they were not settled in time.
    overdue: Option<Box<SeqRanges>>,
}

/// Ranges of overdue tags that are remembered.
const OVERDUE_MAX: usize = 1024;

impl Unacked {
    /// Takes `count` delivery tags and returns the first.
    pub(crate) fn next_tags(&mut self, count: u32) -> u64 {
        let first = self.last_tag + 1;
        self.last_tag += u64::from(count);
        first
    }

    /// How many deliveries are outstanding.
    pub(crate) fn count(&self) -> u64 {
        self.runs.iter().map(|run| u64::from(run.count)).sum()
    }

    /// Notes deliveries whose tags follow all others.
    pub(crate) fn push(&mut self, run: Outstanding) {
        if let Some(last) = self.runs.back_mut()
            && last.end_tag() == run.first_tag
            && last.last_seq() + 1 == run.first_seq
            && last.consumer == run.consumer
            && last.due_ms == run.due_ms
            && Arc::ptr_eq(&last.queue, &run.queue)
            && let Some(count) = last.count.checked_add(run.count)
        {
            last.count = count;
            return;
        }
        self.runs.push_back(run);
    }

    /// Takes out the delivery with this tag.
    pub(crate) fn take_one(&mut self, tag: u64) -> Option<Outstanding> {
        let index = self.runs.partition_point(|run| run.end_tag() <= tag);
        let run = self.runs.get_mut(index).filter(|run| run.first_tag <= tag)?;
        let before = (tag - run.first_tag) as u32;
        if run.count == 1 {
            return self.runs.remove(index);
        }
        if before == 0 {
            return Some(run.split_front(1));
        }
        let front = run.split_front(before);
        let one = run.split_front(1);
        if run.count == 0 {
            *run = front;
        } else {
            self.runs.insert(index, front);
        }
        Some(one)
    }

    /// Takes out every delivery up to and including this tag, run by run; 0 stands for all. False, and nothing is
    /// taken, when the tag itself is not outstanding.
    pub(crate) fn take_through(&mut self, tag: u64, mut taken: impl FnMut(Outstanding)) -> bool {
        let through = if tag == 0 { self.last_tag } else { tag };
        if tag != 0 && !self.is_outstanding(tag) && !self.was_overdue(tag) {
            return false;
        }
        if let Some(overdue) = &mut self.overdue {
            overdue.take_within(0, through);
        }
        while let Some(run) = self.runs.front_mut() {
            if run.first_tag > through {
                break;
            }
            let count = run.end_tag().min(through.saturating_add(1)) - run.first_tag;
            if count == u64::from(run.count) {
                self.runs.pop_front().into_iter().for_each(&mut taken);
            } else {
                taken(run.split_front(count as u32));
            }
        }
        true
    }

    /// Takes out every delivery that was due by `now_ms`; when the next one is due. Settling one of them later is no
    /// error and changes nothing.
    pub(crate) fn take_overdue(&mut self, now_ms: u64, mut taken: impl FnMut(Outstanding)) -> u64 {
        let mut next_ms = NEVER_MS;
        if self.runs.iter().all(|run| run.due_ms > now_ms) {
            return self.runs.iter().map(|run| run.due_ms).min().unwrap_or(NEVER_MS);
        }
        for run in std::mem::take(&mut self.runs) {
            if run.due_ms > now_ms {
                next_ms = next_ms.min(run.due_ms);
                self.runs.push_back(run);
                continue;
            }
            let overdue = self.overdue.get_or_insert_default();
            overdue.insert(run.first_tag, run.end_tag() - 1);
            if overdue.iter().count() > OVERDUE_MAX
                && let Some((first, last)) = overdue.first()
            {
                overdue.drop_first(last - first + 1);
            }
            taken(run);
        }
        next_ms
    }

    /// Whether a delivery was taken back because it was not settled in time, and not settled since.
    pub(crate) fn settle_overdue(&mut self, tag: u64) -> bool {
        self.overdue.as_mut().is_some_and(|overdue| overdue.take_within(tag, tag) > 0)
    }

    fn was_overdue(&self, tag: u64) -> bool {
        self.overdue.as_ref().is_some_and(|overdue| overdue.within(tag, tag).next().is_some())
    }

    fn is_outstanding(&self, tag: u64) -> bool {
        let index = self.runs.partition_point(|run| run.end_tag() <= tag);
        self.runs.get(index).is_some_and(|run| run.first_tag <= tag)
    }

    /// A consumer has ended: its slot may be another's soon. Its deliveries stay outstanding, as nobody's; how many
    /// they are.
    pub(crate) fn forget_consumer(&mut self, slot: u32) -> u32 {
        let mut count = 0;
        for run in self.runs.iter_mut().filter(|run| run.consumer == Some(slot)) {
            run.consumer = None;
            count += run.count;
        }
        count
    }

    /// Puts back what a transaction held, in order of tags.
    pub(crate) fn put_back(&mut self, runs: Vec<Outstanding>) {
        for run in runs {
            let index = self.runs.partition_point(|other| other.first_tag < run.first_tag);
            self.runs.insert(index, run);
        }
    }
}

#[cfg(test)]
mod tests {
    use posthouse_node::queue_handle::testing::queue;

    use super::*;

    fn unacked(counts: &[u32]) -> Unacked {
        let queue = queue();
        let mut unacked = Unacked::default();
        for &count in counts {
            let first_tag = unacked.next_tags(count);
            // A gap in the numbers keeps the runs apart.
            let first_seq = first_tag * 10;
            unacked.push(Outstanding {
                first_tag,
                count,
                first_seq,
                queue: queue.clone(),
                consumer: None,
                due_ms: NEVER_MS,
            });
        }
        unacked
    }

    #[test]
    fn neighbours_become_one_run() {
        let queue = queue();
        let mut unacked = Unacked::default();
        for first_seq in [5, 7] {
            let first_tag = unacked.next_tags(2);
            unacked.push(Outstanding {
                first_tag,
                count: 2,
                first_seq,
                queue: queue.clone(),
                consumer: None,
                due_ms: NEVER_MS,
            });
        }
        assert_eq!((unacked.runs.len(), unacked.count()), (1, 4));
    }

    #[test]
    fn a_run_is_split_around_a_single_tag() {
        let mut unacked = unacked(&[5]);
        assert_eq!(unacked.take_one(3).unwrap().first_seq, 12);
        assert!(unacked.take_one(3).is_none(), "taken twice");
        assert_eq!(unacked.take_one(1).unwrap().first_seq, 10);
        assert_eq!(unacked.take_one(5).unwrap().first_seq, 14);
        assert_eq!(unacked.count(), 2);
        assert_eq!(unacked.take_one(2).unwrap().first_seq, 11);
        assert_eq!(unacked.take_one(4).unwrap().first_seq, 13);
        assert!(unacked.take_one(4).is_none() && unacked.runs.is_empty());
    }

    #[test]
    fn through_a_tag_takes_whole_runs_and_a_part() {
        let mut unacked = unacked(&[2, 3]);
        let mut taken = Vec::new();
        assert!(unacked.take_through(3, |run| taken.push((run.first_tag, run.count))));
        assert_eq!((taken, unacked.count()), (vec![(1, 2), (3, 1)], 2));
        assert!(!unacked.take_through(3, |_| panic!("3 is not outstanding any more")));
        assert!(!unacked.take_through(6, |_| panic!("6 was never given out")));
        assert!(unacked.take_through(0, |run| assert_eq!((run.first_tag, run.count), (4, 2))));
        assert!(unacked.take_through(0, |_| panic!("nothing is left")), "0 needs nothing to be there");
    }

    #[test]
    fn what_is_put_back_can_be_taken_again() {
        let mut unacked = unacked(&[4]);
        let runs = vec![unacked.take_one(2).unwrap()];
        unacked.put_back(runs);
        assert_eq!(unacked.count(), 4);
        for tag in 1..=4 {
            assert!(unacked.take_one(tag).is_some(), "tag {tag}");
        }
    }

    #[test]
    fn overdue_runs_leave_and_their_tags_are_known() {
        let queue = queue();
        let mut unacked = Unacked::default();
        for (count, due_ms) in [(2, 10), (3, NEVER_MS), (2, 20), (1, 10)] {
            let first_tag = unacked.next_tags(count);
            let (first_seq, queue, consumer) = (first_tag, queue.clone(), None);
            unacked.push(Outstanding { first_tag, count, first_seq, queue, consumer, due_ms });
        }
        assert_eq!(unacked.runs.len(), 4, "due at other times");
        let mut taken = Vec::new();
        assert_eq!(unacked.take_overdue(9, |_| panic!("none is due")), 10);
        assert_eq!(unacked.take_overdue(10, |run| taken.push((run.first_tag, run.count))), 20);
        assert_eq!((taken.as_slice(), unacked.count()), (&[(1, 2), (8, 1)][..], 5));
        assert!(unacked.take_one(1).is_none() && unacked.settle_overdue(1) && !unacked.settle_overdue(1));
        assert!(!unacked.settle_overdue(3) && unacked.take_one(3).is_some(), "an outstanding one");
        let mut through = Vec::new();
        assert!(unacked.take_through(8, |run| through.push(run.first_tag)), "it was handed out");
        assert_eq!(through, [4, 6]);
        assert!(!unacked.take_through(8, |_| panic!("nothing is left")), "settled twice");
        assert_eq!(unacked.take_overdue(u64::MAX - 1, |_| panic!("nothing is left")), NEVER_MS);
    }

    #[test]
    fn overdue_tags_are_remembered_within_bounds() {
        let queue = queue();
        let mut unacked = Unacked::default();
        for _ in 0..OVERDUE_MAX + 10 {
            // Every other one is due, so that the ranges do not join.
            for due_ms in [5, NEVER_MS] {
                let first_tag = unacked.next_tags(1);
                let queue = queue.clone();
                unacked.push(Outstanding {
                    first_tag,
                    count: 1,
                    first_seq: first_tag,
                    queue,
                    consumer: None,
                    due_ms,
                });
            }
        }
        unacked.take_overdue(5, drop);
        assert!(!unacked.settle_overdue(1) && unacked.settle_overdue(21) && unacked.settle_overdue(2_001));
        assert_eq!(unacked.overdue.unwrap().iter().count(), OVERDUE_MAX - 2);
    }
}
