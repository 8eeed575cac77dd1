//! AMQP 0-9-1 bytes to methods and back, server and client role.
