//! One open AMQP connection: its channels, consumers and buffers. Bytes in, bytes out; the socket is elsewhere.
//!
//! Work is done per batch: what one read brought is processed whole, then messages are handed to their queues,
//! acknowledgements settled, confirms noted, and consumers served, each once.

use std::collections::VecDeque;
use std::sync::Arc;

use posthouse_amqp::frame::{self, Frame, FrameKind};
use posthouse_amqp::method::{Method, write_method};
use posthouse_auth::authorities::Identity;
use posthouse_auth::permissions::Access;
use posthouse_model::errors;
use posthouse_model::reply::{ReplyCode, ReplyError, Scope};
use posthouse_node::broker::Broker;
use posthouse_node::connections::{ConnectionInfo, Place};
use posthouse_node::deadlines::NEVER_MS;
use posthouse_node::declare::DeleteIf;
use posthouse_node::draws::Draws;
use posthouse_node::positions::{Awaited, Positions};
use posthouse_node::publish::{Origin, Publisher};
use posthouse_node::queue_handle::QueueHandle;
use posthouse_node::quotas::{Quota, UsedUp};
use posthouse_node::vhost::VirtualHost;
use posthouse_node::waker::{Inbox, SessionWaker};
use posthouse_queue::machine::Run;

use super::channel::Channel;
use super::consumer::Consumers;
use super::duplicates::{Duplicates, Wait};
use super::outbox::{FULL_BYTES, Outbox};
use super::routes::Routes;
use super::settling::Settling;
use super::special::Care;
use super::unacked::Outstanding;

/// What was negotiated while the connection was opened, and who is at the other end.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Who logged in.
    pub identity: Arc<Identity>,
    /// Where to.
    pub vhost: Arc<VirtualHost>,
    /// Highest number of open channels.
    pub channel_max: u16,
    /// Largest frame, head and end included.
    pub frame_max: u32,
    /// Whether it wants `basic.cancel` when its queue goes.
    pub consumer_cancel_notify: bool,
    /// Whether it wants `connection.blocked`.
    pub connection_blocked: bool,
    /// Whether `basic.qos` without `global` is to change the prefetch of consumers that have started, too.
    pub qos_of_specification: bool,
    /// Its entry in the list of connections.
    pub info: Arc<ConnectionInfo>,
    /// Its place among the connections of its user and virtual host.
    pub place: Place,
}

/// An error with the method that caused it.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What the client is told.
    pub error: ReplyError,
    /// Class and method id; zero for errors that no method caused.
    pub ids: (u16, u16),
}

impl Failure {
    /// An error that no method caused.
    pub(crate) fn general(error: ReplyError) -> Self {
        Self { error, ids: (0, 0) }
    }
}

/// What the connection's task is to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Progress {
    /// Go on.
    Open,
    /// `connection.close` came and was answered: write what is pending, then close the socket.
    Closed,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) broker: Arc<Broker>,
    pub(crate) peer: Peer,
    pub(crate) access: Access,
    pub(crate) waker: Arc<SessionWaker>,
    pub(crate) channels: Vec<Option<Box<Channel>>>,
    pub(crate) open_channels: usize,
    pub(crate) consumers: Consumers,
    pub(crate) publisher: Publisher,
    pub(crate) routes: Routes,
    /// Which messages need more than their route.
    pub(crate) care: Care,
    /// What exchanges that choose by chance choose with.
    pub(crate) draws: Draws,
    pub(crate) settling: Settling,
    pub(crate) out: Outbox,
    /// Channels with publishes to be confirmed, in this batch or waiting.
    pub(crate) confirming: Vec<u16>,
    /// Channels whose `tx.commit` waits to be durable.
    pub(crate) committing: Vec<u16>,
    /// Nothing may be written before this position is passed: replies promise durable definitions.
    pub(crate) gate: Positions,
    /// Channels whose `basic.get` waits for a message to be read from its segment, with the method's fields.
    pub(crate) deferred: VecDeque<super::get::DeferredGet>,
    /// Whether a publish was seen while an alarm was on.
    pub(crate) blocked: bool,
    /// Publishes were seen on this connection.
    pub(crate) publishes: bool,
    /// Exclusive queues of this connection.
    pub(crate) exclusive: Vec<Arc<QueueHandle>>,
    /// Bytes of messages that were received in part, on all channels.
    pub(crate) unfinished_bytes: usize,
    /// Bytes that transactions hold, on all channels.
    pub(crate) transaction_bytes: usize,
    /// Memory lent to acknowledgements.
    pub(crate) acked: Vec<Outstanding>,
    /// Memory lent to deliveries.
    pub(crate) runs: Vec<Run>,
    /// What is published is charged to these; absent when nothing is limited.
    pub(crate) quota: Option<Quota>,
    /// Publishes to be answered that deduplication exchanges dropped.
    pub(crate) duplicates: Duplicates,
    /// Which quotas were used up when they were last looked at.
    pub(crate) used_up: UsedUp,
    /// The broker ends the connection of its own accord: what comes back by that has not failed.
    pub(crate) forced: bool,
    /// When the session is woken because of deliveries that are due.
    pub(crate) deadline_ms: u64,
    awaited: Awaited,
    progress: Progress,
}

