//! Readers with names, and publishers with numbers.

use super::*;
use crate::machine::single_active::Activity;
use crate::stream::offsets::NAMES_MAX;
use crate::stream::publishers::KnownPublisher;

impl Rig {
    fn add_named(&mut self, id: ConsumerId, name: &str, start: StreamOffset, single_active: bool) {
        self.add_in_turn(id, name, start, single_active.then_some(0));
    }

    fn add_in_turn(&mut self, id: ConsumerId, name: &str, start: StreamOffset, turn: Option<u64>) {
        let name = Some(name.as_bytes().into());
        let options = ReaderOptions { start, filter: None, name, turn };
        self.stream.add_reader(id, id, options, &mut self.woken).unwrap();
    }

    fn next_of(&self, name: &str) -> Option<Seq> {
        let stored = self.stream.stored_offsets();
        stored.iter().find(|stored| *stored.name == *name.as_bytes()).map(|stored| stored.next)
    }

    fn leave(&mut self, id: ConsumerId) -> Vec<ConsumerId> {
        let mut wakes = Vec::new();
        assert!(self.stream.remove_reader(id, &mut wakes));
        wakes
    }

    /// What a restart makes of the stream, when everything that was staged is on disk.
    fn restarted(&mut self, checkpoint: Vec<Note>, covered: Seq, log: &[Note]) -> Stream<u64, ConsumerId> {
        let stored = self.stream.blocks().cloned().collect();
        let (floor, next_seq) = (self.stream.floor(), self.stream.next_seq());
        let recent = self.stream.window.from(covered).map(|recent| (recent.first_seq, recent.chunk.clone()));
        let recent: Vec<_> = recent.collect();
        let found = Recovered { floor, next_seq, blocks: stored, recent: recent.clone() };
        let mut stream = Stream::with_limits(UNLIMITED, 16, found);
        for note in checkpoint.iter().chain(log) {
            assert!(note.value.is_empty() || stream.remember(&note.key, &note.value));
        }
        for (first_seq, chunk) in recent {
            stream.recall_publishers(first_seq, &chunk, covered);
        }
        stream
    }
}

fn limited(rig: &mut Rig, id: ConsumerId, messages: u32) -> Vec<Seq> {
    rig.take(id, messages, usize::MAX).1
}

#[test]
fn an_offset_follows_what_is_settled() {
    let mut rig = Rig::new(UNLIMITED);
    rig.push(20, 0, true, None);
    rig.add_named(1, "app", StreamOffset::Number(5), false);
    assert_eq!(rig.next_of("app"), Some(5), "the place is promised from the beginning");
    assert_eq!(limited(&mut rig, 1, 6), [5, 6, 7, 8, 9, 10]);
    rig.stream.settle(1, &[(6, 7)], &mut Vec::new());
    assert_eq!(rig.next_of("app"), Some(5), "5 is outstanding");
    rig.stream.settle(1, &[(5, 5)], &mut Vec::new());
    assert_eq!(rig.next_of("app"), Some(8));
    rig.stream.settle(1, &[(8, 10)], &mut Vec::new());
    assert_eq!(rig.next_of("app"), Some(11));
    let notes = rig.stream.take_notes();
    let expected: Vec<_> = [5, 8, 11].map(|next| Note::offset(b"app", Some(next))).into();
    assert_eq!(notes, expected, "only what has changed");
    assert_eq!(rig.stream.notes(), [Note::offset(b"app", Some(11))]);
    assert!(rig.leave(1).is_empty());
    rig.add_named(2, "app", StreamOffset::First, false);
    assert_eq!(limited(&mut rig, 2, 2), [11, 12], "what is stored wins");
    rig.leave(2);
    rig.add_named(3, "app", StreamOffset::Since(0), false);
    assert_eq!(limited(&mut rig, 3, 2), [11, 12], "over a time, too; and nothing of it was settled");
}

#[test]
fn what_is_given_back_comes_again_for_the_next_one() {
    let mut rig = Rig::new(UNLIMITED);
    rig.push(20, 0, true, None);
    rig.add_named(1, "app", StreamOffset::First, false);
    assert_eq!(limited(&mut rig, 1, 10).len(), 10);
    rig.stream.give_back(1, &[(4, 4)], &mut Vec::new());
    rig.stream.settle(1, &[(0, 3), (5, 9)], &mut Vec::new());
    assert_eq!(rig.next_of("app"), Some(4));
}

