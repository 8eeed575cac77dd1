//! Power lost at any moment: what was reported durable is there, in order, and nothing else is but what was staged
//! next.

use super::*;
use posthouse_model::attempts::{AttemptRange, Attempts};

fn attempted(((first, last), [failed, acquired]): ((u64, u64), [u32; 2])) -> AttemptRange {
    AttemptRange { first, last, attempts: Attempts { failed, acquired } }
}

fn delayed((first, last, due_ms): (u64, u64, u64)) -> DelayRange {
    DelayRange { first, last, due_ms }
}

fn entry() -> impl Strategy<Value = Entry> {
    prop_oneof![
        6 => single(),
        1 => prop::collection::vec(single(), 1..5).prop_map(Entry::Group),
    ]
}

fn single() -> impl Strategy<Value = Entry> {
    let targets = prop::collection::vec((0..5u64, 0..1000u64), 0..4);
    prop_oneof![
        6 => (targets, 1..4u32, 0..1500usize).prop_map(|(targets, count, body)| {
            let targets = targets.into_iter().map(|(queue, seq)| (QueueId(queue), seq)).collect();
            Entry::Enqueue(targets, count, messages(count, body))
        }),
        2 => (0..5u64, prop::collection::vec((0..100u64, 0..100u64), 1..5))
            .prop_map(|(queue, ranges)| Entry::Settle(QueueId(queue), ranges)),
        1 => (0..5u64, prop::collection::vec(((0..1000u64, 0..1000u64), any::<[u32; 2]>()), 1..5))
            .prop_map(|(queue, ranges)| Entry::Attempts(QueueId(queue), ranges.into_iter().map(attempted).collect())),
        1 => (0..5u64, prop::collection::vec((0..1000u64, 0..1000u64, any::<u64>()), 1..5))
            .prop_map(|(queue, ranges)| Entry::Delays(QueueId(queue), ranges.into_iter().map(delayed).collect())),
        1 => (0..5u64).prop_map(|queue| Entry::Deleted(QueueId(queue))),
        1 => (1..4u32, 0..1500usize, 0..100u64).prop_map(|(count, body, first)| {
            let entered = Entry::Enqueue(vec![(QueueId(1), first)], count, messages(count, body));
            let left = Entry::Settle(QueueId(2), vec![(first, first), (first + 2, first + 9)]);
            Entry::Move(Box::new(entered), Box::new(left))
        }),
        // Larger than a file.
        1 => (0..5u64).prop_map(|queue| Entry::Enqueue(vec![(QueueId(queue), 0)], 1, messages(1, 20_000))),
    ]
}

/// How a run of the broker ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// In good order.
    Closed,
    /// By a loss of power, whatever the writer thread is doing.
    Crash,
    /// The same, after the `n`th sync from the start of the run failed.
    FailedSync(u64),
    /// The same, after the `n`th write failed half way.
    FailedWrite(u64),
    /// By the `n`th sync's failure; the power stays on.
    Stopped(u64),
}

/// How a record is staged.
#[derive(Clone, Copy, Debug)]
enum Way {
    Copied,
    Shared,
    Relaxed,
}

#[derive(Clone, Debug)]
struct Run {
    /// Each with whether everything is synced after it.
    entries: Vec<(Entry, Way, bool)>,
    /// Releases everything durable after so many records.
    release_after: Option<usize>,
    end: End,
}

fn run() -> impl Strategy<Value = Run> {
    let end = prop_oneof![
        Just(End::Closed),
        Just(End::Crash),
        (1..30u64).prop_map(End::FailedSync),
        (1..30u64).prop_map(End::FailedWrite),
        (1..30u64).prop_map(End::Stopped),
    ];
    let way = prop_oneof![Just(Way::Copied), Just(Way::Shared), Just(Way::Relaxed)];
    let entries = prop::collection::vec((entry(), way, prop::bool::weighted(0.3)), 0..40);
    (entries, prop::option::of(0..40usize), end).prop_map(|(entries, release_after, end)| Run {
        entries,
        release_after,
        end,
    })
}

/// What must be on the disk: all records from `start` on, with their ends; those that end at or before `durable`
/// are promised.
struct Model {
    start: Lsn,
    durable: Lsn,
    staged: Vec<(Lsn, Entry)>,
}

impl Model {
    fn check(&mut self, report: &ReplayReport, replayed: &[(Lsn, Entry)]) {
        assert_eq!(report.damage, [], "nothing was damaged");
        let promised = self.staged.iter().filter(|(end, _)| *end <= self.durable).count();
        assert!(replayed.len() >= promised, "{} of {promised} promised records", replayed.len());
        assert!(replayed.len() <= self.staged.len(), "records from nowhere");
        self.staged.truncate(replayed.len());
        for (at, ((end, staged), (_, found))) in self.staged.iter().zip(replayed).enumerate() {
            assert_eq!(staged, found, "record {at}");
            let next = replayed.get(at + 1).map_or(report.end, |next| next.0);
            assert_eq!(*end, next, "record {at} ends where the next one starts");
        }
        assert_eq!(report.end, self.staged.last().map_or(self.start, |last| last.0));
    }

