//! What streams refuse.

use super::Resource;
use crate::reply::ReplyCode::{NotImplemented, PreconditionFailed};
use crate::reply::ReplyError;

/// A method that streams do not have: `queue.purge`, `basic.get`. Ends the connection.
pub fn not_for_streams(method: &str, stream: Resource<'_>) -> ReplyError {
    ReplyError::new(NotImplemented, format!("{method} not supported by stream queues {stream}"))
}

/// A consumer without acknowledgements, which are a stream's flow control. Ends the connection.
pub fn stream_consumer_without_acks(stream: Resource<'_>) -> ReplyError {
    ReplyError::new(NotImplemented, format!("automatic acknowledgement not supported by stream {stream}"))
}

/// A consumer on a channel with a prefetch limit for all of its consumers together. Ends the connection.
pub fn no_global_qos(stream: Resource<'_>) -> ReplyError {
    ReplyError::new(NotImplemented, format!("{stream} does not support global qos"))
}

/// A consumer without a prefetch limit.
pub fn stream_consumer_without_prefetch(stream: Resource<'_>) -> ReplyError {
    ReplyError::new(PreconditionFailed, format!("consumer prefetch count is not set for stream {stream}"))
}

/// An x-argument that only other queue types have, on a stream.
pub fn argument_of_no_stream(argument: &str, stream: Resource<'_>) -> ReplyError {
    let text = format!("invalid arg '{argument}' for {stream} of queue type rabbit_stream_queue");
    ReplyError::new(PreconditionFailed, text)
}

/// A stream declared as what streams cannot be: `non-durable`, `auto-delete`, `exclusive-owner`.
pub fn invalid_property(property: &str, stream: Resource<'_>) -> ReplyError {
    ReplyError::new(PreconditionFailed, format!("invalid property '{property}' for {stream}"))
}

/// A stream whose name the broker should make up.
pub fn server_named_stream() -> ReplyError {
    ReplyError::new(PreconditionFailed, "Cannot declare a server-named queue for type rabbit_stream_queue")
}

/// An x-argument that is too large.
pub fn exceeded_max_value(argument: &str) -> ReplyError {
    ReplyError::new(PreconditionFailed, format!("Exceeded max value for {argument}"))
}

/// An x-argument that is not within its limits.
pub fn invalid_value_for(argument: &str) -> ReplyError {
    ReplyError::new(PreconditionFailed, format!("Invalid value for {argument}"))
}

/// An x-argument of a wrong type.
pub fn invalid_type_for(argument: &str) -> ReplyError {
    ReplyError::new(PreconditionFailed, format!("Invalid type for {argument}"))
}

/// A consumer whose offset is to be stored, without a name of its client's.
pub fn stream_consumer_without_name(stream: Resource<'_>) -> ReplyError {
    let text = format!(
        "consumer name is not set for stream {stream}: its offset is stored under its tag or 'x-stream-consumer-name'"
    );
    ReplyError::new(PreconditionFailed, text)
}

/// A consumer whose offset is to be stored, under a name for which there is no room.
pub fn too_many_stored_offsets(stream: Resource<'_>, limit: usize) -> ReplyError {
    let text = format!("{stream} has offsets of {limit} consumer names, which is the most that are stored");
    ReplyError::new(PreconditionFailed, text)
}

/// A message that names its publisher for deduplication, and cannot be told from others of it.
pub fn invalid_publishing(header: &str, expected: &str) -> ReplyError {
    ReplyError::new(PreconditionFailed, format!("invalid header '{header}': expected {expected}"))
}
