//! What was sent to several queues is in segments once, as long as one of them needs it.

use super::*;
use crate::checkpoint::BlockRef;
use crate::engine::rewrite::LiveBytes;
use crate::segment::{Location, SegmentId};
use posthouse_model::bitmap::SeqBitmap;
use posthouse_model::chunk::Received;
use posthouse_model::shares::Shares;

const QUEUES: [u64; 10] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
/// Messages of a chunk.
const RUN: usize = 10;
const CHUNKS: usize = 8;

/// Chunks of about 3 KiB in all queues.
fn fan_out(owner: &Owner) {
    (0..CHUNKS).for_each(|_| owner.enqueue(&QUEUES, RUN as u32, 300, 0));
    owner.store.wal().sync().unwrap();
}

fn checkpoint(owner: &Owner) -> CheckpointReport {
    let report = owner.store.checkpoint(owner, false).unwrap();
    owner.accounts_agree();
    report
}

fn stored(owner: &Owner) -> u64 {
    owner.store.segments().usage(Class::Durable).bytes
}

/// Bytes of what was sent, written once.
const ONCE: u64 = (CHUNKS * RUN * 330) as u64;

#[test]
fn a_backlog_of_many_queues_is_written_once() {
    let mut disk = new_disk(1);
    let (owner, _) = start(&disk, None);
    fan_out(&owner);
    // Some go to segments because there is too much in memory, the others with the checkpoint, whatever they have
    // settled.
    QUEUES[..3].iter().for_each(|&queue| owner.spill(queue).unwrap());
    for (queue, settled) in [(1, 3), (5, 4), (9, 72)] {
        owner.settle(queue, 2, settled);
    }
    checkpoint(&owner);
    assert!((ONCE / 2..ONCE * 5 / 4).contains(&stored(&owner)), "{} of {ONCE}", stored(&owner));
    let owner = crash(&mut disk, owner);
    owner.accounts_agree();
    let owner = restart(&disk, owner);
    assert_eq!(owner.unsettled(), QUEUES.len() * RUN * CHUNKS - 79);
    // It goes with the last queue that has it.
    for queue in QUEUES {
        assert!(stored(&owner) > ONCE / 2);
        owner.purge(queue);
        checkpoint(&owner);
    }
    assert_eq!(owner.store.segments().usage(Class::Durable).live_bytes, 0);
    assert!(stored(&owner) < ONCE / 4, "{} bytes of dead messages", stored(&owner));
    crash(&mut disk, owner);
}

#[test]
fn what_any_queue_needs_is_copied_and_nothing_else() {
    let mut disk = new_disk(1);
    let (owner, _) = start(&disk, None);
    fan_out(&owner);
    checkpoint(&owner);
    // Each queue keeps another message of each chunk: all of them are needed.
    for queue in QUEUES {
        for chunk in 0..CHUNKS {
            owner.settle(queue, chunk, queue as usize);
            owner.settle(queue, chunk + 1, RUN - 1 - queue as usize);
        }
    }
    assert_eq!(owner.unsettled(), QUEUES.len() * CHUNKS);
    let full = stored(&owner);
    for _ in 0..3 {
        assert_eq!(checkpoint(&owner).rewritten_bytes, 0, "nothing is dead");
    }
    // Three queues keep theirs.
    QUEUES[3..].iter().for_each(|&queue| owner.purge(queue));
    let rewritten: Vec<_> = (0..8).map(|_| checkpoint(&owner).rewritten_bytes).collect();
    let copied: u64 = rewritten.iter().sum();
    assert!(copied > 0 && copied < full, "{rewritten:?}");
    assert_eq!(rewritten[6..], [0, 0], "what was rewritten stays: {rewritten:?}");
    assert!(stored(&owner) * 2 < full, "{full} bytes became {}", stored(&owner));
    assert_eq!(owner.unsettled(), 3 * CHUNKS);
    crash(&mut disk, owner).accounts_agree();
}

