//! What an operator sees and does of what streams remember.

use std::sync::Arc;

use posthouse_queue::stream::offsets::StoredOffset;
use posthouse_queue::stream::publishers::KnownPublisher;
use serde::Serialize;

use super::{AdminError, Result, find_vhost};
use crate::broker::Broker;
use crate::queue_handle::QueueHandle;
use crate::streams;

/// A consumer's stored offset, or a publisher's last number.
#[derive(Debug, Serialize)]
pub struct TrackingRow {
    /// `offset` or `writer`
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Whose.
    pub name: String,
    /// The number of the next message to be read, or the last publishing id.
    pub tracking_value: u64,
}

/// Which of a stream's rows are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tracked {
    /// Stored offsets and publishers.
    All,
    /// Stored offsets.
    Offsets,
    /// Publishers.
    Writers,
}

/// What a stream remembers of consumers and publishers, by name.
///
/// # Errors
/// When there is no such stream.
pub fn stream_tracking(broker: &Broker, vhost: &str, name: &str, which: Tracked) -> Result<Vec<TrackingRow>> {
    let queue = find_stream(broker, vhost, name)?;
    let mut state = queue.lock();
    let (mut offsets, mut publishers) = (Vec::new(), Vec::new());
    if let Some(stream) = state.machine.stream() {
        (offsets, publishers) = (stream.stored_offsets(), stream.known_publishers());
    }
    drop(state);
    let row = |kind, name: &[u8], tracking_value| TrackingRow {
        kind,
        name: String::from_utf8_lossy(name).into_owned(),
        tracking_value,
    };
    let offsets = offsets.iter().map(|StoredOffset { name, next }| row("offset", name, *next));
    let publishers = publishers.iter().map(|KnownPublisher { name, last_id }| row("writer", name, *last_id));
    Ok(match which {
        Tracked::All => offsets.chain(publishers).collect(),
        Tracked::Offsets => offsets.collect(),
        Tracked::Writers => publishers.collect(),
    })
}

/// Forgets the offset that is stored for a name: its next consumer begins where its arguments say.
///
/// # Errors
/// When there is no such stream, or no offset is stored.
pub fn reset_offset(broker: &Broker, vhost: &str, name: &str, reference: &str) -> Result<()> {
    let queue = find_stream(broker, vhost, name)?;
    {
        let mut stage = broker.wal().map(|wal| wal.stage());
        let mut state = queue.lock();
        let forgotten = state.machine.stream().is_some_and(|stream| {
            let forgotten = stream.forget_offset(reference.as_bytes());
            streams::log_notes(&queue, stream, stage.as_mut());
            forgotten
        });
        if !forgotten {
            let (stream, vhost) = (name.to_owned(), vhost.to_owned());
            return Err(AdminError::NoStoredOffset { reference: reference.to_owned(), stream, vhost });
        }
    }
    if let Some(wal) = broker.wal() {
        wal.sync()?;
    }
    Ok(())
}

fn find_stream(broker: &Broker, vhost: &str, name: &str) -> Result<Arc<QueueHandle>> {
    let queue = find_vhost(broker, vhost)?.find_queue(name).filter(|queue| queue.is_stream);
    queue.ok_or_else(|| AdminError::NoSuchStream { stream: name.to_owned(), vhost: vhost.to_owned() })
}
