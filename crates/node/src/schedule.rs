//! Messages that wait for a time: `x-delay` and `x-deliver-at`.
//!
//! Those of one virtual host are in one queue that nobody sees. Each of its levels is a slot of the wheel of
//! [`posthouse_queue::schedule`], so it is kept, spilled, checkpointed and recovered as any other queue is, and memory
//! does not grow with the messages in it. One thread (`worker`) hands over what is due, for all virtual hosts, and
//! takes crowded slots apart; each of these is a move (`crate::transfer`), which a crash finds done or not.
//!
//! A message is there as it was published, but for three things of its record:
//!
//! * its time is not when it was received, but when it is due;
//! * its route has the exchange, the routing key, its identity (8 bytes, big-endian), and the keys of a `BCC` header, each
//!   as a short string;
//! * it cannot expire: a time to live begins when it enters a queue.
//!
//! It is routed when it is due, by the bindings that there are then.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use posthouse_model::ids::{Lsn, QueueId};
use posthouse_model::name::Name;
use posthouse_model::record::Record;
use posthouse_model::reply::ReplyError;
use posthouse_queue::schedule::Agenda;
use posthouse_queue::schedule::wheel::{Place, lead_ms};

use crate::broker::Broker;
use crate::clock::now_ms;
use crate::queue_handle::{Machine, QueueDefinition, QueueHandle};
use crate::queue_setup::QueueSetup;
use crate::records;
use crate::transfer::Transfer;
use crate::vhost::{Inner, VirtualHost};

mod handover;
pub mod listing;
mod reading;
pub(crate) mod worker;

/// What messages say of the queue, where they name it.
pub(crate) const QUEUE_NAME: &str = "amq.posthouse.schedule";

/// The messages of one virtual host that wait for a time.
#[derive(Debug)]
pub struct Schedule {
    /// Where they are.
    queue: Arc<QueueHandle>,
    agenda: Mutex<Agenda>,
    /// Held while messages move to other places in the queue; how often some did.
    moves: Mutex<u64>,
    last_id: AtomicU64,
    bell: Arc<Bell>,
}

impl Schedule {
    fn new(queue: Arc<QueueHandle>, bell: Arc<Bell>) -> Arc<Self> {
        let schedule = Arc::new(Self {
            queue,
            agenda: Mutex::default(),
            moves: Mutex::default(),
            last_id: AtomicU64::new(0),
            bell,
        });
        schedule.bell.add(&schedule);
        schedule
    }

    /// The queue that they are in.
    pub(crate) fn queue(&self) -> &Arc<QueueHandle> {
        &self.queue
    }

    /// How many messages wait.
    pub(crate) fn messages(&self) -> u64 {
        self.queue.lock().machine.ready()
    }

    /// An identity for a message that is published now. Later ones are greater, after a restart too unless the clock was
    /// set back.
    pub(crate) fn next_id(&self, now_ms: u64) -> u64 {
        /// So many in one millisecond go without running ahead of time.
        const PER_MS_BITS: u32 = 16;
        let next = |last: u64| Some((last + 1).max(now_ms << PER_MS_BITS));
        let last = self.last_id.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        last.ok().and_then(next).unwrap_or_default()
    }

    /// Messages have entered a slot.
    pub(crate) fn arrived(&self, place: Place) {
        self.agenda().arrived(place);
        self.bell.ring(place.start_ms.saturating_sub(lead_ms(place.level)));
    }

    /// Moves messages to other places in the queue. The position up to which the log must be on disk before those that they
    /// left are settled, 0 for none.
    fn commit(&self, transfer: Transfer<'_>) -> Lsn {
        let mut moves = self.moves.lock().unwrap_or_else(PoisonError::into_inner);
        let done = transfer.commit();
        *moves += u64::from(done.moved > 0);
        done.until
    }

