//! A broker that cannot start says why on one line and exits: 1 for the state of the machine, 2 for what was asked.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use posthouse_testkit::{Broker, Options, Process, TIMEOUT, program};

/// Runs `posthouse serve` with these words, which must fail with that exit code: its one line.
#[track_caller]
fn refused(words: &[&str], code: i32) -> String {
    let mut command = program();
    command.args(["serve", "--log", "error"]).args(words);
    refused_command(&mut command, code)
}

#[track_caller]
fn refused_command(command: &mut std::process::Command, code: i32) -> String {
    let mut process = Process::spawn(command);
    let status = process.wait(TIMEOUT);
    let text = process.stderr();
    assert_eq!(status.code(), Some(code), "{text}");
    assert_eq!(text.lines().count(), 1, "expected one line, got {text}");
    text.trim_end().to_owned()
}

/// The words that start a broker in `dir`.
fn in_dir(dir: &Path) -> Vec<&str> {
    vec!["--amqp", "127.0.0.1:0", "--data-dir", dir.to_str().expect("a path that is text")]
}

#[test]
fn data_directory_in_use() {
    let mut broker = Broker::start(Options::log());
    let text = refused(&in_dir(broker.data_dir()), 1);
    let (dir, pid) = (broker.data_dir().display().to_string(), broker.process().id());
    assert_eq!(text, format!("posthouse: data directory {dir} is in use by process {pid}"));
    // The first one is none the worse for it.
    broker.peer().close();
    broker.restart();
    broker.peer().close();
}

#[test]
fn data_directory_of_a_newer_format() {
    let mut broker = Broker::start(Options::log());
    broker.stop();
    fs::write(broker.data_dir().join("FORMAT"), "posthouse data directory, format 999\n").unwrap();
    let text = refused(&in_dir(broker.data_dir()), 1);
    let dir = broker.data_dir().display();
    let expected =
        format!("posthouse: data directory {dir} has format 999, this version reads formats up to ");
    assert!(text.starts_with(&expected), "{text}");
}

#[test]
fn directory_of_something_else() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.txt"), "the only copy").unwrap();
    let text = refused(&in_dir(dir.path()), 1);
    assert!(text.contains("is not a data directory") && text.contains("thesis.txt"), "{text}");
    assert_eq!(fs::read(dir.path().join("thesis.txt")).unwrap(), b"the only copy");
}

#[test]
fn directory_that_cannot_be_made() {
    // A file where a directory belongs refuses root as well, whom permissions do not hold back.
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let below = dir.path().join("file/data");
    let text = refused(&in_dir(&below), 1);
    let expected = format!("posthouse: data directory {} cannot be used: creating it: ", below.display());
    assert!(text.starts_with(&expected), "{text}");
}

#[test]
fn directory_on_a_file_system_that_takes_nothing() {
    let text = refused(&in_dir(Path::new("/proc/posthouse-data")), 1);
    assert!(text.starts_with("posthouse: data directory /proc/posthouse-data cannot be used: "), "{text}");
}

#[test]
fn port_in_use() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let text = refused(&["--storage", "memory", "--amqp", &address], 1);
    assert!(text.starts_with(&format!("posthouse: cannot listen on {address}: ")), "{text}");
}

#[test]
fn wrong_settings() {
    let with = |variable: &str, value: &str| {
        let mut command = program();
        command.args(["serve", "--storage", "memory", "--amqp", "127.0.0.1:0"]).env(variable, value);
        refused_command(&mut command, 2)
    };
    let text = with("POSTHOUSE__AMQP__FRAME_MAX", "12 parsecs");
    assert!(text.contains("FRAME_MAX") && text.contains("12 parsecs"), "{text}");
    let text = with("POSTHOUSE__AMQP__FRAEM_MAX", "131072");
    assert!(
        text.ends_with("the nearest is POSTHOUSE__AMQP__FRAME_MAX"),
        "the nearest valid key is named: {text}"
    );

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("posthouse.toml");
    fs::write(&file, "[amqp]\nframe_max = 131072\nheartbeet = \"60s\"\n").unwrap();
    let text = refused(&["--config", file.to_str().unwrap()], 2);
    for expected in ["posthouse.toml", "3", "heartbeet", "heartbeat"] {
        assert!(text.contains(expected), "expected {expected} in {text}");
    }
    let text = refused(&["--storage", "tape"], 2);
    assert!(text.contains("tape") && text.contains("memory"), "{text}");
    let text = refused(&["--no-such-flag"], 2);
    assert!(text.contains("--no-such-flag"), "{text}");
}
