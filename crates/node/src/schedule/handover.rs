//! Handing over what is due: each message is routed, and moved to the queues that it goes to.

use std::collections::BTreeMap;
use std::sync::Arc;

use posthouse_model::chunk::Chunk;
use posthouse_model::ids::{Lsn, QueueId, Seq};
use posthouse_model::props::HeaderView;
use posthouse_model::record::Record;
use posthouse_queue::machine::leaving::stalled::{Line, Obstacle};
use posthouse_queue::machine::limits::Room;
use posthouse_queue::schedule::Waiting;
use posthouse_queue::schedule::wheel::place;
use posthouse_queue::topology::Routed;
use smallvec::SmallVec;

use super::reading::{Cache, KEPT_FLAGS, Unread, add_move, read_chunk};
use super::{Schedule, route_of};
use crate::broker::Broker;
use crate::draws::Draws;
use crate::residency::READ_AGAIN_AFTER;
use crate::room::{self, Mover};
use crate::transfer::{self, Mode, Moving, Outcome, Target, Targets, Transfer, extra_keys};
use crate::vhost::{Traces, VirtualHost};

/// Bytes of records handed over in one step.
const STEP_BYTES: usize = 1 << 20;

/// While more messages than [`CROWDED`] are noted one by one, those that find no room are not any more: they wait for so
/// long as if that was their time.
const RETRY_LATER_MS: u64 = 60_000;
const CROWDED: usize = 256 << 10;

/// How long a message rests that cannot be read now, or of which it is not certain that it is a duplicate.
const SOON_MS: u64 = 1_000;

pub(super) struct Handover<'a> {
    broker: &'a Broker,
    vhost: &'a VirtualHost,
    schedule: &'a Arc<Schedule>,
    now_ms: u64,
    cache: &'a mut Cache,
    draws: &'a mut Draws,
    transfer: Transfer<'a>,
    /// The line that all come from.
    from: Line,
    /// How much the queue that they stand behind has room for still.
    room: Room,
    /// Those that go nowhere.
    unroutable: Vec<(Seq, Seq)>,
    /// The last route that other messages may share.
    known: Option<Route>,
}

/// Where messages with an exchange and a key go.
struct Route {
    epoch: u64,
    route: Vec<u8>,
    targets: Targets,
}

impl<'a> Handover<'a> {
    /// Begins a step of messages that come from a line: of [`Line::New`] are those that are due now. Those that stand behind
    /// a queue go on as far as that has `room`.
    pub(super) fn new(
        broker: &'a Broker,
        vhost: &'a VirtualHost,
        schedule: &'a Arc<Schedule>,
        (from, room): (Line, Room),
        now_ms: u64,
        (cache, draws): (&'a mut Cache, &'a mut Draws),
    ) -> Self {
        let mut transfer = Transfer::new(broker, &schedule.queue, Mode::Ready, now_ms).entering(vhost);
        let lines: Vec<QueueId> = schedule.agenda().stand_behind().collect();
        transfer.stand_behind(lines.into_iter().filter(|&queue| Line::Behind(queue) != from));
        let (unroutable, known) = Default::default();
        Self { broker, vhost, schedule, now_ms, cache, draws, transfer, from, room, unroutable, known }
    }

    /// Hands messages over, as many as one step takes; the others are due still, or stand in their lines. The position up
    /// to which the log must be on disk before the schedule settles them, 0 for none.
    pub(super) fn hand_over(mut self, messages: &[Waiting]) -> Lsn {
        let epoch = self.vhost.epoch();
        let (mut bytes, mut chunks) = (0, BTreeMap::new());
        let mut rest = messages;
        while bytes < STEP_BYTES
            && self.has_room()
            && let [waiting, after @ ..] = rest
        {
            match self.chunk_of(waiting, &mut chunks) {
                Ok(Some((first_seq, chunk))) => bytes += self.add(waiting, first_seq, &chunk),
                // It was cancelled.
                Ok(None) => {}
                Err(unread) => {
                    if matches!(unread, Unread::Later) {
                        std::thread::sleep(READ_AGAIN_AFTER);
                    }
                    break;
                }
            }
            rest = after;
        }
        let Self { broker, vhost, schedule, now_ms, cache, transfer, from, unroutable, .. } = self;
        let Outcome { done, stayed, full } = transfer.commit_listing();
        if !unroutable.is_empty() {
            transfer::purge(broker, &schedule.queue, &unroutable);
        }
        let tried = &messages[..messages.len() - rest.len()];
        let stayed = put_back(schedule, from, tried, &stayed, rest);
        let mut until = done.until;
        if schedule.agenda().noted() > CROWDED {
            let found_no_room: Vec<Waiting> = stayed.into_iter().map(|(waiting, _)| waiting).collect();
            until = until.max(postpone(broker, schedule, &found_no_room, now_ms, cache));
        } else {
            let mut agenda = schedule.agenda();
            for (waiting, obstacle) in stayed {
                match obstacle {
                    Obstacle::Unreadable => agenda.again(Waiting { due_ms: now_ms + SOON_MS, ..waiting }),
                    _ => agenda.stand(waiting, obstacle, epoch, now_ms),
                }
            }
        }
        await_room(vhost, schedule, from, full);
        until
    }

