//! A stream compared with a plain list of messages, whatever order things happen in.

use std::collections::{BTreeMap, HashMap};

use posthouse_model::field::{FieldTable, FieldValue};
use posthouse_model::props::HeaderView;
use proptest::prelude::*;

use super::directory::join;
use super::*;
use crate::machine::{Run, TakeEnd};

mod blocks;
mod named;

const UNLIMITED: Limits = Limits { max_bytes: None, max_age_ms: None, segment_bytes: 1 << 40 };

const NOTHING: Recovered<u64> = Recovered { floor: 0, next_seq: 0, blocks: Vec::new(), recent: Vec::new() };

/// A stream with its readers' sessions and the segments it lies in.
struct Rig {
    stream: Stream<u64, ConsumerId>,
    /// Every message ever pushed: when it was received and its filter value.
    pushed: Vec<(u64, Option<u8>)>,
    segments: BTreeMap<u64, (Seq, Arc<Chunk>)>,
    next_location: u64,
    lsn: Lsn,
    woken: Vec<ConsumerId>,
}

fn header(filter_value: Option<u8>) -> Vec<u8> {
    let plain = [&[0, 60, 0, 0][..], &[0; 8], &[0, 0]].concat();
    let Some(value) = filter_value else { return plain };
    let mut table = Vec::new();
    let value = FieldValue::string(&value.to_string());
    FieldTable(vec![("x-stream-filter-value".into(), value)]).encode(&mut table);
    HeaderView::parse(&plain).unwrap().with_headers(Some(&table))
}

impl Rig {
    fn new(limits: Limits) -> Self {
        Self {
            stream: Stream::with_limits(limits, 16, NOTHING),
            pushed: Vec::new(),
            segments: BTreeMap::new(),
            next_location: 0,
            lsn: 1,
            woken: Vec::new(),
        }
    }

    fn push(&mut self, count: u32, body: usize, shared: bool, filter_value: Option<u8>) {
        let mut builder = ChunkBuilder::default();
        for _ in 0..count {
            let (seq, ms) = (self.pushed.len() as u64, self.pushed.len() as u64 * 10);
            let body = [&seq.to_le_bytes()[..], &vec![0; body]].concat();
            builder.push(1, ms, b"\0\x01q", &header(filter_value), body.len(), &body);
            self.pushed.push((ms, filter_value));
        }
        if shared {
            self.stream.push_shared(Arc::new(builder.finish()), self.lsn, &mut self.woken);
        } else {
            self.stream.push_copied(builder.bytes(), count, self.lsn, &mut self.woken);
        }
        self.lsn += 1;
    }

    fn store(&mut self, writes: Vec<directory::ToStore>) {
        for write in writes {
            let chunk = join(&write.pieces);
            self.next_location += 1;
            self.segments.insert(self.next_location, (write.first_seq, chunk.clone()));
            self.stream.written(write.first_seq, chunk.count(), self.next_location);
        }
        for released in self.stream.take_released() {
            assert!(self.segments.remove(&released).is_some(), "released twice");
        }
    }

    fn spill(&mut self, keep: usize) {
        let mut writes = Vec::new();
        self.stream.plan_spill(keep, 1 << 20, &mut writes);
        self.store(writes);
        self.stream.plan_spill(keep, 0, &mut Vec::new());
    }

    fn migrate(&mut self, below: Lsn) {
        let mut writes = Vec::new();
        self.stream.plan_migration(below, &mut writes);
        self.store(writes);
    }

    /// Reads what is asked for, as the reading thread does.
    fn read(&mut self) {
        while let Some(read) = self.stream.next_read(&mut self.woken) {
            let (Read::Time(seq, at) | Read::Summary(seq, at) | Read::Block(seq, at)) = read;
            let (first_seq, chunk) = self.segments[&at].clone();
            assert_eq!(first_seq, seq);
            match read {
                Read::Time(..) => self.stream.time_read(seq, chunk.record_at(0).unwrap().received_ms()),
                Read::Summary(..) => self.stream.summary_read(seq, &filter::summarize(&chunk, 16)),
                Read::Block(..) => self.stream.block_read(seq, chunk, &mut self.woken),
            }
        }
    }

