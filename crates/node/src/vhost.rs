//! A virtual host: its exchanges, bindings and queues by name.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use hashbrown::HashMap;
use posthouse_model::errors::{self, Resource};
use posthouse_model::ids::QueueId;
use posthouse_model::limits::{self, PublishLimits, VhostLimits};
use posthouse_model::name::Name;
use posthouse_model::props::HeaderView;
use posthouse_model::raw_table::{RawTable, RawValue};
use posthouse_model::reply::ReplyError;
use posthouse_queue::topology::seen::{Duplicates, NotCompared};
use posthouse_queue::topology::{RouteResult, Routed, Topology};
use serde_json::Value;
use smallvec::SmallVec;

use crate::events::{self, Events};
use crate::history::{Histories, Kept, Publication};
use crate::metadata::VhostMetadata;
use crate::policies::Policies;
use crate::queue_handle::QueueHandle;
use crate::quotas::Account;
use crate::schedule::Schedule;
use crate::seen::{Compared, Comparison, SeenByExchange, SeenOfMessage, SeenValue, Verdict, WouldCompare};
use crate::waker::SessionWaker;

/// Names of the queues behind `amq.rabbitmq.reply-to` start so.
pub const REPLY_QUEUE_PREFIX: &str = "amq.rabbitmq.reply-to.";

/// See the module's documentation.
#[derive(Debug)]
pub struct VirtualHost {
    name: Name,
    epoch: AtomicU64,
    is_traced: AtomicBool,
    account: Arc<Account>,
    events: Arc<Events>,
    inner: RwLock<Inner>,
    /// A leaf of `inner`.
    histories: Mutex<Histories>,
    seen: Mutex<SeenByExchange>,
}

/// What the lock guards. Changes go through [`VirtualHost::change`].
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) topology: Topology,
    pub(crate) queues: HashMap<QueueId, Arc<QueueHandle>, foldhash::fast::RandomState>,
    pub(crate) policies: Policies,
    pub(crate) metadata: VhostMetadata,
    pub(crate) limits: VhostLimits,
    /// Runtime parameters that mean nothing here, by component and name.
    pub(crate) parameters: BTreeMap<(String, String), Value>,
    /// What waits for a time; none until something does. Its queue is among the others, and no limit counts it.
    pub(crate) schedule: Option<Arc<Schedule>>,
    /// How many of the queues are behind `amq.rabbitmq.reply-to`, and no limit counts them.
    pub(crate) reply_queues: usize,
    /// The virtual host is gone; sessions that are about to end find this.
    pub(crate) deleted: bool,
}

impl Inner {
    /// Refuses (320) what would be kept, once the virtual host is deleted: its name may be another's.
    pub(crate) fn check_not_deleted(&self, vhost: &str) -> Result<(), ReplyError> {
        if self.deleted { Err(errors::vhost_deleted(vhost)) } else { Ok(()) }
    }

    /// Refuses (406) another queue when there are as many as there may be.
    pub(crate) fn check_queue_limit(&self, vhost: &str, name: &str) -> Result<(), ReplyError> {
        self.check_queues_limit(vhost, name, 1)
    }

    /// As [`Self::check_queue_limit`], for more of them.
    pub(crate) fn check_queues_limit(&self, vhost: &str, name: &str, more: usize) -> Result<(), ReplyError> {
        let hidden = self.reply_queues + usize::from(self.schedule.is_some());
        let queues = self.queues.len() - hidden + more;
        match limits::bound(self.limits.max_queues).filter(|max| queues > *max as usize) {
            Some(max) => Err(errors::vhost_queue_limit(vhost, name, max)),
            None => Ok(()),
        }
    }
}

/// Where a message goes.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The queues in ascending order, each once.
    pub queues: SmallVec<[QueueId; 8]>,
    /// Whether another message with the same exchange and key may go elsewhere.
    pub is_per_message: bool,
    /// The message goes nowhere, and counts as routed all the same: the reply queue it is for is gone, or it is a duplicate.
    pub swallowed: bool,
    /// What deduplication exchanges have made of it.
    pub compared: Compared,
}

/// Where one of the broker's own messages goes.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    /// The queues in ascending order, each once.
    pub(crate) queues: SmallVec<[QueueId; 8]>,
    /// Whether another message with the same exchange and key may go elsewhere.
    pub(crate) is_per_message: bool,
    /// What exchanges will know of it, if anything.
    pub(crate) traces: Option<Traces>,
}

/// How a way was found by which exchanges keep a message or compare it with others, to go it again when it enters its
/// queues.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traces {
    epoch: u64,
    draw: u64,
    /// How many queues were found.
    queues: usize,
    is_compared: bool,
}

