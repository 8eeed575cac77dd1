//! Serving consumers: messages go from their queue's chunks into the connection's out-buffer.

use std::sync::Arc;

use posthouse_amqp::content::BodyFrames;
use posthouse_amqp::frame::END;
use posthouse_model::attempts::Attempts;
use posthouse_model::chunk::Chunk;
use posthouse_model::record::Record;
use posthouse_node::deadlines::{NEVER_MS, due_ms, now_ms};
use posthouse_node::deliver::{self, Taken};
use posthouse_queue::machine::{Limits, Run, TakeEnd};

use super::attempts::with_attempts;
use super::consumer::Consumer;
use super::outbox::Outbox;
use super::session::Session;
use super::streams;
use super::unacked::Outstanding;

/// Bodies from this size on are sent from where they lie; smaller ones are copied.
pub(super) const BY_REFERENCE_BYTES: usize = 16 << 10;

/// Taken from one queue per turn, so that the consumers of a connection take turns.
const TURN_BYTES: usize = 128 << 10;

impl Session {
    /// Serves the consumers in line while there is room.
    pub(crate) fn deliver(&mut self) {
        let mut runs = std::mem::take(&mut self.runs);
        while self.room() > 0 {
            let Some(slot) = self.consumers.next_ready() else { break };
            self.serve(slot, &mut runs);
            runs.clear();
        }
        self.runs = runs;
    }

    /// Leaves the turns of everybody in line to others, while the socket takes nothing.
    pub(crate) fn suspend_consumers(&mut self) {
        let in_line: Vec<u32> = self.consumers.in_line().collect();
        for slot in in_line {
            if let Some(consumer) = self.consumers.get_mut(slot).filter(|c| !c.blocked) {
                consumer.blocked = true;
                deliver::block(&self.broker, &consumer.queue, consumer.id);
            }
        }
    }

    fn serve(&mut self, slot: u32, runs: &mut Vec<Run>) {
        let bytes = self.room().min(TURN_BYTES);
        let Some(consumer) = self.consumers.get_mut(slot) else { return };
        let channel = self.channels.get_mut(usize::from(consumer.channel)).and_then(|c| c.as_deref_mut());
        let Some(channel) = channel else { return };
        let channel_credit = if consumer.no_ack { u32::MAX } else { channel.credit() };
        let messages = consumer.credit().min(channel_credit);
        if messages == 0 {
            if !consumer.blocked {
                consumer.blocked = true;
                deliver::block(&self.broker, &consumer.queue, consumer.id);
            }
            return;
        }
        consumer.blocked = false;
        let limits = Limits { messages, bytes };
        let Taken { end, timeout_ms } =
            deliver::take(&self.broker, &consumer.queue, consumer.id, limits, consumer.no_ack, runs);
        let timeout_ms = consumer.timeout_ms.or(timeout_ms).filter(|_| !consumer.no_ack && !runs.is_empty());
        let due_ms = timeout_ms.map_or(NEVER_MS, |timeout_ms| due_ms(now_ms(), timeout_ms));
        for run in runs.iter() {
            let first_tag = channel.unacked.next_tags(run.count);
            if consumer.queue.is_stream {
                streams::encode_run(&mut self.out, consumer, run, first_tag, self.peer.frame_max);
            } else {
                encode_run(&mut self.out, consumer, run, first_tag, self.peer.frame_max);
            }
            if !consumer.no_ack {
                consumer.unacked += run.count;
                channel.consumer_unacked += run.count;
                channel.unacked.push(Outstanding {
                    first_tag,
                    count: run.count,
                    first_seq: run.first_seq,
                    queue: consumer.queue.clone(),
                    consumer: Some(slot),
                    due_ms,
                });
            }
        }
        self.await_deadline(due_ms);
        if end == TakeEnd::Limit {
            // Without credit the next turn tells the queue so.
            self.consumers.list(slot);
        }
        if self.peer.vhost.is_traced()
            && let Some(consumer) = self.consumers.get_mut(slot)
        {
            let (number, queue) = (consumer.channel, consumer.queue.clone());
            self.trace_deliveries(number, &queue, runs);
        }
    }
}

/// Encodes a run's deliveries.
fn encode_run(out: &mut Outbox, consumer: &Consumer, run: &Run, first_tag: u64, frame_max: u32) {
    if run.attempts != Attempts::default() {
        return encode_again(out, consumer, run, first_tag, frame_max);
    }
    let prefix = &consumer.prefix;
    let mut offset = run.offset;
    for tag in first_tag..first_tag + u64::from(run.count) {
        let Some(record) = run.chunk.record_at(offset) else { return };
        let redelivered = run.redelivered || record.redelivered();
        if record.body().len() < BY_REFERENCE_BYTES {
            let (route, header, body) = (record.route(), record.header(), record.body());
            prefix.write(&mut out.bytes, tag, redelivered, route, header, body, frame_max);
        } else {
            prefix.write_head(&mut out.bytes, tag, redelivered, record.route(), record.header());
            push_body(out, consumer.channel, &run.chunk, offset, &record, frame_max);
        }
        offset += record.len() as u32;
    }
}

/// Encodes deliveries of messages that came back and are counted.
#[cold]
fn encode_again(out: &mut Outbox, consumer: &Consumer, run: &Run, first_tag: u64, frame_max: u32) {
    let mut offset = run.offset;
    for tag in first_tag..first_tag + u64::from(run.count) {
        let Some(record) = run.chunk.record_at(offset) else { return };
        let header = with_attempts(record.header(), run.attempts, frame_max);
        let (route, body) = (record.route(), record.body());
        if body.len() < BY_REFERENCE_BYTES {
            consumer.prefix.write(&mut out.bytes, tag, run.redelivered, route, &header, body, frame_max);
        } else {
            consumer.prefix.write_head(&mut out.bytes, tag, run.redelivered, route, &header);
            push_body(out, consumer.channel, &run.chunk, offset, &record, frame_max);
        }
        offset += record.len() as u32;
    }
}

/// Adds a body's frames, its bytes by reference.
pub(crate) fn push_body(
    out: &mut Outbox,
    channel: u16,
    chunk: &Arc<Chunk>,
    offset: u32,
    record: &Record<'_>,
    frame_max: u32,
) {
    let start = offset as usize + record.body_offset();
    for frame in BodyFrames::new(channel, record.body().len(), frame_max) {
        out.bytes.extend_from_slice(&frame.head);
        out.push_piece(chunk, start + frame.range.start, start + frame.range.end);
        out.bytes.push(END);
    }
}
