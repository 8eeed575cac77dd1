//! Handing over what is due: each message is routed, and moved to the queues that it goes to.

use std::collections::BTreeMap;
use std::sync::Arc;

use posthouse_model::chunk::Chunk;
use posthouse_model::ids::{Lsn, Seq};
use posthouse_model::props::HeaderView;
use posthouse_model::raw_table::RawValue;
use posthouse_model::record::{FLAG_PERSISTENT, Record};
use posthouse_queue::schedule::Waiting;
use posthouse_queue::schedule::wheel::place;
use posthouse_queue::topology::Routed;
use smallvec::SmallVec;

use super::reading::{Cache, KEPT_FLAGS, Unread, add_move, read_chunk};
use super::{Schedule, route_of};
use crate::broker::Broker;
use crate::draws::Draws;
use crate::history::Publication;
use crate::residency::READ_AGAIN_AFTER;
use crate::seen::Awaited;
use crate::transfer::{self, Mode, Moving, Target, Targets, Transfer};
use crate::vhost::VirtualHost;

/// Bytes of records handed over in one step.
const STEP_BYTES: usize = 1 << 20;

/// How long a message rests whose queue has no room.
const RETRY_MS: u64 = 1_000;

/// The same while more messages than [`CROWDED`] are noted one by one: they are not any more.
const RETRY_LATER_MS: u64 = 60_000;
const CROWDED: usize = 256 << 10;

