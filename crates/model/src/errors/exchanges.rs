//! Errors of particular exchange types. All of them end the channel.

use super::ErlangBinary;
use crate::reply::ReplyCode::PreconditionFailed;
use crate::reply::ReplyError;

/// A consistent hash exchange can hash one thing only.
pub fn hash_header_and_property() -> ReplyError {
    ReplyError::new(PreconditionFailed, "hash-header and hash-property are mutually exclusive")
}

/// A property that a consistent hash exchange does not hash.
pub fn unsupported_hash_property(name: &str) -> ReplyError {
    ReplyError::new(PreconditionFailed, format!("Unsupported property: {name}"))
}

/// The binding key of a consistent hash exchange is its weight, and this is no number.
pub fn weight_not_an_integer(key: &str) -> ReplyError {
    let key = ErlangBinary(key.as_bytes());
    ReplyError::new(PreconditionFailed, format!("The binding key must be an integer: {key}"))
}

/// The weight of a consistent hash binding is zero or less.
pub fn weight_not_positive() -> ReplyError {
    ReplyError::new(PreconditionFailed, "The binding key must be greater than 0")
}

/// A local random exchange looks at no keys, so its bindings must have none.
pub fn local_random_key(key: &str) -> ReplyError {
    ReplyError::new(PreconditionFailed, format!("Non empty binding '{key}' key not permitted"))
}

/// A local random exchange can be bound to queues only.
pub fn local_random_destination() -> ReplyError {
    ReplyError::new(PreconditionFailed, "Destination not found")
}

/// The length of a recent history exchange is no positive integer; `value` as Erlang prints it.
pub fn invalid_history_length(value: &str) -> ReplyError {
    let text = format!("Invalid argument {value}, 'x-recent-history-length' must be a positive integer");
    ReplyError::new(PreconditionFailed, text)
}

/// The length of a recent history exchange is a text.
pub fn invalid_history_length_text(value: &[u8]) -> ReplyError {
    invalid_history_length(&ErlangBinary(value).to_string())
}

/// A deduplication exchange is not told how many values it is to remember.
pub fn invalid_cache_size() -> ReplyError {
    let text = "Missing or invalid argument, 'x-cache-size' must be an integer greater than 0";
    ReplyError::new(PreconditionFailed, text)
}

/// A deduplication exchange is told a time that is none.
pub fn invalid_cache_ttl() -> ReplyError {
    ReplyError::new(PreconditionFailed, "Invalid argument, 'x-cache-ttl' must be an integer greater than 0")
}

/// A deduplication exchange is told to remember in some other place.
pub fn invalid_cache_persistence() -> ReplyError {
    let text = "Invalid argument, 'x-cache-persistence' must be either 'disk' or 'memory'";
    ReplyError::new(PreconditionFailed, text)
}

/// The selector of a binding to a JMS topic exchange is none.
pub fn invalid_selector(problem: &str) -> ReplyError {
    ReplyError::new(PreconditionFailed, format!("cannot parse selector: {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reply::Scope;

    #[test]
    #[rustfmt::skip]
    fn texts() {
        for (error, text) in [
            (hash_header_and_property(), "hash-header and hash-property are mutually exclusive"),
            (unsupported_hash_property("app_id"), "Unsupported property: app_id"),
            (weight_not_an_integer("heavy"), "The binding key must be an integer: <<\"heavy\">>"),
            (weight_not_an_integer(""), "The binding key must be an integer: <<>>"),
            (weight_not_positive(), "The binding key must be greater than 0"),
            (local_random_key("k"), "Non empty binding 'k' key not permitted"),
            (local_random_destination(), "Destination not found"),
            (invalid_cache_size(), "Missing or invalid argument, 'x-cache-size' must be an integer greater than 0"),
            (invalid_cache_ttl(), "Invalid argument, 'x-cache-ttl' must be an integer greater than 0"),
            (invalid_cache_persistence(), "Invalid argument, 'x-cache-persistence' must be either 'disk' or 'memory'"),
            (invalid_selector("expected b, got a"), "cannot parse selector: expected b, got a"),
            (invalid_history_length("-1"), "Invalid argument -1, 'x-recent-history-length' must be a positive integer"),
            (invalid_history_length_text(b"x"), "Invalid argument <<\"x\">>, 'x-recent-history-length' must be a positive integer"),
        ] {
            assert_eq!((error.code as u16, error.scope, error.text.as_str()), (406, Scope::Channel, text));
        }
    }
}
