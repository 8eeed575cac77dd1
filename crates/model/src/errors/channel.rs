//! Errors that end the channel.

use super::{ErlangBinary, Resource};
use crate::args::QueueKind;
use crate::reply::ReplyCode::{AccessRefused, NotFound, PreconditionFailed, ResourceLocked};
use crate::reply::ReplyError;

/// What a user may be refused on a resource.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Permission {
    /// Declare and delete.
    Configure,
    /// Publish, and bind to a queue or destination.
    Write,
    /// Consume, and bind from a source.
    Read,
}

impl Permission {
    /// The word texts and commands use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Configure => "configure",
            Self::Write => "write",
            Self::Read => "read",
        }
    }
}

/// How one side of an inequivalent declaration is shown.
#[derive(Clone, Copy, Debug)]
pub enum Shown<'a> {
    /// The argument is absent.
    Absent,
    /// A property, or an argument that both sides have.
    Value(&'a str),
    /// An argument that only this side has, with its type's name.
    Typed(&'a str, &'static str),
}

/// The exchange does not exist.
pub fn no_exchange(vhost: &str, name: &str) -> ReplyError {
    ReplyError::new(NotFound, format!("no {}", Resource::exchange(vhost, name)))
}

/// The queue does not exist.
pub fn no_queue(vhost: &str, name: &str) -> ReplyError {
    ReplyError::new(NotFound, format!("no {}", Resource::queue(vhost, name)))
}

/// An empty queue name on a channel that has declared none.
pub fn no_previously_declared_queue() -> ReplyError {
    ReplyError::new(NotFound, "no previously declared queue")
}

/// Clients may not publish to an internal exchange.
pub fn publish_to_internal_exchange(vhost: &str, name: &str) -> ReplyError {
    let text = format!("cannot publish to internal {}", Resource::exchange(vhost, name));
    ReplyError::new(AccessRefused, text)
}

/// The user lacks a permission; the default exchange is shown as `amq.default`.
pub fn access_refused(permission: Permission, resource: Resource<'_>, user: &str) -> ReplyError {
    let name = if resource.name.is_empty() { "amq.default" } else { resource.name };
    let resource = Resource { name, ..resource };
    let permission = permission.name();
    ReplyError::new(AccessRefused, format!("{permission} access to {resource} refused for user '{user}'"))
}

/// The user lacks the topic permission for this routing key.
pub fn topic_access_refused(
    permission: Permission,
    routing_key: &str,
    exchange: Resource<'_>,
    user: &str,
) -> ReplyError {
    let permission = permission.name();
    let text =
        format!("{permission} access to topic '{routing_key}' in {exchange} refused for user '{user}'");
    ReplyError::new(AccessRefused, text)
}

/// The message's body is larger than the broker is configured for; sizes in bytes.
pub fn message_too_large(size: u64, max: u64) -> ReplyError {
    let text = format!("message size {size} is larger than configured max size {max}");
    ReplyError::new(PreconditionFailed, text)
}

/// The `expiration` property is no number of milliseconds; `reason` is an Erlang term such as `no_integer`.
pub fn invalid_expiration(value: &str, reason: &str) -> ReplyError {
    ReplyError::new(PreconditionFailed, format!("invalid expiration '{value}': {reason}"))
}

/// The `user_id` property is not who is logged in.
pub fn user_id_mismatch(claimed: &str, user: &str) -> ReplyError {
    let text = format!("user_id property set to '{claimed}' but authenticated user was '{user}'");
    ReplyError::new(PreconditionFailed, text)
}

/// The `CC` or `BCC` header is not an array of long strings; `type_name` is what was found.
pub fn invalid_extra_keys_header(header: &str, type_name: &str) -> ReplyError {
    let text = format!("invalid message: {{unacceptable_type_in_header,\"{header}\",{type_name}}}");
    ReplyError::new(PreconditionFailed, text)
}

/// A header that says when to deliver a message is no number; `got` is its text, or the name of its type.
pub fn invalid_delay(header: &str, got: &str) -> ReplyError {
    let text =
        format!("invalid message: expected header '{header}' to be a number of milliseconds, got '{got}'");
    ReplyError::new(PreconditionFailed, text)
}

/// A message would wait for longer than one may.
pub fn delay_too_long(header: &str, delay_ms: i128, max_ms: u64) -> ReplyError {
    let text = format!(
        "invalid message: header '{header}' asks for a delay of {delay_ms} ms, expected at most {max_ms} (ten years)"
    );
    ReplyError::new(PreconditionFailed, text)
}

