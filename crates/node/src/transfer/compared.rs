//! Moving messages that deduplication exchanges compare: those hear what becomes of each, and what they keep is in one record
//! with it.

use std::sync::Arc;

use posthouse_model::chunk::Chunk;
use posthouse_model::ids::{Lsn, QueueId, Seq};
use posthouse_queue::stream::notes::Note;
use posthouse_storage::wal::Stage;

use super::Transfer;
use super::group::Group;
use crate::seen::{Fate, SeenInBatch, SeenOfMessage};
use crate::vhost::VirtualHost;
use crate::waker::SessionWaker;

/// What exchanges have seen of the messages of a transfer.
#[derive(Debug)]
pub(super) struct Compared<'a> {
    vhost: &'a VirtualHost,
    seen: SeenInBatch,
    /// Sessions that wait to hear what becomes of messages.
    decided: Vec<Arc<SessionWaker>>,
}

impl<'a> Compared<'a> {
    pub(super) fn vhost(&self) -> &'a VirtualHost {
        self.vhost
    }
}

impl<'a> Transfer<'a> {
    /// The same for messages that may leave traces at exchanges of a virtual host.
    pub(crate) fn entering(self, vhost: &'a VirtualHost) -> Self {
        let (seen, decided) = Default::default();
        Self { compared: Some(Compared { vhost, seen, decided }), ..self }
    }

    /// What exchanges have seen of a message that is about to enter.
    pub(super) fn has_seen(&mut self, seq: Seq, seen: SeenOfMessage) {
        if let Some(compared) = &mut self.compared {
            compared.seen.push(seq, seen);
        }
    }

    /// What exchanges have seen of the messages that were not moved counts as not seen. Sessions to be told are returned.
    pub(super) fn forget_seen(&mut self) -> Vec<Arc<SessionWaker>> {
        self.settle_seen(|_| Fate::Refused, false);
        self.compared.take().map(|compared| compared.decided).unwrap_or_default()
    }

    fn settle_seen(&mut self, fate: impl Fn(Seq) -> Fate, is_logged: bool) -> Vec<(QueueId, Note)> {
        let mut notes = Vec::new();
        if let Some(compared) = self.compared.as_mut().filter(|compared| !compared.seen.is_empty()) {
            compared.seen.settle(compared.vhost, fate, is_logged, &mut notes, &mut compared.decided);
        }
        notes
    }

    /// Says in one record that the messages left and entered, and what is kept of them.
    pub(super) fn stage(
        &mut self,
        group: &Group,
        chunk: Option<Arc<Chunk>>,
        logged: &[(QueueId, Seq)],
        stage: Option<&mut Stage<'_>>,
    ) -> Lsn {
        let notes = match &self.compared {
            Some(compared) if !compared.seen.is_empty() => {
                let mut moved = group.ranges.clone();
                moved.sort_unstable();
                let is_moved = |seq: Seq| {
                    let after = moved.partition_point(|&(first, _)| first <= seq);
                    after > 0 && seq <= moved[after - 1].1
                };
                let fate = |seq| if is_moved(seq) { Fate::Placed } else { Fate::Later };
                self.settle_seen(fate, !logged.is_empty())
            }
            _ => Vec::new(),
        };
        let Some(stage) = stage else { return self.stage_move(group, chunk, logged, None) };
        if notes.is_empty() {
            return self.stage_move(group, chunk, logged, Some(stage));
        }
        stage.group(|stage| {
            for (queue, note) in notes {
                stage.note(queue, &note.key, &note.value);
            }
            self.stage_move(group, chunk, logged, Some(stage));
        });
        let (until, durable) = (stage.position(), self.broker.wal().map_or(Lsn::MAX, |wal| wal.durable()));
        if let Some(compared) = &mut self.compared {
            compared.seen.logged(compared.vhost, until, durable);
        }
        until
    }
}
