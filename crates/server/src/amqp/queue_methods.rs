//! `queue.*`

use std::sync::Arc;

use posthouse_amqp::method::Method;
use posthouse_model::errors::{self, Permission, Resource, ResourceKind};
use posthouse_model::field::{FieldTable, FieldValue};
use posthouse_model::name::{Name, strip_cr_lf};
use posthouse_model::reply::ReplyError;
use posthouse_node::declare::{Declared, DeleteIf, QueueDeclaration};
use posthouse_node::deliver;
use posthouse_node::vhost::REPLY_QUEUE_PREFIX;
use posthouse_queue::topology::{BindingRecord, DestinationName, sorted_arguments};

use super::reply_to;
use super::session::Session;

impl Session {
    /// Carries out a queue method.
    pub(crate) fn on_queue_method(&mut self, number: u16, method: &Method<'_>) -> Result<(), ReplyError> {
        match method {
            Method::QueueDeclare { queue, nowait, .. } => {
                let name = strip_cr_lf(queue);
                let declared = self.queue_declare(number, &name, method)?;
                let name = declared.0;
                self.remember_queue(number, &name);
                let (message_count, consumer_count) = (saturate(declared.1), saturate(declared.2));
                self.reply(
                    number,
                    *nowait,
                    &Method::QueueDeclareOk { queue: &name, message_count, consumer_count },
                );
            }
            Method::QueueBind { queue, exchange, routing_key, nowait, arguments } => {
                let binding = self.queue_binding(number, queue, exchange, routing_key, arguments)?;
                let vhost = self.peer.vhost.clone();
                vhost.queue(binding.destination.name(), self.peer.info.id)?;
                let to = binding.destination.clone();
                let kept = self.broker.bind(&vhost, binding)?;
                self.publish_history(&kept, &to);
                self.reply(number, *nowait, &Method::QueueBindOk {});
            }
            Method::QueueUnbind { queue, exchange, routing_key, arguments } => {
                let binding = self.queue_binding(number, queue, exchange, routing_key, arguments)?;
                let vhost = self.peer.vhost.clone();
                self.broker.unbind(&vhost, binding)?;
                self.reply(number, false, &Method::QueueUnbindOk {});
            }
            Method::QueuePurge { queue, nowait } => {
                let name = self.queue_name(number, queue)?;
                self.may(Permission::Read, ResourceKind::Queue, &name)?;
                let queue = self.peer.vhost.queue(&name, self.peer.info.id)?;
                if queue.is_stream {
                    let stream = Resource::queue(self.peer.vhost.name(), &name);
                    return Err(errors::not_for_streams("queue.purge", stream));
                }
                let message_count = saturate(deliver::purge(&self.broker, &queue));
                self.reply(number, *nowait, &Method::QueuePurgeOk { message_count });
            }
            Method::QueueDelete { queue, if_unused, if_empty, nowait } => {
                let name = self.queue_name(number, queue)?;
                self.may(Permission::Configure, ResourceKind::Queue, &name)?;
                let when = DeleteIf { unused: *if_unused, empty: *if_empty };
                let vhost = self.peer.vhost.clone();
                let deleted = self.broker.delete_queue(&vhost, &name, when, Some(self.peer.info.id))?;
                self.forget_exclusive(&name);
                self.reply(number, *nowait, &Method::QueueDeleteOk { message_count: saturate(deleted) });
            }
            _ => return Err(errors::unimplemented_method()),
        }
        Ok(())
    }

