//! What each channel method does, besides `basic.publish`.

use posthouse_amqp::method::Method;
use posthouse_model::errors::{self, Permission, ResourceKind};
use posthouse_model::exchange::ExchangeKind;
use posthouse_model::limits;
use posthouse_model::reply::ReplyError;
use posthouse_node::events;
use posthouse_queue::machine::departures::Reason;

use super::channel::Channel;
use super::confirms::Confirms;
use super::session::Session;

impl Session {
    /// Carries out a method of a channel.
    pub(crate) fn on_channel_method(&mut self, number: u16, method: &Method<'_>) -> Result<(), ReplyError> {
        let is_closing = match self.channel(number) {
            Some(channel) => channel.is_closing,
            None => {
                return match method {
                    Method::ChannelOpen {} => self.channel_open(number),
                    Method::ChannelCloseOk {} => Ok(()),
                    _ => Err(errors::expected_channel_open()),
                };
            }
        };
        if is_closing {
            self.on_method_while_closing(number, method);
            return Ok(());
        }
        // Acknowledgements leave gathered messages alone; all else must see them in their queues.
        if !matches!(method, Method::BasicAck { .. } | Method::BasicNack { .. } | Method::BasicReject { .. })
        {
            self.settling.flush(&self.broker);
            self.publisher.flush();
            self.note_confirms();
        }
        let outcome = if self.broker.events().are_wanted() {
            let user = self.peer.identity.user.clone();
            events::acting(&user, || self.on_open_channel(number, method))
        } else {
            self.on_open_channel(number, method)
        };
        self.check_epoch();
        outcome
    }

    fn on_method_while_closing(&mut self, number: u16, method: &Method<'_>) {
        match method {
            Method::ChannelCloseOk {} => self.forget_channel(number),
            Method::ChannelClose { .. } => self.send(number, &Method::ChannelCloseOk {}),
            _ => {}
        }
    }

    fn on_open_channel(&mut self, number: u16, method: &Method<'_>) -> Result<(), ReplyError> {
        match *method {
            Method::ChannelOpen {} => Err(errors::second_channel_open()),
            Method::ChannelClose { .. } => {
                self.release_channel(number);
                self.forget_channel(number);
                self.send(number, &Method::ChannelCloseOk {});
                Ok(())
            }
            Method::ChannelFlow { active: false } => Err(errors::flow_stop_not_supported()),
            Method::ChannelFlow { active: true } => {
                self.send(number, &Method::ChannelFlowOk { active: true });
                Ok(())
            }
            Method::AccessRequest { .. } => {
                self.send(number, &Method::AccessRequestOk { ticket: 1 });
                Ok(())
            }
            Method::ExchangeDeclare { .. }
            | Method::ExchangeDelete { .. }
            | Method::ExchangeBind { .. }
            | Method::ExchangeUnbind { .. } => self.on_exchange_method(number, method),
            Method::QueueDeclare { .. }
            | Method::QueueBind { .. }
            | Method::QueueUnbind { .. }
            | Method::QueuePurge { .. }
            | Method::QueueDelete { .. } => self.on_queue_method(number, method),
            Method::BasicQos { prefetch_size, prefetch_count, global } => {
                self.basic_qos(number, prefetch_size, prefetch_count, global)
            }
            Method::BasicConsume { .. } => self.basic_consume(number, method),
            Method::BasicCancel { consumer_tag, nowait } => {
                self.basic_cancel(number, consumer_tag, nowait);
                Ok(())
            }
            Method::BasicGet { queue, no_ack } => self.basic_get(number, queue, no_ack),
            Method::BasicAck { delivery_tag, multiple } => self.basic_ack(number, delivery_tag, multiple),
            Method::BasicNack { delivery_tag, multiple, requeue } => {
                self.basic_nack(number, delivery_tag, multiple, requeue, Reason::Nacked)
            }
            Method::BasicReject { delivery_tag, requeue } => {
                self.basic_nack(number, delivery_tag, false, requeue, Reason::Rejected)
            }
            Method::BasicRecover { requeue } | Method::BasicRecoverAsync { requeue } => {
                let reply = matches!(method, Method::BasicRecover { .. });
                self.basic_recover(number, requeue, reply)
            }
            Method::ConfirmSelect { nowait } => self.confirm_select(number, nowait),
            Method::TxSelect {} => self.tx_select(number),
            Method::TxCommit {} => self.tx_commit(number),
            Method::TxRollback {} => self.tx_rollback(number),
            _ => Err(errors::unimplemented_method()),
        }
    }

