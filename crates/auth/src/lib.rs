//! Users, passwords and permissions: who may log in, and what they may touch.
//!
//! [`authorities::Authorities`] holds all users and permissions in memory. It knows no sockets, no metadata store
//! and no tasks: changes are returned to be written, and checking a password, which costs tens of milliseconds
//! on purpose, is a plain call that belongs on a blocking thread.

pub mod authorities;
pub mod mechanism;
pub mod password;
pub mod permissions;
mod topics;
pub mod users;
mod verified;
