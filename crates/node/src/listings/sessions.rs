//! Channels and consumers, of which sessions know the most: they are asked.

use std::collections::HashMap;

use posthouse_queue::machine::single_active::Activity;
use serde::Serialize;
use serde_json::Value;

use super::{Result, table_value};
use crate::admin::{self, AdminError};
use crate::broker::Broker;
use crate::connections::ConnectionInfo;
use crate::survey::{self, ChannelReport, ConsumerReport, SessionReport};

/// A channel.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ChannelRow {
    /// `CONNECTION.NUMBER`, unique while the broker runs.
    pub pid: String,
    /// The `pid` of its connection.
    pub connection: u64,
    /// `PEER -> LOCAL (NUMBER)`
    pub name: String,
    /// Its number on the connection.
    pub number: u16,
    /// Who logged in.
    pub user: String,
    /// Where to.
    pub vhost: String,
    /// In transactional mode.
    pub transactional: bool,
    /// In confirm mode.
    pub confirm: bool,
    /// Consumers.
    pub consumer_count: u32,
    /// Deliveries neither acknowledged nor held by a transaction.
    pub messages_unacknowledged: u64,
    /// Publishes that a transaction holds.
    pub messages_uncommitted: u64,
    /// Acknowledgements that a transaction holds, one for each delivery.
    pub acks_uncommitted: u64,
    /// Publishes not yet confirmed.
    pub messages_unconfirmed: u64,
    /// Prefetch of consumers to come; 0 for any number.
    pub prefetch_count: u16,
    /// Prefetch of all its consumers together; 0 for any number.
    pub global_prefetch_count: u16,
}

/// A consumer.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ConsumerRow {
    /// Its queue.
    pub queue_name: String,
    /// The `pid` of its channel.
    pub channel_pid: String,
    /// Name of its connection.
    pub connection: String,
    /// The number of its channel.
    pub channel: u16,
    /// Its tag.
    pub consumer_tag: String,
    /// Whether its deliveries are to be acknowledged.
    pub ack_required: bool,
    /// How many deliveries may be outstanding; 0 for any number.
    pub prefetch_count: u16,
    /// Whether its queue hands out to it: not while another one is the single active consumer.
    pub active: bool,
    /// `up`, `single_active` or `waiting`
    pub activity_status: &'static str,
    /// Has the queue to itself.
    pub exclusive: bool,
    /// `x-priority`
    pub priority: i64,
    /// Milliseconds it has to acknowledge a delivery; none for any time.
    pub consumer_timeout: Option<u64>,
    /// As the client sent them.
    pub arguments: Value,
    /// Its number, unique while the broker runs.
    pub consumer: u64,
    /// Where.
    pub vhost: String,
}

/// All channels, those of the oldest connection first. Blocks until every session has answered.
pub fn channels(broker: &Broker) -> Result<Vec<ChannelRow>> {
    let mut rows = Vec::new();
    for SessionReport { info, channels, .. } in ask(broker)? {
        rows.extend(channels.into_iter().map(|channel| channel_row(&info, channel)));
    }
    Ok(rows)
}

fn channel_row(info: &ConnectionInfo, channel: ChannelReport) -> ChannelRow {
    ChannelRow {
        pid: channel_pid(info, channel.number),
        connection: info.id,
        name: format!("{} ({})", info.name, channel.number),
        number: channel.number,
        user: info.user.clone(),
        vhost: info.vhost.clone(),
        transactional: channel.transactional,
        confirm: channel.confirm,
        consumer_count: channel.consumers,
        messages_unacknowledged: channel.unacknowledged,
        messages_uncommitted: channel.uncommitted,
        acks_uncommitted: channel.acks_uncommitted,
        messages_unconfirmed: channel.unconfirmed,
        prefetch_count: channel.prefetch,
        global_prefetch_count: channel.prefetch_global,
    }
}

/// All consumers of a virtual host's queues. Blocks until every session has answered; those that began or ended
/// meanwhile are left out.
pub fn consumers(broker: &Broker, vhost: &str) -> Result<Vec<ConsumerRow>> {
    let vhost = admin::find_vhost(broker, vhost)?;
    let mut reports = HashMap::new();
    for SessionReport { info, consumers, .. } in ask(broker)? {
        reports.extend(consumers.into_iter().map(|consumer| (consumer.id, (info.clone(), consumer))));
    }
    let mut rows = Vec::new();
    for queue in vhost.queues() {
        let state = queue.lock();
        let mut consumers: Vec<_> = state.machine.roster().iter().collect();
        consumers.sort_unstable_by_key(|(id, _)| *id);
        for (id, consumer) in consumers {
            let Some((info, report)) = reports.remove(&id) else { continue };
            let activity = state.machine.activity(id);
            let ConsumerReport { channel, tag, ack_required, prefetch, timeout_ms, arguments, .. } = report;
            let timeout_ms = timeout_ms.or_else(|| state.machine.consumer_timeout_ms());
            rows.push(ConsumerRow {
                queue_name: queue.definition.name.to_string(),
                channel_pid: channel_pid(&info, channel),
                connection: info.name.clone(),
                channel,
                consumer_tag: tag,
                ack_required,
                prefetch_count: prefetch,
                active: activity != Activity::Waiting,
                activity_status: activity.name(),
                exclusive: consumer.exclusive,
                priority: consumer.priority,
                consumer_timeout: timeout_ms.filter(|_| ack_required),
                arguments: table_value(&arguments),
                consumer: id,
                vhost: vhost.name().to_string(),
            });
        }
    }
    Ok(rows)
}

fn ask(broker: &Broker) -> Result<Vec<SessionReport>> {
    survey::ask_all(broker.connections()).map_err(AdminError::NoAnswer)
}

pub(super) fn channel_pid(info: &ConnectionInfo, number: u16) -> String {
    format!("{}.{number}", info.id)
}
