//! The threads that look after a running broker: one makes checkpoints, one watches memory and disk.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use posthouse_storage::engine::MessageStore;
use tracing::error;

use super::StartError;
use crate::broker::{Broker, Store};
use crate::quotas::StoredBytes;
use crate::{residency, streams};

/// How often it is looked whether a checkpoint is due for another reason than a full log.
const CHECKPOINT_LOOK: Duration = Duration::from_secs(1);

/// Segment files (16 MiB each) without a live message from which on a checkpoint is made to delete them.
const DEAD_FILES_MAX: usize = 16;

/// How often watermarks are looked at.
const WATCH_PERIOD: Duration = Duration::from_millis(100);

/// Starts the thread that makes checkpoints; it ends with the broker.
pub(super) fn start_checkpoints(
    broker: &Arc<Broker>,
    work: Option<Receiver<()>>,
    on_fatal: fn(&str),
) -> Result<(), StartError> {
    let Some(work) = work else { return Ok(()) };
    let broker = Arc::downgrade(broker);
    std::thread::Builder::new().name("checkpoint".into()).spawn(move || {
        // The first look is at what a crash has left in the log: nobody else asks before more of it is full.
        let mut first = true;
        let mut failed = false;
        loop {
            let asked = if first { Ok(()) } else { work.recv_timeout(CHECKPOINT_LOOK) };
            first = false;
            if asked == Err(RecvTimeoutError::Disconnected) {
                return;
            }
            let Some(broker) = broker.upgrade() else { return };
            let Store::Log(storage) = broker.store() else { return };
            if !checkpoint_helps(&storage.messages, broker.disk_alarm_on()) {
                continue;
            }
            let failed_before = std::mem::take(&mut failed);
            match storage.messages.checkpoint(&*broker, false) {
                Ok(report) => {
                    for damage in &report.damages {
                        error!(%damage, "damage found");
                    }
                }
                // The log grows until the next cycle succeeds, or publishers are held back.
                Err(problem) if problem.may_pass() => {
                    failed = true;
                    // It is tried again every second, and said once.
                    if !failed_before {
                        error!(%problem, "cannot make a checkpoint now");
                    }
                }
                Err(problem) => on_fatal(&problem.to_string()),
            }
        }
    })?;
    Ok(())
}

/// Whether the log needs a checkpoint, or one would make room: only a checkpoint may delete segments that nobody needs
/// any more, and while the log finds no room for another file, it may have one that can be used again.
fn checkpoint_helps(messages: &MessageStore, disk_alarm: bool) -> bool {
    let dead_files = messages.segments().retired().len();
    messages.wal().checkpoint_wanted().is_some()
        || dead_files >= DEAD_FILES_MAX
        || (dead_files > 0 && disk_alarm)
        || (messages.wal().is_disk_full() && messages.wal().could_release())
}

/// Starts the thread that looks at the watermarks; it ends with the broker.
pub(super) fn start_watch(broker: &Arc<Broker>) -> Result<(), StartError> {
    let broker = Arc::downgrade(broker);
    std::thread::Builder::new().name("watch".into()).spawn(move || {
        let mut retained = Instant::now();
        let mut stored = StoredBytes::default();
        while let Some(broker) = broker.upgrade() {
            broker.watch(broker.store().free_space());
            residency::relieve(&broker);
            stored.look(&broker, WATCH_PERIOD);
            if retained.elapsed() >= streams::RETENTION_PERIOD {
                retained = Instant::now();
                streams::retain_all(&broker);
            }
            drop(broker);
            std::thread::sleep(WATCH_PERIOD);
        }
    })?;
    Ok(())
}