    /// How often messages have moved to other places in the queue; none does when this returns that was about to.
    fn moves(&self) -> u64 {
        *self.moves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A queue that messages stand behind has room, or is gone.
    pub(crate) fn has_room(&self, queue: QueueId) {
        if self.agenda().has_room(queue) {
            self.bell.ring(0);
        }
    }

    fn agenda(&self) -> MutexGuard<'_, Agenda> {
        self.agenda.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of what a restart has found.
    fn learn(&self) {
        let earliest = self.queue.lock().machine.classic().map(|machine| machine.earliest());
        let mut agenda = self.agenda();
        for (level, first_ms) in earliest.into_iter().flatten() {
            agenda.found(level, first_ms);
        }
    }
}

/// The identity of a message that waits.
fn id_of(record: &Record<'_>) -> u64 {
    let id = record.hidden_keys().next().and_then(|key| key.try_into().ok());
    id.map_or(0, u64::from_be_bytes)
}

/// The exchange, the routing key and the keys of a `BCC` header, without the identity between them.
fn route_of(record: &Record<'_>) -> Vec<u8> {
    let mut route = record.route().to_vec();
    for key in record.hidden_keys().skip(1) {
        route.push(key.len() as u8);
        route.extend_from_slice(key);
    }
    route
}

/// The route with the identity put into it.
pub(crate) fn route_with_id(route: &[u8], id: u64, hidden_keys: &[u8]) -> Vec<u8> {
    let mut all = Vec::with_capacity(route.len() + 9 + hidden_keys.len());
    all.extend_from_slice(route);
    all.push(8);
    all.extend_from_slice(&id.to_be_bytes());
    all.extend_from_slice(hidden_keys);
    all
}

/// Wakes the thread.
#[derive(Debug, Default)]
pub struct Bell {
    state: Mutex<BellState>,
    rung: Condvar,
}

#[derive(Debug, Default)]
struct BellState {
    schedules: Vec<Weak<Schedule>>,
    /// Until then the thread sleeps if nobody wakes it; 0 while it does not sleep.
    sleeps_until_ms: u64,
    has_rung: bool,
    is_closed: bool,
}

impl Bell {
    fn lock(&self) -> MutexGuard<'_, BellState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, schedule: &Arc<Schedule>) {
        self.lock().schedules.push(Arc::downgrade(schedule));
    }

    /// Something is to be done at that time.
    fn ring(&self, at_ms: u64) {
        let mut state = self.lock();
        if at_ms < state.sleeps_until_ms || state.sleeps_until_ms == 0 {
            state.has_rung = true;
            self.rung.notify_one();
        }
    }

    /// All schedules; `None` when it is time to end.
    fn schedules(&self) -> Option<Vec<Arc<Schedule>>> {
        let mut state = self.lock();
        state.schedules.retain(|schedule| schedule.strong_count() > 0);
        (!state.is_closed).then(|| state.schedules.iter().filter_map(Weak::upgrade).collect())
    }

    /// Sleeps until then, or until it rings.
    fn sleep(&self, until_ms: u64, most: Duration) {
        let mut state = self.lock();
        if !state.has_rung && !state.is_closed {
            let now_ms = now_ms();
            if until_ms > now_ms {
                state.sleeps_until_ms = until_ms;
                let pause = Duration::from_millis(until_ms - now_ms).min(most);
                state = self.rung.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        state.sleeps_until_ms = 0;
        state.has_rung = false;
    }

    /// Ends the thread soon.
    pub(crate) fn close(&self) {
        self.lock().is_closed = true;
        self.rung.notify_one();
    }
}

impl Broker {
    /// The schedule of a virtual host, made with its first message.
    ///
    /// # Errors
    /// 320 when the virtual host is deleted.
    pub(crate) fn schedule_of(&self, vhost: &VirtualHost) -> Result<Arc<Schedule>, ReplyError> {
        if let Some(schedule) = vhost.schedule() {
            return Ok(schedule);
        }
        vhost.change(|inner| {
            inner.check_not_deleted(vhost.name())?;
            if let Some(schedule) = &inner.schedule {
                return Ok(schedule.clone());
            }
            let id = self.next_queue_id();
            self.keep(vec![records::put_schedule(vhost.name(), id)]);
            Ok(self.add_schedule(inner, vhost.name(), id, Machine::default()))
        })
    }

    /// Gives a virtual host the schedule that a restart has found.
    pub(crate) fn restore_schedule(&self, vhost: &VirtualHost, id: QueueId, machine: Machine) {
        vhost.change(|inner| self.add_schedule(inner, vhost.name(), id, machine)).learn();
    }

    fn add_schedule(
        &self,
        inner: &mut Inner,
        vhost: &Name,
        id: QueueId,
        mut machine: Machine,
    ) -> Arc<Schedule> {
        if let Some(machine) = machine.classic() {
            machine.order_levels_by_time();
        }
        let definition = QueueDefinition {
            vhost: vhost.clone(),
            name: Name::truncated(QUEUE_NAME),
            durable: true,
            auto_delete: false,
            owner: None,
        };
        let queue =
            Arc::new(QueueHandle::new(id, definition, QueueSetup::default(), machine, self.memory().clone()));
        inner.queues.insert(id, queue.clone());
        let schedule = Schedule::new(queue, self.bell().clone());
        inner.schedule = Some(schedule.clone());
        schedule
    }
}
