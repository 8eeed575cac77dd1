//! Spill files of which little is live: what is live moves, what is dead goes, nothing is lost.

use posthouse_model::bitmap::SeqBitmap;
use posthouse_model::chunk::{ChunkBuilder, Received};
use posthouse_model::ids::{Lsn, Seq};
use posthouse_model::shares::Shares;

use super::*;
use crate::checkpoint::{BlockRef, QueueState};
use crate::segment::{BlockIn, Location};

const QUEUE: QueueId = QueueId(3);
/// Messages of a chunk.
const RUN: u32 = 10;

/// One queue whose messages are in spill files: where each chunk is, by its first number, and what is settled of it.
struct Spilled {
    store: MessageStore,
    chunks: Mutex<BTreeMap<Seq, (Location, SeqBitmap)>>,
}

impl Spilled {
    fn new(disk: &SimDisk, chunks: u64) -> Self {
        let owner = Self { store: open(disk).unwrap().0, chunks: Mutex::default() };
        for first_seq in (0..chunks).map(|n| n * u64::from(RUN)) {
            let mut builder = ChunkBuilder::default();
            for seq in first_seq..first_seq + u64::from(RUN) {
                let body = format!("{seq:0300}");
                builder.push(1, 0, b"\0\0", b"h", body.len(), body.as_bytes());
            }
            let chunk = Arc::new(builder.finish());
            let block = BlockIn { queue: QUEUE, first_seq, chunk, summary: Vec::new() };
            let location = owner.store.segments().write(Class::Spill, &[block]).unwrap()[0];
            owner.chunks.lock().unwrap().insert(first_seq, (location, SeqBitmap::new(RUN)));
        }
        owner
    }

    fn settle(&self, seq: Seq) {
        let mut chunks = self.chunks.lock().unwrap();
        let (&first_seq, (location, settled)) = chunks.range_mut(..=seq).next_back().unwrap();
        settled.set((seq - first_seq) as u32);
        if settled.all_set() {
            self.store.segments().release(location);
            chunks.remove(&first_seq);
        }
    }

    /// Settles all but one message of each chunk.
    fn settle_most(&self) {
        let firsts: Vec<Seq> = self.chunks.lock().unwrap().keys().copied().collect();
        for first_seq in firsts {
            (1..u64::from(RUN)).for_each(|delta| self.settle(first_seq + delta));
        }
    }

    /// The numbers of all live messages, read from where they are.
    fn live(&self) -> Vec<Seq> {
        let mut found = Vec::new();
        for (&first_seq, (location, settled)) in &*self.chunks.lock().unwrap() {
            let chunk = self.store.segments().read(location, QUEUE, first_seq).unwrap();
            for record in chunk.records().filter(|record| !settled.get(record.delta())) {
                let seq = first_seq + u64::from(record.delta());
                assert_eq!(record.body(), format!("{seq:0300}").as_bytes());
                found.push(seq);
            }
        }
        found
    }

    fn bytes(&self) -> u64 {
        self.store.segments().usage(Class::Spill).bytes
    }

    fn rewrite(&self, survey: &mut SpillSurvey) -> Result<Rewritten, StorageError> {
        self.store.rewrite_spill(self, survey)
    }
}

impl QueueOwner for Spilled {
    fn collect(&self, _: Lsn, _: ChunkSink<'_>) -> Result<(), StorageError> {
        Ok(())
    }

    fn relocated(&self, _: QueueId, first_seq: Seq, location: Location) {
        let old = match self.chunks.lock().unwrap().get_mut(&first_seq) {
            Some((place, _)) => std::mem::replace(place, location),
            None => location,
        };
        self.store.segments().release(&old);
    }

    fn states(&self, _: &mut dyn FnMut(QueueState)) {}

    fn spilled(&self, sink: &mut dyn FnMut(QueueId, BlockRef)) {
        let chunks = self.chunks.lock().unwrap().clone();
        for (first_seq, (location, settled)) in chunks {
            let (settled, received) = (Some(settled), Received::UNKNOWN);
            sink(
                QUEUE,
                BlockRef {
                    location,
                    first_seq,
                    span: RUN,
                    settled,
                    received,
                    expires: false,
                    shares: Shares::default(),
                },
            );
        }
    }
}

#[test]
fn what_nobody_settles_does_not_hold_what_is_around_it() {
    let owner = Spilled::new(&new_disk(1), 40);
    let full = owner.bytes();
    owner.settle_most();
    let live = owner.live();
    let mut survey = SpillSurvey::default();
    assert_eq!(owner.rewrite(&mut survey).unwrap().bytes, 0, "consumers may be at it");
    assert!(owner.rewrite(&mut survey).unwrap().bytes > 40 * 300);
    assert!(owner.bytes() * 4 < full, "{full} bytes became {}", owner.bytes());
    assert_eq!(owner.live(), live);
    assert_eq!(live.len(), 40);
    // The file that was being written has dead blocks, too, once it is full.
    let turns: Vec<_> = (0..6).map(|_| owner.rewrite(&mut survey).unwrap().bytes).collect();
    assert_eq!(turns[2..], [0; 4], "what was rewritten stays: {turns:?}");
    live.into_iter().for_each(|seq| owner.settle(seq));
    assert!(owner.store.segments().usage(Class::Spill).files <= 1);
}

#[test]
fn files_that_consumers_are_at_are_let_alone() {
    let owner = Spilled::new(&new_disk(1), 40);
    let mut survey = SpillSurvey::default();
    for delta in 1..u64::from(RUN) {
        (0..40).for_each(|chunk| owner.settle(chunk * u64::from(RUN) + delta));
        assert_eq!(owner.rewrite(&mut survey).unwrap().bytes, 0, "{delta} of each chunk were just settled");
    }
    assert!(owner.rewrite(&mut survey).unwrap().bytes > 0);
}

#[test]
fn a_failure_while_rewriting_loses_nothing() {
    for op in [Op::Create, Op::Write, Op::Read, Op::Open, Op::Remove] {
        for fault in [Fault::Io, Fault::NoSpace] {
            for nth in 1.. {
                let disk = new_disk(nth);
                let owner = Spilled::new(&disk, 40);
                owner.settle_most();
                let mut survey = SpillSurvey::default();
                owner.rewrite(&mut survey).unwrap();
                let before = disk.count(op);
                disk.fail(op, nth, fault);
                let failed = owner.rewrite(&mut survey).is_err();
                let reached = disk.count(op) >= before + nth;
                disk.heal();
                assert_eq!(owner.live().len(), 40, "{op:?} {nth} {fault:?}");
                assert!(reached || !failed);
                while owner.rewrite(&mut survey).unwrap().bytes > 0 {}
                assert_eq!(owner.live().len(), 40, "{op:?} {nth} {fault:?}");
                if !reached {
                    break;
                }
            }
        }
    }
}

#[test]
fn a_damaged_block_is_told_once_and_the_others_move() {
    let disk = new_disk(1);
    let owner = Spilled::new(&disk, 40);
    owner.settle_most();
    let (location, _) = owner.chunks.lock().unwrap()[&100].clone();
    let path = Path::new(DIR).join("spill").join(crate::segment::file_name(location.file));
    disk.corrupt(&path, u64::from(location.offset) + 200, 1);
    let mut survey = SpillSurvey::default();
    let turns: Vec<_> = (0..4).map(|_| owner.rewrite(&mut survey).unwrap()).collect();
    let damages: usize = turns.iter().map(|turn| turn.damages.len()).sum();
    assert_eq!(damages, 1);
    owner.chunks.lock().unwrap().remove(&100);
    assert_eq!(owner.live().len(), 39);
}
