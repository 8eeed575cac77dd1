//! Streams: declaring them, bringing them back after a restart, and moving their blocks between memory and segments.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use posthouse_model::chunk::Received;
use posthouse_model::errors::{self, Resource};
use posthouse_model::queue_settings::QueueSettings;
use posthouse_model::reply::ReplyError;
use posthouse_model::stream_args::{StreamArguments, StreamConsumerArguments};
use posthouse_queue::machine::roster::ConsumerId;
use posthouse_queue::stream::directory::{Block, ToStore, join};
use posthouse_queue::stream::filter::{Filter, summarize};
use posthouse_queue::stream::offsets::{NAMES_MAX, TooManyNames};
use posthouse_queue::stream::{Read, ReaderOptions, Recovered, Stream};
use posthouse_storage::StorageError;
use posthouse_storage::checkpoint::{BlockRef, QueueState};
use posthouse_storage::engine::{ChunkSink, LiveChunk, RecoveredQueue, Source};
use posthouse_storage::segment::{BlockIn, Class, Location, SegmentStore};
use posthouse_storage::wal::Stage;
use tracing::error;

use crate::broker::Broker;
use crate::declare::QueueDeclaration;
use crate::deliver;
use crate::queue_handle::{Machine, QueueHandle};
use crate::residency::{self, FailedRead, WRITE_BYTES};
use crate::vhost::VirtualHost;
use crate::waker::ConsumerWaker;
use crate::workers::Stopping;

/// Memory of a stream's newest messages from which on the older of them are written to segments.
const SPILL_BYTES: usize = 8 << 20;

/// What of the newest messages then stays in memory.
const KEEP_BYTES: usize = 4 << 20;

/// The two above while all queues together are over the budget.
const SPILL_BYTES_TIGHT: usize = 256 << 10;
const KEEP_BYTES_TIGHT: usize = 64 << 10;

/// What is in no segment yet, from which on publishers wait for the disk.
const PACED_BYTES: usize = 16 << 20;

/// Blocks read per turn, so that many queues take turns.
const READS_PER_TURN: usize = 16;

/// How often the age of messages is looked at.
pub(crate) const RETENTION_PERIOD: Duration = Duration::from_secs(5);

/// The machine of a new stream, or the error of its declaration.
pub(crate) fn declare(declaration: &QueueDeclaration, resource: Resource<'_>) -> Result<Machine, ReplyError> {
    if declaration.name.is_empty() {
        return Err(errors::server_named_stream());
    }
    let impossible = [
        (!declaration.durable, "non-durable"),
        (declaration.auto_delete, "auto-delete"),
        (declaration.exclusive, "exclusive-owner"),
    ];
    if let Some((_, property)) = impossible.iter().find(|(is_so, _)| *is_so) {
        return Err(errors::invalid_property(property, resource));
    }
    let arguments = StreamArguments::parse(declaration.arguments.clone(), resource)?;
    Ok(Machine::Stream(Box::new(Stream::new(arguments.settings))))
}

