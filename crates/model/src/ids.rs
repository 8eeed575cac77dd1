//! Numbers that identify things for the life of a data directory.

use std::fmt;

/// A queue's identity. Never reused within a data directory, so a log record can never be applied to a later
/// queue of the same name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct QueueId(pub u64);

/// A message's place in its queue: 0, 1, 2 ... in order of arrival, never reused.
pub type Seq = u64;

/// A position in the write-ahead log: the count of bytes staged before it since the data directory was made.
/// `appended >= durable >= committed >= applied` are different positions, see `ARCHITECTURE.md`.
pub type Lsn = u64;

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
