//! Moving messages from one queue into others, so that no crash finds them in neither.
//!
//! First room is kept in all queues that a message goes to (`fitting`); one without stays where it is. Then it leaves its
//! queue ([`posthouse_queue::machine::leaving`]), and the exchanges that it came by know of it (`entering`). Last it enters
//! its targets and is noted as moved under the log's staging lock, with one record that says both (`handing`). Its source
//! settles it once that record is on disk: a checkpoint, which has the states of queues without the log's end, then never
//! knows the one half only.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use posthouse_model::ids::{Lsn, QueueId, Seq, level_of};
use posthouse_model::props::has_expiration;
use posthouse_model::record::{FLAG_EXPIRES, FLAG_MAYBE_DELIVERED, FLAG_PERSISTENT, stamp};
use posthouse_queue::machine::departures::Reason;
use posthouse_queue::machine::leaving::Run;
use posthouse_queue::machine::leaving::stalled::{Line, Obstacle};
use smallvec::SmallVec;

use crate::broker::Broker;
use crate::deliver::Wakes;
use crate::queue_handle::QueueHandle;
use crate::residency;
use crate::room::Reservations;

use compared::Compared;
pub(crate) use entering::extra_keys;
use group::{GROUP_BYTES_MAX, Group, count, join};
pub(crate) use group::{Moving, Target, Targets};

mod compared;
mod entering;
mod fitting;
mod group;
mod handing;

/// What is known of a transfer's messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// They have left their queue already, were taken from this line there, and stall if they cannot go on.
    Leaving(Line),
    /// They were ready a moment ago; those that still are leave as they are moved. The others, and those that have nowhere
    /// to go, stay as they are.
    Ready,
    /// They stay.
    Copied,
}

/// What came of a transfer.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Done {
    /// Messages that entered their targets.
    pub(crate) moved: u64,
    /// Messages that did not, and stay.
    pub(crate) stalled: u64,
    /// Messages that did not, and are done with.
    pub(crate) dropped: u64,
    /// Those of them for which there was no room to stay.
    pub(crate) excess: u64,
    /// Some of them stand behind the queue again that they stood behind.
    pub(crate) blocked: bool,
    /// The position up to which the log must be on disk before the source settles what was moved
    /// ([`posthouse_queue::machine::Queue::finish_moves`]); 0 when it has done so already.
    pub(crate) until: Lsn,
}

/// The same, and more of what stays.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) done: Done,
    /// Those that had not left, and are where they were.
    pub(crate) stayed: Vec<((Seq, Seq), Obstacle)>,
    /// Queues that had no room, and the body of the first message for which they had none.
    pub(crate) full: Vec<(QueueId, u64)>,
}

/// Messages of one source that are to be moved together.
#[derive(Debug)]
pub(crate) struct Transfer<'a> {
    broker: &'a Broker,
    source: &'a Arc<QueueHandle>,
    mode: Mode,
    groups: VecDeque<Group>,
    /// Queues that what goes to them must not enter now: for some they have no room, and others must not overtake those.
    /// With the body of the first one, unless others stood there before.
    full: BTreeMap<QueueId, Option<u64>>,
    stalled: Vec<(Run, Obstacle)>,
    /// Those that stand behind all of these.
    behind: Vec<(Run, Obstacle)>,
    stayed: Vec<((Seq, Seq), Obstacle)>,
    dropped: Vec<(Seq, Seq)>,
    now_ms: u64,
    /// What a crash may have undone: numbers after those of messages that were there before the broker was started.
    before_start: SmallVec<[Seq; 1]>,
    reserved: Reservations,
    wakes: Wakes,
    /// Where messages come by that leave traces, and what deduplication exchanges want to hear of.
    compared: Option<Compared<'a>>,
}