/// The machine of a stream that was declared before a restart, with what was found of it.
pub(crate) fn recover(broker: &Broker, settings: QueueSettings, found: Option<RecoveredQueue>) -> Machine {
    let Some(found) = found else { return Machine::Stream(Box::new(Stream::new(settings))) };
    let (mut blocks, mut recent) = (Vec::new(), Vec::new());
    for chunk in found.chunks {
        match chunk.source {
            Source::Memory(records) => recent.push((chunk.first_seq, records)),
            Source::Block(location) => {
                debug_assert!(recent.is_empty(), "what goes to segments is older than what stays in memory");
                blocks.push(Block {
                    first_seq: chunk.first_seq,
                    span: chunk.span,
                    bytes: location.len,
                    first_ms: 0,
                    settled: chunk.settled.map(Box::new),
                    shares: chunk.shares,
                    stored: Some((location, chunk.span)),
                });
            }
        }
    }
    let (covered, replayed) = (found.covered, recent.clone());
    let from_log: Vec<_> = blocks.iter().filter(|block| block.end_seq() > covered).cloned().collect();
    let recovered = Recovered { floor: found.floor, next_seq: found.next_seq, blocks, recent };
    let mut stream = Stream::recover(settings, recovered);
    for note in &found.notes {
        if !stream.remember(&note.key, &note.value) {
            error!(queue = %found.id, key = ?note.key, "a note of a stream has no form that is known");
        }
    }
    // What was replayed to segments, because there was no room in memory, is read once more.
    for block in from_log {
        let (Some(segments), Some((location, _))) = (broker.segments(), block.stored) else { continue };
        match segments.read(&location, found.id, block.first_seq) {
            Ok(chunk) => stream.recall_publishers(block.first_seq, &chunk, covered),
            Err(problem) => error!(queue = %found.id, %problem, "cannot read who published messages"),
        }
    }
    for (first_seq, chunk) in replayed {
        stream.recall_publishers(first_seq, &chunk, covered);
    }
    Machine::Stream(Box::new(stream))
}

/// Adds a consumer to a stream. Its offset is stored under `name`, if that is given.
///
/// # Errors
/// When the stream is gone, or has stored the offsets of too many names.
pub fn add_reader(
    broker: &Broker,
    queue: &QueueHandle,
    consumer: ConsumerId,
    waker: ConsumerWaker,
    arguments: &StreamConsumerArguments,
    name: Option<&[u8]>,
) -> Result<(), ReplyError> {
    let definition = &queue.definition;
    // One group's consumers of the partitions of a super stream share them out.
    let turn = match arguments.single_active {
        true => {
            let order =
                |vhost: Arc<VirtualHost>| vhost.look(|inner| inner.topology.partition_order(queue.id));
            Some(broker.vhost(&definition.vhost).ok().and_then(order).unwrap_or(0))
        }
        false => None,
    };
    let mut wakes = Vec::new();
    let mut stage = name.and_then(|_| broker.wal()).map(|wal| wal.stage());
    let mut state = queue.lock();
    let Some(stream) = state.machine.stream() else {
        return Err(errors::no_queue(&definition.vhost, &definition.name));
    };
    let filter = (!arguments.filter.is_empty()).then(|| Filter {
        values: arguments.filter.iter().map(|value| value.as_slice().into()).collect(),
        match_unfiltered: arguments.match_unfiltered,
    });
    let options = ReaderOptions { start: arguments.offset, filter, name: name.map(Into::into), turn };
    stream.add_reader(consumer, waker, options, &mut wakes).map_err(|TooManyNames| {
        let resource = Resource::queue(&definition.vhost, &definition.name);
        errors::too_many_stored_offsets(resource, NAMES_MAX)
    })?;
    log_notes(queue, stream, stage.as_mut());
    drop((state, stage));
    deliver::wake_all(&mut wakes);
    Ok(())
}

/// Tells the log what a stream is to remember. The stage was there before the stream was locked, so that the log has
/// notes in the order in which they were made.
pub(crate) fn log_notes(
    queue: &QueueHandle,
    stream: &mut Stream<Location, ConsumerWaker>,
    stage: Option<&mut Stage<'_>>,
) {
    let notes = stream.take_notes();
    if let Some(stage) = stage {
        for note in notes {
            stage.note(queue.id, &note.key, &note.value);
        }
    }
}

/// What becomes of deliveries of a consumer whose offset is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// They are done with.
    Settled,
    /// They are to come again, when somebody of that name begins anew.
    GivenBack,
}

