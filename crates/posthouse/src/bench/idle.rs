//! The two modes without messages: many idle connections, many declared queues.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use posthouse_amqp::frame::{FrameKind, next_frame};
use posthouse_amqp::method::{Method, write_method};
use serde::Serialize;

use super::client::{CHANNEL, Client, refuse_close};
use super::plan::Plan;
use super::process::Process;
use super::report::count;
use super::topology;

/// Requests sent before their answers are read.
const PIPELINE: usize = 256;

/// How fast objects were made and what each costs the broker.
#[derive(Serialize, Debug)]
pub(super) struct Objects {
    kind: &'static str,
    count: usize,
    seconds: f64,
    per_s: f64,
    /// Growth of the broker's resident memory per object, after `--seconds` of rest.
    rss_bytes_each: Option<f64>,
}

impl Objects {
    /// As a line for a reader.
    pub(super) fn to_text(&self) -> String {
        let mut text = format!(
            "{:<16}{:>14}/s  ({} in {:.3} s)\n",
            self.kind,
            count(self.per_s),
            self.count,
            self.seconds
        );
        if let Some(bytes) = self.rss_bytes_each {
            text += &format!("{:<16}{:.2} KiB RSS each\n", "broker", bytes / 1024.0);
        }
        text
    }
}

/// Opens `n` connections one after the other and holds them.
pub(super) fn connections(plan: &Plan, n: usize) -> Result<Objects> {
    let measure = Measure::begin(plan)?;
    let open = |i| Client::connect(&plan.uri).with_context(|| format!("connection {} of {n}", i + 1));
    // Only the socket is kept: the buffers of many clients would be what is measured on a small machine.
    let sockets: Vec<_> = (0..n).map(|i| open(i).map(|client| client.stream)).collect::<Result<_>>()?;
    let objects = measure.end("connections", n, plan);
    drop(sockets);
    objects
}

/// Declares `n` queues in a pipeline, and deletes them again.
pub(super) fn declares(plan: &Plan, n: usize) -> Result<Objects> {
    let mut client = Client::open(&plan.uri)?;
    let names: Vec<String> = (0..n).map(|queue| plan.queue_name(queue)).collect();
    let measure = Measure::begin(plan)?;
    pipeline(&mut client, &names, |queue| topology::queue_declaration(plan, queue, plan.queue_args.clone()))?;
    let objects = measure.end("declares", n, plan)?;
    if !plan.keep {
        let delete = |queue| Method::QueueDelete { queue, if_unused: false, if_empty: false, nowait: false };
        pipeline(&mut client, &names, delete)?;
    }
    client.close();
    Ok(objects)
}

/// What making objects takes.
pub(super) struct Measure {
    broker: Option<Process>,
    rss: u64,
    start: Instant,
}

impl Measure {
    /// Begins with the memory that the broker takes now.
    pub(super) fn begin(plan: &Plan) -> Result<Self> {
        let broker = plan.broker_pid.map(Process::of).transpose()?;
        let rss = broker.map(|b| b.rss_bytes()).transpose()?.unwrap_or(0);
        Ok(Self { broker, rss, start: Instant::now() })
    }

    /// Growth of the broker's memory until now for each of `n` objects, if it is watched.
    pub(super) fn rss_bytes_each(&self, n: usize) -> Result<Option<f64>> {
        let Some(broker) = &self.broker else { return Ok(None) };
        Ok(Some((broker.rss_bytes()? as f64 - self.rss as f64) / n.max(1) as f64))
    }

    fn end(self, kind: &'static str, n: usize, plan: &Plan) -> Result<Objects> {
        let seconds = self.start.elapsed().as_secs_f64();
        if self.broker.is_some() {
            std::thread::sleep(std::time::Duration::from_secs_f64(plan.seconds));
        }
        let rss_bytes_each = self.rss_bytes_each(n)?;
        Ok(Objects { kind, count: n, seconds, per_s: n as f64 / seconds.max(1e-9), rss_bytes_each })
    }
}

/// Sends one request per name, up to [`PIPELINE`] ahead of the answers.
pub(super) fn pipeline<'n>(
    client: &mut Client,
    names: &'n [String],
    request: impl Fn(&'n str) -> Method<'n>,
) -> Result<()> {
    let (mut sent, mut answered) = (0, 0);
    let mut bytes = Vec::new();
    while answered < names.len() {
        let end = (answered + PIPELINE).min(names.len());
        for name in &names[sent..end] {
            write_method(&mut bytes, CHANNEL, &request(name));
        }
        sent = end;
        client.write_all(&bytes)?;
        bytes.clear();
        answered += answers(client)?;
        if answered > sent {
            bail!("expected {sent} answers, got {answered}");
        }
    }
    Ok(())
}

/// Waits for input and counts the answers in it.
fn answers(client: &mut Client) -> Result<usize> {
    let deadline = Instant::now() + std::time::Duration::from_secs(60);
    while !client.input.fill(&client.stream)? {
        if Instant::now() > deadline {
            bail!("expected an answer within 60 s, got none");
        }
    }
    let mut n = 0;
    while let Some((frame, used)) = next_frame(client.input.data(), client.max_payload)? {
        if frame.kind == FrameKind::Method {
            let method = Method::decode(frame.payload)?;
            refuse_close(&method)?;
            n += usize::from(matches!(method, Method::QueueDeclareOk { .. } | Method::QueueDeleteOk { .. }));
        }
        client.input.consume(used);
    }
    Ok(n)
}
