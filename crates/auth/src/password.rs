//! Stored passwords.
//!
//! New passwords are hashed with Argon2id, which makes guessing expensive: with the default cost 19 MiB of memory
//! and about 20 ms of one core. RabbitMQ's salted SHA-256, SHA-512 and (legacy) MD5 hashes are verified too, so that
//! definitions can be imported. As text, version 1:
//!
//! ```text
//! argon2id               $argon2id$v=19$m=<KiB>,t=<passes>,p=<lanes>$<base64 salt>$<base64 hash>   (unpadded)
//! sha256, sha512, md5    base64(salt of 4 bytes, H(salt, password))                                (padded)
//! ```

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use md5::Md5;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256, Sha512};
use subtle::ConstantTimeEq;

/// Salt of a new Argon2id hash.
const SALT_BYTES: usize = 16;
/// Length of a new Argon2id hash.
const HASH_BYTES: usize = 32;
/// Salt of RabbitMQ's hashes.
const RABBITMQ_SALT_BYTES: usize = 4;
/// No hash is accepted that takes more memory than this to verify.
const MAX_MEMORY_KIB: u32 = 1 << 20;
/// No hash is accepted that takes more passes than this to verify.
const MAX_PASSES: u32 = 32;

/// What hashing a password costs, and so what guessing one does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HashCost {
    /// Memory in KiB, at least 8.
    pub memory_kib: u32,
    /// Passes over it, at least 1.
    pub passes: u32,
}

impl Default for HashCost {
    /// OWASP's recommendation: 19 MiB, two passes.
    fn default() -> Self {
        Self { memory_kib: 19 * 1024, passes: 2 }
    }
}

/// A hashed password. Printing it for debugging shows the algorithm only.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "StoredHash", into = "StoredHash")]
pub struct PasswordHash(Hash);

#[derive(Clone, PartialEq, Eq)]
enum Hash {
    Argon2id { cost: HashCost, lanes: u32, salt: Vec<u8>, hash: Vec<u8> },
    Sha256 { salted: Vec<u8> },
    Sha512 { salted: Vec<u8> },
    Md5 { salted: Vec<u8> },
}

/// How a hash is stored and exported: RabbitMQ's two fields.
#[derive(Serialize, Deserialize)]
struct StoredHash {
    algorithm: String,
    hash: String,
}

/// Why a password or a stored hash cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PasswordError {
    /// Blank passwords never log in.
    #[error("expected a password, got a blank one")]
    Blank,
    /// The hash is of a kind that is not verified here.
    #[error("expected the hashing algorithm argon2id, sha256, sha512 or md5, got '{0}'")]
    UnknownAlgorithm(String),
    /// The hash's text is damaged or too expensive to verify.
    #[error("expected {expected} as {algorithm} password hash")]
    Malformed {
        /// The algorithm it was given as.
        algorithm: &'static str,
        /// What was expected.
        expected: &'static str,
    },
    /// The cost is beyond what Argon2 can do.
    #[error("cannot hash a password with this cost: {0}")]
    Cost(String),
    /// The operating system gave no random bytes for a salt.
    #[error("no random bytes for a salt: {0}")]
    NoRandomness(String),
}

impl PasswordHash {
    /// Hashes a new password. Takes as long as a verification: call it on a blocking thread.
    pub fn new(password: &[u8], cost: HashCost) -> Result<Self, PasswordError> {
        if password.is_empty() {
            return Err(PasswordError::Blank);
        }
        let mut salt = vec![0; SALT_BYTES];
        getrandom::fill(&mut salt).map_err(|error| PasswordError::NoRandomness(error.to_string()))?;
        let hash = argon2id(password, &salt, cost, 1, HASH_BYTES)?;
        Ok(Self(Hash::Argon2id { cost, lanes: 1, salt, hash }))
    }

    /// Takes a hash from its algorithm's name and its text, as definitions and the metadata store have them.
    pub fn from_text(algorithm: &str, text: &str) -> Result<Self, PasswordError> {
        match algorithm {
            "argon2id" => parse_phc(text).map(Self),
            "sha256" | "rabbit_password_hashing_sha256" => {
                salted(text, "sha256", 32).map(|salted| Self(Hash::Sha256 { salted }))
            }
            "sha512" | "rabbit_password_hashing_sha512" => {
                salted(text, "sha512", 64).map(|salted| Self(Hash::Sha512 { salted }))
            }
            "md5" | "rabbit_password_hashing_md5" => {
                salted(text, "md5", 16).map(|salted| Self(Hash::Md5 { salted }))
            }
            other => Err(PasswordError::UnknownAlgorithm(other.to_owned())),
        }
    }

