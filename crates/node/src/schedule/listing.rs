//! What an operator sees of messages that wait, and how they are cancelled.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use posthouse_model::chunk::Chunk;
use posthouse_model::delay;
use posthouse_model::ids::{Seq, first_of_level};
use posthouse_model::props::HeaderView;
use posthouse_model::record::Record;
use posthouse_queue::machine::browse::Glimpse;
use posthouse_queue::schedule::Waiting;
use posthouse_storage::segment::Location;
use serde::Serialize;
use serde_json::Value;

use super::Schedule;
use super::reading::{Cache, Unread, read_chunk, ready_records};
use crate::admin::{self, AdminError};
use crate::broker::Broker;
use crate::browse::properties;
use crate::message_filter::MessageFilter;
use crate::residency::READ_AGAIN_AFTER;
use crate::transfer;

/// Messages shown at most.
pub const COUNT_MAX: usize = 10_000;

/// Bytes of records listed under one lock.
const STEP_BYTES: usize = 1 << 20;

/// Which messages are meant: those for which all of this holds.
#[derive(Clone, Debug, Default)]
pub struct Which {
    /// Their identity.
    pub id: Option<u64>,
    /// When they are due, in milliseconds since the Unix epoch.
    pub due_ms: Option<u64>,
    /// What is written on them.
    pub filters: Vec<MessageFilter>,
}

impl Which {
    fn matches(&self, waiting: &Waiting, record: &Record<'_>) -> bool {
        self.id.is_none_or(|id| id == waiting.id)
            && self.due_ms.is_none_or(|due_ms| due_ms == waiting.due_ms)
            && self.filters.iter().all(|filter| filter.matches(record))
    }

    /// Whether one of them may be in a chunk of which that is known.
    fn may_be_in(&self, glimpse: &Glimpse<Location>) -> bool {
        let received = glimpse.received;
        self.due_ms.is_none_or(|due_ms| (received.first_ms..=received.last_ms).contains(&due_ms))
    }
}

/// A message that waits.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ScheduledRow {
    /// What it is cancelled by: 16 hexadecimal digits.
    pub id: String,
    /// When it is due, milliseconds since the Unix epoch.
    pub due_at: u64,
    /// Exchange it was published to.
    pub exchange: String,
    /// Routing key it was published with.
    pub routing_key: String,
    /// Whether it survives a restart.
    pub persistent: bool,
    /// Properties that were set, headers among them, as they were published.
    pub properties: Value,
    /// Bytes of its body.
    pub payload_bytes: usize,
}

/// The identity that a [`ScheduledRow`] has as text.
///
/// # Errors
/// When it is not hexadecimal; the text says what was expected.
pub fn parse_id(text: &str) -> Result<u64, String> {
    u64::from_str_radix(text, 16).map_err(|_| format!("id: expected hexadecimal digits, got {text:?}"))
}

/// The first `count` of the messages of a virtual host that wait, in the order in which they are due.
///
/// # Errors
/// There is no such virtual host.
pub fn list(
    broker: &Broker,
    vhost: &str,
    which: &Which,
    count: usize,
) -> Result<Vec<ScheduledRow>, AdminError> {
    let vhost = admin::find_vhost(broker, vhost)?;
    let Some(schedule) = vhost.schedule() else { return Ok(Vec::new()) };
    let mut first = BTreeMap::new();
    let is_of_interest = |first: &BTreeMap<Waiting, ScheduledRow>, due_ms: u64| {
        first.len() < count || first.last_key_value().is_some_and(|(last, _)| due_ms < last.due_ms)
    };
    let mut seen = BTreeMap::new();
    walk(broker, &schedule, |glimpse, chunk| {
        let Some(chunk) = chunk else {
            return ControlFlow::Continue(
                which.may_be_in(glimpse) && is_of_interest(&first, glimpse.received.first_ms),
            );
        };
        for (waiting, record) in ready_records(chunk, glimpse.first_seq, &glimpse.ready) {
            if !is_of_interest(&first, waiting.due_ms) || !which.matches(&waiting, &record) {
                continue;
            }
            // It may have moved meanwhile, and then it is met again.
            if let Some(before) = seen.insert(waiting.id, waiting) {
                first.remove(&before);
            }
            first.insert(waiting, row(&waiting, &record));
            if first.len() > count
                && let Some((last, _)) = first.pop_last()
            {
                seen.remove(&last.id);
            }
        }
        ControlFlow::Continue(true)
    });
    Ok(first.into_values().collect())
}

