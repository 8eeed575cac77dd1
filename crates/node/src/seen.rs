//! What deduplication exchanges remember: which values each has seen.
//!
//! Bounded per exchange in number, by the exchange's argument. Those of durable exchanges that were told to keep them
//! (`x-cache-persistence` of `disk`) are in the log, too, each in one record with its message, and in every checkpoint. There
//! such an exchange is a queue without messages.

use std::sync::{Arc, MutexGuard, OnceLock};

use hashbrown::HashMap;
use posthouse_model::errors::Resource;
use posthouse_model::exchange_args::{ExchangeArguments, SeenWindow};
use posthouse_model::ids::{Lsn, QueueId};
use posthouse_model::name::Name;
use posthouse_queue::seen::{SeenValues, Stamp};
use posthouse_queue::stream::notes::Note;
use posthouse_queue::topology::ExchangeRecord;
use posthouse_queue::topology::seen::{Duplicates, Seen};
use posthouse_storage::checkpoint::QueueState;
use posthouse_storage::engine::RecoveredQueue;
use smallvec::SmallVec;
use tracing::error;

use crate::vhost::VirtualHost;
use crate::waker::SessionWaker;

/// The values of a virtual host by exchange.
#[derive(Debug, Default)]
pub(crate) struct SeenByExchange {
    by_exchange: HashMap<Name, SeenByOne, foldhash::quality::RandomState>,
    /// Who has published duplicates of messages that were on their way then.
    waiting: Vec<Arc<SessionWaker>>,
}

/// The values of one exchange.
#[derive(Debug, Default)]
struct SeenByOne {
    values: SeenValues,
    /// What the log knows it by, if that has them.
    id: Option<QueueId>,
    /// Messages on their way of which there are duplicates.
    awaited: HashMap<Stamp, Arc<Verdict>, foldhash::fast::RandomState>,
}

/// Whether a message that was on its way has got a place, once that is known. Its duplicates are answered by that.
#[derive(Debug, Default)]
pub struct Verdict(OnceLock<bool>);

impl Verdict {
    /// Whether the message has a place.
    pub fn has_place(&self) -> Option<bool> {
        self.0.get().copied()
    }

    fn pass(&self, has_place: bool) {
        // Each is passed once.
        let _ = self.0.set(has_place);
    }
}

impl SeenByOne {
    /// The duplicates of the message with this stamp can be answered.
    fn decide(&mut self, stamp: Stamp, has_place: bool) {
        if !self.awaited.is_empty()
            && let Some(verdict) = self.awaited.remove(&stamp)
        {
            verdict.pass(has_place);
        }
    }
}

/// That an exchange has seen a message's value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SeenValue {
    exchange: Name,
    value: u128,
    stamp: Stamp,
}

/// The values of one message, by the exchanges it met.
pub type SeenOfMessage = SmallVec<[SeenValue; 1]>;

/// What a duplicate waits for: the messages that came before it, by the exchanges that dropped it; none when they have places.
pub type Awaited = SmallVec<[Arc<Verdict>; 1]>;

impl SeenByExchange {
    /// An exchange's values are kept under this identity.
    pub(crate) fn keep(&mut self, exchange: &Name, id: QueueId) {
        self.by_exchange.entry(exchange.clone()).or_default().id = Some(id);
    }

    /// Takes over what a start found of an exchange's values.
    pub(crate) fn restore(
        &mut self,
        exchange: &Name,
        id: QueueId,
        found: &[RecoveredQueue],
        window: SeenWindow,
        now_ms: u64,
    ) {
        self.keep(exchange, id);
        let Some(seen) = self.by_exchange.get_mut(exchange) else { return };
        let notes = found.iter().flat_map(|level| &level.notes).map(|note| (&*note.key, &*note.value));
        let unknown = seen.values.remember(notes, window, now_ms);
        if unknown > 0 {
            error!(%exchange, unknown, "notes of an exchange have no form that is known");
        }
    }

