//! `basic.publish`: from frames to a batch for the target queues.

use posthouse_amqp::assembler::Step;
use posthouse_amqp::deliver::Return;
use posthouse_amqp::frame::{self, Frame, FrameKind};
use posthouse_amqp::publish::PublishView;
use posthouse_model::errors::{self, Permission, ResourceKind};
use posthouse_model::props::HeaderView;
use posthouse_model::reply::ReplyError;
use posthouse_node::history::Publication;
use posthouse_node::publish::{Origin, SlotId};
use posthouse_node::seen::SeenOfMessage;
use posthouse_queue::topology::Routed;

use super::channel::Incoming;
use super::confirms::Confirms;
use super::firehose::Traced;
use super::routes::Route;
use super::session::{Failure, Session};
use super::special::Special;

/// Class and method id of `basic.publish`.
pub(crate) const PUBLISH_IDS: (u16, u16) = (60, 40);

/// So many messages of the largest size may have been received in part on one connection.
const UNFINISHED_MESSAGES_MAX: usize = 4;

/// What may have been received in part where messages may only be small: a frame or two on every channel.
const UNFINISHED_BYTES_MIN: usize = 16 << 20;

impl Session {
    /// Takes a `basic.publish` frame and, when they follow whole in `rest`, its header and body; how many bytes of
    /// `rest` they took.
    pub(crate) fn on_publish(&mut self, number: u16, payload: &[u8], rest: &[u8]) -> Result<usize, Failure> {
        let max_payload = self.max_payload();
        let Some(channel) = self.channel(number) else {
            return Err(Failure { error: errors::expected_channel_open(), ids: PUBLISH_IDS });
        };
        if channel.is_closing {
            return Ok(0);
        }
        if !channel.assembler.in_content()
            && let Some((header, body, bytes)) = whole_content(number, rest, max_payload)
            && self.care.can_read(header)
        {
            match self.message(number, payload, header, body) {
                Ok(()) => {}
                Err(error) => self.fail(number, Failure { error, ids: PUBLISH_IDS })?,
            }
            return Ok(bytes);
        }
        let frame = Frame { kind: FrameKind::Method, channel: number, payload };
        let Some(channel) = self.channel(number) else { return Ok(0) };
        channel.assembler.step(&frame).map_err(|e| Failure { error: e.reply(), ids: e.ids() })?;
        let (header, body) = (Vec::new(), Vec::new());
        channel.incoming =
            Some(Box::new(Incoming { publish: payload.to_vec(), header, body, refused: None }));
        self.count_unfinished(payload.len())?;
        Ok(0)
    }

    /// Takes a content frame of a message that came in pieces.
    pub(crate) fn on_content(&mut self, frame: &Frame<'_>) -> Result<usize, Failure> {
        let max_message = self.broker.settings().max_message_bytes;
        let Some(channel) = self.channel(frame.channel) else {
            return Err(Failure::general(errors::expected_channel_open()));
        };
        if channel.is_closing {
            return Ok(0);
        }
        let step = channel.assembler.step(frame).map_err(|e| Failure { error: e.reply(), ids: e.ids() })?;
        let Some(incoming) = channel.incoming.as_deref_mut() else { return Ok(0) };
        let before = incoming.bytes();
        let complete = match step {
            Step::Method(_) => false,
            Step::Header(header) => {
                incoming.header.extend_from_slice(header.payload());
                if header.body_size() > max_message {
                    incoming.refused = Some(errors::message_too_large(header.body_size(), max_message));
                }
                header.body_size() == 0
            }
            Step::Body { bytes, complete } => {
                if incoming.refused.is_none() {
                    incoming.body.extend_from_slice(bytes);
                }
                complete
            }
        };
        let more = incoming.bytes() - before;
        self.count_unfinished(more)?;
        if complete {
            self.on_complete(frame.channel)?;
        }
        Ok(0)
    }

    /// Notes that so much more was received of messages whose rest has not come. A client could start one on every
    /// channel and finish none.
    fn count_unfinished(&mut self, bytes: usize) -> Result<(), Failure> {
        self.unfinished_bytes += bytes;
        let one = self.broker.settings().max_message_bytes as usize;
        let max = one.saturating_mul(UNFINISHED_MESSAGES_MAX).max(UNFINISHED_BYTES_MIN);
        if self.unfinished_bytes <= max {
            return Ok(());
        }
        let error = errors::too_many_unfinished_bytes(self.unfinished_bytes, max);
        Err(Failure { error, ids: PUBLISH_IDS })
    }

    fn on_complete(&mut self, number: u16) -> Result<(), Failure> {
        let Some(incoming) = self.channel(number).and_then(|c| c.incoming.take()) else { return Ok(()) };
        self.unfinished_bytes -= incoming.bytes();
        let outcome = match incoming.refused {
            Some(error) => Err(error),
            None => match HeaderView::parse(&incoming.header) {
                Ok(header) => self.message(number, &incoming.publish, header, &incoming.body),
                Err(_) => Ok(()),
            },
        };
        outcome.or_else(|error| self.fail(number, Failure { error, ids: PUBLISH_IDS }))
    }