/// Cancels messages of a virtual host that wait; how many there were.
///
/// # Errors
/// There is no such virtual host, or no message that waits with the identity that is meant; or the log has failed.
pub fn cancel(broker: &Broker, vhost: &str, which: &Which) -> Result<u64, AdminError> {
    let vhost = admin::find_vhost(broker, vhost)?;
    let mut cancelled = 0;
    if let Some(schedule) = vhost.schedule() {
        cancelled = cancel_in(broker, &schedule, which);
    }
    if let Some(id) = which.id.filter(|_| cancelled == 0) {
        return Err(AdminError::NotScheduled { id, vhost: vhost.name().to_string() });
    }
    if let Some(wal) = broker.wal().filter(|_| cancelled > 0) {
        wal.sync().map_err(AdminError::Unreadable)?;
    }
    Ok(cancelled)
}

fn cancel_in(broker: &Broker, schedule: &Schedule, which: &Which) -> u64 {
    let mut cancelled = 0;
    walk(broker, schedule, |glimpse, chunk| {
        let Some(chunk) = chunk else { return ControlFlow::Continue(which.may_be_in(glimpse)) };
        let records = ready_records(chunk, glimpse.first_seq, &glimpse.ready).into_iter();
        let meant = records.filter(|(waiting, record)| which.matches(waiting, record));
        let ranges: Vec<(Seq, Seq)> = meant.map(|(waiting, _)| (waiting.seq, waiting.seq)).collect();
        if !ranges.is_empty() {
            cancelled += transfer::purge(broker, &schedule.queue, &ranges);
        }
        // There is one of an identity. What was claimed by somebody else is met again, unless it is delivered.
        match which.id.is_some() && cancelled > 0 {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(true),
        }
    });
    cancelled
}

/// Looks at all messages, perhaps at some twice. For each chunk `look` is asked first whether to read it, then shown it; it
/// may end the walk.
///
/// Levels come from the coarsest slots to the finest, so one that moves to a finer slot meanwhile is met there. One that is put
/// back to a coarser slot, or is moving just when it is looked for, is behind what was looked at there: while any has moved,
/// it is gone on from where it was left off.
fn walk(
    broker: &Broker,
    schedule: &Schedule,
    mut look: impl FnMut(&Glimpse<Location>, Option<&Chunk>) -> ControlFlow<(), bool>,
) {
    let mut next: Vec<Seq> = (0..=u8::MAX).map(first_of_level).collect();
    let mut cache = Cache::new(broker);
    loop {
        let moves = schedule.moves();
        for (level, from) in (0..=u8::MAX).zip(&mut next).rev() {
            if walk_level(broker, schedule, (level, from), &mut cache, &mut look).is_break() {
                return;
            }
        }
        if schedule.moves() == moves {
            return;
        }
    }
}

/// Looks at the messages of a level from a number on, and says where it ended.
fn walk_level(
    broker: &Broker,
    schedule: &Schedule,
    (level, from): (u8, &mut Seq),
    cache: &mut Cache,
    look: &mut impl FnMut(&Glimpse<Location>, Option<&Chunk>) -> ControlFlow<(), bool>,
) -> ControlFlow<()> {
    let queue = &schedule.queue;
    let bytes_of = |location: Location| location.len as usize;
    loop {
        let glimpsed = queue
            .lock()
            .machine
            .classic()
            .map(|machine| machine.glimpse_level(level, *from, STEP_BYTES, bytes_of));
        let Some((glimpses, mut more)) = glimpsed else { return ControlFlow::Break(()) };
        for glimpse in &glimpses {
            if look(glimpse, None)? {
                match read_chunk(broker, queue, glimpse.first_seq, &glimpse.residence, cache) {
                    Ok(chunk) => {
                        look(glimpse, Some(&chunk))?;
                    }
                    Err(unread) => {
                        if matches!(unread, Unread::Later) {
                            std::thread::sleep(READ_AGAIN_AFTER);
                        }
                        // It is looked for again, unless it is gone.
                        more = true;
                        break;
                    }
                }
            }
            *from = glimpse.ready.last().map_or(*from, |ready| ready.last + 1);
        }
        if !more {
            return ControlFlow::Continue(());
        }
    }
}

