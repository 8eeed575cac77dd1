//! Users and permissions as they are stored: JSON with a version, in the metadata store and nowhere else.
//!
//! ```text
//! user                {"v":3,"name":"bob","number":7,"password":{"algorithm":"argon2id","hash":"$argon2id$..."},
//!                      "tags":["monitoring"],"limits":{"max-channels":5}}
//! permissions         {"v":1,"user":"bob","vhost":"/","configure":"","write":".*","read":".*"}
//! topic permissions   {"v":1,"user":"bob","vhost":"/","exchange":"amq.topic","write":"^w","read":".*"}
//! ```
//!
//! `password` is null for a user who cannot log in with one. Users of version 1 have no `limits`, and up to version 2 no
//! `number`, which stands for the user in records of messages.

use posthouse_model::limits::{InvalidLimits, UserLimits};
use posthouse_model::name::Name;
use posthouse_model::shares::UserNumber;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::password::PasswordHash;

/// The version of permissions of both kinds.
const VERSION: u32 = 1;
/// The version of users.
const USER_VERSION: u32 = 3;

/// Someone who may log in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct User {
    /// The name, not empty.
    pub name: Name,
    /// `None` for no login by password.
    pub password: Option<PasswordHash>,
    /// `administrator`, `monitoring`, `policymaker`, `management`, `impersonator`, or anything else.
    pub tags: Vec<String>,
    /// How much the user may have at a time.
    pub limits: UserLimits,
    /// What stands for the user in records of messages. Nobody's where none is left, or none was given yet.
    pub number: UserNumber,
}

/// A user's permissions on the keys of a topic exchange.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicPermissionRecord {
    /// Whose.
    pub user: Name,
    /// Where.
    pub vhost: Name,
    /// In which exchange.
    pub exchange: Name,
    /// What may be published.
    pub write: String,
    /// What may be bound.
    pub read: String,
}

/// A user's permissions in a virtual host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PermissionRecord {
    /// Whose.
    pub user: Name,
    /// Where.
    pub vhost: Name,
    /// What may be declared and deleted.
    pub configure: String,
    /// What may be published to, and bound to a source.
    pub write: String,
    /// What may be consumed, and bound from.
    pub read: String,
}

/// A change to be written to the metadata store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AuthChange {
    /// A user is new or different.
    PutUser(User),
    /// A user is gone; their permissions have changes of their own.
    DeleteUser(Name),
    /// Permissions are new or different.
    PutPermissions(PermissionRecord),
    /// Permissions are gone.
    DeletePermissions {
        /// Whose.
        user: Name,
        /// Where.
        vhost: Name,
    },
    /// Topic permissions are new or different.
    PutTopicPermissions(TopicPermissionRecord),
    /// Topic permissions are gone.
    DeleteTopicPermissions {
        /// Whose.
        user: Name,
        /// Where.
        vhost: Name,
        /// In which exchange.
        exchange: Name,
    },
}

/// Why stored bytes are no user or permissions.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    /// Written by a newer broker.
    #[error("expected version {newest} at most, got {got}")]
    Version {
        /// The newest that is read.
        newest: u32,
        /// What was found.
        got: u32,
    },
    /// Not the expected JSON.
    #[error("expected stored {what}: {reason}")]
    Malformed {
        /// What was being read.
        what: &'static str,
        /// What is wrong; shows no secret.
        reason: String,
    },
}

#[derive(Deserialize)]
struct Versioned {
    v: u32,
}

#[derive(Serialize, Deserialize)]
struct StoredUser {
    v: u32,
    name: String,
    #[serde(default)]
    number: u16,
    password: Option<PasswordHash>,
    tags: Vec<String>,
    #[serde(default)]
    limits: serde_json::Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
struct StoredTopicPermissions {
    v: u32,
    user: String,
    vhost: String,
    exchange: String,
    write: String,
    read: String,
}

#[derive(Serialize, Deserialize)]
struct StoredPermissions {
    v: u32,
    user: String,
    vhost: String,
    configure: String,
    write: String,
    read: String,
}

impl User {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        let Self { name, password, tags, limits, number: UserNumber(number) } = self.clone();
        let limits = limits.to_value().as_object().cloned().unwrap_or_default();
        to_json(&StoredUser { v: USER_VERSION, name: name.to_string(), number, password, tags, limits })
    }

    /// Reads the stored form.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        const WHAT: &str = "user";
        let StoredUser { name, number, password, tags, limits, .. } = from_json(WHAT, USER_VERSION, bytes)?;
        let bad = |error: InvalidLimits| DecodeError::Malformed { what: WHAT, reason: error.to_string() };
        let limits = UserLimits::from_value(&Value::Object(limits)).map_err(bad)?;
        Ok(Self { name: to_name(WHAT, &name)?, password, tags, limits, number: UserNumber(number) })
    }
}

impl PermissionRecord {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        let Self { user, vhost, configure, write, read } = self.clone();
        let (user, vhost) = (user.to_string(), vhost.to_string());
        to_json(&StoredPermissions { v: VERSION, user, vhost, configure, write, read })
    }

    /// Reads the stored form.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        const WHAT: &str = "permissions";
        let StoredPermissions { user, vhost, configure, write, read, .. } = from_json(WHAT, VERSION, bytes)?;
        let (user, vhost) = (to_name(WHAT, &user)?, to_name(WHAT, &vhost)?);
        Ok(Self { user, vhost, configure, write, read })
    }
}

