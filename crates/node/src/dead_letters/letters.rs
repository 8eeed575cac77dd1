//! What becomes of messages that leave a queue: the letters they make, and where those go.

use std::sync::Arc;

use posthouse_model::chunk::Chunk;
use posthouse_model::deaths::{self, Death};
use posthouse_model::ids::QueueId;
use posthouse_model::props::HeaderView;
use posthouse_model::record::{FLAG_DEATHS, FLAG_MAYBE_DELIVERED, FLAG_PERSISTENT, FLAG_REDELIVERED, Record};
use posthouse_queue::machine::departures::Reason;
use posthouse_queue::machine::leaving::stalled::{Line, Obstacle};
use posthouse_queue::machine::leaving::{DeadLetterTarget, Parcel, Run};
use posthouse_queue::machine::limits::Room;
use posthouse_queue::topology::Routed;
use posthouse_storage::segment::Location;
use smallvec::SmallVec;

use super::reading::Reading;
use crate::broker::Broker;
use crate::clock::now_ms;
use crate::draws::Draws;
use crate::queue_handle::QueueHandle;
use crate::residency;
use crate::transfer::{Done, Mode, Moving, Outcome, Target, Targets, Transfer, extra_keys};
use crate::vhost::{Traces, VirtualHost};

/// What came of moving messages of a line.
#[derive(Debug, Default)]
pub(super) struct Moved {
    pub(super) done: Done,
    /// Queues that had no room, and the body of the first message for which they had none.
    pub(super) full: Vec<(QueueId, u64)>,
    /// How many messages there were.
    pub(super) count: u64,
}

/// Moves the messages that are first in a line of a queue, up to `most` bytes of records, and of those that stand behind a
/// queue as many as it has room for.
pub(super) fn move_some(
    broker: &Arc<Broker>,
    vhost: &VirtualHost,
    queue: &Arc<QueueHandle>,
    (from, most): (Line, usize),
    draws: &mut Draws,
) -> Moved {
    let room = match from {
        Line::Behind(target) => {
            let room = vhost.queue_by_id(target).map(|target| target.lock().machine.room());
            room.map(|room| (target, room))
        }
        Line::New | Line::Apart => None,
    };
    let (parcels, target, keeps) = {
        let mut state = queue.lock();
        let had_too_many = state.machine.has_too_many_drops();
        let Some(machine) = state.machine.classic() else { return Moved::default() };
        let Some(target) = machine.dead_letter_target() else { return Moved::default() };
        let parcels = machine.take_leaving(from, most, |location: Location| location.len as usize);
        let keeps = machine.settings().keeps_dead_letters();
        if had_too_many && !machine.has_too_many_drops() {
            residency::let_publishers_go_on(&mut state);
        }
        (parcels, target, keeps)
    };
    let now_ms = now_ms();
    let mut letters = Letters {
        vhost,
        queue: &queue.definition.name,
        target,
        keeps,
        seconds: now_ms / 1000,
        draws,
        transfer: Transfer::new(broker, queue, Mode::Leaving(from), now_ms).entering(vhost),
        room,
        known: None,
    };
    let mut reading = Reading::default();
    let mut count = 0;
    for parcel in parcels {
        count += parcel.run.count();
        if letters.stays_behind(parcel.run) {
            continue;
        }
        match reading.chunk_of(&parcel, || super::reading::read(broker, queue, &parcel)) {
            Some(chunk) => letters.add_all(&parcel, &chunk),
            None => letters.transfer.stall(parcel.run, Obstacle::Unreadable),
        }
    }
    let Outcome { done, full, .. } = letters.transfer.commit_listing();
    Moved { done, full, count }
}

/// Makes dead letters of one queue's messages.
struct Letters<'a> {
    vhost: &'a VirtualHost,
    queue: &'a str,
    target: DeadLetterTarget,
    keeps: bool,
    seconds: u64,
    draws: &'a mut Draws,
    transfer: Transfer<'a>,
    /// The queue that all of them stand behind, and how much it has room for still.
    room: Option<(QueueId, Room)>,
    /// The last route that other messages may share.
    known: Option<Route>,
}

/// Where messages with a key go.
struct Route {
    epoch: u64,
    key: Vec<u8>,
    targets: Targets,
}

