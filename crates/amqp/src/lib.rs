//! AMQP 0-9-1 bytes to methods and back, server and client role.

pub mod frame;
pub mod method;
pub mod octets;
mod wire;