    /// The algorithm's name.
    pub fn algorithm(&self) -> &'static str {
        match self.0 {
            Hash::Argon2id { .. } => "argon2id",
            Hash::Sha256 { .. } => "sha256",
            Hash::Sha512 { .. } => "sha512",
            Hash::Md5 { .. } => "md5",
        }
    }

    /// The algorithm's name in definitions, which is RabbitMQ's where it has the algorithm.
    pub fn exported_algorithm(&self) -> &'static str {
        match self.0 {
            Hash::Argon2id { .. } => "argon2id",
            Hash::Sha256 { .. } => "rabbit_password_hashing_sha256",
            Hash::Sha512 { .. } => "rabbit_password_hashing_sha512",
            Hash::Md5 { .. } => "rabbit_password_hashing_md5",
        }
    }

    /// The hash as text. For storing and exporting, never for logs.
    pub fn to_text(&self) -> String {
        match &self.0 {
            Hash::Argon2id { cost, lanes, salt, hash } => {
                let (salt, hash) = (STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(hash));
                let HashCost { memory_kib, passes } = cost;
                format!("$argon2id$v=19$m={memory_kib},t={passes},p={lanes}${salt}${hash}")
            }
            Hash::Sha256 { salted } | Hash::Sha512 { salted } | Hash::Md5 { salted } => {
                STANDARD.encode(salted)
            }
        }
    }

    /// Whether this is the password. An Argon2id hash takes as long and as much memory as its cost says: call it
    /// on a blocking thread. Blank passwords never match.
    pub fn verify(&self, password: &[u8]) -> bool {
        if password.is_empty() {
            return false;
        }
        match &self.0 {
            Hash::Argon2id { cost, lanes, salt, hash } => {
                argon2id(password, salt, *cost, *lanes, hash.len()).is_ok_and(|found| equal(&found, hash))
            }
            Hash::Sha256 { salted } => verify_salted::<Sha256>(salted, password),
            Hash::Sha512 { salted } => verify_salted::<Sha512>(salted, password),
            Hash::Md5 { salted } => verify_salted::<Md5>(salted, password),
        }
    }

    /// Whether verifying takes next to no time.
    pub(crate) fn is_fast(&self) -> bool {
        !matches!(self.0, Hash::Argon2id { .. })
    }
}

/// Takes as long as verifying a password of this cost, so that a refusal does not tell by its time why.
pub(crate) fn waste_time(password: &[u8], cost: HashCost) {
    std::hint::black_box(argon2id(password, &[0; SALT_BYTES], cost, 1, HASH_BYTES).is_ok());
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PasswordHash({})", self.algorithm())
    }
}

impl TryFrom<StoredHash> for PasswordHash {
    type Error = PasswordError;
    fn try_from(stored: StoredHash) -> Result<Self, PasswordError> {
        Self::from_text(&stored.algorithm, &stored.hash)
    }
}

impl From<PasswordHash> for StoredHash {
    fn from(hash: PasswordHash) -> Self {
        Self { algorithm: hash.algorithm().to_owned(), hash: hash.to_text() }
    }
}

fn argon2id(
    password: &[u8],
    salt: &[u8],
    cost: HashCost,
    lanes: u32,
    bytes: usize,
) -> Result<Vec<u8>, PasswordError> {
    let failed = |error: argon2::Error| PasswordError::Cost(error.to_string());
    let params = Params::new(cost.memory_kib, cost.passes, lanes, Some(bytes)).map_err(failed)?;
    let mut hash = vec![0; bytes];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(password, salt, &mut hash)
        .map_err(failed)?;
    Ok(hash)
}

fn verify_salted<D: Digest>(salted: &[u8], password: &[u8]) -> bool {
    let (salt, hash) = salted.split_at(RABBITMQ_SALT_BYTES);
    equal(&D::new().chain_update(salt).chain_update(password).finalize(), hash)
}

