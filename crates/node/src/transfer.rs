//! Moving messages from one queue into others, so that no crash finds them in neither.
//!
//! A message that leaves ([`posthouse_queue::machine::leaving`]) enters its targets and is noted as moved under the log's
//! staging lock, with one record that says both. Its source settles it once that record is on disk: a checkpoint, which
//! has the states of queues without the log's end, then never knows the one half only.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use posthouse_model::chunk::{Chunk, ChunkBuilder, Records};
use posthouse_model::durability::Durability;
use posthouse_model::ids::{Lsn, QueueId, Seq, level_of};
use posthouse_model::priorities::Levels;
use posthouse_model::props::has_expiration;
use posthouse_model::record::{FLAG_EXPIRES, FLAG_MAYBE_DELIVERED, FLAG_PERSISTENT, Record, stamp};
use posthouse_model::shares::UserNumber;
use posthouse_queue::machine::chunks::Persistence;
use posthouse_queue::machine::departures::Reason;
use posthouse_queue::machine::leaving::Run;
use posthouse_queue::machine::leaving::stalled::{Line, Obstacle};
use posthouse_storage::wal::{Payload, Stage};
use smallvec::SmallVec;

use crate::broker::Broker;
use crate::deliver::{self, Wakes};
use crate::priorities::priority;
use crate::publish::SHARE_BYTES_MIN;
use crate::queue_handle::{QueueGuard, QueueHandle};
use crate::{expiry, residency};

use compared::Compared;

mod compared;

/// A group is closed at this size.
const GROUP_BYTES_MAX: usize = 256 << 10;

/// A queue that a message goes to.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) queue: Arc<QueueHandle>,
    entry: Entry,
}

/// Which level of a queue messages enter.
#[derive(Clone, Copy, Debug)]
enum Entry {
    /// By their priority and what the queue says about levels. Should it be converted to another type meanwhile, those are
    /// still there.
    ByPriority(Levels),
    /// This one.
    At(u8),
}

/// The queues that a message goes to.
pub(crate) type Targets = SmallVec<[Target; 1]>;

impl Target {
    pub(crate) fn new(queue: Arc<QueueHandle>) -> Self {
        let entry = Entry::ByPriority(queue.lock().machine.settings().levels());
        Self { queue, entry }
    }

    /// A level of a queue.
    pub(crate) fn at(queue: Arc<QueueHandle>, level: u8) -> Self {
        Self { queue, entry: Entry::At(level) }
    }

    /// The level that a message with this content header enters.
    fn level(&self, header: &[u8]) -> u8 {
        match self.entry {
            Entry::At(level) => level,
            Entry::ByPriority(levels) if levels.has_one() => 0,
            Entry::ByPriority(levels) => levels.of(priority(header)),
        }
    }
}

/// A message as it enters its targets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moving<'a> {
    /// Its number where it comes from.
    pub(crate) seq: Seq,
    /// Why it left, if it did.
    pub(crate) reason: Option<Reason>,
    /// `FLAG_*` bits of its new record.
    pub(crate) flags: u16,
    /// Who published it.
    pub(crate) publisher: UserNumber,
    /// When it is due, where it only waits there ([`crate::schedule`]).
    pub(crate) waits_until_ms: Option<u64>,
    /// Exchange and routing key as two short strings.
    pub(crate) route: &'a [u8],
    /// The content header.
    pub(crate) header: &'a [u8],
    /// The body.
    pub(crate) body: &'a [u8],
}

/// Consecutive messages of one level for the same levels of the same queues.
#[derive(Debug, Default)]
struct Group {
    from_level: u8,
    targets: SmallVec<[(Arc<QueueHandle>, u8); 1]>,
    persistent: bool,
    reason: Option<Reason>,
    builder: ChunkBuilder,
    ranges: Vec<(Seq, Seq)>,
}

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

/// Messages of one source that are to be moved together.
#[derive(Debug)]
pub(crate) struct Transfer<'a> {
    broker: &'a Broker,
    source: &'a Arc<QueueHandle>,
    mode: Mode,
    groups: VecDeque<Group>,
    /// Queues that what goes to them must not enter now: for some they have no room, and others must not overtake those.
    full: BTreeSet<QueueId>,
    stalled: Vec<(Run, Obstacle)>,
    /// Those that stay and had not left.
    stayed: Vec<(Seq, Seq)>,
    dropped: Vec<(Seq, Seq)>,
    now_ms: u64,
    /// What a crash may have undone: numbers after those of messages that were there before the broker was started.
    before_start: SmallVec<[Seq; 1]>,
    wakes: Wakes,
    /// What deduplication exchanges want to hear of.
    compared: Option<Compared<'a>>,
}

