//! `basic.qos`, `.consume`, `.cancel`, `.ack`, `.nack`, `.reject`, `.recover`, and the end of a channel.

use std::sync::Arc;

use posthouse_amqp::method::Method;
use posthouse_model::args::ConsumerArguments;
use posthouse_model::attempts::Return;
use posthouse_model::errors::{self, Permission, Resource, ResourceKind};
use posthouse_model::reply::ReplyError;
use posthouse_node::declare::unique_name;
use posthouse_node::deliver;
use posthouse_node::queue_handle::QueueHandle;
use posthouse_node::waker::ConsumerWaker;
use posthouse_queue::machine::departures::Reason;

use super::consumer::Consumer;
use super::reply_to;
use super::session::Session;
use super::settling::How;
use super::tx::Verdict;
use super::unacked::Outstanding;

impl Session {
    /// `basic.qos`
    pub(crate) fn basic_qos(
        &mut self,
        number: u16,
        prefetch_size: u32,
        prefetch_count: u16,
        global: bool,
    ) -> Result<(), ReplyError> {
        if prefetch_size != 0 {
            return Err(errors::prefetch_size_not_supported(prefetch_size));
        }
        if let Some(channel) = self.channel(number) {
            if global {
                channel.prefetch_global = prefetch_count;
            } else {
                channel.prefetch = prefetch_count;
            }
        }
        let of_running = !global && self.peer.qos_of_specification;
        if of_running {
            self.change_prefetch(number, prefetch_count);
        }
        if global || of_running {
            self.list_channel(number);
        }
        self.send(number, &Method::BasicQosOk {});
        Ok(())
    }

    /// Gives the channel's consumers another prefetch.
    fn change_prefetch(&mut self, number: u16, prefetch: u16) {
        let slots = self.channel(number).map(|channel| channel.slots()).unwrap_or_default();
        for slot in slots {
            if let Some(consumer) = self.consumers.get_mut(slot) {
                consumer.prefetch = prefetch;
            }
        }
    }

    /// `basic.consume`
    pub(crate) fn basic_consume(&mut self, number: u16, method: &Method<'_>) -> Result<(), ReplyError> {
        let Method::BasicConsume { queue, consumer_tag, no_ack, exclusive, nowait, arguments, .. } = method
        else {
            return Err(errors::internal_error());
        };
        let tag: Arc<str> =
            if consumer_tag.is_empty() { unique_name("amq.ctag-").into() } else { (*consumer_tag).into() };
        let limit = self.broker.settings().max_consumers_per_channel;
        let Some(channel) = self.channel(number) else { return Ok(()) };
        if channel.tags.contains_key(&tag) {
            return Err(errors::consumer_tag_in_use(&tag));
        }
        if channel.consumers() >= limit as usize {
            return Err(errors::too_many_consumers(limit));
        }
        let queue = if *queue == reply_to::PSEUDO_QUEUE {
            // Before there is a queue that nothing would delete if this failed.
            let resource = Resource::queue(self.peer.vhost.name(), queue);
            ConsumerArguments::parse(arguments.clone(), resource)?;
            self.reply_queue(number, *no_ack)?
        } else {
            let name = self.queue_name(number, queue)?;
            self.may(Permission::Read, ResourceKind::Queue, &name)?;
            self.peer.vhost.queue(&name, self.peer.info.id)?
        };
        let resource = Resource::queue(self.peer.vhost.name(), &queue.definition.name);
        let id = self.broker.next_consumer_id();
        let slot = self.consumers.next_slot();
        let waker = ConsumerWaker::new(self.waker.clone(), slot, number, tag.clone());
        let mut is_named = false;
        let mut timeout_ms = None;
        if queue.is_stream {
            let identity = (id, waker);
            is_named =
                self.add_stream_consumer(number, &queue, *no_ack, arguments, consumer_tag, identity)?;
        } else {
            let arguments = ConsumerArguments::parse(arguments.clone(), resource)?;
            self.broker.add_consumer(&queue, id, waker, arguments.priority, *exclusive)?;
            timeout_ms = arguments.timeout_ms;
        }
        let Some(channel) = self.channel(number) else { return Ok(()) };
        channel.tags.insert(tag.clone(), slot);
        let prefetch = channel.prefetch;
        let mut consumer =
            Consumer::new(id, number, tag.clone(), queue, *no_ack, prefetch, arguments.clone());
        consumer.is_named = is_named;
        consumer.timeout_ms = timeout_ms;
        self.tell_consumer_created(&consumer, *exclusive);
        self.consumers.insert(consumer);
        if !nowait {
            self.send(number, &Method::BasicConsumeOk { consumer_tag: &tag });
        }
        self.consumers.list(slot);
        Ok(())
    }

