//! Finding the queues of a message.

use foldhash::fast::RandomState;
use hashbrown::HashSet;
use posthouse_model::errors;
use posthouse_model::ids::QueueId;
use posthouse_model::name::Name;
use posthouse_model::props::HeaderView;
use posthouse_model::reply::ReplyError;
use posthouse_model::selector::Steps;

use super::consistent_hash::hash_keys;
use super::router::Router;
use super::seen::{Duplicates, NotCompared, Seen};
use super::stable_hash::{below, mix};
use super::trie::MatchScratch;
use super::{Destination, Exchange, ExchangeId, Topology};

/// The queues a message goes to. Reused from message to message, it stops allocating once it has grown.
#[derive(Debug, Default)]
pub struct RouteResult {
    queues: Vec<QueueId>,
    is_per_message: bool,
    histories: Vec<(Name, u64)>,
    /// The number that the next choice by chance comes from.
    draw: u64,
    /// Exchanges still to be visited.
    pending: Vec<ExchangeId>,
    visited: HashSet<ExchangeId, RandomState>,
    /// Destinations that were found again, and taken out.
    repeated: usize,
    /// With how many destinations that is done next.
    full_at: usize,
    /// What comparing the message with selectors may still take.
    steps: Steps,
    scratch: MatchScratch,
    /// Where the lists of destinations are that other keys of the message have led to.
    lists: HashSet<usize, RandomState>,
}

/// With so many destinations, those that were found several times are taken out, and again whenever there are four times as
/// many as were left: thousands of exchanges that all lead to thousands of queues would make it millions.
const REPEATED_MAX: usize = 16_384;

/// What routing looks at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Routed<'a> {
    /// The routing key.
    pub key: &'a str,
    /// The keys of the `CC` and `BCC` headers.
    pub extra_keys: &'a [&'a str],
    /// The content header, for exchanges that look at headers or properties.
    pub header: Option<HeaderView<'a>>,
    /// A random number, for exchanges that choose by chance.
    pub draw: u64,
}

impl RouteResult {
    /// The queues in ascending order, each once. Empty when the message is unroutable.
    pub fn queues(&self) -> &[QueueId] {
        &self.queues
    }

    /// Whether another message with the same exchange and routing key may go elsewhere: an exchange was asked that
    /// looks at headers or properties, chooses by chance, keeps messages or drops duplicates, or there were extra keys. Such a route must not be
    /// cached.
    pub fn is_per_message(&self) -> bool {
        self.is_per_message
    }

    /// The exchanges that keep the message for what is bound to them later, and how many messages each keeps.
    pub fn histories(&self) -> &[(Name, u64)] {
        &self.histories
    }

    fn reset(&mut self) {
        self.histories.clear();
        self.queues.clear();
        self.pending.clear();
        self.visited.clear();
        (self.repeated, self.full_at) = (0, REPEATED_MAX);
        self.steps = Steps::default();
        self.is_per_message = false;
    }

    fn push(&mut self, destination: Destination) {
        match destination {
            Destination::Queue(queue) => self.queues.push(queue),
            Destination::Exchange(exchange) => self.pending.push(exchange),
        }
    }

    fn extend(&mut self, destinations: &[Destination]) {
        for &destination in destinations {
            self.push(destination);
        }
    }

    /// Takes one of them by chance. Every choice for one message comes from a number of its own.
    fn push_one_of(&mut self, destinations: &[Destination]) {
        self.is_per_message = true;
        self.draw = mix(self.draw.wrapping_add(0x9e37_79b9_7f4a_7c15));
        self.push_some(destinations.get(below(destinations.len(), self.draw)).copied());
    }

    fn push_some(&mut self, destination: Option<Destination>) {
        if let Some(destination) = destination {
            self.push(destination);
        }
    }

    /// How often a destination was found.
    fn found(&self) -> usize {
        self.queues.len() + self.pending.len() + self.repeated
    }

    /// Takes out what was found several times when there are very many destinations.
    fn forget_repeated(&mut self) {
        let before = self.queues.len() + self.pending.len();
        if before < self.full_at {
            return;
        }
        self.queues.sort_unstable();
        self.queues.dedup();
        self.pending.sort_unstable();
        self.pending.dedup();
        let left = self.queues.len() + self.pending.len();
        self.repeated += before - left;
        self.full_at = REPEATED_MAX.max(left * 4);
    }
}

