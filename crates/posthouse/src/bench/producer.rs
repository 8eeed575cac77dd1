//! One publishing connection.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use posthouse_amqp::frame::{FrameKind, next_frame};
use posthouse_amqp::method::Method;

use super::client::{Client, refuse_close};
use super::event_loop::{Driven, Next};
use super::histogram::Histogram;
use super::shared::{ProducerCounters, Shared, is_set};
use super::template::Template;
use super::window::Window;

/// From this rate on, messages that are due are written together; below, each is written alone and timed exactly.
const ALONE_PER_SECOND: f64 = 20_000.0;
/// After the stop, how long the broker may take no data or confirm nothing.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a producer publishes, and with whom it shares the run.
pub(super) struct Task<'a> {
    /// Its messages.
    pub(super) template: Template,
    /// Outstanding confirms; the connection is in confirm mode if it is set.
    pub(super) window: Option<Window>,
    /// Messages per second; unthrottled if `None`.
    pub(super) rate: Option<f64>,
    /// How many to publish; until the stop if `None`.
    pub(super) quota: Option<u64>,
    /// An existing queue: declaring it passively at the end shows that the broker has taken everything.
    pub(super) any_queue: &'a str,
    /// Its counters.
    pub(super) counters: &'a ProducerCounters,
    /// Flags and clock.
    pub(super) shared: &'a Shared,
}

/// A producer ready to run.
pub(super) struct Producer<'a> {
    client: Client,
    task: Task<'a>,
    /// When it began, by the run's clock.
    started: Option<u64>,
    /// What of the stamped messages is not written yet.
    unwritten: Range<usize>,
    /// When the broker last took data or confirmed something, looked at once nothing new is published.
    progress: Option<Instant>,
}

/// What a producer did.
pub(super) struct Published {
    /// Messages written.
    pub(super) sent: u64,
    /// Of these, nacked.
    pub(super) refused: u64,
    /// Write to confirm.
    pub(super) confirm_latency: Histogram,
}

impl Driven for Producer<'_> {
    fn stream(&self) -> &TcpStream {
        &self.client.stream
    }

    fn turn(&mut self) -> Result<Next> {
        if self.take_answers()? {
            self.progress = None;
        }
        if !self.write()? {
            return if is_set(&self.task.shared.stop) { self.patience(Next::Write) } else { Ok(Next::Write) };
        }
        let now = self.task.shared.nanos();
        let elapsed = now - *self.started.get_or_insert(now);
        let left = self.task.quota.map_or(u64::MAX, |quota| quota - self.task.template.sent());
        if left == 0 || is_set(&self.task.shared.stop) {
            return self.end();
        }
        let room = self.task.window.as_ref().map_or(u64::MAX, Window::room);
        let (due, wait) = self.due(elapsed);
        match left.min(room).min(due) {
            0 if room == 0 => Ok(Next::Read),
            0 => Ok(Next::Time(wait)),
            n => self.publish(n, now),
        }
    }
}

impl<'a> Producer<'a> {
    /// A producer on this connection, which no longer blocks.
    pub(super) fn new(client: Client, task: Task<'a>) -> Result<Self> {
        client.stream.set_nonblocking(true)?;
        Ok(Self { client, task, started: None, unwritten: 0..0, progress: None })
    }

    /// After the last turn: waits until the broker has taken everything, and says goodbye.
    pub(super) fn finish(mut self) -> Result<Published> {
        self.client.stream.set_nonblocking(false)?;
        if self.task.window.is_none() {
            self.see_all_taken()?;
        }
        let sent = self.task.template.sent();
        let refused = self.task.window.as_ref().map_or(0, Window::refused);
        let confirm_latency = self.task.window.map_or_else(Histogram::default, Window::into_latency);
        self.client.close();
        Ok(Published { sent, refused, confirm_latency })
    }

