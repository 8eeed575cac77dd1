//! Too little memory, disk or file descriptors, which hold publishers back.

use std::sync::atomic::{AtomicU8, Ordering};

const MEMORY: u8 = 1;
const DISK: u8 = 2;
const FILES: u8 = 4;

/// Which alarms are on.
#[derive(Debug, Default)]
pub struct Alarms(AtomicU8);

impl Alarms {
    /// Whether any is on.
    #[inline]
    pub fn any(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }

    /// Whether the memory alarm is on.
    #[inline]
    pub fn memory(&self) -> bool {
        self.0.load(Ordering::Relaxed) & MEMORY != 0
    }

    /// Whether the disk alarm is on.
    pub fn disk(&self) -> bool {
        self.0.load(Ordering::Relaxed) & DISK != 0
    }

    /// Sets the memory alarm; whether none was on before.
    pub fn raise_memory(&self) -> bool {
        self.0.fetch_or(MEMORY, Ordering::Relaxed) == 0
    }

    /// Sets all; whether that changed whether any is on.
    pub fn set(&self, memory: bool, disk: bool, files: bool) -> bool {
        let on = [(memory, MEMORY), (disk, DISK), (files, FILES)];
        let now = on.into_iter().filter(|(on, _)| *on).map(|(_, bit)| bit).sum();
        let before = self.0.swap(now, Ordering::Relaxed);
        (before == 0) != (now == 0)
    }

    /// Which are on, as `connection.blocked` says it.
    pub fn reason(&self) -> Option<&'static str> {
        const MEMORY_AND_DISK: u8 = MEMORY | DISK;
        const MEMORY_AND_FILES: u8 = MEMORY | FILES;
        const DISK_AND_FILES: u8 = DISK | FILES;
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            MEMORY => Some("low on memory"),
            DISK => Some("low on disk"),
            MEMORY_AND_DISK => Some("low on memory & disk"),
            FILES => Some("low on file descriptors"),
            MEMORY_AND_FILES => Some("low on memory & file descriptors"),
            DISK_AND_FILES => Some("low on disk & file descriptors"),
            _ => Some("low on memory & disk & file descriptors"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_rabbitmqs() {
        let alarms = Alarms::default();
        assert_eq!((alarms.any(), alarms.reason()), (false, None));
        assert!(alarms.set(true, false, false));
        assert_eq!(alarms.reason(), Some("low on memory"));
        assert!(!alarms.set(true, true, false), "it was on before");
        assert_eq!(alarms.reason(), Some("low on memory & disk"));
        assert!(!alarms.set(false, true, false));
        assert_eq!((alarms.reason(), alarms.disk(), alarms.memory()), (Some("low on disk"), true, false));
        assert!(alarms.set(false, false, false));
        assert!(alarms.raise_memory() && alarms.memory());
        assert!(!alarms.raise_memory(), "it was on before");
        assert!(!alarms.set(true, false, false));
    }

    /// RabbitMQ has no such alarm for publishers; the reason reads as its own do.
    #[test]
    fn a_lack_of_files_is_told_apart_from_a_full_disk() {
        let alarms = Alarms::default();
        assert!(alarms.set(false, false, true));
        assert_eq!((alarms.any(), alarms.disk()), (true, false));
        for (memory, disk, reason) in [
            (false, false, "low on file descriptors"),
            (true, false, "low on memory & file descriptors"),
            (false, true, "low on disk & file descriptors"),
            (true, true, "low on memory & disk & file descriptors"),
        ] {
            assert!(!alarms.set(memory, disk, true));
            assert_eq!(alarms.reason(), Some(reason));
        }
    }
}
