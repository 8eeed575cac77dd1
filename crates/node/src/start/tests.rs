//! The node on a simulated disk: messages are published, taken and settled through its own functions while the disk
//! fails at each of its operations in turn, and then the power. What was synced must be back, and nothing else.

mod stopping;
mod streams;
mod unfinished;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use posthouse_model::field::{FieldTable, FieldValue};
use posthouse_model::props::Properties;
use posthouse_storage::datadir::DataDir;
use posthouse_storage::disk::sim::{Fault, Op, SimDisk};
use posthouse_storage::engine::{MessageStore, Recovered};

use super::*;
use crate::declare::QueueDeclaration;
use crate::deliver;
use crate::publish::{Later, Publisher};
use crate::queue_handle::QueueHandle;
use crate::waker::SessionWaker;

const QUEUES: [&str; 2] = ["a", "b"];
const ROUNDS: u64 = 40;
/// Messages per round and set of queues.
const BATCH: u64 = 4;
const BODY_BYTES: usize = 700;
/// Of one message in a while: queues hold it by reference, and share its block in a segment.
const LARGE_BODY_BYTES: usize = 17 << 10;

/// A broker whose messages are on a simulated disk, and what must outlive both.
struct Node {
    broker: Arc<Broker>,
    waker: Arc<SessionWaker>,
    /// Definitions are kept elsewhere, on a disk that does not fail.
    _dir: tempfile::TempDir,
}

fn options() -> StartOptions {
    StartOptions {
        settings: Settings {
            max_message_bytes: 1 << 20,
            memory_budget_bytes: 1 << 20,
            memory_watermark_bytes: 1 << 30,
            disk_free_limit_bytes: 0,
            max_consumers_per_channel: 10,
            max_connections: 10,
        },
        auth: AuthSettings::default(),
        default_user: ("guest".into(), "guest".into()),
        definitions: None,
        event_vhost: None,
        keep: Keep::InMemory,
        // The log has stopped by itself; the test notices by what it confirms.
        on_fatal: |_| {},
    }
}

impl Node {
    /// Opens what is on `disk`, with these definitions.
    fn open(disk: &SimDisk, definitions: &[MetaOp]) -> Self {
        let node = Self::start(disk, definitions).unwrap();
        QUEUES.iter().for_each(|name| drop(node.declare(name, &[])));
        node
    }

    /// As [`Self::open`], without declaring anything.
    fn start(disk: &SimDisk, definitions: &[MetaOp]) -> Result<Self, StartError> {
        Self::start_as_if(disk, definitions, |_| {})
    }

    /// As [`Self::start`], as if something else had been recovered.
    fn start_as_if(
        disk: &SimDisk,
        definitions: &[MetaOp],
        change: impl FnOnce(&mut Recovered),
    ) -> Result<Self, StartError> {
        let dir = tempfile::tempdir().unwrap();
        let meta = MetaStore::in_memory();
        meta.apply(definitions.to_vec());
        let events = Arc::new(Events::new(|_| {}));
        let wal = WalOptions {
            file_bytes: 16 << 10,
            ring_files: 4,
            retry: Duration::from_millis(1),
            settle_delay: Duration::from_millis(1),
            salt_seed: 7,
            ..WalOptions::default()
        };
        let storage_options = StorageOptions {
            wal,
            replay_bytes: 32 << 10,
            segment_bytes: 64 << 10,
            ..StorageOptions::default()
        };
        let disk = Arc::new(disk.clone());
        let (messages, mut recovered) =
            MessageStore::open(disk, Path::new("/data"), storage_options, events.clone()).unwrap();
        assert!(recovered.damages.is_empty(), "{:?}", recovered.damages);
        change(&mut recovered);
        let data_dir = DataDir::open(&dir.path().join("data")).unwrap();
        let store = Store::Log(Box::new(Storage::of_parts(data_dir, meta, messages)));
        let broker = run(options(), store, recovered, None, &events)?;
        Ok(Self { broker, waker: Arc::default(), _dir: dir })
    }