impl Topology {
    /// Finds the queues of a message published to `exchange`. 404 when there is no such exchange, 403 when it is
    /// internal; `result` is empty then.
    ///
    /// Bound exchanges are followed, each once. An exchange that finds no destination at all hands the message to
    /// its alternate exchange, if that exists.
    pub fn route(
        &self,
        exchange: &str,
        message: Routed<'_>,
        result: &mut RouteResult,
    ) -> Result<(), ReplyError> {
        self.route_compared(exchange, message, &mut NotCompared, result)
    }

    /// The same; exchanges that drop what they have seen before compare the message. What one of them drops does not go to
    /// its alternate exchange.
    pub fn route_compared(
        &self,
        exchange: &str,
        message: Routed<'_>,
        duplicates: &mut dyn Duplicates,
        result: &mut RouteResult,
    ) -> Result<(), ReplyError> {
        result.reset();
        let id = self.find_exchange(exchange)?;
        if self.at(id).is_some_and(|exchange| exchange.record.internal) {
            return Err(errors::publish_to_internal_exchange(self.vhost(), exchange));
        }
        result.is_per_message = !message.extra_keys.is_empty();
        result.draw = message.draw;
        self.follow(id, message, duplicates, result);
        Ok(())
    }

    /// Finds the queues of one of the broker's own messages, which may go to internal exchanges. `result` is empty
    /// when there is no such exchange.
    pub fn route_own(&self, exchange: &str, message: Routed<'_>, result: &mut RouteResult) {
        self.route_own_compared(exchange, message, &mut NotCompared, result);
    }

    /// The same; exchanges that drop what they have seen before compare the message.
    pub fn route_own_compared(
        &self,
        exchange: &str,
        message: Routed<'_>,
        duplicates: &mut dyn Duplicates,
        result: &mut RouteResult,
    ) {
        result.reset();
        result.draw = message.draw;
        if let Some(id) = self.exchange_id(exchange) {
            self.follow(id, message, duplicates, result);
        }
    }

    fn follow(
        &self,
        first: ExchangeId,
        message: Routed<'_>,
        duplicates: &mut dyn Duplicates,
        result: &mut RouteResult,
    ) {
        self.visit(first, message, duplicates, result);
        if !result.pending.is_empty() {
            result.visited.insert(first);
            while let Some(next) = result.pending.pop() {
                if result.visited.insert(next) {
                    self.visit(next, message, duplicates, result);
                }
            }
        }
        if result.queues.len() > 1 {
            result.queues.sort_unstable();
            result.queues.dedup();
        }
    }

    fn visit(
        &self,
        id: ExchangeId,
        message: Routed<'_>,
        duplicates: &mut dyn Duplicates,
        result: &mut RouteResult,
    ) {
        let Some(exchange) = self.at(id) else { return };
        let before = result.found();
        if let Router::Deduplication(_, window) = &exchange.router {
            result.is_per_message = true;
            let seen = message.header.and_then(Seen::of);
            if seen.is_some_and(|seen| duplicates.is_duplicate(&exchange.record.name, *window, seen)) {
                return;
            }
        }
        self.look_up(exchange, message, result);
        if result.found() == before
            && let Some(alternate) = exchange.alternate()
        {
            result.pending.extend(self.exchange_id(alternate));
        }
        result.forget_repeated();
    }

    fn look_up(&self, exchange: &Exchange, message: Routed<'_>, result: &mut RouteResult) {
        let keys = std::iter::once(message.key).chain(message.extra_keys.iter().copied());
        match &exchange.router {
            Router::ByQueueName => {
                for key in keys {
                    result.queues.extend(self.queue_id(key));
                }
            }
            Router::Direct(bound) => {
                for key in keys {
                    result.extend(bound.get(key).map_or(&[], |destinations| destinations.as_slice()));
                    result.forget_repeated();
                }
            }
            Router::Fanout(everything) | Router::Deduplication(everything, _) => {
                result.extend(everything.as_slice())
            }
            Router::Topic(trie) => {
                let mut scratch = std::mem::take(&mut result.scratch);
                let mut lists = std::mem::take(&mut result.lists);
                let is_one = message.extra_keys.is_empty();
                for key in keys {
                    trie.matches(key, &mut scratch, |destinations| {
                        // What is bound with one pattern is one list, whichever keys lead to it.
                        if is_one || lists.insert(destinations.as_ptr().addr()) {
                            result.extend(destinations);
                        }
                    });
                }
                lists.clear();
                (result.scratch, result.lists) = (scratch, lists);
            }
            Router::Headers(table) => {
                result.is_per_message = true;
                for destination in table.matching(message.header.and_then(|header| header.headers())) {
                    result.push(destination);
                }
            }
            Router::JmsTopic(table) => {
                result.is_per_message = true;
                let steps = std::mem::take(&mut result.steps);
                for destination in table.matching(message.header, &steps) {
                    result.push(destination);
                }
                result.steps = steps;
            }
            Router::ConsistentHash(members) => {
                result.is_per_message |= members.is_per_message();
                result.push_some(members.choose(message));
            }
            Router::ModulusHash(list) => result.push_some(list.choose(hash_keys(message))),
            Router::RecentHistory(everything, length) => {
                result.is_per_message = true;
                result.histories.push((exchange.record.name.clone(), *length));
                result.extend(everything.as_slice());
            }
            Router::Random(everything) => result.push_one_of(everything.as_slice()),
        }
    }
}

