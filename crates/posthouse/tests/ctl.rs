//! `posthouse ctl` against a running broker, with AMQP clients that feel what it does.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use posthouse_amqp::blocking::{BlockingClient, ClientError};
use posthouse_amqp::client::OpenError;
use posthouse_amqp::event::Event;
use posthouse_amqp::method::Method;
use posthouse_amqp::uri::AmqpUri;
use posthouse_model::field::{FieldTable, FieldValue};
use posthouse_model::props::Properties;

const PATIENCE: Duration = Duration::from_secs(20);

struct Broker {
    child: Child,
    port: u16,
    data_dir: std::path::PathBuf,
}

impl Broker {
    fn start(data_dir: &Path) -> Self {
        Self::start_with(data_dir, "none")
    }

    /// Starts one that imports a file of definitions.
    fn start_with(data_dir: &Path, definitions: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_posthouse"))
            .args(["serve", "--amqp", "127.0.0.1:0", "--log", "warn", "--data-dir"])
            .arg(data_dir)
            .env("POSTHOUSE__SERVER__LOAD_DEFINITIONS", definitions)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim_end().rsplit_once(':').expect(&line).1.parse().unwrap();
        Self { child, port, data_dir: data_dir.to_owned() }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_posthouse"));
        command.args(["ctl", "-q", "--data-dir"]).arg(&self.data_dir);
        command
    }

    fn ctl(&self, words: &[&str]) -> Output {
        self.command().args(words).output().unwrap()
    }

    /// What a command that must succeed prints.
    fn ok(&self, words: &[&str]) -> String {
        let output = self.ctl(words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Exit code and message of one that must fail.
    fn fails(&self, words: &[&str]) -> (i32, String) {
        let output = self.ctl(words);
        let text = String::from_utf8(output.stderr).unwrap();
        (output.status.code().unwrap(), text.trim_start_matches("posthouse: ctl: ").trim_end().to_owned())
    }

    fn uri(&self, user: &str, vhost: &str) -> AmqpUri {
        AmqpUri {
            host: "127.0.0.1".into(),
            port: self.port,
            user: user.into(),
            password: if user == "guest" { "guest".into() } else { "pw".into() },
            vhost: vhost.into(),
        }
    }

    fn connect(&self, user: &str) -> BlockingClient {
        BlockingClient::connect(&self.uri(user, "/"), PATIENCE).unwrap()
    }

    fn stop(mut self) {
        self.ok(&["stop"]);
        assert!(self.child.wait().unwrap().success());
        assert!(!self.data_dir.join("control.sock").exists());
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Gone already after a stop.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn declare(queue: &str) -> Method<'_> {
    Method::QueueDeclare {
        queue,
        passive: false,
        durable: true,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments: FieldTable::default(),
    }
}

fn declare_exchange(exchange: &str) -> Method<'_> {
    Method::ExchangeDeclare {
        exchange,
        exchange_type: "fanout",
        passive: false,
        durable: true,
        auto_delete: false,
        internal: false,
        nowait: false,
        arguments: FieldTable::default(),
    }
}

fn passive(queue: &str) -> Method<'_> {
    match declare(queue) {
        Method::QueueDeclare { queue, durable, exclusive, auto_delete, nowait, arguments, .. } => {
            Method::QueueDeclare { queue, passive: true, durable, exclusive, auto_delete, nowait, arguments }
        }
        other => other,
    }
}

fn bind<'a>(queue: &'a str, exchange: &'a str) -> Method<'a> {
    Method::QueueBind { queue, exchange, routing_key: "", nowait: false, arguments: FieldTable::default() }
}

fn bind_exchange<'a>(destination: &'a str, source: &'a str) -> Method<'a> {
    Method::ExchangeBind {
        destination,
        source,
        routing_key: "",
        nowait: false,
        arguments: FieldTable::default(),
    }
}

fn consume(queue: &str) -> Method<'_> {
    Method::BasicConsume {
        queue,
        consumer_tag: "",
        no_local: false,
        no_ack: true,
        exclusive: false,
        nowait: false,
        arguments: FieldTable::default(),
    }
}