    fn add(&mut self, id: ConsumerId, offset: StreamOffset, filter: Option<Filter>) {
        let options = ReaderOptions { start: offset, filter, name: None, turn: None };
        self.stream.add_reader(id, id, options, &mut self.woken).unwrap();
    }

    fn take(&mut self, id: ConsumerId, messages: u32, bytes: usize) -> (TakeEnd, Vec<Seq>) {
        let mut runs: Vec<Run> = Vec::new();
        let end = self.stream.take(id, crate::machine::Limits { messages, bytes }, &mut runs);
        let mut seqs = Vec::new();
        for run in runs {
            let mut offset = run.offset;
            for seq in run.first_seq..run.first_seq + u64::from(run.count) {
                let record = run.chunk.record_at(offset).unwrap();
                assert_eq!(record.body()[..8], seq.to_le_bytes(), "the record of another message");
                offset += record.len() as u32;
                seqs.push(seq);
            }
        }
        assert!(seqs.len() <= messages as usize);
        (end, seqs)
    }

    /// Takes until there is nothing more.
    fn drain(&mut self, id: ConsumerId) -> Vec<Seq> {
        let mut all = Vec::new();
        loop {
            let (end, seqs) = self.take(id, 1000, 1 << 20);
            all.extend(seqs);
            match end {
                TakeEnd::Parked => return all,
                TakeEnd::Limit => {}
                TakeEnd::NeedsLoad => {
                    self.woken.clear();
                    self.read();
                    assert!(self.woken.contains(&id), "a reader that waits must be woken");
                }
            }
        }
    }
}

fn filter(values: &[u8], match_unfiltered: bool) -> Filter {
    Filter { values: values.iter().map(|v| v.to_string().into_bytes().into()).collect(), match_unfiltered }
}

#[test]
fn every_offset_begins_where_it_should() {
    for keep in [usize::MAX, 0] {
        let mut rig = Rig::new(UNLIMITED);
        for _ in 0..50 {
            rig.push(20, 1000, true, None);
        }
        rig.spill(keep);
        for (offset, first) in [
            (StreamOffset::First, 0),
            (StreamOffset::Last, 999),
            (StreamOffset::Next, 1000),
            (StreamOffset::Number(777), 777),
            (StreamOffset::Number(1000), 1000),
            (StreamOffset::Since(0), 0),
            (StreamOffset::Since(5550), 555),
            (StreamOffset::Since(5551), 556),
            (StreamOffset::Since(1 << 40), 1000),
        ] {
            rig.add(1, offset, None);
            assert_eq!(rig.drain(1), (first..1000).collect::<Vec<_>>(), "{offset:?}, keep {keep}");
            assert!(rig.stream.remove_reader(1, &mut Vec::new()));
        }
        rig.add(1, StreamOffset::Number(1003), None);
        assert!(rig.drain(1).is_empty());
        rig.push(5, 10, false, None);
        assert_eq!(rig.drain(1), [1003, 1004]);
    }
}

#[test]
fn readers_are_woken_once_there_is_something() {
    let mut rig = Rig::new(UNLIMITED);
    (1..=3).for_each(|id| rig.add(id, StreamOffset::Next, None));
    for id in 1..=2 {
        assert_eq!(rig.take(id, 1, 1), (TakeEnd::Parked, vec![]));
    }
    rig.push(1, 10, false, None);
    rig.woken.sort_unstable();
    assert_eq!(rig.woken, [1, 2], "the third has not asked");
    rig.push(1, 10, false, None);
    assert_eq!(rig.woken, [1, 2], "they are on their way");
    rig.stream.block(1);
    assert_eq!(rig.drain(2), [0, 1]);
    rig.woken.clear();
    rig.push(1, 10, false, None);
    assert_eq!(rig.woken, [2], "a blocked reader comes by itself");
}

