//! The metadata writer thread: takes everything queued, commits it, publishes the position, wakes waiters.

use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::redb_store::RedbStore;
use super::{MetaError, MetaFatal, MetaOp, MetaPos, MetaWaiter};

/// Commits a batch; the seam where tests make commits slow or fail.
pub(super) trait Commit: Send + Sync {
    fn commit(&self, ops: &[MetaOp]) -> Result<(), MetaError>;

    /// Whether a commit waits for room on the disk, or gave up waiting.
    fn is_disk_full(&self) -> bool;

    /// Makes commits fail rather than wait for room, the one that waits now included.
    fn stop_waiting(&self);
}

impl Commit for RedbStore {
    fn commit(&self, ops: &[MetaOp]) -> Result<(), MetaError> {
        Self::commit(self, ops)
    }

    fn is_disk_full(&self) -> bool {
        Self::is_disk_full(self)
    }

    fn stop_waiting(&self) {
        Self::stop_waiting(self);
    }
}

#[derive(Default)]
struct Queue {
    ops: Vec<MetaOp>,
    /// Changes ever queued.
    appended: u64,
    waiters: Vec<(MetaPos, Arc<dyn MetaWaiter>)>,
    failed: Option<String>,
    stop: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Wakes the writer.
    work: Condvar,
    /// Wakes `flush`.
    done: Condvar,
    queued_bytes: AtomicUsize,
    committed: AtomicU64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    store: Arc<dyn Commit>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(store: Arc<impl Commit + 'static>, fatal: MetaFatal) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let commits = Arc::clone(&store);
        let thread = std::thread::Builder::new()
            .name("metadata".to_owned())
            .spawn(move || run(&theirs, &*commits, &fatal))?;
        Ok(Self { shared, store, thread: Some(thread) })
    }

    pub(super) fn apply(&self, mut ops: Vec<MetaOp>) -> MetaPos {
        let bytes = ops.iter().map(MetaOp::memory_bytes).sum();
        let mut queue = self.shared.lock();
        queue.appended += ops.len() as u64;
        if queue.failed.is_none() {
            self.shared.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
            queue.ops.append(&mut ops);
        }
        let position = MetaPos(queue.appended);
        drop(queue);
        self.shared.work.notify_one();
        position
    }