    /// Declares a queue; its name, ready messages and consumers.
    fn queue_declare(
        &mut self,
        number: u16,
        name: &str,
        method: &Method<'_>,
    ) -> Result<(String, u64, u64), ReplyError> {
        let Method::QueueDeclare { passive, durable, exclusive, auto_delete, arguments, .. } = method else {
            return Err(errors::internal_error());
        };
        if name == reply_to::PSEUDO_QUEUE || name.starts_with(REPLY_QUEUE_PREFIX) {
            return self.check_reply_queue(name);
        }
        let vhost = self.peer.vhost.clone();
        if *passive {
            let name = self.queue_name(number, name)?;
            self.may_see(ResourceKind::Queue, &name)?;
            return Ok(counts(Declared::of(vhost.queue(&name, self.peer.info.id)?)));
        }
        if !name.is_empty() {
            self.may(Permission::Configure, ResourceKind::Queue, name)?;
        }
        self.may_dead_letter(name, arguments)?;
        let declaration = QueueDeclaration {
            name: name.to_owned(),
            durable: *durable,
            exclusive: *exclusive,
            auto_delete: *auto_delete,
            arguments: arguments.clone(),
        };
        let declared = self.broker.declare_queue(&vhost, declaration, self.peer.info.id)?;
        if *exclusive && !self.exclusive.iter().any(|queue| Arc::ptr_eq(queue, &declared.queue)) {
            if self.exclusive.len() == self.exclusive.capacity() {
                // Those deleted otherwise, such as with their last consumer, must not pile up.
                self.exclusive.retain(|queue| !queue.lock().deleted);
            }
            self.exclusive.push(declared.queue.clone());
        }
        Ok(counts(declared))
    }

    /// Refuses (403) a new queue whose dead letters would take what the user may not read to where the user may not
    /// write.
    fn may_dead_letter(&mut self, name: &str, arguments: &FieldTable) -> Result<(), ReplyError> {
        let Some(FieldValue::LongStr(exchange)) = arguments.get("x-dead-letter-exchange") else {
            return Ok(());
        };
        if self.peer.vhost.find_queue(name).is_some() {
            return Ok(());
        }
        // The name of one without a name is not known yet, and nobody else's.
        if !name.is_empty() {
            self.may(Permission::Read, ResourceKind::Queue, name)?;
        }
        self.may(Permission::Write, ResourceKind::Exchange, &String::from_utf8_lossy(exchange))
    }

    /// Declaring a reply queue says whether it is there; the name that stands for the channel's own always is.
    fn check_reply_queue(&mut self, name: &str) -> Result<(String, u64, u64), ReplyError> {
        if name == reply_to::PSEUDO_QUEUE || self.peer.vhost.find_queue(name).is_some() {
            Ok((name.to_owned(), 0, 1))
        } else {
            Err(errors::no_queue(self.peer.vhost.name(), name))
        }
    }

    fn queue_binding(
        &mut self,
        number: u16,
        queue: &str,
        exchange: &str,
        routing_key: &str,
        arguments: &FieldTable,
    ) -> Result<BindingRecord, ReplyError> {
        let (queue, exchange) = (strip_cr_lf(queue), strip_cr_lf(exchange));
        let name = self.queue_name(number, &queue)?;
        let routing_key = if queue.is_empty() && routing_key.is_empty() { &name } else { routing_key };
        self.refuse_default_exchange(&exchange)?;
        if name.starts_with(reply_to::PSEUDO_QUEUE) {
            return Err(errors::cannot_bind_reply_queue());
        }
        self.may(Permission::Write, ResourceKind::Queue, &name)?;
        self.may(Permission::Read, ResourceKind::Exchange, &exchange)?;
        self.may_use_key(Permission::Read, &exchange, routing_key)?;
        Ok(BindingRecord {
            source: Name::truncated(&exchange),
            destination: DestinationName::Queue(Name::truncated(&name)),
            routing_key: Name::truncated(routing_key),
            arguments: sorted_arguments(arguments.clone()),
        })
    }

    fn remember_queue(&mut self, number: u16, name: &str) {
        if let Some(channel) = self.channel(number) {
            channel.last_queue = Some(name.to_owned());
        }
    }

    fn forget_exclusive(&mut self, name: &str) {
        self.exclusive.retain(|queue| &*queue.definition.name != name);
    }
}

fn counts(declared: Declared) -> (String, u64, u64) {
    (declared.queue.definition.name.to_string(), declared.messages, declared.consumers as u64)
}

fn saturate(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