#[test]
fn a_bounded_window_serves_the_tail_and_blocks_serve_the_rest() {
    let mut rig = Rig::new(UNLIMITED);
    rig.add(1, StreamOffset::Next, None);
    let mut tail = Vec::new();
    for _ in 0..400 {
        rig.push(50, 1000, true, None);
        rig.spill(1 << 20);
        assert!(rig.stream.memory_bytes() < (1 << 20) + (512 << 10), "{}", rig.stream.memory_bytes());
        let (end, seqs) = rig.take(1, 50, usize::MAX);
        assert_ne!(end, TakeEnd::NeedsLoad, "the tail is in memory");
        tail.extend(seqs);
    }
    assert_eq!(tail, (0..20_000).collect::<Vec<_>>());
    (2..40).for_each(|id| rig.add(id, StreamOffset::Number(id * 100), None));
    for id in 2..40 {
        assert_eq!(rig.drain(id).len() as u64, 20_000 - id * 100);
        assert!(rig.stream.memory_bytes() < 8 << 20, "{}", rig.stream.memory_bytes());
    }
}

#[test]
fn more_readers_than_the_cache_has_room_for_all_get_on() {
    let mut rig = Rig::new(UNLIMITED);
    for _ in 0..400 {
        rig.push(50, 1000, true, None);
    }
    while rig.stream.covered() < 20_000 {
        rig.spill(0);
    }
    let readers = 1..=60;
    readers.clone().for_each(|id| rig.add(id, StreamOffset::Number(id * 300), None));
    let mut read: HashMap<ConsumerId, Vec<Seq>> = HashMap::new();
    let mut busy: Vec<ConsumerId> = readers.collect();
    while !busy.is_empty() {
        let mut waiting = Vec::new();
        for id in std::mem::take(&mut busy) {
            let (end, seqs) = rig.take(id, 1000, 1 << 20);
            read.entry(id).or_default().extend(seqs);
            match end {
                TakeEnd::Parked => {}
                TakeEnd::Limit => busy.push(id),
                TakeEnd::NeedsLoad => waiting.push(id),
            }
        }
        rig.woken.clear();
        rig.read();
        assert!(rig.stream.cache.memory_bytes() < 5 << 20);
        busy.append(&mut rig.woken);
        assert!(waiting.is_empty() || !busy.is_empty(), "somebody must get on");
    }
    for (id, seqs) in read {
        assert_eq!(seqs, (id * 300..20_000).collect::<Vec<_>>());
    }
}

#[test]
fn filter_summaries_have_the_size_that_the_settings_say_when_they_are_written() {
    let mut rig = Rig::new(UNLIMITED);
    for (filter_bytes, expected) in [(None, 16), (Some(64), 64), (Some(200), 200), (None, 16)] {
        rig.stream.set_settings(QueueSettings { filter_bytes, ..QueueSettings::default() });
        rig.push(1, 1, true, Some(1));
        let mut writes = Vec::new();
        rig.stream.plan_migration(rig.lsn, &mut writes);
        let sizes: Vec<u8> = writes.iter().map(|write| write.filter_bytes).collect();
        assert_eq!(sizes, [expected]);
        rig.store(writes);
    }
}

#[test]
fn filters_pass_over_whole_blocks() {
    let mut rig = Rig::new(UNLIMITED);
    for i in 0..40 {
        rig.push(300, 1000, true, Some(i / 10));
    }
    while rig.stream.covered() < 12_000 {
        rig.spill(0);
    }
    rig.add(1, StreamOffset::First, Some(filter(&[2], false)));
    let before = rig.segments.len();
    let mut blocks = 0;
    assert_eq!(rig.take(1, 10, 10).0, TakeEnd::NeedsLoad);
    while let Some(read) = rig.stream.next_read(&mut rig.woken) {
        let (Read::Time(seq, at) | Read::Summary(seq, at) | Read::Block(seq, at)) = read;
        let chunk = rig.segments[&at].1.clone();
        match read {
            Read::Summary(..) => rig.stream.summary_read(seq, &filter::summarize(&chunk, 16)),
            _ => {
                blocks += 1;
                rig.stream.block_read(seq, chunk, &mut rig.woken);
            }
        }
    }
    assert_eq!((blocks, rig.woken.as_slice()), (1, &[1][..]), "of {before} blocks");
    assert_eq!(rig.drain(1), (6000..9000).collect::<Vec<_>>());
}

