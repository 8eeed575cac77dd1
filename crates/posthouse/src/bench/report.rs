//! What is printed: live lines, and the summary as text or JSON.

use std::io::Write;
use std::time::Duration;

use serde::Serialize;

use super::histogram::Histogram;
use super::monitor::{Mark, Memory};
use super::tally::Verdict;

/// Result of a run with messages. Rates are per second, times in microseconds, memory in bytes.
#[derive(Serialize, Debug)]
pub(super) struct Summary {
    /// Measured seconds.
    seconds: f64,
    published_per_s: Option<f64>,
    confirmed_per_s: Option<f64>,
    consumed_per_s: Option<f64>,
    /// Nacked by the broker.
    refused: u64,
    latency_us: Option<Quantiles>,
    confirm_latency_us: Option<Quantiles>,
    broker: Option<Broker>,
    /// Cores this process used.
    generator_cores: f64,
    verdict: Option<Verdict>,
}

/// Quantiles of a histogram, microseconds.
#[derive(Serialize, Debug)]
struct Quantiles {
    p50: f64,
    p99: f64,
    p999: f64,
    max: f64,
    count: u64,
}

#[derive(Serialize, Debug)]
struct Broker {
    /// CPU time per message, received ones if there were any; publish and deliver together.
    us_per_message: f64,
    cores: f64,
    rss_before: u64,
    rss_peak: u64,
}

/// What a summary is made from.
pub(super) struct Measured<'a> {
    /// Between which publishing is rated.
    pub(super) publish: Option<(Mark, Mark)>,
    /// Between which consuming is rated.
    pub(super) consume: Option<(Mark, Mark)>,
    /// Confirms were on.
    pub(super) confirms: bool,
    /// Nacked.
    pub(super) refused: u64,
    /// Send to receive.
    pub(super) latency: Histogram,
    /// Send to confirm.
    pub(super) confirm_latency: Histogram,
    /// The broker's memory.
    pub(super) memory: Option<Memory>,
    /// What was received.
    pub(super) verdict: Option<&'a Verdict>,
}

impl Summary {
    /// Computes the rates.
    pub(super) fn new(measured: &Measured<'_>) -> Option<Self> {
        let (publish, consume) = (measured.publish, measured.consume);
        let from = publish.or(consume)?.0;
        let to = consume.or(publish)?.1;
        let seconds = |(from, to): (Mark, Mark)| (to.at - from.at).as_secs_f64().max(1e-9);
        let per_second = |marks: Option<(Mark, Mark)>, of: fn(&Mark) -> u64| {
            marks.map(|(from, to)| (of(&to) - of(&from)) as f64 / seconds((from, to)))
        };
        let wall = seconds((from, to));
        let consumed = to.totals.consumed - from.totals.consumed;
        let messages = if consumed > 0 { consumed } else { to.totals.published - from.totals.published };
        let broker_cpu = to.broker_cpu.saturating_sub(from.broker_cpu);
        Some(Self {
            seconds: wall,
            published_per_s: per_second(publish, |mark| mark.totals.published),
            confirmed_per_s: per_second(publish.filter(|_| measured.confirms), |mark| mark.totals.confirmed),
            consumed_per_s: per_second(consume, |mark| mark.totals.consumed),
            refused: measured.refused,
            latency_us: Quantiles::new(&measured.latency),
            confirm_latency_us: Quantiles::new(&measured.confirm_latency),
            broker: measured.memory.map(|memory| Broker {
                us_per_message: broker_cpu.as_secs_f64() * 1e6 / messages.max(1) as f64,
                cores: broker_cpu.as_secs_f64() / wall,
                rss_before: memory.first,
                rss_peak: memory.peak,
            }),
            generator_cores: (to.own_cpu - from.own_cpu).as_secs_f64() / wall,
            verdict: measured.verdict.copied(),
        })
    }

    /// As lines for a reader.
    pub(super) fn to_text(&self) -> String {
        let mut text =
            format!("measured {:.3} s, generator {:.2} cores\n", self.seconds, self.generator_cores);
        let rates = [
            ("published", self.published_per_s),
            ("confirmed", self.confirmed_per_s),
            ("consumed", self.consumed_per_s),
        ];
        for (name, rate) in rates {
            if let Some(rate) = rate {
                text += &format!("{name:<16}{:>14}/s\n", count(rate));
            }
        }
        if self.refused > 0 {
            text += &format!("{:<16}{:>14}\n", "nacked", count(self.refused as f64));
        }
        for (name, quantiles) in
            [("latency", &self.latency_us), ("confirm latency", &self.confirm_latency_us)]
        {
            if let Some(q) = quantiles {
                let (p50, p99, p999, max) = (q.p50, q.p99, q.p999, q.max);
                text += &format!("{name:<16}p50 {p50:.1}  p99 {p99:.1}  p99.9 {p999:.1}  max {max:.1} us\n");
            }
        }
        if let Some(b) = &self.broker {
            let (before, peak) = (mib(b.rss_before), mib(b.rss_peak));
            let (us, cores) = (b.us_per_message, b.cores);
            text += &format!(
                "{:<16}{us:.3} us CPU per message, {cores:.2} cores, RSS {before:.1} -> {peak:.1} MiB peak\n",
                "broker"
            );
        }
        if let Some(v) = &self.verdict {
            let (lost, duplicated, reordered, corrupted) = (v.lost, v.duplicated, v.reordered, v.corrupted);
            text += &format!(
                "{:<16}{} received, {lost} lost, {duplicated} duplicated, {reordered} reordered, {corrupted} corrupted\n",
                "verified",
                count(v.received as f64)
            );
        }
        text
    }
}

impl Quantiles {
    fn new(histogram: &Histogram) -> Option<Self> {
        let us = |nanos: u64| Duration::from_nanos(nanos).as_secs_f64() * 1e6;
        (histogram.count() > 0).then(|| Self {
            p50: us(histogram.quantile(0.5)),
            p99: us(histogram.quantile(0.99)),
            p999: us(histogram.quantile(0.999)),
            max: us(histogram.max()),
            count: histogram.count(),
        })
    }
}

/// Bytes as MiB.
pub(super) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// A rounded number with a comma after every three digits.
pub(super) fn count(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Prints a live line; a reader who went away does not end the run.
pub(super) fn print_live(line: &str, to_stderr: bool) {
    let _ =
        if to_stderr { writeln!(std::io::stderr(), "{line}") } else { writeln!(std::io::stdout(), "{line}") };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0.0, "0"), (999.0, "999"), (1_000.0, "1,000"), (12_345_678.4, "12,345,678")] {
            assert_eq!(count(number), text);
        }
    }
}
