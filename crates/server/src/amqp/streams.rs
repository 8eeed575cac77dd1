//! What is different about consumers of streams: how they begin, and how their deliveries are written.

use std::sync::Arc;

use posthouse_amqp::{content, stream_offset};
use posthouse_model::errors::{self, Resource};
use posthouse_model::field::FieldTable;
use posthouse_model::reply::ReplyError;
use posthouse_model::stream_args::StreamConsumerArguments;
use posthouse_node::clock;
use posthouse_node::queue_handle::QueueHandle;
use posthouse_node::streams;
use posthouse_node::waker::ConsumerWaker;
use posthouse_queue::machine::Run;
use posthouse_queue::machine::roster::ConsumerId;

use super::consumer::Consumer;
use super::deliver::{BY_REFERENCE_BYTES, push_body};
use super::outbox::Outbox;
use super::session::Session;

impl Session {
    /// `basic.consume` on a stream: acknowledgements are its flow control, so there must be some.
    pub(crate) fn add_stream_consumer(
        &mut self,
        number: u16,
        queue: &Arc<QueueHandle>,
        no_ack: bool,
        arguments: &FieldTable,
        (id, waker): (ConsumerId, ConsumerWaker),
    ) -> Result<(), ReplyError> {
        let stream = Resource::queue(&queue.definition.vhost, &queue.definition.name);
        if no_ack {
            return Err(errors::stream_consumer_without_acks(stream));
        }
        let Some(channel) = self.channel(number) else { return Ok(()) };
        if channel.prefetch_global != 0 {
            return Err(errors::no_global_qos(stream));
        }
        if channel.prefetch == 0 {
            return Err(errors::stream_consumer_without_prefetch(stream));
        }
        let arguments = StreamConsumerArguments::parse(arguments, stream, clock::now_ms())?;
        streams::add_reader(queue, id, waker, &arguments)
    }
}

/// As for other queues, but with each message's number in its headers.
pub(super) fn encode_run(out: &mut Outbox, consumer: &Consumer, run: &Run, first_tag: u64, frame_max: u32) {
    let prefix = &consumer.prefix;
    let mut offset = run.offset;
    for (tag, number) in (first_tag..first_tag + u64::from(run.count)).zip(run.first_seq..) {
        let Some(record) = run.chunk.record_at(offset) else { return };
        let (route, header, body) = (record.route(), record.header(), record.body());
        let copied = if body.len() < BY_REFERENCE_BYTES { body.len() } else { 0 };
        out.bytes.reserve(prefix.head_bytes(route, header) + stream_offset::MORE_BYTES + copied + 8);
        prefix.write_method(&mut out.bytes, tag, run.redelivered, route);
        stream_offset::write_header(&mut out.bytes, consumer.channel, header, number);
        if body.len() < BY_REFERENCE_BYTES {
            content::write_body(&mut out.bytes, consumer.channel, body, frame_max);
        } else {
            push_body(out, consumer.channel, &run.chunk, offset, &record, frame_max);
        }
        offset += record.len() as u32;
    }
}
