//! Dead-lettering: what leaves a queue that has a dead-letter exchange is published there.
//!
//! One thread does it for all queues, in turns. A queue asks for it at most once at a time.

mod letters;
mod reading;
mod retries;

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use posthouse_model::ids::{Lsn, QueueId};
use posthouse_queue::machine::leaving::stalled::Line;

use crate::broker::Broker;
use crate::draws::Draws;
use crate::queue_handle::{QueueHandle, QueueState};
use crate::room::{self, Mover};
use crate::transfer;
use letters::Moved;
use retries::{Retries, Retry};

/// Bytes of records moved in one turn of a queue.
const TURN_BYTES: usize = 1 << 20;

/// Log bytes of moves that may wait for the disk; more are not begun before.
const UNFINISHED_BYTES: u64 = 16 << 20;

/// So often at most it is logged that dead letters were dropped for want of room.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// How long what was moved may wait for the disk while there is nothing else to do, before it is waited for.
const UNFINISHED_PAUSE: Duration = Duration::from_millis(5);

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
    /// The other queue, behind which messages of this one stand, has room.
    Room(Arc<QueueHandle>, QueueId),
    /// The broker stops.
    Stop,
}

/// Tells the thread that a queue has room.
#[derive(Clone, Debug)]
pub(crate) struct Waker(Sender<Work>);

impl Waker {
    /// Messages of `source` that stand behind a queue may go on.
    pub(crate) fn has_room(&self, source: Arc<QueueHandle>, target: QueueId) {
        // The thread ends with the broker, or when it was told to.
        let _ = self.0.send(Work::Room(source, target));
    }
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

    fn waker(&self) -> Waker {
        Waker(self.work.lock().unwrap_or_else(PoisonError::into_inner).clone())
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
        waker: broker.dead_letters().waker(),
        inbox: inbox.0,
        turns: VecDeque::new(),
        unfinished: VecDeque::new(),
        retries: Retries::default(),
        draws: Draws::seeded(),
        must_sync: false,
        stop_at: None,
        warned_at: None,
    };
    let thread = std::thread::Builder::new().name("dead-letter".into()).spawn(move || worker.run())?;
    *broker.dead_letters().thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
    Ok(())
}

struct Worker {
    broker: Weak<Broker>,
    waker: Waker,
    inbox: Receiver<Work>,
    /// Queues with messages to move.
    turns: VecDeque<Turn>,
    /// Queues whose moved messages are settled once the log is on disk up to there.
    unfinished: VecDeque<(Lsn, Arc<QueueHandle>)>,
    /// Queues with messages that found no place.
    retries: Retries,
    draws: Draws,
    /// There was nothing to do for a while, and what was moved is not on disk.
    must_sync: bool,
    /// The broker stops, and does not wait for longer.
    stop_at: Option<Instant>,
    /// When it was last logged that dead letters were dropped.
    warned_at: Option<Instant>,
}

/// What is done in turn.
enum Turn {
    /// Messages of a queue are moved that were not tried yet.
    New(Arc<QueueHandle>),
    /// Messages go on that stand behind a queue which has got room.
    GoOn(Arc<QueueHandle>, QueueId),
    /// Messages are tried again that found no place.
    Again(Retry),
}

