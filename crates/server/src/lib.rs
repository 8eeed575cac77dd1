//! Listeners and the loop that drives protocol sessions.
