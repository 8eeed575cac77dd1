//! Answering publishes that deduplication exchanges dropped.
//!
//! The publisher of a duplicate may take it that the message is where the first one is. So it is answered as that one: when
//! the log is on disk up to where that is in it, or with a `basic.nack` when no queue took it. The first one may be on its way
//! still, in this batch or in that of another connection.

use posthouse_node::publish::Origin;
use posthouse_node::seen::Awaited;

use super::channel::Channel;
use super::session::Session;

/// Publishes that were dropped.
#[derive(Debug, Default)]
pub(crate) struct Duplicates {
    /// Those that are not answered, and what each waits for.
    open: Vec<(Origin, Awaited)>,
    /// Whether there were any since confirms were noted last.
    any: bool,
}

/// What the confirms of a batch must wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wait {
    /// Nothing more than its own messages.
    No,
    /// The log, as far as it goes now.
    ForLog,
    /// Messages of other connections, of which this one hears.
    ForOthers,
}

impl Session {
    /// Notes that exchanges dropped the last publish of a channel.
    pub(crate) fn note_duplicate(&mut self, number: u16, awaited: Awaited) {
        let answers = |channel: &mut Channel| channel.confirms.is_some() || channel.transaction.is_some();
        if self.channel(number).is_some_and(answers) {
            let origin = self.origin(number);
            self.duplicates.open.push((origin, awaited));
            self.duplicates.any = true;
        }
    }

    /// Decides what is to be answered for duplicates, when everything gathered was handed over: those that may be sent again
    /// are appended to `refused`.
    pub(crate) fn settle_duplicates(&mut self, refused: &mut Vec<Origin>) -> Wait {
        if !self.duplicates.any {
            return Wait::No;
        }
        let open = &mut self.duplicates.open;
        self.peer.vhost.wait_for(open.iter().flat_map(|(_, awaited)| awaited), &self.waker);
        open.retain(|(origin, awaited)| {
            let has_place = |place| awaited.iter().any(|verdict| verdict.has_place() == place);
            if has_place(Some(false)) {
                refused.push(*origin);
                return false;
            }
            has_place(None)
        });
        // What is open by now was so a moment ago, so the session is woken for it.
        self.duplicates.any = !open.is_empty();
        if self.duplicates.any { Wait::ForOthers } else { Wait::ForLog }
    }

    /// The same for a transaction of a channel, which must be answered now: what others have not decided may be sent again.
    pub(crate) fn settle_duplicates_of_commit(&mut self, number: u16, refused: &mut Vec<Origin>) {
        let any = self.duplicates.any;
        if self.settle_duplicates(refused) == Wait::ForOthers {
            let undecided = self.duplicates.open.extract_if(.., |((channel, _), _)| *channel == number);
            refused.extend(undecided.map(|(origin, _)| origin));
        }
        // The confirms of other channels wait for the log as well.
        self.duplicates.any = any;
    }

    /// A channel is gone, and nobody is answered any more.
    pub(crate) fn forget_duplicates(&mut self, number: u16) {
        self.duplicates.open.retain(|((channel, _), _)| *channel != number);
    }
}
