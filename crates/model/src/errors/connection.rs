//! Errors that end the connection.

use super::{ErlangBinary, Resource};
use crate::reply::ReplyCode::{
    AccessRefused, ChannelError, CommandInvalid, ConnectionForced, FrameError, InternalError, NotAllowed,
    NotImplemented, ResourceError, UnexpectedFrame,
};
use crate::reply::ReplyError;

/// Bytes of a bad frame that its error text shows.
const SNIPPET_BYTES: usize = 16;

/// The messages of which a connection has sent only a part take too much memory together. RabbitMQ has no such limit.
pub fn too_many_unfinished_bytes(got: usize, max: usize) -> ReplyError {
    let text = format!("messages sent in part may take {max} bytes together, got {got}");
    ReplyError::new(ResourceError, text)
}

/// What a connection's transactions hold takes too much memory. RabbitMQ has no such limit.
pub fn transactions_too_large(got: usize, max: usize) -> ReplyError {
    ReplyError::new(ResourceError, format!("transactions may hold {max} bytes together, got {got}"))
}

/// `connection.open` named a virtual host that does not exist.
pub fn vhost_not_found(vhost: &str) -> ReplyError {
    ReplyError::new(NotAllowed, format!("vhost {vhost} not found"))
}

/// The user has no permissions in the virtual host.
pub fn vhost_access_refused(vhost: &str, user: &str) -> ReplyError {
    ReplyError::new(NotAllowed, format!("access to vhost '{vhost}' refused for user '{user}'"))
}

/// The virtual host exists but cannot be served.
pub fn vhost_down(vhost: &str, user: &str) -> ReplyError {
    let text = format!("access to vhost '{vhost}' refused for user '{user}': vhost '{vhost}' is down");
    ReplyError::new(InternalError, text).closing_connection()
}

/// The virtual host has as many connections as it may have.
pub fn vhost_connection_limit(vhost: &str, user: &str, limit: u32) -> ReplyError {
    let text =
        format!("access to vhost '{vhost}' refused for user '{user}': connection limit ({limit}) is reached");
    ReplyError::new(NotAllowed, text)
}

/// The user has as many connections as they may have.
pub fn user_connection_limit(user: &str, limit: u32) -> ReplyError {
    let text = format!("connection refused for user '{user}': user connection limit ({limit}) is reached");
    ReplyError::new(NotAllowed, text)
}

/// The broker has as many connections as it may have.
pub fn node_connection_limit(limit: u32) -> ReplyError {
    ReplyError::new(NotAllowed, format!("connection refused: node connection limit ({limit}) is reached"))
}

/// The credentials were wrong; sent only to clients with the `authentication_failure_close` capability.
pub fn login_refused(mechanism: &str) -> ReplyError {
    let text = format!(
        "Login was refused using authentication mechanism {mechanism}. For details see the broker logfile."
    );
    ReplyError::new(AccessRefused, text).closing_connection()
}

/// `connection.update-secret` brought a secret that does not authenticate.
pub fn new_secret_refused() -> ReplyError {
    ReplyError::new(NotAllowed, "New secret was refused by one of the backends")
}

/// `connection.update-secret` could not be carried out.
pub fn secret_update_failed() -> ReplyError {
    ReplyError::new(NotAllowed, "Secret update failed")
}

/// One channel more than was negotiated; `opened` channels are open.
pub fn too_many_channels(opened: u32, channel_max: u32) -> ReplyError {
    let text = format!(
        "number of channels opened ({opened}) has reached the negotiated channel_max ({channel_max})"
    );
    ReplyError::new(NotAllowed, text)
}

/// The user has as many channels as they may have.
pub fn user_channel_limit(user: &str, limit: u32) -> ReplyError {
    let text = format!(
        "number of channels opened for user '{user}' has reached the maximum allowed user limit of {limit}"
    );
    ReplyError::new(NotAllowed, text)
}

/// The broker has as many channels as it may have.
pub fn node_channel_limit(node: &str, limit: u32) -> ReplyError {
    let text = format!(
        "number of channels opened on node '{node}' has reached the maximum allowed limit of {limit}"
    );
    ReplyError::new(NotAllowed, text)
}

/// A method on channel 0 that does not belong there now; `state` is `running` after `connection.open`.
pub fn unexpected_method(state: &str) -> ReplyError {
    ReplyError::new(ChannelError, format!("unexpected method in connection state {state}"))
}

/// `channel.open` on an open channel.
pub fn second_channel_open() -> ReplyError {
    ReplyError::new(ChannelError, "second 'channel.open' seen")
}

/// A method on a channel that was never opened.
pub fn expected_channel_open() -> ReplyError {
    ReplyError::new(ChannelError, "expected 'channel.open'")
}

/// A connection method on a channel other than 0, or a method only servers send.
pub fn unimplemented_method() -> ReplyError {
    ReplyError::new(CommandInvalid, "unimplemented method")
}

/// A frame of a known type where it makes no sense, such as a heartbeat on a channel.
pub fn unexpected_frame(frame_type: u8, payload: &[u8]) -> ReplyError {
    ReplyError::new(UnexpectedFrame, frame_text(frame_type, payload))
}

/// A frame type that AMQP does not have.
pub fn unknown_frame_type(frame_type: u8, payload: &[u8]) -> ReplyError {
    ReplyError::new(FrameError, format!("{}: unknown_frame", frame_text(frame_type, payload)))
}