    fn channel_open(&mut self, number: u16) -> Result<(), ReplyError> {
        let limit = usize::from(self.peer.channel_max);
        if self.open_channels >= limit {
            let opened = self.open_channels as u32;
            return Err(errors::too_many_channels(opened, u32::from(self.peer.channel_max)));
        }
        let user = &self.peer.identity.user;
        let limits = self.broker.authorities().user_limits(user).unwrap_or_default();
        let max = limits::bound(limits.max_channels);
        if !self.peer.place.add_channel(max) {
            return Err(errors::user_channel_limit(user, max.unwrap_or_default()));
        }
        let index = usize::from(number);
        if self.channels.len() <= index {
            self.channels.resize_with(index + 1, || None);
        }
        self.channels[index] = Some(Box::new(Channel::open(number)));
        self.count_channels(1);
        self.tell_channel_created(number);
        self.send(number, &Method::ChannelOpenOk {});
        Ok(())
    }

    /// Frees a channel's number.
    fn forget_channel(&mut self, number: u16) {
        if let Some(slot) = self.channels.get_mut(usize::from(number))
            && slot.take().is_some()
        {
            self.peer.place.remove_channel();
            self.count_channels(-1);
        }
        while self.channels.last().is_some_and(Option::is_none) {
            self.channels.pop();
        }
    }

    fn count_channels(&mut self, change: isize) {
        self.open_channels = self.open_channels.saturating_add_signed(change);
        let open = self.open_channels as u32;
        self.peer.info.channels.store(open, std::sync::atomic::Ordering::Relaxed);
    }

    fn confirm_select(&mut self, number: u16, nowait: bool) -> Result<(), ReplyError> {
        let Some(channel) = self.channel(number) else { return Ok(()) };
        if channel.transaction.is_some() {
            return Err(errors::cannot_switch_from_tx_to_confirm());
        }
        channel.confirms.get_or_insert_with(Confirms::default);
        if !nowait {
            self.send(number, &Method::ConfirmSelectOk {});
        }
        Ok(())
    }

    /// The queue that a name stands for: an empty one is the channel's last declared.
    pub(crate) fn queue_name(&mut self, number: u16, name: &str) -> Result<String, ReplyError> {
        if !name.is_empty() {
            return Ok(name.to_owned());
        }
        let last = self.channel(number).and_then(|channel| channel.last_queue.clone());
        last.ok_or_else(errors::no_previously_declared_queue)
    }

    /// Refuses (403) what the user may not do.
    pub(crate) fn may(
        &mut self,
        permission: Permission,
        kind: ResourceKind,
        name: &str,
    ) -> Result<(), ReplyError> {
        self.broker.authorities().refresh(&mut self.access);
        self.access.check(permission, kind, name)
    }
    /// Refuses (403) a key that the user may not publish (write) or bind (read) in a topic exchange.
    pub(crate) fn may_use_key(
        &self,
        permission: Permission,
        exchange: &str,
        key: &str,
    ) -> Result<(), ReplyError> {
        if !self.access.has_topics() {
            return Ok(());
        }
        let kind = self.peer.vhost.with_topology(|topology| topology.routes_as(exchange));
        if kind != Some(ExchangeKind::Topic) {
            return Ok(());
        }
        self.access.check_topic(permission, exchange, key)
    }
}
