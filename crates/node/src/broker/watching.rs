//! What holds publishers back: alarms by memory and disk, and what cannot be written as fast as it comes.

use posthouse_storage::wal::Shortage;

use super::Broker;

impl Broker {
    /// Whether publishers are held back.
    #[inline]
    pub fn alarm_on(&self) -> bool {
        self.alarms.any()
    }

    /// Whether publishers are held back because the disk is low or full.
    pub(crate) fn disk_alarm_on(&self) -> bool {
        self.alarms.disk()
    }

    /// Why publishers are held back.
    pub fn alarm_reason(&self) -> Option<&'static str> {
        self.alarms.reason()
    }

    /// Sets the alarms by memory use and by what is known of the disk, and tells every session when they change.
    pub fn watch(&self, disk_free_bytes: Option<u64>) {
        let memory = self.memory.bytes() > self.settings.memory_watermark_bytes;
        let shortage = self.wal().and_then(|wal| wal.shortage());
        let full = shortage == Some(Shortage::Disk) || self.store.meta().is_disk_full();
        let disk = full || disk_free_bytes.is_some_and(|free| free < self.settings.disk_free_limit_bytes);
        let before = self.alarms.reason();
        if self.alarms.set(memory, disk, shortage == Some(Shortage::Files)) {
            self.tell_alarms(before, disk_free_bytes);
        }
    }

    /// Sets the memory alarm as soon as a publisher crosses the watermark: a fast one sends 100 MB until the next
    /// [`Self::watch`], which is what takes the alarm back.
    #[inline]
    pub(crate) fn watch_memory(&self) {
        let over = self.memory.bytes() > self.settings.memory_watermark_bytes;
        if over && !self.alarms.memory() && self.alarms.raise_memory() {
            self.tell_alarms(None, None);
        }
    }

    fn tell_alarms(&self, before: Option<&'static str>, disk_free_bytes: Option<u64>) {
        let (now, memory_bytes) = (self.alarms.reason(), self.memory.bytes());
        tracing::warn!(
            ?before,
            ?now,
            memory_bytes,
            ?disk_free_bytes,
            "publishers are held back or let go on"
        );
        for connection in self.connections.list() {
            connection.waker.alarms_changed();
        }
    }

    /// Whether sessions should read nothing new: the log or the metadata store has too much to write.
    pub fn is_congested(&self) -> bool {
        self.store.meta().congested() || self.wal().is_some_and(|wal| wal.is_congested())
    }
}
