//! What the log waits for when it cannot go on, and for how long.

use std::fmt;

use crate::error::StorageError;

/// How often something is tried in vain, once the log is being closed, before it gives up what is not durable yet.
const CLOSING_TRIES: u32 = 3;

/// What there is too little of to go on. It may pass by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shortage {
    /// Room on the disk, or in the user's share of it.
    Disk,
    /// File descriptors, of the process or of the machine.
    Files,
}

impl Shortage {
    /// What an error is for want of; none when it will not pass.
    pub(super) fn of(error: &StorageError) -> Option<Self> {
        match error {
            error if error.is_disk_full() => Some(Self::Disk),
            error if error.is_out_of_files() => Some(Self::Files),
            _ => None,
        }
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disk => "the disk is full",
            Self::Files => "no more files can be opened",
        })
    }
}

/// What the log's two threads are short of just now.
#[derive(Default)]
pub(super) struct Shortages {
    /// The keeper, for another file.
    for_file: Option<Shortage>,
    /// The writer, for a batch in a file that has its space: copy-on-write file systems need more.
    for_write: bool,
    /// Tries in vain since the log is being closed.
    tries: u32,
}

impl Shortages {
    /// What the log is short of.
    pub(super) fn now(&self) -> Option<Shortage> {
        if self.for_write { Some(Shortage::Disk) } else { self.for_file }
    }

    /// There was no room for a file.
    pub(super) fn no_file(&mut self, shortage: Shortage, closing: bool) {
        self.for_file = Some(shortage);
        self.tries += u32::from(closing);
    }

    /// There are as many files ahead as there should be.
    pub(super) fn enough_files(&mut self) {
        self.for_file = None;
    }

    /// There was no room for a batch.
    pub(super) fn no_write(&mut self, closing: bool) {
        self.for_write = true;
        self.tries += u32::from(closing);
    }

    /// A batch was written.
    pub(super) fn wrote(&mut self) {
        self.for_write = false;
    }

    /// While the log is being closed: the error to end with when there is no more use in waiting.
    pub(super) fn give_up(&self) -> Result<(), StorageError> {
        match self.now() {
            Some(shortage) if self.tries >= CLOSING_TRIES => {
                Err(StorageError::Stopped { reason: format!("{shortage} while closing") })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_log_that_is_closed_gives_up_and_not_at_once() {
        let mut shortages = Shortages::default();
        for _ in 0..10 {
            shortages.no_file(Shortage::Files, false);
            shortages.no_write(false);
        }
        assert!(shortages.give_up().is_ok());
        assert_eq!(shortages.now(), Some(Shortage::Disk));
        shortages.wrote();
        assert_eq!(shortages.now(), Some(Shortage::Files));
        shortages.no_file(Shortage::Files, true);
        shortages.no_file(Shortage::Files, true);
        assert!(shortages.give_up().is_ok());
        shortages.no_file(Shortage::Files, true);
        let error = shortages.give_up().unwrap_err().to_string();
        assert_eq!(error, "storage has stopped: no more files can be opened while closing");
        shortages.enough_files();
        assert!(shortages.give_up().is_ok() && shortages.now().is_none());
    }
}
