//! The mode that is about bindings: how fast they are made and removed, and what a publish costs among many.

use std::time::Instant;

use anyhow::Result;
use posthouse_amqp::frame::{FrameKind, next_frame};
use posthouse_amqp::method::{Method, write_method};
use posthouse_model::field::FieldTable;
use posthouse_model::props::Properties;
use serde::Serialize;

use super::client::{CHANNEL, Client, refuse_close};
use super::plan::Plan;
use super::process::Process;
use super::report::count;
use super::topology;

/// Bytes of requests that are written at once.
const WRITE_BYTES: usize = 64 << 10;
/// Messages that are published: more would measure the queue.
const MESSAGES: usize = 200_000;

/// What binding one queue to a topic exchange with many keys costs.
#[derive(Serialize, Debug)]
pub(super) struct Bindings {
    count: usize,
    /// Bindings made per second, all of them kept if they are durable.
    binds_per_s: f64,
    /// Messages routed per second, each with another key that one binding matches.
    publishes_per_s: f64,
    /// Bindings removed one by one per second: half of them.
    unbinds_per_s: f64,
    /// How long the queue took to go, with the other half.
    delete_s: f64,
    /// Growth of the broker's resident memory per binding.
    rss_bytes_each: Option<f64>,
}

impl Bindings {
    /// As lines for a reader.
    pub(super) fn to_text(&self) -> String {
        let mut text = String::new();
        for (name, rate) in [
            ("binds", self.binds_per_s),
            ("publishes", self.publishes_per_s),
            ("unbinds", self.unbinds_per_s),
        ] {
            text += &format!("{name:<16}{:>14}/s\n", count(rate));
        }
        text += &format!("{:<16}{:>14.3} s with {} bindings\n", "deletion", self.delete_s, self.count / 2);
        if let Some(bytes) = self.rss_bytes_each {
            text += &format!("{:<16}{bytes:>14.0} bytes RSS per binding\n", "broker");
        }
        text
    }
}

/// Binds `n` keys, publishes to them, removes half of them and deletes the queue with the rest.
pub(super) fn run(plan: &Plan, n: usize) -> Result<Bindings> {
    let mut client = Client::open(&plan.uri)?;
    let (queue, exchange) = (plan.queue_name(0), format!("{}-exchange", plan.name));
    topology::declare_exchange(&mut client, plan, &exchange, "topic")?;
    topology::declare_queue(&mut client, plan, &queue, plan.queue_args.clone())?;
    let broker = plan.broker_pid.map(Process::of).transpose()?;
    let rss_before = broker.map(|broker| broker.rss_bytes()).transpose()?;
    let binds_per_s = rate(n, || bind(&mut client, &queue, &exchange, n))?;
    let rss_after = broker.map(|broker| broker.rss_bytes()).transpose()?;
    let rss_bytes_each =
        rss_before.zip(rss_after).map(|(before, after)| (after as f64 - before as f64) / n as f64);
    let publishes_per_s = rate(MESSAGES, || publish(&mut client, &queue, &exchange, n))?;
    let purge = Method::QueuePurge { queue: &queue, nowait: false };
    client.call(&purge, |m| matches!(m, Method::QueuePurgeOk { .. }).then_some(()))?;
    let unbinds_per_s = rate(n / 2, || unbind(&mut client, &queue, &exchange, n / 2))?;
    let start = Instant::now();
    let delete = Method::QueueDelete { queue: &queue, if_unused: false, if_empty: false, nowait: false };
    client.call(&delete, |m| matches!(m, Method::QueueDeleteOk { .. }).then_some(()))?;
    let delete_s = start.elapsed().as_secs_f64();
    let delete = Method::ExchangeDelete { exchange: &exchange, if_unused: false, nowait: false };
    client.call(&delete, |m| matches!(m, Method::ExchangeDeleteOk {}).then_some(()))?;
    client.close();
    Ok(Bindings { count: n, binds_per_s, publishes_per_s, unbinds_per_s, delete_s, rss_bytes_each })
}

