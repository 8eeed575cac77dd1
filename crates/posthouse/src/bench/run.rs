//! One run with messages: connections, threads, phases, verdict.

use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use posthouse_amqp::method::Method;

use super::client::{CHANNEL, Client};
use super::consumer::{self, Consumer, Seen};
use super::delivery::{Parser, consumer_tag};
use super::event_loop::{self, Driven};
use super::histogram::Histogram;
use super::monitor::{Mark, Monitor};
use super::plan::{DeadLetter, Plan, Roles};
use super::process::Process;
use super::producer::{self, Producer, Published};
use super::report::{Measured, Summary};
use super::shared::{Counter, Shared, set};
use super::tally::{Stream, Verdict, judge};
use super::template::{Headers, Shape, Template};
use super::topology;
use super::window::Window;

/// How long consumers may receive nothing before what is missing is given up.
const DRAIN_IDLE: Duration = Duration::from_secs(5);

/// What a run found.
pub(super) struct Outcome {
    /// Figures.
    pub(super) summary: Summary,
    /// Why the exit code is not zero.
    pub(super) complaint: Option<String>,
}

type Marks = (Mark, Mark);
/// One per thread, each with the results of several connections.
type Handles<'s, T> = Vec<ScopedJoinHandle<'s, Option<Vec<T>>>>;

/// Runs the plan against its broker.
pub(super) fn run(plan: &Plan) -> Result<Outcome> {
    let broker = plan.broker_pid.map(Process::of).transpose()?;
    let consumers = if plan.roles == Roles::Publish { 0 } else { plan.consumers };
    let producers = if plan.roles == Roles::Consume { 0 } else { plan.producers };
    let mut control = Client::open(&plan.uri)?;
    topology::declare(&mut control, plan)?;
    let rejecters = if plan.dead_letter == Some(DeadLetter::Rejected) { consumers } else { 0 };
    let shared = Shared::new(producers, consumers, rejecters);
    let names: Vec<String> = (0..plan.queues).map(|queue| plan.queue_name(queue)).collect();
    let run = Run { plan, shared: &shared, names: &names };
    let outcome = std::thread::scope(|scope| {
        let outcome =
            Monitor::new(&shared, broker, plan.json).and_then(|mut monitor| run.phases(scope, &mut monitor));
        shared.end();
        outcome
    });
    // A thread's own error says more than what the main thread noticed of it.
    let outcome = outcome.map_err(|error| shared.failure().unwrap_or(error));
    let keep = plan.keep || plan.roles == Roles::Publish;
    if !keep {
        let deleted = topology::delete(&mut control, plan);
        if outcome.is_ok() {
            deleted.context("deleting what the run declared")?;
        }
    }
    control.close();
    outcome
}

struct Run<'a> {
    plan: &'a Plan,
    shared: &'a Shared,
    names: &'a [String],
}

impl<'s> Run<'s> {
    fn phases(&self, scope: &'s Scope<'s, '_>, monitor: &mut Monitor<'_>) -> Result<Outcome> {
        match self.plan.roles {
            Roles::Both => self.both(scope, monitor),
            Roles::Publish => {
                let (publish, published) = self.publish(scope, monitor)?;
                self.outcome(Some(publish), None, published, Vec::new(), monitor)
            }
            Roles::Consume => {
                let (consume, seen) = self.consume(scope, monitor, self.plan.messages)?;
                self.outcome(None, Some(consume), Vec::new(), seen, monitor)
            }
            Roles::Backlog => {
                let (publish, published) = self.publish(scope, monitor)?;
                let expected = self.expected_deliveries(&published);
                let (consume, seen) = self.consume(scope, monitor, Some(expected))?;
                self.outcome(Some(publish), Some(consume), published, seen, monitor)
            }
        }
    }

    fn both(&self, scope: &'s Scope<'s, '_>, monitor: &mut Monitor<'_>) -> Result<Outcome> {
        let consumers = self.spawn_consumers(scope)?;
        let rejecters = self.spawn_rejecters(scope)?;
        let begin = monitor.mark()?;
        let producers = self.spawn_producers(scope)?;
        let timed = self.timed(monitor)?;
        let published = self.join(producers, monitor)?;
        let all_published = monitor.mark()?;
        let all_consumed = self.drain(monitor, self.expected_deliveries(&published))?;
        set(&self.shared.quit);
        let seen = self.join(consumers, monitor)?;
        self.join(rejecters, monitor)?;
        let (publish, consume) = match timed {
            Some(marks) => (marks, marks),
            None => ((begin, all_published), (begin, all_consumed)),
        };
        self.outcome(Some(publish), Some(consume), published, seen, monitor)
    }

