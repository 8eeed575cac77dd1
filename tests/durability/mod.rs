//! What survives: orderly restarts, crashes, full memory, and what the operator is told when the data cannot be used.

mod backlog;
mod check;
mod converting;
mod dead_letters;
mod deduplication;
mod deduplication_exchanges;
mod delayed_retries;
mod deletions;
mod delivery_limit;
mod fan_out;
mod file_limit;
mod idempotent_publishers;
mod kill;
mod ledger;
mod length_limits;
mod message_groups;
mod missing;
mod priorities;
mod quotas;
mod restart;
mod scheduled;
mod starting;
mod stopping;
mod streams;
mod ttl;
mod users;