/// A request from `amq.rabbitmq.reply-to` on a channel that does not consume replies.
pub fn no_fast_reply_consumer() -> ReplyError {
    ReplyError::new(PreconditionFailed, "fast reply consumer does not exist")
}

/// A second consumer of `amq.rabbitmq.reply-to` on one channel.
pub fn reply_consumer_already_set() -> ReplyError {
    ReplyError::new(PreconditionFailed, "reply consumer already set")
}

/// A consumer of `amq.rabbitmq.reply-to` that wants to acknowledge.
pub fn reply_consumer_cannot_acknowledge() -> ReplyError {
    ReplyError::new(PreconditionFailed, "reply consumer cannot acknowledge")
}

/// Direct reply-to addresses cannot be bound.
pub fn cannot_bind_reply_queue() -> ReplyError {
    ReplyError::new(AccessRefused, "cannot bind or unbind to a volatile (direct reply-to) queue")
}

/// Someone else's direct reply-to address cannot be consumed from.
pub fn not_reply_queue_creator(queue: Resource<'_>) -> ReplyError {
    ReplyError::new(PreconditionFailed, format!("only creator channel may consume from {queue}"))
}

/// An acknowledgement of a delivery tag that is not outstanding.
pub fn unknown_delivery_tag(tag: u64) -> ReplyError {
    ReplyError::new(PreconditionFailed, format!("unknown delivery tag {tag}"))
}

/// A delivery was not acknowledged within `timeout_ms` milliseconds.
pub fn delivery_timeout(channel: u16, timeout_ms: u64) -> ReplyError {
    let text = format!(
        "delivery acknowledgement on channel {channel} timed out. Timeout value used: {timeout_ms} ms. \
         This timeout value can be configured, see consumers doc guide to learn more"
    );
    ReplyError::new(PreconditionFailed, text)
}

/// `confirm.select` on a transactional channel.
pub fn cannot_switch_from_tx_to_confirm() -> ReplyError {
    ReplyError::new(PreconditionFailed, "cannot switch from tx to confirm mode")
}

/// `tx.select` on a confirming channel.
pub fn cannot_switch_from_confirm_to_tx() -> ReplyError {
    ReplyError::new(PreconditionFailed, "cannot switch from confirm to tx mode")
}

/// `tx.commit` or `tx.rollback` without `tx.select`.
pub fn channel_not_transactional() -> ReplyError {
    ReplyError::new(PreconditionFailed, "channel is not transactional")
}

/// A queue rejected one of the publishes that `tx.commit` applied.
pub fn partial_tx_completion() -> ReplyError {
    ReplyError::new(PreconditionFailed, "partial tx completion")
}

/// A client may not create names that start with `amq.`.
pub fn reserved_prefix(resource: Resource<'_>) -> ReplyError {
    let text = format!("{} name '{}' contains reserved prefix 'amq.*'", resource.kind, resource.name);
    ReplyError::new(AccessRefused, text)
}

/// The default exchange cannot be declared, deleted, bound or unbound.
pub fn default_exchange_not_permitted() -> ReplyError {
    ReplyError::new(AccessRefused, "operation not permitted on the default exchange")
}

/// A predeclared exchange cannot be deleted.
pub fn system_exchange_deletion(vhost: &str, name: &str) -> ReplyError {
    let text = format!("deletion of system {} not allowed", Resource::exchange(vhost, name));
    ReplyError::new(AccessRefused, text)
}

/// No such exchange type.
pub fn unknown_exchange_type(kind: &str) -> ReplyError {
    ReplyError::new(PreconditionFailed, format!("unknown exchange type '{kind}'"))
}

/// A delayed message exchange is not told how to route.
pub fn delayed_type_missing() -> ReplyError {
    let text = "Invalid argument, 'x-delayed-type' must be an existing exchange type";
    ReplyError::new(PreconditionFailed, text)
}

/// A delayed message exchange is told to route as it does itself.
pub fn delayed_type_is_itself() -> ReplyError {
    let text = "Invalid argument, 'x-delayed-message' can't be used for 'x-delayed-type'";
    ReplyError::new(PreconditionFailed, text)
}

/// The broker has as many exchanges as it may have.
pub fn exchange_limit(exchange: Resource<'_>, limit: u32) -> ReplyError {
    let text = format!("cannot declare {exchange}: exchange limit of {limit} is reached");
    ReplyError::new(PreconditionFailed, text)
}

