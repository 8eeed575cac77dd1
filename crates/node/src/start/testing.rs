//! A broker for tests of what a broker does.

use std::path::Path;
use std::sync::Arc;

use posthouse_auth::authorities::AuthSettings;
use posthouse_auth::password::HashCost;
use posthouse_storage::wal::WalOptions;

use super::{Keep, StartOptions, UndefinedQueues, start};
use crate::broker::{Broker, Settings};

/// Room enough for what a test publishes.
pub(crate) const PLENTY_BYTES: usize = 1 << 30;

/// A broker with this memory budget, whose watermark is twice that. A fatal problem panics.
pub(crate) fn broker(keep: Keep, memory_budget_bytes: usize) -> Arc<Broker> {
    start(options(keep, memory_budget_bytes)).unwrap()
}

/// What [`broker`] is started with.
pub(crate) fn options(keep: Keep, memory_budget_bytes: usize) -> StartOptions {
    let settings = Settings {
        max_message_bytes: 1 << 20,
        memory_budget_bytes,
        memory_watermark_bytes: 2 * memory_budget_bytes,
        disk_free_limit_bytes: 0,
        max_consumers_per_channel: 10,
        max_connections: 10,
    };
    let hash_cost = HashCost { memory_kib: 8, passes: 1 };
    let auth = AuthSettings { hash_cost, ..AuthSettings::default() };
    let default_user = ("guest".to_owned(), "guest".to_owned());
    StartOptions {
        settings,
        auth,
        default_user,
        definitions: None,
        event_vhost: None,
        keep,
        on_fatal: |problem| panic!("{problem}"),
    }
}

/// Keeps data in `path`, with log files so small that they are soon full.
pub(crate) fn in_small_files(path: &Path) -> Keep {
    let wal = WalOptions { file_bytes: 1 << 20, ring_files: 4, ..WalOptions::default() };
    keep_in(path, wal)
}

/// Keeps data in `path`.
pub(crate) fn keep_in(path: &Path, wal: WalOptions) -> Keep {
    Keep::InDirectory { path: path.to_owned(), wal, undefined_queues: UndefinedQueues::default() }
}