impl<'a> Transfer<'a> {
    /// An empty one at that time, in milliseconds since the Unix epoch.
    pub(crate) fn new(broker: &'a Broker, source: &'a Arc<QueueHandle>, mode: Mode, now_ms: u64) -> Self {
        let (mut full, mut before_start) = (BTreeSet::new(), SmallVec::new());
        if let Some(machine) = source.lock().machine.classic()
            && mode != Mode::Copied
        {
            before_start.extend(machine.delivered_before_start());
            if let Mode::Leaving(from) = mode {
                full.extend(machine.stand_behind().filter(|&queue| Line::Behind(queue) != from));
            }
        }
        let (groups, stalled, stayed, dropped, wakes) = Default::default();
        let compared = None;
        Self {
            broker,
            source,
            mode,
            groups,
            full,
            stalled,
            stayed,
            dropped,
            now_ms,
            before_start,
            wakes,
            compared,
        }
    }

    /// Adds a message that goes to `targets`, of which there is at least one.
    pub(crate) fn add(&mut self, targets: &Targets, message: Moving<'_>) {
        if let Some(full) = targets.iter().find(|target| self.full.contains(&target.queue.id)) {
            let obstacle = Obstacle::Full(full.queue.id);
            return self.stay(message.seq, message.seq, message.reason, obstacle);
        }
        let persistent = message.flags & FLAG_PERSISTENT != 0;
        let from_level = level_of(message.seq);
        let fits = |group: &Group| {
            (group.persistent, group.reason) == (persistent, message.reason)
                && group.from_level == from_level
                && group.builder.bytes().len() + message.body.len() <= GROUP_BYTES_MAX
                && group.targets.len() == targets.len()
                && group.targets.iter().zip(targets).all(|((queue, level), target)| {
                    Arc::ptr_eq(queue, &target.queue) && *level == target.level(message.header)
                })
        };
        if !self.groups.back().is_some_and(fits) {
            let (builder, ranges) = Default::default();
            let targets =
                targets.iter().map(|target| (target.queue.clone(), target.level(message.header))).collect();
            let reason = message.reason;
            self.groups.push_back(Group { from_level, targets, persistent, reason, builder, ranges });
        }
        let Some(group) = self.groups.back_mut() else { return };
        let Moving { seq, flags, publisher, waits_until_ms, route, header, body, .. } = message;
        let is_of_before = |below: &Seq| level_of(*below) == from_level && seq < *below;
        let maybe = if self.before_start.iter().any(is_of_before) { FLAG_MAYBE_DELIVERED } else { 0 };
        let expires = if waits_until_ms.is_none() && has_expiration(header) { FLAG_EXPIRES } else { 0 };
        let flags = flags & !FLAG_EXPIRES | expires | maybe;
        let stamp = stamp(waits_until_ms.unwrap_or(self.now_ms), publisher);
        group.builder.push(flags, stamp, route, header, body.len(), body);
        join(&mut group.ranges, seq, seq);
    }

    /// Adds messages that cannot go on now, and stay.
    pub(crate) fn stall(&mut self, run: Run, obstacle: Obstacle) {
        match self.stalled.last_mut() {
            Some((last, before)) if last.is_before(run) && *before == obstacle => last.last = run.last,
            _ => self.stalled.push((run, obstacle)),
        }
    }

    /// The same; those without a reason had not left, and are where they were.
    fn stay(&mut self, first: Seq, last: Seq, reason: Option<Reason>, obstacle: Obstacle) {
        match reason {
            Some(reason) => self.stall(Run { first, last, reason }, obstacle),
            None => join(&mut self.stayed, first, last),
        }
    }

    /// Adds messages that have nowhere to go, and are done with.
    pub(crate) fn drop_run(&mut self, run: Run) {
        join(&mut self.dropped, run.first, run.last);
    }

    /// Carries it out.
    pub(crate) fn commit(self) -> Done {
        self.commit_listing().0
    }