    /// Declares a durable queue.
    fn declare(&self, name: &str, arguments: &[(&str, u32)]) -> Arc<QueueHandle> {
        let entry = |&(name, number): &(&str, u32)| (name.to_owned(), FieldValue::I64(number.into()));
        self.declare_with(name, FieldTable(arguments.iter().map(entry).collect()))
    }

    fn declare_with(&self, name: &str, arguments: FieldTable) -> Arc<QueueHandle> {
        let name = name.to_owned();
        let declaration = QueueDeclaration { name, durable: true, arguments, ..QueueDeclaration::default() };
        self.broker.declare_queue(&self.broker.vhost("/").unwrap(), declaration, 0).unwrap().queue
    }

    /// Publishes persistent messages, and has them on disk.
    fn publish(&self, queue: &Arc<QueueHandle>, numbers: std::ops::Range<u64>) {
        let mut publisher = Publisher::new(self.broker.clone(), self.waker.clone());
        let slot = publisher.slot(&[queue.id], |_| Some(queue.clone())).unwrap();
        let mut header = Vec::new();
        Properties { delivery_mode: Some(2), ..Properties::default() }.encode(BODY_BYTES as u64, &mut header);
        publisher.received_ms = crate::clock::now_ms();
        numbers.for_each(|number| publisher.append(slot, true, b"\0\0", &header, &body(number)));
        publisher.flush();
        assert!(self.sync());
    }

    /// Publishes persistent messages that wait for an hour, and has them on disk.
    fn publish_later(&self, numbers: std::ops::Range<u64>) {
        let mut publisher = Publisher::new(self.broker.clone(), self.waker.clone());
        publisher.received_ms = crate::clock::now_ms();
        let due_ms = publisher.received_ms + 3_600_000;
        let vhost = self.broker.vhost("/").unwrap();
        for number in numbers {
            let (later, body) = (Later { due_ms, persistent: true, hidden_keys: &[] }, body(number));
            publisher.append_later(&vhost, later, b"\0\x01a", &header(&body), &body).unwrap();
        }
        publisher.flush();
        assert!(self.sync());
    }

    /// Takes all that is ready, each with whether it is marked as redelivered.
    fn get_all_marked(&self, queue: &Arc<QueueHandle>) -> Vec<(u64, bool)> {
        let get = || {
            let run = deliver::get(&self.broker, queue, true, &self.waker).1?;
            let record = run.chunk.record_at(run.offset).unwrap();
            Some((number_of(record.body()), run.redelivered || record.redelivered()))
        };
        std::iter::from_fn(get).collect()
    }

    /// Takes all that is ready.
    fn get_all(&self, queue: &Arc<QueueHandle>) -> Vec<u64> {
        std::iter::from_fn(|| self.get(queue)).map(|(_, number)| number).collect()
    }

    /// Everything that the metadata store has, to be put into the next one.
    fn definitions(&self) -> Vec<MetaOp> {
        let meta = self.broker.store().meta();
        let of_table =
            |table| meta.scan(table).unwrap().into_iter().map(move |(key, value)| (table, key, value));
        let entries = MetaTable::ALL.into_iter().flat_map(of_table);
        entries.map(|(table, key, value)| MetaOp::Put { table, key, value }).collect()
    }

    fn queue(&self, name: &str) -> Arc<QueueHandle> {
        let queues = self.broker.vhost("/").unwrap().all_queues();
        queues.into_iter().find(|queue| &*queue.definition.name == name).unwrap()
    }

    /// Takes one message as `basic.get` does: its sequence number in the queue, and the number it was published with.
    fn get(&self, queue: &Arc<QueueHandle>) -> Option<(u64, u64)> {
        loop {
            match deliver::get(&self.broker, queue, false, &self.waker) {
                (_, Some(run), _) => {
                    let record = run.chunk.record_at(run.offset).unwrap();
                    return Some((run.first_seq, number_of(record.body())));
                }
                (posthouse_queue::machine::TakeEnd::NeedsLoad, ..) => std::thread::yield_now(),
                _ => return None,
            }
        }
    }

    /// Whether everything so far is on disk.
    fn sync(&self) -> bool {
        self.broker.wal().unwrap().sync().is_ok()
    }

