//! Asking sessions what only they know: a listing puts a question into every inbox and waits for the answers.
//!
//! Nothing is counted for it while nobody asks.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use posthouse_model::field::FieldTable;
use posthouse_queue::machine::roster::ConsumerId;

use crate::connections::{ConnectionInfo, Connections};

/// How long sessions are waited for. They never block, so they answer at once unless the machine is very busy.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often those are looked for that ended instead of answering.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Where a session answers.
pub type Asker = mpsc::Sender<SessionReport>;

/// What a session says of itself.
#[derive(Debug)]
pub struct SessionReport {
    /// Which connection it is.
    pub info: Arc<ConnectionInfo>,
    /// Its open channels, in order of numbers.
    pub channels: Vec<ChannelReport>,
    /// Its consumers.
    pub consumers: Vec<ConsumerReport>,
}

/// A channel, now.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ChannelReport {
    /// Its number.
    pub number: u16,
    /// In transactional mode.
    pub transactional: bool,
    /// In confirm mode.
    pub confirm: bool,
    /// Consumers.
    pub consumers: u32,
    /// Deliveries neither acknowledged nor held by a transaction.
    pub unacknowledged: u64,
    /// Publishes that a transaction holds.
    pub uncommitted: u64,
    /// Acknowledgements that a transaction holds, one for each delivery.
    pub acks_uncommitted: u64,
    /// Publishes not yet confirmed.
    pub unconfirmed: u64,
    /// Prefetch of consumers to come; 0 for any number.
    pub prefetch: u16,
    /// Prefetch of all its consumers together; 0 for any number.
    pub prefetch_global: u16,
}

/// A consumer, as its session knows it.
#[derive(Clone, PartialEq, Debug)]
pub struct ConsumerReport {
    /// Its identity at its queue.
    pub id: ConsumerId,
    /// Its channel.
    pub channel: u16,
    /// Its tag.
    pub tag: String,
    /// Whether its deliveries are to be acknowledged.
    pub ack_required: bool,
    /// How many may be outstanding; 0 for any number.
    pub prefetch: u16,
    /// Milliseconds it has to acknowledge a delivery, where it says so itself.
    pub timeout_ms: Option<u64>,
    /// As the client sent them.
    pub arguments: FieldTable,
}

/// Asks every open session; the answers by age of the connection. Blocks until each has answered or ended. The error
/// is how many did neither within ten seconds.
pub fn ask_all(connections: &Connections) -> Result<Vec<SessionReport>, usize> {
    let (asker, answers) = mpsc::channel();
    let mut missing = HashSet::new();
    for info in connections.list() {
        missing.insert(info.id);
        info.waker.ask(asker.clone());
    }
    let deadline = Instant::now() + PATIENCE;
    let mut reports = Vec::with_capacity(missing.len());
    while !missing.is_empty() {
        match answers.recv_timeout(LOOK_AGAIN) {
            Ok(report) => {
                missing.remove(&report.info.id);
                reports.push(report);
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                if Instant::now() >= deadline {
                    return Err(missing.len());
                }
                missing.retain(|&id| connections.contains(id));
            }
        }
    }
    reports.sort_unstable_by_key(|report| report.info.id);
    Ok(reports)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::waker::{Inbox, SessionWaker};

    fn connect(connections: &Connections) -> Arc<ConnectionInfo> {
        let info = Arc::new(ConnectionInfo {
            id: connections.next_id(),
            name: "here -> there".into(),
            protocol: "AMQP 0-9-1",
            user: "guest".into(),
            vhost: "/".into(),
            client_properties: FieldTable::default(),
            connected_at_ms: 0,
            channels: 0.into(),
            state: Default::default(),
            used_up: Default::default(),
            waker: Arc::new(SessionWaker::default()),
        });
        connections.add(info.clone());
        info
    }

    /// Waits until a connection is asked, and gives what it was asked with.
    fn asked(info: &ConnectionInfo) -> Asker {
        let mut inbox = Inbox::default();
        loop {
            info.waker.take(&mut inbox);
            if let Some(asker) = inbox.asked.pop() {
                return asker;
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn answers_come_by_age_and_those_who_ended_are_left_out() {
        let connections = Connections::default();
        let [old, ended, young] = [connect(&connections), connect(&connections), connect(&connections)];
        let ids = std::thread::scope(|scope| {
            let survey = scope.spawn(|| ask_all(&connections));
            for info in [&young, &old] {
                let report =
                    SessionReport { info: info.clone(), channels: Vec::new(), consumers: Vec::new() };
                asked(info).send(report).unwrap();
            }
            drop(asked(&ended));
            connections.remove(ended.id);
            survey.join().unwrap().unwrap().iter().map(|report| report.info.id).collect::<Vec<_>>()
        });
        assert_eq!(ids, [old.id, young.id]);
    }
}
