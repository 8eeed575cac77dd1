//! All users and permissions of a broker, in memory.
//!
//! Reads take a shared lock for moments; nothing slow happens under a lock. Every change raises
//! [`Authorities::generation`], by which sessions notice that their [`Access`] may be stale, and is returned to be
//! written to the metadata store.
//!
//! A login by password costs one Argon2id computation (tens of milliseconds, 19 MiB): try
//! [`Authorities::authenticate_cached`] first and call [`Authorities::authenticate`] on a blocking thread, few at
//! a time. A refusal costs the same whether the user exists, has a password or not.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use posthouse_model::errors;
use posthouse_model::limits::UserLimits;
use posthouse_model::name::Name;
use posthouse_model::reply::ReplyError;
use posthouse_model::shares::UserNumber;

use crate::password::{HashCost, PasswordError, PasswordHash};
use crate::permissions::{Access, Granted, InvalidPattern, Permissions};
use crate::topics::Topics;
use crate::users::{AuthChange, PermissionRecord, TopicPermissionRecord, User};
use crate::verified::VerifiedLogins;

pub use logins::Refusal;
use numbers::{Numbers, check_number};
pub use topic_permissions::check_topic_patterns;
use topic_permissions::delete_topic;

mod logins;
mod numbers;
mod topic_permissions;

/// The user every new broker has, its password, and its tag.
const DEFAULT_USER: &str = "guest";
const DEFAULT_TAG: &str = "administrator";

/// Settings of logins.
#[derive(Clone, Debug)]
pub struct AuthSettings {
    /// Users that may log in from this machine only.
    pub loopback_users: Vec<String>,
    /// Whom ANONYMOUS logs in as; `None` refuses it.
    pub anonymous_user: Option<String>,
    /// What hashing a new password costs.
    pub hash_cost: HashCost,
}

impl Default for AuthSettings {
    fn default() -> Self {
        Self {
            loopback_users: vec![DEFAULT_USER.to_owned()],
            anonymous_user: Some(DEFAULT_USER.to_owned()),
            hash_cost: HashCost::default(),
        }
    }
}

/// Who is logged in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The user.
    pub user: Name,
    /// The user's tags.
    pub tags: Vec<String>,
    /// What stands for the user in records of messages.
    pub number: UserNumber,
}

impl Identity {
    /// Whether the user has this tag.
    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags.iter().any(|known| known == tag)
    }
}

/// Why a change was refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AuthError {
    /// The user does not exist.
    #[error("user '{0}' does not exist")]
    NoSuchUser(String),
    /// The user exists already.
    #[error("user '{0}' already exists")]
    UserExists(String),
    /// What the user stores cannot be told from what others do.
    #[error("user '{0}' cannot have the limit max-stored-bytes: expected at most {max} users, got more", max = u16::MAX)]
    NoNumber(String),
    /// A name is empty or too long.
    #[error("expected a name of 1 to 255 bytes, got {0}")]
    InvalidName(usize),
    /// The password cannot be used.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// A pattern is no regular expression.
    #[error(transparent)]
    Pattern(#[from] InvalidPattern),
}

/// What became of a session's permissions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Freshness {
    /// Nothing changed.
    Unchanged,
    /// Something may have changed; the session checks with the new permissions from now on.
    Changed,
    /// The user is gone or has no permissions in the virtual host any more; every check is refused from now on.
    Revoked,
}

/// The registry of users and permissions.
pub struct Authorities {
    settings: AuthSettings,
    generation: AtomicU64,
    users: RwLock<BTreeMap<Name, Entry>>,
    numbers: Numbers,
    verified: Mutex<VerifiedLogins>,
}

struct Entry {
    user: User,
    identity: Arc<Identity>,
    /// By virtual host.
    permissions: BTreeMap<Name, Arc<Permissions>>,
    /// By virtual host; none of them is empty.
    topics: BTreeMap<Name, Arc<Topics>>,
}

