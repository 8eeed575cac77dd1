//! Peers that do not behave: each is answered or cut off, and none costs the others anything.

mod floods;
mod frames;
mod garbage;
mod hoarding;
mod log_lines;
mod silence;

use posthouse_testkit::{Broker, Queue};

/// The broker serves others, and nothing in it has panicked.
#[track_caller]
fn assert_well(broker: &mut Broker) {
    let mut peer = broker.peer();
    peer.declare(1, &Queue::exclusive("well"));
    peer.publish(1, "", "well", "still here");
    assert_eq!(peer.drain(1, "well"), ["still here"]);
    drop(peer);
    let log = broker.process().stderr();
    assert!(!log.contains("panicked"), "{log}");
}

/// Enough randomness for a test, the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.below(256) as u8).collect()
    }
}