    fn checkpoint(&self) -> bool {
        let Store::Log(storage) = self.broker.store() else { panic!("it is on disk") };
        // Several in a row may have to wait for each other; an error stops what follows, as it does a broker.
        storage.messages.checkpoint(&*self.broker, false).is_ok_and(|report| report.damages.is_empty())
    }
}

fn body(number: u64) -> Vec<u8> {
    body_of(number, BODY_BYTES)
}

fn body_of(number: u64, bytes: usize) -> Vec<u8> {
    let mut body = number.to_string().into_bytes();
    body.resize(bytes, b'.');
    body
}

/// The header of a persistent message with that body.
fn header(body: &[u8]) -> Vec<u8> {
    let mut header = Vec::new();
    Properties { delivery_mode: Some(2), ..Properties::default() }.encode(body.len() as u64, &mut header);
    header
}

#[track_caller]
fn number_of(bytes: &[u8]) -> u64 {
    let text = std::str::from_utf8(bytes).unwrap();
    let number = text.trim_end_matches('.').parse().unwrap();
    assert!(bytes == body_of(number, bytes.len()), "a damaged body: {text}");
    number
}

/// What the test knows of a message.
#[derive(Clone, Copy, Default, Debug)]
struct Known {
    synced: bool,
    settled: bool,
    settle_synced: bool,
}