    fn publish(
        &self,
        scope: &'s Scope<'s, '_>,
        monitor: &mut Monitor<'_>,
    ) -> Result<(Marks, Vec<Published>)> {
        let begin = monitor.mark()?;
        let producers = self.spawn_producers(scope)?;
        let timed = self.timed(monitor)?;
        let published = self.join(producers, monitor)?;
        Ok((timed.unwrap_or((begin, monitor.mark()?)), published))
    }

    fn consume(
        &self,
        scope: &'s Scope<'s, '_>,
        monitor: &mut Monitor<'_>,
        expected: Option<u64>,
    ) -> Result<(Marks, Vec<Seen>)> {
        let begin = monitor.mark()?;
        let consumers = self.spawn_consumers(scope)?;
        let marks = match expected {
            Some(expected) => {
                set(&self.shared.measuring);
                (begin, self.drain(monitor, expected)?)
            }
            None => self.timed(monitor)?.unwrap_or((begin, begin)),
        };
        set(&self.shared.quit);
        Ok((marks, self.join(consumers, monitor)?))
    }

    /// Warm-up and measured time, then the stop; `None` at once when a number of messages ends the run instead.
    fn timed(&self, monitor: &mut Monitor<'_>) -> Result<Option<Marks>> {
        if self.plan.messages.is_some() {
            set(&self.shared.measuring);
            return Ok(None);
        }
        monitor.during(self.plan.warmup)?;
        set(&self.shared.measuring);
        let from = monitor.mark()?;
        monitor.during(self.plan.seconds)?;
        let to = monitor.mark()?;
        set(&self.shared.stop);
        Ok(Some((from, to)))
    }

    /// Waits until so many were consumed, or nothing comes any more; gives the moment of the last one.
    fn drain(&self, monitor: &mut Monitor<'_>, expected: u64) -> Result<Mark> {
        let mut progress = (self.shared.totals().consumed, Instant::now());
        monitor.until(|totals| {
            if totals.consumed != progress.0 {
                progress = (totals.consumed, Instant::now());
            }
            totals.consumed >= expected || progress.1.elapsed() > DRAIN_IDLE
        })?;
        let mark = monitor.mark()?;
        let complete = mark.totals.consumed >= expected;
        Ok(Mark { at: if complete { progress.1 } else { mark.at }, ..mark })
    }

    fn spawn_producers(&self, scope: &'s Scope<'s, '_>) -> Result<Handles<'s, Published>> {
        let ready: Vec<_> = (0..self.plan.producers).map(|i| self.producer(i)).collect::<Result<_>>()?;
        Ok(self.spawn(scope, ready, Producer::finish))
    }

    fn spawn_consumers(&self, scope: &'s Scope<'s, '_>) -> Result<Handles<'s, Seen>> {
        let ready: Vec<_> = (0..self.plan.consumers).map(|i| self.consumer(i)).collect::<Result<_>>()?;
        Ok(self.spawn(scope, ready, Consumer::finish))
    }

    /// Consumers that reject everything, so that it is dead-lettered.
    fn spawn_rejecters(&self, scope: &'s Scope<'s, '_>) -> Result<Handles<'s, Seen>> {
        let counters = self.shared.rejecters.iter().enumerate();
        let ready: Vec<_> = counters.map(|(i, counter)| self.rejecter(i, counter)).collect::<Result<_>>()?;
        Ok(self.spawn(scope, ready, Consumer::finish))
    }

    /// Shares connections out to threads; each drives its own and then gives what they have to say, in order.
    fn spawn<D: Driven + Send + 's, T: Send + 's>(
        &self,
        scope: &'s Scope<'s, '_>,
        members: Vec<D>,
        finish: fn(D) -> Result<T>,
    ) -> Handles<'s, T> {
        let shared = self.shared;
        let shares: Vec<usize> = event_loop::shares(members.len()).collect();
        let mut members = members.into_iter();
        let run = move |mut share: Vec<D>| {
            event_loop::drive(&mut share)?;
            share.into_iter().map(finish).collect::<Result<Vec<T>>>()
        };
        shares
            .into_iter()
            .map(|n| members.by_ref().take(n).collect::<Vec<D>>())
            .map(|share| scope.spawn(move || run(share).map_err(|e| shared.fail(e)).ok()))
            .collect()
    }

    fn producer(&self, number: usize) -> Result<Producer<'s>> {
        let plan = self.plan;
        let mut client = Client::open(&plan.uri)?;
        if plan.confirm.is_some() {
            let select = Method::ConfirmSelect { nowait: false };
            client.call(&select, |m| matches!(m, Method::ConfirmSelectOk {}).then_some(()))?;
        }
        let keys: Vec<String> =
            (0..plan.keys).map(|route| self.names[plan.queue_of(number, route)].clone()).collect();
        let template = Template::new(&Shape {
            producer: number as u16,
            exchange: &plan.exchange_name(),
            keys: &keys,
            size: plan.size,
            persistent: plan.persistent,
            priorities: plan.priorities,
            headers: Headers { unique: plan.unique, groups: plan.groups as u64, delay_ms: plan.delay_ms },
            max_payload: client.max_payload,
        });
        let task = producer::Task {
            template,
            window: plan.confirm.map(Window::new),
            rate: plan.rate.map(|rate| rate / plan.producers as f64),
            quota: plan.quota(number),
            any_queue: &self.names[0],
            counters: &self.shared.producers[number],
            shared: self.shared,
        };
        Producer::new(client, task)
    }

    /// The queues of consumer `number`. With fewer consumers than queues each takes several, with more they share.
    fn queues_of(&self, number: usize) -> Vec<usize> {
        let (consumers, queues) = (self.plan.consumers, self.plan.queues);
        (0..queues).filter(|queue| queue % consumers == number || number % queues == *queue).collect()
    }

    fn consumer(&self, number: usize) -> Result<Consumer<'s>> {
        let plan = self.plan;
        let names = self.queues_of(number).into_iter().map(|queue| plan.consumed_name(queue)).collect();
        self.taker(names, plan.prefetch, plan.ack_every, false, &self.shared.consumers[number])
    }