impl Entry {
    fn new(user: User) -> Self {
        let identity = Arc::new(identity_of(&user));
        Self { user, identity, permissions: BTreeMap::new(), topics: BTreeMap::new() }
    }

    fn renumber(&mut self, number: UserNumber) {
        self.user.number = number;
        self.identity = Arc::new(identity_of(&self.user));
    }
}

impl Authorities {
    /// A registry without users.
    pub fn new(settings: AuthSettings) -> Self {
        Self {
            settings,
            generation: AtomicU64::new(0),
            users: RwLock::default(),
            numbers: Numbers::default(),
            verified: Mutex::new(VerifiedLogins::new()),
        }
    }

    /// What hashing a new password costs.
    pub fn hash_cost(&self) -> HashCost {
        self.settings.hash_cost
    }

    /// Rises with every change.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Adds what a new broker has: user `guest` with password `guest`, administrator, and all permissions in
    /// `vhost`.
    pub fn add_defaults(&self, vhost: &str) -> Result<Vec<AuthChange>, AuthError> {
        let mut changes = self.add_user(DEFAULT_USER, DEFAULT_USER.as_bytes())?;
        changes.clear();
        changes.extend(self.set_user_tags(DEFAULT_USER, vec![DEFAULT_TAG.to_owned()])?);
        changes.extend(self.set_permissions(DEFAULT_USER, vhost, ".*", ".*", ".*")?);
        Ok(changes)
    }

    /// Adds a user without tags and permissions. Hashes the password: call it on a blocking thread.
    pub fn add_user(&self, name: &str, password: &[u8]) -> Result<Vec<AuthChange>, AuthError> {
        if self.read().contains_key(name) {
            return Err(AuthError::UserExists(name.to_owned()));
        }
        let password = PasswordHash::new(password, self.settings.hash_cost)?;
        self.add_user_with(name, password)
    }

    /// Adds a user whose password was hashed before.
    pub fn add_user_with(&self, name: &str, password: PasswordHash) -> Result<Vec<AuthChange>, AuthError> {
        let name = checked_name(name)?;
        let mut users = self.write();
        if users.contains_key(&name) {
            return Err(AuthError::UserExists(name.to_string()));
        }
        let user = User {
            name: name.clone(),
            password: Some(password),
            tags: Vec::new(),
            limits: UserLimits::default(),
            number: self.numbers.next(&users),
        };
        users.insert(name, Entry::new(user.clone()));
        self.changed();
        Ok(vec![AuthChange::PutUser(user)])
    }

    /// Deletes a user and their permissions.
    pub fn delete_user(&self, name: &str) -> Result<Vec<AuthChange>, AuthError> {
        let mut users = self.write();
        let (user, entry) = users.remove_entry(name).ok_or_else(|| AuthError::NoSuchUser(name.to_owned()))?;
        self.changed();
        let gone = entry.permissions.into_keys();
        let mut changes: Vec<_> =
            gone.map(|vhost| AuthChange::DeletePermissions { user: user.clone(), vhost }).collect();
        for (vhost, topics) in &entry.topics {
            changes.extend(topics.keys().map(|exchange| delete_topic(&user, vhost, exchange)));
        }
        changes.push(AuthChange::DeleteUser(user));
        Ok(changes)
    }

    /// Gives a user another password. Hashes it: call it on a blocking thread.
    pub fn change_password(&self, name: &str, password: &[u8]) -> Result<Vec<AuthChange>, AuthError> {
        if !self.read().contains_key(name) {
            return Err(AuthError::NoSuchUser(name.to_owned()));
        }
        let hash = PasswordHash::new(password, self.settings.hash_cost)?;
        self.update_user(name, |user| user.password = Some(hash))
    }

    /// Lets a user no longer log in with a password.
    pub fn clear_password(&self, name: &str) -> Result<Vec<AuthChange>, AuthError> {
        self.update_user(name, |user| user.password = None)
    }

    /// Replaces a user's tags.
    pub fn set_user_tags(&self, name: &str, tags: Vec<String>) -> Result<Vec<AuthChange>, AuthError> {
        self.update_user(name, |user| user.tags = tags)
    }

