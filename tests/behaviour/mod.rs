//! What a well-behaved client sees, and what it is told when it goes wrong.
//!
//! Tests share one broker while any of them runs, so every name is made by [`unique`].

mod bindings;
mod channels;
mod confirms;
mod consumer_timeout;
mod consuming;
mod converting;
mod dead_letters;
mod declared_exchanges;
mod deduplication;
mod deduplication_exchanges;
mod delayed_retries;
mod delivery_limit;
mod events;
mod exchange_types;
mod fairness;
mod firehose;
mod framing;
mod full_targets;
mod handshake;
mod heartbeats;
mod idempotent_publishers;
mod identity;
mod length_limits;
mod limits;
mod message_groups;
mod moving_messages;
mod policies;
mod prefetch;
mod priorities;
mod promises;
mod publishing;
mod queues;
mod quorum_queues;
mod quotas;
mod recent_history;
mod refusals;
mod reply_to;
mod routing;
mod scheduled;
mod scheduled_limit;
mod selectors;
mod settling;
mod single_active;
mod stream_consumers;
mod streams;
mod super_streams;
mod transactions;
mod ttl;
mod waiting_for_room;
mod wire_errors_channel;
mod wire_errors_connection;

use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use posthouse_testkit::Broker;

/// A broker that other tests use too, kept until the calling test's thread ends. It ends with the last of them: one
/// kept by the process would outlive it.
fn broker() -> Arc<Broker> {
    thread_local! {
        static KEPT: RefCell<Option<Arc<Broker>>> = const { RefCell::new(None) };
    }
    static SHARED: Mutex<Weak<Broker>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    let broker = shared.upgrade().unwrap_or_else(|| {
        let broker = Arc::new(Broker::shared());
        *shared = Arc::downgrade(&broker);
        broker
    });
    KEPT.set(Some(broker.clone()));
    broker
}

/// A name that nothing else has.
fn unique(base: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{base}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
