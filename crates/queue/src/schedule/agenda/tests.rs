//! The agenda with levels that are lists.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// A schedule as its owner keeps it, without storage.
#[derive(Default)]
struct Keeper {
    levels: BTreeMap<u8, Vec<Waiting>>,
    next_seq: BTreeMap<u8, Seq>,
    next_id: u64,
    moves: u64,
    most_noted: usize,
}

impl Keeper {
    fn push(&mut self, agenda: &mut Agenda, place: Place, due_ms: u64, id: u64) {
        let next = self.next_seq.entry(place.level).or_insert(first_of_level(place.level));
        let waiting = Waiting { due_ms, id, seq: *next };
        *next += 1;
        self.levels.entry(place.level).or_default().push(waiting);
        agenda.arrived(place);
    }

    fn publish(&mut self, agenda: &mut Agenda, now_ms: u64, due_ms: u64) -> u64 {
        self.next_id += 1;
        self.push(agenda, place(now_ms, due_ms), due_ms, self.next_id);
        self.next_id
    }

    /// Does all that is to be done at a time; what was handed over, and when the next is to be done.
    fn run(&mut self, agenda: &mut Agenda, now_ms: u64, part: usize) -> (Vec<(u64, u64)>, u64) {
        let mut out = Vec::new();
        for _ in 0..1_000_000 {
            match agenda.step(now_ms, 3) {
                Step::Wait(until_ms) => return (out, until_ms),
                Step::HandOver(due) => {
                    for waiting in due {
                        let level = self.levels.get_mut(&level_of(waiting.seq)).unwrap();
                        let at = level.iter().position(|one| *one == waiting).unwrap();
                        level.remove(at);
                        out.push((waiting.due_ms, waiting.id));
                    }
                }
                Step::Read(level) => self.read(agenda, level, now_ms, part),
                Step::GoOn(queue) => panic!("nobody stands behind {queue:?}"),
            }
            self.most_noted = self.most_noted.max(agenda.noted());
        }
        panic!("it does not come to rest at {now_ms}");
    }

    fn read(&mut self, agenda: &mut Agenda, level: u8, now_ms: u64, part: usize) {
        let from = agenda.read_below(level);
        let unread: Vec<Waiting> =
            self.levels.get(&level).into_iter().flatten().copied().filter(|one| one.seq >= from).collect();
        let pass = agenda.begin(level, now_ms, Extent { messages: unread.len() as u64, bytes: 0 });
        let mut next = pass.from;
        for &waiting in unread.iter().take(part) {
            next = waiting.seq + 1;
            if let Fate::Moves(place) = agenda.read(&pass, waiting) {
                self.moves += 1;
                self.levels.get_mut(&level).unwrap().retain(|one| *one != waiting);
                self.push(agenda, place, waiting.due_ms, waiting.id);
            }
        }
        agenda.end(&pass, next, unread.len() > part);
    }
}

fn small() -> Agenda {
    Agenda::with(Extent { messages: 4, bytes: usize::MAX })
}

#[test]
fn a_message_is_handed_over_when_it_is_due_and_not_before() {
    for after in [0, 1, 5, 40, 1_000, 60_000, 3_600_000, 86_400_000, 10 * 366 * 86_400_000] {
        let (mut agenda, mut keeper, mut now) = (Agenda::default(), Keeper::default(), 1_800_000_000_007);
        let due = now + after;
        keeper.publish(&mut agenda, now, due);
        let mut wakes = 0;
        loop {
            let (out, until) = keeper.run(&mut agenda, now, 100);
            if !out.is_empty() {
                assert_eq!((out, now), (vec![(due, 1)], due), "after {after}");
                assert_eq!(until, NEVER_MS);
                break;
            }
            assert!(until > now && until <= due, "after {after}: woken at {until}");
            now = until;
            wakes += 1;
        }
        // Once to read the slot, and once when it is due.
        assert!(wakes <= 2, "after {after}: woken {wakes} times");
        assert_eq!(keeper.moves, 0);
    }
}

#[test]
fn a_crowded_slot_is_taken_apart_and_little_is_noted() {
    let (mut agenda, mut keeper, now) = (small(), Keeper::default(), 1_800_000_000_000);
    let dues: Vec<u64> = (0..500).map(|n| now + 3_000_000 + n * 7_919 % 4_001).collect();
    for &due in &dues {
        keeper.publish(&mut agenda, now, due);
    }
    let (mut now, mut all) = (now, Vec::new());
    while all.len() < dues.len() {
        let (out, until) = keeper.run(&mut agenda, now, 2);
        all.extend(out.into_iter().map(|(due, _)| due));
        now = until;
    }
    let mut expected = dues;
    expected.sort_unstable();
    assert_eq!(all, expected);
    assert!(keeper.moves <= 500 * 6, "{} moves", keeper.moves);
    // Those of some slots that are read ahead.
    assert!(keeper.most_noted <= 64, "{} noted at once", keeper.most_noted);
}