/// The virtual host has as many queues as it may have.
pub fn vhost_queue_limit(vhost: &str, name: &str, limit: u32) -> ReplyError {
    let text = format!("cannot declare queue '{name}': queue limit in vhost '{vhost}' ({limit}) is reached");
    ReplyError::new(PreconditionFailed, text)
}

/// The broker has as many queues as it may have.
pub fn queue_limit(name: &str, limit: u32) -> ReplyError {
    let text = format!("cannot declare queue '{name}': queue limit in cluster ({limit}) is reached");
    ReplyError::new(PreconditionFailed, text)
}

/// A declaration that differs from what exists.
pub fn inequivalent(
    what: &str,
    resource: Resource<'_>,
    received: Shown<'_>,
    current: Shown<'_>,
) -> ReplyError {
    let show = |side: Shown<'_>| match side {
        Shown::Absent => "none".to_owned(),
        Shown::Value(value) => format!("'{value}'"),
        Shown::Typed(value, type_name) => format!("the value '{value}' of type '{type_name}'"),
    };
    let (received, current) = (show(received), show(current));
    let text =
        format!("inequivalent arg '{what}' for {resource}: received {received} but current is {current}");
    ReplyError::new(PreconditionFailed, text)
}

/// A flag (`durable`, `auto_delete`, `internal`) that differs from what exists.
pub fn inequivalent_flag(what: &str, resource: Resource<'_>, received: bool, current: bool) -> ReplyError {
    let word = |flag| Shown::Value(if flag { "true" } else { "false" });
    inequivalent(what, resource, word(received), word(current))
}

/// Another connection's exclusive queue, or a declaration whose exclusive flag differs.
pub fn exclusive_access(queue: Resource<'_>) -> ReplyError {
    let text = format!(
        "cannot obtain exclusive access to locked {queue}. It could be originally declared on another \
         connection or the exclusive property value does not match that of the original declaration."
    );
    ReplyError::new(ResourceLocked, text)
}

/// An x-argument's value is not acceptable; `reason` is an Erlang term such as `{value_zero,0}`.
pub fn invalid_argument(argument: &str, resource: Resource<'_>, reason: &str) -> ReplyError {
    ReplyError::new(PreconditionFailed, format!("invalid arg '{argument}' for {resource}: {reason}"))
}

/// An x-argument that only other queue types have, on a classic queue.
pub fn argument_of_other_queue_type(argument: &str, kind: QueueKind, queue: Resource<'_>) -> ReplyError {
    let text = format!("invalid arg '{argument}' for {queue} of queue type rabbit_{}_queue", kind.name());
    ReplyError::new(PreconditionFailed, text)
}

/// An exchange name in an argument is not a long string but `type_name`.
pub fn invalid_argument_type(argument: &str, resource: Resource<'_>, type_name: &str) -> ReplyError {
    let text = format!("invalid type '{type_name}' for arg '{argument}' in {resource}");
    ReplyError::new(PreconditionFailed, text)
}

/// A headers binding whose `x-match` is none of the four words.
pub fn invalid_x_match(value: &[u8]) -> ReplyError {
    let text = format!(
        "Invalid x-match field value {}; expected all, any, all-with-x, or any-with-x",
        ErlangBinary(value)
    );
    ReplyError::new(PreconditionFailed, text)
}

/// A headers binding whose `x-match` is not a long string; `value` as Erlang prints it.
pub fn invalid_x_match_type(type_name: &str, value: &str) -> ReplyError {
    let text = format!("Invalid x-match field type {type_name} (value {value}); expected longstr");
    ReplyError::new(PreconditionFailed, text)
}

/// A topic binding key with more `#` than are allowed: matching costs a power of their number.
pub fn too_many_wildcards(binding_key: &str, count: usize, limit: usize) -> ReplyError {
    let text =
        format!("Topic binding key '{binding_key}' uses {count} '#' wildcards, at most {limit} are allowed");
    ReplyError::new(PreconditionFailed, text)
}

/// The queue has an exclusive consumer, or has consumers and one asks to be exclusive.
pub fn exclusive_consumer(queue: Resource<'_>) -> ReplyError {
    ReplyError::new(AccessRefused, format!("{queue} in exclusive use"))
}

/// A deletion `if-unused` of something that is used.
pub fn in_use(resource: Resource<'_>) -> ReplyError {
    ReplyError::new(PreconditionFailed, format!("{resource} in use"))
}

/// A deletion `if-empty` of a queue with messages.
pub fn not_empty(queue: Resource<'_>) -> ReplyError {
    ReplyError::new(PreconditionFailed, format!("{queue} not empty"))
}