fn row(waiting: &Waiting, record: &Record<'_>) -> ScheduledRow {
    let (exchange, key) = record.exchange_and_key();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let published = HeaderView::parse(record.header()).ok().and_then(delay::as_published);
    ScheduledRow {
        id: format!("{:016x}", waiting.id),
        due_at: waiting.due_ms,
        exchange: text(exchange),
        routing_key: text(key),
        persistent: record.persistent(),
        properties: properties(published.as_deref().unwrap_or(record.header())),
        payload_bytes: record.body().len(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use posthouse_model::chunk::ChunkBuilder;
    use posthouse_queue::machine::chunks::Persistence;
    use posthouse_queue::schedule::wheel::Place;

    use super::*;
    use crate::schedule::reading::add_move;
    use crate::schedule::route_with_id;
    use crate::start::Keep;
    use crate::start::testing::{PLENTY_BYTES, broker};
    use crate::transfer::{Mode, Transfer};

    const HEADER: [u8; 14] = [0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0];

    /// A message with that identity; its number, and the chunk that it is in.
    fn push(schedule: &Schedule, level: u8, id: u64) -> (Seq, Arc<Chunk>) {
        let mut builder = ChunkBuilder::default();
        builder.push(0, 1_000 * id, &route_with_id(b"\0\x01q", id, &[]), &HEADER, 1, b"x");
        let chunk = Arc::new(builder.finish());
        let mut state = schedule.queue.lock();
        let seq = state.machine.push_shared(level, chunk.clone(), Persistence::Transient, 0, &mut Vec::new());
        (seq, chunk)
    }

    #[test]
    fn a_message_that_is_put_back_meanwhile_is_met() {
        let broker = broker(Keep::InMemory, PLENTY_BYTES);
        let schedule = broker.schedule_of(&broker.vhost("/").unwrap()).unwrap();
        push(&schedule, 100, 1);
        let (seq, chunk) = push(&schedule, 5, 2);
        let (mut met, mut moves) = (Vec::new(), 0);
        walk(&broker, &schedule, |glimpse, read| {
            let Some(read) = read else { return ControlFlow::Continue(true) };
            let records = ready_records(read, glimpse.first_seq, &glimpse.ready);
            met.extend(records.iter().map(|(waiting, _)| waiting.id));
            if moves == 0 {
                moves += 1;
                let mut transfer = Transfer::new(&broker, &schedule.queue, Mode::Ready, 0);
                let (waiting, place) =
                    (Waiting { due_ms: 2_000, id: 2, seq }, Place { level: 200, start_ms: 0 });
                add_move(&mut transfer, &schedule.queue, &waiting, &chunk.records().next().unwrap(), place);
                schedule.commit(transfer);
            }
            ControlFlow::Continue(true)
        });
        assert_eq!(met, [1, 2]);
    }

    #[test]
    fn whoever_knows_when_it_is_due_reads_no_other_chunk() {
        let broker = broker(Keep::InMemory, PLENTY_BYTES);
        let schedule = broker.schedule_of(&broker.vhost("/").unwrap()).unwrap();
        for id in 1..=20 {
            push(&schedule, 100, id);
        }
        let which = Which { id: Some(7), due_ms: Some(7_000), filters: Vec::new() };
        let mut read = 0;
        walk(&broker, &schedule, |glimpse, chunk| {
            read += u32::from(chunk.is_some());
            ControlFlow::Continue(chunk.is_none() && which.may_be_in(glimpse))
        });
        assert_eq!(read, 1);
        assert_eq!(cancel(&broker, "/", &which).unwrap(), 1);
        let gone = cancel(&broker, "/", &which).unwrap_err().to_string();
        assert_eq!(gone, "no scheduled message with id 0000000000000007 in vhost '/'");
        assert_eq!(schedule.messages(), 19);
    }
}