/// How many per second `work` does of `n`.
fn rate(n: usize, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    work()?;
    Ok(n as f64 / start.elapsed().as_secs_f64().max(1e-9))
}

/// The binding key number `i`.
fn pattern(i: usize) -> String {
    format!("site{}.device{i}.*", i % 1_000)
}

/// The routing key of message number `message`, which no other has: [`pattern`] `i` matches it and no other does.
fn matching_key(i: usize, message: usize) -> String {
    format!("site{}.device{i}.{message}", i % 1_000)
}

/// Binds without asking for answers, and waits for one at the end, which comes when all of it is kept.
fn bind(client: &mut Client, queue: &str, exchange: &str, n: usize) -> Result<()> {
    let mut bytes = Vec::new();
    for i in 0..n {
        let arguments = FieldTable::default();
        let routing_key = &pattern(i);
        let method = Method::QueueBind { queue, exchange, routing_key, nowait: true, arguments };
        write_method(&mut bytes, CHANNEL, &method);
        write_when_full(client, &mut bytes, WRITE_BYTES)?;
    }
    write_when_full(client, &mut bytes, 0)?;
    settle(client, queue).map(drop)
}

/// Publishes [`MESSAGES`] messages for the `n` bindings in turn and verifies that each arrived once.
fn publish(client: &mut Client, queue: &str, exchange: &str, n: usize) -> Result<()> {
    let mut bytes = Vec::new();
    let mut header = Vec::new();
    Properties::default().encode(0, &mut header);
    for message in 0..MESSAGES {
        let routing_key = &matching_key(message % n, message);
        let method = Method::BasicPublish { exchange, routing_key, mandatory: false, immediate: false };
        write_method(&mut bytes, CHANNEL, &method);
        posthouse_amqp::frame::write_frame(&mut bytes, FrameKind::Header, CHANNEL, &header);
        write_when_full(client, &mut bytes, WRITE_BYTES)?;
    }
    write_when_full(client, &mut bytes, 0)?;
    let arrived = settle(client, queue)?;
    anyhow::ensure!(arrived as usize == MESSAGES, "expected {MESSAGES} messages to arrive, got {arrived}");
    Ok(())
}

/// Removes the first `n` bindings; `queue.unbind` always has an answer.
fn unbind(client: &mut Client, queue: &str, exchange: &str, n: usize) -> Result<()> {
    const AHEAD: usize = 4_096;
    let mut bytes = Vec::new();
    let (mut sent, mut answered) = (0, 0);
    while answered < n {
        let until = (answered + AHEAD).min(n);
        for i in sent..until {
            let arguments = FieldTable::default();
            let method = Method::QueueUnbind { queue, exchange, routing_key: &pattern(i), arguments };
            write_method(&mut bytes, CHANNEL, &method);
        }
        sent = until;
        write_when_full(client, &mut bytes, 0)?;
        client.input.fill(&client.stream)?;
        while let Some((frame, used)) = next_frame(client.input.data(), client.max_payload)? {
            if frame.kind == FrameKind::Method {
                let method = Method::decode(frame.payload)?;
                refuse_close(&method)?;
                answered += usize::from(matches!(method, Method::QueueUnbindOk {}));
            }
            client.input.consume(used);
        }
    }
    Ok(())
}

fn write_when_full(client: &mut Client, bytes: &mut Vec<u8>, full: usize) -> Result<()> {
    if bytes.len() >= full && !bytes.is_empty() {
        client.write_all(bytes)?;
        bytes.clear();
    }
    Ok(())
}

/// Waits until everything sent was carried out; how many messages the queue has.
pub(super) fn settle(client: &mut Client, queue: &str) -> Result<u32> {
    let method = Method::QueueDeclare {
        queue,
        passive: true,
        durable: false,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments: FieldTable::default(),
    };
    client.call(&method, |m| match m {
        Method::QueueDeclareOk { message_count, .. } => Some(*message_count),
        _ => None,
    })
}