    /// A whole message is there: keeps it for the transaction, or publishes it.
    fn message(
        &mut self,
        number: u16,
        publish: &[u8],
        header: HeaderView<'_>,
        body: &[u8],
    ) -> Result<(), ReplyError> {
        if body.len() as u64 > self.broker.settings().max_message_bytes {
            return Err(errors::message_too_large(
                body.len() as u64,
                self.broker.settings().max_message_bytes,
            ));
        }
        if !self.publishes || self.broker.alarm_on() {
            self.note_publisher();
        }
        let index = self.route_of(publish)?;
        let Some(channel) = self.channel(number) else { return Ok(()) };
        if channel.transaction.is_some() {
            self.check_special(number, index, header)?;
            let transaction = self.channel(number).and_then(|channel| channel.transaction.as_mut());
            let bytes = transaction.map_or(0, |t| t.publish(publish, header.payload(), body));
            return self.count_transaction(bytes);
        }
        if let Some(confirms) = &mut channel.confirms {
            confirms.published();
            if !channel.is_confirming {
                channel.is_confirming = true;
                self.confirming.push(number);
            }
        }
        let outcome = self.publish(number, index, header, body);
        if outcome.is_err()
            && let Some(confirms) = self.channel(number).and_then(|channel| channel.confirms.as_mut())
        {
            confirms.refused();
        }
        outcome
    }

    /// Refuses now what publishing this message in a transaction would refuse when it is committed.
    pub(crate) fn check_special(
        &mut self,
        number: u16,
        index: usize,
        header: HeaderView<'_>,
    ) -> Result<(), ReplyError> {
        if self.care.is_needed(header) {
            let route = self.routes.get(index);
            let special = self.special_of(number, &route.exchange, header)?;
            let fixed = !route.is_per_message && special.extra_keys.is_empty();
            if !fixed || route.slot.is_some_and(|slot| self.publisher.has_numbered(slot)) {
                Self::check_numbered(header)?;
            }
        }
        Ok(())
    }

    /// Publishes a message along a remembered route.
    pub(crate) fn publish(
        &mut self,
        number: u16,
        index: usize,
        header: HeaderView<'_>,
        body: &[u8],
    ) -> Result<(), ReplyError> {
        let is_special = self.care.is_needed(header);
        let route = self.routes.get(index);
        if is_special || route.is_per_message {
            return self.publish_with_care(number, index, header, body);
        }
        match route.slot {
            Some(slot) => {
                self.publisher.append(slot, header.is_persistent(), &route.bytes, header.payload(), body);
                if self.publisher.may_refuse(slot) {
                    self.note_origin(number, slot);
                }
            }
            None if route.mandatory => {
                let route = self.routes.get(index).clone();
                self.send_back(number, &route, header, body);
            }
            None => {}
        }
        Ok(())
    }

    /// The remembered route of a `basic.publish` payload, found now if it is new. Valid until the next one is found.
    pub(crate) fn route_of(&mut self, payload: &[u8]) -> Result<usize, ReplyError> {
        if let Some(index) = self.routes.find(payload) {
            return Ok(index);
        }
        let view = PublishView::parse(payload).map_err(|e| e.reply())?;
        if view.immediate {
            return Err(errors::immediate_not_supported());
        }
        self.may_publish(view.exchange)?;
        self.may_use_key(Permission::Write, view.exchange, view.routing_key)?;
        // A choice by chance is made for every message; what is found here says whether there is one.
        let found = self.peer.vhost.route(view.exchange, view.routing_key)?;
        if self.routes.is_full() {
            self.routes.forget();
        }
        let slot = self.slot_for(&found.queues);
        let route = Route {
            slot,
            mandatory: view.mandatory && !found.swallowed,
            is_per_message: found.is_per_message || self.peer.vhost.is_traced(),
            bytes: view.route.into(),
            exchange: view.exchange.into(),
            key: view.routing_key.into(),
        };
        Ok(self.routes.insert(payload, route))
    }

