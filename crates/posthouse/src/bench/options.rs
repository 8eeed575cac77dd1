//! `posthouse bench amqp`: its flags, and the checked plan they make.

use clap::{Args, ValueEnum};
use posthouse_model::field::{FieldTable, FieldValue};

use super::uri::Uri;

/// Flags of `posthouse bench amqp`.
#[derive(Args, Debug, Clone)]
pub(crate) struct AmqpArgs {
    /// Broker: amqp://user:password@host:port/vhost
    #[arg(long, value_name = "URI", default_value = "amqp://guest:guest@127.0.0.1:5672/")]
    uri: Uri,
    /// Publishing connections
    #[arg(long, value_name = "N", default_value_t = 1)]
    producers: u16,
    /// Consuming connections
    #[arg(long, value_name = "N", default_value_t = 1)]
    consumers: u16,
    /// Queues; producer i publishes to queue i modulo N, consumers share them out
    #[arg(long, value_name = "N")]
    queues: Option<usize>,
    /// Bytes of a body; 16 are needed for full checking
    #[arg(long, value_name = "BYTES", default_value_t = 16)]
    size: usize,
    /// Seconds measured, after the warm-up
    #[arg(long, value_name = "S", default_value_t = 10.0)]
    seconds: f64,
    /// Seconds not measured at the start
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    warmup: f64,
    /// Publish exactly so many messages, however long it takes, and measure all of it
    #[arg(long, value_name = "N")]
    messages: Option<u64>,
    /// Messages per second of all producers together
    #[arg(long, value_name = "N")]
    rate: Option<f64>,
    /// Durable queues and delivery mode 2
    #[arg(long)]
    persistent: bool,
    /// Publisher confirms with so many outstanding per producer
    #[arg(long, value_name = "N")]
    confirm: Option<u32>,
    /// Acknowledge once per N deliveries (default 100)
    #[arg(long, value_name = "N", conflicts_with = "auto_ack")]
    ack_every: Option<u64>,
    /// Consume without acknowledgements
    #[arg(long)]
    auto_ack: bool,
    /// Unacknowledged messages per consumer and queue (default 1000, at least --ack-every)
    #[arg(long, value_name = "N", conflicts_with = "auto_ack")]
    prefetch: Option<u16>,
    /// "default", a type (direct, fanout, topic: declared for the run), or the name of an existing direct exchange
    #[arg(long, value_name = "NAME", default_value = "default")]
    exchange: String,
    /// Argument of queue.declare; integer, true, false or text; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    queue_args: Vec<String>,
    /// Every producer publishes to N queues in turn, one message each
    #[arg(long, value_name = "N", default_value_t = 1)]
    keys: usize,
    /// Give messages the priorities 0 to N-1 in turn; order is checked within each
    #[arg(long, value_name = "N", default_value_t = 1)]
    priorities: u16,
    /// Give every message an x-deduplication-header of its own
    #[arg(long)]
    unique: bool,
    /// Publish to queues that dead-letter each message, for this reason, and consume where the dead letters go
    #[arg(long, value_name = "REASON", conflicts_with_all = ["publish_only", "consume_only", "backlog"])]
    dead_letter: Option<DeadLetter>,
    /// Give every message an x-delay of so many milliseconds; latencies are what comes on top of it
    #[arg(long, value_name = "MS")]
    delay: Option<u64>,
    /// Only publish, and leave the queues behind
    #[arg(long, conflicts_with_all = ["consume_only", "backlog"])]
    publish_only: bool,
    /// Only consume what an earlier --publish-only left: --messages of it, or what comes within --seconds
    #[arg(long, conflicts_with = "backlog")]
    consume_only: bool,
    /// Publish --messages first, then consume them: both rates
    #[arg(long, requires = "messages")]
    backlog: bool,
    /// Leave the queues behind
    #[arg(long)]
    keep: bool,
    /// Start of queue and exchange names (default: unique for this process)
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// Measure send to receive (and with --confirm, send to confirm)
    #[arg(long)]
    latency: bool,
    /// Add this process's CPU time per message and memory
    #[arg(long, value_name = "PID")]
    broker_pid: Option<u32>,
    /// Print the summary as JSON, live lines on stderr
    #[arg(long)]
    json: bool,
    /// Instead: open N connections, hold them, report connections per second and memory each
    #[arg(long, value_name = "N", conflicts_with = "declare_queues")]
    idle_connections: Option<usize>,
    /// Instead: declare N queues in a pipeline, report queues per second and memory each
    #[arg(long, value_name = "N")]
    declare_queues: Option<usize>,
    /// Instead: bind a queue to a topic exchange with N keys, publish to them, unbind, report all rates
    #[arg(long, value_name = "N", conflicts_with_all = ["idle_connections", "declare_queues"])]
    bindings: Option<usize>,
    /// Instead: declare N queues, one message in each expires after --seconds and is dead-lettered; report memory each and
    /// how late they arrive
    #[arg(long, value_name = "N", conflicts_with_all = ["idle_connections", "declare_queues", "bindings"])]
    expiring_queues: Option<usize>,
}

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

    /// The messages producer `producer` is to publish, if an exact count was asked for.
    pub(super) fn quota(&self, producer: usize) -> Option<u64> {
        let (all, of) = (self.messages?, self.producers as u64);
        Some(all / of + u64::from((producer as u64) < all % of))
    }
}