impl Session {
    /// A session without channels.
    pub(crate) fn new(broker: Arc<Broker>, peer: Peer, access: Access, waker: Arc<SessionWaker>) -> Self {
        let mut publisher = Publisher::new(broker.clone(), waker.clone());
        publisher.user = peer.identity.number;
        let quota = Quota::of(&broker, &peer.vhost, &peer.identity.user);
        Self {
            quota,
            used_up: UsedUp::default(),
            duplicates: Duplicates::default(),
            access,
            publisher,
            peer,
            waker,
            broker,
            channels: Vec::new(),
            open_channels: 0,
            consumers: Consumers::default(),
            routes: Routes::default(),
            care: Care::default(),
            draws: Draws::seeded(),
            settling: Settling::default(),
            out: Outbox::default(),
            confirming: Vec::new(),
            committing: Vec::new(),
            gate: Positions::default(),
            deferred: VecDeque::new(),
            blocked: false,
            publishes: false,
            exclusive: Vec::new(),
            unfinished_bytes: 0,
            transaction_bytes: 0,
            acked: Vec::new(),
            runs: Vec::new(),
            forced: false,
            deadline_ms: NEVER_MS,
            awaited: Awaited::default(),
            progress: Progress::Open,
        }
    }

    /// Largest payload of a frame either side may send.
    pub(crate) fn max_payload(&self) -> usize {
        self.peer.frame_max as usize - frame::OVERHEAD_BYTES
    }

    /// Whether the session should not be given more input now.
    pub(crate) fn refuses_input(&self) -> bool {
        self.blocked || self.out.pending() >= super::outbox::STOP_READING_BYTES || !self.deferred.is_empty()
    }

    /// Processes the whole frames at the start of `input`; how many bytes they took.
    pub(crate) fn input(&mut self, input: &[u8], now_ms: u64) -> Result<usize, Failure> {
        self.publisher.received_ms = now_ms;
        self.check_epoch();
        let max_payload = self.max_payload();
        let mut at = 0;
        loop {
            if !self.deferred.is_empty() || self.progress == Progress::Closed {
                return Ok(at);
            }
            let next = frame::next_frame(&input[at..], max_payload);
            let Some((frame, bytes)) = next.map_err(|e| Failure::general(e.reply()))? else { return Ok(at) };
            at += bytes;
            at += match frame.kind {
                FrameKind::Method => self.on_method(frame, &input[at..])?,
                FrameKind::Header | FrameKind::Body => self.on_content(&frame)?,
                FrameKind::Heartbeat if frame.channel == 0 => 0,
                FrameKind::Heartbeat => {
                    return Err(Failure::general(errors::unexpected_frame(8, frame.payload)));
                }
            };
        }
    }

    /// Ends a batch: hands over messages, settles, confirms, and serves consumers with what room is left.
    pub(crate) fn end_batch(&mut self) {
        // Acknowledgements first: once a publish that came after one is confirmed, both are on disk.
        self.settling.flush(&self.broker);
        self.publisher.flush();
        self.note_confirms();
        self.deliver();
    }