type Ledger = BTreeMap<(&'static str, u64), Known>;

/// Publishes, settles and checkpoints until the disk's failure stops it or the rounds are over.
fn work(node: &Node, ledger: &mut Ledger) {
    let mut publisher = Publisher::new(node.broker.clone(), node.waker.clone());
    let handles = QUEUES.map(|name| node.queue(name));
    let find = |id| handles.iter().find(|queue| queue.id == id).cloned();
    let both = publisher.slot(&[handles[0].id, handles[1].id], find).unwrap();
    let first = publisher.slot(&[handles[0].id], find).unwrap();
    let mut number = 0u64;
    for round in 0..ROUNDS {
        for (slot, queues) in [(both, &QUEUES[..]), (first, &QUEUES[..1])] {
            for _ in 0..BATCH {
                let bytes = if number.is_multiple_of(11) { LARGE_BODY_BYTES } else { BODY_BYTES };
                let body = body_of(number, bytes);
                publisher.append(slot, true, b"\0\0", &header(&body), &body);
                for queue in queues {
                    ledger.insert((queue, number), Known::default());
                }
                number += 1;
            }
        }
        publisher.flush();
        for (name, queue) in QUEUES.iter().zip(&handles) {
            // Most are settled, one in a while stays behind.
            for _ in 0..BATCH {
                let Some((seq, number)) = node.get(queue) else { break };
                if !number.is_multiple_of(7) {
                    deliver::settle(&node.broker, queue, &[(seq, seq)]);
                    ledger.get_mut(&(*name, number)).unwrap().settled = true;
                }
            }
        }
        if !node.sync() {
            return;
        }
        for known in ledger.values_mut() {
            known.synced = true;
            known.settle_synced = known.settled;
        }
        if round % 8 == 7 && !node.checkpoint() {
            return;
        }
    }
}

/// Compares what the queues have after the power came back.
fn verify(node: &Node, ledger: &Ledger, what: &str) {
    for name in QUEUES {
        let queue = node.queue(name);
        let mut found = Vec::new();
        while let Some((_, number)) = node.get(&queue) {
            found.push(number);
        }
        assert!(found.is_sorted_by(|a, b| a < b), "{what}: queue {name} is out of order: {found:?}");
        for number in &found {
            let known =
                ledger.get(&(name, *number)).unwrap_or_else(|| panic!("{what}: {number} is unheard of"));
            assert!(!known.settle_synced, "{what}: {number} of {name} was settled for good");
        }
        for ((_, number), known) in ledger.iter().filter(|((of, _), _)| *of == name) {
            let may_be_gone = !known.synced || known.settled;
            assert!(may_be_gone || found.contains(number), "{what}: {number} of {name} is lost: {known:?}");
        }
    }
}

/// The definitions of a broker that was started once.
fn definitions() -> Vec<MetaOp> {
    Node::open(&SimDisk::new(0), &[]).definitions()
}

#[test]
fn power_is_lost_at_any_moment() {
    let definitions = definitions();
    for seed in 0..12 {
        let disk = SimDisk::new(seed);
        let mut ledger = Ledger::new();
        let node = Node::open(&disk, &definitions);
        work(&node, &mut ledger);
        assert!(ledger.values().all(|known| known.synced), "nothing failed");
        let after = disk.crash();
        verify(&Node::open(&after, &definitions), &ledger, &format!("seed {seed}"));
        // Once more, with nothing done in between but starting.
        verify(&Node::open(&after.crash(), &definitions), &ledger, &format!("seed {seed}, second time"));
    }
}

#[test]
fn each_operation_of_the_disk_fails_in_turn() {
    let definitions = definitions();
    let clean = SimDisk::new(1);
    let node = Node::open(&clean, &definitions);
    let before: Vec<u64> = OPERATIONS.iter().map(|&(op, _)| clean.count(op)).collect();
    work(&node, &mut Ledger::new());
    for (&(op, fault), before) in OPERATIONS.iter().zip(before) {
        let times = clean.count(op) - before;
        assert!(times > 0, "{op:?} was never done");
        // Twelve places spread over all of them.
        for nth in (1..=times).step_by((times as usize).div_ceil(12)) {
            let disk = SimDisk::new(nth);
            let mut ledger = Ledger::new();
            let node = Node::open(&disk, &definitions);
            disk.fail(op, nth, fault);
            work(&node, &mut ledger);
            let what = format!("{op:?} number {nth} failed with {fault:?}");
            verify(&Node::open(&disk.crash(), &definitions), &ledger, &what);
        }
    }
}

/// Nothing but consumers makes room on a disk that is full to the last byte: what they leave dead has to go.
#[test]
fn consumers_make_room_on_a_full_disk() {
    let disk = SimDisk::new(1);
    let node = Node::open(&disk, &definitions());
    let queue = node.queue("a");
    // Its checkpoints must not wait for the log.
    let numbered = FieldTable(vec![("x-publisher-deduplication".to_owned(), FieldValue::Bool(true))]);
    node.declare_with("numbered", numbered);
    // From the first two checkpoints on there is space for all that follow.
    assert!(node.checkpoint() && node.checkpoint());
    let used = disk.contents().values().map(|bytes| bytes.len() as u64).sum::<u64>();
    disk.set_capacity(used + (600 << 10));
    let mut publisher = Publisher::new(node.broker.clone(), node.waker.clone());
    let slot = publisher.slot(&[queue.id], |_| Some(queue.clone())).unwrap();
    let wal = node.broker.wal().unwrap();
    let patience = Instant::now() + Duration::from_secs(30);
    for _ in 0..2 {
        let mut published = 0;
        while wal.shortage() != Some(Shortage::Disk) {
            assert!(Instant::now() < patience, "not full after {published}");
            let body = body(published);
            (0..BATCH).for_each(|_| publisher.append(slot, true, b"\0\0", &header(&body), &body));
            publisher.flush();
            published += 1;
        }
        while let Some((seq, _)) = node.get(&queue) {
            deliver::settle(&node.broker, &queue, &[(seq, seq)]);
        }
        while wal.shortage().is_some() {
            assert!(Instant::now() < patience, "it stays full though everything was consumed");
            std::thread::yield_now();
        }
        assert!(node.sync());
    }
}

const OPERATIONS: [(Op, Fault); 9] = [
    (Op::Write, Fault::Io),
    (Op::Write, Fault::NoSpace),
    (Op::Sync, Fault::Io),
    (Op::Create, Fault::NoSpace),
    (Op::Create, Fault::Io),
    (Op::Rename, Fault::Io),
    (Op::SyncDir, Fault::Io),
    (Op::SyncDir, Fault::TooManyFiles),
    (Op::Create, Fault::TooManyFiles),
];