#[test]
fn of_readers_with_one_name_the_last_moves_the_offset() {
    let mut rig = Rig::new(UNLIMITED);
    rig.push(20, 0, true, None);
    for id in [1, 2] {
        rig.add_named(id, "app", StreamOffset::First, false);
        assert_eq!(limited(&mut rig, id, 10).len(), 10);
    }
    rig.stream.settle(1, &[(0, 9)], &mut Vec::new());
    assert_eq!(rig.next_of("app"), Some(0));
    rig.stream.settle(2, &[(0, 4)], &mut Vec::new());
    assert_eq!(rig.next_of("app"), Some(5));
}

#[test]
fn one_of_a_group_reads_until_it_leaves() {
    let mut rig = Rig::new(UNLIMITED);
    rig.push(20, 0, true, None);
    for id in [1, 2, 3] {
        rig.add_named(id, "group", StreamOffset::First, true);
    }
    assert_eq!(rig.take(2, 10, 1000), (TakeEnd::Parked, vec![]));
    assert_eq!(limited(&mut rig, 1, 8).len(), 8);
    rig.stream.settle(1, &[(0, 4)], &mut Vec::new());
    assert_eq!(rig.leave(3), [] as [u64; 0], "it was not its turn");
    rig.woken.clear();
    rig.push(1, 0, true, None);
    assert_eq!(rig.woken, [] as [u64; 0], "nobody waits for messages");
    assert_eq!(rig.leave(1), [2]);
    assert!(rig.stream.activity(2) == Activity::SingleActive);
    assert_eq!(rig.drain(2), (5..21).collect::<Vec<_>>());
    rig.add_named(4, "other", StreamOffset::Next, true);
    assert!(rig.stream.activity(4) == Activity::SingleActive, "groups are apart");
    rig.leave(2);
    rig.leave(4);
    assert_eq!((rig.next_of("group"), rig.next_of("other")), (Some(5), Some(21)));
}

#[test]
fn turns_are_counted_round_and_pass_when_nothing_is_outstanding() {
    let mut rig = Rig::new(UNLIMITED);
    rig.push(20, 0, true, None);
    let add = |rig: &mut Rig, id| rig.add_in_turn(id, "group", StreamOffset::First, Some(1));
    let active = |rig: &Rig| (1..=3).find(|id| rig.stream.activity(*id) == Activity::SingleActive);
    add(&mut rig, 1);
    assert_eq!(active(&rig), Some(1), "the only one");
    assert_eq!(limited(&mut rig, 1, 5).len(), 5);
    add(&mut rig, 2);
    assert_eq!(active(&rig), Some(1), "it has five");
    assert_eq!(rig.take(1, 5, 1000), (TakeEnd::Parked, vec![]), "and gets no more");
    let mut wakes = Vec::new();
    rig.stream.settle(1, &[(0, 3)], &mut wakes);
    assert!(wakes.is_empty());
    rig.stream.give_back(1, &[(4, 4)], &mut wakes);
    assert_eq!((active(&rig), wakes), (Some(2), vec![2]));
    assert_eq!(limited(&mut rig, 2, 3), [4, 5, 6]);
    add(&mut rig, 3);
    assert_eq!(active(&rig), Some(2), "one of three is the second");
    assert_eq!(rig.leave(2), [3], "one of two, too");
    assert_eq!(limited(&mut rig, 3, 1), [4], "nothing was settled");
    rig.stream.settle(3, &[(4, 4)], &mut Vec::new());
    assert_eq!(rig.leave(3), [1]);
    assert_eq!(rig.drain(1), (5..20).collect::<Vec<_>>());
}

#[test]
fn names_are_bounded_and_can_be_forgotten() {
    let mut rig = Rig::new(UNLIMITED);
    for id in 0..NAMES_MAX as u64 {
        rig.add_named(id, &id.to_string(), StreamOffset::First, false);
    }
    let another = |name: &[u8]| ReaderOptions {
        start: StreamOffset::First,
        filter: None,
        name: Some(name.into()),
        turn: None,
    };
    assert_eq!(rig.stream.add_reader(5000, 5000, another(b"one more"), &mut Vec::new()), Err(TooManyNames));
    assert_eq!(rig.stream.roster.len(), NAMES_MAX);
    rig.leave(7);
    assert!(rig.stream.forget_offset(b"7") && !rig.stream.forget_offset(b"7"));
    assert_eq!(rig.stream.take_notes().last(), Some(&Note::offset(b"7", None)));
    assert_eq!(rig.stream.add_reader(5000, 5000, another(b"one more"), &mut Vec::new()), Ok(()));
    assert!(rig.stream.forget_offset(b"8"), "it is in use");
    rig.stream.settle(8, &[], &mut Vec::new());
    assert_eq!(rig.next_of("8"), Some(0), "and stored again");
}