    /// Carries it out, and says which messages stay where they are because there was no room for them.
    pub(crate) fn commit_listing(mut self) -> (Done, Vec<(Seq, Seq)>) {
        let broker = self.broker;
        let mut done = Done::default();
        {
            let mut stage = broker.wal().map(|wal| wal.stage());
            while let Some(mut group) = self.groups.pop_front() {
                let until = self.hand_over(&mut group, stage.as_mut());
                done.until = done.until.max(until);
                done.moved += count(&group.ranges);
            }
            let dropped = count(&self.dropped);
            self.settle_stalled();
            done.dropped = count(&self.dropped);
            done.stalled = count(&self.stayed) + self.stalled.iter().map(|(run, _)| run.count()).sum::<u64>();
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
        (done, self.stayed)
    }

    /// Moves a group, as far as all of its queues have room; the rest stalls.
    fn hand_over(&mut self, group: &mut Group, mut stage: Option<&mut Stage<'_>>) -> Lsn {
        self.make_fit(group);
        if self.mode == Mode::Ready {
            self.claim(group);
        }
        let count = group.builder.count();
        if count == 0 {
            return 0;
        }
        let bytes = group.builder.bytes().len();
        let queues = group.targets.len();
        let finish =
            |builder: &mut ChunkBuilder| Arc::new(std::mem::take(builder).finish().for_queues(queues));
        let chunk = (bytes >= SHARE_BYTES_MIN).then(|| finish(&mut group.builder));
        let lsn = stage.as_ref().map_or(0, |stage| stage.position());
        let mut logged: SmallVec<[(QueueId, Seq); 4]> = SmallVec::new();
        let mut departed = Vec::new();
        for (queue, level) in &group.targets {
            let mut state = queue.lock();
            if state.deleted {
                continue;
            }
            let durable = (group.persistent || queue.keeps_all())
                && stage.is_some()
                && queue.durability(&state) != Durability::Memory;
            let persistence = if durable { Persistence::Persistent } else { Persistence::Transient };
            let (records, wakes) = (group.builder.bytes(), &mut self.wakes.consumers);
            let first = match &chunk {
                Some(chunk) => state.machine.push_shared(*level, chunk.clone(), persistence, lsn, wakes),
                None => state.machine.push_copied(*level, records, count, persistence, lsn, wakes),
            };
            if durable {
                logged.push((queue.id, first));
            }
            state.counters.published += u64::from(count);
            expiry::expire(self.broker, queue, &mut state, self.now_ms);
            let left = deliver::take_departed(self.broker, queue, &mut state);
            self.wakes.append(left.wakes);
            if left.departed.persistent && queue.definition.durable {
                departed.push((queue.id, left.departed.ranges));
            }
            // Nobody is paced here; what is too much for memory goes to disk.
            residency::after_push(self.broker, queue, &mut state, self.now_ms);
        }
        let end = self.stage(group, chunk, &logged, stage.as_deref_mut());
        if let Some(stage) = stage {
            for (queue, ranges) in departed {
                stage.settle(queue, &ranges);
            }
        }
        if self.mode == Mode::Copied {
            return 0;
        }
        let mut state = self.source.lock();
        if let Some(machine) = state.machine.classic() {
            group.ranges.iter().for_each(|&(first, last)| machine.moved(first, last, end));
            machine.finish_moves(0);
        }
        self.release(&mut state);
        end
    }

    /// Says in one record that the messages left and entered.
    fn stage_move(
        &self,
        group: &Group,
        chunk: Option<Arc<Chunk>>,
        logged: &[(QueueId, Seq)],
        stage: Option<&mut Stage<'_>>,
    ) -> Lsn {
        let kept = self.source.definition.durable
            && (group.persistent || self.source.keeps_all() || self.was_kept(group));
        let Some(stage) = stage.filter(|_| kept || !logged.is_empty()) else { return 0 };
        let count = chunk.as_ref().map_or(group.builder.count(), |chunk| chunk.count());
        let payload = match chunk {
            Some(chunk) => Payload::Shared(chunk),
            None => Payload::Copy(group.builder.bytes()),
        };
        let ranges = &group.ranges;
        let leaves = kept && self.mode != Mode::Copied;
        match (leaves, logged.is_empty()) {
            (true, false) => stage.transfer(self.source.id, ranges, logged, count, payload),
            (true, true) => stage.settle(self.source.id, ranges),
            (false, false) => {
                stage.enqueue(logged, count, payload);
                0
            }
            (false, true) => 0,
        }
    }

    /// Whether messages that are not persistent were kept by their queue when it was of another type.
    fn was_kept(&self, group: &Group) -> bool {
        let mut state = self.source.lock();
        let machine = state.machine.classic();
        machine
            .is_some_and(|machine| group.ranges.iter().any(|&(first, last)| machine.keeps_any(first, last)))
    }

    /// Lets a group's messages leave their queue, and takes those out of it that are not ready any more.
    fn claim(&mut self, group: &mut Group) {
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

    /// Takes those out of a group for which one of its queues has no room, and those that would overtake them.
    fn make_fit(&mut self, group: &mut Group) {
        let full = group.targets.iter().find(|(queue, _)| self.full.contains(&queue.id));
        if let Some(obstacle) = full.map(|(queue, _)| Obstacle::Full(queue.id)) {
            return self.take_out(group, obstacle, |_, _| true);
        }
        let mut any = false;
        for at in 0..group.targets.len() {
            let queue = group.targets[at].0.clone();
            let mut refused = Vec::new();
            let state = queue.lock();
            if state.deleted {
                continue;
            }
            any = true;
            state.machine.refuse(group.builder.bytes(), group.builder.count(), &mut refused);
            if refused.is_empty() {
                continue;
            }
            // It must not hold up the others for ever.
            let is_too_large =
                |record: &Record<'_>| state.machine.is_too_small_for(record.body().len() as u64);
            self.take_out(group, Obstacle::NoPlace, |_, record| is_too_large(record));
            refused.clear();
            state.machine.refuse(group.builder.bytes(), group.builder.count(), &mut refused);
            drop(state);
            if let Some(&first) = refused.first() {
                self.full.insert(queue.id);
                self.take_out(group, Obstacle::Full(queue.id), |position, _| position >= first);
            }
        }
        if !any {
            // All of them were deleted a moment ago: it is routed again.
            self.take_out(group, Obstacle::NoPlace, |_, _| true);
        }
    }

    /// Takes messages out of a group, by their position in it, that cannot go on.
    fn take_out(
        &mut self,
        group: &mut Group,
        obstacle: Obstacle,
        mut is_one: impl FnMut(u32, &Record<'_>) -> bool,
    ) {
        let mut position = 0;
        let taken = group.retain(|_, record| {
            position += 1;
            !is_one(position - 1, record)
        });
        for (first, last) in taken {
            self.stay(first, last, group.reason, obstacle);
        }
    }

    /// Puts down at the source which messages cannot go on.
    fn settle_stalled(&mut self) {
        let Mode::Leaving(from) = self.mode else { return };
        if let Some(machine) = self.source.lock().machine.classic() {
            machine.stall(from, &self.stalled, &mut self.dropped);
        }
    }

    fn settle_dropped(&self, stage: Option<&mut Stage<'_>>) {
        if self.dropped.is_empty() {
            return;
        }
        let mut persistent = false;
        {
            let mut state = self.source.lock();
            if let Some(machine) = state.machine.classic() {
                for &(first, last) in &self.dropped {
                    persistent |= machine.dropped(first, last).persistent;
                }
            }
            self.release(&mut state);
        }
        if let Some(stage) = stage.filter(|_| persistent && self.source.definition.durable) {
            stage.settle(self.source.id, &self.dropped);
        }
    }

    fn release(&self, state: &mut QueueGuard<'_>) {
        if let Some(segments) = self.broker.segments() {
            residency::release(state, segments);
        }
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

/// How many messages some ranges have.
fn count(ranges: &[(Seq, Seq)]) -> u64 {
    ranges.iter().map(|(first, last)| last - first + 1).sum()
}

/// Appends a range, or lets the last one go on with it.
fn join(ranges: &mut Vec<(Seq, Seq)>, first: Seq, last: Seq) {
    match ranges.last_mut() {
        Some(before) if before.1 + 1 == first => before.1 = last,
        _ => ranges.push((first, last)),
    }
}

impl Group {
    /// Takes those messages out that are not to be kept, asked for in order; which they were.
    fn retain(&mut self, mut keep: impl FnMut(Seq, &Record<'_>) -> bool) -> Vec<(Seq, Seq)> {
        let (mut kept, mut taken) = (Vec::new(), Vec::new());
        let mut builder = ChunkBuilder::default();
        let mut rest = self.builder.bytes();
        let seqs = self.ranges.iter().flat_map(|&(first, last)| first..=last);
        for (seq, record) in seqs.zip(Records::new(self.builder.bytes())) {
            let (bytes, after) = rest.split_at(record.len());
            match keep(seq, &record) {
                true => {
                    builder.append_records(bytes);
                    join(&mut kept, seq, seq);
                }
                false => join(&mut taken, seq, seq),
            }
            rest = after;
        }
        if !taken.is_empty() {
            (self.builder, self.ranges) = (builder, kept);
        }
        taken
    }
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