    fn rejecter(&self, number: usize, counter: &'s Counter) -> Result<Consumer<'s>> {
        const PREFETCH: u16 = 1_000;
        const REJECT_EVERY: u64 = 100;
        let names = self.queues_of(number).into_iter().map(|queue| self.names[queue].clone()).collect();
        let every = self.plan.ack_every.unwrap_or(REJECT_EVERY);
        self.taker(names, self.plan.prefetch.max(PREFETCH), Some(every), true, counter)
    }

    /// A connection that takes messages from these queues.
    fn taker(
        &self,
        names: Vec<String>,
        prefetch: u16,
        ack_every: Option<u64>,
        rejects: bool,
        counter: &'s Counter,
    ) -> Result<Consumer<'s>> {
        let plan = self.plan;
        let mut client = Client::open(&plan.uri)?;
        if prefetch > 0 {
            let qos = Method::BasicQos { prefetch_size: 0, prefetch_count: prefetch, global: false };
            client.call(&qos, |m| matches!(m, Method::BasicQosOk {}).then_some(()))?;
        }
        for (local, queue) in names.iter().enumerate() {
            // Without waiting: deliveries may come at once, and they are for the consumer's loop.
            let consume = Method::BasicConsume {
                queue,
                consumer_tag: &consumer_tag(local),
                no_local: false,
                no_ack: ack_every.is_none(),
                exclusive: false,
                nowait: true,
                arguments: plan.consumer_arguments(),
            };
            client.send(CHANNEL, &[consume])?;
        }
        let parser = Parser::new(plan.size, names.len(), client.max_payload);
        let task = consumer::Task {
            parser,
            ack_every,
            rejects,
            latency: plan.latency && !rejects,
            counter,
            shared: self.shared,
            seen: Seen::new(names.len(), plan.producers, plan.series(), plan.delay_ms.unwrap_or(0)),
        };
        Consumer::new(client, task)
    }