impl AmqpArgs {
    /// Checks what one flag alone cannot know. The error is what the user reads.
    pub(super) fn plan(self) -> Result<Plan, String> {
        let queues = self.queues.unwrap_or(self.keys).max(1);
        let consumers = usize::from(self.consumers);
        between("--producers", self.producers.into(), 1, 10_000)?;
        between("--queues", queues, 1, 100_000)?;
        between("--consumers", consumers, 1, 10_000)?;
        between("--keys", self.keys, 1, queues)?;
        between("--priorities", self.priorities.into(), 1, 256)?;
        between("--size", self.size, 0, 512 << 20)?;
        between("--bindings", self.bindings.unwrap_or(1), 1, 10_000_000)?;
        between("--expiring-queues", self.expiring_queues.unwrap_or(1), 1, 100_000)?;
        between("--confirm", self.confirm.unwrap_or(1) as usize, 1, 10_000_000)?;
        for (flag, value) in [("--seconds", self.seconds), ("--rate", self.rate.unwrap_or(1.0))] {
            if !(value > 0.0 && value < 1e9) {
                return Err(format!("{flag}: expected more than 0, got {value}"));
            }
        }
        if !(0.0..1e6).contains(&self.warmup) {
            return Err(format!("--warmup: expected 0 or more, got {}", self.warmup));
        }
        if self.latency && self.size < super::payload::STAMP_BYTES {
            return Err(format!("--latency: expected --size 16 or more, got {}", self.size));
        }
        let ack_every = if self.auto_ack {
            None
        } else {
            Some(self.ack_every.unwrap_or_else(|| self.prefetch.map_or(100, |n| u64::from(n).clamp(1, 100))))
        };
        between("--ack-every", ack_every.unwrap_or(1) as usize, 1, 65_535)?;
        let enough = ack_every.map_or(0, |every| every.max(1_000) as u16);
        let prefetch = self.prefetch.unwrap_or(enough);
        if prefetch > 0 && ack_every.is_some_and(|every| every > u64::from(prefetch)) {
            return Err(format!("--prefetch: expected at least --ack-every, got {prefetch}"));
        }
        let roles = match (self.publish_only, self.consume_only, self.backlog) {
            (true, ..) => Roles::Publish,
            (_, true, _) => Roles::Consume,
            (.., true) => Roles::Backlog,
            _ => Roles::Both,
        };
        let alone = matches!(roles, Roles::Publish | Roles::Consume);
        let unique = || {
            if alone { "posthouse-bench".into() } else { format!("posthouse-bench-{}", std::process::id()) }
        };
        let exchange = exchange(self.exchange);
        if self.keys > 1 && exchange == Exchange::Own("fanout") {
            return Err("--keys: expected 1 with a fanout exchange".into());
        }
        Ok(Plan {
            uri: self.uri,
            producers: self.producers.into(),
            consumers,
            queues,
            size: self.size,
            seconds: self.seconds,
            warmup: self.warmup,
            messages: self.messages,
            rate: self.rate,
            persistent: self.persistent,
            confirm: self.confirm,
            ack_every,
            prefetch,
            exchange,
            queue_args: queue_args(&self.queue_args)?,
            keys: self.keys,
            priorities: self.priorities.into(),
            unique: self.unique,
            dead_letter: self.dead_letter,
            delay_ms: self.delay,
            roles,
            keep: self.keep,
            name: self.name.unwrap_or_else(unique),
            latency: self.latency,
            broker_pid: self.broker_pid,
            json: self.json,
            workload: [
                self.idle_connections.map(Workload::Connections),
                self.declare_queues.map(Workload::Declares),
                self.bindings.map(Workload::Bindings),
                self.expiring_queues.map(Workload::Expiring),
            ]
            .into_iter()
            .flatten()
            .next()
            .unwrap_or(Workload::Messages),
        })
    }
}

fn between(flag: &str, value: usize, low: usize, high: usize) -> Result<(), String> {
    if (low..=high).contains(&value) {
        Ok(())
    } else {
        Err(format!("{flag}: expected {low} to {high}, got {value}"))
    }
}

fn exchange(text: String) -> Exchange {
    match text.as_str() {
        "default" | "" => Exchange::Default,
        "direct" => Exchange::Own("direct"),
        "fanout" => Exchange::Own("fanout"),
        "topic" => Exchange::Own("topic"),
        _ => Exchange::Existing(text),
    }
}

