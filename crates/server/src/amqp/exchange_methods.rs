//! `exchange.*`

use posthouse_amqp::method::Method;
use posthouse_model::errors::{self, Permission, Resource, ResourceKind};
use posthouse_model::exchange::ExchangeKind;
use posthouse_model::field::{FieldTable, FieldValue};
use posthouse_model::name::{Name, strip_cr_lf};
use posthouse_model::reply::ReplyError;
use posthouse_queue::topology::{BindingRecord, DestinationName, ExchangeRecord, sorted_arguments};

use super::session::Session;

impl Session {
    /// Carries out an exchange method.
    pub(crate) fn on_exchange_method(&mut self, number: u16, method: &Method<'_>) -> Result<(), ReplyError> {
        match method {
            Method::ExchangeDeclare { exchange, passive, nowait, .. } => {
                let name = strip_cr_lf(exchange);
                if *passive {
                    self.may_see(ResourceKind::Exchange, &name)?;
                    self.peer.vhost.with_topology(|topology| topology.check_exchange(&name))?;
                } else {
                    self.exchange_declare(&name, method)?;
                }
                self.reply(number, *nowait, &Method::ExchangeDeclareOk {});
            }
            Method::ExchangeDelete { exchange, if_unused, nowait } => {
                let name = strip_cr_lf(exchange);
                self.refuse_default_exchange(&name)?;
                self.may(Permission::Configure, ResourceKind::Exchange, &name)?;
                let vhost = self.peer.vhost.clone();
                self.broker.delete_exchange(&vhost, &name, *if_unused)?;
                self.reply(number, *nowait, &Method::ExchangeDeleteOk {});
            }
            Method::ExchangeBind { destination, source, routing_key, nowait, arguments } => {
                let binding = self.exchange_binding(source, destination, routing_key, arguments)?;
                let vhost = self.peer.vhost.clone();
                let to = binding.destination.clone();
                let kept = self.broker.bind(&vhost, binding)?;
                self.publish_history(&kept, &to);
                self.reply(number, *nowait, &Method::ExchangeBindOk {});
            }
            Method::ExchangeUnbind { destination, source, routing_key, nowait, arguments } => {
                let binding = self.exchange_binding(source, destination, routing_key, arguments)?;
                let vhost = self.peer.vhost.clone();
                self.broker.unbind(&vhost, binding)?;
                self.reply(number, *nowait, &Method::ExchangeUnbindOk {});
            }
            _ => return Err(errors::unimplemented_method()),
        }
        Ok(())
    }

    fn exchange_declare(&mut self, name: &str, method: &Method<'_>) -> Result<(), ReplyError> {
        let Method::ExchangeDeclare {
            exchange_type: kind, durable, auto_delete, internal, arguments, ..
        } = method
        else {
            return Ok(());
        };
        let vhost = self.peer.vhost.clone();
        let resource = Resource::exchange(vhost.name(), name);
        let kind = ExchangeKind::parse(kind, resource)?;
        self.refuse_default_exchange(name)?;
        self.may(Permission::Configure, ResourceKind::Exchange, name)?;
        if let Some(FieldValue::LongStr(alternate)) = arguments.get("alternate-exchange") {
            self.may(Permission::Read, ResourceKind::Exchange, name)?;
            self.may(Permission::Write, ResourceKind::Exchange, &String::from_utf8_lossy(alternate))?;
        }
        let exchange = ExchangeRecord {
            name: Name::truncated(name),
            kind,
            durable: *durable,
            auto_delete: *auto_delete,
            internal: *internal,
            arguments: arguments.clone(),
        };
        self.broker.declare_exchange(&vhost, exchange)
    }

    fn exchange_binding(
        &mut self,
        source: &str,
        destination: &str,
        routing_key: &str,
        arguments: &FieldTable,
    ) -> Result<BindingRecord, ReplyError> {
        let (source, destination) = (strip_cr_lf(source), strip_cr_lf(destination));
        self.refuse_default_exchange(&source)?;
        self.refuse_default_exchange(&destination)?;
        self.may(Permission::Write, ResourceKind::Exchange, &destination)?;
        self.may(Permission::Read, ResourceKind::Exchange, &source)?;
        self.may_use_key(Permission::Read, &source, routing_key)?;
        Ok(BindingRecord {
            source: Name::truncated(&source),
            destination: DestinationName::Exchange(Name::truncated(&destination)),
            routing_key: Name::truncated(routing_key),
            arguments: sorted_arguments(arguments.clone()),
        })
    }

    /// Sends a reply to a method that changed definitions: it must not be seen before they are kept.
    pub(crate) fn reply(&mut self, number: u16, nowait: bool, method: &Method<'_>) {
        self.gate.meta = self.gate.meta.max(self.broker.meta_applied());
        if !nowait {
            self.send(number, method);
        }
    }

    /// Refuses (403) to change the default exchange.
    pub(crate) fn refuse_default_exchange(&self, name: &str) -> Result<(), ReplyError> {
        if name.is_empty() { Err(errors::default_exchange_not_permitted()) } else { Ok(()) }
    }

    /// A passive declaration needs any one permission.
    pub(crate) fn may_see(&mut self, kind: ResourceKind, name: &str) -> Result<(), ReplyError> {
        let any = [Permission::Read, Permission::Write].into_iter().any(|p| self.may(p, kind, name).is_ok());
        if any { Ok(()) } else { self.may(Permission::Configure, kind, name) }
    }
}
