//! Finding the queues of a message.

use foldhash::fast::RandomState;
use hashbrown::HashSet;
use posthouse_model::errors;
use posthouse_model::ids::QueueId;
use posthouse_model::raw_table::RawTable;
use posthouse_model::reply::ReplyError;

use super::router::Router;
use super::trie::MatchScratch;
use super::{Destination, Exchange, ExchangeId, Topology};

/// The queues a message goes to. Reused from message to message, it stops allocating once it has grown.
#[derive(Debug, Default)]
pub struct RouteResult {
    queues: Vec<QueueId>,
    depends_on_headers: bool,
    /// Exchanges still to be visited.
    pending: Vec<ExchangeId>,
    visited: HashSet<ExchangeId, RandomState>,
    scratch: MatchScratch,
}

/// What routing looks at.
#[derive(Clone, Copy)]
struct Routed<'a> {
    key: &'a str,
    extra_keys: &'a [&'a str],
    headers: Option<RawTable<'a>>,
}

impl RouteResult {
    /// The queues in ascending order, each once. Empty when the message is unroutable.
    pub fn queues(&self) -> &[QueueId] {
        &self.queues
    }

    /// Whether another message with the same exchange and routing key may go elsewhere: a headers exchange was
    /// asked or there were extra keys. Such a route must not be cached.
    pub fn depends_on_headers(&self) -> bool {
        self.depends_on_headers
    }

    fn reset(&mut self) {
        self.queues.clear();
        self.pending.clear();
        self.visited.clear();
        self.depends_on_headers = false;
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

    fn found(&self) -> usize {
        self.queues.len() + self.pending.len()
    }
}

impl Topology {
    /// Finds the queues of a message published to `exchange` with `routing_key`, the keys of its `CC` and `BCC`
    /// headers, and its headers. 404 when there is no such exchange, 403 when it is internal; `result` is empty
    /// then.
    ///
    /// Bound exchanges are followed, each once. An exchange that finds no destination at all hands the message to
    /// its alternate exchange, if that exists.
    pub fn route(
        &self,
        exchange: &str,
        routing_key: &str,
        headers: Option<RawTable<'_>>,
        extra_keys: &[&str],
        result: &mut RouteResult,
    ) -> Result<(), ReplyError> {
        result.reset();
        let id = self.find_exchange(exchange)?;
        if self.at(id).is_some_and(|exchange| exchange.record.internal) {
            return Err(errors::publish_to_internal_exchange(self.vhost(), exchange));
        }
        result.depends_on_headers = !extra_keys.is_empty();
        self.follow(id, Routed { key: routing_key, extra_keys, headers }, result);
        Ok(())
    }

    fn follow(&self, first: ExchangeId, message: Routed<'_>, result: &mut RouteResult) {
        self.visit(first, message, result);
        if !result.pending.is_empty() {
            result.visited.insert(first);
            while let Some(next) = result.pending.pop() {
                if result.visited.insert(next) {
                    self.visit(next, message, result);
                }
            }
        }
        if result.queues.len() > 1 {
            result.queues.sort_unstable();
            result.queues.dedup();
        }
    }

    fn visit(&self, id: ExchangeId, message: Routed<'_>, result: &mut RouteResult) {
        let Some(exchange) = self.at(id) else { return };
        let before = result.found();
        self.look_up(exchange, message, result);
        if result.found() == before
            && let Some(alternate) = &exchange.arguments.alternate_exchange
        {
            result.pending.extend(self.exchange_id(alternate));
        }
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
                }
            }
            Router::Fanout(all, _) => result.extend(all.as_slice()),
            Router::Topic(trie) => {
                let mut scratch = std::mem::take(&mut result.scratch);
                for key in keys {
                    trie.matches(key, &mut scratch, |destinations| result.extend(destinations));
                }
                result.scratch = scratch;
            }
            Router::Headers(table) => {
                result.depends_on_headers = true;
                for destination in table.matching(message.headers) {
                    result.push(destination);
                }
            }
        }
    }
}
