//! Users and permissions as they are stored: JSON with a version, in the metadata store and nowhere else.
//!
//! ```text
//! user          {"v":1,"name":"bob","password":{"algorithm":"argon2id","hash":"$argon2id$..."},"tags":["monitoring"]}
//! permissions   {"v":1,"user":"bob","vhost":"/","configure":"","write":".*","read":".*"}
//! ```
//!
//! `password` is null for a user who cannot log in with one.

use posthouse_model::name::Name;
use serde::{Deserialize, Serialize};

use crate::password::PasswordHash;

/// The version of both encodings.
const VERSION: u32 = 1;

/// Someone who may log in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct User {
    /// The name, not empty.
    pub name: Name,
    /// `None` for no login by password.
    pub password: Option<PasswordHash>,
    /// `administrator`, `monitoring`, `policymaker`, `management`, `impersonator`, or anything else.
    pub tags: Vec<String>,
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
}

/// Why stored bytes are no user or permissions.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    /// Written by a newer broker.
    #[error("expected version {VERSION}, got {0}")]
    Version(u32),
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
    password: Option<PasswordHash>,
    tags: Vec<String>,
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
        let Self { name, password, tags } = self.clone();
        to_json(&StoredUser { v: VERSION, name: name.to_string(), password, tags })
    }

    /// Reads the stored form.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let StoredUser { name, password, tags, .. } = from_json("user", bytes)?;
        Ok(Self { name: to_name("user", &name)?, password, tags })
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
        let StoredPermissions { user, vhost, configure, write, read, .. } = from_json(WHAT, bytes)?;
        let (user, vhost) = (to_name(WHAT, &user)?, to_name(WHAT, &vhost)?);
        Ok(Self { user, vhost, configure, write, read })
    }
}

#[expect(clippy::expect_used, reason = "strings, numbers and lists always have a JSON form")]
fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data")
}

fn from_json<T: for<'a> Deserialize<'a>>(what: &'static str, bytes: &[u8]) -> Result<T, DecodeError> {
    // The category and place only: the full text may quote the value, which may be a hash.
    let malformed = |error: serde_json::Error| DecodeError::Malformed {
        what,
        reason: format!("{:?} error at line {} column {}", error.classify(), error.line(), error.column()),
    };
    let Versioned { v } = serde_json::from_slice(bytes).map_err(malformed)?;
    if v != VERSION {
        return Err(DecodeError::Version(v));
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
        User { name: Name::truncated("bob"), password, tags: vec!["monitoring".into()] }
    }

    #[test]
    fn version_1_is_fixed() {
        let stored = "{\"v\":1,\"name\":\"bob\",\"password\":{\"algorithm\":\"sha256\",\
             \"hash\":\"kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR\"},\"tags\":[\"monitoring\"]}";
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
    }

    #[test]
    fn other_versions_and_damage_are_refused() {
        assert_eq!(User::decode(b"{\"v\":2}"), Err(DecodeError::Version(2)));
        let error = User::decode(b"{\"v\":1,\"name\":7}").unwrap_err();
        assert_eq!(error.to_string(), "expected stored user: Data error at line 1 column 15");
        assert!(User::decode(b"").is_err());
    }

    #[test]
    fn debug_shows_no_hash() {
        assert!(!format!("{:?}", user()).contains("kI3G"));
    }
}
