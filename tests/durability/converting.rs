//! Conversion of queues to another type, and crashes: whatever the moment, a queue is of the one type or the other, and
//! what that type promises holds.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::thread;

use posthouse_amqp::method::Method;
use posthouse_testkit::calls::persistent;
use posthouse_testkit::peer::Arrival;
use posthouse_testkit::{Broker, Options, Peer, Properties, Publish, Queue, TIMEOUT, program, table, text};

/// Every third message is persistent.
fn properties(number: u32) -> Properties {
    if number.is_multiple_of(3) { persistent() } else { Properties::default() }
}

/// Publishes `numbers` to `queue` on channel 9 and waits for the confirms.
fn publish(peer: &mut Peer, queue: &str, numbers: std::ops::Range<u32>, padding: usize) {
    peer.open_channel(9);
    peer.select_confirms(9);
    let count = u64::from(numbers.end - numbers.start);
    let mut batch = Vec::new();
    for number in numbers {
        let body = format!("{number:<padding$}");
        let publish =
            Publish { properties: properties(number), body: body.as_bytes(), ..Publish::to("", queue) };
        publish.write(9, peer.frame_max, &mut batch);
    }
    peer.send_bytes(&batch);
    peer.confirmed_up_to(9, count);
    peer.close_channel(9);
}

fn drained(peer: &mut Peer, queue: &str) -> Vec<u32> {
    peer.drain(1, queue).iter().map(|body| body.trim_end().parse().expect("a number")).collect()
}

fn small() -> Options {
    Options::log()
        .set("POSTHOUSE__LOG__FILE_SIZE", "1MiB")
        .set("POSTHOUSE__LOG__FILES", "4")
        .set("POSTHOUSE__MEMORY__BUDGET", "16MiB")
}

#[test]
fn transient_messages_are_durable_when_the_command_returns() {
    let mut broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    peer.declare(1, &Queue::durable("q"));
    publish(&mut peer, "q", 0..30, 0);
    let held: Vec<_> = (0..10).map(|_| peer.get(1, "q", false).expect("a message")).collect();
    held[..5].iter().for_each(|message| peer.ack(1, message.tag));
    // The answer comes after the acknowledgements were taken.
    peer.counts(1, "q");
    broker.ctl(&["convert_queue", "q", "--to", "quorum"]);
    peer.ack(1, held[5].tag);
    publish(&mut peer, "q", 30..40, 0);
    broker.kill();
    broker.check();
    broker.start_again();
    assert_eq!(broker.ctl(&["list_queues", "name,type"]), "q\tquorum\n");
    assert_eq!(drained(&mut broker.peer(), "q"), (6..40).collect::<Vec<_>>());
}

#[test]
fn a_backlog_in_spill_files_is_kept_as_well() {
    let mut broker = Broker::start(small());
    let mut peer = broker.peer();
    peer.declare(1, &Queue::durable("q"));
    // 40 MB, most of it transient, under a budget of 16 MiB.
    for from in (0..8_000).step_by(500) {
        publish(&mut peer, "q", from..from + 500, 5_000);
    }
    broker.ctl(&["convert_queue", "q", "--to", "quorum"]);
    broker.kill();
    broker.start_again();
    let mut peer = broker.peer();
    let found = drained(&mut peer, "q");
    assert!(found.iter().copied().eq(0..8_000), "{} messages, from {:?}", found.len(), found.first());
    broker.stop();
    broker.check();
}

#[test]
fn what_a_quorum_queue_kept_does_not_come_back_after_it_left_the_classic_one() {
    let mut broker = Broker::start(Options::log());
    let mut peer = broker.peer();
    let mut arguments = table([("x-queue-type", text("quorum"))]);
    arguments.0.push(("x-dead-letter-exchange".to_owned(), text("")));
    arguments.0.push(("x-dead-letter-routing-key".to_owned(), text("grave")));
    peer.declare(1, &Queue { arguments, ..Queue::durable("q") });
    peer.declare(1, &Queue::durable("grave"));
    publish(&mut peer, "q", 0..9, 0);
    broker.ctl(&["convert_queue", "q", "--to", "classic"]);
    for _ in 0..3 {
        let message = peer.get(1, "q", false).expect("a message");
        peer.send(1, &Method::BasicReject { delivery_tag: message.tag, requeue: false });
    }
    peer.await_counts(1, "grave", (3, 0));
    broker.ctl(&["move_messages", "q", "grave", "--count", "2"]);
    broker.ctl(&["purge_messages", "q", "--count", "1"]);
    // Confirmed after all of that.
    publish(&mut peer, "grave", 9..10, 0);
    broker.kill();
    broker.start_again();
    let mut peer = broker.peer();
    assert_eq!(drained(&mut peer, "q"), [6, 7, 8]);
    // Persistent ones; the others were in a classic queue only.
    assert_eq!(drained(&mut peer, "grave"), [0, 3, 9]);
}

