mod full_disk;
mod owner;
mod presence;
mod rewriting;
mod sharing;

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::disk::sim::{Fault, Op, SimDisk};
use crate::segment::Class;
use crate::wal::{Payload, Shortage};
use owner::Owner;
use posthouse_model::chunk::ChunkBuilder;
use posthouse_model::ids::first_of_level;

const DIR: &str = "/data";

struct NoEvents;
impl WalEvents for NoEvents {
    fn fatal(&self, _: &StorageError) {}
    fn shortage(&self, _: Option<Shortage>) {}
    fn checkpoint_wanted(&self, _: posthouse_model::ids::Lsn) {}
    fn drained(&self) {}
}

/// Everything small, so that files roll, recycle and are rewritten all the time.
fn options() -> StorageOptions {
    let wal = WalOptions {
        file_bytes: 16 << 10,
        ring_files: 4,
        reserve_files: 1,
        max_files: 1000,
        batch_bytes: 4 << 10,
        settle_delay: Duration::ZERO,
        retry: Duration::from_millis(1),
        salt_seed: 7,
        ..WalOptions::default()
    };
    StorageOptions { wal, replay_bytes: 20 << 10, segment_bytes: 8 << 10, shared_bytes: 2 << 10 }
}

fn open(disk: &SimDisk) -> Result<(MessageStore, Recovered), StorageError> {
    MessageStore::open(Arc::new(disk.clone()), Path::new(DIR), options(), Arc::new(NoEvents))
}

fn start(disk: &SimDisk, before: Option<&Owner>) -> (Owner, Recovered) {
    let (store, recovered) = open(disk).unwrap();
    assert_eq!(recovered.damages.len(), 0, "{:?}", recovered.damages);
    store.begin().unwrap();
    store.wal().keep_ahead();
    (Owner::new(store, &recovered, before), recovered)
}

fn new_disk(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    disk.create_dir_all(Path::new(DIR)).unwrap();
    disk
}

#[derive(Clone, Debug)]
enum Command {
    Enqueue { queue: u64, fan_out: bool, count: u32, bytes: usize, gap: u64 },
    Settle { queue: u64, skip: usize, count: usize },
    Move { from: u64, to: u64, skip: usize, count: usize },
    Note { queue: u64, key: u8, value: Option<u32> },
    GiveBack { queue: u64, skip: usize, count: usize },
    Spill { queue: u64 },
    Purge { queue: u64 },
    Delete { queue: u64 },
    Sync,
    Checkpoint,
    Crash,
    Restart,
}

fn command() -> impl Strategy<Value = Command> {
    let queue = 0u64..4;
    prop_oneof![
        8 => (queue.clone(), any::<bool>(), 1u32..20, 0usize..600, 0u64..3).prop_map(
            |(queue, fan_out, count, bytes, gap)| Command::Enqueue { queue, fan_out, count, bytes, gap }),
        6 => (queue.clone(), 0usize..10, 1usize..30)
            .prop_map(|(queue, skip, count)| Command::Settle { queue, skip, count }),
        6 => (queue.clone(), queue.clone(), 0usize..10, 1usize..30)
            .prop_map(|(from, to, skip, count)| Command::Move { from, to, skip, count }),
        3 => (queue.clone(), 0u8..3, proptest::option::of(any::<u32>()))
            .prop_map(|(queue, key, value)| Command::Note { queue, key, value }),
        3 => (queue.clone(), 0usize..10, 1usize..30)
            .prop_map(|(queue, skip, count)| Command::GiveBack { queue, skip, count }),
        2 => queue.clone().prop_map(|queue| Command::Spill { queue }),
        1 => queue.clone().prop_map(|queue| Command::Purge { queue }),
        1 => queue.prop_map(|queue| Command::Delete { queue }),
        3 => Just(Command::Sync),
        3 => Just(Command::Checkpoint),
        2 => Just(Command::Crash),
        1 => Just(Command::Restart),
    ]
}

/// Queue numbers are not used again: a deleted one is followed by another.
fn current(owner: &Owner, queue: u64) -> u64 {
    (0..).map(|generation| generation * 4 + queue).find(|id| !owner.was_deleted(*id)).unwrap()
}

