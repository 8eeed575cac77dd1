//! SIGKILL at random moments under load. No confirmed message is lost, no acknowledgement that was on disk is undone,
//! every publisher's order is kept, and what may have been delivered before says so.
//!
//! Ten cycles; 200 with `POSTHOUSE_LONG=1`.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use posthouse_testkit::calls::persistent;
use posthouse_testkit::peer::Arrival;
use posthouse_testkit::{
    Broker, Consume, Exchange, Handshake, Method, Options, Peer, Publish, Queue, TIMEOUT,
};

use super::ledger::{Delivery, Id, Ledger, PublisherNo, QueueNo};

const QUEUES: [&str; 2] = ["q0", "q1"];
const MARKERS: [&str; 2] = ["markers0", "markers1"];
/// Messages of a queue that are left for the next cycle.
const BACKLOG_KEPT: usize = 2_000;

/// Publishes that may wait for their confirms.
const WINDOW: usize = 150;

/// Where each publisher's messages go: the exchange, the routing key, the queues.
const PUBLISHERS: [(&str, &str, &[QueueNo]); 3] = [("", "q0", &[0]), ("", "q1", &[1]), ("both", "", &[0, 1])];

#[test]
fn with_log_files_so_small_that_they_are_soon_used_again() {
    let options = Options::log()
        .set("POSTHOUSE__LOG__FILE_SIZE", "1MiB")
        .set("POSTHOUSE__LOG__FILES", "4")
        .set("POSTHOUSE__MEMORY__BUDGET", "16MiB");
    cycles(options, 0x5eed);
}

#[test]
fn with_large_log_files() {
    let options = Options::log().set("POSTHOUSE__LOG__FILE_SIZE", "16MiB").set("POSTHOUSE__LOG__FILES", "4");
    cycles(options, 0xfeed);
}

fn cycles(options: Options, seed: u64) {
    let cycles = if std::env::var_os("POSTHOUSE_LONG").is_some() { 100 } else { 5 };
    let mut random = Random(seed);
    let mut broker = Broker::start(options);
    let mut peer = broker.peer();
    peer.declare_exchange(1, &Exchange { durable: true, ..Exchange::named("both", "fanout") });
    for queue in QUEUES {
        peer.declare(1, &Queue::durable(queue));
        peer.bind(1, queue, "both", "");
    }
    for queue in MARKERS {
        peer.declare(1, &Queue::durable(queue));
    }
    peer.close();
    let mut ledger = Ledger::default();
    let mut next = [0; PUBLISHERS.len()];
    for cycle in 0..cycles {
        run_and_kill(&mut broker, &mut random, &mut ledger, &mut next);
        if cycle % 2 == 0 {
            broker.check();
        }
        broker.start_again();
        inspect(&broker, &mut ledger);
    }
    broker.stop();
    broker.check();
}

/// Puts the broker under load, kills it when a random number of things has happened, and writes down what its
/// clients know.
fn run_and_kill(broker: &mut Broker, random: &mut Random, ledger: &mut Ledger, next: &mut [u64; 3]) {
    let (progress, happened) = channel();
    let address = broker.address();
    let publishers: Vec<_> = (0..PUBLISHERS.len())
        .map(|publisher| {
            let (progress, random, from) = (progress.clone(), random.split(), next[publisher]);
            let peer = publishing_peer(address);
            thread::spawn(move || publish(peer, publisher, from, random, &progress))
        })
        .collect();
    let consumers: Vec<_> = (0..QUEUES.len())
        .map(|queue| {
            let (progress, random) = (progress.clone(), random.split());
            let peer = consuming_peer(address, queue);
            thread::spawn(move || consume(peer, queue, random, &progress))
        })
        .collect();
    drop(progress);
    wait_for(&happened, random.below(12_000) + 100);
    broker.kill();
    for (publisher, thread) in publishers.into_iter().enumerate() {
        let (to, confirmed) = thread.join().expect("the publisher");
        let queues = PUBLISHERS[publisher].2;
        ledger.published(queues, publisher, next[publisher], to);
        next[publisher] = to;
        for number in confirmed {
            ledger.confirmed(queues, Id { publisher, number });
        }
    }
    for (queue, thread) in consumers.into_iter().enumerate() {
        let (deliveries, acked, synced) = thread.join().expect("the consumer");
        for delivery in deliveries {
            ledger.delivered(queue, delivery);
        }
        for (at, id) in acked.into_iter().enumerate() {
            ledger.acked(queue, id, at < synced);
        }
    }
}

