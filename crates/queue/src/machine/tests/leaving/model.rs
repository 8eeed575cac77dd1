//! Messages that leave, against a list of each that says where it is.

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Push(u32, bool),
    Take(u32),
    Settle(usize),
    Reject(usize, usize),
    Requeue(usize),
    Purge,
    Spill,
    Leave(usize),
    Moved(u64),
    Stalled(u64),
    Retry(u64, usize),
    Dropped,
    Claim(Seq, Seq, u64),
    Finish(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => ((1u32..30), any::<bool>()).prop_map(|(count, shared)| Step::Push(count, shared)),
        4 => (1u32..40).prop_map(Step::Take),
        2 => (0usize..40).prop_map(Step::Settle),
        6 => ((0usize..40), (1usize..20)).prop_map(|(at, count)| Step::Reject(at, count)),
        2 => (0usize..40).prop_map(Step::Requeue),
        1 => Just(Step::Purge),
        2 => Just(Step::Spill),
        4 => (1usize..3000).prop_map(Step::Leave),
        3 => (1u64..9).prop_map(Step::Moved),
        2 => (0u64..3).prop_map(Step::Stalled),
        2 => ((0u64..3), (1usize..3000)).prop_map(|(line, most)| Step::Retry(line, most)),
        1 => Just(Step::Dropped),
        2 => ((0u64..300), (0u64..20), (1u64..9)).prop_map(|(first, more, log)| Step::Claim(first, more, log)),
        2 => (1u64..9).prop_map(Step::Finish),
    ]
}

/// A queue as lists of numbers.
#[derive(Default)]
struct Plain {
    ready: Vec<Seq>,
    unacked: Vec<Seq>,
    waiting: Vec<Seq>,
    /// The numbers in the mover's hands, and the lines they come from.
    in_hand: Vec<(Line, Seq)>,
    /// By line, the first one being that of those which stand apart.
    stalled: [Vec<Seq>; 3],
    moved: Vec<(u64, Seq)>,
    log: u64,
    max_length: usize,
}

impl Plain {
    fn enforce(&mut self) {
        let excess = self.ready.len().saturating_sub(self.max_length);
        self.waiting.extend(self.ready.drain(..excess));
    }

    fn unsettled(&self) -> Vec<Seq> {
        let moved = self.moved.iter().map(|&(_, seq)| seq);
        let mut all: Vec<Seq> = [&self.ready, &self.unacked, &self.waiting]
            .into_iter()
            .chain(&self.stalled)
            .flatten()
            .copied()
            .chain(self.in_hand.iter().map(|&(_, seq)| seq))
            .chain(moved)
            .collect();
        all.sort_unstable();
        all
    }
}

