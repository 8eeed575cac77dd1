//! Nothing is allocated per message in the steady state: not for publishing, routing, queueing, delivering, confirming
//! or acknowledging 16 bytes.
//!
//! The broker runs in this process and is spoken to over loopback sockets. Every allocation of any thread but the
//! clients' counts, growing included. What there is belongs to batches: a chunk and its buffer for what one read brought,
//! once per target queue. How many messages a batch has depends on how the sockets' bytes happen to come, so the bound
//! is one allocation per [`MESSAGES_PER_ALLOCATION`] messages; a single one per message would exceed it a hundred times.
//!
//! One test, since the counter is the process's.

#![allow(clippy::unwrap_used, reason = "a helper that panics is a test that fails")]
#![allow(unsafe_code, reason = "an allocator that counts is an unsafe trait around the system's")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use posthouse_amqp::frame::{FrameKind, next_frame};
use posthouse_amqp::method::{Method, write_method};
use posthouse_amqp::tune::Tune;
use posthouse_auth::authorities::AuthSettings;
use posthouse_node::broker::Settings;
use posthouse_node::start::{self, Keep, StartOptions, UndefinedQueues};
use posthouse_server::listen::{AmqpSettings, Server};
use posthouse_storage::wal::WalOptions;
use posthouse_testkit::calls::persistent;
use posthouse_testkit::{Consume, Handshake, Peer, Properties, Publish, Queue};

/// See the module's documentation.
const MESSAGES_PER_ALLOCATION: u64 = 100;

const WARM_UP: u64 = 200_000;
const MEASURED: u64 = 1_000_000;

/// Messages written at a time.
const BURST: u64 = 500;
/// Messages under way at a time: what arrives is delivered soon, as with consumers that keep up.
const WINDOW_BURSTS: usize = 20;
/// Deliveries per acknowledgement.
const ACK_EVERY: u64 = 100;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Set by the clients' threads.
    static IS_CLIENT: Cell<bool> = const { Cell::new(false) };
}

struct Counting;

fn count() {
    // A thread that is ending has lost the mark; it is the broker's or it allocates no more.
    if !IS_CLIENT.try_with(Cell::get).unwrap_or(false) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: everything is handed to the system's allocator as it is; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(old, layout, bytes) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// What is asked of the broker.
#[derive(Clone, Copy, Debug)]
struct Case {
    name: &'static str,
    on_disk: bool,
    confirms: bool,
    acks: bool,
}

#[test]
fn nothing_is_allocated_per_message() {
    IS_CLIENT.set(true);
    let quick = Case { name: "transient, no acknowledgements", on_disk: false, confirms: false, acks: false };
    let cases = [
        quick,
        Case { name: "transient, confirms and acknowledgements", confirms: true, acks: true, ..quick },
        Case { name: "persistent, confirms and acknowledgements", on_disk: true, confirms: true, acks: true },
    ];
    let mut failures = Vec::new();
    for case in cases {
        let allocations = measure(case);
        let per_message = allocations as f64 / MEASURED as f64;
        let line = format!("{}: {allocations} allocations, {per_message:.5} per message", case.name);
        println!("{line}");
        if allocations * MESSAGES_PER_ALLOCATION > MEASURED {
            failures.push(line);
        }
    }
    assert!(failures.is_empty(), "more than one per {MESSAGES_PER_ALLOCATION} messages: {failures:#?}");
}

/// Allocations while [`MEASURED`] messages went through, after [`WARM_UP`] others.
fn measure(case: Case) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let keep = if case.on_disk {
        Keep::InDirectory {
            path: dir.path().to_owned(),
            wal: WalOptions::default(),
            undefined_queues: UndefinedQueues::default(),
        }
    } else {
        Keep::InMemory
    };
    let broker = start::start(StartOptions {
        settings: Settings {
            max_message_bytes: 16 << 20,
            memory_budget_bytes: 1 << 30,
            memory_watermark_bytes: 2 << 30,
            disk_free_limit_bytes: 0,
            max_consumers_per_channel: 100,
            max_connections: 100,
        },
        auth: AuthSettings::default(),
        default_user: ("guest".into(), "guest".into()),
        definitions: None,
        event_vhost: None,
        keep,
        on_fatal: |problem| panic!("{problem}"),
    })
    .unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let settings = AmqpSettings {
        tune: Tune { channel_max: 2_047, frame_max: 131_072, heartbeat: 0 },
        handshake_timeout: Duration::from_secs(10),
        product: "test".into(),
        max_sockets: 100,
    };
    let mut server = Server::new(broker.clone(), settings);
    let address = runtime.block_on(async { server.listen("127.0.0.1:0".parse().unwrap()) }).unwrap();
    let handshake = Handshake::default();
    let (publishing, consuming) = (Peer::open(address, &handshake), Peer::open(address, &handshake));
    let allocations = run(case, publishing, consuming);
    runtime.block_on(server.stop(Duration::from_secs(10)));
    start::stop(&broker).unwrap();
    allocations
}

