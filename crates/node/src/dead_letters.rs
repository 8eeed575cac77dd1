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

use posthouse_model::ids::Lsn;
use posthouse_queue::machine::leaving::stalled::Line;

use crate::broker::Broker;
use crate::draws::Draws;
use crate::queue_handle::{QueueHandle, QueueState};
use crate::transfer::{self, Done};
use letters::move_some;
use retries::{Retries, Retry};

/// Bytes of records moved in one turn of a queue.
const TURN_BYTES: usize = 1 << 20;

/// The same to try whether there is room for messages again.
const PROBE_BYTES: usize = 64 << 10;

/// Log bytes of moves that may wait for the disk; more are not begun before.
const UNFINISHED_BYTES: u64 = 16 << 20;

/// So often at most it is logged that dead letters were dropped for want of room.
const WARN_EVERY: Duration = Duration::from_secs(10);

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
        retries: Retries::default(),
        draws: Draws::seeded(),
        stop_at: None,
        warned_at: None,
    };
    let thread = std::thread::Builder::new().name("dead-letter".into()).spawn(move || worker.run())?;
    *broker.dead_letters().thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
    Ok(())
}

struct Worker {
    broker: Weak<Broker>,
    inbox: Receiver<Work>,
    /// Queues with messages to move.
    turns: VecDeque<Turn>,
    /// Queues whose moved messages are settled once the log is on disk up to there.
    unfinished: VecDeque<(Lsn, Arc<QueueHandle>)>,
    /// Queues with messages that could not go on.
    retries: Retries,
    draws: Draws,
    /// The broker stops, and does not wait for longer.
    stop_at: Option<Instant>,
    /// When it was last logged that dead letters were dropped.
    warned_at: Option<Instant>,
}

/// What is done in turn.
enum Turn {
    /// Messages of a queue are moved that were not tried yet.
    New(Arc<QueueHandle>),
    /// Messages are tried again that could not go on.
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
                (false, _) => self.inbox.recv_timeout(Duration::ZERO),
                (true, None) => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
                (true, Some(at)) => self.inbox.recv_timeout(at.saturating_duration_since(Instant::now())),
            };
            match received {
                Ok(Work::Queue(queue)) => self.turns.push_back(Turn::New(queue)),
                Ok(Work::Stop) => self.stop_at = Some(Instant::now() + STOP_PATIENCE),
                Err(RecvTimeoutError::Timeout) => return true,
                // Whoever sends has gone with the broker.
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
    }

    /// Moves some messages of a queue that were not tried yet.
    fn turn(&mut self, broker: &Arc<Broker>, queue: Arc<QueueHandle>) {
        self.move_some(broker, &queue, Line::New, TURN_BYTES);
        let mut state = queue.lock();
        let stalled = state.machine.classic().is_some_and(|machine| machine.has_stalled());
        if stalled && !std::mem::replace(&mut state.dead_lettering_stalled, true) {
            self.retries.add(Retry::new(queue.clone(), Instant::now()), Instant::now());
        }
        if state.machine.has_leaving() {
            drop(state);
            self.turns.push_back(Turn::New(queue));
        } else {
            state.dead_lettering = false;
        }
    }

    /// It is time to look whether messages of a queue can go on that could not.
    fn again(&mut self, broker: &Broker, mut retry: Retry) {
        let mut is_over = true;
        if let Ok(vhost) = broker.vhost(&retry.queue.definition.vhost) {
            is_over = !retry.begin(&vhost, Instant::now());
        }
        match is_over {
            true => self.rest(retry),
            false => self.turns.push_back(Turn::Again(retry)),
        }
    }

    /// Tries some of them.
    fn try_again(&mut self, broker: &Arc<Broker>, mut retry: Retry) {
        if let Some((line, most)) = retry.next_line() {
            let (done, count) = self.move_some(broker, &retry.queue, line, most);
            retry.note(line, &done, count, Instant::now());
        }
        match retry.is_over() {
            true => self.rest(retry),
            false => self.turns.push_back(Turn::Again(retry)),
        }
    }

    /// Nothing more can go on for now.
    fn rest(&mut self, retry: Retry) {
        let mut state = retry.queue.lock();
        let stalled = state.machine.classic().is_some_and(|machine| machine.has_stalled());
        if stalled && !state.deleted {
            drop(state);
            self.retries.add(retry, Instant::now());
        } else {
            state.dead_lettering_stalled = false;
        }
    }

    /// Moves some messages that are first in a line of a queue; what came of it, and how many there were.
    fn move_some(
        &mut self,
        broker: &Arc<Broker>,
        queue: &Arc<QueueHandle>,
        line: Line,
        most: usize,
    ) -> (Done, u64) {
        let Ok(vhost) = broker.vhost(&queue.definition.vhost) else { return Default::default() };
        let (done, count) = move_some(broker, &vhost, queue, (line, most), &mut self.draws);
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
        (done, count)
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