#[test]
fn a_kill_at_any_moment_leaves_one_type_or_the_other() {
    let cycles = if std::env::var_os("POSTHOUSE_LONG").is_some() { 200 } else { 12 };
    let mut broker = Broker::start(small());
    let mut finished = 0;
    for cycle in 0..cycles {
        let queue = format!("q{cycle}");
        let mut peer = broker.peer();
        peer.declare(1, &Queue::durable(&queue));
        publish(&mut peer, &queue, 0..300, 300);
        finished += u32::from(convert_and_kill(&mut broker, &queue, "quorum", 300, cycle));
        let mut peer = broker.peer();
        // The same queue, and back; it has kept everything, and goes on to do so.
        let next = peer.counts(1, &queue).0 + 1_000_000;
        publish(&mut peer, &queue, next..next + 1, 0);
        if broker.ctl(&["list_queues", "name,type"]).contains(&format!("{queue}\tquorum")) {
            convert_and_kill(&mut broker, &queue, "classic", next + 1, cycle);
        }
        broker.peer().delete(1, &queue);
    }
    broker.stop();
    broker.check();
    assert!(finished > 0, "no conversion was done before the kill");
}

/// Kills the broker while it converts a queue that somebody publishes to, in one cycle sooner and in another later, and
/// looks at what a restart finds. Whether the conversion was done before.
fn convert_and_kill(broker: &mut Broker, queue: &str, to: &str, next: u32, cycle: u32) -> bool {
    let mut peer = broker.peer();
    let before = peer.counts(1, queue).0;
    let (mut publishing, name) = (broker.peer(), queue.to_owned());
    publishing.select_confirms(1);
    let publisher = thread::spawn(move || publish_until_killed(publishing, &name, next));
    let mut command = program();
    command.args(["ctl", "-s", "--data-dir"]).arg(broker.data_dir()).stderr(Stdio::null());
    let mut child = command.args(["convert_queue", queue, "--to", to]).spawn().expect("the program runs");
    let done = match cycle % 4 {
        3 => child.wait().expect("the program ends").success(),
        // So many questions later.
        often => {
            for _ in 0..often * 20 + cycle {
                peer.counts(1, queue);
            }
            child.try_wait().expect("the program is known").is_some_and(|status| status.success())
        }
    };
    broker.kill();
    let confirmed = publisher.join().expect("the publisher");
    child.wait().expect("the program ends");
    broker.start_again();
    let shown = broker.ctl(&["list_queues", "name,type"]);
    let is_quorum = shown.contains(&format!("{queue}\tquorum"));
    assert!(!done || is_quorum == (to == "quorum"), "{shown}");
    let mut peer = broker.peer();
    let found = look(&mut peer, queue);
    assert!(found.is_sorted_by(|a, b| a < b), "order, or doubles: {found:?}");
    let kept_all = is_quorum || to == "classic";
    let old = found.iter().filter(|&&number| number < next).count() as u32;
    let old_kept =
        if kept_all { before } else { (0..before).filter(|number| number.is_multiple_of(3)).count() as u32 };
    assert!(old >= old_kept, "{old} of {old_kept} are left");
    for number in next..confirmed {
        // A classic queue keeps the persistent ones only, and while it is converted that may be so still.
        let promised = number.is_multiple_of(3) || (is_quorum && to == "quorum");
        assert!(
            !promised || found.contains(&number),
            "{number} of {next}..{confirmed} is lost; quorum: {is_quorum}"
        );
    }
    done
}

/// What is in a queue, which stays.
fn look(peer: &mut Peer, queue: &str) -> Vec<u32> {
    let mut found = Vec::new();
    while let Some(message) = peer.get(1, queue, false) {
        found.push(message.text().trim_end().parse().expect("a number"));
    }
    let all = Method::BasicNack { delivery_tag: 0, multiple: true, requeue: true };
    if !found.is_empty() {
        peer.send(1, &all);
        peer.await_counts(1, queue, (found.len() as u32, 0));
    }
    found
}

/// Publishes from `next` on with confirms, a few at a time, until the broker is gone: the number after the last one confirmed.
fn publish_until_killed(mut peer: Peer, queue: &str, next: u32) -> u32 {
    const BATCH: u32 = 7;
    let mut sent = next;
    let (mut confirmed, mut singly) = (next, BTreeSet::new());
    loop {
        let mut batch = Vec::new();
        for number in sent..sent + BATCH {
            let body = number.to_string();
            let publish =
                Publish { properties: properties(number), body: body.as_bytes(), ..Publish::to("", queue) };
            publish.write(1, peer.frame_max, &mut batch);
        }
        let open = peer.try_send_bytes(&batch);
        sent += BATCH;
        while open && confirmed < sent {
            let Arrival::Frame(frame) = peer.arrival(TIMEOUT) else { return confirmed };
            match Method::decode(&frame.payload).expect("a method") {
                Method::BasicAck { delivery_tag, multiple: true } => confirmed = next + delivery_tag as u32,
                Method::BasicAck { delivery_tag, .. } => drop(singly.insert(next + delivery_tag as u32)),
                other => panic!("expected a confirm, got {other:?}"),
            }
            while singly.remove(&(confirmed + 1)) {
                confirmed += 1;
            }
        }
        if !open {
            return confirmed;
        }
    }
}