/// Sends the messages through, each burst when an earlier one has been consumed.
fn run(case: Case, mut publishing: Peer, mut consuming: Peer) -> u64 {
    consuming.open_channel(1);
    consuming.declare(1, &Queue::durable("q"));
    if case.acks {
        consuming.prefetch(1, 5_000, false);
    }
    consuming.consume(1, &Consume { no_ack: !case.acks, ..Consume::from("q") });
    publishing.open_channel(1);
    if case.confirms {
        publishing.select_confirms(1);
    }
    let properties = if case.on_disk { persistent() } else { Properties::default() };
    let mut burst = Vec::new();
    for _ in 0..BURST {
        let publish = Publish { properties: properties.clone(), body: &[7; 16], ..Publish::to("", "q") };
        publish.write(1, 131_072, &mut burst);
    }
    let (room, consumed) = sync_channel(WINDOW_BURSTS);
    for _ in 0..WINDOW_BURSTS {
        room.send(()).unwrap();
    }
    let publisher = thread::spawn(move || publish(&publishing, &burst, &consumed));
    let allocations = consume(case, &consuming, &room);
    drop(room);
    publisher.join().unwrap();
    allocations
}

fn publish(peer: &Peer, burst: &[u8], room: &Receiver<()>) {
    IS_CLIENT.set(true);
    let mut stream = peer.stream();
    // Confirms are read and not looked at.
    let mut confirms = peer.stream().try_clone().unwrap();
    let reader = thread::spawn(move || {
        IS_CLIENT.set(true);
        let mut piece = vec![0; 64 << 10];
        while matches!(confirms.read(&mut piece), Ok(1..)) {}
    });
    for _ in 0..(WARM_UP + MEASURED) / BURST {
        room.recv().unwrap();
        stream.write_all(burst).unwrap();
    }
    // Until everything was consumed.
    while room.recv().is_ok() {}
    stream.shutdown(std::net::Shutdown::Both).unwrap();
    reader.join().unwrap();
}

fn consume(case: Case, peer: &Peer, room: &SyncSender<()>) -> u64 {
    let mut stream = peer.stream();
    stream.set_read_timeout(Some(posthouse_testkit::TIMEOUT)).unwrap();
    let (mut buffer, mut filled, mut seen, mut before) = (vec![0; 256 << 10], 0, 0, 0);
    let mut acks = Vec::new();
    while seen < WARM_UP + MEASURED {
        let read = stream.read(&mut buffer[filled..]).unwrap();
        assert!(read > 0, "the broker hung up after {seen} messages");
        filled += read;
        let mut at = 0;
        while let Some((frame, bytes)) = next_frame(&buffer[at..filled], 131_072).unwrap() {
            at += bytes;
            if frame.kind != FrameKind::Body {
                continue;
            }
            seen += 1;
            if seen == WARM_UP {
                before = ALLOCATIONS.load(Ordering::Relaxed);
                assert!(before > 0, "nothing is counted");
            }
            if case.acks && seen % ACK_EVERY == 0 {
                write_method(&mut acks, 1, &Method::BasicAck { delivery_tag: seen, multiple: true });
            }
            if seen % BURST == 0 {
                // Full when the publisher has sent all it had to.
                let _ = room.try_send(());
            }
        }
        buffer.copy_within(at..filled, 0);
        filled -= at;
        stream.write_all(&acks).unwrap();
        acks.clear();
    }
    ALLOCATIONS.load(Ordering::Relaxed) - before
}