/// Does a step to both; the runs that the mover has in its hands are the queue's side of `in_hand`.
fn act(
    step: &Step,
    queue: &mut TestQueue,
    plain: &mut Plain,
    hand: &mut Vec<(Line, Leaving)>,
    disk: &mut Disk,
) {
    match *step {
        Step::Push(count, shared) => {
            let first = queue.next_seq();
            plain.ready.extend(first..first + Seq::from(count));
            plain.enforce();
            match shared {
                true => push(queue, count),
                false => queue.push_copied(
                    chunk(first, count).bytes(),
                    count,
                    Persistence::Persistent,
                    0,
                    &mut Vec::new(),
                ),
            }
        }
        Step::Take(count) => {
            let expected: Vec<Seq> = plain.ready.drain(..plain.ready.len().min(count as usize)).collect();
            let got: Vec<Seq> = take_all(queue, disk, count, false).into_iter().map(|(seq, _)| seq).collect();
            assert_eq!(got, expected);
            plain.unacked.extend(expected);
        }
        Step::Settle(at) | Step::Requeue(at) => {
            let Some(&seq) = plain.unacked.get(at) else { return };
            plain.unacked.remove(at);
            if matches!(step, Step::Settle(_)) {
                assert_eq!(queue.settle(seq, seq).count, 1);
            } else {
                let at = plain.ready.partition_point(|&other| other < seq);
                plain.ready.insert(at, seq);
                plain.enforce();
                queue.requeue(seq, seq, &mut Vec::new());
            }
        }
        Step::Reject(at, count) => {
            let end = plain.unacked.len().min(at + count);
            for seq in plain.unacked.drain(at.min(end)..end) {
                queue.reject(seq, seq, Reason::Rejected);
                plain.waiting.push(seq);
            }
        }
        Step::Purge => {
            let mut ranges = Vec::new();
            assert_eq!(queue.purge(&mut ranges).count as usize, plain.ready.len());
            // The log is told of these: nothing else may be among them.
            let purged = ranges.iter().flat_map(|&(first, last)| first..=last);
            let unsettled = plain.unsettled();
            let purged: Vec<Seq> = purged.filter(|seq| unsettled.contains(seq)).collect();
            assert_eq!(purged, std::mem::take(&mut plain.ready));
        }
        Step::Spill => {
            let mut writes = Vec::new();
            queue.plan_spill(0, usize::MAX, &mut writes);
            for write in writes {
                disk.next += 1;
                disk.stored.insert(disk.next, write.chunk);
                queue.written(write.first_seq, disk.next, true);
            }
        }
        Step::Leave(most) => {
            let runs = leave(queue, most);
            let taken = expand(&runs);
            assert_eq!(taken, plain.waiting.drain(..taken.len()).collect::<Vec<_>>());
            assert!(!taken.is_empty() || plain.waiting.is_empty());
            plain.in_hand.extend(taken.into_iter().map(|seq| (Line::New, seq)));
            hand.extend(runs.into_iter().map(|run| (Line::New, run)));
        }
        Step::Moved(bytes) if !hand.is_empty() => {
            let (_, run) = hand.remove(0);
            plain.log += bytes;
            queue.moved(run.first, run.last, plain.log);
            let moved = plain.in_hand.drain(..(run.last - run.first + 1) as usize);
            plain.moved.extend(moved.map(|(_, seq)| (plain.log, seq)));
        }
        Step::Stalled(line) if !hand.is_empty() => {
            let (from, run) = hand.remove(0);
            let obstacle = if line == 0 { Obstacle::NoPlace } else { Obstacle::Full(QueueId(line)) };
            let mut excess = Vec::new();
            queue.stall(from, &[(run, obstacle)], &mut excess);
            assert_eq!(excess, [], "that few are kept");
            let stalled: Vec<Seq> = plain.in_hand.drain(..run.count() as usize).map(|(_, seq)| seq).collect();
            let at =
                if line != 0 && obstacle.line() == from { 0 } else { plain.stalled[line as usize].len() };
            plain.stalled[line as usize].splice(at..at, stalled);
        }
        Step::Dropped if !hand.is_empty() => {
            let (_, run) = hand.remove(0);
            assert_eq!(queue.dropped(run.first, run.last).count, run.last - run.first + 1);
            plain.in_hand.drain(..(run.last - run.first + 1) as usize);
        }
        Step::Claim(first, more, bytes) => {
            let mut claimed = Vec::new();
            queue.claim(first, first + more, &mut claimed);
            let chosen = |seq: &Seq| (first..=first + more).contains(seq);
            let expected: Vec<Seq> = plain.ready.iter().copied().filter(chosen).collect();
            plain.ready.retain(|seq| !chosen(seq));
            let seqs = claimed.iter().flat_map(|&(first, last)| first..=last);
            assert_eq!(seqs.collect::<Vec<_>>(), expected);
            plain.log += bytes;
            for (first, last) in claimed {
                queue.moved(first, last, plain.log);
            }
            plain.moved.extend(expected.into_iter().map(|seq| (plain.log, seq)));
        }
        Step::Moved(_) | Step::Stalled(_) | Step::Dropped => {}
        Step::Retry(number, most) => {
            let line = if number == 0 { Line::Apart } else { Line::Behind(QueueId(number)) };
            let runs = leave_line(queue, line, most);
            let (taken, stalled) = (expand(&runs), &mut plain.stalled[number as usize]);
            assert_eq!(taken, stalled.drain(..taken.len()).collect::<Vec<_>>());
            assert_eq!(queue.has_in_line(line), !stalled.is_empty());
            plain.in_hand.extend(taken.into_iter().map(|seq| (line, seq)));
            hand.extend(runs.into_iter().map(|run| (line, run)));
        }
        Step::Finish(back) => {
            let durable = plain.log.saturating_sub(back);
            queue.finish_moves(durable);
            plain.moved.retain(|&(until, _)| until > durable);
        }
    }
}

proptest! {
    #[test]
    fn a_restart_finds_all_that_had_not_arrived(
        max_length in prop_oneof![Just(usize::MAX), 0usize..30],
        steps in prop::collection::vec(step(), 1..100),
    ) {
        let (mut queue, mut plain) = (TestQueue::default(), Plain { max_length, ..Plain::default() });
        let max_length_bytes = Some(u64::MAX);
        queue.set_settings(QueueSettings { max_length_bytes, ..with_dead_letters(Some(max_length as u64)) });
        let (mut hand, mut disk) = (Vec::new(), Disk::default());
        for step in &steps {
            act(step, &mut queue, &mut plain, &mut hand, &mut disk);
            prop_assert_eq!(queue.ready() as usize, plain.ready.len());
            prop_assert_eq!(queue.unacked() as usize, plain.unacked.len());
            let unsettled = plain.unsettled();
            let leaving = unsettled.len() - plain.ready.len() - plain.unacked.len();
            prop_assert_eq!(queue.leaving() as usize, leaving);
            prop_assert_eq!(queue.leaving_bytes() as usize, 8 * leaving);
            let stalled = plain.stalled.iter().map(Vec::len).sum::<usize>() as u64;
            prop_assert_eq!(queue.stalled(), (stalled, 8 * stalled));
            prop_assert_eq!(recovered(&mut queue), unsettled);
            prop_assert!(!queue.has_departed());
        }
    }
}
