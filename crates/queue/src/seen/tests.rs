//! Values seen within a window, compared with a list.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const FOREVER: SeenWindow = SeenWindow { size: 3, ttl_ms: None };

fn seen(value: u128) -> Seen {
    Seen { value, ttl_ms: None }
}

fn enter(values: &mut SeenValues, value: u128, window: SeenWindow, now_ms: u64) -> bool {
    let stamp = values.enter(seen(value), window, now_ms);
    stamp.inspect(|&stamp| values.arrived(value, stamp)).is_some()
}

/// One whose message the log gets, too, which is on disk at once.
fn log(values: &mut SeenValues, value: u128, window: SeenWindow, now_ms: u64) -> Option<Note> {
    let stamp = values.enter(seen(value), window, now_ms)?;
    let note = values.log([(value, stamp)]);
    values.logged(1, 1);
    note
}

/// After a restart that found these notes.
fn again(notes: &[Note], window: SeenWindow, now_ms: u64) -> SeenValues {
    let mut values = SeenValues::default();
    let notes = notes.iter().map(|note| (&note.key[..], &note.value[..]));
    assert_eq!(values.remember(notes, window, now_ms), 0);
    values
}

#[test]
fn the_oldest_make_room() {
    let mut values = SeenValues::default();
    for value in [1, 2, 3] {
        assert!(enter(&mut values, value, FOREVER, 0));
        assert!(!enter(&mut values, 1, FOREVER, u64::MAX - 1));
    }
    assert!(enter(&mut values, 4, FOREVER, 0));
    assert_eq!(values.len(), 3);
    assert!(enter(&mut values, 1, FOREVER, 0), "it made room");
    assert!(!enter(&mut values, 3, FOREVER, 0));
}

#[test]
fn a_value_is_new_when_its_time_is_over() {
    let window = SeenWindow { size: 9, ttl_ms: Some(100) };
    let mut values = SeenValues::default();
    assert!(enter(&mut values, 1, window, 0));
    assert!(!enter(&mut values, 1, window, 99), "which does not prolong it");
    assert!(enter(&mut values, 1, window, 100));
    assert!(values.enter(Seen { value: 2, ttl_ms: Some(5) }, window, 100).is_some());
    assert!(enter(&mut values, 2, window, 105), "the message's word goes first");
    assert!(enter(&mut values, 3, window, 300));
    assert_eq!((values.len(), values.order.len()), (1, 1), "the others are gone");
}

#[test]
fn what_is_forgotten_is_new() {
    let mut values = SeenValues::default();
    let one = Seen { value: 1, ttl_ms: Some(10) };
    let first = values.enter(one, FOREVER, 0).unwrap();
    let second = values.enter(one, FOREVER, 10).unwrap();
    values.forget(1, first);
    assert_eq!(values.enter(one, FOREVER, 11), None, "the second one was not forgotten");
    values.arrived(1, first);
    assert_eq!(values.on_its_way(1), Some(second), "another one has arrived");
    values.arrived(1, second);
    assert_eq!(values.on_its_way(1), None);
    values.forget(1, second);
    assert!(values.is_empty());
    assert!(values.enter(one, FOREVER, 11).is_some());
}

#[test]
fn a_checkpoint_has_what_the_log_has_on_disk() {
    let window = SeenWindow { size: 9, ttl_ms: None };
    let mut values = SeenValues::default();
    let stamps = [1, 2, 3, 4].map(|value| (value, values.enter(seen(value), window, 0).unwrap()));
    // The last one is in memory, and what is on its way is nobody's business.
    values.arrived(4, stamps[3].1);
    let mut found = vec![values.log(stamps[1..2].to_vec()).unwrap()];
    assert_eq!(values.notes(u64::MAX - 1, 0), [], "it is not known yet where it is");
    values.logged(10, 5);
    found.push(values.log(stamps[..1].to_vec()).unwrap());
    values.logged(20, 5);
    assert_eq!(values.notes(9, 0), []);
    let known = |values: &SeenValues| [1, 2, 3, 4].map(|value| values.is_known(value, 0));
    assert_eq!(known(&again(&values.notes(10, 0), window, 0)), [false, true, false, false]);
    assert_eq!(known(&again(&values.notes(20, 0), window, 0)), [true, true, false, false]);
    // What a crash leaves of the log comes on top, in the order in which it was logged.
    found.extend(values.notes(10, 0));
    let mut values = again(&found, SeenWindow { size: 2, ttl_ms: None }, 0);
    assert!(enter(&mut values, 9, SeenWindow { size: 2, ttl_ms: None }, 0));
    assert_eq!(known(&values), [true, false, false, false]);
}

