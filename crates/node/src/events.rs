//! Events: what happens in the broker is published to the exchange `amq.rabbitmq.event` of one virtual host, with
//! RabbitMQ's keys and headers.
//!
//! Whoever makes something happen only looks whether anything is bound to the exchange, and then hands the event to a
//! thread, never waiting: some do so under a lock. What the thread cannot take is lost, and the log says so.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

use posthouse_model::exchange::ExchangeKind;
use posthouse_model::field::{FieldTable, FieldValue};
use posthouse_model::name::Name;
use posthouse_model::props::Properties;
use posthouse_queue::topology::{BindingRecord, DestinationName, ExchangeRecord, TopologyChange, Watched};
use serde_json::Value;

use crate::broker::Broker;
use crate::clock::now_ms;
use crate::publish::Publisher;
use crate::queue_handle::QueueHandle;
use crate::vhost::{Inner, REPLY_QUEUE_PREFIX, VirtualHost};

/// Where events are published.
pub const EXCHANGE: &str = "amq.rabbitmq.event";
/// Who does what an operator asks for.
pub const OPERATOR: &str = "rmq-cli";
/// Who does what nobody asked for.
const NOBODY: &str = "rmq-internal";
/// Events that wait to be published.
const WAITING_MAX: usize = 64 << 10;
/// Events published together.
const BATCH_MAX: usize = 256;

thread_local! {
    /// On whose behalf this thread is acting.
    static ACTOR: RefCell<Option<Name>> = const { RefCell::new(None) };
}

/// Does something on behalf of a user, whom events will name.
pub fn acting<T>(user: &Name, act: impl FnOnce() -> T) -> T {
    let before = ACTOR.replace(Some(user.clone()));
    let outcome = act();
    ACTOR.set(before);
    outcome
}

/// The headers of an event.
#[derive(Debug, Default)]
pub struct Fields(Vec<(String, FieldValue)>);

impl Fields {
    /// With a header of any type.
    #[must_use]
    pub fn with(mut self, name: &str, value: FieldValue) -> Self {
        self.0.push((name.to_owned(), value));
        self
    }

    /// With a text.
    #[must_use]
    pub fn text(self, name: &str, value: &str) -> Self {
        self.with(name, FieldValue::string(value))
    }

    /// With a truth value.
    #[must_use]
    pub fn flag(self, name: &str, value: bool) -> Self {
        self.with(name, FieldValue::Bool(value))
    }

    /// With a number.
    #[must_use]
    pub fn number(self, name: &str, value: u64) -> Self {
        self.with(name, FieldValue::I64(i64::try_from(value).unwrap_or(i64::MAX)))
    }

    /// With limits: one number for each.
    #[must_use]
    pub fn limits(self, limits: &Value) -> Self {
        let numbers = limits.as_object().into_iter().flatten();
        numbers.fold(self, |fields, (name, limit)| {
            fields.with(name, FieldValue::I64(limit.as_i64().unwrap_or_default()))
        })
    }

    /// With a list of texts.
    #[must_use]
    pub fn texts(self, name: &str, values: &[String]) -> Self {
        self.with(name, FieldValue::Array(values.iter().map(|value| FieldValue::string(value)).collect()))
    }
}

struct Event {
    key: &'static str,
    headers: FieldTable,
    at_ms: u64,
}

/// What the thread is told.
#[derive(Debug)]
enum Told {
    Event(Event),
    /// The broker stops.
    Stop,
}

/// Takes events in.
#[derive(Debug)]
pub struct Events {
    /// The virtual host that has the exchange; none when there are no events.
    vhost: Option<Name>,
    /// Whether anything is bound to it.
    is_bound: AtomicBool,
    /// To the thread; absent until the broker has started.
    sender: OnceLock<SyncSender<Told>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    lost: AtomicU64,
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Event").field("key", &self.key).finish_non_exhaustive()
    }
}

impl Events {
    /// Events that go to a virtual host, if it exists.
    pub(crate) fn new(vhost: Option<Name>) -> Self {
        let (is_bound, sender, lost) = (AtomicBool::new(false), OnceLock::new(), AtomicU64::new(0));
        Self { vhost, is_bound, sender, thread: Mutex::default(), lost }
    }