    /// How many messages the rate allows now, and how long until the next when that is none.
    fn due(&self, elapsed_nanos: u64) -> (u64, Duration) {
        let Some(rate) = self.task.rate else { return (u64::MAX, Duration::ZERO) };
        let sent = self.task.template.sent();
        let due = (elapsed_nanos as f64 * rate / 1e9) as u64 + 1;
        if due > sent {
            return (if rate < ALONE_PER_SECOND { 1 } else { due - sent }, Duration::ZERO);
        }
        let next_nanos = sent as f64 / rate * 1e9;
        (0, Duration::from_nanos((next_nanos - elapsed_nanos as f64).max(1.0) as u64))
    }

    fn publish(&mut self, n: u64, nanos: u64) -> Result<Next> {
        let (n, range) = self.task.template.stamp(n, nanos);
        if let Some(window) = &mut self.task.window {
            window.sent(n, nanos);
        }
        self.unwritten = range;
        let written = self.write()?;
        self.task.counters.published.set(self.task.template.sent());
        Ok(match &self.task.window {
            _ if !written => Next::Write,
            Some(window) if window.room() == 0 => Next::Read,
            _ => Next::Turn,
        })
    }

    /// Writes what was begun; whether nothing of it is left.
    fn write(&mut self) -> Result<bool> {
        while !self.unwritten.is_empty() {
            match (&self.client.stream).write(self.task.template.bytes(self.unwritten.clone())) {
                Ok(written) => {
                    self.unwritten.start += written;
                    self.progress = None;
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => {
                    // What the broker said before it hung up is waited for.
                    self.client.stream.set_nonblocking(false)?;
                    return Err(self.client.why_closed(e));
                }
            }
        }
        Ok(true)
    }

    /// Nothing more is published: it ends when everything is confirmed.
    fn end(&mut self) -> Result<Next> {
        match self.task.window.as_ref().map_or(0, Window::outstanding) {
            0 => Ok(Next::End),
            _ => self.patience(Next::Read),
        }
    }

    /// Waits for the broker, but not for ever once the run is to end.
    fn patience(&mut self, next: Next) -> Result<Next> {
        if self.progress.get_or_insert_with(Instant::now).elapsed() <= PATIENCE {
            return Ok(next);
        }
        let seconds = PATIENCE.as_secs();
        match self.task.window.as_ref().map_or(0, Window::outstanding) {
            _ if next == Next::Write => bail!("the broker has taken no data for {seconds} s"),
            outstanding => bail!("{outstanding} publishes were not confirmed within {seconds} s"),
        }
    }

    /// Reads once and takes the confirms; whether anything came.
    fn take_answers(&mut self) -> Result<bool> {
        if !self.client.input.fill(&self.client.stream)? {
            return Ok(false);
        }
        let nanos = self.task.shared.nanos();
        let mut used_all = 0;
        let data = self.client.input.data();
        while let Some((frame, used)) = next_frame(&data[used_all..], self.client.max_payload)? {
            used_all += used;
            if frame.kind != FrameKind::Method {
                continue;
            }
            let method = Method::decode(frame.payload)?;
            match (&method, &mut self.task.window) {
                (Method::BasicAck { delivery_tag, multiple }, Some(window)) => {
                    window.answer(*delivery_tag, *multiple, false, nanos)?;
                }
                (Method::BasicNack { delivery_tag, multiple, .. }, Some(window)) => {
                    window.answer(*delivery_tag, *multiple, true, nanos)?;
                }
                _ => refuse_close(&method)?,
            }
        }
        self.client.input.consume(used_all);
        if let Some(window) = &self.task.window {
            self.task.counters.confirmed.set(window.confirmed());
        }
        Ok(true)
    }

    /// Without confirms: waits until the broker answers something sent after everything else.
    fn see_all_taken(&mut self) -> Result<()> {
        let method = Method::QueueDeclare {
            queue: self.task.any_queue,
            passive: true,
            durable: false,
            exclusive: false,
            auto_delete: false,
            nowait: false,
            arguments: Default::default(),
        };
        self.client.call(&method, |m| matches!(m, Method::QueueDeclareOk { .. }).then_some(()))
    }
}
