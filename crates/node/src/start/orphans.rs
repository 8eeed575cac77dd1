//! Messages of queues that no definition names.
//!
//! After a crash there may be such: a deletion was kept and the queue's last messages were not yet gone, or messages
//! were synced before the declaration of their queue was, which nobody was told of. After an orderly stop there are none
//! unless the definitions are other ones than those that the messages were kept with, such as an older copy.

use std::collections::BTreeMap;

use posthouse_storage::engine::{RecoveredQueue, Storage};
use tracing::warn;

use super::{StartError, UndefinedQueues};

/// Queues named one by one; the sum says the rest.
const NAMED: usize = 20;

/// Gives up recovered queues, each level of them, that the metadata does not know, and says so.
///
/// # Errors
/// [`StartError::Undefined`] when they have messages though the last stop was orderly, unless `discard` was asked for.
pub(super) fn give_up(
    storage: &Storage,
    orphans: Vec<RecoveredQueue>,
    clean: bool,
    policy: UndefinedQueues,
) -> Result<(), StartError> {
    let mut with_messages = BTreeMap::new();
    for level in orphans.iter().filter(|level| level.live() > 0) {
        *with_messages.entry(level.id.without_level()).or_insert(0) += level.live();
    }
    let (queues, messages) = (with_messages.len(), with_messages.values().sum());
    if clean && queues > 0 && policy == UndefinedQueues::Refuse {
        return Err(StartError::Undefined { dir: storage.path().display().to_string(), queues, messages });
    }
    for (queue, messages) in with_messages.iter().take(NAMED) {
        warn!(%queue, messages, "no definition names this queue: its messages are deleted");
    }
    if queues > 0 {
        warn!(queues, messages, "messages of undefined queues are deleted");
    }
    for queue in &orphans {
        storage.messages.discard(queue);
    }
    Ok(())
}
