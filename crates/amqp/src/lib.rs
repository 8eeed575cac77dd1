//! AMQP 0-9-1 bytes to methods and back, server and client role.
//!
//! The codec modules know no socket, clock or broker: bytes in, values out, and back.

pub mod assembler;
pub mod content;
pub mod deliver;
pub mod frame;
pub mod method;
pub mod octets;
pub mod peer_properties;
pub mod protocol_header;
pub mod publish;
pub mod sasl;
pub mod tune;
mod wire;
