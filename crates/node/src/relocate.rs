//! Moving, copying, redriving and purging some of a queue's ready messages, as an operator asks.
//!
//! It is done in steps, each with what one look at a queue brings. Within a step everything is whole: the messages of one
//! kind of target enter it and leave their queue with one record of the log (`transfer.rs`), and a step returns when
//! that is on disk. Between steps whoever asks can rest, or stop; consumers go on all the while and get what they get
//! first. Only messages that were there before the first step are touched.

use std::sync::Arc;

use posthouse_model::deaths;
use posthouse_model::errors;
use posthouse_model::ids::{Seq, level_of};
use posthouse_model::props::HeaderView;
use posthouse_model::record::{FLAG_DEATHS, FLAG_MAYBE_DELIVERED, FLAG_PERSISTENT, Record};
use posthouse_storage::segment::is_gone;
use serde::Serialize;

use crate::admin::AdminError;
use crate::broker::Broker;
use crate::browse::{self, TRIES_MAX};
use crate::clock::now_ms;
use crate::message_filter::MessageFilter;
use crate::queue_handle::QueueHandle;
use crate::transfer::{self, Mode, Moving, Target, Targets, Transfer};
use crate::vhost::VirtualHost;

/// What is to be done with messages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Each goes back to the queue that dead-lettered it, by its last death.
    Redrive,
    /// All go to this queue.
    Move(String),
    /// All stay, and this queue gets them as well.
    Copy(String),
    /// All are done with.
    Purge,
}

/// One step.
#[derive(Clone, Debug)]
pub struct Request {
    /// The virtual host.
    pub vhost: String,
    /// Whose messages.
    pub queue: String,
    /// What is to be done with them.
    pub action: Action,
    /// Which: those for which all of these hold.
    pub filters: Vec<MessageFilter>,
    /// How many at most.
    pub count: u64,
    /// Where the step before said to go on; none for the first.
    pub progress: Option<Progress>,
}

/// Where a step goes on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, serde::Deserialize)]
pub struct Progress {
    /// The number of the first message to look at.
    pub from: Seq,
    /// The numbers after the last ones to look at, one for each priority.
    pub until: Vec<Seq>,
}

/// What came of a step.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Report {
    /// Messages it was done with.
    pub messages: u64,
    /// Messages that match and stayed: they say of no queue that they come from, it is gone, or there is no room.
    pub stayed: u64,
    /// Where to go on; none when everything was looked at.
    pub progress: Option<Progress>,
}

/// Takes one step.
///
/// # Errors
/// There is no such virtual host or queue, the queues are the same, messages are to leave a stream, or a segment cannot
/// be read.
pub fn step(broker: &Arc<Broker>, request: &Request) -> Result<Report, AdminError> {
    let vhost = broker.vhost(&request.vhost).map_err(|_| AdminError::NoSuchVhost(request.vhost.clone()))?;
    let find = |name: &str| {
        vhost.find_queue(name).ok_or_else(|| AdminError::Reply(errors::no_queue(vhost.name(), name)))
    };
    let source = find(&request.queue)?;
    let mut targets = Targets::new();
    if let Action::Move(name) | Action::Copy(name) = &request.action {
        let queue = find(name)?;
        if Arc::ptr_eq(&queue, &source) {
            return Err(AdminError::SameQueue(name.clone()));
        }
        targets.push(Target::new(queue));
    }
    if source.is_stream && !matches!(request.action, Action::Copy(_)) {
        return Err(AdminError::LeavesStream(request.queue.clone()));
    }
    let Some(progress) = request.progress.clone().or_else(|| begin(&source)) else {
        return Ok(Report::default());
    };
    let mode = if matches!(request.action, Action::Copy(_)) { Mode::Copied } else { Mode::Ready };
    let transfer = Transfer::new(broker, &source, mode, now_ms());
    let mut chosen = Chosen {
        vhost: &vhost,
        request,
        targets,
        transfer,
        purged: Vec::new(),
        count: 0,
        stayed: 0,
        next: None,
    };
    let from = look(broker, &source, &progress, &mut chosen)?;
    let left = from.map(|from| Progress { from, until: progress.until });
    chosen.carry_out(broker, &source, left)
}

/// Where the first step begins; none when nothing is ready.
fn begin(source: &QueueHandle) -> Option<Progress> {
    let mut state = source.lock();
    let from = state.machine.nth_ready(0)?;
    Some(Progress { from, until: state.machine.next_seqs() })
}

