//! Raw peers and brokers on free ports, for tests.
