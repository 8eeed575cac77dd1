//! Blocks: written, extended, written twice, lost.

use super::*;

#[test]
fn a_slow_stream_gets_few_blocks_however_often_it_is_written() {
    let mut rig = Rig::new(UNLIMITED);
    for _ in 0..1000 {
        rig.push(1, 200, false, None);
        rig.migrate(Lsn::MAX);
        assert_eq!(rig.stream.covered(), rig.stream.next_seq());
    }
    assert!(rig.stream.blocks().count() < 8, "{}", rig.stream.blocks().count());
    assert_eq!(rig.segments.len(), rig.stream.blocks().count());
}

#[test]
fn what_two_threads_write_at_a_time_is_kept_once() {
    let mut rig = Rig::new(UNLIMITED);
    rig.push(10, 100, false, None);
    let (mut first, mut second) = (Vec::new(), Vec::new());
    rig.stream.plan_migration(Lsn::MAX, &mut first);
    rig.push(10, 100, false, None);
    rig.stream.plan_migration(Lsn::MAX, &mut second);
    assert_eq!((first[0].first_seq, second[0].first_seq), (0, 0), "the block was extended");
    rig.store(second);
    assert_eq!(rig.stream.covered(), 20);
    rig.store(first);
    assert_eq!((rig.stream.covered(), rig.segments.len()), (20, 1));
    rig.stream.plan_spill(0, 0, &mut Vec::new());
    rig.add(1, StreamOffset::First, None);
    assert_eq!(rig.drain(1), (0..20).collect::<Vec<_>>());
}

#[test]
fn an_extended_block_covers_what_was_stored_before() {
    let mut rig = Rig::new(UNLIMITED);
    rig.push(10, 100, false, None);
    rig.migrate(Lsn::MAX);
    rig.push(10, 100, false, None);
    let mut writes = Vec::new();
    rig.stream.plan_migration(Lsn::MAX, &mut writes);
    assert_eq!(rig.stream.covered(), 10, "the first ten lie where they lay");
    rig.stream.plan_spill(0, 0, &mut Vec::new());
    assert_eq!(rig.stream.window.first_seq(), 0, "what is being written must not be forgotten");
    rig.store(writes);
    assert_eq!(rig.stream.covered(), 20);
}

#[test]
fn lost_blocks_are_passed_over() {
    let mut rig = Rig::new(UNLIMITED);
    for _ in 0..4 {
        rig.push(100, 2000, true, None);
    }
    rig.spill(0);
    rig.add(1, StreamOffset::First, None);
    assert_eq!(rig.take(1, 10, 10).0, TakeEnd::NeedsLoad);
    assert!(matches!(rig.stream.next_read(&mut rig.woken), Some(Read::Block(0, _))));
    assert_eq!(rig.stream.lost(0, &mut rig.woken), 100);
    assert_eq!((rig.woken.as_slice(), rig.stream.take_released().len()), (&[1][..], 1));
    assert_eq!(rig.drain(1), (100..400).collect::<Vec<_>>());
}

#[test]
fn holes_that_damage_left_are_no_messages() {
    let mut builder = ChunkBuilder::default();
    for seq in [3u64, 4, 7] {
        let mut one = ChunkBuilder::default();
        one.push(1, 0, b"\0\x01q", &header(None), 8, &seq.to_le_bytes());
        builder.copy_record_as(one.bytes(), seq as u32);
    }
    let found = Recovered {
        floor: 3,
        next_seq: 10,
        blocks: Vec::new(),
        recent: vec![(0, Arc::new(builder.finish()))],
    };
    let mut rig = Rig::new(UNLIMITED);
    rig.stream = Stream::with_limits(UNLIMITED, 16, found);
    rig.pushed = vec![(0, None); 10];
    rig.push(2, 0, false, None);
    rig.add(1, StreamOffset::First, None);
    assert_eq!(rig.drain(1), [3, 4, 7, 10, 11]);
    rig.spill(0);
    rig.add(2, StreamOffset::First, None);
    assert_eq!(rig.drain(2), [3, 4, 7, 10, 11]);
}

#[test]
fn blocks_know_who_published_how_much_of_them() {
    let mut rig = Rig::new(UNLIMITED);
    let mut expected = BTreeMap::new();
    for (user, body) in [(1, 100), (2, 50), (1, 30_000), (3, 200_000), (2, 10), (2, 90_000), (1, 7)] {
        let mut builder = ChunkBuilder::default();
        let stamp = posthouse_model::record::stamp(5, UserNumber(user));
        builder.push(1, stamp, b"\0\x01q", &header(None), body, &vec![0; body]);
        *expected.entry(user).or_default() += builder.bytes().len() as u64;
        if body > 1_000 {
            rig.stream.push_shared(Arc::new(builder.finish()), rig.lsn, &mut rig.woken);
        } else {
            rig.stream.push_copied(builder.bytes(), 1, rig.lsn, &mut rig.woken);
        }
        rig.lsn += 1;
        rig.check_shares(&expected);
        rig.migrate(Lsn::MAX);
        rig.check_shares(&expected);
    }
    assert!(rig.stream.blocks().count() > 1);
    rig.stream.plan_spill(0, 0, &mut Vec::new());
    rig.check_shares(&expected);
}

impl Rig {
    fn check_shares(&self, expected: &BTreeMap<u16, u64>) {
        let mut shares = BTreeMap::new();
        self.stream.shares(|user, bytes| *shares.entry(user.0).or_default() += bytes);
        shares.retain(|_, bytes| *bytes > 0);
        assert_eq!(&shares, expected);
    }
}