#[test]
fn retention_wakes_readers_of_what_is_gone() {
    let mut rig = Rig::new(Limits { max_bytes: Some(1 << 20), max_age_ms: None, segment_bytes: 256 << 10 });
    for _ in 0..8 {
        rig.push(100, 1000, true, None);
    }
    rig.spill(0);
    rig.add(1, StreamOffset::First, None);
    assert_eq!(rig.take(1, 10, 10).0, TakeEnd::NeedsLoad);
    for _ in 0..20 {
        rig.push(100, 1000, true, None);
        rig.spill(0);
    }
    assert!(rig.stream.bytes() <= (1 << 20) + (256 << 10) && rig.stream.floor() > 1000);
    assert_eq!(rig.woken, [1]);
    assert_eq!(rig.drain(1), (rig.stream.floor()..2800).collect::<Vec<_>>());
    let kept: usize = rig.segments.values().map(|(_, chunk)| chunk.bytes().len()).sum();
    assert!(kept < 2 << 20, "{kept} bytes in segments");
}

#[test]
fn age_is_looked_up_after_a_restart() {
    let limits = Limits { max_bytes: None, max_age_ms: Some(1000), segment_bytes: 1 };
    let mut rig = Rig::new(limits);
    let mut blocks = Vec::new();
    for first_seq in [0, 100] {
        rig.push(100, 1000, true, None);
        rig.migrate(Lsn::MAX);
        let found = rig.stream.blocks().find(|block| block.first_seq == first_seq).unwrap().clone();
        blocks.push(Block { first_ms: 0, ..found });
    }
    let found = Recovered { floor: 0, next_seq: 200, blocks, recent: Vec::new() };
    rig.stream = Stream::with_limits(limits, 16, found);
    rig.stream.retain(10_000, &mut rig.woken);
    assert_eq!(rig.stream.floor(), 0, "nobody has looked yet");
    assert!(rig.stream.has_work());
    rig.read();
    rig.stream.retain(1999, &mut rig.woken);
    assert_eq!(rig.stream.floor(), 0);
    rig.stream.retain(2001, &mut rig.woken);
    assert_eq!(rig.stream.floor(), 100);
}

#[test]
fn looking_shows_every_message_where_it_is() {
    let mut rig = Rig::new(UNLIMITED);
    for round in 0..6 {
        rig.push(100, 1000, round % 2 == 0, None);
        if round == 3 {
            rig.spill(0);
        }
    }
    let mut seen = Vec::new();
    let mut next = rig.stream.nth(50);
    while let Some(from) = next {
        let glimpses = rig.stream.glimpse(from, 300_000);
        next = glimpses.last().and_then(|last| last.ready.last()).map(|run| run.last + 1);
        for glimpse in glimpses {
            let stored = glimpse.residence.location().map(|at| rig.segments[&at].1.clone());
            let chunk = stored.or_else(|| glimpse.residence.chunk().cloned()).unwrap();
            for seq in glimpse.ready.iter().flat_map(|run| run.first..=run.last) {
                let place = chunk.find((seq - glimpse.first_seq) as u32).unwrap();
                assert_eq!(chunk.record_at(place.offset).unwrap().body()[..8], seq.to_le_bytes());
                seen.push(seq);
            }
        }
    }
    assert_eq!(seen, (50..600).collect::<Vec<_>>());
    assert_eq!(rig.stream.nth(600), None);
}

#[derive(Clone, Debug)]
enum Step {
    Push { count: u32, body: usize, shared: bool, filter_value: Option<u8> },
    Spill { keep: usize },
    Migrate { back: u64 },
    Read,
    Take { reader: u64, messages: u32, bytes: usize },
    Block { reader: u64 },
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1u32..40, 0usize..3000, any::<bool>(), proptest::option::of(0u8..3))
            .prop_map(|(count, body, shared, filter_value)| Step::Push { count, body, shared, filter_value }),
        2 => prop_oneof![Just(0), Just(100_000)].prop_map(|keep| Step::Spill { keep }),
        2 => (0u64..4).prop_map(|back| Step::Migrate { back }),
        3 => Just(Step::Read),
        6 => (0u64..4, 1u32..60, 1usize..50_000)
            .prop_map(|(reader, messages, bytes)| Step::Take { reader, messages, bytes }),
        1 => (0u64..4).prop_map(|reader| Step::Block { reader }),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 1..80)
}

