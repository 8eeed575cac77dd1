//! What `posthouse bench amqp` is to run, checked: who publishes what, where to, and who takes it.

use clap::ValueEnum;
use posthouse_model::field::{FieldTable, FieldValue};

use super::uri::Uri;

/// Why messages are dead-lettered.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum DeadLetter {
    /// A consumer rejects them.
    Rejected,
    /// Their time to live is over, 100 ms after they came.
    Expired,
    /// Their queue has no room for any.
    Maxlen,
}

/// Which halves of a run take place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Roles {
    /// At the same time.
    Both,
    /// Only publishing.
    Publish,
    /// Only consuming.
    Consume,
    /// One after the other.
    Backlog,
}

/// Where producers publish to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Exchange {
    /// The default exchange: the key is the queue.
    Default,
    /// Declared for the run with this type.
    Own(&'static str),
    /// There already; queues are bound with their name as key.
    Existing(String),
}

/// What runs instead of messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Workload {
    /// Messages.
    Messages,
    /// Idle connections, so many.
    Connections(usize),
    /// Declarations, so many.
    Declares(usize),
    /// Bindings of one queue, so many.
    Bindings(usize),
    /// Queues with a message each that expires, so many.
    Expiring(usize),
}

/// What to run, checked.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// The broker.
    pub(super) uri: Uri,
    /// Publishing connections.
    pub(super) producers: usize,
    /// Consuming connections.
    pub(super) consumers: usize,
    /// Queues, below 100,000.
    pub(super) queues: usize,
    /// Bytes of a body.
    pub(super) size: usize,
    /// Measured seconds.
    pub(super) seconds: f64,
    /// Seconds before.
    pub(super) warmup: f64,
    /// Exact count, all producers together.
    pub(super) messages: Option<u64>,
    /// All producers together, per second.
    pub(super) rate: Option<f64>,
    /// Durable and delivery mode 2.
    pub(super) persistent: bool,
    /// Outstanding confirms of a producer.
    pub(super) confirm: Option<u32>,
    /// `None` for automatic.
    pub(super) ack_every: Option<u64>,
    /// 0 for no limit.
    pub(super) prefetch: u16,
    /// Where to publish.
    pub(super) exchange: Exchange,
    /// For queue.declare.
    pub(super) queue_args: FieldTable,
    /// Queues each producer publishes to in turn.
    pub(super) keys: usize,
    /// Priorities that messages have in turn; 1 for none.
    pub(super) priorities: usize,
    /// Groups that messages are of in turn; 0 for none.
    pub(super) groups: usize,
    /// Whether each message has a deduplication header of its own.
    pub(super) unique: bool,
    /// Why messages are dead-lettered before they are consumed, if they are.
    pub(super) dead_letter: Option<DeadLetter>,
    /// `x-delay` of every message, in milliseconds.
    pub(super) delay_ms: Option<u64>,
    /// Which halves.
    pub(super) roles: Roles,
    /// Leave queues behind.
    pub(super) keep: bool,
    /// Start of names.
    pub(super) name: String,
    /// Measure latencies.
    pub(super) latency: bool,
    /// Process to watch.
    pub(super) broker_pid: Option<u32>,
    /// JSON summary.
    pub(super) json: bool,
    /// Messages or something else.
    pub(super) workload: Workload,
}

impl Plan {
    /// Queue number `queue`, as long as every other's name.
    pub(super) fn queue_name(&self, queue: usize) -> String {
        format!("{}-{queue:05}", self.name)
    }

    /// The queue where dead letters of queue number `queue` go.
    pub(super) fn letters_name(&self, queue: usize) -> String {
        format!("{}-letters-{queue:05}", self.name)
    }

    /// Where consumers get the messages of queue number `queue`.
    pub(super) fn consumed_name(&self, queue: usize) -> String {
        if self.dead_letter.is_some() { self.letters_name(queue) } else { self.queue_name(queue) }
    }

    /// The arguments of queue number `queue`.
    pub(super) fn arguments_of(&self, queue: usize) -> FieldTable {
        let mut arguments = self.queue_args.clone();
        let Some(reason) = self.dead_letter else { return arguments };
        let mut add = |name: &str, value| arguments.0.push((name.to_owned(), value));
        add("x-dead-letter-exchange", FieldValue::string(""));
        add("x-dead-letter-routing-key", FieldValue::string(&self.letters_name(queue)));
        match reason {
            DeadLetter::Rejected => {}
            DeadLetter::Expired => add("x-message-ttl", FieldValue::I32(100)),
            DeadLetter::Maxlen => add("x-max-length", FieldValue::I32(0)),
        }
        arguments
    }

    /// The exchange's name on the wire.
    pub(super) fn exchange_name(&self) -> String {
        match &self.exchange {
            Exchange::Default => String::new(),
            Exchange::Own(_) => format!("{}-exchange", self.name),
            Exchange::Existing(name) => name.clone(),
        }
    }

    /// Whether the queues are streams, of which every consumer gets every message.
    pub(super) fn reads_stream(&self) -> bool {
        self.queue_args.get("x-queue-type") == Some(&FieldValue::string("stream"))
    }

    /// The arguments of a consumer. One of a stream begins at its beginning.
    pub(super) fn consumer_arguments(&self) -> FieldTable {
        if !self.reads_stream() {
            return FieldTable::default();
        }
        FieldTable(vec![("x-stream-offset".to_owned(), FieldValue::string("first"))])
    }

    /// Whether every queue gets every message.
    pub(super) fn is_fanout(&self) -> bool {
        matches!(&self.exchange, Exchange::Own("fanout"))
            || matches!(&self.exchange, Exchange::Existing(name) if name == "amq.fanout")
    }

    /// The queue that producer `producer` reaches with its route `route`.
    pub(super) fn queue_of(&self, producer: usize, route: usize) -> usize {
        (producer * self.keys + route) % self.queues
    }

    /// How many series a producer's messages to a queue make, in turn: each keeps its order, whatever becomes of the others.
    pub(super) fn series(&self) -> usize {
        self.priorities.max(self.groups)
    }

    /// The messages producer `producer` is to publish, if an exact count was asked for.
    pub(super) fn quota(&self, producer: usize) -> Option<u64> {
        let (all, of) = (self.messages?, self.producers as u64);
        Some(all / of + u64::from((producer as u64) < all % of))
    }
}