/// The text with which the broker closes the channel, or nothing.
fn outcome(client: &mut BlockingClient, channel: u16, method: &Method<'_>) -> Option<String> {
    client.open_channel(channel).unwrap();
    match client.call(channel, method) {
        Ok(_) => None,
        Err(ClientError::ChannelClosed { close, .. }) => {
            assert_eq!(close.reply_code, 403);
            Some(close.reply_text)
        }
        Err(other) => panic!("{method:?}: {other}"),
    }
}

fn refused(permission: &str, what: &str) -> Option<String> {
    Some(format!("ACCESS_REFUSED - {permission} access to {what} in vhost '/' refused for user 'bob'"))
}

#[test]
fn permissions_cover_what_rabbitmqs_cover() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(&dir.path().join("data"));
    broker.ok(&["add_user", "bob", "pw"]);
    let refusal = BlockingClient::connect(&broker.uri("bob", "/"), PATIENCE).err();
    match refusal {
        Some(ClientError::Open(OpenError::Closed(close))) => {
            assert_eq!(close.reply_code, 530);
            assert_eq!(close.reply_text, "NOT_ALLOWED - access to vhost '/' refused for user 'bob'");
        }
        other => panic!("expected 530, got {other:?}"),
    }
    let mut guest = broker.connect("guest");
    for (number, queue) in (1..).zip(["c", "w", "r", "wr"]) {
        assert_eq!(outcome(&mut guest, number, &declare(queue)), None);
        assert_eq!(outcome(&mut guest, number + 10, &declare_exchange(&format!("x{queue}"))), None);
    }
    broker.ok(&["set_permissions", "bob", "c", "w", "r"]);
    let mut bob = broker.connect("bob");
    let mut channel = 0;
    let mut check = |method: &Method<'_>, expected: Option<String>| {
        channel += 1;
        assert_eq!(outcome(&mut bob, channel, method), expected, "{method:?}");
    };
    check(&declare("c2"), None);
    check(&declare("new"), refused("configure", "queue 'new'"));
    check(&declare_exchange("xc2"), None);
    check(&declare_exchange("xnew"), refused("configure", "exchange 'xnew'"));
    let delete = |queue| Method::QueueDelete { queue, if_unused: false, if_empty: false, nowait: false };
    check(&delete("c2"), None);
    check(&delete("w"), refused("configure", "queue 'w'"));
    let delete = |exchange| Method::ExchangeDelete { exchange, if_unused: false, nowait: false };
    check(&delete("xc2"), None);
    check(&delete("xw"), refused("configure", "exchange 'xw'"));
    check(&bind("w", "xr"), None);
    check(&bind("r", "xr"), refused("write", "queue 'r'"));
    check(&bind("w", "xw"), refused("read", "exchange 'xw'"));
    check(&bind_exchange("xw", "xr"), None);
    check(&bind_exchange("xr", "xr"), refused("write", "exchange 'xr'"));
    check(&bind_exchange("xw", "xw"), refused("read", "exchange 'xw'"));
    check(&consume("r"), None);
    check(&consume("w"), refused("read", "queue 'w'"));
    check(&Method::QueuePurge { queue: "r", nowait: false }, None);
    check(&Method::QueuePurge { queue: "w", nowait: false }, refused("read", "queue 'w'"));
    check(&Method::BasicGet { queue: "w", no_ack: true }, refused("read", "queue 'w'"));
    for seen in ["c", "w", "r"] {
        check(&passive(seen), None);
    }
    check(&passive("nil"), refused("configure", "queue 'nil'"));
    assert_eq!(publish_outcome(&mut bob, 100, "xw"), None);
    assert_eq!(publish_outcome(&mut bob, 101, "xr"), refused("write", "exchange 'xr'"));
    assert_eq!(publish_outcome(&mut bob, 102, ""), refused("write", "exchange 'amq.default'"));
    // An open connection feels what changes.
    broker.ok(&["set_permissions", "bob", "", "x|^amq\\.default$", ""]);
    assert_eq!(publish_outcome(&mut bob, 103, ""), None);
    assert_eq!(outcome(&mut bob, 104, &declare("c")), refused("configure", "queue 'c'"));
    broker.ok(&["clear_permissions", "bob"]);
    assert_eq!(publish_outcome(&mut bob, 105, ""), refused("write", "exchange 'amq.default'"));
    broker.stop();
}

