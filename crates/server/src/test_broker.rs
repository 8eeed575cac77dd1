//! The broker that this crate's tests serve.

use std::sync::Arc;

use posthouse_auth::authorities::AuthSettings;
use posthouse_auth::password::HashCost;
use posthouse_node::broker::{Broker, Settings};
use posthouse_node::start::{Keep, StartOptions, start};

/// A broker in memory with the user `guest`, whose password takes no time to verify.
pub(crate) fn broker() -> Arc<Broker> {
    let settings = Settings {
        max_message_bytes: 1 << 20,
        memory_budget_bytes: 1 << 30,
        memory_watermark_bytes: 1 << 30,
        disk_free_limit_bytes: 0,
        max_consumers_per_channel: 100,
        max_connections: 100,
    };
    let hash_cost = HashCost { memory_kib: 8, passes: 1 };
    start(StartOptions {
        settings,
        auth: AuthSettings { hash_cost, ..AuthSettings::default() },
        default_user: ("guest".into(), "guest".into()),
        definitions: None,
        event_vhost: None,
        keep: Keep::InMemory,
        on_fatal: |problem| panic!("{problem}"),
    })
    .unwrap()
}
