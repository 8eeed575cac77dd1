//! One running broker, without protocol and without sockets.
