//! AMQP 0-9-1 bytes to methods and back, server and client role.
//!
//! The codec modules know no socket, clock or broker: bytes in, values out, and back. Only [`blocking`], a small
//! client for tools and tests, does.

pub mod ack;
pub mod assembler;
pub mod blocking;
pub mod client;
pub mod content;
pub mod deliver;
pub mod event;
pub mod frame;
pub mod method;
pub mod octets;
pub mod peer_properties;
pub mod protocol_header;
pub mod publish;
pub mod sasl;
pub mod stream_offset;
pub mod tune;
pub mod uri;
mod wire;