    fn reply_queue(&mut self, number: u16, no_ack: bool) -> Result<Arc<QueueHandle>, ReplyError> {
        if !no_ack {
            return Err(errors::reply_consumer_cannot_acknowledge());
        }
        if self.channel(number).is_some_and(|channel| channel.reply_queue.is_some()) {
            return Err(errors::reply_consumer_already_set());
        }
        let vhost = self.peer.vhost.clone();
        let queue = self.broker.declare_reply_queue(&vhost, self.peer.info.id);
        if let Some(channel) = self.channel(number) {
            channel.reply_queue = Some(queue.definition.name.to_string());
        }
        Ok(queue)
    }

    /// `basic.cancel`: the consumer ends, its outstanding deliveries stay outstanding.
    pub(crate) fn basic_cancel(&mut self, number: u16, tag: &str, nowait: bool) {
        if let Some(slot) = self.channel(number).and_then(|channel| channel.tags.get(tag).copied()) {
            self.end_consumer(slot);
        }
        if !nowait {
            self.send(number, &Method::BasicCancelOk { consumer_tag: tag });
        }
    }

    /// A consumer's queue is gone.
    pub(crate) fn on_queue_gone(&mut self, slot: u32) {
        // The slot may have been taken by another consumer since.
        let gone = self.consumers.get_mut(slot).is_some_and(|consumer| consumer.queue.lock().deleted);
        if !gone {
            return;
        }
        let Some(consumer) = self.end_consumer(slot) else { return };
        if self.peer.consumer_cancel_notify {
            let cancel = Method::BasicCancel { consumer_tag: &consumer.tag, nowait: true };
            self.send(consumer.channel, &cancel);
        }
    }

    pub(crate) fn end_consumer(&mut self, slot: u32) -> Option<Box<Consumer>> {
        let consumer = self.consumers.remove(slot)?;
        self.tell_consumer_deleted(&consumer);
        let vhost = self.peer.vhost.clone();
        self.broker.remove_consumer(&vhost, &consumer.queue, consumer.id);
        let channel = self.channels.get_mut(usize::from(consumer.channel)).and_then(|c| c.as_deref_mut());
        if let Some(channel) = channel {
            channel.tags.remove(&consumer.tag);
            let mut forgotten = channel.unacked.forget_consumer(slot);
            if let Some(transaction) = &mut channel.transaction {
                forgotten += transaction.forget_consumer(slot);
            }
            channel.consumer_unacked = channel.consumer_unacked.saturating_sub(forgotten);
            if channel.reply_queue.as_deref() == Some(&*consumer.queue.definition.name) {
                channel.reply_queue = None;
            }
            if channel.prefetch_global != 0 {
                // What it held back may go to the channel's other consumers.
                self.list_channel(consumer.channel);
            }
        }
        Some(consumer)
    }

    /// `basic.ack`
    pub(crate) fn basic_ack(&mut self, number: u16, tag: u64, multiple: bool) -> Result<(), ReplyError> {
        self.settle_deliveries(number, tag, multiple, Verdict::Settle)
    }

    /// `basic.nack` and `basic.reject`, with the reason for which messages leave that are not to be requeued.
    pub(crate) fn basic_nack(
        &mut self,
        number: u16,
        tag: u64,
        multiple: bool,
        requeue: bool,
        reason: Reason,
    ) -> Result<(), ReplyError> {
        let verdict = match (requeue, reason) {
            (false, reason) => Verdict::Reject(reason),
            (true, Reason::Nacked) => Verdict::Requeue(Return::Nacked),
            (true, _) => Verdict::Requeue(Return::Failed),
        };
        self.settle_deliveries(number, tag, multiple, verdict)
    }