/// What each reader of the property below wants: reader 3 begins at a time.
fn wants(reader: u64, message: (u64, Option<u8>)) -> bool {
    match reader {
        1 => message.1.is_some_and(|value| value < 2),
        2 => message.1 == Some(1) || message.1.is_none(),
        3 => message.0 >= 150,
        _ => true,
    }
}

fn add_all(rig: &mut Rig, read: &[Vec<Seq>; 4]) {
    for reader in 0..4u64 {
        let next = read[reader as usize].last().map(|seq| StreamOffset::Number(seq + 1));
        let begins = if reader == 3 { StreamOffset::Since(150) } else { StreamOffset::First };
        let filter = match reader {
            1 => Some(filter(&[0, 1], false)),
            2 => Some(filter(&[1], true)),
            _ => None,
        };
        rig.add(reader, next.unwrap_or(begins), filter);
    }
}

proptest! {
    #[test]
    fn each_reader_gets_what_it_wants_in_order_and_once(steps in steps()) {
        let mut rig = Rig::new(UNLIMITED);
        // A time is looked for among what is there.
        rig.push(30, 100, true, None);
        let mut read: [Vec<Seq>; 4] = Default::default();
        add_all(&mut rig, &read);
        for step in steps {
            match step {
                Step::Push { count, body, shared, filter_value } => rig.push(count, body, shared, filter_value),
                Step::Spill { keep } => rig.spill(keep),
                Step::Migrate { back } => {
                    let below = rig.lsn.saturating_sub(back);
                    rig.migrate(below);
                }
                Step::Read => rig.read(),
                Step::Take { reader, messages, bytes } => {
                    let (_, seqs) = rig.take(reader, messages, bytes);
                    read[reader as usize].extend(seqs);
                }
                Step::Block { reader } => rig.stream.block(reader),
                Step::Restart => {
                    rig.migrate(Lsn::MAX);
                    prop_assert_eq!(rig.stream.covered(), rig.stream.next_seq());
                    let blocks = rig.stream.blocks().cloned().map(|b| Block { first_ms: 0, ..b }).collect();
                    let (floor, next_seq) = (rig.stream.floor(), rig.stream.next_seq());
                    let found = Recovered { floor, next_seq, blocks, recent: Vec::new() };
                    rig.stream = Stream::with_limits(UNLIMITED, 16, found);
                    add_all(&mut rig, &read);
                }
            }
            prop_assert_eq!(rig.stream.next_seq(), rig.pushed.len() as u64);
            prop_assert!(rig.stream.covered() <= rig.stream.next_seq());
        }
        for reader in 0..4 {
            let rest = rig.drain(reader);
            read[reader as usize].extend(rest);
            let wanted = (0..).zip(&rig.pushed).filter(|(_, message)| wants(reader, **message));
            let expected: Vec<Seq> = wanted.map(|(seq, _)| seq).collect();
            prop_assert_eq!(&read[reader as usize], &expected, "reader {}", reader);
        }
    }

    #[test]
    fn what_is_given_up_is_a_prefix(pushes in proptest::collection::vec((1u32..20, 0usize..2000), 1..60)) {
        let limits = Limits { max_bytes: Some(100_000), max_age_ms: None, segment_bytes: 20_000 };
        let mut rig = Rig::new(limits);
        rig.add(1, StreamOffset::First, None);
        let mut last = None;
        for (count, body) in pushes {
            rig.push(count, body, count % 2 == 0, None);
            if count % 3 == 0 {
                rig.spill(30_000);
            }
            prop_assert!(rig.stream.bytes() < 100_000 + 20_000 + 20 * 2100);
            if count % 5 == 0 {
                for seq in rig.drain(1) {
                    prop_assert!(last.is_none_or(|last| last < seq));
                    last = Some(seq);
                }
            }
        }
        rig.add(2, StreamOffset::First, None);
        let kept: Vec<Seq> = (rig.stream.floor()..rig.stream.next_seq()).collect();
        prop_assert_eq!(rig.drain(2), kept);
    }
}