pub(super) struct Handover<'a> {
    broker: &'a Broker,
    vhost: &'a VirtualHost,
    schedule: &'a Schedule,
    now_ms: u64,
    cache: &'a mut Cache,
    draws: &'a mut Draws,
    transfer: Transfer<'a>,
    /// Those that go nowhere.
    unroutable: Vec<(Seq, Seq)>,
    /// Those that deduplication exchanges drop, and what of that is not certain yet.
    duplicates: Vec<(Waiting, Awaited)>,
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
    pub(super) fn new(
        broker: &'a Broker,
        vhost: &'a VirtualHost,
        schedule: &'a Schedule,
        now_ms: u64,
        cache: &'a mut Cache,
        draws: &'a mut Draws,
    ) -> Self {
        let transfer = Transfer::new(broker, &schedule.queue, Mode::Ready, now_ms).compared_in(vhost);
        let (unroutable, duplicates, known) = Default::default();
        Self { broker, vhost, schedule, now_ms, cache, draws, transfer, unroutable, duplicates, known }
    }

    /// Hands messages over, as many as one step takes; the others are due still. The position up to which the log must be
    /// on disk before the schedule settles them, 0 for none.
    pub(super) fn hand_over(mut self, due: Vec<Waiting>) -> Lsn {
        let (mut bytes, mut chunks) = (0, BTreeMap::new());
        let mut rest = due.iter();
        let mut handed_over = Vec::new();
        while bytes < STEP_BYTES
            && let Some(waiting) = rest.next()
        {
            match self.chunk_of(waiting, &mut chunks) {
                Ok(Some((first_seq, chunk))) => {
                    bytes += self.add(waiting, first_seq, &chunk);
                    handed_over.push(*waiting);
                }
                // It was cancelled.
                Ok(None) => {}
                Err(unread) => {
                    self.schedule.agenda().again(*waiting);
                    if matches!(unread, Unread::Later) {
                        std::thread::sleep(READ_AGAIN_AFTER);
                    }
                    break;
                }
            }
        }
        let Self { broker, schedule, now_ms, cache, transfer, mut unroutable, duplicates, .. } = self;
        let (done, left) = transfer.commit_listing();
        let stays = |seq: Seq| left.iter().any(|&(first, last)| (first..=last).contains(&seq));
        let mut undecided = Vec::new();
        for (waiting, awaited) in duplicates {
            // What it is a duplicate of may be refused, or cancelled yet.
            match awaited.iter().all(|verdict| verdict.has_place() == Some(true)) {
                true => unroutable.push((waiting.seq, waiting.seq)),
                false => undecided.push(waiting),
            }
        }
        if !unroutable.is_empty() {
            transfer::purge(broker, &schedule.queue, &unroutable);
        }
        let crowded = {
            let mut agenda = schedule.agenda();
            rest.for_each(|waiting| agenda.again(*waiting));
            agenda.noted() > CROWDED
        };
        if left.is_empty() && undecided.is_empty() {
            return done.until;
        }
        handed_over.retain(|waiting| stays(waiting.seq));
        handed_over.append(&mut undecided);
        if crowded {
            return done.until.max(postpone(broker, schedule, &handed_over, now_ms, cache));
        }
        let mut agenda = schedule.agenda();
        for waiting in handed_over {
            agenda.again(Waiting { due_ms: now_ms + RETRY_MS, ..waiting });
        }
        done.until
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
        let Some(targets) = self.targets(waiting, &record, &route) else { return record.len() };
        if targets.is_empty() {
            self.unroutable.push((waiting.seq, waiting.seq));
            return record.len();
        }
        let moving = Moving {
            seq: waiting.seq,
            reason: None,
            flags: record.flags() & KEPT_FLAGS,
            publisher: record.publisher(),
            waits_until_ms: None,
            route: &route,
            header: record.header(),
            body: record.body(),
        };
        self.transfer.add(&targets, moving);
        record.len()
    }

    /// Where a message goes; `None` when a deduplication exchange drops it.
    fn targets(&mut self, waiting: &Waiting, record: &Record<'_>, route: &[u8]) -> Option<Targets> {
        // What was stored was checked when it came.
        let Ok(header) = HeaderView::parse(record.header()) else { return Some(Targets::new()) };
        let (epoch, extra_keys) = (self.vhost.epoch(), extra_keys(header, record));
        if let Some(known) = &self.known
            && known.epoch == epoch
            && known.route == route
            && extra_keys.is_empty()
        {
            return Some(known.targets.clone());
        }
        let (exchange, key) = record.exchange_and_key();
        let text = |bytes| String::from_utf8_lossy(bytes);
        let is_persistent = record.flags() & FLAG_PERSISTENT != 0;
        let (header_bytes, body) = (record.header(), record.body());
        let publication = Publication { route, is_persistent, header: header_bytes, body };
        let draw = self.draws.next_draw();
        let extra_keys: SmallVec<[&str; 4]> = extra_keys.iter().map(String::as_str).collect();
        let key = text(key);
        let routed = Routed { key: &key, extra_keys: &extra_keys, header: Some(header), draw };
        let found = self.vhost.route_due(&text(exchange), routed, publication, self.now_ms);
        if found.swallowed {
            self.duplicates.push((*waiting, found.compared.awaited));
            return None;
        }
        let queues = found.queues.iter().filter_map(|&queue| self.vhost.queue_by_id(queue));
        let targets: Targets = queues.map(Target::new).collect();
        if !found.is_per_message {
            self.known = Some(Route { epoch, route: route.to_vec(), targets: targets.clone() });
        }
        if targets.is_empty() {
            self.vhost.forget_seen(&found.compared.seen);
        } else {
            self.transfer.has_seen(waiting.seq, found.compared.seen);
        }
        Some(targets)
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
            Err(_) => schedule.agenda().again(Waiting { due_ms: now_ms + RETRY_MS, ..*waiting }),
        }
    }
    let until = schedule.commit(transfer);
    schedule.agenda().arrived(place);
    until
}

/// The keys of the `CC` header, and those that a `BCC` header had.
fn extra_keys(header: HeaderView<'_>, record: &Record<'_>) -> Vec<String> {
    let text = |key| String::from_utf8_lossy(key).into_owned();
    let mut keys: Vec<String> = record.hidden_keys().skip(1).map(text).collect();
    if let Some(RawValue::Array(more)) = header.headers().and_then(|table| table.get(b"CC")) {
        keys.extend(more.iter().filter_map(|key| match key {
            RawValue::LongStr(key) => Some(text(key)),
            _ => None,
        }));
    }
    keys
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
        Handover::new(&broker, &vhost, &schedule, now_ms, &mut cache, &mut draws).hand_over(vec![waiting]);
        let run = deliver::get(&broker, &queue, true, &Arc::default()).1.unwrap();
        assert!(run.chunk.record_at(run.offset).unwrap().redelivered());
    }
}