impl TopicPermissionRecord {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        let Self { user, vhost, exchange, write, read } = self.clone();
        let [user, vhost, exchange] = [user, vhost, exchange].map(|name| name.to_string());
        to_json(&StoredTopicPermissions { v: VERSION, user, vhost, exchange, write, read })
    }

    /// Reads the stored form.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        const WHAT: &str = "topic permissions";
        let stored: StoredTopicPermissions = from_json(WHAT, VERSION, bytes)?;
        let StoredTopicPermissions { user, vhost, exchange, write, read, .. } = stored;
        let name = |text: &str| to_name(WHAT, text);
        Ok(Self { user: name(&user)?, vhost: name(&vhost)?, exchange: name(&exchange)?, write, read })
    }
}

#[expect(clippy::expect_used, reason = "strings, numbers and lists always have a JSON form")]
fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data")
}

fn from_json<T: for<'a> Deserialize<'a>>(
    what: &'static str,
    newest: u32,
    bytes: &[u8],
) -> Result<T, DecodeError> {
    // The category and place only: the full text may quote the value, which may be a hash.
    let malformed = |error: serde_json::Error| DecodeError::Malformed {
        what,
        reason: format!("{:?} error at line {} column {}", error.classify(), error.line(), error.column()),
    };
    let Versioned { v } = serde_json::from_slice(bytes).map_err(malformed)?;
    if v > newest {
        return Err(DecodeError::Version { newest, got: v });
    }
    serde_json::from_slice(bytes).map_err(malformed)
}

fn to_name(what: &'static str, text: &str) -> Result<Name, DecodeError> {
    Name::new(text).map_err(|error| DecodeError::Malformed { what, reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> User {
        let text = "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR";
        let password = PasswordHash::from_text("sha256", text).ok();
        let limits = UserLimits { max_channels: Some(5), ..UserLimits::default() };
        let (name, tags) = (Name::truncated("bob"), vec!["monitoring".into()]);
        User { name, password, tags, limits, number: UserNumber(7) }
    }

    #[test]
    fn versions_are_fixed() {
        let first = "{\"v\":1,\"name\":\"bob\",\"password\":{\"algorithm\":\"sha256\",\
             \"hash\":\"kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR\"},\"tags\":[\"monitoring\"]}";
        let unnumbered = User { number: UserNumber::NOBODY, ..user() };
        let unlimited = User { limits: UserLimits::default(), ..unnumbered.clone() };
        assert_eq!(User::decode(first.as_bytes()), Ok(unlimited));
        let second = "{\"v\":2,\"name\":\"bob\",\"password\":{\"algorithm\":\"sha256\",\
             \"hash\":\"kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR\"},\"tags\":[\"monitoring\"],\
             \"limits\":{\"max-channels\":5}}";
        assert_eq!(User::decode(second.as_bytes()), Ok(unnumbered));
        let stored = "{\"v\":3,\"name\":\"bob\",\"number\":7,\"password\":{\"algorithm\":\"sha256\",\
             \"hash\":\"kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR\"},\"tags\":[\"monitoring\"],\
             \"limits\":{\"max-channels\":5}}";
        assert_eq!(String::from_utf8(user().encode()).unwrap(), stored);
        assert_eq!(User::decode(stored.as_bytes()), Ok(user()));
        let without = User { password: None, ..user() };
        assert_eq!(User::decode(&without.encode()), Ok(without));
        let record = PermissionRecord {
            user: Name::truncated("bob"),
            vhost: Name::truncated("/"),
            configure: String::new(),
            write: "w".into(),
            read: "r".into(),
        };
        let stored =
            "{\"v\":1,\"user\":\"bob\",\"vhost\":\"/\",\"configure\":\"\",\"write\":\"w\",\"read\":\"r\"}";
        assert_eq!(String::from_utf8(record.encode()).unwrap(), stored);
        assert_eq!(PermissionRecord::decode(stored.as_bytes()), Ok(record));
        let record = TopicPermissionRecord {
            user: Name::truncated("bob"),
            vhost: Name::truncated("/"),
            exchange: Name::truncated("amq.topic"),
            write: "w".into(),
            read: "r".into(),
        };
        let stored = "{\"v\":1,\"user\":\"bob\",\"vhost\":\"/\",\"exchange\":\"amq.topic\",\
             \"write\":\"w\",\"read\":\"r\"}";
        assert_eq!(String::from_utf8(record.encode()).unwrap(), stored);
        assert_eq!(TopicPermissionRecord::decode(stored.as_bytes()), Ok(record));
    }

    #[test]
    fn other_versions_and_damage_are_refused() {
        assert_eq!(User::decode(b"{\"v\":4}"), Err(DecodeError::Version { newest: 3, got: 4 }));
        let error = User::decode(b"{\"v\":1,\"name\":7}").unwrap_err();
        assert_eq!(error.to_string(), "expected stored user: Data error at line 1 column 15");
        assert!(User::decode(b"").is_err());
    }

    #[test]
    fn debug_shows_no_hash() {
        assert!(!format!("{:?}", user()).contains("kI3G"));
    }
}