    /// These count as not seen.
    pub(crate) fn forget(&mut self, seen: &[SeenValue]) {
        for SeenValue { exchange, value, stamp } in seen {
            if let Some(seen) = self.by_exchange.get_mut(exchange) {
                seen.values.forget(*value, *stamp);
                seen.decide(*stamp, false);
            }
        }
    }

    /// Who waited until something became of messages, and is to be woken.
    pub(crate) fn take_waiting(&mut self) -> Vec<Arc<SessionWaker>> {
        std::mem::take(&mut self.waiting)
    }

    /// Has a session woken when something becomes of messages that are on their way.
    pub(crate) fn wait(&mut self, waker: &Arc<SessionWaker>) {
        if !self.waiting.iter().any(|waiting| Arc::ptr_eq(waiting, waker)) {
            self.waiting.push(waker.clone());
        }
    }

    /// Forgets what exchanges have seen that are gone.
    pub(crate) fn retain(&mut self, exists: impl Fn(&str) -> bool) {
        for (_, gone) in self.by_exchange.extract_if(|exchange, _| !exists(exchange)) {
            gone.awaited.values().for_each(|verdict| verdict.pass(false));
        }
    }

    /// What a checkpoint must remember when the log is on disk up to `durable`.
    pub(crate) fn states(&self, durable: Lsn, now_ms: u64) -> Vec<QueueState> {
        let kept = self.by_exchange.values().filter_map(|seen| Some((seen.id?, &seen.values)));
        kept.map(|(id, values)| QueueState {
            id,
            next_seq: 0,
            floor: 0,
            covered: 0,
            delivered_below: 0,
            blocks: Vec::new(),
            notes: values.notes(durable, now_ms).into_iter().map(crate::owner::note).collect(),
            attempts: Vec::new(),
            delays: Vec::new(),
        })
        .collect()
    }
}

/// Whether an exchange that was just declared durable keeps what it has seen.
pub(crate) fn keeps(exchange: &ExchangeRecord, vhost: &VirtualHost) -> bool {
    let resource = Resource::exchange(vhost.name(), &exchange.name);
    ExchangeArguments::parse(exchange.kind, exchange.arguments.clone(), resource)
        .is_ok_and(|arguments| arguments.keeps_seen)
}

/// What becomes of a message that exchanges have seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// It has a place.
    Placed,
    /// It has none.
    Refused,
    /// That is not decided yet.
    Later,
}

/// What exchanges have seen of messages that are handed over together, each with its number among them.
#[derive(Debug, Default)]
pub(crate) struct SeenInBatch {
    messages: Vec<(u64, SeenOfMessage)>,
    /// Exchanges of which the log is about to be told.
    logged: SmallVec<[Name; 1]>,
}

impl SeenInBatch {
    /// Adds a message.
    pub(crate) fn push(&mut self, number: u64, seen: SeenOfMessage) {
        if !seen.is_empty() {
            self.messages.push((number, seen));
        }
    }

    /// Whether there is none.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Says what becomes of the messages. With `is_logged` the log gets those that have a place: what it must be told in one
    /// record with them is appended to `notes`, and [`Self::logged`] must follow. Sessions that wait to hear of it, to be woken
    /// when no lock is held, are appended to `woken`.
    pub(crate) fn settle(
        &mut self,
        vhost: &VirtualHost,
        fate: impl Fn(u64) -> Fate,
        is_logged: bool,
        notes: &mut Vec<(QueueId, Note)>,
        woken: &mut Vec<Arc<SessionWaker>>,
    ) {
        let mut all = vhost.seen();
        let mut placed: SmallVec<[SeenOfMessage; 8]> = SmallVec::new();
        self.messages.retain_mut(|(number, seen)| {
            match fate(*number) {
                Fate::Placed => placed.push(std::mem::take(seen)),
                Fate::Refused => all.forget(seen),
                Fate::Later => return true,
            }
            false
        });
        let mut to_log: HashMap<Name, Vec<(u128, Stamp)>, foldhash::fast::RandomState> = HashMap::default();
        for SeenValue { exchange, value, stamp } in placed.into_iter().flatten() {
            let Some(seen) = all.by_exchange.get_mut(&exchange) else { continue };
            seen.decide(stamp, true);
            if is_logged && seen.id.is_some() {
                to_log.entry(exchange).or_default().push((value, stamp));
            } else {
                seen.values.arrived(value, stamp);
            }
        }
        for (exchange, values) in to_log {
            let Some(seen) = all.by_exchange.get_mut(&exchange) else { continue };
            if let Some((id, note)) = seen.id.zip(seen.values.log(values)) {
                notes.push((id, note));
                self.logged.push(exchange);
            }
        }
        woken.append(&mut all.waiting);
    }

