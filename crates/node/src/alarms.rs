//! Memory and disk watermarks, which hold publishers back.

use std::sync::atomic::{AtomicU8, Ordering};

const MEMORY: u8 = 1;
const DISK: u8 = 2;

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

    /// Sets both; whether that changed whether any is on.
    pub fn set(&self, memory: bool, disk: bool) -> bool {
        let now = if memory { MEMORY } else { 0 } | if disk { DISK } else { 0 };
        let before = self.0.swap(now, Ordering::Relaxed);
        (before == 0) != (now == 0)
    }

    /// Which are on, as `connection.blocked` says it.
    pub fn reason(&self) -> Option<&'static str> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            MEMORY => Some("low on memory"),
            DISK => Some("low on disk"),
            _ => Some("low on memory & disk"),
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
        assert!(alarms.set(true, false));
        assert_eq!(alarms.reason(), Some("low on memory"));
        assert!(!alarms.set(true, true), "it was on before");
        assert_eq!(alarms.reason(), Some("low on memory & disk"));
        assert!(!alarms.set(false, true));
        assert_eq!((alarms.reason(), alarms.disk(), alarms.memory()), (Some("low on disk"), true, false));
        assert!(alarms.set(false, false));
        assert!(alarms.raise_memory() && alarms.memory());
        assert!(!alarms.raise_memory(), "it was on before");
        assert!(!alarms.set(true, false));
    }
}
