//! What each bad setting is answered with, and that the layers override each other in order.

use std::ffi::OsString;
use std::path::Path;

use posthouse_storage::wal::WalOptions;

use super::*;

const MACHINE: Machine = Machine { memory: 10 << 30 };

fn load_all(file: Option<&str>, env: &[(&str, &str)], flags: Vec<Flag>) -> Result<Loaded, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = file.map(|text| {
        let path = dir.path().join("p.toml");
        std::fs::write(&path, text).unwrap();
        path
    });
    let env = env.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    load(path.as_deref(), env, flags, MACHINE)
}

fn refusal_of_file(text: &str) -> String {
    layers::from_text(Path::new("p.toml"), text)
        .and_then(|given| {
            let mut settings = Settings::new(MACHINE);
            given.into_iter().try_for_each(|one| {
                let field = &FIELDS[one.field];
                (field.set)(&mut settings, &one.value).map_err(|expected| ConfigError::Value {
                    origin: one.origin,
                    setting: field.name(),
                    expected,
                    got: one.value.to_string(),
                })
            })
        })
        .expect_err("must be refused")
        .to_string()
}

#[test]
fn bad_files_are_told_file_line_key_and_expectation() {
    for (text, expected) in [
        ("[amqp]\n\nframe_mx = 1", "p.toml:3: amqp.frame_mx is not a setting, the nearest is amqp.frame_max"),
        ("[amqq]\nframe_max = 1", "p.toml:1: amqq is not a setting, the nearest is section [amqp]"),
        (
            "data_dir = \"x\"",
            "p.toml:1: data_dir is not a setting, the nearest is data_dir in section [server]",
        ),
        ("log = 3", "p.toml:1: log is not a setting, the nearest is section [log]"),
        (
            "[amqp]\nframe_max = 1",
            "p.toml:2: amqp.frame_max: expected a whole number from 4096 to 16777216, got \"1\"",
        ),
        (
            "[amqp]\nframe_max = [1]",
            "p.toml:2: amqp.frame_max: expected a whole number from 4096 to 16777216, got [\"1\"]",
        ),
        (
            "[amqp]\nheartbeat = 60",
            "p.toml:2: amqp.heartbeat: expected a duration from 0s to 65535s, like \"10s\" or \"500ms\", got \"60\"",
        ),
        (
            "[amqp]\nheartbeat = \"1500ms\"",
            "p.toml:2: amqp.heartbeat: expected whole seconds, like \"60s\", got \"1500ms\"",
        ),
        (
            "[amqp]\nlisteners = [\"localhost\"]",
            "p.toml:2: amqp.listeners: expected IP:PORT like \"127.0.0.1:5672\" or \"[::]:5672\", got [\"localhost\"]",
        ),
        (
            "[amqp]\nlisteners = []",
            "p.toml:2: amqp.listeners: expected IP:PORT like \"127.0.0.1:5672\" or \"[::]:5672\", got []",
        ),
        (
            "[log]\nfile_size = \"64 megs\"",
            "p.toml:2: log.file_size: expected a size from 1MiB to 2GiB, like \"64MiB\", got \"64 megs\"",
        ),
        (
            "[log]\nfile_size = \"4GiB\"",
            "p.toml:2: log.file_size: expected a size from 1MiB to 2GiB, like \"64MiB\", got \"4GiB\"",
        ),
        (
            "[log]\nfile_size = 5000000",
            "p.toml:2: log.file_size: expected a multiple of 4KiB, like \"64MiB\", got \"5000000\"",
        ),
        ("[log]\nfiles = 64", "p.toml:2: log.files: expected a whole number from 4 to 63, got \"64\""),
        (
            "[memory]\nbudget = \"140%\"",
            "p.toml:2: memory.budget: expected a share of memory like \"40%\" or a size like \"2GiB\", at least 16MiB, \
             got \"140%\"",
        ),
        (
            "[server]\nstorage = \"ram\"",
            "p.toml:2: server.storage: expected \"log\" or \"memory\", got \"ram\"",
        ),
        ("[server]\ndata_dir = \"\"", "p.toml:2: server.data_dir: expected a directory, got \"\""),
        (
            "[server]\ndata_dir = 1.5",
            "p.toml:2: server.data_dir: expected a string, an integer or a list of strings, got float",
        ),
        (
            "[logging]\nfilter = \"a=b=c\"",
            "p.toml:2: logging.filter: expected log directives like \"info\" or \"warn,posthouse_node=debug\", \
             got \"a=b=c\"",
        ),
    ] {
        assert_eq!(refusal_of_file(text), expected, "{text}");
    }
}

#[test]
fn what_is_not_toml_is_told_its_line() {
    let text = refusal_of_file("[amqp]\nframe_max 4096\n");
    assert!(text.starts_with("p.toml:2: expected TOML: ") && !text.contains('\n'), "{text}");
    let missing = load(Some(Path::new("/nonexistent/p.toml")), std::iter::empty(), Vec::new(), MACHINE);
    let text = missing.expect_err("must be refused").to_string();
    assert_eq!(text, "configuration file /nonexistent/p.toml: No such file or directory (os error 2)");
}

