//! Who published the bytes of a run of records, for quotas on what users have stored.
//!
//! Users are known by number here ([`UserNumber`]), which every record has with its time. A run of one user's messages,
//! which is what a busy publisher makes, costs nothing more than that number.

use std::fmt;

/// A user by number: small, and not given to another one while there are others left.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct UserNumber(pub u16);

impl UserNumber {
    /// The broker itself, and whoever published before users had numbers: charged to nobody.
    pub const NOBODY: Self = Self(0);
}

impl fmt::Display for UserNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What one user has of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    /// Who.
    pub user: UserNumber,
    /// Bytes of records, at the time when the run was made.
    pub bytes: u32,
}

/// Who has how much of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Shares {
    /// All of it is one user's.
    One(UserNumber),
    /// Those of several users, in ascending order, each once.
    Several(Box<[Share]>),
}

impl Default for Shares {
    fn default() -> Self {
        Self::One(UserNumber::NOBODY)
    }
}

impl Shares {
    /// Those of a list as [`add`] makes it.
    pub fn of(list: &[Share]) -> Self {
        match list {
            [] => Self::default(),
            [only] => Self::One(only.user),
            several => Self::Several(several.into()),
        }
    }

    /// Divides the bytes that the run takes now: fewer than when it was made, once some of its messages are left out.
    pub fn divide(&self, bytes: u64, mut to: impl FnMut(UserNumber, u64)) {
        match self {
            Self::One(user) => to(*user, bytes),
            Self::Several(list) => {
                let made_of: u64 = list.iter().map(|share| u64::from(share.bytes)).sum();
                for share in list {
                    let part = u128::from(bytes) * u128::from(share.bytes) / u128::from(made_of.max(1));
                    to(share.user, part as u64);
                }
            }
        }
    }

    /// Bytes of memory it takes beside itself.
    pub fn memory_bytes(&self) -> usize {
        match self {
            Self::One(_) => 0,
            Self::Several(list) => size_of_val(&**list),
        }
    }
}

/// Adds to what a user has, in a list that is in ascending order.
pub fn add(list: &mut Vec<Share>, user: UserNumber, bytes: u32) {
    match list.binary_search_by_key(&user, |share| share.user) {
        Ok(at) => list[at].bytes = list[at].bytes.saturating_add(bytes),
        Err(at) => list.insert(at, Share { user, bytes }),
    }
}

/// The shares of two runs together, of which the first has `bytes.0` bytes and the second `bytes.1`.
pub fn joined(first: &Shares, second: &Shares, bytes: (u32, u32)) -> Shares {
    if let (Shares::One(one), Shares::One(other)) = (first, second)
        && one == other
    {
        return first.clone();
    }
    let mut list = Vec::new();
    for (shares, bytes) in [(first, bytes.0), (second, bytes.1)] {
        // Not more than `bytes`, which are 32 bits.
        shares.divide(bytes.into(), |user, part| add(&mut list, user, part as u32));
    }
    Shares::of(&list)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn divided(shares: &Shares, bytes: u64) -> Vec<(u16, u64)> {
        let mut parts = Vec::new();
        shares.divide(bytes, |user, part| parts.push((user.0, part)));
        parts
    }

    #[test]
    fn a_run_is_divided_as_it_was_made() {
        let mut list = Vec::new();
        assert_eq!(Shares::of(&list), Shares::One(UserNumber::NOBODY));
        add(&mut list, UserNumber(7), 100);
        add(&mut list, UserNumber(7), 200);
        assert_eq!(divided(&Shares::of(&list), 55), [(7, 55)]);
        add(&mut list, UserNumber(2), 100);
        assert_eq!(divided(&Shares::of(&list), 400), [(2, 100), (7, 300)]);
        // Half of it was left out when it was written again.
        assert_eq!(divided(&Shares::of(&list), 200), [(2, 50), (7, 150)]);
        assert_eq!(Shares::of(&list).memory_bytes(), 16);
    }

    #[test]
    fn runs_are_joined() {
        let (one, other) = (Shares::One(UserNumber(1)), Shares::One(UserNumber(2)));
        assert_eq!(joined(&one, &one, (5, 6)), one);
        let both = joined(&one, &other, (5, 6));
        assert_eq!(divided(&both, 11), [(1, 5), (2, 6)]);
        assert_eq!(divided(&joined(&both, &other, (11, 4)), 15), [(1, 5), (2, 10)]);
    }

    #[test]
    fn nothing_is_divided_among_users_without_bytes() {
        let list = [Share { user: UserNumber(1), bytes: 0 }, Share { user: UserNumber(2), bytes: 0 }];
        assert_eq!(divided(&Shares::Several(list.into()), 9), [(1, 0), (2, 0)]);
    }
}