/// A connection with confirms on channel 1.
fn publishing_peer(address: SocketAddr) -> Peer {
    let mut peer = Peer::open(address, &Handshake::default());
    peer.open_channel(1);
    peer.select_confirms(1);
    peer
}

/// A connection with a consumer on channel 1 and confirms on channel 2.
fn consuming_peer(address: SocketAddr, queue: QueueNo) -> Peer {
    let mut peer = Peer::open(address, &Handshake::default());
    peer.open_channel(1);
    peer.prefetch(1, 100, false);
    peer.open_channel(2);
    peer.select_confirms(2);
    peer.consume(1, &Consume::from(QUEUES[queue]));
    peer
}

/// Waits until `count` confirms and deliveries have happened.
fn wait_for(happened: &Receiver<u64>, count: u64) {
    let mut seen = 0;
    while seen < count {
        seen += happened.recv_timeout(TIMEOUT).expect("the broker makes progress");
    }
}

/// Publishes until the broker is gone: the number after the last message sent, and the numbers confirmed.
fn publish(
    mut peer: Peer,
    publisher: PublisherNo,
    from: u64,
    mut random: Random,
    progress: &Sender<u64>,
) -> (u64, Vec<u64>) {
    let (exchange, routing_key, _) = PUBLISHERS[publisher];
    let (mut to, mut confirmed) = (from, Vec::new());
    let mut window = Window::default();
    loop {
        let mut out = Vec::new();
        for _ in 0..=random.below(40) {
            let bytes = if random.below(200) == 0 { 300_000 } else { 10 + random.below(1_500) as usize };
            let body = Id { publisher, number: to }.body(bytes);
            let publish =
                Publish { properties: persistent(), body: &body, ..Publish::to(exchange, routing_key) };
            publish.write(1, peer.frame_max, &mut out);
            window.sent(to);
            to += 1;
        }
        let mut open = peer.try_send_bytes(&out);
        while open && window.open.len() > WINDOW {
            let before = confirmed.len();
            open = match arrival(&mut peer) {
                Some((_, payload)) => {
                    window.take_confirm(&payload, |number| confirmed.push(number));
                    true
                }
                None => false,
            };
            // Nobody counts any more once the broker is to be killed.
            let _ = progress.send((confirmed.len() - before) as u64);
        }
        if !open {
            // What it said before it was killed counts.
            while let Some((_, payload)) = arrival(&mut peer) {
                window.take_confirm(&payload, |number| confirmed.push(number));
            }
            return (to, confirmed);
        }
    }
}

/// Consumes until the broker is gone: what came, what was acknowledged in order, and how many of these
/// acknowledgements must be on disk. After acknowledging it publishes a marker: once that is confirmed, they must.
fn consume(
    mut peer: Peer,
    queue: QueueNo,
    mut random: Random,
    progress: &Sender<u64>,
) -> (Vec<Delivery>, Vec<Id>, usize) {
    let (mut deliveries, mut acked, mut synced) = (Vec::new(), Vec::new(), 0);
    let mut window = Window::default();
    let mut held: VecDeque<(u64, Id)> = VecDeque::new();
    let mut assembling: Option<(u64, bool, Vec<u8>, usize)> = None;
    while let Some((channel, payload)) = arrival(&mut peer) {
        if channel == 2 {
            window.take_confirm(&payload, |acked_before| synced = synced.max(acked_before as usize));
            continue;
        }
        let complete = match &mut assembling {
            None => {
                let method = Method::decode(&payload).expect("a method");
                let Method::BasicDeliver { delivery_tag, redelivered, .. } = method else {
                    panic!("expected a delivery, got {method:?}")
                };
                assembling = Some((delivery_tag, redelivered, Vec::new(), usize::MAX));
                false
            }
            Some((.., body, size)) if *size == usize::MAX => {
                let size_bytes = payload[4..12].try_into().expect("a content header");
                *size = u64::from_be_bytes(size_bytes) as usize;
                body.len() == *size
            }
            Some((.., body, size)) => {
                body.extend_from_slice(&payload);
                body.len() == *size
            }
        };
        if !complete {
            continue;
        }
        let (tag, redelivered, body, _) = assembling.take().expect("a message is assembled");
        let id = Id::of(&body);
        deliveries.push(Delivery { id, redelivered });
        held.push_back((tag, id));
        let _ = progress.send(1);
        if held.len() >= 20 && !settle(&mut peer, queue, &mut held, &mut acked, &mut window, &mut random) {
            // What it said before it was killed counts.
            continue;
        }
    }
    (deliveries, acked, synced)
}