#[test]
fn many_messages_of_one_millisecond_leave_as_they_came() {
    let (mut agenda, mut keeper, now) = (small(), Keeper::default(), 1_800_000_000_000);
    let due = now + 90_000;
    for _ in 0..1_000 {
        keeper.publish(&mut agenda, now, due);
    }
    let out = keeper.run(&mut agenda, due, 10).0;
    assert_eq!(out, (1..=1_000).map(|id| (due, id)).collect::<Vec<_>>());
    assert!(keeper.most_noted < 4 + 10 + 4, "{} noted at once", keeper.most_noted);
}

#[test]
fn what_is_overdue_after_a_restart_leaves_at_once_in_order() {
    let (mut agenda, mut keeper, now) = (small(), Keeper::default(), 1_800_000_000_000);
    let mut dues: Vec<u64> = (0..200).map(|n| now + n * 7_919 % 1_000_003).collect();
    for &due in &dues {
        keeper.publish(&mut agenda, now, due);
    }
    let mut agenda = small();
    for (&level, waiting) in &keeper.levels {
        agenda.found(level, waiting.iter().map(|one| one.due_ms).min().unwrap());
    }
    let later = now + 2_000_000;
    // Published before it was all handed over, into slots that have the same digits.
    keeper.publish(&mut agenda, later, later + 500_000);
    let out = keeper.run(&mut agenda, later, 7).0;
    dues.sort_unstable();
    assert_eq!(out.into_iter().map(|(due, _)| due).collect::<Vec<_>>(), dues);
    assert_eq!(keeper.run(&mut agenda, later + 500_000, 7).0, [(later + 500_000, 201)]);
}

#[derive(Clone, Debug)]
enum Op {
    Publish(u64),
    Advance(u64),
    /// The clock is set.
    Set(i64),
    Restart,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let span = || prop_oneof![0..3u64, 0..100u64, 0..5_000u64, 0..200_000u64, 0..100_000_000u64];
    let op = prop_oneof![
        8 => span().prop_map(Op::Publish),
        3 => span().prop_map(Op::Advance),
        1 => (-200_000i64..200_000).prop_map(Op::Set),
        1 => Just(Op::Restart),
    ];
    proptest::collection::vec(op, 1..80)
}

proptest! {
    /// Against one sorted list: whatever is published, whatever the clock does and however often the broker starts, all
    /// that is due is handed over, nothing else, and in order.
    #[test]
    fn behaves_as_a_sorted_list(ops in ops(), limit in 1u64..6, part in 1usize..5) {
        let agenda = || Agenda::with(Extent { messages: limit, bytes: usize::MAX });
        let (mut waiting, mut keeper, mut now) = (agenda(), Keeper::default(), 1_800_000_000_000u64);
        let mut model: std::collections::BTreeSet<(u64, u64)> = Default::default();
        for op in ops {
            match op {
                Op::Publish(after) => {
                    let id = keeper.publish(&mut waiting, now, now + after);
                    model.insert((now + after, id));
                }
                Op::Advance(by) => now += by,
                Op::Set(by) => now = now.saturating_add_signed(by),
                Op::Restart => {
                    waiting = agenda();
                    for (&level, messages) in &keeper.levels {
                        if let Some(first) = messages.iter().map(|one| one.due_ms).min() {
                            waiting.found(level, first);
                        }
                    }
                }
            }
            let (out, until) = keeper.run(&mut waiting, now, part);
            let due: Vec<_> = model.range(..=(now, u64::MAX)).copied().collect();
            due.iter().for_each(|one| { model.remove(one); });
            let mut sorted = out.clone();
            sorted.sort_unstable();
            prop_assert_eq!(&sorted, &due);
            // More of one millisecond than are noted at once may leave as they are found.
            prop_assert!(out.is_sorted_by_key(|&(due, _)| due));
            if let Some(&(first, _)) = model.first() {
                prop_assert!(until > now && until <= first);
            }
        }
    }
}

#[test]
fn lines_that_may_go_on_and_what_is_due_take_turns() {
    const NOW: u64 = 1_800_000_000_000;
    let queue = posthouse_model::ids::QueueId(5);
    let mut agenda = Agenda::default();
    let waiting = |id| Waiting { due_ms: NOW - 1, id, seq: id };
    (0..2).for_each(|id| agenda.stand(waiting(id), Obstacle::Full(queue), 1, NOW));
    assert_eq!(agenda.step(NOW, 1), Step::Wait(NEVER_MS));
    (10..14).for_each(|id| agenda.again(waiting(id)));
    for id in [10, 12] {
        assert!(agenda.has_room(queue));
        assert_eq!(agenda.step(NOW, 1), Step::GoOn(queue));
        assert!(agenda.has_room(queue), "there is room for more");
        assert_eq!(agenda.step(NOW, 1), Step::HandOver(vec![waiting(id)]));
        assert_eq!(agenda.step(NOW, 1), Step::GoOn(queue));
        assert_eq!(agenda.step(NOW, 1), Step::HandOver(vec![waiting(id + 1)]));
    }
    assert_eq!(agenda.noted(), 2);
    agenda.review_lines(2, NOW + 2_000);
    assert_eq!(agenda.step(NOW, 9), Step::HandOver(vec![waiting(0), waiting(1)]));
}
