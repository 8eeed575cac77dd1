//! Binding, unbinding, and what goes when an end of a binding goes.

use posthouse_model::errors;
use posthouse_model::exchange::ExchangeKind;
use posthouse_model::field::FieldTable;
use posthouse_model::name::Name;
use posthouse_model::reply::ReplyError;

use super::change::{BindingRecord, DestinationName, TopologyChange};
use super::consistent_hash::parse_weight;
use super::headers::HeadersPattern;
use super::trie::Wildcards;
use super::{ArgumentSets, Destination, ExchangeId, Topology, Watched, selectors};

/// How many `#` a topic binding key may have, as in RabbitMQ since 4.3.5.
pub const MAX_MANY_WILDCARDS: usize = 2;

impl Topology {
    /// Makes a binding; one that exists already is fine. 404 when an end is missing, 403 for the default
    /// exchange, 406 for what the exchange's type cannot match.
    pub fn bind(&mut self, binding: BindingRecord) -> Result<Vec<TopologyChange>, ReplyError> {
        check_not_default(&binding)?;
        let source = self.find_exchange(&binding.source)?;
        let destination = self.find_destination(&binding.destination)?;
        let arguments = sorted_arguments(binding.arguments);
        let key = binding.routing_key;
        let durable = self.is_durable(source, destination);
        let Some(exchange) = self.at_mut(source) else { return Ok(Vec::new()) };
        validate(exchange.arguments.routes_as, destination, &key, &arguments)?;
        let sets = exchange.bindings.entry((destination, key.clone())).or_default();
        if !sets.insert(argument_bytes(&arguments), arguments.clone()) {
            return Ok(Vec::new());
        }
        exchange.router.insert(destination, binding.destination.name(), &key, &arguments, sets.len() == 1);
        self.incoming.entry(destination).or_default().insert((source, key.clone()));
        self.epoch += 1;
        let record = BindingRecord {
            source: binding.source,
            destination: binding.destination,
            routing_key: key,
            arguments,
        };
        self.note(|| Watched::Bound(record.clone()));
        Ok(Vec::from_iter(durable.then_some(TopologyChange::PutBinding(record))))
    }

    /// Removes a binding, and the source if it is auto-delete and that was its last. Anything missing is fine;
    /// 403 for the default exchange.
    pub fn unbind(&mut self, binding: BindingRecord) -> Result<Vec<TopologyChange>, ReplyError> {
        check_not_default(&binding)?;
        let Some(source) = self.exchange_id(&binding.source) else { return Ok(Vec::new()) };
        let Ok(destination) = self.find_destination(&binding.destination) else { return Ok(Vec::new()) };
        let arguments = sorted_arguments(binding.arguments);
        let key = (destination, binding.routing_key);
        let durable = self.is_durable(source, destination);
        let Some(exchange) = self.at_mut(source) else { return Ok(Vec::new()) };
        let Some(sets) = exchange.bindings.get_mut(&key) else { return Ok(Vec::new()) };
        if !sets.remove(&argument_bytes(&arguments)) {
            return Ok(Vec::new());
        }
        let last = sets.is_empty();
        exchange.router.remove(destination, &key.1, &arguments, last);
        if last {
            exchange.bindings.remove(&key);
            self.forget_incoming(source, destination, &key.1);
        }
        self.epoch += 1;
        let record = BindingRecord {
            source: binding.source,
            destination: binding.destination,
            routing_key: key.1,
            arguments,
        };
        self.note(|| Watched::Unbound(record.clone()));
        let mut changes = Vec::from_iter(durable.then_some(TopologyChange::DeleteBinding(record)));
        self.delete_unused(vec![source], &mut changes);
        Ok(changes)
    }

    /// All bindings in order of source, destination and key, those of the default exchange included.
    pub fn bindings(&self) -> Vec<BindingRecord> {
        let mut records: Vec<_> = self
            .queue_names
            .keys()
            .map(|name| BindingRecord {
                source: Name::truncated(""),
                destination: DestinationName::Queue(name.clone()),
                routing_key: name.clone(),
                arguments: FieldTable::default(),
            })
            .collect();
        for exchange in self.exchanges.iter().flatten() {
            for ((destination, key), sets) in &exchange.bindings {
                let source = &exchange.record.name;
                records.extend(sets.values().filter_map(|set| self.record(source, *destination, key, set)));
            }
        }
        // Stable: bindings that differ only by their arguments come in the order of their set.
        records.sort_by(|a, b| {
            (&a.source, &a.destination, &a.routing_key).cmp(&(&b.source, &b.destination, &b.routing_key))
        });
        records
    }

    /// Removes every binding from `source`. Its destinations never mind.
    pub(super) fn remove_outgoing(&mut self, source: ExchangeId, changes: &mut Vec<TopologyChange>) {
        let Some(exchange) = self.at_mut(source) else { return };
        let mut bindings: Vec<_> = std::mem::take(&mut exchange.bindings).into_iter().collect();
        bindings.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        for ((destination, key), sets) in bindings {
            self.forget_incoming(source, destination, &key);
            self.push_deletions(source, destination, &key, sets, changes);
        }
    }

