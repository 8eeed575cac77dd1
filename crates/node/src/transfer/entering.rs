//! Leaving a queue for others: messages are claimed, and leave their traces at the exchanges that they came by.

use posthouse_model::ids::{QueueId, Seq};
use posthouse_model::props::HeaderView;
use posthouse_model::raw_table::RawValue;
use posthouse_model::record::{FLAG_PERSISTENT, Record};
use posthouse_queue::machine::leaving::stalled::Obstacle;
use posthouse_queue::topology::Routed;
use smallvec::SmallVec;

use super::group::{Group, count, join};
use super::{Mode, Transfer};
use crate::history::Publication;
use crate::vhost::{Entry, Traces, VirtualHost};

impl Transfer<'_> {
    /// Lets a group's messages leave their queue, and takes those out of it that are not ready any more.
    pub(super) fn claim(&mut self, group: &mut Group) {
        if self.mode != Mode::Ready {
            return;
        }
        let mut claimed = Vec::new();
        let mut state = self.source.lock();
        if let Some(machine) = state.machine.classic() {
            group.ranges.iter().for_each(|&(first, last)| machine.claim(first, last, &mut claimed));
            // Consumers may go on behind what is gone.
            machine.wake_after_settling(&mut self.wakes.consumers);
        }
        drop(state);
        if count(&claimed) == count(&group.ranges) {
            return;
        }
        // They are in the order in which the group has them, which need not be that of their numbers.
        let mut claimed = claimed.into_iter().peekable();
        group.retain(|seq, _| {
            let is_claimed = claimed.peek().is_some_and(|&(first, last)| (first..=last).contains(&seq));
            claimed.next_if(|&(_, last)| is_claimed && last == seq);
            is_claimed
        });
    }

    /// The same of one message.
    fn claim_one(&mut self, seq: Seq) -> bool {
        if self.mode != Mode::Ready {
            return true;
        }
        let mut claimed = Vec::new();
        if let Some(machine) = self.source.lock().machine.classic() {
            machine.claim(seq, seq, &mut claimed);
            machine.wake_after_settling(&mut self.wakes.consumers);
        }
        !claimed.is_empty()
    }

    /// Claims those messages of a group that leave traces, one by one, and appends groups of those that enter queues.
    pub(super) fn enter(&mut self, vhost: &VirtualHost, group: &Group, entering: &mut Vec<Group>) {
        let queues = group.queues();
        let mut open = group.another();
        for ((seq, record, bytes), &traces) in group.messages().zip(&group.traces) {
            match self.enter_one(vhost, seq, &record, (traces, &queues)) {
                Entry::Enters(into, _) if into.is_empty() => join(&mut self.dropped, seq, seq),
                Entry::Enters(into, seen) if into.len() == queues.len() => {
                    self.has_seen(seq, seen);
                    open.push(seq, bytes);
                }
                Entry::Enters(into, seen) => {
                    self.has_seen(seq, seen);
                    // An exchange dropped it on its way to the others.
                    let mut alone = open.another();
                    alone.targets.retain(|(queue, _)| into.contains(&queue.id));
                    alone.push(seq, bytes);
                    let next = open.another();
                    entering.extend([std::mem::replace(&mut open, next), alone]);
                }
                Entry::Rerouted => self.stay(seq, seq, group.reason, Obstacle::NoPlace),
                Entry::Undecided => self.stay(seq, seq, group.reason, Obstacle::Unreadable),
                Entry::Gone => {}
            }
        }
        entering.push(open);
    }

    fn enter_one(
        &mut self,
        vhost: &VirtualHost,
        seq: Seq,
        record: &Record<'_>,
        (traces, queues): (Traces, &[QueueId]),
    ) -> Entry {
        let header = HeaderView::parse(record.header()).ok();
        let extra_keys = header.map(|header| extra_keys(header, record.hidden_keys())).unwrap_or_default();
        let extra_keys: SmallVec<[&str; 4]> = extra_keys.iter().map(String::as_str).collect();
        let key = String::from_utf8_lossy(record.exchange_and_key().1);
        let routed = Routed { key: &key, extra_keys: &extra_keys, header, draw: traces.draw() };
        let is_persistent = record.flags() & FLAG_PERSISTENT != 0;
        let (route, header, body) = (record.routes(), record.header(), record.body());
        let publication = Publication { route, is_persistent, header, body };
        vhost.enter(routed, publication, (traces, queues), self.now_ms, || self.claim_one(seq))
    }
}

/// The keys of the `CC` header, and those that a `BCC` header had, which are kept with the route.
pub(crate) fn extra_keys<'a>(
    header: HeaderView<'_>,
    hidden_keys: impl Iterator<Item = &'a [u8]>,
) -> Vec<String> {
    let text = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
    let mut keys: Vec<String> = hidden_keys.map(text).collect();
    if let Some(RawValue::Array(more)) = header.headers().and_then(|table| table.get(b"CC")) {
        keys.extend(more.iter().filter_map(|key| match key {
            RawValue::LongStr(key) => Some(text(key)),
            _ => None,
        }));
    }
    keys
}