/// A frame did not end in 0xCE but in `marker`.
pub fn invalid_frame_end(frame_type: u8, payload: &[u8], marker: u8) -> ReplyError {
    let text = format!("{}: {{invalid_frame_end_marker,{marker}}}", frame_text(frame_type, payload));
    ReplyError::new(FrameError, text)
}

/// A frame's payload of `size` bytes exceeds the `max` that was negotiated (less the 8 bytes around it).
pub fn frame_too_large(frame_type: u8, size: u32, max: u32) -> ReplyError {
    let text = format!("{}: {{frame_too_large,{size},{max}}}", frame_text(frame_type, b""));
    ReplyError::new(FrameError, text)
}

/// A method's arguments end too early or make no sense; `arguments` are their bytes.
pub fn cannot_decode(arguments: &[u8]) -> ReplyError {
    ReplyError::new(FrameError, format!("cannot decode {}", ErlangBinary(arguments)))
}

/// A short string was not UTF-8.
pub fn malformed_utf8() -> ReplyError {
    ReplyError::new(FrameError, "Malformed UTF-8 in shortstr")
}

/// A content frame came where a method was due.
pub fn expected_method_frame() -> ReplyError {
    ReplyError::new(UnexpectedFrame, "expected method frame, got non method frame instead")
}

/// Something else than a content header followed a publish.
pub fn expected_content_header(class: u16) -> ReplyError {
    let text = format!("expected content header for class {class}, got non content header frame instead");
    ReplyError::new(UnexpectedFrame, text)
}

/// The content header names another class than the method before it.
pub fn content_header_of_other_class(class: u16, got: u16) -> ReplyError {
    let text = format!("expected content header for class {class}, got one for class {got} instead");
    ReplyError::new(UnexpectedFrame, text)
}

/// Something else than a body frame came while body bytes were missing.
pub fn expected_content_body() -> ReplyError {
    ReplyError::new(UnexpectedFrame, "expected content body, got non content body frame instead")
}

/// More body bytes than the content header announced.
pub fn body_exceeds_declared_size() -> ReplyError {
    ReplyError::new(FrameError, "content body frame exceeds remaining content size")
}

/// The content header announces a body beyond what any configuration allows.
pub fn declared_body_too_large(size: u64, max: u64) -> ReplyError {
    ReplyError::new(FrameError, format!("content body size {size} exceeds maximum allowed size {max}"))
}

/// `basic.publish` with the immediate bit.
pub fn immediate_not_supported() -> ReplyError {
    ReplyError::new(NotImplemented, "immediate=true")
}

/// `basic.qos` with a window in bytes.
pub fn prefetch_size_not_supported(prefetch_size: u32) -> ReplyError {
    ReplyError::new(NotImplemented, format!("prefetch_size!=0 ({prefetch_size})"))
}

/// `basic.recover` without requeue.
pub fn recover_without_requeue() -> ReplyError {
    ReplyError::new(NotImplemented, "requeue=false")
}

/// `channel.flow` that asks the broker to stop.
pub fn flow_stop_not_supported() -> ReplyError {
    ReplyError::new(NotImplemented, "active=false")
}

/// A consumer tag that the channel already uses.
pub fn consumer_tag_in_use(tag: &str) -> ReplyError {
    ReplyError::new(NotAllowed, format!("attempt to reuse consumer tag '{tag}'"))
}

/// The channel has as many consumers as it may have.
pub fn too_many_consumers(limit: u32) -> ReplyError {
    ReplyError::new(NotAllowed, format!("reached maximum ({limit}) of consumers per channel"))
}

/// A feature that RabbitMQ 4.3 no longer permits, such as `queue_master_locator`.
pub fn deprecated_feature(feature: &str) -> ReplyError {
    let text = format!(
        "Feature `{feature}` is deprecated.\n\
         By default, this feature is not permitted anymore.\n\
         The feature will be removed from a future major RabbitMQ version, regardless of the configuration."
    );
    ReplyError::new(InternalError, text)
}

/// A queue declaration whose name only looks like a direct reply-to address; also any failure of the broker's
/// own that no other row names. Has no explanation.
pub fn internal_error() -> ReplyError {
    ReplyError::new(InternalError, "")
}

/// An operator closed the connection and gave this reason.
pub fn closed_by_operator(reason: &str) -> ReplyError {
    ReplyError::new(ConnectionForced, reason)
}

/// The broker stops.
pub fn broker_shutdown() -> ReplyError {
    ReplyError::new(ConnectionForced, "broker forced connection closure with reason 'shutdown'")
}

/// The connection's virtual host was deleted.
pub fn vhost_deleted(vhost: &str) -> ReplyError {
    ReplyError::new(ConnectionForced, format!("vhost '{vhost}' is deleted"))
}

/// The connection's user was deleted.
pub fn user_deleted(user: &str) -> ReplyError {
    ReplyError::new(ConnectionForced, format!("user '{user}' is deleted"))
}

/// An exchange type that RabbitMQ or its plugins have and this broker does not have yet.
pub fn exchange_type_not_supported(kind: &str, exchange: Resource<'_>) -> ReplyError {
    ReplyError::new(NotImplemented, format!("type '{kind}' of {exchange} is not supported yet"))
}

fn frame_text(frame_type: u8, payload: &[u8]) -> String {
    let (how_many, shown) = match payload.get(..SNIPPET_BYTES) {
        Some(first) if payload.len() > SNIPPET_BYTES => ("first 16", first),
        _ => ("all", payload),
    };
    format!("type {frame_type}, {how_many} octets = {}", ErlangBinary(shown))
}
