//! Listeners and the loop that drives protocol sessions.
//!
//! The only crate that opens sockets. What the bytes mean is [`posthouse_amqp`]'s business, what the broker does with
//! messages is [`posthouse_node`]'s; a session in `amqp` ties the two.

mod amqp;
pub mod control;
pub mod listen;
mod tally;
#[cfg(test)]
mod test_broker;
