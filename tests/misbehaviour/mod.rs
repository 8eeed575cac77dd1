//! Peers that do not behave: each is answered or cut off, and none costs the others anything.