    /// Takes what the broker has to say.
    pub(crate) fn on_inbox(&mut self, inbox: &mut Inbox) -> Result<(), Failure> {
        self.waker.take(inbox);
        if let Some(why) = inbox.close.take() {
            self.forced = why.code == ReplyCode::ConnectionForced;
            return Err(Failure::general(why));
        }
        for &slot in &inbox.ready {
            self.consumers.list(slot);
        }
        for slot in inbox.cancelled.drain(..) {
            self.on_queue_gone(slot);
        }
        if inbox.synced {
            self.settle_confirms();
            self.finish_commits();
        }
        if inbox.decided {
            self.publisher.flush();
            self.note_confirms();
        }
        if inbox.alarms_changed {
            self.on_alarms();
        }
        if inbox.overdue {
            self.end_overdue()?;
        }
        self.retry_deferred()?;
        for asker in inbox.asked.drain(..) {
            // Whoever asked may have given up.
            let _ = asker.send(self.report());
        }
        Ok(())
    }

    /// Whether the connection was closed in good order.
    pub(crate) fn progress(&self) -> Progress {
        self.progress
    }

    /// The positions passed by now; whether everything encoded so far may be written.
    pub(crate) fn may_write(&mut self) -> bool {
        let passed = self.broker.passed();
        if self.gate.passed_by(passed) {
            return true;
        }
        self.wait_for(self.gate);
        false
    }

    /// Asks to be woken when these positions are passed, or one of them is.
    pub(crate) fn wait_for(&mut self, needs: Positions) {
        if let Some(next) = self.awaited.next(needs, self.broker.passed()) {
            self.broker.notify_when_passed(next, &self.waker);
        }
    }

    /// How much more may be encoded for consumers.
    pub(crate) fn room(&self) -> usize {
        FULL_BYTES.saturating_sub(self.out.pending())
    }

    /// Encodes a method.
    pub(crate) fn send(&mut self, channel: u16, method: &Method<'_>) {
        write_method(&mut self.out.bytes, channel, method);
    }

    /// The channel of that number, if it is open.
    #[inline]
    pub(crate) fn channel(&mut self, number: u16) -> Option<&mut Channel> {
        self.channels.get_mut(usize::from(number))?.as_deref_mut()
    }

    fn on_method(&mut self, frame: Frame<'_>, rest: &[u8]) -> Result<usize, Failure> {
        const PUBLISH: [u8; 4] = [0, 60, 0, 40];
        if frame.payload.starts_with(&PUBLISH) && frame.channel != 0 {
            return self.on_publish(frame.channel, frame.payload, rest);
        }
        let number = frame.channel;
        if let Some(channel) = self.channel(number)
            && let Some(error) = channel.unexpected_method(frame.payload)
        {
            return Err(error);
        }
        if frame.payload.is_empty() {
            return Err(Failure::general(errors::unknown_frame_type(1, frame.payload)));
        }
        let method = Method::decode(frame.payload).map_err(|e| Failure { error: e.reply(), ids: e.ids() })?;
        if number == 0 {
            self.on_connection_method(&method)?;
            return Ok(0);
        }
        match self.on_channel_method(number, &method) {
            Ok(()) => Ok(0),
            Err(error) => {
                // No method is blamed for there being too many channels.
                let blamed = error.code != ReplyCode::NotAllowed || !matches!(method, Method::ChannelOpen {});
                let ids = if blamed { method.ids() } else { (0, 0) };
                self.fail(number, Failure { error, ids }).map(|()| 0)
            }
        }
    }

    /// Closes the channel, or passes the failure on when it ends the connection.
    pub(crate) fn fail(&mut self, number: u16, failure: Failure) -> Result<(), Failure> {
        if failure.error.scope == Scope::Connection {
            return Err(failure);
        }
        self.settling.flush(&self.broker);
        self.publisher.flush();
        self.note_confirms();
        self.release_channel(number);
        if let Some(slot) = self.channels.get_mut(usize::from(number)) {
            *slot = Some(Box::new(Channel::closing(number)));
        }
        let text = failure.error.reply_text();
        let (class_id, method_id) = failure.ids;
        let reply_code = failure.error.code as u16;
        self.send(number, &Method::ChannelClose { reply_code, reply_text: &text, class_id, method_id });
        Ok(())
    }

    fn on_connection_method(&mut self, method: &Method<'_>) -> Result<(), Failure> {
        match method {
            Method::ConnectionClose { .. } => {
                self.progress = Progress::Closed;
                self.end_batch();
                // Whoever sees the answer may rely on the exclusive queues being gone.
                self.release();
                self.send(0, &Method::ConnectionCloseOk {});
                Ok(())
            }
            Method::ConnectionUpdateSecret { new_secret, .. } => {
                let user = &self.peer.identity.user;
                let accepted = self.broker.authorities().check_password(user, new_secret).is_ok();
                if !accepted {
                    return Err(Failure { error: errors::new_secret_refused(), ids: method.ids() });
                }
                self.routes.forget();
                self.send(0, &Method::ConnectionUpdateSecretOk {});
                Ok(())
            }
            Method::ConnectionBlocked { .. } | Method::ConnectionUnblocked {} => Ok(()),
            _ => Err(Failure { error: errors::unexpected_method("running"), ids: method.ids() }),
        }
    }

