//! `basic.get`

use posthouse_amqp::content;
use posthouse_amqp::deliver::GetOk;
use posthouse_amqp::method::Method;
use posthouse_model::errors::{self, Permission, Resource, ResourceKind};
use posthouse_model::reply::ReplyError;
use posthouse_node::deadlines::NEVER_MS;
use posthouse_node::deliver;
use posthouse_queue::machine::{Run, TakeEnd};

use super::attempts::with_attempts;
use super::deliver::push_body;
use super::session::{Failure, Session};
use super::unacked::Outstanding;

/// A `basic.get` that waits for its message to be read from a segment. Later frames of the connection wait with it.
#[derive(Debug)]
pub(crate) struct DeferredGet {
    channel: u16,
    queue: String,
    no_ack: bool,
}

const GET_IDS: (u16, u16) = (60, 70);

impl Session {
    /// `basic.get`
    pub(crate) fn basic_get(&mut self, number: u16, name: &str, no_ack: bool) -> Result<(), ReplyError> {
        let name = self.queue_name(number, name)?;
        self.may(Permission::Read, ResourceKind::Queue, &name)?;
        let queue = self.peer.vhost.queue(&name, self.peer.info.id)?;
        if queue.is_stream {
            let stream = Resource::queue(&queue.definition.vhost, &queue.definition.name);
            return Err(errors::not_for_streams("basic.get", stream));
        }
        let (end, run, left) = deliver::get(&self.broker, &queue, no_ack, &self.waker);
        let Some(run) = run else {
            if end == TakeEnd::NeedsLoad {
                self.deferred.push_back(DeferredGet { channel: number, queue: name, no_ack });
            } else {
                self.send(number, &Method::BasicGetEmpty {});
            }
            return Ok(());
        };
        if self.peer.vhost.is_traced() {
            self.trace_deliveries(number, &queue, std::slice::from_ref(&run));
        }
        let due_ms = if no_ack { NEVER_MS } else { self.due(queue.consumer_timeout_ms()) };
        self.await_deadline(due_ms);
        let Some(channel) = self.channel(number) else { return Ok(()) };
        let delivery_tag = channel.unacked.next_tags(1);
        if !no_ack {
            channel.unacked.push(Outstanding {
                first_tag: delivery_tag,
                count: 1,
                first_seq: run.first_seq,
                queue,
                consumer: None,
                due_ms,
            });
        }
        self.write_get_ok(number, &run, delivery_tag, left);
        Ok(())
    }

    fn write_get_ok(&mut self, number: u16, run: &Run, delivery_tag: u64, left: u64) {
        let Some(record) = run.chunk.record_at(run.offset) else { return };
        let message_count = u32::try_from(left).unwrap_or(u32::MAX);
        let redelivered = run.redelivered || record.redelivered();
        let ok = GetOk { delivery_tag, redelivered, route: record.route(), message_count };
        ok.write_method(&mut self.out.bytes, number);
        let header = with_attempts(record.header(), run.attempts, self.peer.frame_max);
        content::write_header(&mut self.out.bytes, number, &header);
        push_body(&mut self.out, number, &run.chunk, run.offset, &record, self.peer.frame_max);
    }

    /// Tries again what waited for a message to be read.
    pub(crate) fn retry_deferred(&mut self) -> Result<(), Failure> {
        for _ in 0..self.deferred.len() {
            let Some(DeferredGet { channel, queue, no_ack }) = self.deferred.pop_front() else { break };
            if let Err(error) = self.basic_get(channel, &queue, no_ack) {
                self.fail(channel, Failure { error, ids: GET_IDS })?;
            }
        }
        Ok(())
    }
}