    /// Replaces a user's permissions in a virtual host, which the caller knows to exist.
    pub fn set_permissions(
        &self,
        user: &str,
        vhost: &str,
        configure: &str,
        write: &str,
        read: &str,
    ) -> Result<Vec<AuthChange>, AuthError> {
        let vhost = checked_name(vhost)?;
        let permissions = Arc::new(Permissions::new(configure, write, read)?);
        let mut users = self.write();
        let entry = users.get_mut(user).ok_or_else(|| AuthError::NoSuchUser(user.to_owned()))?;
        let record = permission_record(&entry.user.name, &vhost, &permissions);
        entry.permissions.insert(vhost, permissions);
        self.changed();
        Ok(vec![AuthChange::PutPermissions(record)])
    }

    /// Takes a user's permissions in a virtual host away; missing ones are fine.
    pub fn clear_permissions(&self, user: &str, vhost: &str) -> Result<Vec<AuthChange>, AuthError> {
        let mut users = self.write();
        let entry = users.get_mut(user).ok_or_else(|| AuthError::NoSuchUser(user.to_owned()))?;
        let Some((vhost, _)) = entry.permissions.remove_entry(vhost) else { return Ok(Vec::new()) };
        self.changed();
        Ok(vec![AuthChange::DeletePermissions { user: entry.user.name.clone(), vhost }])
    }

    /// Replaces a user's limits.
    pub fn set_user_limits(&self, name: &str, limits: UserLimits) -> Result<Vec<AuthChange>, AuthError> {
        if let Some(identity) = self.identity(name) {
            check_number(name, identity.number, &limits)?;
        }
        self.update_user(name, |user| user.limits = limits)
    }

    /// A user's limits; `None` when there is no such user (any more).
    pub fn user_limits(&self, name: &str) -> Option<UserLimits> {
        self.read().get(name).map(|entry| entry.user.limits.clone())
    }

    /// Users with a limit on what they have stored, and that limit in bytes.
    pub fn stored_limits(&self) -> Vec<(Arc<Identity>, u64)> {
        let users = self.read();
        let limited = |entry: &Entry| Some((entry.identity.clone(), entry.user.limits.stored_bytes()?));
        users.values().filter_map(limited).collect()
    }

    /// Takes everyone's permissions in a virtual host away, because it is deleted.
    pub fn forget_vhost(&self, vhost: &str) -> Vec<AuthChange> {
        let mut changes = Vec::new();
        for entry in self.write().values_mut() {
            if let Some((vhost, topics)) = entry.topics.remove_entry(vhost) {
                let user = &entry.user.name;
                changes.extend(topics.keys().map(|exchange| delete_topic(user, &vhost, exchange)));
            }
            if let Some((vhost, _)) = entry.permissions.remove_entry(vhost) {
                changes.push(AuthChange::DeletePermissions { user: entry.user.name.clone(), vhost });
            }
        }
        self.changed();
        changes
    }

    /// Carries out a change that was read back from the metadata store. Permissions need their user first.
    pub fn restore(&self, change: AuthChange) -> Result<(), AuthError> {
        match change {
            AuthChange::PutUser(user) => {
                let mut users = self.write();
                self.numbers.note(user.number);
                let known = users.remove(&user.name).map(|entry| (entry.permissions, entry.topics));
                let (permissions, topics) = known.unwrap_or_default();
                users.insert(user.name.clone(), Entry { permissions, topics, ..Entry::new(user) });
                self.changed();
            }
            AuthChange::DeleteUser(name) => drop(self.delete_user(&name)?),
            AuthChange::PutPermissions(PermissionRecord { user, vhost, configure, write, read }) => {
                self.set_permissions(&user, &vhost, &configure, &write, &read)?;
            }
            AuthChange::DeletePermissions { user, vhost } => drop(self.clear_permissions(&user, &vhost)?),
            AuthChange::PutTopicPermissions(TopicPermissionRecord { user, vhost, exchange, write, read }) => {
                self.set_topic_permissions(&user, &vhost, &exchange, &write, &read)?;
            }
            AuthChange::DeleteTopicPermissions { user, vhost, exchange } => {
                self.clear_topic_permissions(&user, &vhost, Some(&exchange))?;
            }
        }
        Ok(())
    }

