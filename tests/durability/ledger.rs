//! What was published, confirmed, delivered and acknowledged, and what must therefore be true after a crash.

use std::collections::BTreeMap;

/// Index of a queue.
pub(super) type QueueNo = usize;
/// Index of a publisher.
pub(super) type PublisherNo = usize;

/// A message as its body tells it: `publisher number length` and then filling.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Id {
    pub(super) publisher: PublisherNo,
    pub(super) number: u64,
}

impl Id {
    /// The body of `bytes` bytes, and at least as many as it takes to name the message.
    pub(super) fn body(self, bytes: usize) -> Vec<u8> {
        let mut body = format!("{} {} {bytes} ", self.publisher, self.number).into_bytes();
        let filling = (self.number % 251) as u8;
        body.resize(bytes.max(body.len()), filling);
        body
    }

    /// Reads a body, which must be whole.
    #[track_caller]
    pub(super) fn of(body: &[u8]) -> Self {
        let mut words = body.splitn(4, |&byte| byte == b' ');
        let mut word = || -> u64 {
            let word = words.next().expect("a word");
            std::str::from_utf8(word).expect("text").parse().expect("a number")
        };
        let (publisher, number, bytes) = (word() as usize, word(), word() as usize);
        let id = Self { publisher, number };
        assert!(body == id.body(bytes), "the body of {id:?} is damaged");
        id
    }
}

/// What is known of one message in one queue.
#[derive(Clone, Copy, Default, Debug)]
struct Fate {
    confirmed: bool,
    /// A client has seen it.
    delivered: bool,
    acked: bool,
    /// Its acknowledgement must be on disk: a publish after it was confirmed.
    ack_synced: bool,
}

/// What one delivery was like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delivery {
    pub(super) id: Id,
    pub(super) redelivered: bool,
}

/// See the module's documentation.
#[derive(Default, Debug)]
pub(super) struct Ledger {
    messages: BTreeMap<(QueueNo, Id), Fate>,
}

impl Ledger {
    /// A publisher sent the messages `from..to` to these queues.
    pub(super) fn published(&mut self, queues: &[QueueNo], publisher: PublisherNo, from: u64, to: u64) {
        for number in from..to {
            for &queue in queues {
                self.messages.insert((queue, Id { publisher, number }), Fate::default());
            }
        }
    }

    /// A publish was confirmed.
    pub(super) fn confirmed(&mut self, queues: &[QueueNo], id: Id) {
        for &queue in queues {
            self.fate(queue, id).confirmed = true;
        }
    }

    /// A client has seen a message.
    pub(super) fn delivered(&mut self, queue: QueueNo, delivery: Delivery) {
        let fate = self.fate(queue, delivery.id);
        assert!(
            delivery.redelivered || !fate.delivered,
            "queue {queue}: {delivery:?} was delivered before, and does not say so"
        );
        fate.delivered = true;
    }

    /// A client has acknowledged a message; `synced` when that must be on disk.
    pub(super) fn acked(&mut self, queue: QueueNo, id: Id, synced: bool) {
        let fate = self.fate(queue, id);
        fate.acked = true;
        fate.ack_synced |= synced;
    }

    /// What a restarted broker has in a queue, in order, is compared with what must and what may be there. From
    /// then on, this is what there is.
    pub(super) fn found(&mut self, queue: QueueNo, deliveries: &[Delivery]) {
        let mut last: BTreeMap<PublisherNo, u64> = BTreeMap::new();
        let mut there = BTreeMap::new();
        for &delivery in deliveries {
            let Id { publisher, number } = delivery.id;
            let before = last.insert(publisher, number);
            assert!(
                before < Some(number),
                "queue {queue}: {:?} came after number {before:?} of its publisher",
                delivery.id
            );
            let fate = *self.fate(queue, delivery.id);
            assert!(!fate.ack_synced, "queue {queue}: {:?} was acknowledged for good: {fate:?}", delivery.id);
            self.delivered(queue, delivery);
            there.insert((queue, delivery.id), Fate { delivered: true, acked: false, ..fate });
        }
        let lost: Vec<_> = self
            .messages
            .iter()
            .filter(|&(key, fate)| {
                key.0 == queue && fate.confirmed && !fate.acked && !there.contains_key(key)
            })
            .collect();
        assert!(lost.is_empty(), "queue {queue}: {} confirmed messages are lost: {lost:?}", lost.len());
        self.messages.retain(|key, _| key.0 != queue);
        self.messages.append(&mut there);
    }

    #[track_caller]
    fn fate(&mut self, queue: QueueNo, id: Id) -> &mut Fate {
        self.messages
            .get_mut(&(queue, id))
            .unwrap_or_else(|| panic!("queue {queue}: {id:?} was never published, or was gone for good"))
    }
}
