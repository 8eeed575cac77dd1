//! What must be true of an owner's queues, and of what another start has recovered of them.

use super::*;

impl Owner {
    /// What the store counts as live is what queues refer to, each block once.
    pub(in super::super) fn accounts_agree(&self) {
        let queues = self.queues.lock().unwrap();
        let chunks = queues.values().flat_map(|queue| &queue.chunks);
        let blocks: HashSet<_> = chunks
            .filter_map(|chunk| match chunk.source {
                Source::Block(location) => Some(location),
                Source::Memory(_) => None,
            })
            .collect();
        let live: u64 = blocks.iter().map(|location| u64::from(location.len)).sum();
        assert_eq!(self.store.segments().usage(Class::Durable).live_bytes, live);
    }

    /// Every live message of a recovered queue, read from where it is.
    pub(super) fn read_all(&self, queue: &RecoveredQueue) -> BTreeMap<Seq, Message> {
        let mut messages = BTreeMap::new();
        let mut end = queue.floor;
        for chunk in &queue.chunks {
            assert!(chunk.first_seq >= end || chunk.first_seq <= queue.floor, "overlap in {queue:?}");
            assert!(chunk.live() > 0);
            end = chunk.end();
            let records: Arc<Chunk> = match &chunk.source {
                Source::Memory(records) => Arc::clone(records),
                Source::Block(location) => {
                    Arc::new(self.store.segments().read(location, queue.id, chunk.first_seq).unwrap())
                }
            };
            let mut live = 0;
            for record in records.records() {
                let settled = chunk.settled.as_ref().is_some_and(|settled| settled.get(record.delta()));
                if !settled {
                    live += 1;
                    let text = String::from_utf8_lossy(record.body()).into_owned();
                    let nonce = text.split('/').next().unwrap().parse().unwrap();
                    let seq = chunk.first_seq + u64::from(record.delta());
                    let attempts =
                        queue.attempts.iter().find(|range| (range.first..=range.last).contains(&seq));
                    let before = attempts.map_or(0, |range| range.attempts.failed);
                    let delay = queue.delays.iter().find(|range| (range.first..=range.last).contains(&seq));
                    let waits = delay.map(|range| (0, range.due_ms)).into_iter().collect();
                    let came_back = (before, Vec::new());
                    messages.insert(seq, Message { came_back, waits, ..Message::new(nonce, 0) });
                }
            }
            assert_eq!(live, chunk.live(), "each number is a record or settled: {queue:?}");
        }
        assert!(end <= queue.next_seq);
        let first = messages.keys().next().copied().unwrap_or(queue.next_seq);
        assert_eq!(queue.floor, first);
        messages
    }

    /// Compares what another start recovered with what must be there, given that everything staged below `durable`
    /// was durable.
    pub(in super::super) fn check(&self, durable: Lsn, reopened: &Owner) {
        let before = self.queues.lock().unwrap();
        let after = reopened.queues.lock().unwrap();
        for (id, queue) in &*after {
            let known = before.get(id).unwrap_or_else(|| panic!("queue {id} was invented"));
            assert!(known.deleted.is_none_or(|lsn| lsn > durable), "queue {id} came back");
            for (seq, message) in &queue.messages {
                let was = known.messages.get(seq).unwrap_or_else(|| panic!("{id}/{seq} was invented"));
                assert_eq!(was.nonce, message.nonce, "{id}/{seq} has another body");
                assert!(was.settled.is_none_or(|lsn| lsn > durable), "{id}/{seq} came back: {was:?}");
                let (least, most) = (was.attempts(durable), was.attempts(Lsn::MAX));
                let found = message.attempts(0);
                assert!((least..=most).contains(&found), "{id}/{seq}: {found} attempts of {was:?}");
                let (least, most) = (was.waits_until(durable), was.waits_until(Lsn::MAX));
                let found = message.waits_until(0);
                assert!((least..=most).contains(&found), "{id}/{seq}: waits until {found} of {was:?}");
            }
        }
        for (id, queue) in &*before {
            let found = after.get(id);
            for (key, values) in queue.notes.iter().filter(|_| queue.deleted.is_none()) {
                let recovered = found.and_then(|queue| queue.notes.get(key)?.last()?.1);
                let last_durable = values.iter().rposition(|(lsn, _)| *lsn <= durable);
                let mut possible: Vec<_> = values[last_durable.unwrap_or(0)..].iter().map(|v| v.1).collect();
                possible.extend(last_durable.is_none().then_some(None));
                assert!(possible.contains(&recovered), "{id}: note {key} is {recovered:?} of {possible:?}");
            }
            for (seq, message) in &queue.messages {
                let left = |id: QueueId, seq: Seq| {
                    let message = &before[&id].messages[&seq];
                    message.settled.is_some() || message.moved.is_some() || before[&id].deleted.is_some()
                };
                if let Some((to, at, moved)) = message.moved
                    && message.enqueued <= durable
                {
                    let here = found.is_some_and(|queue| queue.messages.contains_key(seq));
                    let there = after.get(&to).is_some_and(|queue| queue.messages.contains_key(&at));
                    assert!(moved > durable || !here, "{id}/{seq} was moved and came back");
                    // Purged or deleted here before it had arrived, or gone from there: then it may be nowhere.
                    let ended = message.settled.is_some_and(|lsn| lsn != moved) || left(to, at);
                    assert!(
                        here || there || ended,
                        "{id}/{seq} was lost on its way: {message:?}, durable {durable}"
                    );
                } else if message.enqueued <= durable && message.settled.is_none() {
                    let found = found.and_then(|queue| queue.messages.get(seq));
                    assert!(found.is_some(), "{id}/{seq} was lost: {message:?}, durable {durable}");
                }
                if message.enqueued <= durable && queue.deleted.is_none() {
                    assert!(
                        found.is_some_and(|queue| queue.next_seq > *seq),
                        "{id}/{seq} would be used again"
                    );
                }
            }
        }
    }

    pub(in super::super) fn unsettled(&self) -> usize {
        let queues = self.queues.lock().unwrap();
        queues
            .values()
            .flat_map(|q| q.messages.values())
            .filter(|m| m.settled.is_none() && m.moved.is_none())
            .count()
    }

    pub(in super::super) fn delivered_below(&self, id: u64) -> Seq {
        self.queues.lock().unwrap()[&QueueId(id)].delivered_below
    }
}
