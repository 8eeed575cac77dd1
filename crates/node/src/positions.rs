//! Positions that a confirm or a reply may have to wait for.

use posthouse_model::ids::Lsn;

/// Positions in the log and one in the metadata store. The default is passed from the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Positions {
    /// Bytes of the log that are durable.
    pub lsn: Lsn,
    /// Bytes of the log that are written, be they durable or not.
    pub written: Lsn,
    /// Changes of the metadata store.
    pub meta: u64,
}

impl Positions {
    /// Whether all are at or below `passed`.
    pub fn passed_by(self, passed: Self) -> bool {
        self.lsn <= passed.lsn && self.written <= passed.written && self.meta <= passed.meta
    }

    /// The later of each.
    pub fn max(self, other: Self) -> Self {
        Self {
            lsn: self.lsn.max(other.lsn),
            written: self.written.max(other.written),
            meta: self.meta.max(other.meta),
        }
    }
}

/// What a session has asked to be told of. The log and the metadata store tell separately, so it is one position of
/// one of them at a time; once told, the session looks again at what it still needs.
#[derive(Debug, Default)]
pub struct Awaited(Positions);

impl Awaited {
    /// What to ask for now, so that `needs` is heard of in time; none when what was asked for earlier does.
    pub fn next(&mut self, needs: Positions, passed: Positions) -> Option<Positions> {
        let one = if needs.lsn > passed.lsn {
            Positions { lsn: needs.lsn, ..Positions::default() }
        } else if needs.written > passed.written {
            Positions { written: needs.written, ..Positions::default() }
        } else {
            Positions { meta: needs.meta, ..Positions::default() }
        };
        if !self.0.passed_by(passed) && self.0.passed_by(one) {
            return None;
        }
        self.0 = one;
        Some(one)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(lsn: Lsn, meta: u64) -> Positions {
        Positions { lsn, written: lsn, meta }
    }

    fn one(lsn: Lsn, written: Lsn, meta: u64) -> Positions {
        Positions { lsn, written, meta }
    }

    #[test]
    fn both_positions_are_asked_for_in_turn() {
        let mut awaited = Awaited::default();
        assert_eq!(awaited.next(at(10, 5), at(0, 0)), Some(one(10, 0, 0)));
        assert_eq!(awaited.next(at(10, 5), at(9, 0)), None, "asked for");
        assert_eq!(
            awaited.next(at(10, 5), at(10, 4)),
            Some(one(0, 0, 5)),
            "the log is there, the store is not"
        );
        assert_eq!(awaited.next(at(10, 5), at(10, 4)), None, "asked for");
    }

    #[test]
    fn an_earlier_position_is_enough_and_a_later_one_is_not() {
        let mut awaited = Awaited::default();
        assert_eq!(awaited.next(at(10, 0), at(0, 0)), Some(one(10, 0, 0)));
        assert_eq!(awaited.next(at(20, 9), at(0, 0)), None);
        assert_eq!(awaited.next(at(5, 0), at(0, 0)), Some(one(5, 0, 0)));
        assert_eq!(awaited.next(at(0, 3), at(0, 0)), Some(one(0, 0, 3)), "the log may not move at all");
        assert_eq!(awaited.next(one(0, 7, 3), at(5, 0)), Some(one(0, 7, 0)));
    }
}