#[test]
fn a_log_is_replayed_into_chunks_that_queues_share() {
    let disk = new_disk(1);
    let (owner, _) = start(&disk, None);
    fan_out(&owner);
    owner.settle(4, 0, 25);
    // There is room for this one.
    owner.enqueue(&QUEUES[..2], RUN as u32, 300, 0);
    owner.store.wal().sync().unwrap();
    let (reopened, recovered) = start(&disk.crash(), Some(&owner));
    owner.check(owner.store.wal().durable(), &reopened);
    reopened.accounts_agree();
    // What was too much for memory was written once for all of them.
    assert!((1..ONCE * 5 / 4).contains(&stored(&reopened)), "{} of {ONCE}", stored(&reopened));
    let last = |queue: usize| match &recovered.queues[queue].chunks.last().unwrap().source {
        Source::Memory(chunk) => Arc::clone(chunk),
        Source::Block(location) => panic!("{location:?}"),
    };
    assert!(Arc::ptr_eq(&last(0), &last(1)));
    // And so is the rest.
    checkpoint(&reopened);
    assert!(stored(&reopened) < ONCE * 5 / 4, "{} of {ONCE}", stored(&reopened));
}

#[test]
fn a_record_that_was_partly_there_is_replayed_for_each_queue() {
    let mut disk = new_disk(1);
    let (mut owner, _) = start(&disk, None);
    for round in 0..4 {
        fan_out(&owner);
        // Some queues have all of it in segments, others nothing.
        QUEUES[..3 * round].iter().for_each(|&queue| owner.spill(queue).unwrap());
        if round == 2 {
            checkpoint(&owner);
        }
        owner = crash(&mut disk, owner);
        owner.accounts_agree();
    }
}

fn block(first_seq: u64, settled: &[u32], shared: bool) -> BlockRef {
    let (file, class) = (SegmentId(7), Class::Durable);
    let location = Location { file, class, shared, offset: 24, len: 1000, records: 10 };
    let mut bitmap = SeqBitmap::new(10);
    settled.iter().for_each(|&at| assert!(bitmap.set(at)));
    let settled = (!settled.is_empty()).then_some(bitmap);
    let (received, shares) = (Received::UNKNOWN, Shares::default());
    BlockRef { location, first_seq, span: 10, settled, received, expires: false, shares }
}

#[test]
fn of_a_shared_block_is_live_what_one_queue_has_not_settled() {
    let of = |blocks: &[BlockRef]| {
        let mut live = LiveBytes::default();
        blocks.iter().for_each(|block| live.add(block));
        live.by_file()[&SegmentId(7)]
    };
    assert_eq!(of(&[block(5, &[0, 1], true)]), 800);
    assert_eq!(of(&[block(5, &[0, 1], true), block(90, &[1, 2], true)]), 900);
    assert_eq!(of(&[block(5, &[0, 1], true), block(90, &[], true), block(7, &[0, 1], true)]), 1000);
    assert_eq!(of(&[block(5, &[], true), block(90, &[0, 1, 2], true)]), 1000);
    assert_eq!(of(&[block(5, &[0, 1], false), block(90, &[1], false)]), 1700);
}

#[test]
fn each_operation_on_shared_blocks_may_fail() {
    let script = |owner: &Owner| -> Result<(), StorageError> {
        fan_out_may_fail(owner)?;
        owner.spill(2)?;
        owner.spill(3)?;
        owner.store.checkpoint(owner, false)?;
        QUEUES[1..].iter().for_each(|&queue| owner.settle(queue, 1, 70));
        owner.settle(0, 0, 70);
        for _ in 0..3 {
            owner.store.checkpoint(owner, false)?;
        }
        Ok(())
    };
    for op in [Op::Create, Op::Write, Op::Sync, Op::Rename, Op::Remove, Op::SyncDir, Op::Read, Op::Open] {
        for (fault, end) in [(Fault::Io, crash as End), (Fault::NoSpace, crash), (Fault::Io, end_process)] {
            for nth in (1..).step_by(3) {
                let mut disk = new_disk(nth);
                let (owner, _) = start(&disk, None);
                let before = disk.count(op);
                disk.fail(op, nth, fault);
                let failed = script(&owner).is_err();
                owner.accounts_agree();
                let reached = disk.count(op) >= before + nth;
                let owner = end(&mut disk, owner);
                owner.accounts_agree();
                script(&owner).unwrap();
                crash(&mut disk, owner).accounts_agree();
                if !reached {
                    assert!(!failed);
                    break;
                }
            }
        }
    }
}

fn fan_out_may_fail(owner: &Owner) -> Result<(), StorageError> {
    (0..CHUNKS).for_each(|_| owner.enqueue(&QUEUES, RUN as u32, 300, 0));
    owner.store.wal().sync()
}
