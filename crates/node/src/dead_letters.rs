//! Dead-lettering: what leaves a queue that has a dead-letter exchange is published there.
//!
//! One thread does it for all queues, in turns. A queue asks for it at most once at a time.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use posthouse_model::chunk::Chunk;
use posthouse_model::deaths::{self, Death};
use posthouse_model::ids::Lsn;
use posthouse_model::props::HeaderView;
use posthouse_model::raw_table::RawValue;
use posthouse_model::record::{FLAG_DEATHS, FLAG_PERSISTENT, FLAG_REDELIVERED, Record};
use posthouse_queue::machine::departures::Reason;
use posthouse_queue::machine::leaving::{DeadLetterTarget, Parcel, Run};
use posthouse_storage::segment::Location;

use crate::broker::Broker;
use crate::clock::now_ms;
use crate::draws::Draws;
use crate::history::Publication;
use crate::queue_handle::{QueueHandle, QueueState};
use crate::residency::{self, FailedRead};
use crate::transfer::{self, Mode, Moving, Target, Targets, Transfer};
use crate::vhost::VirtualHost;

/// Bytes of records moved in one turn of a queue.
const TURN_BYTES: usize = 1 << 20;

/// Log bytes of moves that may wait for the disk; more are not begun before.
const UNFINISHED_BYTES: u64 = 16 << 20;

/// How long messages rest that had nowhere to go.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// How long an orderly stop waits for messages that are leaving.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// Asks the thread for work.
#[derive(Debug)]
pub struct DeadLetters {
    work: Mutex<Sender<Work>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
enum Work {
    /// Messages of this queue are leaving.
    Queue(Arc<QueueHandle>),
    /// The broker stops.
    Stop,
}

/// The receiving end, for the thread.
#[derive(Debug)]
pub struct Inbox(Receiver<Work>);

impl DeadLetters {
    /// The queue of work.
    pub fn new() -> (Self, Inbox) {
        let (work, inbox) = channel();
        (Self { work: Mutex::new(work), thread: Mutex::default() }, Inbox(inbox))
    }

    fn send(&self, work: Work) {
        // The thread ends with the broker, or when it was told to.
        let _ = self.work.lock().unwrap_or_else(PoisonError::into_inner).send(work);
    }

    /// Moves what is leaving now, as far as it has somewhere to go, and ends the thread.
    pub(crate) fn stop(&self) {
        self.send(Work::Stop);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Err(_)) = thread.map(JoinHandle::join) {
            tracing::error!("the thread that dead-letters messages has panicked");
        }
    }
}

/// Called under a queue's lock after messages may have begun to leave: has them moved.
pub(crate) fn schedule(broker: &Broker, queue: &Arc<QueueHandle>, state: &mut QueueState) {
    if state.machine.has_leaving() && !std::mem::replace(&mut state.dead_lettering, true) {
        broker.dead_letters().send(Work::Queue(queue.clone()));
    }
}

/// Starts the thread; it ends when the broker is dropped or stopped.
pub(crate) fn start(broker: &Arc<Broker>, inbox: Inbox) -> std::io::Result<()> {
    let worker = Worker {
        broker: Arc::downgrade(broker),
        inbox: inbox.0,
        turns: VecDeque::new(),
        unfinished: VecDeque::new(),
        stalled: Vec::new(),
        retry_at: None,
        draws: Draws::seeded(),
        stop_at: None,
    };
    let thread = std::thread::Builder::new().name("dead-letter".into()).spawn(move || worker.run())?;
    *broker.dead_letters().thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
    Ok(())
}

struct Worker {
    broker: Weak<Broker>,
    inbox: Receiver<Work>,
    /// Queues with messages to move.
    turns: VecDeque<Arc<QueueHandle>>,
    /// Queues whose moved messages are settled once the log is on disk up to there.
    unfinished: VecDeque<(Lsn, Arc<QueueHandle>)>,
    /// Queues with messages that had nowhere to go.
    stalled: Vec<Arc<QueueHandle>>,
    retry_at: Option<Instant>,
    draws: Draws,
    /// The broker stops, and does not wait for longer.
    stop_at: Option<Instant>,
}

impl Worker {
    fn run(mut self) {
        while self.listen() {
            let Some(broker) = self.broker.upgrade() else { return };
            self.retry();
            if let Some(queue) = self.turns.pop_front() {
                self.turn(&broker, queue);
            }
            if !self.finish(&broker) {
                // The log has failed, and the process is about to end.
                return;
            }
        }
    }

