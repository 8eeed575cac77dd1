//! Messages of queues that no definition names.
//!
//! After a crash there may be such: a deletion was kept and the queue's last messages were not yet gone, or messages
//! were synced before the declaration of their queue was, which nobody was told of. After an orderly stop there are none
//! unless the definitions are other ones than those that the messages were kept with, such as an older copy.

use posthouse_storage::engine::{RecoveredQueue, Storage};
use tracing::warn;

use super::{StartError, UndefinedQueues};

/// Queues named one by one; the sum says the rest.
const NAMED: usize = 20;

/// Gives up recovered queues that the metadata does not know, and says so.
///
/// # Errors
/// [`StartError::Undefined`] when they have messages though the last stop was orderly, unless `discard` was asked for.
pub(super) fn give_up(
    storage: &Storage,
    mut orphans: Vec<RecoveredQueue>,
    clean: bool,
    policy: UndefinedQueues,
) -> Result<(), StartError> {
    orphans.sort_unstable_by_key(|queue| queue.id);
    let with_messages = || orphans.iter().filter(|queue| queue.live() > 0);
    let (queues, messages) = (with_messages().count(), with_messages().map(RecoveredQueue::live).sum());
    if clean && queues > 0 && policy == UndefinedQueues::Refuse {
        return Err(StartError::Undefined { dir: storage.path().display().to_string(), queues, messages });
    }
    for queue in with_messages().take(NAMED) {
        warn!(queue = %queue.id, messages = queue.live(), "no definition names this queue: its messages are deleted");
    }
    if queues > 0 {
        warn!(queues, messages, "messages of undefined queues are deleted");
    }
    for queue in &orphans {
        storage.messages.discard(queue);
    }
    Ok(())
}
