//! One consuming connection.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;

use anyhow::{Context, Result};
use posthouse_amqp::method::{Method, write_method};

use super::client::{CHANNEL, Client};
use super::delivery::{Delivery, Parser};
use super::event_loop::{Driven, Next};
use super::histogram::Histogram;
use super::payload;
use super::shared::{Counter, Shared, is_set};
use super::tally::Stream;

/// What a consumer does, and with whom it shares the run.
pub(super) struct Task<'a> {
    /// Reads its deliveries.
    pub(super) parser: Parser,
    /// Ack once per so many deliveries; `None` for automatic acknowledgement.
    pub(super) ack_every: Option<u64>,
    /// Rejects instead, for good.
    pub(super) rejects: bool,
    /// Whether to record latencies.
    pub(super) latency: bool,
    /// Messages received.
    pub(super) counter: &'a Counter,
    /// Flags and clock.
    pub(super) shared: &'a Shared,
    /// What it saw.
    pub(super) seen: Seen,
}

/// A consumer ready to run.
pub(super) struct Consumer<'a> {
    client: Client,
    task: Task<'a>,
    acks: Option<Acks>,
}

/// What a consumer saw.
pub(super) struct Seen {
    /// By queue (numbered within this consumer), then by producer, then by series.
    pub(super) streams: Vec<Stream>,
    producers: usize,
    /// A message's series is its sequence modulo this; each series counts for itself.
    series: u64,
    /// How long messages are to wait; latencies are what comes on top.
    delay_nanos: u64,
    /// Messages with wrong length or filler, or of an unknown producer.
    pub(super) corrupted: u64,
    /// Messages received.
    pub(super) received: u64,
    /// Send to receive.
    pub(super) latency: Histogram,
}

impl Seen {
    /// Nothing yet, of so many queues, producers and series, and messages that are to wait for so long.
    pub(super) fn new(queues: usize, producers: usize, series: usize, delay_ms: u64) -> Self {
        let streams = vec![Stream::default(); queues * producers * series];
        Self {
            streams,
            producers,
            series: series as u64,
            delay_nanos: delay_ms.saturating_mul(1_000_000),
            corrupted: 0,
            received: 0,
            latency: Histogram::default(),
        }
    }

    #[inline]
    fn saw(&mut self, stream: usize, sequence: u64) {
        if self.series == 1 {
            return self.streams[stream].saw(sequence);
        }
        let (sequence, series) = (sequence / self.series, sequence % self.series);
        self.streams[stream * self.series as usize + series as usize].saw(sequence);
    }

    /// Takes note of a message; `now` when latencies count.
    #[inline]
    fn take(&mut self, delivery: &Delivery, now: Option<u64>) {
        self.received += 1;
        if let Some(word) = delivery.word {
            let (producer, sequence) = payload::split(word);
            let producer = usize::from(producer);
            if delivery.intact && producer < self.producers {
                let stream = delivery.queue * self.producers + producer;
                self.saw(stream, sequence);
            } else {
                self.corrupted += 1;
            }
        } else {
            self.corrupted += u64::from(!delivery.intact);
        }
        if let (Some(now), Some(sent)) = (now, delivery.sent) {
            self.latency.record(now.saturating_sub(sent.saturating_add(self.delay_nanos)), 1);
        }
    }
}

/// Acknowledgements of one read, sent in one write.
struct Acks {
    every: u64,
    /// Deliveries since the last ack.
    pending: u64,
    last: u64,
    rejects: bool,
    bytes: Vec<u8>,
}

impl Acks {
    #[inline]
    fn take(&mut self, tag: u64) {
        self.last = tag;
        self.pending += 1;
        if self.pending == self.every {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.pending > 0 {
            let (delivery_tag, multiple) = (self.last, self.pending > 1);
            let method = match self.rejects {
                false => Method::BasicAck { delivery_tag, multiple },
                true => Method::BasicNack { delivery_tag, multiple, requeue: false },
            };
            write_method(&mut self.bytes, CHANNEL, &method);
            self.pending = 0;
        }
    }

    /// Writes as much as the socket takes; whether nothing is left.
    fn write(&mut self, mut stream: &TcpStream) -> Result<bool> {
        while !self.bytes.is_empty() {
            match stream.write(&self.bytes) {
                Ok(written) => drop(self.bytes.drain(..written)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e).context("writing to the broker"),
            }
        }
        Ok(true)
    }
}

impl Driven for Consumer<'_> {
    fn stream(&self) -> &TcpStream {
        &self.client.stream
    }

    fn turn(&mut self) -> Result<Next> {
        if is_set(&self.task.shared.quit) {
            return Ok(Next::End);
        }
        if self.client.input.fill(&self.client.stream)? {
            self.take_input()?;
        } else if let Some(acks) = &mut self.acks {
            // Idle: what is left below a full group would otherwise never be acknowledged.
            acks.flush();
        }
        let written = self.acks.as_mut().map_or(Ok(true), |acks| acks.write(&self.client.stream))?;
        Ok(if written { Next::Read } else { Next::Write })
    }
}

impl<'a> Consumer<'a> {
    /// A consumer on this connection, which no longer blocks.
    pub(super) fn new(client: Client, task: Task<'a>) -> Result<Self> {
        client.stream.set_nonblocking(true)?;
        let rejects = task.rejects;
        let acks =
            task.ack_every.map(|every| Acks { every, pending: 0, last: 0, rejects, bytes: Vec::new() });
        Ok(Self { client, task, acks })
    }

    /// After the last turn: acknowledges the rest and says goodbye.
    pub(super) fn finish(mut self) -> Result<Seen> {
        self.client.stream.set_nonblocking(false)?;
        if let Some(acks) = &mut self.acks {
            acks.flush();
            self.client.write_all(&acks.bytes)?;
        }
        self.client.close();
        Ok(self.task.seen)
    }

    fn take_input(&mut self) -> Result<()> {
        let task = &mut self.task;
        let now = (task.latency && is_set(&task.shared.measuring)).then(|| task.shared.nanos());
        let used = task.parser.parse(self.client.input.data(), |delivery| {
            task.seen.take(&delivery, now);
            if let Some(acks) = &mut self.acks {
                acks.take(delivery.tag);
            }
        })?;
        self.client.input.consume(used);
        task.counter.set(task.seen.received);
        Ok(())
    }
}
