//! The firehose: while tracing is on in a virtual host, what is published and delivered there is copied to the
//! exchange `amq.rabbitmq.trace`, with RabbitMQ's keys and headers.
//!
//! A copy has the body of the message; its properties and where it was on its way are headers. Copies are not durable
//! and not traced themselves.

use posthouse_model::field::{FieldTable, FieldValue};
use posthouse_model::ids::QueueId;
use posthouse_model::named_props::PropertyValue;
use posthouse_model::props::{HeaderView, Properties};
use posthouse_model::raw_table::RawValue;
use posthouse_node::NODE_NAME;
use posthouse_node::queue_handle::QueueHandle;
use posthouse_queue::machine::Run;

use super::session::Session;

/// Where copies are published.
const EXCHANGE: &str = "amq.rabbitmq.trace";

/// A message on its way.
#[derive(Clone, Copy)]
pub(crate) struct Traced<'a> {
    /// The exchange it was published to.
    pub exchange: &'a str,
    /// Its routing key.
    pub key: &'a str,
    /// Its content header.
    pub header: HeaderView<'a>,
    /// Its body.
    pub body: &'a [u8],
}

impl Session {
    /// Copies a message that was published on channel `number` and goes to these queues.
    pub(crate) fn trace_publish(&mut self, number: u16, message: Traced<'_>, queues: &[QueueId]) {
        let vhost = self.peer.vhost.clone();
        let names = queues.iter().filter_map(|&id| vhost.queue_by_id(id));
        let names = names.map(|queue| FieldValue::string(&queue.definition.name)).collect();
        let key = format!("publish.{}", message.exchange);
        self.trace(number, &key, message, ("routed_queues", FieldValue::Array(names)));
    }

    /// Copies messages that are delivered from `queue` on channel `number`.
    pub(crate) fn trace_deliveries(&mut self, number: u16, queue: &QueueHandle, runs: &[Run]) {
        let copy_key = format!("deliver.{}", queue.definition.name);
        for run in runs {
            let mut offset = run.offset;
            for _ in 0..run.count {
                let Some(record) = run.chunk.record_at(offset) else { break };
                offset += record.len() as u32;
                let Ok(header) = HeaderView::parse(record.header()) else { continue };
                let (exchange, key) = record.exchange_and_key();
                let (Ok(exchange), Ok(key)) = (str::from_utf8(exchange), str::from_utf8(key)) else {
                    continue;
                };
                let message = Traced { exchange, key, header, body: record.body() };
                let redelivered = FieldValue::I32(i32::from(run.redelivered || record.redelivered()));
                self.trace(number, &copy_key, message, ("redelivered", redelivered));
            }
        }
        self.publisher.flush();
    }

    fn trace(&mut self, number: u16, key: &str, message: Traced<'_>, more: (&str, FieldValue)) {
        if message.exchange == EXCHANGE {
            return;
        }
        let vhost = self.peer.vhost.clone();
        let queues = vhost.route_own(EXCHANGE, key, None);
        let Some(slot) = self.slot_for(&queues) else { return };
        let mut headers = self.traced_headers(number, message);
        headers.push((more.0.to_owned(), more.1));
        let properties = Properties { headers: Some(FieldTable(headers)), ..Properties::default() };
        let mut header = Vec::new();
        properties.encode(message.body.len() as u64, &mut header);
        let key = &key[..key.floor_char_boundary(255)];
        let mut route = Vec::with_capacity(2 + EXCHANGE.len() + key.len());
        for text in [EXCHANGE, key] {
            route.push(text.len() as u8);
            route.extend_from_slice(text.as_bytes());
        }
        self.append_own(slot, false, &route, &header, message.body);
    }

    fn traced_headers(&self, number: u16, message: Traced<'_>) -> Vec<(String, FieldValue)> {
        let text = |text: &str| FieldValue::string(text);
        let entries = [
            ("exchange_name", text(message.exchange)),
            ("routing_keys", FieldValue::Array(routing_keys(message))),
            ("properties", FieldValue::Table(properties(message.header))),
            ("node", text(NODE_NAME)),
            ("vhost", text(self.peer.vhost.name())),
            ("connection", text(&self.peer.info.name)),
            ("channel", FieldValue::I32(number.into())),
            ("user", text(&self.peer.identity.user)),
        ];
        entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// The routing key and those of the `CC` header; `BCC` is nobody's business.
fn routing_keys(message: Traced<'_>) -> Vec<FieldValue> {
    let mut keys = vec![FieldValue::string(message.key)];
    if let Some(RawValue::Array(more)) = message.header.headers().and_then(|table| table.get(b"CC")) {
        keys.extend(more.iter().filter_map(|key| FieldValue::from_raw_value(key).ok()));
    }
    keys
}

/// A message's properties as a table: texts, numbers, and the headers. Headers that cannot be read are left out.
fn properties(header: HeaderView<'_>) -> FieldTable {
    let number = |number: u64| i32::try_from(number).map_or(FieldValue::I64(number as i64), FieldValue::I32);
    let value = |value| match value {
        PropertyValue::Text(text) => Some(FieldValue::LongStr(text.to_vec())),
        PropertyValue::Number(value) => Some(number(value)),
        PropertyValue::Table(table) => FieldTable::from_raw_table(table).ok().map(FieldValue::Table),
    };
    let set =
        header.properties().filter_map(|(property, set)| Some((property.name().to_owned(), value(set)?)));
    FieldTable(set.collect())
}
