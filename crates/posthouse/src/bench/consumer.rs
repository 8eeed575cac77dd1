//! One consuming connection and its thread.

use anyhow::Result;
use posthouse_amqp::method::{Method, write_method};

use super::client::{CHANNEL, Client};
use super::delivery::{Delivery, Parser};
use super::histogram::Histogram;
use super::payload;
use super::shared::{Counter, Shared, is_set};
use super::tally::Stream;

/// A consumer ready to run.
pub(super) struct Consumer<'a> {
    /// Its connection, with its consumers already asked for.
    pub(super) client: Client,
    /// Reads its deliveries.
    pub(super) parser: Parser,
    /// Ack once per so many deliveries; `None` for automatic acknowledgement.
    pub(super) ack_every: Option<u64>,
    /// Whether to record latencies.
    pub(super) latency: bool,
    /// Messages received.
    pub(super) counter: &'a Counter,
    /// Flags and clock.
    pub(super) shared: &'a Shared,
    /// What it saw.
    pub(super) seen: Seen,
}

/// What a consumer saw.
pub(super) struct Seen {
    /// By queue (numbered within this consumer) times producers plus producer.
    pub(super) streams: Vec<Stream>,
    producers: usize,
    /// Messages with wrong length or filler, or of an unknown producer.
    pub(super) corrupted: u64,
    /// Messages received.
    pub(super) received: u64,
    /// Send to receive.
    pub(super) latency: Histogram,
}

impl Seen {
    /// Nothing yet, of so many queues and producers.
    pub(super) fn new(queues: usize, producers: usize) -> Self {
        let streams = vec![Stream::default(); queues * producers];
        Self { streams, producers, corrupted: 0, received: 0, latency: Histogram::default() }
    }

    /// Takes note of a message; `now` when latencies count.
    #[inline]
    fn take(&mut self, delivery: &Delivery, now: Option<u64>) {
        self.received += 1;
        if let Some(word) = delivery.word {
            let (producer, sequence) = payload::split(word);
            let producer = usize::from(producer);
            if delivery.intact && producer < self.producers {
                self.streams[delivery.queue * self.producers + producer].saw(sequence);
            } else {
                self.corrupted += 1;
            }
        } else {
            self.corrupted += u64::from(!delivery.intact);
        }
        if let (Some(now), Some(sent)) = (now, delivery.sent) {
            self.latency.record(now.saturating_sub(sent), 1);
        }
    }
}

/// Acknowledgements of one read, sent in one write.
struct Acks {
    every: u64,
    /// Deliveries since the last ack.
    pending: u64,
    last: u64,
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
            let multiple = self.pending > 1;
            write_method(&mut self.bytes, CHANNEL, &Method::BasicAck { delivery_tag: self.last, multiple });
            self.pending = 0;
        }
    }
}

impl Consumer<'_> {
    /// Receives until told to quit.
    pub(super) fn run(mut self) -> Result<Seen> {
        let mut acks = self.ack_every.map(|every| Acks { every, pending: 0, last: 0, bytes: Vec::new() });
        while !is_set(&self.shared.quit) {
            if self.client.input.fill(&self.client.stream)? {
                let now = (self.latency && is_set(&self.shared.measuring)).then(|| self.shared.nanos());
                let seen = &mut self.seen;
                let used = self.parser.parse(self.client.input.data(), |delivery| {
                    seen.take(&delivery, now);
                    if let Some(acks) = &mut acks {
                        acks.take(delivery.tag);
                    }
                })?;
                self.client.input.consume(used);
                self.counter.set(self.seen.received);
            } else if let Some(acks) = &mut acks {
                // Idle: what is left below a full group would otherwise never be acknowledged.
                acks.flush();
            }
            if let Some(acks) = acks.as_mut().filter(|acks| !acks.bytes.is_empty()) {
                self.client.write_all(&acks.bytes)?;
                acks.bytes.clear();
            }
        }
        if let Some(mut acks) = acks {
            acks.flush();
            self.client.write_all(&acks.bytes)?;
        }
        self.client.close();
        Ok(self.seen)
    }
}
