//! `posthouse bench amqp`: its flags, and how they make a checked plan.

use clap::Args;
use posthouse_model::field::{FieldTable, FieldValue};

use super::plan::{DeadLetter, Exchange, Plan, Roles, Workload};
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
    /// Give messages an x-message-group, N of them in turn; order is checked within each
    #[arg(long, value_name = "N", conflicts_with = "priorities")]
    groups: Option<u16>,
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
        between("--groups", self.groups.unwrap_or(1).into(), 1, 10_000)?;
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
            groups: self.groups.unwrap_or(0).into(),
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
            ("--groups 0", "--groups: expected 1 to 10000, got 0"),
            (
                "--groups 2 --priorities 2",
                "error: the argument '--groups <N>' cannot be used with '--priorities <N>'",
            ),
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
        for (words, series) in [("", 1), ("--priorities 3", 3), ("--groups 7", 7)] {
            assert_eq!(super::tests::plan(words).unwrap().series(), series, "{words}");
        }
    }
}
