//! Raw peers and brokers on free ports, for tests.
//!
//! Everything here panics when something goes other than expected: it is only ever run by a test, and the panic is its
//! verdict. Nothing sleeps to synchronise; every wait is for an event and has a limit of [`TIMEOUT`].

#![allow(clippy::print_stderr, reason = "a failing test shows what its broker wrote")]

mod binary;
pub mod broker;
pub mod calls;
pub mod content;
pub mod expect;
pub mod handshake;
pub mod peer;
pub mod process;

use std::time::Duration;

pub use broker::{Broker, Options, Storage, program};
pub use calls::{Consume, Exchange, Publish, Queue};
pub use content::Received;
pub use handshake::Handshake;
pub use peer::Peer;
pub use posthouse_amqp::method::Method;
pub use posthouse_model::field::{FieldTable, FieldValue};
pub use posthouse_model::props::Properties;
pub use process::Process;

/// How long anything is waited for: far more than it takes, also on a busy machine.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// A field table from pairs.
pub fn table<const N: usize>(entries: [(&str, FieldValue); N]) -> FieldTable {
    FieldTable(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

/// A long string.
pub fn text(value: &str) -> FieldValue {
    FieldValue::string(value)
}
