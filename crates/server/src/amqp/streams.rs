//! What is different about consumers of streams: how they begin, and how their deliveries are written.

use std::sync::Arc;

use posthouse_amqp::{content, stream_offset};
use posthouse_model::errors::{self, Resource};
use posthouse_model::field::FieldTable;
use posthouse_model::props::HeaderView;
use posthouse_model::raw_table::RawValue;
use posthouse_model::reply::ReplyError;
use posthouse_model::stream_args::StreamConsumerArguments;
use posthouse_node::clock;
use posthouse_node::queue_handle::QueueHandle;
use posthouse_node::streams::{self, Outcome};
use posthouse_node::waker::ConsumerWaker;
use posthouse_queue::machine::Run;
use posthouse_queue::machine::roster::ConsumerId;
use posthouse_queue::stream::publishers::{REFERENCE, REFERENCE_BYTES_MAX, publishing_of};

use super::consumer::Consumer;
use super::deliver::{BY_REFERENCE_BYTES, push_body};
use super::outbox::Outbox;
use super::session::Session;
use super::settling::How;
use super::tx::Verdict;
use super::unacked::Outstanding;

impl Session {
    /// `basic.consume` on a stream: acknowledgements are its flow control, so there must be some. `tag` is empty when
    /// the client gave none. Whether the consumer's offset is stored.
    pub(crate) fn add_stream_consumer(
        &mut self,
        number: u16,
        queue: &Arc<QueueHandle>,
        no_ack: bool,
        arguments: &FieldTable,
        tag: &str,
        (id, waker): (ConsumerId, ConsumerWaker),
    ) -> Result<bool, ReplyError> {
        let stream = Resource::queue(&queue.definition.vhost, &queue.definition.name);
        if no_ack {
            return Err(errors::stream_consumer_without_acks(stream));
        }
        let Some(channel) = self.channel(number) else { return Ok(false) };
        if channel.prefetch_global != 0 {
            return Err(errors::no_global_qos(stream));
        }
        if channel.prefetch == 0 {
            return Err(errors::stream_consumer_without_prefetch(stream));
        }
        let arguments = StreamConsumerArguments::parse(arguments, stream, clock::now_ms())?;
        let own = (!tag.is_empty()).then_some(tag.as_bytes());
        let name = arguments.name.as_deref().or(own).filter(|_| arguments.tracking);
        if arguments.tracking && name.is_none() {
            return Err(errors::stream_consumer_without_name(stream));
        }
        streams::add_reader(&self.broker, queue, id, waker, &arguments, name)?;
        Ok(name.is_some())
    }
}

impl Session {
    /// A consumer whose offset is stored settles deliveries or gives them back.
    pub(super) fn settle_named(&mut self, consumer: ConsumerId, run: &Outstanding, verdict: Verdict) {
        let range = (run.first_seq, run.last_seq());
        match verdict {
            Verdict::Settle | Verdict::Reject(_) => {
                self.settling.add(&run.queue, How::Named(consumer), range.0, range.1);
            }
            Verdict::Requeue(_) => {
                streams::settle(&self.broker, &run.queue, consumer, &[range], Outcome::GivenBack);
            }
        }
    }

    /// Checks how a message's publisher numbers it, for the streams that it goes to; whether it does.
    pub(super) fn check_numbered(header: HeaderView<'_>) -> Result<bool, ReplyError> {
        let Some(headers) = header.headers().filter(|headers| headers.get(REFERENCE).is_some()) else {
            return Ok(false);
        };
        if publishing_of(headers).is_some() {
            return Ok(true);
        }
        let named = matches!(headers.get(REFERENCE), Some(RawValue::LongStr(name))
            if (1..=REFERENCE_BYTES_MAX).contains(&name.len()));
        Err(match named {
            true => errors::invalid_publishing(
                "x-stream-publishing-id",
                "an integer from 0 to 9223372036854775807",
            ),
            false => {
                errors::invalid_publishing("x-stream-publisher-reference", "a long string of 1 to 255 bytes")
            }
        })
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
