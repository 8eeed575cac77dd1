//! Logins that succeeded lately.
//!
//! Verifying a password is slow on purpose. After a network failure thousands of clients come back at once with
//! passwords that were verified a moment ago; this cache lets them in at once. It holds no passwords but keyed
//! digests of (user, stored hash, password) under a key that lives as long as the process, so an entry stops
//! matching when the stored hash changes.

use std::collections::VecDeque;

use foldhash::{HashSet, HashSetExt};
use sha2::{Digest, Sha256};

use crate::password::PasswordHash;

/// How many logins are remembered.
const ENTRIES: usize = 4096;

/// What one successful login is remembered as.
type LoginDigest = [u8; 32];

/// A bounded set of login digests; the oldest goes first.
pub(crate) struct VerifiedLogins {
    key: [u8; 32],
    known: HashSet<LoginDigest>,
    order: VecDeque<LoginDigest>,
}

impl VerifiedLogins {
    /// An empty set with a fresh key. Without random bytes nothing is ever remembered.
    pub(crate) fn new() -> Self {
        Self { key: [0; 32], known: HashSet::new(), order: VecDeque::new() }
    }

    /// Whether this login succeeded lately.
    pub(crate) fn contains(&self, user: &str, stored: &PasswordHash, password: &[u8]) -> bool {
        !self.known.is_empty() && self.known.contains(&self.digest(user, stored, password))
    }

    /// Remembers a login that succeeded.
    pub(crate) fn insert(&mut self, user: &str, stored: &PasswordHash, password: &[u8]) {
        if self.key == [0; 32] && getrandom::fill(&mut self.key).is_err() {
            self.key = [0; 32];
            return;
        }
        let digest = self.digest(user, stored, password);
        if !self.known.insert(digest) {
            return;
        }
        self.order.push_back(digest);
        if self.order.len() > ENTRIES
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    fn digest(&self, user: &str, stored: &PasswordHash, password: &[u8]) -> LoginDigest {
        let stored = stored.to_text();
        let mut hasher = Sha256::new().chain_update(self.key);
        for part in [user.as_bytes(), stored.as_bytes(), password] {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        // Twice, because the plain construction could be extended by whoever sees a digest.
        Sha256::new().chain_update(self.key).chain_update(hasher.finalize()).finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::password::HashCost;

    fn hash() -> PasswordHash {
        PasswordHash::new(b"pw", HashCost { memory_kib: 8, passes: 1 }).unwrap()
    }

    #[test]
    fn remembers_exactly_what_was_verified() {
        let mut logins = VerifiedLogins::new();
        let stored = hash();
        assert!(!logins.contains("u", &stored, b"pw"));
        logins.insert("u", &stored, b"pw");
        assert!(logins.contains("u", &stored, b"pw"));
        assert!(!logins.contains("u", &stored, b"pW"));
        assert!(!logins.contains("v", &stored, b"pw"));
        assert!(!logins.contains("u", &hash(), b"pw"), "another hash of the same password");
    }

    #[test]
    fn is_bounded() {
        let mut logins = VerifiedLogins::new();
        let stored = hash();
        for i in 0..ENTRIES as u64 + 10 {
            logins.insert(&i.to_string(), &stored, b"pw");
        }
        assert_eq!((logins.known.len(), logins.order.len()), (ENTRIES, ENTRIES));
        assert!(!logins.contains("9", &stored, b"pw"));
        assert!(logins.contains("10", &stored, b"pw"));
    }
}