    /// Takes what has come in, waiting for it when there is nothing to do; false when it is time to end.
    fn listen(&mut self) -> bool {
        loop {
            let idle = self.turns.is_empty() && self.unfinished.is_empty();
            if self.stop_at.is_some_and(|stop_at| idle || Instant::now() >= stop_at) {
                return false;
            }
            let received = match (idle, self.retry_at) {
                (false, _) => self.inbox.recv_timeout(Duration::ZERO),
                (true, None) => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
                (true, Some(at)) => self.inbox.recv_timeout(at.saturating_duration_since(Instant::now())),
            };
            match received {
                Ok(Work::Queue(queue)) => self.turns.push_back(queue),
                Ok(Work::Stop) => self.stop_at = Some(Instant::now() + STOP_PATIENCE),
                Err(RecvTimeoutError::Timeout) => return true,
                // Whoever sends has gone with the broker.
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
    }

    /// Lets messages try again that had nowhere to go, when it is time.
    fn retry(&mut self) {
        if self.retry_at.is_none_or(|at| Instant::now() < at) {
            return;
        }
        self.retry_at = None;
        for queue in std::mem::take(&mut self.stalled) {
            let mut state = queue.lock();
            if let Some(machine) = state.machine.classic() {
                machine.retry_stalled();
            }
            state.dead_lettering_stalled = false;
            if state.machine.has_leaving() && !std::mem::replace(&mut state.dead_lettering, true) {
                drop(state);
                self.turns.push_back(queue);
            }
        }
    }

    /// Moves some messages of a queue.
    fn turn(&mut self, broker: &Arc<Broker>, queue: Arc<QueueHandle>) {
        if let Ok(vhost) = broker.vhost(&queue.definition.vhost) {
            let until = move_some(broker, &vhost, &queue, &mut self.draws);
            if until > 0 {
                self.unfinished.push_back((until, queue.clone()));
            }
        }
        let mut state = queue.lock();
        let stalled = state.machine.classic().is_some_and(|machine| machine.has_stalled());
        if stalled && !std::mem::replace(&mut state.dead_lettering_stalled, true) {
            self.stalled.push(queue.clone());
            self.retry_at.get_or_insert_with(|| Instant::now() + RETRY_AFTER);
        }
        if state.machine.has_leaving() {
            drop(state);
            self.turns.push_back(queue);
        } else {
            state.dead_lettering = false;
        }
    }

    /// Settles what was moved and is on disk, and waits for the disk where there is nothing else to do or too much
    /// waits for it; false when the log has failed.
    fn finish(&mut self, broker: &Broker) -> bool {
        let (Some(wal), Some((last, _))) = (broker.wal(), self.unfinished.back()) else { return true };
        let waiting = last.saturating_sub(wal.durable());
        if (self.turns.is_empty() || waiting > UNFINISHED_BYTES) && wal.sync().is_err() {
            return false;
        }
        let durable = wal.durable();
        while let Some((_, queue)) = self.unfinished.pop_front_if(|(until, _)| *until <= durable) {
            transfer::finish(broker, &queue, durable);
        }
        true
    }
}

/// Moves the messages of a queue that left first; the position up to which the log must be on disk before the queue
/// settles them, 0 for none.
fn move_some(broker: &Arc<Broker>, vhost: &VirtualHost, queue: &Arc<QueueHandle>, draws: &mut Draws) -> Lsn {
    let (parcels, target, keeps) = {
        let mut state = queue.lock();
        let Some(machine) = state.machine.classic() else { return 0 };
        let Some(target) = machine.dead_letter_target() else { return 0 };
        let parcels = machine.take_leaving(TURN_BYTES, |location: Location| location.len as usize);
        (parcels, target, machine.settings().keeps_dead_letters())
    };
    let now_ms = now_ms();
    let mut letters = Letters {
        vhost,
        queue: &queue.definition.name,
        target,
        keeps,
        seconds: now_ms / 1000,
        draws,
        transfer: Transfer::new(broker, queue, Mode::Leaving, now_ms),
        known: None,
    };
    for parcel in parcels {
        match read(broker, queue, &parcel) {
            Some(chunk) => letters.add_all(&parcel, &chunk),
            None => letters.transfer.stall(parcel.run),
        }
    }
    letters.transfer.commit().until
}

/// A parcel's chunk; none when it cannot be read now.
fn read(broker: &Broker, queue: &Arc<QueueHandle>, parcel: &Parcel<Location>) -> Option<Arc<Chunk>> {
    let (segments, location) = match (&parcel.residence.chunk(), broker.segments()) {
        (Some(chunk), _) => return Some((*chunk).clone()),
        (None, segments) => (segments?, parcel.residence.location()?),
    };
    match segments.read(&location, queue.id, parcel.first_seq) {
        Ok(chunk) => Some(Arc::new(chunk)),
        Err(problem) => {
            let mut state = queue.lock();
            // Moved to another segment meanwhile, it is looked for again.
            if let Some(machine) = state.machine.classic()
                && machine.lies_at(parcel.first_seq, location)
                && residency::after_failed_read(&problem) == FailedRead::Damage
            {
                residency::give_up(queue, machine, parcel.first_seq, &problem, &mut Vec::new());
            }
            None
        }
    }
}

/// Makes dead letters of one queue's messages.
struct Letters<'a> {
    vhost: &'a VirtualHost,
    queue: &'a str,
    target: DeadLetterTarget,
    keeps: bool,
    seconds: u64,
    draws: &'a mut Draws,
    transfer: Transfer<'a>,
    /// The last route that other messages may share.
    known: Option<Route>,
}

/// Where messages with a key go.
struct Route {
    epoch: u64,
    key: Vec<u8>,
    targets: Targets,
}

impl Letters<'_> {
    fn add_all(&mut self, parcel: &Parcel<Location>, chunk: &Chunk) {
        let run = parcel.run;
        let first = (run.first - parcel.first_seq) as u32;
        let Some(mut place) = chunk.find(first) else { return };
        while let Some(record) = chunk.record_at(place.offset) {
            let seq = parcel.first_seq + u64::from(record.delta());
            if seq > run.last {
                break;
            }
            self.add(&record, Run { first: seq, last: seq, ..run });
            place.offset += record.len() as u32;
        }
    }