impl Worker {
    fn run(mut self) {
        while self.listen() {
            let Some(broker) = self.broker.upgrade() else { return };
            while let Some(retry) = self.retries.pop_due(Instant::now()) {
                self.again(&broker, retry);
            }
            match self.turns.pop_front() {
                Some(Turn::New(queue)) => self.turn(&broker, queue),
                Some(Turn::GoOn(queue, target)) => self.go_on(&broker, &queue, target),
                Some(Turn::Again(retry)) => self.try_again(&broker, retry),
                None => {}
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
            let received = match (idle, self.retries.next_at()) {
                (false, _) if !self.turns.is_empty() => self.inbox.recv_timeout(Duration::ZERO),
                (false, _) => self.inbox.recv_timeout(UNFINISHED_PAUSE),
                (true, None) => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
                (true, Some(at)) => self.inbox.recv_timeout(at.saturating_duration_since(Instant::now())),
            };
            self.must_sync = received.is_err() && self.turns.is_empty();
            match received {
                Ok(Work::Queue(queue)) => self.turns.push_back(Turn::New(queue)),
                Ok(Work::Room(queue, target)) => self.turns.push_back(Turn::GoOn(queue, target)),
                Ok(Work::Stop) => self.stop_at = Some(Instant::now() + STOP_PATIENCE),
                Err(RecvTimeoutError::Timeout) => return true,
                // Whoever sends has gone with the broker.
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
    }

    /// Moves some messages of a queue that were not tried yet.
    fn turn(&mut self, broker: &Arc<Broker>, queue: Arc<QueueHandle>) {
        self.move_some(broker, &queue, Line::New);
        let mut state = queue.lock();
        if state.machine.has_leaving() {
            drop(state);
            self.turns.push_back(Turn::New(queue));
        } else {
            state.dead_lettering = false;
        }
    }

    /// Moves messages that stand behind a queue, as far as it has room.
    fn go_on(&mut self, broker: &Arc<Broker>, queue: &Arc<QueueHandle>, target: QueueId) {
        let line = Line::Behind(target);
        let full = self.move_some(broker, queue, line).full;
        let has_more = queue.lock().machine.classic().is_some_and(|machine| machine.has_in_line(line));
        if has_more && !full.iter().any(|&(queue, _)| queue == target) {
            // How much room the first one needs is known once it was tried.
            self.await_room(broker, queue, target, 0);
        }
    }

    /// It is time to look whether messages of a queue have a place that had none.
    fn again(&mut self, broker: &Broker, mut retry: Retry) {
        let vhost = broker.vhost(&retry.queue.definition.vhost);
        match vhost.is_ok_and(|vhost| retry.begin(vhost.epoch(), Instant::now())) {
            true => self.turns.push_back(Turn::Again(retry)),
            false => self.rest(retry),
        }
    }

    /// Tries some of them.
    fn try_again(&mut self, broker: &Arc<Broker>, mut retry: Retry) {
        let moved = self.move_some(broker, &retry.queue, Line::Apart);
        retry.note(&moved.done, moved.count, Instant::now());
        match retry.is_over() {
            true => self.rest(retry),
            false => self.turns.push_back(Turn::Again(retry)),
        }
    }

    /// Nothing more can go on for now.
    fn rest(&mut self, retry: Retry) {
        let mut state = retry.queue.lock();
        let has_some = state.machine.classic().is_some_and(|machine| machine.has_in_line(Line::Apart));
        if has_some && !state.deleted {
            drop(state);
            self.retries.add(retry, Instant::now());
        } else {
            state.dead_lettering_apart = false;
        }
    }

    /// Has the messages that stand behind a queue go on when it has room.
    fn await_room(&self, broker: &Broker, queue: &Arc<QueueHandle>, target: QueueId, body_bytes: u64) {
        if let Ok(vhost) = broker.vhost(&queue.definition.vhost) {
            let mover = Mover::DeadLetters(self.waker.clone(), Arc::downgrade(queue));
            room::await_room(&vhost, target, body_bytes, &mover);
        }
    }

    /// Moves some messages that are first in a line of a queue.
    fn move_some(&mut self, broker: &Arc<Broker>, queue: &Arc<QueueHandle>, line: Line) -> Moved {
        let Ok(vhost) = broker.vhost(&queue.definition.vhost) else { return Moved::default() };
        let moved = letters::move_some(broker, &vhost, queue, (line, TURN_BYTES), &mut self.draws);
        let done = &moved.done;
        if done.until > 0 {
            self.unfinished.push_back((done.until, queue.clone()));
        }
        if done.excess > 0 {
            queue.lock().counters.dead_letters_dropped += done.excess;
        }
        if done.excess > 0 && self.warned_at.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
            self.warned_at = Some(Instant::now());
            tracing::warn!(
                queue = %queue.definition.name,
                messages = done.excess,
                "dead letters dropped: their targets are full, and their queue keeps no more of them than its limit",
            );
        }
        for &(target, body_bytes) in &moved.full {
            self.await_room(broker, queue, target, body_bytes);
        }
        let mut state = queue.lock();
        let has_apart = state.machine.classic().is_some_and(|machine| machine.has_in_line(Line::Apart));
        if has_apart && !std::mem::replace(&mut state.dead_lettering_apart, true) {
            drop(state);
            self.retries.add(Retry::new(queue.clone(), Instant::now()), Instant::now());
        }
        moved
    }

    /// Settles what was moved and is on disk, and waits for the disk where there is nothing else to do or too much
    /// waits for it; false when the log has failed.
    fn finish(&mut self, broker: &Broker) -> bool {
        let (Some(wal), Some((last, _))) = (broker.wal(), self.unfinished.back()) else { return true };
        let waiting = last.saturating_sub(wal.durable());
        if (self.must_sync || waiting > UNFINISHED_BYTES) && wal.sync().is_err() {
            return false;
        }
        let durable = wal.durable();
        while let Some((_, queue)) = self.unfinished.pop_front_if(|(until, _)| *until <= durable) {
            transfer::finish(broker, &queue, durable);
        }
        true
    }
}
