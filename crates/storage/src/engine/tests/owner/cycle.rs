//! An owner as the checkpoint cycle sees it.

use super::*;

impl QueueOwner for Owner {
    fn collect(&self, below: Lsn, sink: ChunkSink<'_>) -> Result<(), StorageError> {
        let mut live = Vec::new();
        for (&queue, state) in &*self.queues.lock().unwrap() {
            for chunk in state.chunks.iter().filter(|chunk| chunk.lsn <= below) {
                if let Source::Memory(records) = &chunk.source {
                    let settled = (chunk.settled.count() > 0).then(|| chunk.settled.clone());
                    let (chunk, first_seq) = (Arc::clone(records), chunk.first_seq);
                    live.push(LiveChunk { queue, first_seq, chunk, settled, summary: Vec::new() });
                }
            }
        }
        live.into_iter().try_for_each(sink)
    }

    fn relocated(&self, queue: QueueId, first_seq: Seq, location: Location) {
        let mut queues = self.queues.lock().unwrap();
        let chunks = queues.get_mut(&queue).map(|queue| &mut queue.chunks);
        match chunks.and_then(|chunks| chunks.iter_mut().find(|chunk| chunk.first_seq == first_seq)) {
            Some(chunk) => {
                if let Source::Block(old) = std::mem::replace(&mut chunk.source, Source::Block(location)) {
                    self.store.segments().release(&old);
                }
            }
            None => self.store.segments().release(&location),
        }
    }

    fn spilled(&self, sink: &mut dyn FnMut(QueueId, BlockRef)) {
        for (&id, queue) in &*self.queues.lock().unwrap() {
            for chunk in &queue.chunks {
                if let Source::Block(location) = chunk.source
                    && location.class == Class::Spill
                {
                    let settled = (chunk.settled.count() > 0).then(|| chunk.settled.clone());
                    let (first_seq, span) = (chunk.first_seq, chunk.settled.len());
                    let received = Received::UNKNOWN;
                    let (expires, shares) = (false, Shares::default());
                    sink(id, BlockRef { location, first_seq, span, settled, received, expires, shares });
                }
            }
        }
    }

    fn states(&self, sink: &mut dyn FnMut(QueueState)) {
        for (&id, queue) in &mut *self.queues.lock().unwrap() {
            self.finish_moves(queue);
            if queue.deleted.is_some() {
                continue;
            }
            let mut covered = queue.next_seq;
            let mut blocks = Vec::new();
            for chunk in &queue.chunks {
                let Source::Block(location) = chunk.source else {
                    covered = chunk.first_seq;
                    break;
                };
                let settled = (chunk.settled.count() > 0).then(|| chunk.settled.clone());
                blocks.push(BlockRef {
                    location,
                    first_seq: chunk.first_seq,
                    span: chunk.settled.len(),
                    settled,
                    received: Received::UNKNOWN,
                    expires: false,
                    shares: Shares::default(),
                });
            }
            let first = queue.chunks.first().map_or(queue.next_seq, |chunk| chunk.first_seq);
            let (next_seq, delivered_below) = (queue.next_seq, queue.delivered_below);
            let last = queue.notes.iter().filter_map(|(key, values)| Some((*key, values.last()?.1?)));
            let note =
                |(key, value): (u8, u32)| Note { key: [key].into(), value: value.to_le_bytes().into() };
            let notes = last.map(note).collect();
            let open = queue.messages.iter().filter(|(_, message)| message.settled.is_none());
            let attempts = open.map(|(&seq, message)| attempted(seq, message.attempts(Lsn::MAX)));
            let attempts = attempts.filter(|range| range.attempts.failed > 0);
            let waiting = queue.messages.iter().filter(|(_, message)| message.settled.is_none());
            let delays = waiting.map(|(&seq, message)| DelayRange {
                first: seq,
                last: seq,
                due_ms: message.waits_until(Lsn::MAX),
            });
            let delays = delays.filter(|range| range.due_ms > 0);
            sink(QueueState {
                id,
                next_seq,
                floor: first,
                covered,
                delivered_below,
                blocks,
                notes,
                attempts: attempts.collect(),
                delays: delays.collect(),
            });
        }
    }
}