    pub(super) fn queued_bytes(&self) -> usize {
        self.shared.queued_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn committed(&self) -> MetaPos {
        MetaPos(self.shared.committed.load(Ordering::Acquire))
    }

    pub(super) fn notify_when_committed(&self, pos: MetaPos, waiter: Arc<dyn MetaWaiter>) {
        let mut queue = self.shared.lock();
        // Read under the lock: the writer publishes before it takes the waiters under the same lock.
        if self.committed() < pos {
            queue.waiters.push((pos, waiter));
            return;
        }
        drop(queue);
        waiter.committed(self.committed());
    }

    pub(super) fn is_disk_full(&self) -> bool {
        self.store.is_disk_full()
    }

    /// Commits what is queued, but waits no more for room on the disk.
    pub(super) fn close(&self) -> Result<(), MetaError> {
        self.store.stop_waiting();
        self.flush()
    }

    pub(super) fn flush(&self) -> Result<(), MetaError> {
        let mut queue = self.shared.lock();
        let target = MetaPos(queue.appended);
        while self.committed() < target {
            if let Some(text) = &queue.failed {
                return Err(MetaError::Stopped(text.clone()));
            }
            queue = self.shared.done.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.store.stop_waiting();
        self.shared.work.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic in the writer thread was already reported by the panic hook.
            let _ = thread.join();
        }
    }
}

fn run(shared: &Shared, store: &dyn Commit, fatal: &MetaFatal) {
    loop {
        let Some((ops, position)) = next_batch(shared) else { return };
        if let Err(error) = store.commit(&ops) {
            let text = error.to_string();
            shared.lock().failed = Some(text.clone());
            shared.done.notify_all();
            if store.is_disk_full() {
                // It waited until the broker stopped. Nobody was told that these are kept.
                tracing::error!(changes = ops.len(), %error, "no room for the last changes of definitions");
            } else {
                fatal(&text);
            }
            return;
        }
        let bytes = ops.iter().map(MetaOp::memory_bytes).sum();
        shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        publish(shared, position);
    }
}

fn next_batch(shared: &Shared) -> Option<(Vec<MetaOp>, MetaPos)> {
    let mut queue = shared.lock();
    while queue.ops.is_empty() {
        if queue.stop {
            return None;
        }
        queue = shared.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
    }
    Some((std::mem::take(&mut queue.ops), MetaPos(queue.appended)))
}

fn publish(shared: &Shared, position: MetaPos) {
    shared.committed.store(position.0, Ordering::Release);
    let reached: Vec<_> = shared.lock().waiters.extract_if(.., |(pos, _)| *pos <= position).collect();
    shared.done.notify_all();
    for (_, waiter) in reached {
        waiter.committed(position);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// Each commit waits for a permission and reports how many changes it had.
    struct Gate {
        permissions: Mutex<mpsc::Receiver<Result<(), MetaError>>>,
        commits: mpsc::Sender<usize>,
    }

    impl Commit for Gate {
        fn commit(&self, ops: &[MetaOp]) -> Result<(), MetaError> {
            self.commits.send(ops.len()).unwrap();
            self.permissions.lock().unwrap().recv().unwrap()
        }

        fn is_disk_full(&self) -> bool {
            false
        }

        fn stop_waiting(&self) {}
    }

    struct Tell(mpsc::Sender<MetaPos>);
    impl MetaWaiter for Tell {
        fn committed(&self, pos: MetaPos) {
            self.0.send(pos).unwrap();
        }
    }

    fn op() -> MetaOp {
        MetaOp::Delete { table: super::super::MetaTable::Queues, key: vec![1] }
    }

    #[test]
    fn what_arrives_during_a_commit_is_committed_together() {
        let (permit, permissions) = mpsc::channel();
        let (commits, seen) = mpsc::channel();
        let gate = Gate { permissions: Mutex::new(permissions), commits };
        let writer = Writer::start(Arc::new(gate), Arc::new(|_: &str| {})).unwrap();
        writer.apply(vec![op()]);
        assert_eq!(seen.recv().unwrap(), 1);
        let (tell, told) = mpsc::channel();
        for _ in 0..100 {
            let pos = writer.apply(vec![op(), op()]);
            writer.notify_when_committed(pos, Arc::new(Tell(tell.clone())));
        }
        assert_eq!(writer.committed(), MetaPos(0));
        assert!(told.try_recv().is_err());
        permit.send(Ok(())).unwrap();
        permit.send(Ok(())).unwrap();
        assert_eq!(seen.recv().unwrap(), 200);
        writer.flush().unwrap();
        assert_eq!(writer.committed(), MetaPos(201));
        for _ in 0..100 {
            assert_eq!(told.recv().unwrap(), MetaPos(201));
        }
        writer.notify_when_committed(MetaPos(7), Arc::new(Tell(tell)));
        assert_eq!(told.recv().unwrap(), MetaPos(201));
        assert_eq!(writer.queued_bytes(), 0);
    }

    #[test]
    fn a_failed_commit_is_fatal_and_never_retried() {
        let (permit, permissions) = mpsc::channel();
        let (commits, seen) = mpsc::channel();
        let gate = Gate { permissions: Mutex::new(permissions), commits };
        let (fatal, fatals) = mpsc::channel();
        let handler: MetaFatal = Arc::new(move |text: &str| fatal.send(text.to_owned()).unwrap());
        let writer = Writer::start(Arc::new(gate), handler).unwrap();
        permit.send(Err(MetaError::Store { path: "m".to_owned(), text: "EIO".to_owned() })).unwrap();
        writer.apply(vec![op()]);
        assert_eq!(fatals.recv().unwrap(), "metadata store m: EIO");
        assert!(matches!(writer.flush(), Err(MetaError::Stopped(_))));
        writer.apply(vec![op()]);
        assert!(matches!(writer.flush(), Err(MetaError::Stopped(_))));
        assert_eq!(writer.committed(), MetaPos(0));
        drop(writer);
        assert_eq!(seen.iter().count(), 1);
    }
}
