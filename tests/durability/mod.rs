//! What survives: orderly restarts, crashes, full memory, and what the operator is told when the data cannot be used.

use posthouse_testkit::calls::persistent;
use posthouse_testkit::{Peer, Publish, Queue};

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

/// Whatever was staged before is on disk when this returns.
fn sync(peer: &mut Peer) {
    peer.open_channel(2);
    peer.declare(2, &Queue::durable("other"));
    peer.select_confirms(2);
    peer.publish_with(2, &Publish { properties: persistent(), ..Publish::to("", "other") });
    peer.confirmed(2, 1);
}