fn queue_args(texts: &[String]) -> Result<FieldTable, String> {
    let pair = |text: &String| {
        let (key, value) =
            text.split_once('=').ok_or_else(|| format!("--queue-args: expected KEY=VALUE, got {text:?}"))?;
        let value = match (value.parse::<i32>(), value.parse::<i64>(), value.parse::<bool>()) {
            (Ok(small), ..) => FieldValue::I32(small),
            (_, Ok(large), _) => FieldValue::I64(large),
            (.., Ok(yes)) => FieldValue::Bool(yes),
            _ => FieldValue::string(value),
        };
        Ok((key.to_owned(), value))
    };
    texts.iter().map(pair).collect::<Result<_, String>>().map(FieldTable)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: AmqpArgs,
    }

    fn plan(words: &str) -> Result<Plan, String> {
        let line = Line::try_parse_from(std::iter::once("bench").chain(words.split_whitespace()));
        line.map_err(|e| e.to_string().lines().next().unwrap_or("").to_owned())?.args.plan()
    }

    #[test]
    fn refusals_name_the_flag_and_what_was_expected() {
        for (words, expected) in [
            ("--producers 0", "--producers: expected 1 to 10000, got 0"),
            ("--bindings 0", "--bindings: expected 1 to 10000000, got 0"),
            ("--expiring-queues 0", "--expiring-queues: expected 1 to 100000, got 0"),
            (
                "--dead-letter expired --publish-only",
                "error: the argument '--dead-letter <REASON>' cannot be used with '--publish-only'",
            ),
            ("--keys 3 --queues 2", "--keys: expected 1 to 2, got 3"),
            ("--seconds 0", "--seconds: expected more than 0, got 0"),
            ("--rate -1", "error: unexpected argument '-1' found"),
            ("--rate 0", "--rate: expected more than 0, got 0"),
            ("--latency --size 8", "--latency: expected --size 16 or more, got 8"),
            ("--ack-every 10 --prefetch 5", "--prefetch: expected at least --ack-every, got 5"),
            ("--queue-args x", "--queue-args: expected KEY=VALUE, got \"x\""),
            ("--exchange fanout --keys 2", "--keys: expected 1 with a fanout exchange"),
            (
                "--auto-ack --ack-every 2",
                "error: the argument '--auto-ack' cannot be used with '--ack-every <N>'",
            ),
            (
                "--uri localhost",
                "error: invalid value 'localhost' for '--uri <URI>': expected amqp://user:password@host:port/vhost",
            ),
            ("--backlog", "error: the following required arguments were not provided:"),
        ] {
            assert_eq!(plan(words).expect_err(words), expected);
        }
    }

    #[test]
    fn routes_and_quotas_cover_everything_once() {
        let plan = plan("--producers 2 --keys 3 --queues 6 --messages 11 --queue-args a=1 --queue-args b=x")
            .unwrap();
        let mut reached: Vec<usize> =
            (0..2).flat_map(|p| (0..3).map(move |r| (p, r))).map(|(p, r)| plan.queue_of(p, r)).collect();
        reached.sort_unstable();
        assert_eq!(reached, [0, 1, 2, 3, 4, 5]);
        assert_eq!((plan.quota(0), plan.quota(1)), (Some(6), Some(5)));
        let args = vec![("a".to_owned(), FieldValue::I32(1)), ("b".to_owned(), FieldValue::string("x"))];
        assert_eq!(plan.queue_args, FieldTable(args));
    }

    #[test]
    fn dead_letters_are_consumed_where_they_go() {
        for (words, argument) in [
            ("rejected", None),
            ("expired", Some(("x-message-ttl", 100))),
            ("maxlen", Some(("x-max-length", 0))),
        ] {
            let plan = plan(&format!("--dead-letter {words} --queue-args a=1 --name n")).unwrap();
            let arguments = plan.arguments_of(3);
            assert_eq!(arguments.get("a"), Some(&FieldValue::I32(1)));
            let letters = FieldValue::string(&plan.consumed_name(3));
            assert_eq!(arguments.get("x-dead-letter-routing-key"), Some(&letters));
            assert_eq!(arguments.0.len(), 3 + usize::from(argument.is_some()));
            if let Some((name, value)) = argument {
                assert_eq!(arguments.get(name), Some(&FieldValue::I32(value)));
            }
        }
        let plan = plan("--name n").unwrap();
        assert_eq!(
            (plan.consumed_name(0), plan.arguments_of(0)),
            (plan.queue_name(0), FieldTable::default())
        );
    }

    #[test]
    fn defaults() {
        let plan = plan("").unwrap();
        assert_eq!((plan.queues, plan.consumers, plan.ack_every, plan.prefetch), (1, 1, Some(100), 1_000));
        assert_eq!(super::tests::plan("--keys 20").unwrap().queues, 20);
        assert_eq!(super::tests::plan("--auto-ack").unwrap().prefetch, 0);
    }
}
