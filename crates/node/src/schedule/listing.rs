//! What an operator sees of messages that wait, and how they are cancelled.

use std::collections::BTreeMap;
use std::sync::Arc;

use posthouse_model::chunk::Chunk;
use posthouse_model::ids::{Seq, first_of_level};
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
    /// What is written on them.
    pub filters: Vec<MessageFilter>,
}

impl Which {
    fn matches(&self, waiting: &Waiting, record: &Record<'_>) -> bool {
        self.id.is_none_or(|id| id == waiting.id) && self.filters.iter().all(|filter| filter.matches(record))
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
    /// Properties that were set, headers among them.
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
        let Some(chunk) = chunk else { return is_of_interest(&first, glimpse.received.first_ms) };
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
        true
    });
    Ok(first.into_values().collect())
}

/// Cancels messages of a virtual host that wait; how many there were.
///
/// # Errors
/// There is no such virtual host, or the log has failed.
pub fn cancel(broker: &Broker, vhost: &str, which: &Which) -> Result<u64, AdminError> {
    let vhost = admin::find_vhost(broker, vhost)?;
    let Some(schedule) = vhost.schedule() else { return Ok(0) };
    let mut cancelled = 0;
    walk(broker, &schedule, |glimpse, chunk| {
        let Some(chunk) = chunk else { return true };
        let records = ready_records(chunk, glimpse.first_seq, &glimpse.ready).into_iter();
        let meant = records.filter(|(waiting, record)| which.matches(waiting, record));
        let ranges: Vec<(Seq, Seq)> = meant.map(|(waiting, _)| (waiting.seq, waiting.seq)).collect();
        if !ranges.is_empty() {
            cancelled += transfer::purge(broker, &schedule.queue, &ranges);
        }
        true
    });
    if let Some(wal) = broker.wal().filter(|_| cancelled > 0) {
        wal.sync().map_err(AdminError::Unreadable)?;
    }
    Ok(cancelled)
}

/// Looks at all messages, from the coarsest slots to the finest: so one that moves meanwhile is met, perhaps twice. For
/// each chunk `look` is asked first whether to read it, then shown it.
fn walk(
    broker: &Broker,
    schedule: &Arc<Schedule>,
    mut look: impl FnMut(&Glimpse<Location>, Option<&Chunk>) -> bool,
) {
    let queue = &schedule.queue;
    let bytes_of = |location: Location| location.len as usize;
    let mut cache = Cache::new(broker);
    for level in (0..=u8::MAX).rev() {
        let mut from = first_of_level(level);
        loop {
            let glimpsed = queue
                .lock()
                .machine
                .classic()
                .map(|machine| machine.glimpse_level(level, from, STEP_BYTES, bytes_of));
            let Some((glimpses, mut more)) = glimpsed else { return };
            for glimpse in &glimpses {
                if look(glimpse, None) {
                    match read_chunk(broker, queue, glimpse.first_seq, &glimpse.residence, &mut cache) {
                        Ok(chunk) => drop(look(glimpse, Some(&chunk))),
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
                from = glimpse.ready.last().map_or(from, |ready| ready.last + 1);
            }
            if !more {
                break;
            }
        }
    }
}

fn row(waiting: &Waiting, record: &Record<'_>) -> ScheduledRow {
    let (exchange, key) = record.exchange_and_key();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    ScheduledRow {
        id: format!("{:016x}", waiting.id),
        due_at: waiting.due_ms,
        exchange: text(exchange),
        routing_key: text(key),
        persistent: record.persistent(),
        properties: properties(record.header()),
        payload_bytes: record.body().len(),
    }
}