    /// Whether they go to this virtual host.
    pub(crate) fn are_of(&self, vhost: &Name) -> bool {
        self.vhost.as_ref() == Some(vhost)
    }

    /// Whether anybody would get an event. Costs one look at memory.
    #[inline]
    pub fn are_wanted(&self) -> bool {
        self.is_bound.load(Ordering::Relaxed)
    }

    /// Says whether anything is bound to the exchange.
    pub(crate) fn set_bound(&self, bound: bool) {
        self.is_bound.store(bound, Ordering::Relaxed);
    }

    /// Something has happened. Never waits.
    pub fn emit(&self, key: &'static str, fields: impl FnOnce(Fields) -> Fields) {
        if !self.are_wanted() {
            return;
        }
        let Some(sender) = self.sender.get() else { return };
        let at_ms = now_ms();
        let actor = ACTOR.with_borrow(|actor| actor.as_ref().map(Name::to_string));
        let fields = fields(Fields::default())
            .text("user_who_performed_action", actor.as_deref().unwrap_or(NOBODY))
            .number("timestamp_in_ms", at_ms);
        let event = Event { key, headers: FieldTable(fields.0), at_ms };
        if sender.try_send(Told::Event(event)).is_err() {
            let lost = self.lost.fetch_add(1, Ordering::Relaxed) + 1;
            if lost.is_power_of_two() {
                tracing::warn!(lost, "events are lost: more happen than can be published");
            }
        }
    }

    /// Publishes what has happened until now, and ends the thread.
    pub(crate) fn stop(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let (Some(sender), Some(thread)) = (self.sender.get(), thread) {
            // From here on nothing is wanted, and what happens is not lost but over.
            self.set_bound(false);
            let _ = sender.send(Told::Stop);
            if thread.join().is_err() {
                tracing::error!("the thread that publishes events has panicked");
            }
        }
    }

    /// What has changed in a virtual host's topology.
    pub(crate) fn emit_changes(&self, vhost: &Name, inner: &mut Inner) {
        let changes = inner.topology.take_watched();
        if !self.are_wanted() {
            return;
        }
        for change in changes {
            match change {
                Watched::ExchangeAdded(exchange) => {
                    let applied = inner.exchange_policy(&exchange.name);
                    let policy = applied.and_then(|applied| applied.policy).map(|name| name.to_string());
                    let fields =
                        |fields| exchange_fields(fields, vhost, &exchange, &policy.unwrap_or_default());
                    self.emit("exchange.created", fields);
                }
                Watched::ExchangeRemoved(name) => {
                    self.emit("exchange.deleted", |fields| fields.text("name", &name).text("vhost", vhost));
                }
                Watched::QueueAdded(id) => {
                    let Some(queue) = inner.queues.get(&id) else { continue };
                    let definition = &queue.definition;
                    if definition.name.starts_with(REPLY_QUEUE_PREFIX) {
                        continue;
                    }
                    self.emit("queue.created", |fields| queue_fields(fields, queue));
                }
                Watched::QueueRemoved(name) if name.starts_with(REPLY_QUEUE_PREFIX) => {}
                Watched::QueueRemoved(name) => {
                    self.emit("queue.deleted", |fields| fields.text("name", &name).text("vhost", vhost));
                }
                Watched::Bound(binding) => {
                    self.emit("binding.created", |fields| binding_fields(fields, vhost, &binding));
                }
                Watched::Unbound(binding) => {
                    self.emit("binding.deleted", |fields| binding_fields(fields, vhost, &binding));
                }
            }
        }
    }
}

/// The headers of an event about a queue.
pub(crate) fn queue_fields(fields: Fields, queue: &QueueHandle) -> Fields {
    let definition = &queue.definition;
    let setup = queue.lock().setup.clone();
    fields
        .text("name", &definition.name)
        .text("vhost", &definition.vhost)
        .text("type", setup.kind().name())
        .flag("durable", definition.durable)
        .flag("auto_delete", definition.auto_delete)
        .flag("exclusive", definition.owner.is_some())
        .with("arguments", FieldValue::Table(setup.arguments))
}

