//! `posthouse check`: ok on sound data, exit code 1 and the place on damage, and never a change.

use std::fs;
use std::path::{Path, PathBuf};

use posthouse_testkit::calls::persistent;
use posthouse_testkit::{Broker, Options, Publish, Queue, program};

/// A stopped broker with a few megabytes in segments, and a log that was not emptied.
fn stopped_broker(orderly: bool) -> Broker {
    let mut broker = Broker::start(Options::log().set("POSTHOUSE__MEMORY__BUDGET", "16MiB"));
    let mut peer = broker.peer();
    peer.declare(1, &Queue::durable("kept"));
    peer.select_confirms(1);
    let body = [b'x'; 10_000];
    for _ in 0..600 {
        let publish = Publish { properties: persistent(), body: &body, ..Publish::to("", "kept") };
        peer.publish_with(1, &publish);
    }
    peer.confirmed(1, 600);
    if orderly {
        broker.stop();
    } else {
        broker.kill();
    }
    broker
}

/// All files below `dir`, with their bytes.
fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.is_file() {
                // Not the control socket that a crash leaves.
                let bytes = fs::read(&path).unwrap();
                all.push((path, bytes));
            }
        }
    }
    all.sort();
    all
}

fn check(dir: &Path) -> (Option<i32>, String) {
    let output = program().arg("check").arg(dir).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code(), text + &String::from_utf8_lossy(&output.stderr))
}

#[test]
fn counts_what_is_there_and_changes_nothing() {
    for orderly in [true, false] {
        let broker = stopped_broker(orderly);
        let before = files(broker.data_dir());
        let text = broker.check();
        for expected in ["durable queues: 1\n", "messages: 600\n"] {
            assert!(text.contains(expected), "{text}");
        }
        assert_eq!(text.contains("last stop: orderly\n"), orderly, "{text}");
        assert!(files(broker.data_dir()) == before, "something was changed");
    }
}

/// Flips a bit in the middle of every file whose path has `part` in it, one at a time; each must be found.
#[track_caller]
fn damaged(broker: &Broker, part: &str, at: impl Fn(&[u8]) -> Option<usize>) {
    let mut tried = 0;
    for (path, bytes) in files(broker.data_dir()) {
        if !path.to_string_lossy().contains(part) {
            continue;
        }
        let Some(offset) = at(&bytes) else { continue };
        let mut wrong = bytes.clone();
        wrong[offset] ^= 0x10;
        fs::write(&path, &wrong).unwrap();
        let (code, text) = check(broker.data_dir());
        let name = path.file_name().unwrap().to_string_lossy();
        assert_eq!(code, Some(1), "byte {offset} of {}: {text}", path.display());
        assert!(text.contains("damage: ") && text.contains(&*name), "byte {offset} of {name}: {text}");
        fs::write(&path, &bytes).unwrap();
        tried += 1;
    }
    assert!(tried > 0, "no file has {part} in its path");
    broker.check();
}

#[test]
fn finds_a_flipped_bit_in_segments_and_checkpoints() {
    let broker = stopped_broker(true);
    // A message's body: messages fill the segments.
    damaged(&broker, "/segments/", |bytes| (bytes.len() > 100_000).then_some(50_000));
    // The middle of what its header says is the checkpoint: what lies behind is room for the next ones.
    damaged(&broker, "/checkpoint-", |bytes| {
        Some(u64::from_le_bytes(bytes[24..32].try_into().unwrap()) as usize / 2)
    });
}

#[test]
fn finds_a_flipped_bit_in_the_log() {
    let broker = stopped_broker(false);
    // Not the last batch, where damage cannot be told from a write that the crash cut short.
    let body_in_the_middle = |bytes: &[u8]| {
        let bodies: Vec<usize> = bytes
            .windows(64)
            .enumerate()
            .step_by(64)
            .filter(|(_, w)| *w == [b'x'; 64])
            .map(|(at, _)| at)
            .collect();
        (bodies.len() > 10_000).then(|| bodies[bodies.len() / 4])
    };
    let (mut found, mut tried) = (0, 0);
    for (path, bytes) in files(broker.data_dir()) {
        if !path.to_string_lossy().contains("/wal/") {
            continue;
        }
        let Some(offset) = body_in_the_middle(&bytes) else { continue };
        let mut wrong = bytes.clone();
        wrong[offset] ^= 0x10;
        fs::write(&path, &wrong).unwrap();
        let (code, text) = check(broker.data_dir());
        tried += 1;
        // A file below the checkpoint's position is waiting to be used again: nothing in it is needed.
        if code == Some(1) {
            assert!(text.contains("damage: "), "{text}");
            found += 1;
        }
        fs::write(&path, &bytes).unwrap();
    }
    assert!(found > 0, "of {tried} damaged log files none was found");
    broker.check();
}

#[test]
fn says_what_is_no_data_directory_and_what_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let (code, text) = check(dir.path());
    assert_eq!(code, Some(1));
    assert_eq!(
        text,
        format!("posthouse: {} is not a data directory: it has no FORMAT file\n", dir.path().display())
    );
    let broker = Broker::start(Options::log());
    let (code, text) = check(broker.data_dir());
    assert_eq!(code, Some(1));
    assert!(text.contains("is in use by process"), "{text}");
}