/// The text with which the broker closes the channel after a publish, or nothing when it confirms it.
fn publish_outcome(client: &mut BlockingClient, channel: u16, exchange: &str) -> Option<String> {
    client.open_channel(channel).unwrap();
    client.call(channel, &Method::ConfirmSelect { nowait: false }).unwrap();
    client.publish(channel, (exchange, ""), false, &Properties::default(), b"m").unwrap();
    match client.next_event(PATIENCE).unwrap() {
        Some(Event::Ack { channel: on, .. }) if on == channel => None,
        Some(Event::ChannelClosed { channel: on, close }) if on == channel => Some(close.reply_text),
        other => panic!("expected a confirm or a refusal, got {other:?}"),
    }
}

#[test]
fn what_is_done_is_felt_shown_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let broker = Broker::start(&data_dir);
    let mut added = broker.command().args(["add_user", "bob"]).stdin(Stdio::piped()).spawn().unwrap();
    added.stdin.take().unwrap().write_all(b"pw\n").unwrap();
    assert!(added.wait().unwrap().success());
    broker.ok(&["set_user_tags", "bob", "administrator", "monitoring"]);
    broker.ok(&["add_vhost", "v"]);
    broker.ok(&["set_permissions", "-p", "/", "bob", ".*", ".*", ".*"]);
    broker.ok(&["set_permissions", "-p", "v", "bob", ".*", ".*", ".*"]);
    let mut bob = broker.connect("bob");
    assert_eq!(outcome(&mut bob, 1, &declare("q")), None);
    assert_eq!(publish_outcome(&mut bob, 2, ""), None);
    assert_eq!(
        broker.ok(&["list_queues", "name", "messages", "durable"]),
        "name\tmessages\tdurable\nq\t0\ttrue\n"
    );
    let properties = Properties { delivery_mode: Some(2), ..Properties::default() };
    bob.publish(2, ("", "q"), false, &properties, b"m").unwrap();
    assert!(matches!(bob.next_event(PATIENCE).unwrap(), Some(Event::Ack { .. })));
    assert_eq!(broker.ok(&["list_queues", "-s", "messages_ready", "name"]), "1\tq\n");
    assert_eq!(broker.ok(&["list_connections", "-s", "user", "channels", "vhost"]), "bob\t2\t/\n");
    let status: serde_json::Value =
        serde_json::from_str(&broker.ok(&["status", "--formatter=json"])).unwrap();
    assert_eq!((&status["connections"], &status["messages_ready"]), (&1.into(), &1.into()));
    assert_eq!(broker.fails(&["delete_user", "eve"]), (1, "user 'eve' does not exist".into()));
    assert_eq!(broker.fails(&["list_users", "-p", "/"]).0, 2);
    let mut inside = BlockingClient::connect(&broker.uri("bob", "v"), PATIENCE).unwrap();
    broker.ok(&["delete_vhost", "v"]);
    assert_eq!(closed(&mut inside), "320 CONNECTION_FORCED - vhost 'v' is deleted");
    broker.ok(&["close_all_connections", "maintenance"]);
    assert_eq!(closed(&mut bob), "320 CONNECTION_FORCED - maintenance");
    let mut guest = broker.connect("guest");
    broker.ok(&["delete_user", "guest"]);
    assert_eq!(closed(&mut guest), "320 CONNECTION_FORCED - user 'guest' is deleted");
    broker.stop();

    let broker = Broker::start(&data_dir);
    assert_eq!(broker.ok(&["list_users", "-s"]), "bob\t[administrator, monitoring]\n");
    assert_eq!(broker.ok(&["list_vhosts", "-s"]), "/\n");
    assert_eq!(broker.ok(&["list_queues", "-s"]), "q\t1\n");
    assert_eq!(broker.ok(&["browse_queue", "q", "-s", "position", "redelivered"]), "0\tfalse\n");
    assert_eq!(broker.ok(&["browse_queue", "q", "-s", "--filter", "routing_key=other"]), "");
    assert_eq!(broker.ok(&["browse_queue", "q", "-s", "--skip=1"]), "");
    let (code, text) = broker.fails(&["browse_queue", "q", "--count", "0"]);
    assert_eq!((code, text.as_str()), (2, "count: expected 1 to 1000, got 0"));
    let (code, text) = broker.fails(&["browse_queue", "q", "--filter", "nosuch=1"]);
    assert!(code == 2 && text.starts_with("filter: expected exchange, routing_key"), "{text}");
    assert_eq!(broker.fails(&["browse_queue", "x"]), (1, "no queue 'x' in vhost '/'".into()));
    assert_eq!(broker.ok(&["list_queues", "-s"]), "q\t1\n", "browsing takes nothing");
    broker.ok(&["purge_queue", "q"]);
    assert_eq!(broker.ok(&["list_queues", "-s"]), "q\t0\n");
    broker.ok(&["delete_queue", "q"]);
    assert_eq!(broker.ok(&["list_queues"]), "");
    broker.stop();
    let output = Command::new(env!("CARGO_BIN_EXE_posthouse"))
        .args(["ctl", "ping", "--data-dir"])
        .arg(&data_dir)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "no broker runs");
}