impl Letters<'_> {
    fn add_all(&mut self, parcel: &Parcel<Location>, chunk: &Chunk) {
        let run = parcel.run;
        let first = (run.first - parcel.first_seq) as u32;
        let Some(mut place) = chunk.find(first) else { return };
        while let Some(record) = chunk.record_at(place.offset) {
            let seq = parcel.first_seq + u64::from(record.delta());
            if seq > run.last || self.stays_behind(Run { first: seq, ..run }) {
                break;
            }
            self.add(&record, Run { first: seq, last: seq, ..run });
            if let Some((_, room)) = &mut self.room {
                room.take_up(record.body().len() as u64);
            }
            place.offset += record.len() as u32;
        }
    }

    /// Whether a run stays where it is, unread, because there is no more room.
    fn stays_behind(&mut self, run: Run) -> bool {
        // The first one is tried although there are no bytes left: it may have none, and if not it is known how many it needs.
        let full =
            self.room.filter(|(_, room)| room.messages == 0 || room.bytes == 0 && self.transfer.has_any());
        if let Some((target, _)) = full {
            self.transfer.stall_behind(run, Obstacle::Full(target));
        }
        full.is_some()
    }

    fn add(&mut self, record: &Record<'_>, run: Run) {
        // What was stored was checked when it came.
        let Ok(header) = HeaderView::parse(record.header()) else { return self.transfer.drop_run(run) };
        let (exchange, routing_key) = record.exchange_and_key();
        let death = Death {
            queue: self.queue,
            reason: run.reason.name(),
            exchange,
            routing_key,
            seconds: self.seconds,
        };
        let new_key = self.target.routing_key.clone();
        let header = deaths::after_death(header, record.has_deaths(), &death, new_key.is_some());
        let key = new_key.as_ref().map_or(routing_key, |key| key.as_bytes());
        let Ok(view) = HeaderView::parse(&header) else { return self.transfer.drop_run(run) };
        let mut route = Vec::with_capacity(2 + self.target.exchange.len() + key.len());
        for text in [self.target.exchange.as_bytes(), key] {
            route.push(text.len() as u8);
            route.extend_from_slice(text);
        }
        let mut flags = record.flags() & (FLAG_PERSISTENT | FLAG_MAYBE_DELIVERED) | FLAG_DEATHS;
        if run.reason.marks_redelivered() {
            flags |= FLAG_REDELIVERED;
        }
        let body = record.body();
        if new_key.is_none() {
            // Dead once more, it goes by them again.
            for hidden in record.hidden_keys() {
                route.push(hidden.len() as u8);
                route.extend_from_slice(hidden);
            }
        }
        let hidden_keys = record.hidden_keys().filter(|_| new_key.is_none());
        let extra_keys = extra_keys(view, hidden_keys);
        let (mut targets, traces) = self.route(key, &extra_keys, view);
        let found = targets.len();
        if !matches!(run.reason, Reason::Rejected | Reason::Nacked) {
            targets.retain(|target| !deaths::is_cycle(view, &target.queue.definition.name));
        }
        match (targets.is_empty(), found) {
            (true, 0) if self.keeps => self.transfer.stall(run, Obstacle::NoPlace),
            (true, _) if traces.is_none() => self.transfer.drop_run(run),
            _ => {
                let (seq, reason) = (run.first, Some(run.reason));
                let (waits_until_ms, route, header) = (None, &route[..], &header[..]);
                let publisher = record.publisher();
                let moving =
                    Moving { seq, reason, flags, publisher, waits_until_ms, traces, route, header, body };
                self.transfer.add(&targets, moving)
            }
        }
    }

    fn route(
        &mut self,
        key: &[u8],
        extra_keys: &[String],
        header: HeaderView<'_>,
    ) -> (Targets, Option<Traces>) {
        let epoch = self.vhost.epoch();
        if let Some(known) = &self.known
            && known.epoch == epoch
            && known.key == key
            && extra_keys.is_empty()
        {
            return (known.targets.clone(), None);
        }
        let key_text = String::from_utf8_lossy(key);
        let extra_keys: SmallVec<[&str; 4]> = extra_keys.iter().map(String::as_str).collect();
        let draw = self.draws.next_draw();
        let routed = Routed { key: &key_text, extra_keys: &extra_keys, header: Some(header), draw };
        let way = self.vhost.find_way(&self.target.exchange, routed, false);
        let queues = way.queues.iter().filter_map(|&queue| self.vhost.queue_by_id(queue));
        let targets: Targets = queues.map(Target::new).collect();
        if !way.is_per_message {
            self.known = Some(Route { epoch, key: key.to_vec(), targets: targets.clone() });
        }
        (targets, way.traces)
    }
}
