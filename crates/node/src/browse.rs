//! Showing a queue's messages that are not handed out to an operator. Nothing is taken: no flag, count or place changes, and consumers
//! are not held up for longer than it takes to list a few chunks.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use posthouse_model::chunk::Chunk;
use posthouse_model::errors;
use posthouse_model::field::FieldTable;
use posthouse_model::ids::Seq;
use posthouse_model::named_props::PropertyValue;
use posthouse_model::props::HeaderView;
use posthouse_model::record::Record;
use posthouse_queue::machine::browse::{Glimpse, Ready};
use posthouse_storage::StorageError;
use posthouse_storage::segment::{Location, is_gone};
use serde::Serialize;
use serde_json::Value;

use crate::admin::AdminError;
use crate::broker::Broker;
use crate::listings::table_value;
use crate::message_filter::MessageFilter;
use crate::queue_handle::QueueHandle;

/// Messages shown at most.
pub const COUNT_MAX: usize = 1_000;

/// Bytes of one body shown unless another number is asked for.
pub const BODY_BYTES: usize = 50_000;

/// Messages looked at in one call at most, so that a filter that matches nothing ends.
const LOOKED_AT_MAX: u64 = 10_000_000;

/// Bytes of records listed under one lock of the queue.
const STEP_BYTES: usize = 1 << 20;

/// How often a chunk is looked up anew when it is not where it was.
pub(crate) const TRIES_MAX: u32 = 10;

/// Bytes of bodies in one answer.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// What to show.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// How many ready messages come before the first one looked at.
    pub skip: u64,
    /// How many to show, at most [`COUNT_MAX`].
    pub count: usize,
    /// Which: those for which all of these hold.
    pub filters: Vec<MessageFilter>,
    /// Bytes of a body that are shown; the rest is cut.
    pub body_bytes: usize,
}

/// A message.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct MessageRow {
    /// How many such messages come before it now.
    pub position: u64,
    /// Its number in its queue, which it keeps.
    pub number: Seq,
    /// Whether it may have been delivered before.
    pub redelivered: bool,
    /// When it is ready, if it came back and waits for that; milliseconds since the Unix epoch.
    pub delayed_until: Option<u64>,
    /// Exchange it was published to.
    pub exchange: String,
    /// Routing key it was published with.
    pub routing_key: String,
    /// When the broker received it, milliseconds since the Unix epoch.
    pub received_at: u64,
    /// Properties that were set, headers among them.
    pub properties: Value,
    /// Bytes of its body.
    pub payload_bytes: usize,
    /// The body, or the beginning of it.
    pub payload: String,
    /// `string` for UTF-8, or `base64`.
    pub payload_encoding: &'static str,
    /// Whether the body is cut.
    pub truncated: bool,
}

/// Shows ready and delayed messages of a queue in the order in which they would be delivered, if no delay were.
///
/// # Errors
/// There is no such virtual host or queue; a segment cannot be read.
pub fn browse(
    broker: &Broker,
    vhost: &str,
    queue: &str,
    request: &Request,
) -> Result<Vec<MessageRow>, AdminError> {
    let vhost = broker.vhost(vhost).map_err(|_| AdminError::NoSuchVhost(vhost.to_owned()))?;
    let found = vhost.find_queue(queue);
    let found = found.ok_or_else(|| AdminError::Reply(errors::no_queue(vhost.name(), queue)))?;
    let first = found.lock().machine.nth_ready(request.skip);
    let mut view =
        View { request, rows: Vec::new(), position: request.skip, body_bytes: 0, next_number: None };
    let (mut next, mut tries) = (first, 0);
    while let Some(from) = next {
        let walked =
            walk(broker, &found, from, &mut |number, ready, record| view.look_at(number, ready, record));
        match walked {
            Ok(after) => (next, tries) = (after, 0),
            // A chunk was settled or moved to another segment meanwhile, after which it is looked up anew.
            Err(problem) if is_gone(&problem) && tries < TRIES_MAX => {
                next = Some(view.next_number.unwrap_or(from));
                tries += 1;
            }
            Err(problem) => return Err(AdminError::Unreadable(problem)),
        }
    }
    Ok(view.rows)
}

