//! Users, passwords and permissions.
