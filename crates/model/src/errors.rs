//! The one table of client-visible errors: a constructor per situation, with RabbitMQ's reply code, scope and
//! text, because programs match on them.
//!
//! [`Resource`] prints queues and exchanges the way every text names them. Where RabbitMQ prints an Erlang term,
//! the constructors take the value and print it the same way.

mod channel;
mod connection;
mod exchanges;
mod stream;
#[cfg(test)]
mod tests;

pub use channel::*;
pub use connection::*;
pub use exchanges::*;
pub use stream::*;

use std::fmt;

/// A queue or exchange as error texts name it: `queue 'x' in vhost '/'`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Resource<'a> {
    /// What it is.
    pub kind: ResourceKind,
    /// Its virtual host.
    pub vhost: &'a str,
    /// Its name; empty for the default exchange.
    pub name: &'a str,
}

/// What a [`Resource`] is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ResourceKind {
    /// A queue.
    Queue,
    /// An exchange.
    Exchange,
}

impl<'a> Resource<'a> {
    /// A queue.
    pub fn queue(vhost: &'a str, name: &'a str) -> Self {
        Self { kind: ResourceKind::Queue, vhost, name }
    }

    /// An exchange.
    pub fn exchange(vhost: &'a str, name: &'a str) -> Self {
        Self { kind: ResourceKind::Exchange, vhost, name }
    }
}

impl fmt::Display for ResourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Queue => "queue",
            Self::Exchange => "exchange",
        })
    }
}

impl fmt::Display for Resource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} '{}' in vhost '{}'", self.kind, self.name, self.vhost)
    }
}

/// Bytes as Erlang prints a binary: `<<"text">>` when all are printable, else `<<1,2,3>>`.
pub(crate) struct ErlangBinary<'a>(pub(crate) &'a [u8]);

/// Bytes as Erlang prints a binary: `<<"text">>` when all are printable, else `<<1,2,3>>`.
pub(crate) fn erlang_binary(bytes: &[u8]) -> String {
    ErlangBinary(bytes).to_string()
}

impl fmt::Display for ErlangBinary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A reply text holds 255 bytes, so more of the value could never be seen.
        let bytes = &self.0[..self.0.len().min(255)];
        if !bytes.is_empty() && bytes.iter().all(|b| matches!(b, 0x20..=0x7e)) {
            f.write_str("<<\"")?;
            for &byte in bytes {
                if matches!(byte, b'"' | b'\\') {
                    f.write_str("\\")?;
                }
                write!(f, "{}", char::from(byte))?;
            }
            return f.write_str("\">>");
        }
        f.write_str("<<")?;
        for (i, byte) in bytes.iter().enumerate() {
            write!(f, "{}{byte}", if i == 0 { "" } else { "," })?;
        }
        f.write_str(">>")
    }
}
