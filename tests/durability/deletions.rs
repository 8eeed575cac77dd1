//! SIGKILL while a queue is declared, filled and deleted over and over: what was confirmed since its last deletion is
//! there, and its name never brings back or costs what another queue of that name had.
//!
//! Ten cycles; 200 with `POSTHOUSE_LONG=1`.

use std::sync::mpsc::{Sender, channel};
use std::thread;

use posthouse_amqp::method::write_method;
use posthouse_testkit::calls::persistent;
use posthouse_testkit::peer::Arrival;
use posthouse_testkit::{Broker, Handshake, Method, Options, Peer, Publish, Queue, TIMEOUT};

const QUEUE: &str = "q";

/// What the queue's one client knows of it.
#[derive(Default)]
struct Known {
    /// The next message's number.
    next: u64,
    /// The number of the first message since the last deletion.
    first: u64,
    /// Messages since then that were confirmed, or found after a restart.
    kept: Vec<u64>,
    /// A deletion was not answered.
    deleting: bool,
}

#[test]
fn a_queue_keeps_what_it_was_given_after_its_last_deletion() {
    let cycles = if std::env::var_os("POSTHOUSE_LONG").is_some() { 200 } else { 10 };
    let options = Options::log().set("POSTHOUSE__LOG__FILE_SIZE", "1MiB").set("POSTHOUSE__LOG__FILES", "4");
    let mut broker = Broker::start(options);
    let mut known = Known::default();
    for cycle in 0..cycles {
        let (progress, happened) = channel();
        let mut peer = Peer::open(broker.address(), &Handshake::default());
        peer.open_channel(1);
        peer.select_confirms(1);
        let client = thread::spawn(move || {
            while round(&mut peer, &mut known, &progress).is_some() {}
            known
        });
        // At another place of another round each time.
        for _ in 0..20 + cycle * 7 % 60 {
            happened.recv_timeout(TIMEOUT).expect("the broker makes progress");
        }
        broker.kill();
        known = client.join().expect("the client");
        if cycle % 3 == 0 {
            broker.check();
        }
        broker.start_again();
        inspect(&broker, &mut known);
    }
}

/// Declares the queue, publishes to it and, mostly, deletes it; none when the broker is gone.
fn round(peer: &mut Peer, known: &mut Known, progress: &Sender<()>) -> Option<()> {
    let mut out = Vec::new();
    write_method(&mut out, 1, &Queue::durable(QUEUE).method());
    answer(peer, &out, progress, |method| matches!(method, Method::QueueDeclareOk { .. }))?;
    for _ in 0..=known.next % 5 {
        let number = known.next;
        known.next += 1;
        let body = number.to_string().into_bytes();
        let mut out = Vec::new();
        let publish = Publish { properties: persistent(), body: &body, ..Publish::to("", QUEUE) };
        publish.write(1, peer.frame_max, &mut out);
        answer(peer, &out, progress, |method| matches!(method, Method::BasicAck { .. }))?;
        known.kept.push(number);
    }
    if known.next.is_multiple_of(4) {
        return Some(());
    }
    known.deleting = true;
    let mut out = Vec::new();
    let delete = Method::QueueDelete { queue: QUEUE, if_unused: false, if_empty: false, nowait: false };
    write_method(&mut out, 1, &delete);
    answer(peer, &out, progress, |method| matches!(method, Method::QueueDeleteOk { .. }))?;
    *known = Known { next: known.next, first: known.next, ..Known::default() };
    Some(())
}

/// Sends a request and waits for its answer; none when the broker is gone.
fn answer(
    peer: &mut Peer,
    request: &[u8],
    progress: &Sender<()>,
    expected: impl Fn(&Method<'_>) -> bool,
) -> Option<()> {
    peer.try_send_bytes(request);
    match peer.arrival(TIMEOUT) {
        Arrival::Frame(frame) => {
            let method = Method::decode(&frame.payload).expect("a method");
            assert!(expected(&method), "got {method:?}");
            // Nobody counts any more once the broker is to be killed.
            let _ = progress.send(());
            Some(())
        }
        Arrival::Eof => None,
        Arrival::Nothing => panic!("the broker neither speaks nor ends"),
    }
}

/// Compares what a restarted broker has with what the client knows, and leaves it there.
fn inspect(broker: &Broker, known: &mut Known) {
    let mut peer = broker.peer();
    // A declaration says nothing of whether it was there.
    peer.declare(1, &Queue::durable(QUEUE));
    let taken = std::iter::from_fn(|| peer.get(1, QUEUE, false));
    let found: Vec<u64> = taken.map(|message| message.text().parse().expect("a number")).collect();
    peer.close();
    assert!(found.is_sorted_by(|a, b| a < b), "{found:?}");
    let (first, next) = (known.first, known.next);
    assert!(found.iter().all(|number| (first..next).contains(number)), "{found:?} of {first}..{next}");
    let lost: Vec<_> = known.kept.iter().filter(|number| !found.contains(number)).collect();
    assert!(known.deleting || lost.is_empty(), "{lost:?} of {:?} are lost", known.kept);
    (known.kept, known.deleting) = (found, false);
}