    /// Whether the log was to be told of some.
    pub(crate) fn is_logged(&self) -> bool {
        !self.logged.is_empty()
    }

    /// What the log was to be told is in it up to `until`, and it is on disk up to `durable`.
    pub(crate) fn logged(&mut self, vhost: &VirtualHost, until: Lsn, durable: Lsn) {
        let mut all = vhost.seen();
        for exchange in self.logged.drain(..) {
            if let Some(seen) = all.by_exchange.get_mut(&exchange) {
                seen.values.logged(until, durable);
            }
        }
    }
}

/// Compares one message with those before it, while it is routed. From the first exchange that asks on nobody else's is
/// compared.
pub(crate) struct Comparison<'a> {
    vhost: &'a VirtualHost,
    now_ms: u64,
    values: Option<MutexGuard<'a, SeenByExchange>>,
    outcome: Compared,
}

/// What came of a comparison.
#[derive(Clone, Debug, Default)]
pub struct Compared {
    /// What exchanges have seen of the message, and want to hear what becomes of it: whether it is handed over, or goes nowhere
    /// after all ([`VirtualHost::forget_seen`]).
    pub seen: SeenOfMessage,
    /// Whether an exchange has dropped the message.
    pub is_duplicate: bool,
    /// The messages that it is a duplicate of, where those are on their way still ([`VirtualHost::wait_for`]).
    pub awaited: Awaited,
}

impl<'a> Comparison<'a> {
    pub(crate) fn new(vhost: &'a VirtualHost, now_ms: u64) -> Self {
        Self { vhost, now_ms, values: None, outcome: Compared::default() }
    }

    /// What exchanges have seen of the message counts only if it `is_routed`.
    pub(crate) fn finish(mut self, is_routed: bool) -> Compared {
        if !is_routed && let Some(values) = &mut self.values {
            // Nobody has seen it meanwhile.
            values.forget(&self.outcome.seen);
            self.outcome.seen.clear();
        }
        self.outcome
    }
}

impl Duplicates for Comparison<'_> {
    fn is_duplicate(&mut self, exchange: &Name, window: SeenWindow, message: Seen) -> bool {
        let all = self.values.get_or_insert_with(|| self.vhost.seen());
        let seen = all.by_exchange.entry(exchange.clone()).or_default();
        let (exchange, value) = (exchange.clone(), message.value);
        match seen.values.enter(message, window, self.now_ms) {
            Some(stamp) => {
                self.outcome.seen.push(SeenValue { exchange, value, stamp });
                false
            }
            None => {
                self.outcome.is_duplicate = true;
                if let Some(stamp) = seen.values.on_its_way(value) {
                    self.outcome.awaited.push(seen.awaited.entry(stamp).or_default().clone());
                }
                true
            }
        }
    }
}

/// Finds out whether a message would be compared with others, and lets it pass.
#[derive(Debug, Default)]
pub(crate) struct WouldCompare(pub(crate) bool);

impl Duplicates for WouldCompare {
    fn is_duplicate(&mut self, _: &Name, _: SeenWindow, _: Seen) -> bool {
        self.0 = true;
        false
    }
}
