//! How the broker reaches a connection's task: a small inbox and one notification per batch of events.

use std::sync::{Arc, Mutex, PoisonError};

use posthouse_model::ids::Lsn;
use posthouse_model::reply::ReplyError;
use tokio::sync::Notify;

use crate::survey::Asker;

/// What happened since the task last looked.
#[derive(Debug, Default)]
pub struct Inbox {
    /// Consumers (by the session's own slot number) whose queue may have messages for them.
    pub ready: Vec<u32>,
    /// Consumers whose queue is gone.
    pub cancelled: Vec<u32>,
    /// The log or the metadata store has moved on; positions are read from them.
    pub synced: bool,
    /// A publisher that was paced may go on, or a message that was waited for is in memory.
    pub room: bool,
    /// It may be known by now what has become of a message of which the session published a duplicate.
    pub decided: bool,
    /// A memory or disk alarm was raised or cleared.
    pub alarms_changed: bool,
    /// Deliveries may not have been acknowledged in time.
    pub overdue: bool,
    /// The connection is to be closed by the broker.
    pub close: Option<ReplyError>,
    /// Listings that want to know what the session holds.
    pub asked: Vec<Asker>,
}

/// Wakes one connection's task. Every event sets a bit or adds to a short list, then notifies; the task takes
/// everything at once.
#[derive(Debug, Default)]
pub struct SessionWaker {
    notify: Notify,
    inbox: Mutex<Inbox>,
}

impl SessionWaker {
    /// Waits until something is in the inbox. Cancel-safe.
    pub async fn notified(&self) {
        self.notify.notified().await;
    }

    /// Whether anything is in the inbox, so that [`Self::notified`] need not be waited for. Takes the notification.
    pub fn has_mail(&self) -> bool {
        let notified = std::pin::pin!(self.notify.notified());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        std::future::Future::poll(notified, &mut context).is_ready()
    }

    /// Moves what is in the inbox to `into`, whose lists are emptied first and lend their memory.
    pub fn take(&self, into: &mut Inbox) {
        into.ready.clear();
        into.cancelled.clear();
        into.synced = false;
        into.room = false;
        into.decided = false;
        into.alarms_changed = false;
        into.overdue = false;
        into.close = None;
        into.asked.clear();
        std::mem::swap(into, &mut self.lock());
    }

    /// A consumer's queue may have messages.
    pub fn ready(&self, consumer: u32) {
        self.post(|inbox| inbox.ready.push(consumer));
    }

    /// A consumer's queue is gone.
    pub fn cancelled(&self, consumer: u32) {
        self.post(|inbox| inbox.cancelled.push(consumer));
    }

    /// A position that the session waits for may have been passed.
    pub fn synced(&self) {
        self.post(|inbox| inbox.synced = true);
    }

    /// A publisher that was paced may go on, or a message that was waited for is in memory.
    pub fn room(&self) {
        self.post(|inbox| inbox.room = true);
    }

    /// It may be known by now what has become of a message of which the session published a duplicate.
    pub fn decided(&self) {
        self.post(|inbox| inbox.decided = true);
    }

    /// A memory or disk alarm was raised or cleared.
    pub fn alarms_changed(&self) {
        self.post(|inbox| inbox.alarms_changed = true);
    }

    /// Deliveries may not have been acknowledged in time.
    pub fn overdue(&self) {
        self.post(|inbox| inbox.overdue = true);
    }

    /// The connection is to be closed.
    pub fn close(&self, why: ReplyError) {
        self.post(|inbox| {
            inbox.close.get_or_insert(why);
        });
    }

    /// A listing wants to know what the session holds.
    pub fn ask(&self, asker: Asker) {
        self.post(|inbox| inbox.asked.push(asker));
    }

    fn post(&self, change: impl FnOnce(&mut Inbox)) {
        debug_assert!(!posthouse_storage::wal::is_staging(), "woken while the staging lock is held");
        change(&mut self.lock());
        self.notify.notify_one();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inbox> {
        // A panic while the lists were touched cannot leave them half changed.
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl posthouse_storage::wal::LogWaiter for SessionWaker {
    fn passed(&self, _lsn: Lsn) {
        self.synced();
    }
}

/// One consumer of a session: how it is reached, and what it is called.
#[derive(Clone, Debug)]
pub struct ConsumerWaker(Arc<Seat>);

#[derive(Debug)]
struct Seat {
    session: Arc<SessionWaker>,
    slot: u32,
    channel: u16,
    tag: Arc<str>,
}

impl ConsumerWaker {
    /// The consumer with this number within the session, and its channel and tag.
    pub fn new(session: Arc<SessionWaker>, slot: u32, channel: u16, tag: Arc<str>) -> Self {
        Self(Arc::new(Seat { session, slot, channel, tag }))
    }

    /// Its queue may have messages.
    pub fn wake(&self) {
        self.0.session.ready(self.0.slot);
    }

    /// Its queue is gone.
    pub fn cancelled(&self) {
        self.0.session.cancelled(self.0.slot);
    }

    /// The session it belongs to.
    pub fn session(&self) -> &Arc<SessionWaker> {
        &self.0.session
    }

    /// Its channel.
    pub fn channel(&self) -> u16 {
        self.0.channel
    }

    /// Its tag.
    pub fn tag(&self) -> &str {
        &self.0.tag
    }
}
