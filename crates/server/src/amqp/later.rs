//! Publishing messages that wait for a time.

use posthouse_model::exchange::ExchangeKind;
use posthouse_model::props::HeaderView;
use posthouse_model::reply::ReplyError;
use posthouse_node::publish::Later;
use posthouse_queue::topology::Routed;

use super::firehose::Traced;
use super::routes::Route;
use super::session::Session;
use super::special::Special;

impl Session {
    fn is_delayed_exchange(&self, name: &str) -> bool {
        let kind = self.peer.vhost.with_topology(|topology| topology.exchange(name).map(|e| e.kind));
        kind == Some(ExchangeKind::DelayedMessage)
    }

    /// Publishes a message that is delivered at `due_ms`, milliseconds since the Unix epoch. It is routed then; now it is
    /// only looked where it would go, which is what the flag `mandatory` is about.
    pub(crate) fn publish_later(
        &mut self,
        number: u16,
        route: &Route,
        header: HeaderView<'_>,
        body: &[u8],
        special: &Special,
        due_ms: u64,
    ) -> Result<(), ReplyError> {
        let vhost = self.peer.vhost.clone();
        let slot = if route.is_per_message || !special.extra_keys.is_empty() {
            let draw = self.draws.next_draw();
            let extra_keys: Vec<&str> = special.extra_keys.iter().map(String::as_str).collect();
            let routed = Routed { key: &route.key, extra_keys: &extra_keys, header: Some(header), draw };
            let found = vhost.route_later(&route.exchange, routed)?;
            if vhost.is_traced() {
                let message = Traced { exchange: &route.exchange, key: &route.key, header, body };
                self.trace_publish(number, message, &found.queues);
            }
            if found.swallowed {
                return Ok(());
            }
            self.slot_for(&found.queues)
        } else {
            route.slot
        };
        // As the plugin says, the flag means nothing to a delayed message exchange.
        if slot.is_none() && route.mandatory && !self.is_delayed_exchange(&route.exchange) {
            self.send_back(number, route, header, body);
            return Ok(());
        }
        let kept = special.header.as_deref().unwrap_or(header.payload());
        let persistent = header.is_persistent() || slot.is_some_and(|slot| self.publisher.keeps_all(slot));
        let later = Later { due_ms, persistent, hidden_keys: &special.hidden_keys };
        let slot = self.publisher.append_later(&vhost, later, &route.bytes, kept, body)?;
        if self.publisher.may_refuse(slot) {
            self.note_origin(number, slot);
        }
        Ok(())
    }
}
