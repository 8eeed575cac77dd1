//! What deduplication exchanges remember: which values each has seen.
//!
//! In memory only: a restart forgets them. Bounded per exchange in number, by the exchange's argument.

use std::sync::MutexGuard;

use hashbrown::HashMap;
use posthouse_model::exchange_args::SeenWindow;
use posthouse_model::name::Name;
use posthouse_queue::topology::seen::{Duplicates, Seen, SeenValues, Stamp};
use smallvec::SmallVec;

use crate::vhost::VirtualHost;

/// The values of a virtual host by exchange.
#[derive(Debug, Default)]
pub(crate) struct SeenByExchange(HashMap<Name, SeenValues, foldhash::quality::RandomState>);

/// That an exchange has seen a message's value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SeenValue {
    exchange: Name,
    value: u128,
    stamp: Stamp,
}

impl SeenValue {
    /// Whether it is the same exchange's value, of whichever message.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.value == other.value && self.exchange == other.exchange
    }
}

/// The values of one message, by the exchanges it met.
pub type SeenOfMessage = SmallVec<[SeenValue; 1]>;

impl SeenByExchange {
    /// These count as not seen.
    pub(crate) fn forget(&mut self, seen: &[SeenValue]) {
        for SeenValue { exchange, value, stamp } in seen {
            if let Some(values) = self.0.get_mut(exchange) {
                values.forget(*value, *stamp);
            }
        }
    }

    /// Forgets what exchanges have seen that are gone.
    pub(crate) fn retain(&mut self, exists: impl Fn(&str) -> bool) {
        self.0.retain(|exchange, _| exists(exchange));
    }
}

/// Compares one message with those before it, while it is routed. From the first exchange that asks on nobody else's is
/// compared.
pub(crate) struct Comparison<'a> {
    vhost: &'a VirtualHost,
    now_ms: u64,
    values: Option<MutexGuard<'a, SeenByExchange>>,
    seen: SeenOfMessage,
    known: SeenOfMessage,
}

impl<'a> Comparison<'a> {
    pub(crate) fn new(vhost: &'a VirtualHost, now_ms: u64) -> Self {
        Self { vhost, now_ms, values: None, seen: SmallVec::new(), known: SmallVec::new() }
    }

    /// Whether an exchange has dropped the message.
    pub(crate) fn has_dropped(&self) -> bool {
        !self.known.is_empty()
    }

    /// The values for which exchanges have dropped it. Their stamps mean nothing.
    pub(crate) fn take_known(&mut self) -> SeenOfMessage {
        std::mem::take(&mut self.known)
    }

    /// What exchanges have seen, which counts only if the message `is_routed`.
    pub(crate) fn finish(mut self, is_routed: bool) -> SeenOfMessage {
        if !is_routed && let Some(values) = &mut self.values {
            values.forget(&self.seen);
            self.seen.clear();
        }
        self.seen
    }
}

impl Duplicates for Comparison<'_> {
    fn is_duplicate(&mut self, exchange: &Name, window: SeenWindow, message: Seen) -> bool {
        let values = &mut self.values.get_or_insert_with(|| self.vhost.seen()).0;
        let values = values.entry(exchange.clone()).or_default();
        let stamp = values.enter(message, window, self.now_ms);
        let list = if stamp.is_some() { &mut self.seen } else { &mut self.known };
        let (exchange, is_known) = (exchange.clone(), stamp.is_none());
        let stamp = stamp.unwrap_or_default();
        list.push(SeenValue { exchange, value: message.value, stamp });
        is_known
    }
}
