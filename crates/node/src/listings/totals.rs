//! The broker as a whole.

use std::sync::atomic::Ordering;

use posthouse_storage::segment::Class;
use serde::Serialize;

use crate::broker::Broker;

/// What a broker as a whole is doing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Totals {
    /// Virtual hosts.
    pub vhosts: usize,
    /// Users.
    pub users: usize,
    /// Connections.
    pub connections: usize,
    /// Channels of all connections.
    pub channels: u64,
    /// Queues.
    pub queues: usize,
    /// Consumers.
    pub consumers: usize,
    /// Ready messages.
    pub messages_ready: u64,
    /// Handed out, not yet acknowledged.
    pub messages_unacknowledged: u64,
    /// Came back, and wait for a time before they are ready again.
    pub messages_delayed: u64,
    /// Bytes of memory that messages take.
    pub message_memory_bytes: usize,
    /// Bytes from which on queues keep little in memory.
    pub memory_budget_bytes: usize,
    /// Bytes from which on publishers are held back.
    pub memory_watermark_bytes: usize,
    /// Why publishers are held back, such as `low on memory`; none when they are not.
    pub alarm: Option<&'static str>,
    /// Free bytes on the data directory's disk; none without one.
    pub disk_free_bytes: Option<u64>,
    /// Bytes of the log's files; none without a log.
    pub log_bytes: Option<u64>,
    /// Bytes of the files that hold messages for long; none without a log.
    pub segment_bytes: Option<u64>,
    /// Bytes of those that are still needed.
    pub segment_live_bytes: Option<u64>,
    /// Bytes of the files that hold what does not fit into memory and need not survive.
    pub spill_bytes: Option<u64>,
}

/// The broker as a whole. Looks at every queue.
pub fn totals(broker: &Broker) -> Totals {
    let connections = broker.connections().list();
    let (mut queues, mut consumers, mut ready, mut unacked, mut delayed) = (0, 0, 0, 0, 0);
    let vhosts = broker.vhosts();
    for queue in vhosts.iter().flat_map(|vhost| vhost.queues()) {
        let state = queue.lock();
        queues += 1;
        consumers += state.machine.roster().len();
        ready += state.machine.ready();
        unacked += state.machine.unacked();
        delayed += state.machine.delayed();
    }
    let durable = broker.segments().map(|segments| segments.usage(Class::Durable));
    let spill = broker.segments().map(|segments| segments.usage(Class::Spill));
    Totals {
        vhosts: vhosts.len(),
        users: broker.authorities().users().len(),
        connections: connections.len(),
        channels: connections.iter().map(|info| u64::from(info.channels.load(Ordering::Relaxed))).sum(),
        queues,
        consumers,
        messages_ready: ready,
        messages_unacknowledged: unacked,
        messages_delayed: delayed,
        message_memory_bytes: broker.memory().bytes(),
        memory_budget_bytes: broker.settings().memory_budget_bytes,
        memory_watermark_bytes: broker.settings().memory_watermark_bytes,
        alarm: broker.alarm_reason(),
        disk_free_bytes: broker.store().free_space(),
        log_bytes: broker.wal().map(|wal| wal.file_bytes()),
        segment_bytes: durable.as_ref().map(|usage| usage.bytes),
        segment_live_bytes: durable.as_ref().map(|usage| usage.live_bytes),
        spill_bytes: spill.as_ref().map(|usage| usage.bytes),
    }
}