#[test]
fn bad_variables_and_flags_are_named_as_they_were_given() {
    for (name, value, expected) in [
        (
            "POSTHOUSE__AMQP__FRAME_MX",
            "1",
            "env POSTHOUSE__AMQP__FRAME_MX: POSTHOUSE__AMQP__FRAME_MX is not a setting, the nearest is \
             POSTHOUSE__AMQP__FRAME_MAX",
        ),
        (
            "POSTHOUSE__FOO",
            "1",
            "env POSTHOUSE__FOO: POSTHOUSE__FOO is not a setting, the nearest is POSTHOUSE__LOG__FILES",
        ),
        (
            "POSTHOUSE__DISK__FREE_LIMIT",
            "lots",
            "env POSTHOUSE__DISK__FREE_LIMIT: disk.free_limit: expected a size from 0B to 1024TiB, like \"64MiB\", \
             got \"lots\"",
        ),
        (
            "POSTHOUSE__AUTH__DEFAULT_PASS",
            "",
            "env POSTHOUSE__AUTH__DEFAULT_PASS: auth.default_pass: expected a password, got something else",
        ),
    ] {
        let error = load_all(None, &[(name, value)], Vec::new()).expect_err("must be refused");
        assert_eq!(error.to_string(), expected);
    }
    let flag = Flag { flag: "--amqp", section: "amqp", key: "listeners", values: vec!["5672".into()] };
    assert_eq!(
        load_all(None, &[], vec![flag]).expect_err("must be refused").to_string(),
        "--amqp: amqp.listeners: expected IP:PORT like \"127.0.0.1:5672\" or \"[::]:5672\", got \"5672\""
    );
}

#[test]
fn the_log_takes_whatever_the_settings_allow() {
    for (files, file_size) in [("4", "1MiB"), ("63", "2GiB")] {
        let env = [("POSTHOUSE__LOG__FILES", files), ("POSTHOUSE__LOG__FILE_SIZE", file_size)];
        let log = load_all(None, &env, Vec::new()).unwrap().settings.log;
        let (ring_files, file_bytes) = (usize::from(log.files), log.file_size);
        WalOptions { ring_files, file_bytes, ..WalOptions::default() }.check().unwrap();
    }
}

#[test]
fn each_layer_overrides_the_one_below() {
    let file = "[amqp]\nchannel_max = 1\nframe_max = 5000\nlisteners = [\"1.1.1.1:1\"]";
    let env = [
        ("POSTHOUSE__AMQP__FRAME_MAX", "6000"),
        ("POSTHOUSE__AMQP__LISTENERS", "1.1.1.1:2, [::1]:3"),
        ("HOME", "/root"),
        ("POSTHOUSE_OTHER", "x"),
    ];
    let flag =
        || Flag { flag: "--amqp", section: "amqp", key: "listeners", values: vec!["1.1.1.1:4".into()] };
    let settings = load_all(Some(file), &env, Vec::new()).unwrap().settings;
    let ports = |settings: &Settings| settings.amqp.listeners.iter().map(|l| l.port()).collect::<Vec<_>>();
    assert_eq!((settings.amqp.channel_max, settings.amqp.frame_max, ports(&settings)), (1, 6000, vec![2, 3]));
    let settings = load_all(Some(file), &env, vec![flag()]).unwrap().settings;
    assert_eq!(ports(&settings), [4]);
}

#[test]
fn the_printed_settings_read_back_to_themselves() {
    let file = "[auth]\nanonymous_user = \"none\"\nloopback_users = []\n[memory]\nbudget = \"1GiB\"\n[amqp]\nheartbeat = \"0s\"";
    let flag =
        Flag { flag: "--data-dir", section: "server", key: "data_dir", values: vec!["a \"b\" \\c".into()] };
    let loaded = load_all(Some(file), &[("POSTHOUSE__LOG__FILES", "5")], vec![flag]).unwrap();
    let text = loaded.to_toml();
    let again = load_all(Some(&text), &[], Vec::new()).unwrap();
    assert_eq!(loaded.settings, again.settings, "{text}");
    assert_eq!(again.settings.auth.anonymous_user, None);
    let origin = |key: &str| {
        let line = text.lines().find(|line| line.starts_with(key)).unwrap();
        line.split(" # ").last().unwrap().split(';').next().unwrap().to_owned()
    };
    assert_eq!(origin("files"), "env POSTHOUSE__LOG__FILES");
    assert_eq!(origin("data_dir"), "--data-dir");
    assert_eq!(origin("frame_max"), "default");
    assert!(origin("budget").ends_with("p.toml:5"), "{text}");
    assert!(loaded.is_set("server", "data_dir") && !loaded.is_set("amqp", "max_connections"));
    let set = load_all(None, &[("POSTHOUSE__AMQP__MAX_CONNECTIONS", "65536")], Vec::new()).unwrap();
    assert!(set.is_set("amqp", "max_connections"));
}

#[test]
fn a_password_is_not_printed() {
    let text = load_all(Some("[auth]\ndefault_pass = \"s3cret\""), &[], Vec::new()).unwrap().to_toml();
    assert!(!text.contains("s3cret") && text.contains("# default_pass is set and not shown"), "{text}");
}

#[test]
fn shares_of_memory_become_bytes() {
    let memory = load_all(Some("[memory]\nwatermark = \"2GiB\""), &[], Vec::new()).unwrap().settings.memory;
    assert_eq!((memory.budget_bytes(), memory.watermark_bytes()), ((10u64 << 30) / 100 * 40, 2 << 30));
}
