//! The threads that look after a running broker: one makes checkpoints, one rewrites spill files, one watches memory
//! and disk.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use posthouse_storage::engine::{MessageStore, SpillSurvey};
use posthouse_storage::segment::Class;
use tracing::error;

use super::StartError;
use crate::broker::{Broker, Store};
use crate::quotas::StoredBytes;
use crate::{residency, streams};

/// How often it is looked whether a checkpoint is due for another reason than a full log.
const CHECKPOINT_LOOK: Duration = Duration::from_secs(1);

/// Segment files (16 MiB each) without a live message from which on a checkpoint is made to delete them.
const DEAD_FILES_MAX: usize = 16;

/// How often it is looked for spill files to rewrite. What consumers are at is let alone for so long at least.
const REWRITE_LOOK: Duration = Duration::from_secs(5);

/// How often watermarks are looked at.
const WATCH_PERIOD: Duration = Duration::from_millis(100);

/// Starts the thread that makes checkpoints; it ends with the broker. An orderly stop need not wait for it: it makes none
/// after the last one.
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
        || (messages.wal().shortage().is_some() && messages.wal().could_release())
}

/// Starts the thread that rewrites spill files of which little is live.
pub(super) fn start_rewriting(broker: &Arc<Broker>) -> Result<(), StartError> {
    let weak = Arc::downgrade(broker);
    broker.workers().spawn("rewrite", move |stopping| {
        let mut survey = SpillSurvey::default();
        while let Some(broker) = weak.upgrade() {
            let Store::Log(storage) = broker.store() else { return };
            rewrite_spill(&broker, &storage.messages, &mut survey);
            drop(broker);
            if !stopping.rest(REWRITE_LOOK) {
                return;
            }
        }
    })?;
    Ok(())
}

fn rewrite_spill(broker: &Broker, messages: &MessageStore, survey: &mut SpillSurvey) {
    // One file is the one being written.
    if messages.segments().usage(Class::Spill).files < 2 {
        return;
    }
    match messages.rewrite_spill(broker, survey) {
        Ok(rewritten) => rewritten.damages.iter().for_each(|damage| error!(%damage, "damage found")),
        // The messages stay where they are.
        Err(problem) => error!(%problem, "cannot rewrite spilled messages now"),
    }
}

/// Starts the thread that looks at the watermarks.
pub(super) fn start_watch(broker: &Arc<Broker>) -> Result<(), StartError> {
    let weak = Arc::downgrade(broker);
    broker.workers().spawn("watch", move |stopping| {
        let mut retained = Instant::now();
        let mut stored = StoredBytes::default();
        while let Some(broker) = weak.upgrade() {
            broker.watch(broker.store().free_space());
            residency::relieve(&broker);
            broker.deadlines().look();
            stored.look(&broker, WATCH_PERIOD);
            if retained.elapsed() >= streams::RETENTION_PERIOD {
                retained = Instant::now();
                streams::retain_all(&broker);
            }
            drop(broker);
            if !stopping.rest(WATCH_PERIOD) {
                return;
            }
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use posthouse_model::attempts::Return;
    use posthouse_storage::segment::SegmentUsage;

    use super::*;
    use crate::declare::QueueDeclaration;
    use crate::deliver;
    use crate::publish::Publisher;
    use crate::queue_handle::QueueHandle;
    use crate::start::testing::{PLENTY_BYTES, broker, in_small_files};

    const MESSAGES: usize = 6_000;

    /// A queue with transient messages of 10 kB, most of which are in spill files.
    fn spilled(broker: &Arc<Broker>) -> Arc<QueueHandle> {
        let declaration = QueueDeclaration { name: "q".into(), ..QueueDeclaration::default() };
        let queue = broker.declare_queue(&broker.vhost("/").unwrap(), declaration, 0).unwrap().queue;
        let mut publisher = Publisher::new(broker.clone(), Arc::default());
        let slot = publisher.slot(&[queue.id], |_| Some(queue.clone())).unwrap();
        let patience = Instant::now() + Duration::from_secs(30);
        for number in 0..MESSAGES {
            // A second apart, so that nobody is taken to drain the queue.
            publisher.received_ms += 1_000;
            publisher.append(slot, false, b"\0\x01q", b"", format!("{number:010000}").as_bytes());
            publisher.flush();
            while broker.memory().bytes() > 16 << 20 {
                assert!(Instant::now() < patience, "not written to spill files");
                std::thread::yield_now();
            }
        }
        queue
    }

    fn messages(broker: &Broker) -> &MessageStore {
        match broker.store() {
            Store::Log(storage) => &storage.messages,
            Store::Memory(_) => panic!("it is on disk"),
        }
    }

    fn usage(broker: &Broker) -> SegmentUsage {
        messages(broker).segments().usage(Class::Spill)
    }

    /// Takes the next message: its sequence number and its own.
    fn get(broker: &Arc<Broker>, queue: &Arc<QueueHandle>) -> Option<(u64, usize)> {
        loop {
            match deliver::get(broker, queue, false, &Arc::default()) {
                (_, Some(run), _) => {
                    let record = run.chunk.record_at(run.offset).unwrap();
                    let number = std::str::from_utf8(record.body()).unwrap().parse().unwrap();
                    return Some((run.first_seq, number));
                }
                (posthouse_queue::machine::TakeEnd::NeedsLoad, ..) => std::thread::yield_now(),
                _ => return None,
            }
        }
    }

    #[test]
    fn messages_that_stay_do_not_hold_the_space_of_those_that_go() {
        let data = tempfile::tempdir().unwrap();
        let broker = broker(in_small_files(data.path()), PLENTY_BYTES);
        let queue = spilled(&broker);
        let full = usage(&broker);
        assert!(full.files > 2, "{full:?}");
        let mut kept = Vec::new();
        while let Some((seq, number)) = get(&broker, &queue) {
            match number % 20 {
                0 => kept.push(seq),
                _ => deliver::settle(&broker, &queue, &[(seq, seq)]),
            }
        }
        assert_eq!(kept.len(), MESSAGES / 20);
        let mut survey = SpillSurvey::default();
        for _ in 0..6 {
            rewrite_spill(&broker, messages(&broker), &mut survey);
        }
        let now = usage(&broker);
        assert!(now.bytes * 4 < full.bytes, "{full:?} became {now:?}");
        let kept: Vec<_> = kept.iter().map(|&seq| (seq, seq)).collect();
        deliver::give_back(&broker, &queue, &kept, Return::Failed);
        let mut again = Vec::new();
        while let Some((_, number)) = get(&broker, &queue) {
            again.push(number);
        }
        assert_eq!(again, (0..MESSAGES).step_by(20).collect::<Vec<_>>());
    }

    #[test]
    fn rewriting_under_consumers_loses_and_repeats_nothing() {
        let data = tempfile::tempdir().unwrap();
        let broker = broker(in_small_files(data.path()), PLENTY_BYTES);
        let queue = spilled(&broker);
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut survey = SpillSurvey::default();
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    rewrite_spill(&broker, messages(&broker), &mut survey);
                }
            });
            let mut late = Vec::new();
            for expected in 0..MESSAGES {
                let (seq, number) = get(&broker, &queue).unwrap();
                assert_eq!(number, expected);
                // One in a while is settled much later.
                if number % 50 == 0 {
                    late.push((seq, seq));
                } else {
                    deliver::settle(&broker, &queue, &[(seq, seq)]);
                }
            }
            late.iter().for_each(|range| deliver::settle(&broker, &queue, &[*range]));
            assert!(get(&broker, &queue).is_none());
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert!(usage(&broker).files <= 1, "{:?}", usage(&broker));
    }
}
