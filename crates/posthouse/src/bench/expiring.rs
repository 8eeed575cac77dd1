//! The mode that is about time: many queues, in each of which one message expires and is dead-lettered.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use posthouse_amqp::method::Method;
use posthouse_model::field::{FieldTable, FieldValue};
use serde::Serialize;

use super::bindings::settle;
use super::client::{CHANNEL, Client};
use super::delivery::{Parser, consumer_tag};
use super::idle::{Measure, pipeline};
use super::plan::Plan;
use super::template::{Headers, Shape, Template};
use super::topology;

/// How long after their time messages may still arrive.
const PATIENCE: Duration = Duration::from_secs(60);

/// Messages that one stamp of time is for.
const AT_ONCE: u64 = 64;

/// What it costs, and how late it was.
#[derive(Serialize, Debug)]
pub(super) struct Expiring {
    queues: usize,
    arrived: u64,
    /// Seconds from the first declaration until all messages were published.
    seconds: f64,
    /// Growth of the broker's resident memory per queue, with its message.
    rss_bytes_each: Option<f64>,
    /// From when a message was due until it arrived, the latest one, in milliseconds. It is due when its time to live is over,
    /// counted from just before it was sent.
    late_ms: f64,
}

impl Expiring {
    /// As lines for a reader.
    pub(super) fn to_text(&self) -> String {
        let mut text = format!(
            "{:<16}{} of {} messages dead-lettered, the latest {:.1} ms after its time\n",
            "expiring", self.arrived, self.queues, self.late_ms
        );
        if let Some(bytes) = self.rss_bytes_each {
            text += &format!("{:<16}{:.2} KiB RSS per queue and message\n", "broker", bytes / 1024.0);
        }
        text
    }

    /// What is wrong, if anything.
    pub(super) fn complaint(&self) -> Option<String> {
        let (arrived, queues) = (self.arrived, self.queues);
        (arrived != queues as u64)
            .then(|| format!("expected a dead letter of each of {queues} queues, got {arrived}"))
    }
}

/// Declares the queues, publishes, waits, and deletes them.
pub(super) fn run(plan: &Plan, n: usize) -> Result<Expiring> {
    let start = Instant::now();
    let ttl = Duration::from_secs_f64(plan.seconds);
    let mut client = Client::open(&plan.uri)?;
    let letters = plan.letters_name(0);
    topology::declare_queue(&mut client, plan, &letters, FieldTable::default())?;
    let names: Vec<String> = (0..n).map(|queue| plan.queue_name(queue)).collect();
    let mut arguments = plan.queue_args.clone();
    arguments.0.extend([
        ("x-dead-letter-exchange".to_owned(), FieldValue::string("")),
        ("x-dead-letter-routing-key".to_owned(), FieldValue::string(letters.as_str())),
        ("x-message-ttl".to_owned(), FieldValue::I64(ttl.as_millis() as i64)),
    ]);
    let measure = Measure::begin(plan)?;
    pipeline(&mut client, &names, |queue| topology::queue_declaration(plan, queue, arguments.clone()))?;
    publish(&mut client, plan, &names, start)?;
    let seconds = start.elapsed().as_secs_f64();
    // All of them are there, and none has gone yet.
    std::thread::sleep(ttl / 4);
    let rss_bytes_each = measure.rss_bytes_each(n)?;
    let (arrived, late_ms) = take(plan, &letters, n, (start, ttl))?;
    let delete = |queue| Method::QueueDelete { queue, if_unused: false, if_empty: false, nowait: false };
    if !plan.keep {
        pipeline(&mut client, &names, delete)?;
        pipeline(&mut client, &[letters], delete)?;
    }
    client.close();
    Ok(Expiring { queues: n, arrived, seconds, rss_bytes_each, late_ms })
}

/// Publishes a message to each queue, and waits until the broker has them all.
fn publish(client: &mut Client, plan: &Plan, names: &[String], start: Instant) -> Result<()> {
    let mut template = Template::new(&Shape {
        producer: 0,
        exchange: "",
        keys: names,
        size: plan.size,
        persistent: plan.persistent,
        priorities: 1,
        headers: Headers::default(),
        max_payload: client.max_payload,
    });
    while template.sent() < names.len() as u64 {
        let wanted = (names.len() as u64 - template.sent()).min(AT_ONCE);
        let (_, range) = template.stamp(wanted, start.elapsed().as_nanos() as u64);
        client.write_all(template.bytes(range))?;
    }
    settle(client, &names[names.len() - 1])?;
    Ok(())
}

/// Takes the dead letters; how many came, and by how many milliseconds the latest one was late.
fn take(plan: &Plan, letters: &str, n: usize, (start, ttl): (Instant, Duration)) -> Result<(u64, f64)> {
    let mut client = Client::open(&plan.uri)?;
    let consume = Method::BasicConsume {
        queue: letters,
        consumer_tag: &consumer_tag(0),
        no_local: false,
        no_ack: true,
        exclusive: false,
        nowait: true,
        arguments: FieldTable::default(),
    };
    client.send(CHANNEL, &[consume])?;
    let mut parser = Parser::new(plan.size, 1, client.max_payload);
    let give_up = Instant::now() + ttl + PATIENCE;
    let (mut arrived, mut late_ms, mut corrupted) = (0, 0.0_f64, 0);
    while arrived < n as u64 && Instant::now() < give_up {
        if !client.input.fill(&client.stream)? {
            continue;
        }
        let now = start.elapsed();
        let used = parser.parse(client.input.data(), |delivery| {
            arrived += 1;
            match delivery.sent.filter(|_| delivery.intact) {
                Some(sent) => {
                    let due = Duration::from_nanos(sent) + ttl;
                    late_ms = late_ms.max(now.saturating_sub(due).as_secs_f64() * 1e3);
                }
                None => corrupted += 1,
            }
        })?;
        client.input.consume(used);
    }
    client.close();
    if corrupted > 0 {
        bail!("expected bodies as they were sent, got {corrupted} others");
    }
    Ok((arrived, late_ms))
}
