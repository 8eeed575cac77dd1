//! Too few file descriptors: publishers wait and nothing fails, and connections cannot take those of the log.

use std::io::{Read, Write};
use std::net::TcpStream;

use posthouse_testkit::calls::persistent;
use posthouse_testkit::{Broker, Method, Options, Peer, Publish, Queue, expect_method};

/// Log files of 1 MiB, which a few publishes fill.
fn small_files() -> Options {
    Options::log().set("POSTHOUSE__LOG__FILE_SIZE", "1MiB")
}

/// Publishes `count` persistent messages of 100 kB from another thread: the broker may stop reading meanwhile.
fn publish(peer: &Peer, count: usize) -> std::thread::JoinHandle<()> {
    let mut out = Vec::new();
    let body = vec![b'x'; 100_000];
    let publish = Publish { properties: persistent(), body: &body, ..Publish::to("", "q") };
    (0..count).for_each(|_| publish.write(1, peer.frame_max, &mut out));
    let mut stream = peer.stream().try_clone().unwrap();
    std::thread::spawn(move || stream.write_all(&out).unwrap())
}

fn publisher(broker: &Broker) -> Peer {
    let mut peer = broker.peer();
    peer.declare(1, &Queue::durable("q"));
    peer.select_confirms(1);
    peer
}

/// Whether a new connection gets an answer.
fn is_served(broker: &Broker) -> bool {
    let mut socket = TcpStream::connect(broker.address()).unwrap();
    let answer = socket.write_all(b"AMQP\0\0\x09\x01").and_then(|()| socket.read(&mut [0; 8]));
    answer.is_ok_and(|bytes| bytes > 0)
}

#[test]
fn publishers_wait_until_the_log_may_open_its_next_file() {
    let mut broker = Broker::start(small_files());
    let mut peer = publisher(&broker);
    let before = broker.process().limit_open_files(3);
    let sending = publish(&peer, 100);
    expect_method!(peer, 0, Method::ConnectionBlocked { reason: "low on file descriptors" });
    broker.process().limit_open_files(before);
    expect_method!(peer, 0, Method::ConnectionUnblocked {});
    peer.confirmed_up_to(1, 100);
    sending.join().unwrap();
    assert!(broker.process().stderr().contains("Too many open files"));
    broker.kill();
    broker.start_again();
    assert_eq!(broker.peer().counts(1, "q").0, 100);
}

#[test]
fn connections_leave_descriptors_for_the_log() {
    let mut broker = Broker::start(small_files().open_files(128));
    let mut peer = publisher(&broker);
    let hoard: Vec<TcpStream> = (0..300).map(|_| TcpStream::connect(broker.address()).unwrap()).collect();
    for round in 1..=4 {
        publish(&peer, 100).join().unwrap();
        peer.confirmed_up_to(1, 100 * round);
    }
    drop(hoard);
    // As soon as the broker has noticed, others get in.
    let deadline = std::time::Instant::now() + posthouse_testkit::TIMEOUT;
    while !is_served(&broker) {
        assert!(std::time::Instant::now() < deadline, "nobody gets in any more");
    }
    let log = broker.process().stderr();
    assert!(!log.contains("Too many open files"), "{log}");
    let lines = log.lines().filter(|line| line.contains("turned away: too many sockets are open")).count();
    assert!((1..10).contains(&lines), "{lines} lines for 236 sockets: {log}");
    broker.kill();
    broker.start_again();
    assert_eq!(broker.peer().counts(1, "q").0, 400);
}