    /// Publishes a message whose properties matter to the broker, or whose targets are its own.
    fn publish_with_care(
        &mut self,
        number: u16,
        index: usize,
        header: HeaderView<'_>,
        body: &[u8],
    ) -> Result<(), ReplyError> {
        let route = self.routes.get(index).clone();
        let special = self.special_of(number, &route.exchange, header)?;
        if let Some(due_ms) = special.due_ms {
            return self.publish_later(number, &route, header, body, &special, due_ms);
        }
        let persistent = header.is_persistent();
        let kept = special.header.as_deref().unwrap_or(header.payload());
        let (mut is_mandatory, mut seen) = (route.mandatory, SeenOfMessage::new());
        let vhost = self.peer.vhost.clone();
        let slot = if route.is_per_message || !special.extra_keys.is_empty() {
            let draw = self.draws.next_draw();
            let message = Publication { route: &route.bytes, is_persistent: persistent, header: kept, body };
            let extra_keys: Vec<&str> = special.extra_keys.iter().map(String::as_str).collect();
            let routed = Routed { key: &route.key, extra_keys: &extra_keys, header: Some(header), draw };
            let found = vhost.route_and_keep(&route.exchange, routed, message, self.publisher.received_ms)?;
            if vhost.is_traced() {
                let message = Traced { exchange: &route.exchange, key: &route.key, header, body };
                self.trace_publish(number, message, &found.queues);
            }
            is_mandatory &= !found.swallowed;
            seen = found.compared.seen;
            if found.compared.is_duplicate {
                self.note_duplicate(number, found.compared.awaited);
            }
            self.slot_for(&found.queues)
        } else {
            route.slot
        };
        let Some(slot) = slot else {
            // The queues that it was to go to are gone.
            vhost.forget_seen(&seen);
            if is_mandatory {
                self.send_back(number, &route, header, body);
            }
            return Ok(());
        };
        let numbered = match self.publisher.has_numbered(slot) {
            true => Self::check_numbered(header).inspect_err(|_| vhost.forget_seen(&seen))?,
            false => false,
        };
        let mut bytes = std::borrow::Cow::from(&route.bytes[..]);
        if !special.hidden_keys.is_empty() {
            bytes.to_mut().extend_from_slice(&special.hidden_keys);
        }
        self.publisher.append(slot, persistent, &bytes, kept, body);
        if !seen.is_empty() {
            self.publisher.note_seen(slot, &vhost, seen);
        }
        if numbered {
            self.publisher.note_numbered(slot);
        }
        if self.publisher.may_refuse(slot) {
            self.note_origin(number, slot);
        }
        Ok(())
    }

    /// Gathers one of the broker's own messages: when a queue has no room for it, nobody is told.
    pub(crate) fn append_own(
        &mut self,
        slot: SlotId,
        persistent: bool,
        route: &[u8],
        header: &[u8],
        body: &[u8],
    ) {
        const NOBODY: u16 = 0;
        self.publisher.append(slot, persistent, route, header, body);
        if self.publisher.may_refuse(slot) {
            self.publisher.note_origin(slot, (NOBODY, 0));
        }
    }

    /// Says which publish the message is that was appended last.
    pub(crate) fn note_origin(&mut self, number: u16, slot: SlotId) {
        let origin = self.origin(number);
        self.publisher.note_origin(slot, origin);
    }

    /// The last publish of a channel.
    pub(crate) fn origin(&mut self, number: u16) -> Origin {
        let confirms = self.channel(number).and_then(|channel| channel.confirms.as_ref());
        (number, confirms.map_or(0, Confirms::last_published))
    }

    /// What a message's properties ask of the broker, if its publisher may ask that.
    fn special_of(&self, number: u16, exchange: &str, header: HeaderView<'_>) -> Result<Special, ReplyError> {
        let channel = self.channels.get(usize::from(number)).and_then(Option::as_deref);
        let reply_queue = channel.and_then(|channel| channel.reply_queue.as_deref());
        let special = Special::read(header, &self.peer.identity, reply_queue, self.publisher.received_ms)?;
        let mut keys = special.extra_keys.iter();
        keys.try_for_each(|key| self.may_use_key(Permission::Write, exchange, key))?;
        Ok(special)
    }

    fn may_publish(&mut self, exchange: &str) -> Result<(), ReplyError> {
        self.may(Permission::Write, ResourceKind::Exchange, exchange)
    }

    /// Where messages for these queues are gathered. Remembered routes may be forgotten for it.
    pub(crate) fn slot_for(&mut self, queues: &[posthouse_model::ids::QueueId]) -> Option<SlotId> {
        if self.publisher.is_crowded() {
            self.publisher.forget_routes();
            self.routes.forget();
        }
        let vhost = self.peer.vhost.clone();
        self.publisher.slot(queues, |id| vhost.queue_by_id(id))
    }

    pub(crate) fn send_back(&mut self, number: u16, route: &Route, header: HeaderView<'_>, body: &[u8]) {
        let returned = Return::no_route(&route.bytes);
        returned.write(&mut self.out.bytes, number, header.payload(), body, self.peer.frame_max);
    }
}

/// The content header and the body at the start of `rest`, when they are there whole, well-formed, on this channel,
/// with the body in one frame at most; and how many bytes they take.
#[inline]
fn whole_content(number: u16, rest: &[u8], max_payload: usize) -> Option<(HeaderView<'_>, &[u8], usize)> {
    let (header_frame, header_bytes) = frame::next_frame(rest, max_payload).ok()??;
    if header_frame.kind != FrameKind::Header || header_frame.channel != number {
        return None;
    }
    let header = HeaderView::parse(header_frame.payload).ok()?;
    if header.class() != posthouse_model::props::CLASS_BASIC {
        return None;
    }
    let size = header.body_size();
    if size == 0 {
        return Some((header, &[], header_bytes));
    }
    let (body, body_bytes) = frame::next_frame(&rest[header_bytes..], max_payload).ok()??;
    let whole = body.kind == FrameKind::Body && body.channel == number && body.payload.len() as u64 == size;
    whole.then_some((header, body.payload, header_bytes + body_bytes))
}