    /// Whether the queue that all stand behind has room for another one, as far as is known before one was tried.
    fn has_room(&self) -> bool {
        self.room.messages > 0 && (self.room.bytes > 0 || !self.transfer.has_any())
    }

    /// The chunk of a message; `None` when the message is gone.
    fn chunk_of(
        &mut self,
        waiting: &Waiting,
        chunks: &mut BTreeMap<Seq, Arc<Chunk>>,
    ) -> Result<Option<(Seq, Arc<Chunk>)>, Unread> {
        let queue = &self.schedule.queue;
        let located = queue.lock().machine.classic().and_then(|machine| machine.locate(waiting.seq));
        let Some((first_seq, residence)) = located else { return Ok(None) };
        if let Some(chunk) = chunks.get(&first_seq) {
            return Ok(Some((first_seq, chunk.clone())));
        }
        let chunk = read_chunk(self.broker, queue, first_seq, &residence, self.cache)?;
        chunks.insert(first_seq, chunk.clone());
        Ok(Some((first_seq, chunk)))
    }

    /// Adds a message to what is moved; how many bytes it has.
    fn add(&mut self, waiting: &Waiting, first_seq: Seq, chunk: &Chunk) -> usize {
        let place = chunk.find((waiting.seq - first_seq) as u32);
        let Some(record) = place.and_then(|place| chunk.record_at(place.offset)) else { return 0 };
        debug_assert_eq!(first_seq + Seq::from(record.delta()), waiting.seq);
        let route = route_of(&record);
        let (targets, traces) = self.way(&record, &route);
        if targets.is_empty() && traces.is_none() {
            self.unroutable.push((waiting.seq, waiting.seq));
            return record.len();
        }
        let moving = Moving {
            seq: waiting.seq,
            reason: None,
            flags: record.flags() & KEPT_FLAGS,
            publisher: record.publisher(),
            waits_until_ms: None,
            traces,
            route: &route,
            header: record.header(),
            body: record.body(),
        };
        self.transfer.add(&targets, moving);
        self.room.take_up(record.body().len() as u64);
        record.len()
    }

    /// Where a message goes.
    fn way(&mut self, record: &Record<'_>, route: &[u8]) -> (Targets, Option<Traces>) {
        // What was stored was checked when it came.
        let Ok(header) = HeaderView::parse(record.header()) else { return Default::default() };
        // The first of them is its identity.
        let extra_keys = extra_keys(header, record.hidden_keys().skip(1));
        let epoch = self.vhost.epoch();
        if let Some(known) = &self.known
            && known.epoch == epoch
            && known.route == route
            && extra_keys.is_empty()
        {
            return (known.targets.clone(), None);
        }
        let (exchange, key) = record.exchange_and_key();
        let (exchange, key) = (String::from_utf8_lossy(exchange), String::from_utf8_lossy(key));
        let extra_keys: SmallVec<[&str; 4]> = extra_keys.iter().map(String::as_str).collect();
        let draw = self.draws.next_draw();
        let routed = Routed { key: &key, extra_keys: &extra_keys, header: Some(header), draw };
        let way = self.vhost.find_way(&exchange, routed, true);
        let queues = way.queues.iter().filter_map(|&queue| self.vhost.queue_by_id(queue));
        let targets: Targets = queues.map(Target::new).collect();
        if !way.is_per_message {
            self.known = Some(Route { epoch, route: route.to_vec(), targets: targets.clone() });
        }
        (targets, way.traces)
    }
}

/// Puts those back that were not tried, and those that are still behind the queue behind which they were; the others that
/// stay, and why.
fn put_back(
    schedule: &Schedule,
    from: Line,
    tried: &[Waiting],
    stayed: &[((Seq, Seq), Obstacle)],
    rest: &[Waiting],
) -> Vec<(Waiting, Obstacle)> {
    let by_first: BTreeMap<Seq, (Seq, Obstacle)> =
        stayed.iter().map(|&((first, last), obstacle)| (first, (last, obstacle))).collect();
    let obstacle_of = |waiting: &Waiting| {
        let (_, &(last, obstacle)) = by_first.range(..=waiting.seq).next_back()?;
        (waiting.seq <= last).then_some((*waiting, obstacle))
    };
    // In the order in which they were due, which need not be that of their numbers.
    let stayed: Vec<_> = tried.iter().filter_map(obstacle_of).collect();
    let Line::Behind(queue) = from else {
        let mut agenda = schedule.agenda();
        rest.iter().for_each(|waiting| agenda.again(*waiting));
        return stayed;
    };
    let (behind, others): (Vec<_>, Vec<_>) =
        stayed.into_iter().partition(|&(_, obstacle)| obstacle == Obstacle::Full(queue));
    let behind = behind.into_iter().map(|(waiting, _)| waiting);
    let first: Vec<Waiting> = behind.chain(rest.iter().copied()).collect();
    schedule.agenda().stand_first(queue, &first);
    others
}