    fn release(&mut self, wal: &Wal) {
        self.start = self.start.max(wal.durable());
        self.staged.retain(|(end, _)| *end > self.start);
        wal.release_below(self.start);
    }
}

fn check(seed: u64, runs: &[Run]) {
    let mut disk = SimDisk::new(seed);
    let mut model = Model { start: 0, durable: 0, staged: Vec::new() };
    for run in runs {
        let (wal, report, replayed, _events) = open(&disk, small(), model.start).unwrap();
        model.check(&report, &replayed);
        // What was read back may be acted upon, whether or not it was durable when the run before ended.
        model.durable = report.end;
        match run.end {
            End::FailedSync(nth) | End::Stopped(nth) => disk.fail(Op::Sync, nth, Fault::Io),
            End::FailedWrite(nth) => disk.fail(Op::Write, nth, Fault::Io),
            End::Closed | End::Crash => {}
        }
        for (at, (entry, way, sync)) in run.entries.iter().enumerate() {
            let end = match way {
                Way::Relaxed => entry.stage_relaxed(&wal),
                Way::Copied | Way::Shared => entry.stage(&wal, matches!(way, Way::Shared)),
            };
            model.staged.push((end, entry.clone()));
            if *sync && wal.sync().is_err() {
                break;
            }
            if run.release_after == Some(at) {
                model.release(&wal);
            }
        }
        match run.end {
            End::Closed => wal.close().unwrap(),
            End::Crash => {}
            // The fault may lie ahead still; then this is one more clean end.
            End::FailedSync(_) | End::FailedWrite(_) | End::Stopped(_) => drop(wal.sync()),
        }
        model.durable = wal.durable();
        let after = if matches!(run.end, End::Stopped(_)) { disk.clone() } else { disk.crash() };
        drop(wal);
        after.heal();
        disk = after;
    }
    let (_wal, report, replayed, _events) = open(&disk, small(), model.start).unwrap();
    model.check(&report, &replayed);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_durable_survives_and_nothing_is_invented(
        seed in any::<u64>(),
        runs in prop::collection::vec(run(), 1..5),
    ) {
        check(seed, &runs);
    }
}

#[test]
fn a_torn_tail_is_cut_and_stays_cut() {
    let (mut torn, mut kept) = (0, 0);
    for seed in 0..40 {
        let disk = SimDisk::new(seed);
        let (wal, _, _, _events) = open(&disk, small(), 0).unwrap();
        while wal.file_bytes() < 2 * 16 * 1024 {
            std::thread::yield_now(); // until the keeper is done: the fault is meant for the writer
        }
        let promised = enqueue(1, 0, 1, 500).stage(&wal, false);
        wal.sync().unwrap();
        disk.fail(Op::Sync, 1, Fault::Io);
        // Several sectors, which may be torn, or one, which may not.
        enqueue(1, 1, 1, if seed % 2 == 0 { 3000 } else { 100 }).stage(&wal, false);
        wal.sync().unwrap_err();
        let disk = disk.crash();
        let (wal, report, entries, _events) = open(&disk, small(), 0).unwrap();
        assert_eq!(report.damage, []);
        assert_eq!(entries[0].1, enqueue(1, 0, 1, 500));
        if let Some(tail) = &report.torn {
            assert_eq!((entries.len(), tail.lsn, report.end), (1, promised, promised));
            torn += 1;
        } else {
            kept += usize::from(entries.len() == 2);
        }
        // What comes after the cut takes the same positions; the next start must not mistake it for damage.
        let end = enqueue(1, 9, 1, 100).stage(&wal, false);
        wal.sync().unwrap();
        let survivors = entries.len();
        let (_wal, report, entries, _events) = open(&disk.crash(), small(), 0).unwrap();
        assert_eq!((report.damage.len(), report.torn, report.end), (0, None, end));
        assert_eq!((entries.len(), &entries[survivors].1), (survivors + 1, &enqueue(1, 9, 1, 100)));
    }
    assert!(torn > 0 && kept > 0, "{torn} {kept}");
}

#[test]
fn what_was_read_back_is_durable_before_anybody_hears_of_it() {
    for seed in 0..20 {
        let disk = SimDisk::new(seed);
        let (wal, _, _, _events) = open(&disk, small(), 0).unwrap();
        while wal.file_bytes() < 2 * 16 * 1024 {
            std::thread::yield_now(); // until the keeper is done: the fault is meant for the writer
        }
        disk.fail(Op::Sync, 1, Fault::Io);
        enqueue(1, 0, 2, 2000).stage(&wal, false);
        wal.sync().unwrap_err();
        drop(wal);
        let (_wal, report, entries, _events) = open(&disk, small(), 0).unwrap();
        assert_eq!((report.damage.len(), entries.len()), (0, 1), "the power stayed on");
        let (_wal, _, after_power_loss, _events) = open(&disk.crash(), small(), 0).unwrap();
        assert_eq!(after_power_loss, entries, "seed {seed}");
    }
}