fn exchange_fields(fields: Fields, vhost: &str, exchange: &ExchangeRecord, policy: &str) -> Fields {
    fields
        .text("name", &exchange.name)
        .text("vhost", vhost)
        .text("type", exchange.kind.name())
        .flag("durable", exchange.durable)
        .flag("auto_delete", exchange.auto_delete)
        .flag("internal", exchange.internal)
        .with("arguments", FieldValue::Table(exchange.arguments.clone()))
        .text("policy", policy)
}

fn binding_fields(fields: Fields, vhost: &str, binding: &BindingRecord) -> Fields {
    let kind = match binding.destination {
        DestinationName::Queue(_) => "queue",
        DestinationName::Exchange(_) => "exchange",
    };
    fields
        .text("source_name", &binding.source)
        .text("source_kind", "exchange")
        .text("destination_name", binding.destination.name())
        .text("destination_kind", kind)
        .text("routing_key", &binding.routing_key)
        .text("vhost", vhost)
        .with("arguments", FieldValue::Table(binding.arguments.clone()))
}

/// Gives the virtual host that events go to its exchange, which is not kept: whether there is one is a setting.
pub(crate) fn add_exchange(broker: &Broker, vhost: &VirtualHost) {
    if !broker.events().are_of(vhost.name()) {
        return;
    }
    let exchange = ExchangeRecord {
        name: Name::truncated(EXCHANGE),
        kind: ExchangeKind::Topic,
        durable: true,
        auto_delete: false,
        internal: true,
        arguments: FieldTable::default(),
    };
    vhost.change(|inner| inner.topology.restore(&TopologyChange::PutExchange(exchange)));
}

/// Starts the thread that publishes, when there is something to publish to.
///
/// # Errors
/// When the system has no room for a thread.
pub(crate) fn start(broker: &Arc<Broker>) -> std::io::Result<()> {
    let events = broker.events();
    let Some(vhost) = events.vhost.clone() else { return Ok(()) };
    let (sender, receiver) = sync_channel(WAITING_MAX);
    let weak = Arc::downgrade(broker);
    let thread = std::thread::Builder::new().name("events".into()).spawn(move || {
        let mut goes_on = true;
        while goes_on && let Ok(first) = receiver.recv() {
            let mut batch = Vec::new();
            for told in std::iter::once(first).chain(receiver.try_iter().take(BATCH_MAX - 1)) {
                match told {
                    Told::Event(event) => batch.push(event),
                    Told::Stop => goes_on = false,
                }
            }
            let Some(broker) = weak.upgrade() else { return };
            if let Ok(vhost) = broker.vhost(&vhost) {
                publish(&broker, &vhost, &batch);
            }
        }
    })?;
    *events.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
    // Nobody has set it before.
    let _ = events.sender.set(sender);
    Ok(())
}

fn publish(broker: &Arc<Broker>, vhost: &VirtualHost, events: &[Event]) {
    /// Nobody is told that a queue has no room for an event.
    const ORIGIN: (u16, u64) = (0, 0);
    let mut publisher = Publisher::new(broker.clone(), Arc::default());
    for event in events {
        let queues = vhost.route_own(EXCHANGE, event.key, None);
        let Some(slot) = publisher.slot(&queues, |id| vhost.queue_by_id(id)) else { continue };
        let properties = Properties {
            delivery_mode: Some(2),
            timestamp: Some(event.at_ms / 1000),
            headers: Some(event.headers.clone()),
            ..Properties::default()
        };
        let mut header = Vec::new();
        properties.encode(0, &mut header);
        let mut route = Vec::new();
        for text in [EXCHANGE, event.key] {
            route.push(text.len() as u8);
            route.extend_from_slice(text.as_bytes());
        }
        publisher.received_ms = event.at_ms;
        publisher.append(slot, true, &route, &header, &[]);
        if publisher.may_refuse(slot) {
            publisher.note_origin(slot, ORIGIN);
        }
    }
    publisher.flush();
}