/// Has those that stand in lines go on when there is room for the first of them.
fn await_room(vhost: &VirtualHost, schedule: &Arc<Schedule>, from: Line, full: Vec<(QueueId, u64)>) {
    let mover = Mover::Schedule(Arc::downgrade(schedule));
    if let Line::Behind(queue) = from
        && full.iter().all(|&(other, _)| other != queue)
    {
        // How much the first one needs is known once it was tried.
        room::await_room(vhost, queue, 0, &mover);
    }
    for (queue, body_bytes) in full {
        room::await_room(vhost, queue, body_bytes, &mover);
    }
}

/// Puts messages that found no room back to where it costs no memory to wait.
fn postpone(
    broker: &Broker,
    schedule: &Schedule,
    messages: &[Waiting],
    now_ms: u64,
    cache: &mut Cache,
) -> Lsn {
    let due_ms = now_ms + RETRY_LATER_MS;
    let place = place(now_ms, due_ms);
    let queue = &schedule.queue;
    let mut transfer = Transfer::new(broker, queue, Mode::Ready, now_ms);
    for waiting in messages {
        let located = queue.lock().machine.classic().and_then(|machine| machine.locate(waiting.seq));
        let Some((first_seq, residence)) = located else { continue };
        match read_chunk(broker, queue, first_seq, &residence, cache) {
            Ok(chunk) => {
                let found = chunk.find((waiting.seq - first_seq) as u32);
                if let Some(record) = found.and_then(|found| chunk.record_at(found.offset)) {
                    add_move(&mut transfer, queue, &Waiting { due_ms, ..*waiting }, &record, place);
                }
            }
            Err(_) => schedule.agenda().again(Waiting { due_ms: now_ms + SOON_MS, ..*waiting }),
        }
    }
    let until = schedule.commit(transfer);
    schedule.agenda().arrived(place);
    until
}

#[cfg(test)]
mod tests {
    use posthouse_model::chunk::ChunkBuilder;
    use posthouse_model::ids::first_of_level;
    use posthouse_model::props::Properties;
    use posthouse_model::record::FLAG_MAYBE_DELIVERED;
    use posthouse_queue::machine::chunks::Persistence;

    use super::*;
    use crate::declare::QueueDeclaration;
    use crate::deliver;
    use crate::schedule::route_with_id;
    use crate::start::Keep;
    use crate::start::testing::{PLENTY_BYTES, broker};

    /// It does not matter how often it was moved since the broker started.
    #[test]
    fn what_may_have_been_delivered_says_so_however_often_it_is_moved() {
        let broker = broker(Keep::InMemory, PLENTY_BYTES);
        let vhost = broker.vhost("/").unwrap();
        let declaration = QueueDeclaration { name: "q".into(), ..QueueDeclaration::default() };
        let queue = broker.declare_queue(&vhost, declaration, 0).unwrap().queue;
        let schedule = broker.schedule_of(&vhost).unwrap();
        let (mut header, mut builder) = (Vec::new(), ChunkBuilder::default());
        Properties::default().encode(4, &mut header);
        builder.push(FLAG_MAYBE_DELIVERED, 1_000, &route_with_id(b"\0\x01q", 1, &[]), &header, 4, b"body");
        let (bytes, mut wakes) = (builder.bytes(), Vec::new());
        let mut state = schedule.queue.lock();
        let seq = state.machine.push_copied(3, bytes, 1, Persistence::Transient, 0, &mut wakes);
        drop(state);
        // Far from the clock's time: nobody else takes it.
        let (now_ms, mut cache, mut draws) =
            (crate::clock::now_ms() + 86_400_000, Cache::new(&broker), Draws::seeded());
        let waiting = Waiting { due_ms: 1_000, id: 1, seq };
        postpone(&broker, &schedule, &[waiting], now_ms, &mut cache);
        let seq = first_of_level(place(now_ms, now_ms + RETRY_LATER_MS).level);
        let waiting = Waiting { seq, ..waiting };
        let due = (Line::New, Room::UNLIMITED);
        let handover = Handover::new(&broker, &vhost, &schedule, due, now_ms, (&mut cache, &mut draws));
        handover.hand_over(&[waiting]);
        let run = deliver::get(&broker, &queue, true, &Arc::default()).1.unwrap();
        assert!(run.chunk.record_at(run.offset).unwrap().redelivered());
    }
}