/// Gives one message back, acknowledges most of the others, one by one or at once, and publishes the marker.
fn settle(
    peer: &mut Peer,
    queue: QueueNo,
    held: &mut VecDeque<(u64, Id)>,
    acked: &mut Vec<Id>,
    window: &mut Window,
    random: &mut Random,
) -> bool {
    use posthouse_amqp::method::write_method;
    let mut out = Vec::new();
    let (delivery_tag, _) = held.pop_front().expect("messages are held");
    write_method(&mut out, 1, &Method::BasicNack { delivery_tag, multiple: false, requeue: true });
    let keep = random.below(5) as usize;
    let settled = held.drain(..held.len() - keep);
    if random.below(2) == 0 {
        let mut last = 0;
        acked.extend(settled.map(|(tag, id)| {
            last = tag;
            id
        }));
        write_method(&mut out, 1, &Method::BasicAck { delivery_tag: last, multiple: true });
    } else {
        for (delivery_tag, id) in settled {
            acked.push(id);
            write_method(&mut out, 1, &Method::BasicAck { delivery_tag, multiple: false });
        }
    }
    let marker = Publish { properties: persistent(), body: b"marker", ..Publish::to("", MARKERS[queue]) };
    marker.write(2, peer.frame_max, &mut out);
    window.sent(acked.len() as u64);
    peer.try_send_bytes(&out)
}

/// The next frame's channel and payload; `None` when the broker is gone.
fn arrival(peer: &mut Peer) -> Option<(u16, Vec<u8>)> {
    match peer.arrival(TIMEOUT) {
        Arrival::Frame(frame) => Some((frame.channel, frame.payload)),
        Arrival::Eof => None,
        Arrival::Nothing => panic!("the broker neither speaks nor ends"),
    }
}

/// Compares what a restarted broker has with the ledger, and leaves the newest of it there.
fn inspect(broker: &Broker, ledger: &mut Ledger) {
    for (number, queue) in QUEUES.iter().enumerate() {
        let mut peer = broker.peer();
        let (count, _) = peer.counts(1, queue);
        let tag = peer.consume(1, &Consume::from(queue));
        let deliveries: Vec<_> = (0..count)
            .map(|_| peer.message(1))
            .map(|message| Delivery { id: Id::of(&message.body), redelivered: message.redelivered })
            .collect();
        peer.cancel(1, &tag);
        ledger.found(number, &deliveries);
        // Publishers are faster than consumers here: without this every cycle would have more to look through.
        if let Some(done) = deliveries.len().checked_sub(BACKLOG_KEPT).filter(|&done| done > 0) {
            peer.send(1, &Method::BasicAck { delivery_tag: done as u64, multiple: true });
            let marker =
                Publish { properties: persistent(), body: b"done", ..Publish::to("", MARKERS[number]) };
            peer.open_channel(2);
            peer.select_confirms(2);
            peer.publish_with(2, &marker);
            peer.confirmed(2, 1);
            peer.close_channel(2);
            for delivery in &deliveries[..done] {
                ledger.acked(number, delivery.id, true);
            }
        }
        peer.close();
    }
    let mut peer = broker.peer();
    for queue in MARKERS {
        let purged = peer.call(1, &Method::QueuePurge { queue, nowait: false });
        assert!(matches!(purged.get(), Method::QueuePurgeOk { .. }));
    }
    peer.close();
}

/// Publishes that wait for their confirms, each with a number that means something to its publisher.
#[derive(Default)]
struct Window {
    last_tag: u64,
    open: VecDeque<(u64, u64)>,
}

impl Window {
    fn sent(&mut self, number: u64) {
        self.last_tag += 1;
        self.open.push_back((self.last_tag, number));
    }

    fn take_confirm(&mut self, payload: &[u8], mut confirmed: impl FnMut(u64)) {
        let method = Method::decode(payload).expect("a method");
        let Method::BasicAck { delivery_tag, multiple } = method else {
            panic!("expected a confirm, got {method:?}")
        };
        if multiple {
            while let Some((_, number)) = self.open.pop_front_if(|(tag, _)| *tag <= delivery_tag) {
                confirmed(number);
            }
        } else if let Some(at) = self.open.iter().position(|(tag, _)| *tag == delivery_tag) {
            let (_, number) = self.open.remove(at).expect("the position is that of an entry");
            confirmed(number);
        }
    }
}

/// Enough randomness for a test, the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn split(&mut self) -> Self {
        Self(self.below(u64::from(u32::MAX)))
    }
}
