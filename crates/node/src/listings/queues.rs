//! Rows of queues.

use std::sync::Arc;

use posthouse_model::durability::Durability;
use serde::Serialize;
use serde_json::Value;

use super::{AppliedColumns, Result, sessions, table_value};
use crate::admin;
use crate::broker::Broker;
use crate::connections::ConnectionInfo;
use crate::queue_handle::QueueHandle;
use crate::residency;
use crate::waker::ConsumerWaker;

/// A queue.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct QueueRow {
    /// Name.
    pub name: String,
    /// Survives a restart.
    pub durable: bool,
    /// What it promises for persistent messages: `sync`, `relaxed` or `memory`.
    pub durability: &'static str,
    /// Deleted with its last consumer.
    pub auto_delete: bool,
    /// Belongs to one connection.
    pub exclusive: bool,
    /// As declared.
    pub arguments: Value,
    /// What policies say to it.
    #[serde(flatten)]
    pub policies: AppliedColumns,
    /// Ready, delayed and unacknowledged.
    pub messages: u64,
    /// Waiting for a consumer.
    pub messages_ready: u64,
    /// Handed out, not yet acknowledged.
    pub messages_unacknowledged: u64,
    /// Came back, and wait for a time before they are ready again.
    pub messages_delayed: u64,
    /// Consumers.
    pub consumers: usize,
    /// Bytes of memory that its messages take, and what is known of those on disk.
    pub memory: usize,
    /// `classic`, `quorum` or `stream`
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// `flow` while publishers wait for its consumers or for the disk, else `running`
    pub state: &'static str,
    /// Where.
    pub vhost: String,
    /// Name of the connection it belongs to, or empty.
    pub owner_connection: String,
    /// The tag of the single active consumer, or empty.
    pub single_active_consumer_tag: String,
    /// The `pid` of its channel, or empty.
    pub single_active_consumer_pid: String,
    /// Messages that arrived since the start.
    pub messages_published: u64,
    /// Messages handed out since the start, again or for the first time.
    pub messages_delivered: u64,
    /// Messages handed out again since the start.
    pub messages_redelivered: u64,
    /// Messages acknowledged since the start.
    pub messages_acknowledged: u64,
    /// Messages that left for want of room since the start.
    pub messages_maxlen: u64,
    /// Messages that expired since the start.
    pub messages_expired: u64,
    /// Messages that were rejected and not requeued since the start.
    pub messages_rejected: u64,
    /// Messages on their way to where dead letters go, or waiting for a place there.
    pub messages_dlx: u64,
    /// Messages that were on their way there and were dropped since the start: there was no room for them.
    pub messages_dlx_dropped: u64,
    /// Messages that left since the start because they came back too often.
    pub messages_delivery_limit: u64,
    /// Messages that left because they were there already, since the start.
    pub messages_duplicate: u64,
}

/// All queues of a virtual host.
pub fn queues(broker: &Broker, vhost: &str) -> Result<Vec<QueueRow>> {
    let connections = broker.connections().list();
    Ok(admin::find_vhost(broker, vhost)?
        .queues()
        .iter()
        .map(|queue| queue_row(broker, queue, &connections))
        .collect())
}

fn queue_row(broker: &Broker, queue: &QueueHandle, connections: &[Arc<ConnectionInfo>]) -> QueueRow {
    let definition = &queue.definition;
    let owner = definition.owner.and_then(|id| connections.iter().find(|info| info.id == id));
    let mut state = queue.lock();
    let is_paced = residency::is_paced(&mut state);
    let (ready, unacked) = (state.machine.ready(), state.machine.unacked());
    let delayed = state.machine.delayed();
    let active = state.machine.roster().active_waker();
    // Without a log nothing is kept, whatever the queue was declared as.
    let durability = broker.wal().map_or(Durability::Memory, |_| queue.durability(&state));
    QueueRow {
        name: definition.name.to_string(),
        durable: definition.durable,
        durability: durability.name(),
        auto_delete: definition.auto_delete,
        exclusive: definition.owner.is_some(),
        arguments: table_value(&state.setup.arguments),
        policies: AppliedColumns::of(state.policy.as_deref()),
        messages: ready + delayed + unacked,
        messages_ready: ready,
        messages_unacknowledged: unacked,
        messages_delayed: delayed,
        consumers: state.machine.roster().len(),
        memory: state.machine.memory_bytes() + state.machine.descriptor_bytes(),
        kind: state.setup.kind().name(),
        state: match (state.converting, is_paced) {
            (true, _) => "converting",
            (false, true) => "flow",
            (false, false) => "running",
        },
        vhost: definition.vhost.to_string(),
        owner_connection: owner.map(|info| info.name.clone()).unwrap_or_default(),
        single_active_consumer_tag: active.map(|consumer| consumer.tag().to_owned()).unwrap_or_default(),
        single_active_consumer_pid: active.and_then(|c| consumer_pid(c, connections)).unwrap_or_default(),
        messages_published: state.counters.published,
        messages_delivered: state.counters.delivered,
        messages_redelivered: state.counters.redelivered,
        messages_acknowledged: state.counters.acknowledged,
        messages_maxlen: state.machine.departure_counts().max_length,
        messages_expired: state.machine.departure_counts().expired,
        messages_rejected: state.machine.departure_counts().rejected,
        messages_dlx: state.machine.leaving(),
        messages_dlx_dropped: state.counters.dead_letters_dropped,
        messages_delivery_limit: state.machine.departure_counts().delivery_limit,
        messages_duplicate: state.machine.departure_counts().duplicate,
    }
}

/// The `pid` of a consumer's channel; none when its connection has just ended.
fn consumer_pid(consumer: &ConsumerWaker, connections: &[Arc<ConnectionInfo>]) -> Option<String> {
    let connection = connections.iter().find(|info| Arc::ptr_eq(&info.waker, consumer.session()))?;
    Some(sessions::channel_pid(connection, consumer.channel()))
}