    /// Removes every binding to `destination`; `sources` gets the exchanges that lost one.
    pub(super) fn remove_incoming(
        &mut self,
        destination: Destination,
        changes: &mut Vec<TopologyChange>,
        sources: &mut Vec<ExchangeId>,
    ) {
        let mut ends: Vec<_> = self.incoming.remove(&destination).into_iter().flatten().collect();
        ends.sort_unstable();
        for (source, key) in ends {
            let Some(exchange) = self.at_mut(source) else { continue };
            let Some(sets) = exchange.bindings.remove(&(destination, key.clone())) else { continue };
            for (i, set) in sets.values().enumerate() {
                exchange.router.remove(destination, &key, set, i + 1 == sets.len());
            }
            self.push_deletions(source, destination, &key, sets, changes);
            if sources.last() != Some(&source) {
                sources.push(source);
            }
        }
    }

    fn push_deletions(
        &mut self,
        source: ExchangeId,
        destination: Destination,
        key: &Name,
        sets: ArgumentSets,
        changes: &mut Vec<TopologyChange>,
    ) {
        let Some(exchange) = self.at(source) else { return };
        let durable = self.is_durable(source, destination);
        if !durable && self.watched.is_none() {
            return;
        }
        let record = |set| self.record(&exchange.record.name, destination, key, set);
        let records: Vec<_> = sets.values().filter_map(record).collect();
        for record in records {
            self.note(|| Watched::Unbound(record.clone()));
            changes.extend(durable.then_some(TopologyChange::DeleteBinding(record)));
        }
    }

    fn forget_incoming(&mut self, source: ExchangeId, destination: Destination, key: &Name) {
        if let Some(ends) = self.incoming.get_mut(&destination) {
            ends.remove(&(source, key.clone()));
            if ends.is_empty() {
                self.incoming.remove(&destination);
            }
        }
    }

    fn find_destination(&self, name: &DestinationName) -> Result<Destination, ReplyError> {
        match name {
            DestinationName::Exchange(name) => self.find_exchange(name).map(Destination::Exchange),
            DestinationName::Queue(name) => self
                .queue_id(name)
                .map(Destination::Queue)
                .ok_or_else(|| errors::no_queue(self.vhost(), name)),
        }
    }

    fn is_durable(&self, source: ExchangeId, destination: Destination) -> bool {
        let exchange = |id| self.at(id).is_some_and(|exchange| exchange.record.durable);
        exchange(source)
            && match destination {
                Destination::Exchange(id) => exchange(id),
                Destination::Queue(id) => self.queues.get(&id).is_some_and(|queue| queue.durable),
            }
    }

    fn record(
        &self,
        source: &Name,
        destination: Destination,
        key: &Name,
        arguments: &FieldTable,
    ) -> Option<BindingRecord> {
        let destination = match destination {
            Destination::Exchange(id) => DestinationName::Exchange(self.at(id)?.record.name.clone()),
            Destination::Queue(id) => DestinationName::Queue(self.queues.get(&id)?.name.clone()),
        };
        let (source, routing_key) = (source.clone(), key.clone());
        Some(BindingRecord { source, destination, routing_key, arguments: arguments.clone() })
    }
}

/// Arguments in the order in which bindings keep them, so that the order a client chose makes no difference.
pub fn sorted_arguments(mut arguments: FieldTable) -> FieldTable {
    arguments.0.sort_by(|(a, _), (b, _)| a.cmp(b));
    arguments
}

fn check_not_default(binding: &BindingRecord) -> Result<(), ReplyError> {
    let to_default = matches!(&binding.destination, DestinationName::Exchange(name) if name.is_empty());
    if binding.source.is_empty() || to_default {
        return Err(errors::default_exchange_not_permitted());
    }
    Ok(())
}

fn validate(
    kind: ExchangeKind,
    to: Destination,
    key: &Name,
    arguments: &FieldTable,
) -> Result<(), ReplyError> {
    match kind {
        ExchangeKind::Direct
        | ExchangeKind::Fanout
        | ExchangeKind::ModulusHash
        | ExchangeKind::Random
        | ExchangeKind::RecentHistory
        | ExchangeKind::Deduplication
        // No exchange routes as that.
        | ExchangeKind::DelayedMessage => Ok(()),
        ExchangeKind::Headers => HeadersPattern::parse(arguments).map(drop),
        ExchangeKind::JmsTopic => selectors::parse(arguments).map(drop),
        ExchangeKind::ConsistentHash => parse_weight(key).map(drop),
        ExchangeKind::LocalRandom if !key.is_empty() => Err(errors::local_random_key(key)),
        ExchangeKind::LocalRandom => match to {
            Destination::Queue(_) => Ok(()),
            Destination::Exchange(_) => Err(errors::local_random_destination()),
        },
        ExchangeKind::Topic => {
            let count = Wildcards::AMQP.words(key).filter(|word| *word == Wildcards::AMQP.many).count();
            if count > MAX_MANY_WILDCARDS {
                return Err(errors::too_many_wildcards(key, count, MAX_MANY_WILDCARDS));
            }
            Ok(())
        }
    }
}

/// What tells sets of arguments apart: bytes, because a float that is no number would differ from itself.
pub(super) fn argument_bytes(arguments: &FieldTable) -> Box<[u8]> {
    let mut bytes = Vec::new();
    if !arguments.is_empty() {
        arguments.encode(&mut bytes);
    }
    bytes.into()
}