/// A consumer whose offset is stored settles messages or gives them back.
pub fn settle(
    broker: &Broker,
    queue: &QueueHandle,
    consumer: ConsumerId,
    ranges: &deliver::Ranges,
    outcome: Outcome,
) {
    let mut wakes = Vec::new();
    let mut stage = broker.wal().map(|wal| wal.stage());
    let mut state = queue.lock();
    let Some(stream) = state.machine.stream() else { return };
    match outcome {
        Outcome::Settled => stream.settle(consumer, ranges, &mut wakes),
        Outcome::GivenBack => stream.give_back(consumer, ranges, &mut wakes),
    }
    log_notes(queue, stream, stage.as_mut());
    if outcome == Outcome::Settled {
        state.counters.acknowledged += ranges.iter().map(|(first, last)| last - first + 1).sum::<u64>();
    }
    drop((state, stage));
    deliver::wake_all(&mut wakes);
}

/// Called after messages arrived, with what the stream takes: starts a spill when it has too much in memory; whether
/// its publishers should pause.
pub(crate) fn must_spill(stream: &Stream<Location, ConsumerWaker>, over_budget: bool) -> bool {
    stream.window_bytes() >= if over_budget { SPILL_BYTES_TIGHT } else { SPILL_BYTES }
}

/// Whether publishers should wait for the disk, while it is written to.
pub(crate) fn must_pace(stream: &Stream<Location, ConsumerWaker>) -> bool {
    stream.window_bytes() >= PACED_BYTES && stream.unstored_bytes() >= PACED_BYTES
}

/// Writes a stream's excess to segments.
pub(crate) fn spill(queue: &QueueHandle, segments: &SegmentStore, over_budget: impl Fn() -> bool) {
    let plan = |machine: &mut Machine| {
        let mut writes = Vec::new();
        let keep = if over_budget() { KEEP_BYTES_TIGHT } else { KEEP_BYTES };
        if let Some(stream) = machine.stream() {
            stream.plan_spill(keep, WRITE_BYTES, &mut writes);
        }
        writes
    };
    residency::in_turns(queue, plan, |writes| write(queue, segments, writes));
}

fn write(queue: &QueueHandle, segments: &SegmentStore, writes: Vec<ToStore>) -> Result<(), StorageError> {
    let block = |write: ToStore| {
        let chunk = join(&write.pieces);
        let summary = summarize(&chunk, write.filter_bytes);
        BlockIn { queue: queue.id, first_seq: write.first_seq, chunk, summary }
    };
    let blocks: Vec<_> = writes.into_iter().map(block).collect();
    let locations = segments.write(Class::Durable, &blocks)?;
    let mut state = queue.lock();
    for (block, location) in blocks.iter().zip(locations) {
        written(&mut state.machine, segments, block.first_seq, location);
    }
    residency::release(&mut state, segments);
    Ok(())
}

/// A block is in a segment.
pub(crate) fn written(machine: &mut Machine, segments: &SegmentStore, first_seq: u64, location: Location) {
    match machine.stream() {
        Some(stream) => stream.written(first_seq, location.records, location),
        // The stream was deleted meanwhile.
        None => segments.release(&location),
    }
}

/// Hands what is in the log below a position, and in no segment, to a checkpoint.
pub(crate) fn collect(queue: &QueueHandle, below: u64, sink: ChunkSink<'_>) -> Result<(), StorageError> {
    let mut writes = Vec::new();
    if let Some(stream) = queue.lock().machine.stream() {
        stream.plan_migration(below, &mut writes);
    }
    for write in writes {
        let chunk = join(&write.pieces);
        let summary = summarize(&chunk, write.filter_bytes);
        sink(LiveChunk { queue: queue.id, first_seq: write.first_seq, chunk, settled: None, summary })?;
    }
    Ok(())
}