impl<'a> Transfer<'a> {
    /// An empty one at that time, in milliseconds since the Unix epoch.
    pub(crate) fn new(broker: &'a Broker, source: &'a Arc<QueueHandle>, mode: Mode, now_ms: u64) -> Self {
        let (mut full, mut before_start) = (BTreeMap::new(), SmallVec::new());
        if let Some(machine) = source.lock().machine.classic()
            && mode != Mode::Copied
        {
            before_start.extend(machine.delivered_before_start());
            if let Mode::Leaving(from) = mode {
                let others = machine.stand_behind().filter(|&queue| Line::Behind(queue) != from);
                full.extend(others.map(|queue| (queue, None)));
            }
        }
        let (groups, stalled, behind, stayed, dropped) = Default::default();
        let (reserved, wakes) = Default::default();
        let compared = None;
        Self {
            broker,
            source,
            mode,
            groups,
            full,
            stalled,
            behind,
            stayed,
            dropped,
            now_ms,
            before_start,
            reserved,
            wakes,
            compared,
        }
    }

    /// Messages stand behind these queues: what goes there must not overtake them.
    pub(crate) fn stand_behind(&mut self, queues: impl Iterator<Item = QueueId>) {
        self.full.extend(queues.map(|queue| (queue, None)));
    }

    /// Adds a message that goes to `targets`, of which there is at least one unless it leaves traces.
    pub(crate) fn add(&mut self, targets: &Targets, message: Moving<'_>) {
        if let Some(full) = targets.iter().find(|target| self.full.contains_key(&target.queue.id)) {
            let obstacle = Obstacle::Full(full.queue.id);
            return self.stay(message.seq, message.seq, message.reason, obstacle);
        }
        let persistent = message.flags & FLAG_PERSISTENT != 0;
        let from_level = level_of(message.seq);
        let fits = |group: &Group| {
            (group.persistent, group.reason) == (persistent, message.reason)
                && group.from_level == from_level
                && group.traces.is_empty() == message.traces.is_none()
                && group.builder.bytes().len() + message.body.len() <= GROUP_BYTES_MAX
                && group.targets.len() == targets.len()
                && group.targets.iter().zip(targets).all(|((queue, level), target)| {
                    Arc::ptr_eq(queue, &target.queue) && *level == target.level(message.header)
                })
        };
        if !self.groups.back().is_some_and(fits) {
            let targets =
                targets.iter().map(|target| (target.queue.clone(), target.level(message.header))).collect();
            let reason = message.reason;
            self.groups.push_back(Group { from_level, targets, persistent, reason, ..Group::default() });
        }
        let Some(group) = self.groups.back_mut() else { return };
        let Moving { seq, flags, publisher, waits_until_ms, traces, route, header, body, .. } = message;
        let is_of_before = |below: &Seq| level_of(*below) == from_level && seq < *below;
        let maybe = if self.before_start.iter().any(is_of_before) { FLAG_MAYBE_DELIVERED } else { 0 };
        let expires = if waits_until_ms.is_none() && has_expiration(header) { FLAG_EXPIRES } else { 0 };
        let flags = flags & !FLAG_EXPIRES | expires | maybe;
        let stamp = stamp(waits_until_ms.unwrap_or(self.now_ms), publisher);
        group.builder.push(flags, stamp, route, header, body.len(), body);
        group.traces.extend(traces);
        join(&mut group.ranges, seq, seq);
    }

    /// Whether there is a message that may enter queues.
    pub(crate) fn has_any(&self) -> bool {
        !self.groups.is_empty()
    }

    /// Adds messages that cannot go on now, and stay.
    pub(crate) fn stall(&mut self, run: Run, obstacle: Obstacle) {
        join_stalled(&mut self.stalled, run, obstacle);
    }

    /// The same, behind all others.
    pub(crate) fn stall_behind(&mut self, run: Run, obstacle: Obstacle) {
        join_stalled(&mut self.behind, run, obstacle);
    }

    /// As [`Self::stall`]; those without a reason had not left, and are where they were.
    fn stay(&mut self, first: Seq, last: Seq, reason: Option<Reason>, obstacle: Obstacle) {
        match (reason, self.stayed.last_mut()) {
            (Some(reason), _) => self.stall(Run { first, last, reason }, obstacle),
            (None, Some((range, before))) if range.1 + 1 == first && *before == obstacle => range.1 = last,
            (None, _) => self.stayed.push(((first, last), obstacle)),
        }
    }