    fn add(&mut self, record: &Record<'_>, run: Run) {
        // What was stored was checked when it came.
        let Ok(header) = HeaderView::parse(record.header()) else { return self.transfer.drop_run(run) };
        let (exchange, routing_key) = record.exchange_and_key();
        let death = Death {
            queue: self.queue,
            reason: run.reason.name(),
            exchange,
            routing_key,
            seconds: self.seconds,
        };
        let new_key = self.target.routing_key.clone();
        let header = deaths::after_death(header, record.has_deaths(), &death, new_key.is_some());
        let key = new_key.as_ref().map_or(routing_key, |key| key.as_bytes());
        let Ok(view) = HeaderView::parse(&header) else { return self.transfer.drop_run(run) };
        let mut route = Vec::with_capacity(2 + self.target.exchange.len() + key.len());
        for text in [self.target.exchange.as_bytes(), key] {
            route.push(text.len() as u8);
            route.extend_from_slice(text);
        }
        let mut flags = record.flags() & FLAG_PERSISTENT | FLAG_DEATHS;
        if run.reason.marks_redelivered() {
            flags |= FLAG_REDELIVERED;
        }
        let body = record.body();
        let is_persistent = record.persistent();
        if new_key.is_none() {
            // Dead once more, it goes by them again.
            for hidden in record.hidden_keys() {
                route.push(hidden.len() as u8);
                route.extend_from_slice(hidden);
            }
        }
        let publication = Publication { route: &route, is_persistent, header: &header, body };
        let extra_keys = if new_key.is_some() { Vec::new() } else { extra_keys(view, record) };
        let mut targets = self.route(key, &extra_keys, view, publication);
        let found = targets.len();
        if !matches!(run.reason, Reason::Rejected | Reason::Nacked) {
            targets.retain(|target| !deaths::is_cycle(view, &target.queue.definition.name));
        }
        match (targets.is_empty(), found) {
            (false, _) => {
                let (seq, reason) = (run.first, Some(run.reason));
                let moving = Moving { seq, reason, flags, route: &route, header: &header, body };
                self.transfer.add(&targets, moving)
            }
            (true, 0) if self.keeps => self.transfer.stall(run),
            (true, _) => self.transfer.drop_run(run),
        }
    }

    fn route(
        &mut self,
        key: &[u8],
        extra_keys: &[String],
        header: HeaderView<'_>,
        publication: Publication<'_>,
    ) -> Targets {
        let epoch = self.vhost.epoch();
        if let Some(known) = &self.known
            && known.epoch == epoch
            && known.key == key
            && extra_keys.is_empty()
        {
            return known.targets.clone();
        }
        let key_text = String::from_utf8_lossy(key);
        let exchange = &self.target.exchange;
        let draw = self.draws.next_draw();
        let found = self.vhost.route_dead_letter(exchange, &key_text, header, extra_keys, draw, publication);
        let queues = found.queues.iter().filter_map(|&queue| self.vhost.queue_by_id(queue));
        let targets: Targets = queues.map(Target::new).collect();
        if !found.is_per_message {
            self.known = Some(Route { epoch, key: key.to_vec(), targets: targets.clone() });
        }
        targets
    }
}

/// The keys of the `CC` header, and those that a `BCC` header had.
fn extra_keys(header: HeaderView<'_>, record: &Record<'_>) -> Vec<String> {
    let mut keys: Vec<String> =
        record.hidden_keys().map(|key| String::from_utf8_lossy(key).into_owned()).collect();
    if let Some(RawValue::Array(more)) = header.headers().and_then(|table| table.get(b"CC")) {
        keys.extend(more.iter().filter_map(|key| match key {
            RawValue::LongStr(key) => Some(String::from_utf8_lossy(key).into_owned()),
            _ => None,
        }));
    }
    keys
}