/// Does it, and says whether the store still works.
fn act(owner: &Owner, command: &Command) -> Result<(), StorageError> {
    match *command {
        Command::Enqueue { queue, fan_out, count, bytes, gap } => {
            let mut targets = vec![current(owner, queue)];
            if fan_out {
                targets.push(current(owner, (queue + 1) % 4));
            }
            owner.enqueue(&targets, count, bytes, gap);
        }
        Command::Settle { queue, skip, count } => owner.settle(current(owner, queue), skip, count),
        Command::Move { from, to, skip, count } => {
            owner.transfer(current(owner, from), current(owner, to), skip, count)
        }
        Command::Note { queue, key, value } => owner.note(current(owner, queue), key, value),
        Command::GiveBack { queue, skip, count } => owner.give_back(current(owner, queue), skip, count),
        Command::Spill { queue } => owner.spill(current(owner, queue))?,
        Command::Purge { queue } => owner.purge(current(owner, queue)),
        Command::Delete { queue } => owner.delete(current(owner, queue)),
        Command::Sync => owner.store.wal().sync()?,
        Command::Checkpoint => {
            let report = owner.store.checkpoint(owner, false)?;
            assert_eq!(report.damages.len(), 0, "{:?}", report.damages);
        }
        Command::Crash | Command::Restart => {}
    }
    Ok(())
}

fn crash(disk: &mut SimDisk, owner: Owner) -> Owner {
    let durable = owner.store.wal().durable();
    *disk = disk.crash();
    let (reopened, _) = start(disk, Some(&owner));
    owner.check(durable, &reopened);
    reopened
}

type End = fn(&mut SimDisk, Owner) -> Owner;

/// The power stays on: the next process finds what this one wrote, synced or not.
fn end_process(disk: &mut SimDisk, owner: Owner) -> Owner {
    disk.heal();
    drop(owner.store.wal().close());
    let durable = owner.store.wal().durable();
    let (reopened, _) = start(disk, Some(&owner));
    owner.check(durable, &reopened);
    reopened
}

fn restart(disk: &SimDisk, owner: Owner) -> Owner {
    owner.store.close(&owner).unwrap();
    let (reopened, recovered) = start(disk, Some(&owner));
    assert!(recovered.clean);
    assert_eq!(recovered.replayed_records, 0);
    owner.check(u64::MAX, &reopened);
    assert_eq!(owner.unsettled(), reopened.unsettled());
    for queue in &recovered.queues {
        assert_eq!(queue.delivered_below, owner.delivered_below(queue.id.0));
    }
    reopened
}

/// What was handed out is not in the log, so a run that did nothing else must leave a trace.
#[test]
fn a_crash_right_after_a_clean_stop_is_no_clean_stop() {
    let disk = new_disk(1);
    let (owner, _) = start(&disk, None);
    owner.enqueue(&[1], 10, 100, 0);
    let owner = restart(&disk, owner);
    let (_, recovered) = start(&disk.crash(), Some(&owner));
    assert!(!recovered.clean);
    assert_eq!(recovered.queues[0].delivered_below, recovered.queues[0].next_seq);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_what_was_durable_is_there(
        seed: u64,
        commands in prop::collection::vec(command(), 1..60),
    ) {
        let mut disk = new_disk(seed);
        let (mut owner, _) = start(&disk, None);
        for command in &commands {
            act(&owner, command).unwrap();
            owner.accounts_agree();
            match command {
                Command::Crash => owner = crash(&mut disk, owner),
                Command::Restart => owner = restart(&disk, owner),
                _ => {}
            }
        }
        owner = restart(&disk, owner);
        owner.accounts_agree();
        crash(&mut disk, owner).accounts_agree();
    }
}

fn script() -> Vec<Command> {
    let mut commands = Vec::new();
    for round in 0..4 {
        for queue in 0..3 {
            commands.push(Command::Enqueue { queue, fan_out: queue == 1, count: 12, bytes: 300, gap: round });
        }
        commands.push(Command::Sync);
        commands.push(Command::Settle { queue: 0, skip: 2, count: 15 });
        commands.push(Command::Settle { queue: 1, skip: 0, count: 20 });
        commands.push(Command::GiveBack { queue: 0, skip: 3, count: 5 });
        commands.push(Command::Spill { queue: 2 });
        commands.push(Command::Checkpoint);
        commands.push(Command::GiveBack { queue: 1, skip: 0, count: 9 });
        commands.push(Command::Settle { queue: 2, skip: 1, count: 9 });
        commands.push(Command::Checkpoint);
    }
    commands
}

/// Each operation of each kind fails once, in turn; then the process ends, or the power.
#[test]
fn a_failure_at_any_place_loses_nothing() {
    let kinds =
        [Op::Create, Op::Write, Op::Sync, Op::Rename, Op::Remove, Op::SyncDir, Op::Allocate, Op::Read];
    for op in kinds {
        for (fault, end) in [(Fault::Io, crash as End), (Fault::NoSpace, crash), (Fault::Io, end_process)] {
            let mut nth = 1;
            loop {
                let mut disk = new_disk(nth);
                let (owner, _) = start(&disk, None);
                // The log's own thread may be at work: counted before, so that what was not reached did not fail.
                let before = disk.count(op);
                disk.fail(op, nth, fault);
                let failed = script().iter().any(|command| act(&owner, command).is_err());
                let reached = disk.count(op) >= before + nth;
                let owner = end(&mut disk, owner);
                // And it goes on.
                assert!(script().iter().all(|command| act(&owner, command).is_ok()), "{op:?} {nth}");
                crash(&mut disk, owner);
                if !reached {
                    assert!(!failed);
                    break;
                }
                nth += if nth < 40 { 1 } else { 17 };
            }
        }
    }
}