    /// Adds messages that have nowhere to go, and are done with.
    pub(crate) fn drop_run(&mut self, run: Run) {
        join(&mut self.dropped, run.first, run.last);
    }

    /// Carries it out.
    pub(crate) fn commit(self) -> Done {
        self.commit_listing().done
    }

    /// Carries it out, and says more of what stays.
    pub(crate) fn commit_listing(mut self) -> Outcome {
        let broker = self.broker;
        let mut entering = Vec::new();
        while let Some(mut group) = self.groups.pop_front() {
            self.make_fit(&mut group);
            let vhost = self.compared.as_ref().map(Compared::vhost);
            match vhost.filter(|_| !group.traces.is_empty()) {
                Some(vhost) => self.enter(vhost, &group, &mut entering),
                None => {
                    self.claim(&mut group);
                    entering.push(group);
                }
            }
        }
        self.stalled.append(&mut self.behind);
        let mut done = Done::default();
        {
            let mut stage = broker.wal().map(|wal| wal.stage());
            for group in &mut entering {
                done.moved += count(&group.ranges);
                done.until = self.hand_over(group, stage.as_mut()).max(done.until);
            }
            let dropped = count(&self.dropped);
            self.settle_stalled();
            done.dropped = count(&self.dropped);
            let stayed = self.stayed.iter().map(|((first, last), _)| last - first + 1).sum::<u64>();
            done.stalled = stayed + self.stalled.iter().map(|(run, _)| run.count()).sum::<u64>();
            done.excess = done.dropped - dropped;
            let stands = |&(_, obstacle): &(Run, Obstacle)| self.mode == Mode::Leaving(obstacle.line());
            done.blocked = self.stalled.iter().any(stands);
            done.stalled -= done.excess;
            self.settle_dropped(stage.as_mut());
        }
        let decided = self.forget_seen();
        // Nobody is woken while the staging lock is held.
        self.wakes.wake();
        decided.iter().for_each(|session| session.decided());
        broker.watch_memory();
        let full = self.full.into_iter().filter_map(|(queue, body_bytes)| Some((queue, body_bytes?)));
        Outcome { done, stayed: self.stayed, full: full.collect() }
    }
}

fn join_stalled(stalled: &mut Vec<(Run, Obstacle)>, run: Run, obstacle: Obstacle) {
    match stalled.last_mut() {
        Some((last, before)) if last.is_before(run) && *before == obstacle => last.last = run.last,
        _ => stalled.push((run, obstacle)),
    }
}

/// Settles those of these messages that are still ready; how many there were.
pub(crate) fn purge(broker: &Broker, source: &Arc<QueueHandle>, ranges: &[(Seq, Seq)]) -> u64 {
    let mut stage = broker.wal().map(|wal| wal.stage());
    let (mut claimed, mut wakes) = (Vec::new(), Wakes::default());
    let (mut count, mut persistent) = (0, false);
    {
        let mut state = source.lock();
        let Some(machine) = state.machine.classic() else { return 0 };
        ranges.iter().for_each(|&(first, last)| machine.claim(first, last, &mut claimed));
        for &(first, last) in &claimed {
            let settled = machine.dropped(first, last);
            count += settled.count;
            persistent |= settled.persistent;
        }
        machine.wake_after_settling(&mut wakes.consumers);
        wakes.publishers = residency::relieved(&mut state);
        if let Some(segments) = broker.segments() {
            residency::release(&mut state, segments);
        }
    }
    if let Some(stage) = stage.as_mut().filter(|_| persistent && source.definition.durable) {
        stage.settle(source.id, &claimed);
    }
    drop(stage);
    wakes.wake();
    count
}

/// Settles what was moved from these queues and is on disk.
pub(crate) fn finish(broker: &Broker, queue: &QueueHandle, durable: Lsn) {
    let mut state = queue.lock();
    if let Some(machine) = state.machine.classic() {
        machine.finish_moves(durable);
    }
    if let Some(segments) = broker.segments() {
        residency::release(&mut state, segments);
    }
}

#[cfg(test)]
mod tests;
