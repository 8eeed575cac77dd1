//! What a session says of itself when a listing asks.

use std::sync::Arc;

use posthouse_node::survey::{ChannelReport, ConsumerReport, SessionReport};

use super::channel::Channel;
use super::consumer::Consumer;
use super::session::Session;

impl Session {
    /// Its channels and consumers, now.
    pub(crate) fn report(&self) -> SessionReport {
        let open = self.channels.iter().flatten().filter(|channel| !channel.is_closing);
        SessionReport {
            info: Arc::clone(&self.peer.info),
            channels: open.map(|channel| channel_report(channel)).collect(),
            consumers: self.consumers.iter().map(consumer_report).collect(),
        }
    }
}

fn channel_report(channel: &Channel) -> ChannelReport {
    let transaction = channel.transaction.as_deref();
    ChannelReport {
        number: channel.number,
        transactional: transaction.is_some(),
        confirm: channel.confirms.is_some(),
        consumers: channel.consumers() as u32,
        unacknowledged: channel.unacked.count(),
        uncommitted: transaction.map_or(0, |transaction| transaction.publishes()),
        acks_uncommitted: transaction.map_or(0, |transaction| transaction.deliveries()),
        unconfirmed: channel.confirms.as_ref().map_or(0, |confirms| confirms.unconfirmed()),
        prefetch: channel.prefetch,
        prefetch_global: channel.prefetch_global,
    }
}

fn consumer_report(consumer: &Consumer) -> ConsumerReport {
    ConsumerReport {
        id: consumer.id,
        channel: consumer.channel,
        tag: consumer.tag.to_string(),
        ack_required: !consumer.no_ack,
        timeout_ms: consumer.timeout_ms,
        prefetch: if consumer.no_ack { 0 } else { consumer.prefetch },
        arguments: consumer.arguments.clone(),
    }
}