impl Traces {
    /// What was drawn for it.
    pub(crate) fn draw(&self) -> u64 {
        self.draw
    }
}

/// What becomes of a message that is about to enter its queues.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Entry {
    /// It enters these; none when exchanges have dropped it, or it was to go to none. With what deduplication exchanges have
    /// seen of it, which want to hear that it has entered.
    Enters(SmallVec<[QueueId; 8]>, SeenOfMessage),
    /// Exchanges have dropped it as a duplicate of messages that are on their way, and may be refused yet.
    Undecided,
    /// It goes elsewhere by now, and has left no traces.
    Rerouted,
    /// It is not there any more.
    Gone,
}

impl VirtualHost {
    /// A virtual host with the predeclared exchanges only.
    pub(crate) fn new(name: Name, events: Arc<Events>) -> Self {
        let inner = Inner {
            topology: Topology::new(name.clone()),
            queues: HashMap::default(),
            policies: Policies::default(),
            metadata: VhostMetadata::default(),
            limits: VhostLimits::default(),
            parameters: BTreeMap::new(),
            schedule: None,
            reply_queues: 0,
            deleted: false,
        };
        Self {
            name,
            epoch: AtomicU64::new(0),
            is_traced: AtomicBool::new(false),
            account: Arc::default(),
            events,
            inner: RwLock::new(inner),
            histories: Mutex::default(),
            seen: Mutex::default(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Rises with every change; a route found under an older epoch may be wrong.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Finds the queues of a message of which nothing is known but its routing key; see [`Topology::route`].
    pub fn route(&self, exchange: &str, key: &str) -> Result<Found, ReplyError> {
        self.route_and(exchange, Routed { key, ..Routed::default() }, &mut NotCompared, |_| {})
    }

    /// Finds the queues of a message and keeps it where exchanges on its way have a history: under the same lock, so that a
    /// queue that is bound meanwhile gets it once, in one of the two ways. `now_ms` is when it came: deduplication
    /// exchanges compare it with those before it.
    pub fn route_and_keep(
        &self,
        exchange: &str,
        routed: Routed<'_>,
        message: Publication<'_>,
        now_ms: u64,
    ) -> Result<Found, ReplyError> {
        let mut comparison = Comparison::new(self, now_ms);
        let mut found = self.route_and(exchange, routed, &mut comparison, |result| {
            if let Some(header) = routed.header {
                self.keep_history(result, header, message);
            }
        })?;
        found.compared = comparison.finish(!found.queues.is_empty());
        found.swallowed |= found.queues.is_empty() && found.compared.is_duplicate;
        Ok(found)
    }

    /// Finds where a message would go now that waits for a time: it is routed then, and nothing knows of it before.
    pub fn route_later(&self, exchange: &str, routed: Routed<'_>) -> Result<Found, ReplyError> {
        self.route_and(exchange, routed, &mut NotCompared, |_| {})
    }

    /// What deduplication exchanges have seen of a message that went nowhere counts as not seen.
    pub fn forget_seen(&self, seen: &[SeenValue]) {
        if seen.is_empty() {
            return;
        }
        let waiting = {
            let mut all = self.seen();
            all.forget(seen);
            all.take_waiting()
        };
        waiting.iter().for_each(|session| session.decided());
    }

    /// Has a session woken when there is more to say of messages that are on their way, if some of these still are.
    pub fn wait_for<'a>(
        &self,
        mut awaited: impl Iterator<Item = &'a Arc<Verdict>>,
        waker: &Arc<SessionWaker>,
    ) {
        // Verdicts are passed under the lock.
        let mut all = self.seen();
        if awaited.any(|verdict| verdict.has_place().is_none()) {
            all.wait(waker);
        }
    }

    /// Keeps a message where exchanges on its way have a history.
    fn keep_history(&self, result: &RouteResult, header: HeaderView<'_>, message: Publication<'_>) {
        if !result.histories().is_empty() && !header.headers().is_some_and(says_no_store) {
            self.histories().keep(result.histories(), message);
        }
    }

    fn route_and(
        &self,
        exchange: &str,
        message: Routed<'_>,
        duplicates: &mut dyn Duplicates,
        and: impl FnOnce(&RouteResult),
    ) -> Result<Found, ReplyError> {
        let mut result = RouteResult::default();
        {
            let inner = self.read();
            inner.topology.route_compared(exchange, message, duplicates, &mut result)?;
            and(&result);
        }
        let queues = SmallVec::from_slice(result.queues());
        let is_reply = exchange.is_empty() && message.key.starts_with(REPLY_QUEUE_PREFIX);
        let swallowed = queues.is_empty() && is_reply;
        Ok(Found { queues, is_per_message: result.is_per_message(), swallowed, ..Found::default() })
    }

    /// The history of an exchange, oldest first. Called while the virtual host is being changed.
    pub(crate) fn history(&self, exchange: &str) -> Vec<Kept> {
        self.histories().of(exchange)
    }

    /// Finds the queues of one of the broker's own messages, which may go to internal exchanges. They are in
    /// ascending order, each once; none when there is no such exchange.
    pub fn route_own(
        &self,
        exchange: &str,
        key: &str,
        header: Option<HeaderView<'_>>,
    ) -> SmallVec<[QueueId; 8]> {
        let mut result = RouteResult::default();
        self.read().topology.route_own(exchange, Routed { key, header, ..Routed::default() }, &mut result);
        SmallVec::from_slice(result.queues())
    }

    /// Finds where a message of the broker's own would go now, which may be to internal exchanges: a dead letter, or one that
    /// waited for its time. With `is_compared` deduplication exchanges have a say. That it came by leaves no traces yet:
    /// [`Self::enter`].
    pub(crate) fn find_way(&self, exchange: &str, routed: Routed<'_>, is_compared: bool) -> Way {
        let (mut result, mut would_compare) = (RouteResult::default(), WouldCompare::default());
        let inner = self.read();
        let duplicates: &mut dyn Duplicates = if is_compared { &mut would_compare } else { &mut NotCompared };
        inner.topology.route_own_compared(exchange, routed, duplicates, &mut result);
        let leaves_traces = would_compare.0 || !result.histories().is_empty();
        let queues = SmallVec::from_slice(result.queues());
        let traces = leaves_traces.then(|| Traces {
            epoch: self.epoch(),
            draw: routed.draw,
            queues: queues.len(),
            is_compared,
        });
        let is_per_message = result.is_per_message() || !routed.extra_keys.is_empty();
        Way { queues, is_per_message, traces }
    }

    /// A message enters the queues that [`Self::find_way`] found, which have room for it, and leaves its traces where it came
    /// by: once and for all. This is done under one lock with `claim`, which says whether it is there still: so a queue that
    /// is bound meanwhile gets it once, and who cancels it cancels all of it.
    pub(crate) fn enter(
        &self,
        routed: Routed<'_>,
        message: Publication<'_>,
        (traces, queues): (Traces, &[QueueId]),
        now_ms: u64,
        claim: impl FnOnce() -> bool,
    ) -> Entry {
        let exchange = match message.route {
            [length, rest @ ..] => rest.get(..usize::from(*length)).unwrap_or_default(),
            [] => &[],
        };
        let exchange = String::from_utf8_lossy(exchange);
        let mut result = RouteResult::default();
        let inner = self.read();
        if self.epoch() != traces.epoch {
            inner.topology.route_own_compared(&exchange, routed, &mut NotCompared, &mut result);
            let goes_there = |queue: &QueueId| result.queues().contains(queue);
            if result.queues().len() != traces.queues || !queues.iter().all(goes_there) {
                return Entry::Rerouted;
            }
        }
        let mut comparison = Comparison::new(self, now_ms);
        let duplicates: &mut dyn Duplicates =
            if traces.is_compared { &mut comparison } else { &mut NotCompared };
        inner.topology.route_own_compared(&exchange, routed, duplicates, &mut result);
        let goes_there = |queue: &&QueueId| result.queues().contains(queue);
        let queues: SmallVec<[QueueId; 8]> = queues.iter().filter(goes_there).copied().collect();
        let Compared { seen, is_duplicate, awaited } = comparison.finish(!queues.is_empty());
        let is_certain = || awaited.iter().all(|verdict| verdict.has_place() == Some(true));
        if queues.is_empty() && is_duplicate && !is_certain() {
            return Entry::Undecided;
        }
        if !claim() {
            self.forget_seen(&seen);
            return Entry::Gone;
        }
        if let Some(header) = routed.header {
            self.keep_history(&result, header, message);
        }
        Entry::Enters(queues, seen)
    }

    /// Whether what is published and delivered is copied to `amq.rabbitmq.trace`.
    #[inline]
    pub fn is_traced(&self) -> bool {
        self.is_traced.load(Ordering::Relaxed)
    }

    /// Starts or stops copying. Publishers notice it with their next read, because the epoch rises.
    pub(crate) fn set_traced(&self, on: bool) {
        self.is_traced.store(on, Ordering::Relaxed);
        self.change(|inner| inner.topology.forget_routes());
    }

    /// The queue of that identity.
    pub fn queue_by_id(&self, id: QueueId) -> Option<Arc<QueueHandle>> {
        self.read().queues.get(&id).cloned()
    }

    /// The queue of that name, or none.
    pub fn find_queue(&self, name: &str) -> Option<Arc<QueueHandle>> {
        let inner = self.read();
        let id = inner.topology.queue_id(name)?;
        inner.queues.get(&id).cloned()
    }

    /// The queue of that name for use by a connection: 404 when there is none, 405 when it belongs to another one.
    pub fn queue(&self, name: &str, connection: u64) -> Result<Arc<QueueHandle>, ReplyError> {
        let queue = self.find_queue(name).ok_or_else(|| errors::no_queue(&self.name, name))?;
        self.check_owner(&queue, connection)?;
        Ok(queue)
    }

    /// Refuses (405) a connection that does not own an exclusive queue.
    pub(crate) fn check_owner(&self, queue: &QueueHandle, connection: u64) -> Result<(), ReplyError> {
        match queue.definition.owner {
            Some(owner) if owner != connection => {
                Err(errors::exclusive_access(Resource::queue(&self.name, &queue.definition.name)))
            }
            _ => Ok(()),
        }
    }

    /// All queues by name, without those behind `amq.rabbitmq.reply-to` and that of the schedule.
    pub fn queues(&self) -> Vec<Arc<QueueHandle>> {
        let mut queues: Vec<_> = self.all_queues();
        let schedule = self.schedule();
        let is_hidden = |queue: &Arc<QueueHandle>| {
            let waits = schedule.as_ref().is_some_and(|schedule| Arc::ptr_eq(schedule.queue(), queue));
            waits || queue.definition.name.starts_with(REPLY_QUEUE_PREFIX)
        };
        queues.retain(|queue| !is_hidden(queue));
        queues.sort_unstable_by(|a, b| a.definition.name.cmp(&b.definition.name));
        queues
    }

    /// All queues in no particular order.
    pub(crate) fn all_queues(&self) -> Vec<Arc<QueueHandle>> {
        self.read().queues.values().cloned().collect()
    }

    /// What waits for a time; none until something does.
    pub(crate) fn schedule(&self) -> Option<Arc<Schedule>> {
        self.read().schedule.clone()
    }

    /// Refuses (320) a session that begins when the virtual host is deleted already.
    pub fn check_not_deleted(&self) -> Result<(), ReplyError> {
        self.read().check_not_deleted(&self.name)
    }

    /// Looks at the topology.
    pub fn with_topology<T>(&self, look: impl FnOnce(&Topology) -> T) -> T {
        look(&self.read().topology)
    }

    /// Changes exchanges, bindings or queues, and raises the epoch.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.write();
        let exchanges = inner.topology.exchange_count();
        let has_events = self.events.are_of(&self.name);
        inner.topology.watch(has_events || self.events.are_wanted());
        let outcome = change(&mut inner);
        if has_events {
            self.events.set_bound(inner.topology.is_bound(events::EXCHANGE));
        }
        self.events.emit_changes(&self.name, &mut inner);
        if inner.topology.exchange_count() < exchanges {
            self.histories().retain(|exchange| inner.topology.exchange(exchange).is_some());
            let waiting = {
                let mut seen = self.seen();
                seen.retain(|exchange| inner.topology.exchange(exchange).is_some());
                seen.take_waiting()
            };
            waiting.iter().for_each(|session| session.decided());
        }
        self.epoch.store(inner.topology.epoch(), Ordering::Release);
        outcome
    }

    /// What an operator notes about it.
    pub fn metadata(&self) -> VhostMetadata {
        self.read().metadata.clone()
    }

    /// Its limits.
    pub fn limits(&self) -> VhostLimits {
        self.read().limits.clone()
    }

    /// Connections it may have; none for any number.
    pub fn max_connections(&self) -> Option<u32> {
        limits::bound(self.read().limits.max_connections)
    }

    /// How fast may be published in it.
    pub fn publish_limits(&self) -> PublishLimits {
        self.read().limits.publish
    }

    /// What is published in it is charged to this.
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// Bytes its queues may hold; none for any number.
    pub(crate) fn max_stored_bytes(&self) -> Option<u64> {
        self.read().limits.max_stored_bytes.and_then(|max| u64::try_from(max).ok())
    }

    /// Messages that may wait for a time in it; none for any number.
    pub(crate) fn max_scheduled_messages(&self) -> Option<u64> {
        self.read().limits.max_scheduled_messages.and_then(|max| u64::try_from(max).ok())
    }

    /// Looks at everything at one moment.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Inner) -> T) -> T {
        look(&self.read())
    }

    pub(crate) fn seen(&self) -> MutexGuard<'_, SeenByExchange> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn histories(&self) -> MutexGuard<'_, Histories> {
        self.histories.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a message's headers say that no history is to keep it.
fn says_no_store(headers: RawTable<'_>) -> bool {
    headers.get(b"x-recent-history-no-store") == Some(RawValue::Bool(true))
}