/// Looks at the ready and delayed messages of the next chunks, numbered `from` or above in its level or of lower levels:
/// their number, what is known of where they stand, and the record; `look` says whether to go on. The number to go on
/// from, or none when nothing is left or `look` had enough.
pub(crate) fn walk(
    broker: &Broker,
    queue: &QueueHandle,
    from: Seq,
    look: &mut dyn FnMut(Seq, &Ready, &Record<'_>) -> bool,
) -> Result<Option<Seq>, StorageError> {
    let glimpses = {
        let mut state = queue.lock();
        if state.deleted {
            return Ok(None);
        }
        state.machine.glimpse(from, STEP_BYTES, |location: Location| location.len as usize)
    };
    let mut next = None;
    for glimpse in &glimpses {
        let Some(chunk) = read(broker, queue, glimpse)? else { continue };
        for ready in &glimpse.ready {
            let place = chunk.find((ready.first - glimpse.first_seq) as u32);
            let mut offset = place.map_or(u32::MAX, |place| place.offset);
            while let Some(record) = chunk.record_at(offset) {
                let number = glimpse.first_seq + Seq::from(record.delta());
                if number > ready.last {
                    break;
                }
                if !look(number, ready, &record) {
                    return Ok(None);
                }
                offset += record.len() as u32;
            }
            next = Some(ready.last + 1);
        }
    }
    Ok(next)
}

/// A glimpsed chunk's bytes; none when it is nowhere, which is only so of a queue without storage.
fn read(
    broker: &Broker,
    queue: &QueueHandle,
    glimpse: &Glimpse<Location>,
) -> Result<Option<Arc<Chunk>>, StorageError> {
    let segments = match (glimpse.residence.chunk(), broker.segments()) {
        (Some(chunk), _) => return Ok(Some(chunk.clone())),
        (None, Some(segments)) => segments,
        (None, None) => return Ok(None),
    };
    let Some(location) = glimpse.residence.location() else { return Ok(None) };
    segments.read(&location, queue.id, glimpse.first_seq).map(|chunk| Some(Arc::new(chunk)))
}

/// What was seen so far.
struct View<'a> {
    request: &'a Request,
    rows: Vec<MessageRow>,
    position: u64,
    body_bytes: usize,
    /// The number after the last message looked at.
    next_number: Option<Seq>,
}

impl View<'_> {
    /// Looks at one message; false when it is the last to be looked at.
    fn look_at(&mut self, number: Seq, ready: &Ready, record: &Record<'_>) -> bool {
        let request = self.request;
        let full = self.rows.len() >= request.count.min(COUNT_MAX) || self.body_bytes >= ANSWER_BYTES_MAX;
        if full || self.position - request.skip >= LOOKED_AT_MAX {
            return false;
        }
        if request.filters.iter().all(|filter| filter.matches(record)) {
            let row = row(self.position, number, ready, record, request.body_bytes);
            self.body_bytes += row.payload.len();
            self.rows.push(row);
        }
        self.position += 1;
        self.next_number = Some(number + 1);
        true
    }
}

fn row(position: u64, number: Seq, ready: &Ready, record: &Record<'_>, body_bytes: usize) -> MessageRow {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (exchange, key) = record.exchange_and_key();
    let body = record.body();
    let whole = std::str::from_utf8(body);
    let (payload, payload_encoding) = match whole {
        Ok(body) => (body[..body.floor_char_boundary(body_bytes)].to_owned(), "string"),
        Err(_) => (STANDARD.encode(&body[..body.len().min(body_bytes)]), "base64"),
    };
    MessageRow {
        position,
        number,
        redelivered: ready.redelivered || record.redelivered(),
        delayed_until: ready.delayed_until_ms,
        exchange: text(exchange),
        routing_key: text(key),
        received_at: record.received_ms(),
        properties: properties(record.header()),
        payload_bytes: body.len(),
        payload,
        payload_encoding,
        truncated: body.len() > body_bytes,
    }
}

/// The properties that are set, under the management API's names. Headers that cannot be read are left out.
pub(crate) fn properties(header: &[u8]) -> Value {
    let Ok(header) = HeaderView::parse(header) else { return Value::Null };
    let value = |value| match value {
        PropertyValue::Text(text) => Some(Value::from(String::from_utf8_lossy(text))),
        PropertyValue::Number(number) => Some(Value::from(number)),
        PropertyValue::Table(table) => {
            FieldTable::from_raw_table(table).ok().map(|table| table_value(&table))
        }
    };
    let set =
        header.properties().filter_map(|(property, set)| Some((property.name().to_owned(), value(set)?)));
    Value::Object(set.collect())
}