/// The rows of a listing with these columns.
fn listed(broker: &Broker, command: &str, columns: &str) -> Vec<serde_json::Value> {
    serde_json::from_str(&broker.ok(&[command, "--formatter=json", "--columns", columns])).unwrap()
}

fn qos(prefetch_count: u16, global: bool) -> Method<'static> {
    Method::BasicQos { prefetch_size: 0, prefetch_count, global }
}

#[test]
fn channels_show_what_they_hold() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(&dir.path().join("data"));
    let mut guest = broker.connect("guest");
    guest.open_channel(1).unwrap();
    guest.call(1, &declare("q")).unwrap();
    guest.call(1, &Method::ConfirmSelect { nowait: false }).unwrap();
    for tag in 1..=4 {
        guest.publish(1, ("", "q"), false, &Properties::default(), b"m").unwrap();
        assert!(
            matches!(guest.next_event(PATIENCE).unwrap(), Some(Event::Ack { delivery_tag, .. }) if delivery_tag == tag)
        );
    }
    guest.open_channel(2).unwrap();
    guest.call(2, &qos(2, false)).unwrap();
    let consume = Method::BasicConsume {
        queue: "q",
        consumer_tag: "t",
        no_local: false,
        no_ack: false,
        exclusive: true,
        nowait: false,
        arguments: FieldTable(vec![("x-priority".into(), FieldValue::I32(7))]),
    };
    guest.call(2, &consume).unwrap();
    for _ in 0..2 {
        assert!(matches!(guest.next_event(PATIENCE).unwrap(), Some(Event::Delivery(_))));
    }
    guest.open_channel(7).unwrap();
    guest.call(7, &Method::TxSelect {}).unwrap();
    for _ in 0..2 {
        assert!(guest.get(7, "q", false).unwrap().is_some());
    }
    guest.publish(7, ("", "q"), false, &Properties::default(), b"m").unwrap();
    guest.send(7, &Method::BasicAck { delivery_tag: 1, multiple: false }).unwrap();
    guest.call(7, &qos(9, true)).unwrap();

    let connection = &listed(&broker, "list_connections", "pid,name")[0];
    let (pid, name) = (connection["pid"].as_u64().unwrap(), connection["name"].as_str().unwrap());
    let channel = |number: u16, held: serde_json::Value| {
        let mut row = serde_json::json!({
            "pid": format!("{pid}.{number}"), "connection": pid, "name": format!("{name} ({number})"),
            "number": number, "user": "guest", "vhost": "/", "transactional": false, "confirm": false,
            "consumer_count": 0, "messages_unacknowledged": 0, "messages_uncommitted": 0,
            "acks_uncommitted": 0, "messages_unconfirmed": 0, "prefetch_count": 0, "global_prefetch_count": 0,
        });
        row.as_object_mut().unwrap().extend(held.as_object().unwrap().clone());
        row
    };
    let all = "pid,connection,name,number,user,vhost,transactional,confirm,consumer_count,messages_unacknowledged,\
               messages_uncommitted,acks_uncommitted,messages_unconfirmed,prefetch_count,global_prefetch_count";
    let expected = [
        channel(1, serde_json::json!({"confirm": true})),
        channel(
            2,
            serde_json::json!({"consumer_count": 1, "messages_unacknowledged": 2, "prefetch_count": 2}),
        ),
        channel(
            7,
            serde_json::json!({
                "transactional": true, "messages_unacknowledged": 1, "messages_uncommitted": 1,
                "acks_uncommitted": 1, "global_prefetch_count": 9,
            }),
        ),
    ];
    assert_eq!(listed(&broker, "list_channels", all), expected);
    assert_eq!(broker.ok(&["list_channels", "-s"]).lines().nth(1), Some(&*format!("{pid}.2\tguest\t1\t2")));
    assert_eq!(
        broker.ok(&["list_consumers", "-s"]),
        format!("q\t{pid}.2\tt\ttrue\t2\ttrue\t[{{x-priority,7}}]\n")
    );
    assert_eq!(
        broker.ok(&["list_consumers", "-s", "connection", "channel", "exclusive", "priority", "vhost"]),
        format!("{name}\t2\ttrue\t7\t/\n")
    );
    guest.call(2, &Method::BasicCancel { consumer_tag: "t", nowait: false }).unwrap();
    assert_eq!(broker.ok(&["list_consumers"]), "");
    guest.close().unwrap();
    assert_eq!(broker.ok(&["list_channels"]), "");
    broker.stop();
}