    fn settle_deliveries(
        &mut self,
        number: u16,
        tag: u64,
        multiple: bool,
        verdict: Verdict,
    ) -> Result<(), ReplyError> {
        let Some(channel) = self.channels.get_mut(usize::from(number)).and_then(|c| c.as_deref_mut()) else {
            return Ok(());
        };
        if !multiple {
            return match channel.unacked.take_one(tag) {
                Some(run) => {
                    self.settle_run(number, run, verdict);
                    Ok(())
                }
                None if channel.unacked.settle_overdue(tag) => Ok(()),
                None => Err(errors::unknown_delivery_tag(tag)),
            };
        }
        let mut runs = std::mem::take(&mut self.acked);
        let found = channel.unacked.take_through(tag, |run| runs.push(run));
        for run in runs.drain(..) {
            self.settle_run(number, run, verdict);
        }
        self.acked = runs;
        if found { Ok(()) } else { Err(errors::unknown_delivery_tag(tag)) }
    }

    fn settle_run(&mut self, number: u16, run: Outstanding, verdict: Verdict) {
        let Some(channel) = self.channels.get_mut(usize::from(number)).and_then(|c| c.as_deref_mut()) else {
            return;
        };
        if let Some(transaction) = &mut channel.transaction {
            transaction.settle(run, verdict);
        } else {
            self.settle_now(number, &run, verdict);
        }
    }

    /// Settles deliveries or gives them back, and their consumer its credit.
    pub(crate) fn settle_now(&mut self, number: u16, run: &Outstanding, verdict: Verdict) {
        let Some(channel) = self.channels.get_mut(usize::from(number)).and_then(|c| c.as_deref_mut()) else {
            return;
        };
        self.consumers.credit_back_of(channel, run);
        if channel.prefetch_global != 0 {
            self.list_channel(number);
        }
        let named = run.consumer.and_then(|slot| self.consumers.get_mut(slot)).filter(|c| c.is_named);
        if let Some(id) = named.map(|consumer| consumer.id) {
            return self.settle_named(id, run, verdict);
        }
        match verdict {
            Verdict::Settle => self.settling.add(&run.queue, How::Settled, run.first_seq, run.last_seq()),
            Verdict::Reject(reason) => {
                self.settling.add(&run.queue, How::Rejected(reason), run.first_seq, run.last_seq())
            }
            Verdict::Requeue(why) => {
                let ranges = [(run.first_seq, run.last_seq())];
                deliver::give_back(&self.broker, &run.queue, &ranges, why);
            }
        }
    }

    /// Lets every consumer of a channel try again.
    fn list_channel(&mut self, number: u16) {
        let slots = self.channel(number).map(|channel| channel.slots()).unwrap_or_default();
        for slot in slots {
            self.consumers.list(slot);
        }
    }

    /// `basic.recover`: everything outstanding goes back to its queue.
    pub(crate) fn basic_recover(
        &mut self,
        number: u16,
        requeue: bool,
        reply: bool,
    ) -> Result<(), ReplyError> {
        if !requeue {
            return Err(errors::recover_without_requeue());
        }
        self.settle_deliveries(number, 0, true, Verdict::Requeue(Return::Nacked))?;
        if reply {
            self.send(number, &Method::BasicRecoverOk {});
        }
        Ok(())
    }

    /// Ends a channel's consumers and gives back what is outstanding.
    pub(crate) fn release_channel(&mut self, number: u16) {
        self.forget_duplicates(number);
        let slots = self.channel(number).map(|channel| channel.slots()).unwrap_or_default();
        let mut ended = Vec::new();
        for slot in slots {
            ended.extend(self.consumers.remove(slot));
        }
        // Consumers must not get back what they held, and the queue of the last one must outlive this.
        for consumer in &ended {
            self.tell_consumer_deleted(consumer);
            deliver::block(&self.broker, &consumer.queue, consumer.id);
        }
        let Some(channel) = self.channels.get_mut(usize::from(number)).and_then(|c| c.as_deref_mut()) else {
            return;
        };
        let was_open = !channel.is_closing;
        channel.tags.clear();
        self.unfinished_bytes -= channel.incoming.take().map_or(0, |incoming| incoming.bytes());
        let mut runs = Vec::new();
        if let Some(mut transaction) = channel.transaction.take() {
            self.transaction_bytes -= transaction.bytes();
            runs.extend(transaction.take_deliveries());
        }
        channel.unacked.take_through(0, |run| runs.push(run));
        let why = if self.forced { Return::Released } else { Return::Failed };
        for run in runs {
            deliver::give_back(&self.broker, &run.queue, &[(run.first_seq, run.last_seq())], why);
        }
        let vhost = self.peer.vhost.clone();
        for consumer in ended {
            self.broker.remove_consumer(&vhost, &consumer.queue, consumer.id);
        }
        if was_open {
            self.tell_channel_closed(number);
        }
    }
}