#[test]
fn what_had_made_room_does_not_come_back_from_the_log() {
    let mut values = SeenValues::default();
    let mut found: Vec<_> = (1..=5).filter_map(|value| log(&mut values, value, FOREVER, 0)).collect();
    found.extend(values.notes(1, 0));
    let values = again(&found, FOREVER, 0);
    assert_eq!([1, 2, 3, 4, 5].map(|value| values.is_known(value, 0)), [false, false, true, true, true]);
}

#[test]
fn a_time_goes_on_across_a_restart() {
    let window = SeenWindow { size: 9, ttl_ms: Some(100) };
    let mut values = SeenValues::default();
    let found = [log(&mut values, 1, window, 0).unwrap(), log(&mut values, 2, window, 50).unwrap()];
    let known = |values: &SeenValues, now_ms| [1, 2].map(|value| values.is_known(value, now_ms));
    assert_eq!(known(&again(&found, window, 99), 99), [true, true]);
    assert_eq!(known(&again(&found, window, 100), 100), [false, true]);
    assert_eq!(known(&again(&values.notes(1, 60), window, 60), 60), [true, true]);
    assert_eq!(again(&values.notes(1, 149), window, 149).len(), 1);
    let unknown = [(&b"\x05"[..], &b""[..]), (b"\x01app", &[0; 8]), (b"\x05\0\0\0\0\0\0\0\0", &[0; 31])];
    assert_eq!(SeenValues::default().remember(unknown, window, 0), 3);
}

/// What is done with a value.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Forgotten,
    Here,
    Logged,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![1 => Just(Fate::Forgotten), 1 => Just(Fate::Here), 3 => Just(Fate::Logged)]
}

proptest! {
    #[test]
    fn agrees_with_a_list(ops in prop::collection::vec((0u128..12, 0u64..40, 0u64..30), 1..300)) {
        let window = SeenWindow { size: 5, ttl_ms: Some(60) };
        let (mut values, mut now_ms) = (SeenValues::default(), 0);
        let mut list: BTreeMap<Stamp, (u128, u64)> = BTreeMap::new();
        for (value, ttl_ms, pause_ms) in ops {
            now_ms += pause_ms;
            let is_known = list.values().any(|&(known, until_ms)| known == value && until_ms > now_ms);
            let own = Some(ttl_ms).filter(|&ttl_ms| ttl_ms > 0);
            let entered = values.enter(Seen { value, ttl_ms: own }, window, now_ms);
            prop_assert_eq!(entered.is_none(), is_known);
            if let Some(stamp) = entered {
                list.retain(|_, (known, _)| *known != value);
                list.insert(stamp, (value, now_ms + own.unwrap_or(60)));
                // The oldest go whose time is over, and then those that are too many.
                while list.first_key_value().is_some_and(|(_, (_, until_ms))| *until_ms <= now_ms) || list.len() > 5 {
                    list.pop_first();
                }
            }
            prop_assert_eq!(values.len(), list.len());
            prop_assert!(values.order.len() <= GONE_MAX + 2 * list.len());
        }
    }

    /// Whenever a checkpoint is made and wherever the log ends: what was logged before is known, what was logged after or
    /// in memory only is not.
    #[test]
    fn a_crash_leaves_what_the_log_has(
        ops in prop::collection::vec((0u128..12, fate(), 0u64..30), 1..100),
        checkpoint in 0usize..100,
        durable_then in 0u64..100,
        end in 0u64..100,
    ) {
        let window = SeenWindow { size: 1000, ttl_ms: Some(60) };
        let (mut values, mut now_ms) = (SeenValues::default(), 0);
        let (mut log, mut found) = (Vec::new(), Vec::new());
        // Of each value that was logged: by when it is over, and where it is in the log.
        let mut until: BTreeMap<u128, (u64, u64)> = BTreeMap::new();
        for (step, (value, fate, pause_ms)) in ops.into_iter().enumerate() {
            now_ms += pause_ms;
            let lsn = step as u64 + 1;
            if step == checkpoint {
                found = values.notes(durable_then.min(end).min(lsn - 1), now_ms);
            }
            let Some(stamp) = values.enter(seen(value), window, now_ms) else { continue };
            until.remove(&value);
            match fate {
                Fate::Forgotten => values.forget(value, stamp),
                Fate::Here => values.arrived(value, stamp),
                Fate::Logged => {
                    log.extend(values.log([(value, stamp)]).map(|note| (lsn, note)));
                    values.logged(lsn, 0);
                    until.insert(value, (now_ms + 60, lsn));
                }
            }
        }
        found.extend(log.into_iter().filter(|(lsn, _)| *lsn <= end).map(|(_, note)| note));
        let values = again(&found, window, now_ms);
        for value in 0..12 {
            let expected = until.get(&value).is_some_and(|&(until_ms, lsn)| until_ms > now_ms && lsn <= end);
            prop_assert_eq!(values.is_known(value, now_ms), expected, "{}", value);
        }
    }
}