#[test]
fn a_restart_brings_offsets_back_but_none_above_what_is_there() {
    let mut rig = Rig::new(UNLIMITED);
    rig.push(20, 0, true, None);
    let notes = [Note::offset(b"a", Some(7)), Note::offset(b"b", Some(25))];
    rig.stream = rig.restarted(notes.to_vec(), 0, &[Note::offset(b"a", Some(9))]);
    assert_eq!((rig.next_of("a"), rig.next_of("b")), (Some(9), Some(20)));
    assert!(!rig.stream.remember(b"\x09x", b"?"));
}

/// Publishes the ids as one batch, as publisher `name`; those that were kept before.
fn publish(rig: &mut Rig, name: &str, ids: &[i64]) -> Vec<u32> {
    let mut builder = ChunkBuilder::default();
    let (mut kept_before, mut all) = (Vec::new(), Vec::new());
    for id in ids {
        let entries = vec![
            ("x-stream-publisher-reference".to_owned(), FieldValue::string(name)),
            ("x-stream-publishing-id".to_owned(), FieldValue::I64(*id)),
        ];
        let mut table = Vec::new();
        FieldTable(entries).encode(&mut table);
        let header = HeaderView::parse(&header(None)).unwrap().with_headers(Some(&table));
        let mut one = ChunkBuilder::default();
        one.push(1, 0, b"\0\x01q", &header, 1, b"x");
        all.push(one);
    }
    let records: Vec<u8> = all.iter().flat_map(|one| one.bytes().to_vec()).collect();
    rig.stream.admit(&records, true, &mut kept_before);
    for (position, one) in (0..).zip(&all) {
        if !kept_before.contains(&position) {
            builder.append_records(one.bytes());
        }
    }
    if !builder.is_empty() {
        rig.stream.push_shared(Arc::new(builder.finish()), rig.lsn, &mut rig.woken);
        rig.lsn += 1;
    }
    kept_before
}

fn known(rig: &Rig, name: &str) -> Option<u64> {
    let known = rig.stream.known_publishers();
    known.iter().find(|known| *known.name == *name.as_bytes()).map(|known| known.last_id)
}

#[test]
fn what_was_published_before_is_not_kept_again() {
    let mut rig = Rig::new(UNLIMITED);
    assert_eq!(publish(&mut rig, "p", &[1, 2, 2, 5]), [2]);
    assert_eq!(publish(&mut rig, "p", &[3, 5, 6]), [0, 1]);
    assert_eq!(publish(&mut rig, "q", &[1]), [] as [u32; 0], "publishers are apart");
    assert_eq!(publish(&mut rig, "p", &[-1, 7]), [] as [u32; 0], "what makes no sense is no number");
    assert_eq!(rig.stream.messages(), 7);
    let p = KnownPublisher { name: b"p"[..].into(), last_id: 7 };
    assert_eq!(rig.stream.known_publishers()[0], p);
}

#[test]
fn a_restart_knows_the_publishers_of_what_is_left() {
    let mut rig = Rig::new(UNLIMITED);
    publish(&mut rig, "p", &[1, 2]);
    publish(&mut rig, "p", &[3]);
    rig.migrate(rig.lsn);
    let covered = rig.stream.covered();
    publish(&mut rig, "p", &[4]);
    publish(&mut rig, "q", &[9]);
    let checkpoint = rig.stream.notes();
    assert_eq!(checkpoint, [Note::publisher(b"p", 3, 2)], "what a crash may lose is not remembered");
    // The log is whole.
    let whole = rig.restarted(checkpoint.clone(), covered, &[]);
    // The log has lost what came after the checkpoint.
    let found = Recovered { floor: 0, next_seq: covered, ..NOTHING };
    let mut cut = Stream::with_limits(UNLIMITED, 16, found);
    checkpoint.iter().for_each(|note| assert!(cut.remember(&note.key, &note.value)));
    rig.stream = whole;
    assert_eq!((known(&rig, "p"), known(&rig, "q")), (Some(4), Some(9)));
    rig.stream = cut;
    assert_eq!((known(&rig, "p"), known(&rig, "q")), (Some(3), None));
    assert_eq!(publish(&mut rig, "p", &[3, 4]), [0]);
}

#[test]
fn publishers_are_bounded_and_the_quietest_is_forgotten() {
    let mut rig = Rig::new(UNLIMITED);
    for i in 0..1000 {
        publish(&mut rig, &i.to_string(), &[1]);
    }
    publish(&mut rig, "0", &[2]);
    publish(&mut rig, "another", &[1]);
    assert_eq!((known(&rig, "0"), known(&rig, "1"), known(&rig, "another")), (Some(2), None, Some(1)));
    assert_eq!(rig.stream.known_publishers().len(), 1000);
}
