//! Recent history exchanges: a new binding gets what the exchange has kept.

use posthouse_model::props::HeaderView;
use posthouse_node::history::Kept;
use posthouse_queue::topology::DestinationName;

use super::session::Session;

impl Session {
    /// Publishes what an exchange has kept to what was just bound to it.
    pub(crate) fn publish_history(&mut self, kept: &[Kept], to: &DestinationName) {
        let vhost = self.peer.vhost.clone();
        for record in kept.iter().flat_map(|chunk| chunk.records()) {
            let slot = match to {
                DestinationName::Queue(name) => {
                    let queue = vhost.find_queue(name);
                    queue.and_then(|queue| self.slot_for(&[queue.id]))
                }
                DestinationName::Exchange(name) => {
                    let key = str::from_utf8(record.exchange_and_key().1).unwrap_or_default();
                    let queues = vhost.route_own(name, key, HeaderView::parse(record.header()).ok());
                    self.slot_for(&queues)
                }
            };
            if let Some(slot) = slot {
                let (route, header) = (record.route(), record.header());
                self.append_own(slot, record.persistent(), route, header, record.body());
            }
        }
        self.publisher.flush();
    }
}
