//! What a well-behaved client sees.

mod handshake;
