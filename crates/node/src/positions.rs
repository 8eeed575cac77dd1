//! Positions that a confirm or a reply may have to wait for.

use posthouse_model::ids::Lsn;

/// A position in the log and one in the metadata store. The default is passed from the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Positions {
    /// Bytes of the log.
    pub lsn: Lsn,
    /// Changes of the metadata store.
    pub meta: u64,
}

impl Positions {
    /// Whether both are at or below `passed`.
    pub fn passed_by(self, passed: Self) -> bool {
        self.lsn <= passed.lsn && self.meta <= passed.meta
    }

    /// The later of each.
    pub fn max(self, other: Self) -> Self {
        Self { lsn: self.lsn.max(other.lsn), meta: self.meta.max(other.meta) }
    }
}