/// A process that ends right after it renamed a checkpoint leaves one that counts, and that power loss takes back.
#[test]
fn a_checkpoint_counts_for_good_before_the_log_is_used_again() {
    for seed in 0..40 {
        let mut disk = new_disk(seed);
        let (owner, _) = start(&disk, None);
        owner.enqueue(&[1], 100, 500, 0);
        owner.store.wal().sync().unwrap();
        // The directories of segments, checkpoints and, whenever it likes, the log are synced.
        disk.fail(Op::SyncDir, 1 + seed % 4, Fault::Io);
        let _ = owner.store.checkpoint(&owner, false);
        let owner = end_process(&mut disk, owner);
        for _ in 0..40 {
            owner.enqueue(&[2], 5, 500, 0);
            owner.store.wal().sync().unwrap();
        }
        crash(&mut disk, owner);
    }
}

#[test]
fn a_failure_while_opening_loses_nothing() {
    for op in
        [Op::Create, Op::Write, Op::Sync, Op::Remove, Op::SyncDir, Op::Allocate, Op::Read, Op::Open, Op::List]
    {
        for nth in 1.. {
            let disk = new_disk(nth);
            let (owner, _) = start(&disk, None);
            script().iter().for_each(|command| act(&owner, command).unwrap());
            owner.enqueue(&[5], 100, 500, 0);
            owner.store.wal().sync().unwrap();
            let durable = owner.store.wal().durable();
            let crashed = disk.crash();
            let before = crashed.count(op);
            crashed.fail(op, nth, Fault::Io);
            drop(open(&crashed));
            let reached = crashed.count(op) >= before + nth;
            let (reopened, _) = start(&crashed.crash(), Some(&owner));
            owner.check(durable, &reopened);
            if !reached {
                break;
            }
        }
    }
}

/// Whatever there was no file descriptor for is done at the next try.
#[test]
fn a_lack_of_file_descriptors_passes() {
    for op in [Op::Create, Op::SyncDir, Op::Open, Op::List] {
        let mut nth = 1;
        loop {
            let mut disk = new_disk(nth);
            let (owner, _) = start(&disk, None);
            let before = disk.count(op);
            disk.fail(op, nth, Fault::TooManyFiles);
            for command in script() {
                if let Err(error) = act(&owner, &command) {
                    assert!(error.is_out_of_files(), "{op:?} {nth}: {error}");
                    act(&owner, &command).unwrap();
                }
            }
            let reached = disk.count(op) >= before + nth;
            crash(&mut disk, owner);
            if !reached {
                break;
            }
            nth += 1;
        }
    }
}

/// A backlog behind a few stuck messages: what is dead around them goes.
#[test]
fn mostly_dead_segments_are_rewritten() {
    let disk = new_disk(1);
    let (owner, _) = start(&disk, None);
    for _ in 0..40 {
        owner.enqueue(&[1], 10, 300, 0);
    }
    owner.store.wal().sync().unwrap();
    owner.store.checkpoint(&owner, false).unwrap();
    let full = owner.store.segments().usage(Class::Durable);
    for stuck in 0..40 {
        owner.settle(1, stuck, 9);
    }
    assert_eq!(owner.unsettled(), 40);
    let rewritten: Vec<_> =
        (0..8).map(|_| owner.store.checkpoint(&owner, false).unwrap().rewritten_bytes).collect();
    assert_eq!(rewritten[7], 0, "what was rewritten once stays: {rewritten:?}");
    let now = owner.store.segments().usage(Class::Durable);
    assert!(now.bytes * 4 < full.bytes, "{full:?} to {now:?}");
    let (reopened, _) = start(&disk.crash(), Some(&owner));
    owner.check(owner.store.wal().durable(), &reopened);
}