    /// All users by name.
    pub fn users(&self) -> Vec<User> {
        self.read().values().map(|entry| entry.user.clone()).collect()
    }

    /// All permissions by user and virtual host.
    pub fn permissions(&self) -> Vec<PermissionRecord> {
        let users = self.read();
        let of_one = |entry: &Entry| {
            let name = entry.user.name.clone();
            let records = entry.permissions.iter();
            records.map(|(vhost, patterns)| permission_record(&name, vhost, patterns)).collect::<Vec<_>>()
        };
        users.values().flat_map(of_one).collect()
    }

    /// The user as logged in; `None` when there is no such user (any more).
    pub fn identity(&self, user: &str) -> Option<Arc<Identity>> {
        self.read().get(user).map(|entry| entry.identity.clone())
    }

    /// What a user may do in a virtual host that exists: 530 when nothing.
    pub fn access(&self, user: &str, vhost: &str) -> Result<Access, ReplyError> {
        // Before the look-up, so that a change in between is noticed by the next refresh.
        let generation = self.generation();
        let users = self.read();
        let entry = users.get(user).and_then(|entry| Some((entry, entry.permissions.get_key_value(vhost)?)));
        let Some((entry, (vhost, permissions))) = entry else {
            return Err(errors::vhost_access_refused(vhost, user));
        };
        let topics = entry.topics.get(vhost).cloned();
        let granted = Granted { permissions: Some(permissions.clone()), topics };
        Ok(Access::new(entry.user.name.clone(), vhost.clone(), generation, granted))
    }

    /// Brings a session's access up to date. Costs one atomic load when nothing changed.
    pub fn refresh(&self, access: &mut Access) -> Freshness {
        if access.generation == self.generation() {
            return Freshness::Unchanged;
        }
        let generation = self.generation();
        match self.access(&access.user, &access.vhost) {
            Ok(current) => {
                access.generation = current.generation;
                access.replace(current.into_granted());
                Freshness::Changed
            }
            Err(_) => {
                access.generation = generation;
                access.replace(Granted::default());
                Freshness::Revoked
            }
        }
    }

    fn update_user(&self, name: &str, update: impl FnOnce(&mut User)) -> Result<Vec<AuthChange>, AuthError> {
        let mut users = self.write();
        let entry = users.get_mut(name).ok_or_else(|| AuthError::NoSuchUser(name.to_owned()))?;
        update(&mut entry.user);
        entry.identity = Arc::new(identity_of(&entry.user));
        self.changed();
        Ok(vec![AuthChange::PutUser(entry.user.clone())])
    }

    fn changed(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    // A panic elsewhere cannot leave a half-made change: each is one insertion or removal.
    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<Name, Entry>> {
        self.users.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<Name, Entry>> {
        self.users.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn verified(&self) -> MutexGuard<'_, VerifiedLogins> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn identity_of(user: &User) -> Identity {
    Identity { user: user.name.clone(), tags: user.tags.clone(), number: user.number }
}

fn permission_record(user: &Name, vhost: &Name, permissions: &Permissions) -> PermissionRecord {
    let pattern = |permission| permissions.pattern(permission).to_owned();
    PermissionRecord {
        user: user.clone(),
        vhost: vhost.clone(),
        configure: pattern(errors::Permission::Configure),
        write: pattern(errors::Permission::Write),
        read: pattern(errors::Permission::Read),
    }
}

fn checked_name(text: &str) -> Result<Name, AuthError> {
    match Name::new(text) {
        Ok(name) if !name.is_empty() => Ok(name),
        _ => Err(AuthError::InvalidName(text.len())),
    }
}

#[cfg(test)]
mod tests;