/// A stream as a checkpoint keeps it.
pub(crate) fn state(queue: &QueueHandle, stream: &Stream<Location, ConsumerWaker>) -> QueueState {
    let covered = stream.covered();
    let blocks = stream
        .blocks()
        .filter(|block| block.first_seq < covered)
        .filter_map(|block| {
            let (location, span) = block.stored?;
            let settled = block.settled.as_deref().cloned();
            let (received, expires, shares) = (Received::UNKNOWN, false, block.shares.clone());
            let first_seq = block.first_seq;
            Some(BlockRef { location, first_seq, span, settled, received, expires, shares })
        })
        .collect();
    let floor = stream.floor().min(covered);
    let notes = stream.notes().into_iter().map(crate::owner::note).collect();
    QueueState {
        id: queue.id,
        next_seq: stream.next_seq(),
        floor,
        covered,
        delivered_below: floor,
        blocks,
        notes,
        attempts: Vec::new(),
        delays: Vec::new(),
    }
}

/// Reads some of what readers of a stream wait for; whether there is more to read.
pub(crate) fn load(queue: &QueueHandle, segments: &SegmentStore, stopping: &Stopping) -> bool {
    let mut wakes = Vec::new();
    for _ in 0..READS_PER_TURN {
        let read = {
            let mut state = queue.lock();
            let read = state.machine.stream().and_then(|stream| stream.next_read(&mut wakes));
            state.loading = read.is_some();
            read
        };
        if let Some(read) = read
            && carry_out(queue, segments, read, &mut wakes) == Err(FailedRead::TryAgain)
        {
            stopping.rest(residency::READ_AGAIN_AFTER);
        }
        deliver::wake_all(&mut wakes);
        if read.is_none() || stopping.is_told() {
            return false;
        }
    }
    true
}

/// What was read.
enum Found {
    Time(u64),
    Summary(Vec<u8>),
    Block(posthouse_model::chunk::Chunk),
}

fn carry_out(
    queue: &QueueHandle,
    segments: &SegmentStore,
    read: Read<Location>,
    wakes: &mut Vec<ConsumerWaker>,
) -> Result<(), FailedRead> {
    let (first_seq, location, found) = match read {
        Read::Time(seq, at) => (seq, at, segments.read_first_ms(&at, queue.id, seq).map(Found::Time)),
        Read::Summary(seq, at) => (seq, at, segments.read_summary(&at, queue.id, seq).map(Found::Summary)),
        Read::Block(seq, at) => (seq, at, segments.read(&at, queue.id, seq).map(Found::Block)),
    };
    let mut state = queue.lock();
    let Some(stream) = state.machine.stream() else { return Ok(()) };
    match found {
        Ok(Found::Time(ms)) => stream.time_read(first_seq, ms),
        Ok(Found::Summary(summary)) => stream.summary_read(first_seq, &summary),
        Ok(Found::Block(chunk)) => stream.block_read(first_seq, Arc::new(chunk), wakes),
        // It was rewritten to another segment, or given up, meanwhile.
        Err(_) if !stream.is_at(first_seq, location) => {}
        Err(problem) => {
            let failed = residency::after_failed_read(&problem);
            match failed {
                FailedRead::TryAgain => {
                    error!(queue = %queue.definition.name, %problem, "cannot read messages now");
                }
                FailedRead::Damage => {
                    let messages = stream.lost(first_seq, wakes);
                    error!(queue = %queue.definition.name, messages, %problem, "messages lost to a damaged segment");
                }
            }
            residency::release(&mut state, segments);
            return Err(failed);
        }
    }
    Ok(())
}

/// Gives up what is too much or too old in any stream.
pub(crate) fn retain_all(broker: &Broker) {
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_millis() as u64);
    let mut wakes = Vec::new();
    for queue in broker.vhosts().iter().flat_map(|vhost| vhost.all_queues()).filter(|queue| queue.is_stream) {
        let mut state = queue.lock();
        if let Some(stream) = state.machine.stream() {
            stream.retain(now_ms, &mut wakes);
        }
        residency::read_for_stream(broker, &queue, &mut state);
        if let Some(segments) = broker.segments() {
            residency::release(&mut state, segments);
        }
        drop(state);
        deliver::wake_all(&mut wakes);
    }
}