#[test]
fn definitions_go_from_broker_to_broker() {
    use std::os::unix::fs::PermissionsExt;

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("definitions.json");
    let file = file.to_str().unwrap();
    let first = Broker::start(&dir.path().join("first"));
    first.ok(&["add_user", "bob", "pw"]);
    first.ok(&["set_permissions", "bob", ".*", ".*", ".*"]);
    first.ok(&["set_global_parameter", "g", r#"{"a":[1]}"#]);
    let mut guest = first.connect("guest");
    guest.open_channel(1).unwrap();
    guest.call(1, &declare("q")).unwrap();
    guest.call(1, &declare_exchange("e")).unwrap();
    guest.call(1, &bind("q", "e")).unwrap();
    guest.close().unwrap();
    assert_eq!(first.ok(&["export_definitions", file]), "");
    assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(file).unwrap();
    assert_eq!(first.ok(&["export_definitions", "-"]), text);
    first.stop();

    let second = Broker::start_with(&dir.path().join("second"), file);
    let mut bob = second.connect("bob");
    bob.open_channel(1).unwrap();
    bob.call(1, &passive("q")).unwrap();
    bob.publish(1, ("e", ""), true, &Properties::default(), b"m").unwrap();
    assert!(bob.get(1, "q", true).unwrap().is_some());
    bob.close().unwrap();
    assert_eq!(second.ok(&["export_definitions", "-"]), text);
    let mut import = second.command();
    let import = import.args(["import_definitions"]).stdin(std::fs::File::open(file).unwrap());
    assert!(import.status().unwrap().success());
    assert_eq!(second.ok(&["export_definitions", "-"]), text);

    std::fs::write(file, r#"{"future":1,"queues":[]}"#).unwrap();
    assert_eq!(second.ok(&["import_definitions", file]), "left out: the section 'future' is not known\n");
    std::fs::write(file, r#"{"queues":[{"name":"n"}]}"#).unwrap();
    let wrong = (1, "queues[0]: expected a field 'vhost', got none".to_owned());
    assert_eq!(second.fails(&["import_definitions", file]), wrong);
    std::fs::write(file, r#"{"queues":[{"name":"a\nb\u001b[2J","vhost":"/"}]}"#).unwrap();
    let one_line =
        (1, r"queue 'a\nb\u{1b}[2J' in vhost '/': expected a field 'durable', got none".to_owned());
    assert_eq!(second.fails(&["import_definitions", file]), one_line);
    std::fs::write(file, r#"{"a\nb":1}"#).unwrap();
    assert_eq!(
        second.ok(&["import_definitions", file]),
        "left out: the section 'a\\nb' is not known\n",
        "nothing that looks like another line"
    );
    let erlang = (2, "--format: expected json, got \"erlang\"".to_owned());
    assert_eq!(second.fails(&["import_definitions", file, "--format", "erlang"]), erlang);
    assert_eq!(second.fails(&["export_definitions", "/nowhere/file"]).0, 1);
    assert_eq!(second.fails(&["import_definitions", "/nowhere/file"]).0, 2);
    second.stop();
}

#[test]
fn parameters_are_set_listed_and_cleared() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(&dir.path().join("data"));
    for (words, expected) in [
        (&["set_parameter", "foo", "n", "1"][..], "Validation failed: component foo not found"),
        (&["set_parameter", "policy", "n", "1"], "policies may not be set using this method"),
        (&["clear_parameter", "policy", "n"], "policies may not be cleared using this method"),
        (&["clear_parameter", "foo", "n"], "Parameter does not exist"),
        (&["clear_parameter", "vhost-limits", "limits"], "Parameter does not exist"),
        (&["clear_global_parameter", "n"], "Parameter does not exist"),
        (
            &["set_parameter", "vhost-limits", "n", "{}"],
            "Validation failed: expected the name 'limits' for vhost-limits, got 'n'",
        ),
        (&["list_parameters", "-p", "nope"], "virtual host 'nope' does not exist"),
    ] {
        assert_eq!(broker.fails(words), (1, expected.to_owned()), "{words:?}");
    }
    let not_json = broker.fails(&["set_global_parameter", "n", "{"]).1;
    assert!(not_json.starts_with("JSON decoding error. Reason: EOF while parsing an object"), "{not_json}");
    broker.ok(&["set_parameter", "vhost-limits", "limits", r#"{"max-queues":5}"#]);
    broker.ok(&["set_parameter", "operator_policy", "o", r#"{"pattern":"a","definition":{"max-length":1}}"#]);
    broker.ok(&["set_global_parameter", "n", "\"text\""]);
    assert_eq!(broker.ok(&["list_vhost_limits", "-s"]), "/\t{\"max-queues\":5}\n");
    assert_eq!(
        broker.ok(&["list_parameters", "-s", "component", "name"]),
        "operator_policy\to\nvhost-limits\tlimits\n"
    );
    assert_eq!(broker.ok(&["list_global_parameters"]), "name\tvalue\nn\t\"text\"\n");
    broker.ok(&["clear_parameter", "vhost-limits", "limits"]);
    broker.ok(&["clear_parameter", "operator_policy", "o"]);
    broker.ok(&["clear_global_parameter", "n"]);
    assert_eq!(broker.ok(&["list_parameters"]), "");
    assert_eq!(broker.ok(&["list_global_parameters"]), "");
    broker.stop();
}

fn closed(client: &mut BlockingClient) -> String {
    match client.next_event(PATIENCE) {
        Err(ClientError::ConnectionClosed(close)) => format!("{} {}", close.reply_code, close.reply_text),
        other => panic!("expected the end of the connection, got {other:?}"),
    }
}