/// Looks at the next messages; where to go on.
fn look(
    broker: &Broker,
    source: &QueueHandle,
    progress: &Progress,
    chosen: &mut Chosen<'_>,
) -> Result<Option<Seq>, AdminError> {
    let until =
        |seq: Seq| progress.until.iter().any(|&until| level_of(until) == level_of(seq) && seq < until);
    let mut tries = 0;
    loop {
        let from = chosen.next.unwrap_or(progress.from);
        let walked = browse::walk(broker, source, from, &mut |number, _, record| {
            let goes_on = chosen.count < chosen.request.count;
            if goes_on {
                chosen.next = Some(number + 1);
                if until(number) && chosen.request.filters.iter().all(|filter| filter.matches(record)) {
                    chosen.add(number, record);
                }
            }
            goes_on
        });
        match walked {
            Ok(_) if chosen.count >= chosen.request.count => return Ok(chosen.next),
            Ok(next) => return Ok(next),
            // A chunk was settled or moved to another segment meanwhile, after which it is looked up anew.
            Err(problem) if is_gone(&problem) && tries < TRIES_MAX => tries += 1,
            Err(problem) => return Err(AdminError::Unreadable(problem)),
        }
    }
}

/// The messages of one step.
struct Chosen<'a> {
    vhost: &'a VirtualHost,
    request: &'a Request,
    /// Where all go, unless each goes its own way.
    targets: Targets,
    transfer: Transfer<'a>,
    purged: Vec<(Seq, Seq)>,
    count: u64,
    stayed: u64,
    /// The number after the last one looked at.
    next: Option<Seq>,
}

impl Chosen<'_> {
    fn add(&mut self, number: Seq, record: &Record<'_>) {
        match self.request.action {
            Action::Purge => {
                match self.purged.last_mut() {
                    Some(last) if last.1 + 1 == number => last.1 = number,
                    _ => self.purged.push((number, number)),
                }
                self.count += 1;
            }
            Action::Move(_) | Action::Copy(_) => {
                let (header, body) = (record.header(), record.body());
                let (seq, reason, flags, route) = (number, None, record.flags(), record.routes());
                let (publisher, waits_until_ms, traces) = (record.publisher(), None, None);
                let moving =
                    Moving { seq, reason, flags, publisher, waits_until_ms, traces, route, header, body };
                self.transfer.add(&self.targets, moving);
                self.count += 1;
            }
            Action::Redrive => self.redrive(number, record),
        }
    }

    fn redrive(&mut self, seq: Seq, record: &Record<'_>) {
        let header = HeaderView::parse(record.header()).ok();
        let origin = header.filter(|_| record.has_deaths()).and_then(deaths::origin);
        let queue = origin.and_then(|origin| self.vhost.find_queue(str::from_utf8(origin.queue).ok()?));
        let (Some(origin), Some(queue)) = (origin, queue) else {
            self.stayed += 1;
            return;
        };
        let mut route = Vec::with_capacity(2 + origin.exchange.len() + origin.routing_key.len());
        for text in [origin.exchange, origin.routing_key] {
            // They came in short strings.
            route.push(text.len() as u8);
            route.extend_from_slice(text);
        }
        let flags = record.flags() & (FLAG_PERSISTENT | FLAG_DEATHS | FLAG_MAYBE_DELIVERED);
        let targets: Targets = std::iter::once(Target::new(queue)).collect();
        let (header, body) = (record.header(), record.body());
        let (reason, publisher, waits_until_ms, traces) = (None, record.publisher(), None, None);
        let route = &route[..];
        let moving = Moving { seq, reason, flags, publisher, waits_until_ms, traces, route, header, body };
        self.transfer.add(&targets, moving);
        self.count += 1;
    }

    /// Does it, and waits until it is on disk.
    fn carry_out(
        self,
        broker: &Broker,
        source: &Arc<QueueHandle>,
        progress: Option<Progress>,
    ) -> Result<Report, AdminError> {
        let purged = match self.purged.is_empty() {
            true => 0,
            false => transfer::purge(broker, source, &self.purged),
        };
        let done = self.transfer.commit();
        if let Some(wal) = broker.wal().filter(|_| purged + done.moved > 0) {
            wal.sync().map_err(AdminError::Unreadable)?;
            transfer::finish(broker, source, wal.durable());
        }
        Ok(Report { messages: purged + done.moved, stayed: self.stayed + done.stalled, progress })
    }
}