    fn join<T>(&self, handles: Handles<'s, T>, monitor: &mut Monitor<'_>) -> Result<Vec<T>> {
        monitor.until(|_| handles.iter().all(ScopedJoinHandle::is_finished))?;
        let ended = |handle: ScopedJoinHandle<'s, Option<Vec<T>>>| match handle.join() {
            Ok(Some(result)) => Ok(result),
            Ok(None) => Err(self.shared.failure().unwrap_or_else(|| anyhow!("a connection failed"))),
            Err(_) => Err(anyhow!("a connection's thread panicked")),
        };
        let results: Vec<Vec<T>> = handles.into_iter().map(ended).collect::<Result<_>>()?;
        Ok(results.into_iter().flatten().collect())
    }

    /// How many messages of a producer go to its route.
    fn on_route(&self, sent: u64, route: usize) -> u64 {
        let keys = self.plan.keys as u64;
        sent / keys + u64::from((route as u64) < sent % keys)
    }

    fn expected_deliveries(&self, published: &[Published]) -> u64 {
        let accepted: u64 = published.iter().map(|p| p.sent - p.refused).sum();
        if self.plan.is_fanout() {
            return accepted * (0..self.plan.queues).map(|queue| self.readers_of(queue)).sum::<u64>();
        }
        if !self.plan.reads_stream() {
            return accepted;
        }
        let of_producer = |(producer, published): (usize, &Published)| -> u64 {
            let accepted = published.sent - published.refused;
            let of_route =
                |route| self.on_route(accepted, route) * self.readers_of(self.plan.queue_of(producer, route));
            (0..self.plan.keys).map(of_route).sum()
        };
        published.iter().enumerate().map(of_producer).sum()
    }

    /// How many times each message of a queue is delivered.
    fn readers_of(&self, queue: usize) -> u64 {
        if !self.plan.reads_stream() {
            return 1;
        }
        (0..self.plan.consumers).filter(|consumer| self.queues_of(*consumer).contains(&queue)).count() as u64
    }

    /// What producer `producer` sent to a queue: (accepted, refused).
    fn sent_to(&self, published: &[Published], producer: usize, queue: usize) -> Option<(u64, u64)> {
        let Published { sent, refused, .. } = published.get(producer)?;
        if self.plan.is_fanout() {
            return Some((sent - refused, *refused));
        }
        let route = (0..self.plan.keys).find(|route| self.plan.queue_of(producer, *route) == queue);
        // Which of several routes a refused message was for is not known: none of them may complain.
        let sent = route.map_or(0, |route| self.on_route(*sent, route));
        Some((sent.saturating_sub(*refused), *refused))
    }

    /// Of what was sent to a queue, what was of a series: (accepted, refused).
    fn of_series(&self, (accepted, refused): (u64, u64), series: usize) -> (u64, u64) {
        let (sent, of) = (accepted + refused, self.plan.series() as u64);
        let sent = sent / of + u64::from((series as u64) < sent % of);
        // Of which series a refused message was is not known either.
        (sent.saturating_sub(refused), refused)
    }

    fn verdict(&self, published: &[Published], seen: &[Seen]) -> Verdict {
        let mut total = Verdict::default();
        let series = self.plan.series();
        let mut by_queue: Vec<Vec<&[Stream]>> = vec![Vec::new(); self.plan.queues];
        for (number, seen) in seen.iter().enumerate() {
            let of_queue = seen.streams.chunks(self.plan.producers * series);
            for (queue, streams) in self.queues_of(number).into_iter().zip(of_queue) {
                by_queue[queue].push(streams);
            }
            total.corrupted += seen.corrupted;
        }
        for (queue, streams) in by_queue.iter().enumerate() {
            for at in 0..self.plan.producers * series {
                let (producer, series) = (at / series, at % series);
                let seen: Vec<&Stream> = streams.iter().map(|streams| &streams[at]).collect();
                let sent = self.sent_to(published, producer, queue);
                let sent = sent.map(|sent| self.of_series(sent, series));
                // The consumers of a queue share its messages; those of a stream get all of them each.
                let readers = if self.plan.reads_stream() { 1 } else { seen.len().max(1) };
                seen.chunks(readers).for_each(|seen| total.add(judge(seen, sent)));
            }
        }
        // What somebody else published is only known by number.
        if let (Roles::Consume, Some(messages)) = (self.plan.roles, self.plan.messages) {
            total.lost = total.lost.max(messages.saturating_sub(total.received));
        }
        total
    }

    fn outcome(
        &self,
        publish: Option<Marks>,
        consume: Option<Marks>,
        published: Vec<Published>,
        seen: Vec<Seen>,
        monitor: &Monitor<'_>,
    ) -> Result<Outcome> {
        let plan = self.plan;
        let merged = |histograms: &mut dyn Iterator<Item = &Histogram>| {
            histograms.fold(Histogram::default(), |mut all, one| {
                all.merge(one);
                all
            })
        };
        // Bodies without a sequence can only be counted, which the rates already did.
        let checkable = plan.size >= super::payload::WORD_BYTES && !seen.is_empty();
        let verdict = checkable.then(|| self.verdict(&published, &seen));
        let summary = Summary::new(&Measured {
            publish,
            consume,
            confirms: plan.confirm.is_some(),
            refused: published.iter().map(|p| p.refused).sum(),
            latency: merged(&mut seen.iter().map(|s| &s.latency)),
            confirm_latency: merged(
                &mut published.iter().filter(|_| plan.latency).map(|p| &p.confirm_latency),
            ),
            memory: monitor.memory(),
            verdict: verdict.as_ref(),
        });
        let strict = plan.confirm.is_some() || (plan.ack_every.is_some() && plan.roles != Roles::Publish);
        let complaint = verdict.filter(|verdict| strict && !verdict.is_clean()).map(|v| {
            let Verdict { lost, duplicated, reordered, corrupted, .. } = v;
            format!("expected every message once and in order, got {lost} lost, {duplicated} duplicated, {reordered} reordered, {corrupted} corrupted")
        });
        let summary = summary.context("nothing was measured")?;
        Ok(Outcome { summary, complaint })
    }
}
