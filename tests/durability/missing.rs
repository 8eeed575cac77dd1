//! A data directory of which a part is gone, or is older than the rest, or damaged: the broker says so on one line and
//! changes nothing, and everything is back when the part is.

use std::fs;
use std::path::PathBuf;

use posthouse_testkit::calls::persistent;
use posthouse_testkit::{Broker, Options, Peer, Process, Publish, Queue, TIMEOUT, program};

fn publish(peer: &mut Peer, queue: &str, count: u64) {
    peer.declare(1, &Queue::durable(queue));
    peer.select_confirms(1);
    for n in 0..count {
        let body = n.to_string();
        let publish = Publish { properties: persistent(), body: body.as_bytes(), ..Publish::to("", queue) };
        peer.publish_with(1, &publish);
    }
    peer.confirmed(1, count);
}

/// A broker that was stopped in good order twice and has ten messages.
fn stopped() -> Broker {
    let mut broker = Broker::start(Options::log());
    publish(&mut broker.peer(), "kept", 10);
    broker.stop();
    broker.start_again();
    broker.stop();
    broker
}

/// What `posthouse serve` says, on one line, before it exits with code 1.
#[track_caller]
fn refusal(broker: &Broker, set: &[(&str, &str)]) -> String {
    let dir = broker.data_dir().to_str().unwrap();
    let mut command = program();
    command.args(["serve", "--log", "error", "--amqp", "127.0.0.1:0", "--data-dir", dir]);
    command.envs(set.iter().copied());
    let mut process = Process::spawn(&mut command);
    let status = process.wait(TIMEOUT);
    let text = process.stderr();
    assert_eq!(status.code(), Some(1), "{text}");
    assert_eq!(text.lines().count(), 1, "expected one line, got {text}");
    text.trim_end().to_owned()
}

/// What `posthouse check` prints as damage, with exit code 1.
#[track_caller]
fn damages(broker: &Broker) -> Vec<String> {
    let output = program().arg("check").arg(broker.data_dir()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(output.stderr, b"", "nothing but what is printed");
    text.lines().filter_map(|line| line.strip_prefix("damage: ")).map(str::to_owned).collect()
}

/// Moves every file below the data directory whose name begins so out of the way; where they are now.
fn take_away(broker: &Broker, dir: &str, begins: &str) -> Vec<(PathBuf, PathBuf)> {
    let aside = broker.data_dir().with_extension("aside");
    fs::create_dir_all(&aside).unwrap();
    let mut moved = Vec::new();
    for entry in fs::read_dir(broker.data_dir().join(dir)).unwrap() {
        let from = entry.unwrap().path();
        let name = from.file_name().unwrap().to_str().unwrap().to_owned();
        if from.is_file() && name.starts_with(begins) {
            let to = aside.join(name);
            fs::rename(&from, &to).unwrap();
            moved.push((from, to));
        }
    }
    assert!(!moved.is_empty());
    moved
}

#[track_caller]
fn everything_is_there(broker: &mut Broker) {
    broker.check();
    broker.start_again();
    assert_eq!(broker.peer().drain(1, "kept").len(), 10);
}

#[test]
fn each_missing_part_is_named() {
    let mut broker = stopped();
    for (dir, begins, missing) in [
        (".", "meta.redb", "meta.redb"),
        (".", "checkpoint-", "the checkpoint that the log goes on from"),
        ("wal", "", "the log in wal"),
        ("segments", "", "everything in segments"),
    ] {
        let moved = take_away(&broker, dir, begins);
        let expected = format!(
            "data directory {} is incomplete: {missing} is missing, found ",
            broker.data_dir().display()
        );
        let text = refusal(&broker, &[]);
        assert!(text.starts_with(&format!("posthouse: {expected}")), "{text}");
        let damages = damages(&broker);
        assert!(damages.iter().any(|damage| damage.starts_with(&expected)), "{damages:?}");
        for (from, to) in moved {
            fs::rename(to, from).unwrap();
        }
    }
    everything_is_there(&mut broker);
}

#[test]
fn definitions_older_than_the_messages() {
    let mut broker = stopped();
    let meta = broker.data_dir().join("meta.redb");
    let (old, new) = (meta.with_extension("old"), meta.with_extension("new"));
    fs::copy(&meta, &old).unwrap();
    broker.start_again();
    publish(&mut broker.peer(), "newer", 7);
    broker.stop();
    fs::copy(&meta, &new).unwrap();
    fs::copy(&old, &meta).unwrap();
    let text = refusal(&broker, &[]);
    let expected =
        "meta.redb does not belong to the messages: 7 messages are in 1 queues that it does not define";
    assert!(text.contains(expected), "{text}");
    assert_eq!(
        damages(&broker),
        ["meta.redb does not define the queues of 7 messages, after an orderly stop"]
    );
    // A second refusal: the first one has not made the stop an unclean one.
    refusal(&broker, &[("POSTHOUSE__SERVER__UNDEFINED_QUEUES", "refuse")]);
    fs::copy(&new, &meta).unwrap();
    broker.check();
    broker.start_again();
    assert_eq!(broker.peer().drain(1, "newer").len(), 7);
    publish(&mut broker.peer(), "newer", 7);
    broker.stop();
    // Whoever has only the older one may say so.
    fs::copy(&old, &meta).unwrap();
    broker.start_again_with(Options::log().set("POSTHOUSE__SERVER__UNDEFINED_QUEUES", "discard"));
    broker.stop();
    everything_is_there(&mut broker);
}

#[test]
fn damaged_definitions() {
    let mut broker = stopped();
    let meta = broker.data_dir().join("meta.redb");
    let sound = fs::read(&meta).unwrap();
    let mut found = 0;
    let mut wrong_at = |what: &str, wrong: Vec<u8>, must: bool| {
        fs::write(&meta, wrong).unwrap();
        let output = program().arg("check").arg(broker.data_dir()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(stderr, "", "{what}");
        if must || !output.status.success() {
            let text = refusal(&broker, &[]);
            assert!(
                text.starts_with(&format!("posthouse: metadata store {}: ", meta.display())),
                "{what}: {text}"
            );
            assert!(!damages(&broker).is_empty());
            found += 1;
        }
    };
    for at in [0, 9, 16, 64, 4096, sound.len() / 2] {
        let mut wrong = sound.clone();
        wrong[at..].iter_mut().take(4096).for_each(|byte| *byte ^= 0x5a);
        wrong_at(&format!("4 KiB from {at}"), wrong, false);
    }
    wrong_at("cut short", sound[..sound.len() / 2].to_vec(), true);
    wrong_at("something else", b"[amqp]\nlisteners = []\n".to_vec(), true);
    assert!(found > 5, "{found}");
    fs::write(&meta, &sound).unwrap();
    everything_is_there(&mut broker);
}

#[test]
fn a_directory_that_was_only_just_made_is_no_loss() {
    let mut broker = Broker::start(Options::log());
    broker.kill();
    fs::remove_file(broker.data_dir().join("meta.redb")).unwrap();
    broker.check();
    broker.start_again();
    broker.peer().close();
}
