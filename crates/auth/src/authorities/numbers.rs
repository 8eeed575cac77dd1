//! Numbers of users: what stands for a user in records of messages.
//!
//! A number that a message has is not given again before all others have been, and never to two users at a time: messages
//! of a user who is deleted should not be charged to the next one.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU16, Ordering};

use posthouse_model::limits::UserLimits;
use posthouse_model::name::Name;
use posthouse_model::shares::UserNumber;

use super::{AuthError, Authorities, Entry};
use crate::users::{AuthChange, User};

/// The number that was given last.
#[derive(Debug, Default)]
pub(super) struct Numbers(AtomicU16);

impl Numbers {
    /// Notes one that somebody has, or had.
    pub(super) fn note(&self, number: UserNumber) {
        self.0.fetch_max(number.0, Ordering::Relaxed);
    }

    /// The next one that none of these users has; nobody's when there is none. Called with the users locked.
    pub(super) fn next(&self, users: &BTreeMap<Name, Entry>) -> UserNumber {
        let last = self.0.load(Ordering::Relaxed);
        let next = match last.checked_add(1) {
            Some(next) => UserNumber(next),
            None => {
                let taken: HashSet<u16> = users.values().map(|entry| entry.user.number.0).collect();
                let free = (1..=u16::MAX).find(|number| !taken.contains(number));
                return free.map_or(UserNumber::NOBODY, UserNumber);
            }
        };
        self.0.store(next.0, Ordering::Relaxed);
        next
    }
}

/// Refuses limits that need a number to a user who has none.
pub(super) fn check_number(name: &str, number: UserNumber, limits: &UserLimits) -> Result<(), AuthError> {
    match limits.stored_bytes() {
        Some(_) if number == UserNumber::NOBODY => Err(AuthError::NoNumber(name.to_owned())),
        _ => Ok(()),
    }
}

impl Authorities {
    /// Takes over a user who is defined elsewhere: a new one gets a number, and one who is known keeps theirs.
    ///
    /// # Errors
    /// When no number is left, and a limit needs one.
    pub fn put_user(&self, mut user: User) -> Result<Vec<AuthChange>, AuthError> {
        let mut users = self.write();
        user.number = match users.get(&user.name) {
            Some(entry) => entry.user.number,
            None => self.numbers.next(&users),
        };
        check_number(&user.name, user.number, &user.limits)?;
        let known = users.remove(&user.name);
        let (permissions, topics) = known.map(|entry| (entry.permissions, entry.topics)).unwrap_or_default();
        users.insert(user.name.clone(), Entry { permissions, topics, ..Entry::new(user.clone()) });
        self.changed();
        Ok(vec![AuthChange::PutUser(user)])
    }

    /// Gives a number to users who were stored without one. Called once all users are known; `highest` is the highest
    /// that a message has.
    pub fn number_users(&self, highest: UserNumber) -> Vec<AuthChange> {
        let mut users = self.write();
        self.numbers.note(highest);
        let nobody = |entry: &&Entry| entry.user.number == UserNumber::NOBODY;
        let names: Vec<Name> = users.values().filter(nobody).map(|entry| entry.user.name.clone()).collect();
        let mut changes = Vec::new();
        for name in names {
            let number = self.numbers.next(&users);
            let Some(entry) = users.get_mut(&name).filter(|_| number != UserNumber::NOBODY) else { continue };
            entry.renumber(number);
            changes.push(AuthChange::PutUser(entry.user.clone()));
        }
        self.changed();
        changes
    }
}