fn equal(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

fn salted(text: &str, algorithm: &'static str, hash_bytes: usize) -> Result<Vec<u8>, PasswordError> {
    let decoded = STANDARD.decode(text).ok();
    decoded
        .filter(|bytes| bytes.len() == RABBITMQ_SALT_BYTES + hash_bytes)
        .ok_or(PasswordError::Malformed { algorithm, expected: "base64 of a 4-byte salt and the hash" })
}

fn parse_phc(text: &str) -> Result<Hash, PasswordError> {
    let malformed = |expected| PasswordError::Malformed { algorithm: "argon2id", expected };
    let form = || malformed("$argon2id$v=19$m=..,t=..,p=..$salt$hash");
    let mut parts = text.strip_prefix("$argon2id$v=19$").ok_or_else(form)?.split('$');
    let (Some(params), Some(salt), Some(hash), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(form());
    };
    let mut numbers = params.split(',');
    let mut number = |name: &str| numbers.next()?.strip_prefix(name)?.strip_prefix('=')?.parse::<u32>().ok();
    let (Some(memory_kib), Some(passes), Some(lanes)) = (number("m"), number("t"), number("p")) else {
        return Err(form());
    };
    if memory_kib > MAX_MEMORY_KIB || passes > MAX_PASSES || lanes > 16 {
        return Err(malformed("at most 1 GiB of memory, 32 passes and 16 lanes"));
    }
    let salt = STANDARD_NO_PAD.decode(salt).map_err(|_| form())?;
    let hash = STANDARD_NO_PAD.decode(hash).map_err(|_| form())?;
    if !(8..=64).contains(&salt.len()) || !(16..=64).contains(&hash.len()) {
        return Err(malformed("a salt of 8 to 64 and a hash of 16 to 64 bytes"));
    }
    let cost = HashCost { memory_kib, passes };
    Params::new(memory_kib, passes, lanes, Some(hash.len()))
        .map_err(|_| malformed("parameters that Argon2 allows"))?;
    Ok(Hash::Argon2id { cost, lanes, salt, hash })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: HashCost = HashCost { memory_kib: 8, passes: 1 };

    #[test]
    fn verifies_what_it_hashed() {
        let hash = PasswordHash::new(b"secret", CHEAP).unwrap();
        assert!(hash.verify(b"secret"));
        assert!(!hash.verify(b"Secret") && !hash.verify(b"") && !hash.verify(b"secret\0"));
        let again = PasswordHash::from_text("argon2id", &hash.to_text()).unwrap();
        assert!(again == hash && again.verify(b"secret"));
        assert!(PasswordHash::new(b"secret", CHEAP).unwrap() != hash, "salts must differ");
    }

    #[test]
    fn the_default_cost_is_that_of_owasp() {
        let hash = PasswordHash::new(b"secret", HashCost::default()).unwrap();
        assert!(hash.to_text().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert!(hash.verify(b"secret"));
    }

    #[test]
    fn argon2_agrees_with_the_reference_implementation() {
        let text = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        let hash = PasswordHash::from_text("argon2id", text).unwrap();
        assert!(hash.verify(b"password") && !hash.verify(b"passwore"));
        assert_eq!(hash.to_text(), text);
    }

    /// The worked example of RabbitMQ's page on passwords.
    #[test]
    fn verifies_hashes_of_rabbitmq() {
        let text = "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR";
        let hash = PasswordHash::from_text("sha256", text).unwrap();
        assert!(hash.verify(b"test12") && !hash.verify(b"test13") && !hash.verify(b""));
        assert_eq!(hash.to_text(), text);
        let mut salted = vec![1, 2, 3, 4];
        salted.extend_from_slice(&Sha512::digest(b"\x01\x02\x03\x04pw"));
        let hash =
            PasswordHash::from_text("rabbit_password_hashing_sha512", &STANDARD.encode(salted)).unwrap();
        assert!(hash.verify(b"pw") && !hash.verify(b"pv"));
        let mut salted = vec![1, 2, 3, 4];
        salted.extend_from_slice(&Md5::digest(b"\x01\x02\x03\x04pw"));
        let text = STANDARD.encode(salted);
        let hash = PasswordHash::from_text("rabbit_password_hashing_md5", &text).unwrap();
        assert!(hash.verify(b"pw") && !hash.verify(b"pv"));
        assert!(PasswordHash::from_text(hash.exported_algorithm(), &hash.to_text()).unwrap() == hash);
    }

    #[test]
    fn refuses_blank_passwords_and_bad_hashes() {
        assert_eq!(PasswordHash::new(b"", CHEAP), Err(PasswordError::Blank));
        let unknown = PasswordHash::from_text("sha1", "AAAA").unwrap_err();
        let expected = "expected the hashing algorithm argon2id, sha256, sha512 or md5, got 'sha1'";
        assert_eq!(unknown.to_string(), expected);
        for (algorithm, text) in [
            ("sha256", ""),
            ("sha256", "AAAA"),
            ("md5", "AAAA"),
            ("sha512", "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR"),
            ("argon2id", ""),
            ("argon2id", "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ"),
            ("argon2id", "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$AAAA"),
            (
                "argon2id",
                "$argon2id$v=19$m=1,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
            ),
            (
                "argon2id",
                "$argon2id$v=19$m=4294967295,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
            ),
        ] {
            let refused = PasswordHash::from_text(algorithm, text);
            assert!(matches!(refused, Err(PasswordError::Malformed { .. })), "{algorithm} {text}");
        }
    }

    #[test]
    fn debug_shows_no_hash() {
        let hash = PasswordHash::new(b"secret", CHEAP).unwrap();
        assert_eq!(format!("{hash:?}"), "PasswordHash(argon2id)");
    }
}