/// More in the log than may be in memory goes to segments while it is replayed.
#[test]
fn a_long_log_is_replayed_in_bounded_memory() {
    let disk = new_disk(1);
    let (owner, _) = start(&disk, None);
    for i in 0..200 {
        owner.enqueue(&[i % 3], 5, 200, i % 2);
    }
    owner.settle(0, 3, 50);
    owner.store.wal().sync().unwrap();
    let (reopened, recovered) = start(&disk.crash(), Some(&owner));
    owner.check(owner.store.wal().durable(), &reopened);
    let sources = recovered.queues.iter().flat_map(|queue| &queue.chunks);
    let (memory, blocks): (Vec<_>, Vec<_>) =
        sources.partition(|chunk| matches!(chunk.source, Source::Memory(_)));
    let in_memory: u32 = memory.iter().map(|chunk| chunk.live()).sum();
    assert!(in_memory < 120 && !blocks.is_empty(), "{in_memory} messages in memory, {} blocks", blocks.len());
    assert!(recovered.queues.iter().all(|queue| queue.delivered_below == queue.next_seq));
    assert!(blocks.len() < 40, "small runs are merged: {}", blocks.len());
}

#[test]
fn a_missing_segment_is_reported_and_the_rest_kept() {
    let disk = new_disk(1);
    let (owner, _) = start(&disk, None);
    for _ in 0..4 {
        owner.enqueue(&[1, 2], 10, 300, 0);
    }
    owner.store.close(&owner).unwrap();
    drop(owner);
    let segments = Path::new(DIR).join("segments");
    let first = &disk.list(&segments).unwrap()[0];
    disk.remove(&segments.join(first)).unwrap();
    let (_, recovered) = open(&disk).unwrap();
    let lost: u64 = recovered.queues.iter().map(|queue| queue.lost).sum();
    let live: u32 = recovered.queues.iter().flat_map(|queue| &queue.chunks).map(RecoveredChunk::live).sum();
    assert!(lost > 0 && live > 0 && lost + u64::from(live) == 80, "{lost} lost, {live} live");
    assert!(recovered.damages[0].to_string().contains(first), "{}", recovered.damages[0]);
}

#[test]
fn a_discarded_queue_gives_its_space_back() {
    let disk = new_disk(1);
    let (owner, _) = start(&disk, None);
    owner.enqueue(&[1], 100, 300, 0);
    owner.store.close(&owner).unwrap();
    drop(owner);
    let (store, recovered) = open(&disk).unwrap();
    assert!(store.segments().usage(Class::Durable).live_bytes > 0);
    recovered.queues.iter().for_each(|queue| store.discard(queue));
    assert_eq!(store.segments().usage(Class::Durable).live_bytes, 0);
}

#[test]
fn identities_named_by_the_log_are_not_given_out_again() {
    let disk = SimDisk::new(1);
    let (store, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.next_queue_id, 0);
    store.wal().stage().settle(posthouse_model::ids::QueueId(5), &[(0, 0)]);
    store.wal().stage().queue_deleted(posthouse_model::ids::QueueId(9));
    store.wal().sync().unwrap();
    drop(store);
    assert_eq!(open(&disk).unwrap().1.next_queue_id, 10);
}

#[test]
fn the_mark_of_a_start_is_no_identity() {
    let disk = new_disk(1);
    let (owner, _) = start(&disk, None);
    owner.enqueue(&[6], 1, 10, 0);
    owner.store.close(&owner).unwrap();
    drop(owner);
    for _ in 0..2 {
        let (store, recovered) = open(&disk).unwrap();
        assert_eq!(recovered.next_queue_id, 7);
        store.begin().unwrap();
    }
}

#[test]
fn levels_of_a_queue_are_recovered_apart() {
    let disk = SimDisk::new(1);
    let (store, _) = open(&disk).unwrap();
    let mut builder = ChunkBuilder::default();
    (0..4).for_each(|_| builder.push(1, 0, b"\0\0", b"h", 1, b"x"));
    let chunk = Arc::new(builder.finish());
    let (queue, level) = (QueueId(5), first_of_level(255));
    let mut stage = store.wal().stage();
    for first in [0, level, level + 4] {
        stage.enqueue(&[(queue, first)], 4, Payload::Shared(Arc::clone(&chunk)));
    }
    stage.settle(queue, &[(level + 1, level + 1), (level + 7, level + 7), (0, 1)]);
    drop(stage);
    store.wal().sync().unwrap();
    drop(store);
    let (store, recovered) = open(&disk).unwrap();
    let found: Vec<_> = recovered.queues.iter().map(|q| (q.id, q.floor, q.next_seq)).collect();
    assert_eq!(found, [(queue, 2, 4), (queue.with_level_of(level), level, level + 8)]);
    let live: Vec<u32> =
        recovered.queues.iter().map(|q| q.chunks.iter().map(RecoveredChunk::live).sum()).collect();
    assert_eq!((live, recovered.next_queue_id), (vec![2, 6], 6));
    let mut stage = store.wal().stage();
    for level in &recovered.queues {
        stage.queue_deleted(level.id);
    }
    drop(stage);
    store.wal().sync().unwrap();
    drop(store);
    let recovered = open(&disk).unwrap().1;
    assert_eq!((recovered.queues, recovered.next_queue_id), (vec![], 6));
}