#[cfg(test)]
mod tests {
    use posthouse_model::field::{FieldTable, FieldValue};

    use super::super::{BindingRecord, DestinationName, ExchangeKind, ExchangeRecord};
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn topic(exchange: &str) -> ExchangeRecord {
        ExchangeRecord {
            name: name(exchange),
            kind: ExchangeKind::Topic,
            durable: false,
            auto_delete: false,
            internal: false,
            arguments: FieldTable::default(),
        }
    }

    /// Whatever the key.
    fn binding(source: &str, destination: DestinationName) -> BindingRecord {
        let (source, routing_key) = (name(source), name("#"));
        BindingRecord { source, destination, routing_key, arguments: FieldTable::default() }
    }

    #[test]
    fn many_keys_that_lead_to_the_same_queues_take_little_memory() {
        let mut topology = Topology::new(name("/"));
        let queues = 300;
        for id in 0..queues {
            topology.add_queue(name(&format!("q{id}")), QueueId(id), true);
        }
        for source in ["all", "again"] {
            topology.declare_exchange(topic(source)).unwrap();
        }
        let other = ExchangeRecord {
            arguments: FieldTable(vec![("alternate-exchange".to_owned(), FieldValue::string("amq.fanout"))]),
            ..topic("fallback")
        };
        topology.declare_exchange(other).unwrap();
        topology.bind(binding("amq.fanout", DestinationName::Queue(name("q0")))).unwrap();
        topology.bind(binding("fallback", DestinationName::Exchange(name("all")))).unwrap();
        topology.bind(binding("all", DestinationName::Exchange(name("again")))).unwrap();
        for id in 1..queues {
            for source in ["all", "again"] {
                topology.bind(binding(source, DestinationName::Queue(name(&format!("q{id}"))))).unwrap();
            }
        }
        let keys: Vec<String> = (0..4_000).map(|key| key.to_string()).collect();
        let extra_keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let mut result = RouteResult::default();
        topology
            .route("fallback", Routed { extra_keys: &extra_keys, ..Routed::default() }, &mut result)
            .unwrap();
        let expected: Vec<_> = (1..queues).map(QueueId).collect();
        assert_eq!(result.queues(), expected, "each once, and nothing by the alternate exchange");
        let room = result.queues.capacity();
        assert!(room < 2_000 && result.repeated == 0, "1.2 million ways were followed, room for {room}");
    }

    #[test]
    fn many_exchanges_that_lead_to_the_same_queues_take_little_memory() {
        let mut topology = Topology::new(name("/"));
        let queues = 300;
        for id in 0..queues {
            topology.add_queue(name(&format!("q{id}")), QueueId(id), true);
        }
        topology.declare_exchange(topic("first")).unwrap();
        for source in (0..200).map(|number| format!("e{number}")) {
            topology.declare_exchange(topic(&source)).unwrap();
            topology.bind(binding("first", DestinationName::Exchange(name(&source)))).unwrap();
            for id in 0..queues {
                topology.bind(binding(&source, DestinationName::Queue(name(&format!("q{id}"))))).unwrap();
            }
        }
        let mut result = RouteResult::default();
        topology.route("first", Routed::default(), &mut result).unwrap();
        assert_eq!(result.queues().len() as u64, queues);
        let room = result.queues.capacity();
        assert!(room < 40_000 && result.repeated > 40_000, "60,000 were found, room for {room}");
    }
}