#[cfg(test)]
mod tests {
    use posthouse_model::field::FieldValue;
    use posthouse_model::props::Properties;

    use super::*;
    use crate::declare::QueueDeclaration;
    use crate::deliver;
    use crate::publish::Publisher;
    use crate::start::Keep;
    use crate::start::testing::{PLENTY_BYTES, broker, in_small_files};

    /// A queue `q` with so many messages: `message_id` is the number, `headers.even` whether it is even.
    fn fill(broker: &Arc<Broker>, count: u32, body: &[u8]) -> Arc<QueueHandle> {
        let vhost = broker.vhost("/").unwrap();
        let declaration = QueueDeclaration { name: "q".into(), ..QueueDeclaration::default() };
        let queue = broker.declare_queue(&vhost, declaration, 0).unwrap().queue;
        let mut publisher = Publisher::new(broker.clone(), Arc::default());
        for number in 0..count {
            publisher.received_ms = u64::from(number) * 10;
            let slot = publisher.slot(&[queue.id], |id| vhost.queue_by_id(id)).unwrap();
            let even = vec![("even".to_owned(), FieldValue::Bool(number % 2 == 0))];
            let properties = Properties {
                message_id: Some(number.to_string()),
                headers: Some(FieldTable(even)),
                ..Properties::default()
            };
            let mut header = Vec::new();
            properties.encode(body.len() as u64, &mut header);
            publisher.append(slot, false, b"\0\x01q", &header, body);
            publisher.flush();
        }
        queue
    }

    fn ids(rows: &[MessageRow]) -> Vec<(u64, String)> {
        let id = |row: &MessageRow| row.properties["message_id"].as_str().unwrap().to_owned();
        rows.iter().map(|row| (row.position, id(row))).collect()
    }

    #[test]
    fn places_filters_and_limits() {
        let broker = broker(Keep::InMemory, PLENTY_BYTES);
        let queue = fill(&broker, 10, b"hello");
        deliver::get(&broker, &queue, true, &Arc::default());
        let shown = |request: Request| browse(&broker, "/", "q", &request).unwrap();
        let two = shown(Request { skip: 3, count: 2, body_bytes: 2, ..Request::default() });
        assert_eq!(ids(&two), [(3, "4".to_owned()), (4, "5".to_owned())]);
        let first = &two[0];
        assert_eq!((first.payload.as_str(), first.payload_bytes, first.truncated), ("he", 5, true));
        assert_eq!((first.received_at, first.routing_key.as_str(), first.number), (40, "q", 4));
        assert_eq!(first.properties["headers"]["even"], Value::from(true));
        let filters = vec![MessageFilter::parse("headers.even=true").unwrap()];
        let even = shown(Request { count: 3, filters, ..Request::default() });
        assert_eq!(ids(&even), [(1, "2".to_owned()), (3, "4".to_owned()), (5, "6".to_owned())]);
        assert_eq!(shown(Request { skip: 9, count: 5, ..Request::default() }), []);
        assert_eq!(queue.lock().machine.ready(), 9, "nothing was taken");
    }

    #[test]
    fn a_backlog_in_segments_is_seen_without_being_loaded() {
        let data = tempfile::tempdir().unwrap();
        let broker = broker(in_small_files(data.path()), PLENTY_BYTES);
        let queue = fill(&broker, 100, &[0xff; 100 << 10]);
        let patience = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while queue.lock().spilling || queue.lock().machine.memory_bytes() > 6 << 20 {
            assert!(std::time::Instant::now() < patience, "not written to segments");
            std::thread::yield_now();
        }
        let before = queue.lock().machine.memory_bytes();
        let rows = browse(&broker, "/", "q", &Request { count: 1_000, ..Request::default() }).unwrap();
        let expected: Vec<_> = (0..100).map(|number| (number, number.to_string())).collect();
        assert_eq!(ids(&rows), expected);
        assert!(rows.iter().all(|row| row.payload_encoding == "base64" && row.payload_bytes == 100 << 10));
        assert_eq!(queue.lock().machine.memory_bytes(), before);
    }

    #[test]
    fn what_does_not_exist_is_named() {
        let broker = broker(Keep::InMemory, PLENTY_BYTES);
        let text = |vhost| browse(&broker, vhost, "nosuch", &Request::default()).unwrap_err().to_string();
        assert_eq!(text("/"), "no queue 'nosuch' in vhost '/'");
        assert_eq!(text("x"), "virtual host 'x' does not exist");
    }
}
