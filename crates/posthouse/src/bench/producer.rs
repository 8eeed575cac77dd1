//! One publishing connection and its thread.

use std::io::{ErrorKind, Write};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use posthouse_amqp::frame::{FrameKind, next_frame};
use posthouse_amqp::method::Method;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::client::{Client, refuse_close};
use super::histogram::Histogram;
use super::shared::{ProducerCounters, Shared, is_set};
use super::template::Template;
use super::window::Window;

/// From this rate on, messages that are due are written together; below, each is written alone and timed exactly.
const ALONE_PER_SECOND: f64 = 20_000.0;
/// After the stop, how long the broker may take no data or confirm nothing.
const PATIENCE: Duration = Duration::from_secs(10);
/// While nothing else makes us read, look for a close from the broker after so many writes.
const WRITES_PER_LOOK: u32 = 64;

/// A producer ready to run.
pub(super) struct Producer<'a> {
    /// Its connection, in confirm mode if `window` is set.
    pub(super) client: Client,
    /// Its messages.
    pub(super) template: Template,
    /// Outstanding confirms.
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

/// What a producer did.
pub(super) struct Published {
    /// Messages written.
    pub(super) sent: u64,
    /// Of these, nacked.
    pub(super) refused: u64,
    /// Write to confirm.
    pub(super) confirm_latency: Histogram,
}

impl Producer<'_> {
    /// Publishes until the stop or the quota, then waits until the broker has taken everything.
    pub(super) fn run(mut self) -> Result<Published> {
        let started = self.shared.nanos();
        let mut writes = 0u32;
        while !is_set(&self.shared.stop) {
            let left = self.quota.map_or(u64::MAX, |quota| quota - self.template.sent());
            if left == 0 {
                break;
            }
            let room = self.window.as_ref().map_or(u64::MAX, Window::room);
            let now = self.shared.nanos();
            let (due, wait) = self.due(now - started);
            match left.min(room).min(due) {
                0 if room == 0 => self.read()?,
                0 => self.wait(wait)?,
                n => self.publish(n, now)?,
            }
            writes = (writes + 1) % WRITES_PER_LOOK;
            if writes == 0 && self.window.is_none() {
                self.wait(Duration::ZERO)?;
            }
        }
        self.settle()?;
        let sent = self.template.sent();
        let refused = self.window.as_ref().map_or(0, Window::refused);
        let confirm_latency = self.window.map_or_else(Histogram::default, Window::into_latency);
        self.client.close();
        Ok(Published { sent, refused, confirm_latency })
    }

    /// How many messages the rate allows now, and how long until the next when that is none.
    fn due(&self, elapsed_nanos: u64) -> (u64, Duration) {
        let Some(rate) = self.rate else { return (u64::MAX, Duration::ZERO) };
        let sent = self.template.sent();
        let due = (elapsed_nanos as f64 * rate / 1e9) as u64 + 1;
        if due > sent {
            return (if rate < ALONE_PER_SECOND { 1 } else { due - sent }, Duration::ZERO);
        }
        let next_nanos = sent as f64 / rate * 1e9;
        (0, Duration::from_nanos((next_nanos - elapsed_nanos as f64).max(1.0) as u64))
    }

    fn publish(&mut self, n: u64, nanos: u64) -> Result<()> {
        let (n, range) = self.template.stamp(n, nanos);
        if let Some(window) = &mut self.window {
            window.sent(n, nanos);
        }
        let mut at = range.start;
        let mut last_progress = Instant::now();
        while at < range.end {
            match (&self.client.stream).write(self.template.bytes(at..range.end)) {
                Ok(written) => {
                    at += written;
                    // Read the clock again only if the write was cut short.
                    if at < range.end {
                        last_progress = Instant::now();
                    }
                }
                Err(e) if !matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    return Err(self.client.why_closed(e));
                }
                Err(_) if is_set(&self.shared.stop) && last_progress.elapsed() > PATIENCE => {
                    bail!("the broker has taken no data for {} s", PATIENCE.as_secs());
                }
                Err(_) => self.wait(Duration::ZERO)?,
            }
        }
        self.counters.published.set(self.template.sent());
        Ok(())
    }

    /// Waits at most so long for input, and takes it.
    fn wait(&mut self, time: Duration) -> Result<()> {
        let timeout = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) };
        let mut fds = [PollFd::new(&self.client.stream, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => Ok(()),
            Ok(_) => self.read(),
            Err(error) => bail!("poll: {error}"),
        }
    }

    /// Reads once and takes the confirms.
    fn read(&mut self) -> Result<()> {
        if !self.client.input.fill(&self.client.stream)? {
            return Ok(());
        }
        let nanos = self.shared.nanos();
        let mut used_all = 0;
        let data = self.client.input.data();
        while let Some((frame, used)) = next_frame(&data[used_all..], self.client.max_payload)? {
            used_all += used;
            if frame.kind != FrameKind::Method {
                continue;
            }
            let method = Method::decode(frame.payload)?;
            match (&method, &mut self.window) {
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
        if let Some(window) = &self.window {
            self.counters.confirmed.set(window.confirmed());
        }
        Ok(())
    }

    /// Waits until everything is confirmed, or, without confirms, until the broker answers something sent after it.
    fn settle(&mut self) -> Result<()> {
        if self.window.is_none() {
            let method = Method::QueueDeclare {
                queue: self.any_queue,
                passive: true,
                durable: false,
                exclusive: false,
                auto_delete: false,
                nowait: false,
                arguments: Default::default(),
            };
            return self.client.call(&method, |m| matches!(m, Method::QueueDeclareOk { .. }).then_some(()));
        }
        let outstanding = |producer: &Self| producer.window.as_ref().map_or(0, Window::outstanding);
        let mut last = (outstanding(self), Instant::now());
        while outstanding(self) > 0 {
            self.read()?;
            if outstanding(self) != last.0 {
                last = (outstanding(self), Instant::now());
            } else if last.1.elapsed() > PATIENCE {
                bail!("{} publishes were not confirmed within {} s", last.0, PATIENCE.as_secs());
            }
        }
        Ok(())
    }
}