    /// Forgets cached routes when the topology or permissions changed since they were made.
    pub(crate) fn check_epoch(&mut self) {
        let epoch = (self.peer.vhost.epoch(), self.broker.authorities().generation());
        if self.routes.is_stale(epoch) {
            self.publisher.forget_routes();
            self.routes.start(epoch);
            self.load_quota();
        }
    }

    /// What the publishes handed over since the last call wait for.
    pub(crate) fn note_confirms(&mut self) {
        let mut refused = self.publisher.take_refused();
        let wait = self.settle_duplicates(&mut refused);
        self.note_refused(refused);
        if self.confirming.is_empty() || wait == Wait::ForOthers {
            return;
        }
        let mut needs = Positions { meta: self.broker.meta_applied(), ..self.publisher.needs() };
        if wait == Wait::ForLog {
            needs.lsn = self.broker.appended();
        }
        for index in 0..self.confirming.len() {
            let number = self.confirming[index];
            if let Some(confirms) = self.channel(number).and_then(|c| c.confirms.as_mut()) {
                confirms.note_batch(needs);
            }
        }
        self.settle_confirms();
    }

    /// Answers publishes for which a queue had no room. Without confirms nobody is told.
    pub(crate) fn note_refused(&mut self, refused: Vec<Origin>) {
        for (number, tag) in refused {
            let channel = self.channels.get_mut(usize::from(number)).and_then(|c| c.as_deref_mut());
            if let Some(confirms) = channel.and_then(|channel| channel.confirms.as_mut()) {
                confirms.nack(tag, number, &mut self.out.bytes);
            }
        }
    }

    /// Sends the confirms that are due, and asks to be woken for the rest.
    fn settle_confirms(&mut self) {
        let passed = self.broker.passed();
        let mut next: Option<Positions> = None;
        let mut index = 0;
        while let Some(&number) = self.confirming.get(index) {
            let channel = self.channels.get_mut(usize::from(number)).and_then(|c| c.as_deref_mut());
            let waits_for = channel.and_then(|c| c.confirms.as_mut()).and_then(|confirms| {
                confirms.settle(passed, number, &mut self.out.bytes);
                confirms.waits_for()
            });
            match waits_for {
                Some(needs) => {
                    next =
                        Some(next.map_or(needs, |other| if other.passed_by(needs) { other } else { needs }));
                    index += 1;
                }
                None => {
                    if let Some(channel) = self.channel(number) {
                        channel.is_confirming = false;
                    }
                    self.confirming.swap_remove(index);
                }
            }
        }
        if let Some(needs) = next {
            self.wait_for(needs);
        }
    }

    /// Notes that this connection publishes, which alarms hold back.
    pub(crate) fn note_publisher(&mut self) {
        self.publishes = true;
        self.on_alarms();
    }

    /// Ends every channel and the exclusive queues; nothing is left to do when it is called again.
    fn release(&mut self) {
        self.publisher.flush();
        for number in 0..self.channels.len() {
            self.release_channel(number as u16);
        }
        self.channels.clear();
        let vhost = self.peer.vhost.clone();
        for queue in std::mem::take(&mut self.exclusive) {
            // Without conditions nothing is refused.
            let _ = self.broker.remove_queue(&vhost, &queue, DeleteIf::default());
        }
    }

    fn on_alarms(&mut self) {
        let reason = self.broker.alarm_reason();
        match reason {
            Some(reason) if self.publishes && !self.blocked => {
                self.blocked = true;
                if self.peer.connection_blocked {
                    self.send(0, &Method::ConnectionBlocked { reason });
                }
            }
            None if self.blocked => {
                self.blocked = false;
                if self.peer.connection_blocked {
                    self.send(0, &Method::ConnectionUnblocked {});
                }
            }
            _ => {}
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.settling.flush(&self.broker);
        self.release();
        self.forget_deadline();
        self.broker.connection_closed(&self.peer.info);
    }
}
