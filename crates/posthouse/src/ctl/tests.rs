//! What the words mean, what is refused, and what tables look like.

use serde_json::json;

use super::options::parse;
use super::*;

fn request(line: &str) -> Request {
    parse(line.split(' ').map(str::to_owned).collect()).unwrap().expect("no help")
}

fn refusal(line: &str) -> String {
    parse(line.split(' ').map(str::to_owned).collect()).expect_err("must be refused")
}

fn args(line: &str) -> Value {
    Value::Object(request(line).args)
}

#[test]
fn arguments_get_their_names() {
    assert_eq!(args("add_user bob pw"), json!({"name": "bob", "password": "pw"}));
    assert_eq!(args("add_user bob"), json!({"name": "bob"}), "the password comes from standard input");
    assert_eq!(args("set_user_tags bob a b"), json!({"name": "bob", "tags": ["a", "b"]}));
    assert_eq!(args("set_user_tags bob"), json!({"name": "bob", "tags": []}));
    let expected = json!({"user": "bob", "vhost": "v", "configure": "c", "write": "w", "read": "r"});
    for line in [
        "set_permissions -p v bob c w r",
        "-p v set_permissions bob c w r",
        "set_permissions bob c w r --vhost=v",
        "--data-dir x set_permissions bob -p v -- c w r",
    ] {
        assert_eq!(args(line), expected, "{line}");
    }
    let expected =
        json!({"name": "n", "pattern": "^a", "definition": "{}", "priority": -2, "apply_to": "all"});
    for line in ["set_policy n ^a {} --priority -2", "--priority=-2 set_policy n ^a {} --apply-to all"] {
        assert_eq!(args(line), expected, "{line}");
    }
    assert_eq!(args("add_user -- -b -c"), json!({"name": "-b", "password": "-c"}));
    assert_eq!(args("delete_queue --if-empty q"), json!({"name": "q", "if_empty": true}));
}

#[test]
fn options_are_taken_anywhere() {
    let request = request("-q list_queues --data-dir=/d messages,name consumers --formatter json");
    assert_eq!(request.columns, ["messages", "name", "consumers"]);
    assert_eq!(request.formatter, Formatter::Json);
    assert!(request.quiet && request.headers);
    assert_eq!(socket_path(&request).ok(), Some("/d/control.sock".into()));
    assert_eq!(super::tests::request("list_queues").columns, ["name", "messages"]);
    assert_eq!(super::tests::request("list_queues --columns name").columns, ["name"]);
    let given = super::tests::request("ping --control-socket /s --data-dir /d");
    assert_eq!(socket_path(&given).ok(), Some("/s".into()));
}

#[test]
fn wrong_words_are_refused_in_one_line() {
    for (line, expected) in [
        ("-q", "expected a command, \"posthouse ctl help\" lists them"),
        (
            "sync_queue",
            "command \"sync_queue\" is not supported yet, \"posthouse ctl help\" lists those that are",
        ),
        ("add_user", "usage: posthouse ctl add_user NAME [PASSWORD], got 0 arguments"),
        ("add_user bob se cret", "usage: posthouse ctl add_user NAME [PASSWORD], got 3 arguments"),
        (
            "set_permissions u c w",
            "usage: posthouse ctl set_permissions [-p VHOST] USER CONFIGURE WRITE READ, got 3 arguments",
        ),
        ("list_users -p v", "list_users takes no -p"),
        ("list_users --fast", "list_users has no option --fast"),
        ("list_users --priority 3", "list_users has no option --priority"),
        ("set_policy n ^a {} --priority x", "--priority: expected a whole number, got \"x\""),
        ("set_policy n ^a {} --priority", "expected a value after --priority, got nothing"),
        (
            "set_policy n ^a",
            "usage: posthouse ctl set_policy [-p VHOST] [--priority PRIORITY] [--apply-to APPLY_TO] NAME PATTERN \
             DEFINITION, got 2 arguments",
        ),
        ("list_users x", "list_users: no column \"x\", expected some of user, tags"),
        ("status --columns x", "status has no columns"),
        ("status --formatter csv", "--formatter: expected table or json, got \"csv\""),
        ("list_queues -p", "expected a value after -p, got nothing"),
        ("ping -q=1", "expected -q without a value"),
    ] {
        assert_eq!(refusal(line), expected);
    }
}

#[test]
fn every_command_is_one_of_the_protocol() {
    for command in commands::all() {
        let mut fields = serde_json::Map::new();
        let is_file =
            |name: &str| name == "file" && matches!(command.answer, Answer::Document | Answer::Imported);
        for name in command.positional.iter().filter(|name| !is_file(name)) {
            fields.insert((*name).to_owned(), Value::from("x"));
        }
        if let commands::Rest::List(name) = command.rest {
            fields.insert(name.to_owned(), json!(["x"]));
        }
        if command.vhost {
            fields.insert("vhost".to_owned(), Value::from("x"));
        }
        if matches!(command.answer, Answer::Imported) {
            fields.insert("bytes".to_owned(), json!(1));
        }
        // What the command itself sees to, and the broker is not told.
        let own = if matches!(command.answer, Answer::Steps(_)) { "rate" } else { "format" };
        for option in command.options.iter().filter(|option| option.name != own) {
            let number = option.kind == commands::OptionKind::Number;
            fields.insert(option.name.to_owned(), if number { json!(1) } else { json!("x") });
        }
        fields.extend(command.flags.iter().map(|flag| ((*flag).to_owned(), Value::from(true))));
        let parsed = posthouse_server::control::commands::Command::new(command.name, &Value::Object(fields));
        assert!(parsed.is_ok(), "{}: {:?}", command.name, parsed.err());
        if let Answer::Rows { shown, columns, .. } = command.answer {
            assert!(shown.iter().all(|name| columns.contains(name)), "{}", command.name);
        }
    }
}

#[test]
fn tables_have_tabs_and_names_cannot_make_up_rows() {
    let rows = json!([
        {"name": "a\nb\t", "n": 1, "x": {"k": [true, null]}},
        {"name": "longer", "n": 23, "x": {}},
    ]);
    let columns = ["name", "n", "x"].map(str::to_owned);
    assert_eq!(
        table::table(&columns, &rows, true, false),
        "name\tn\tx\na\\nb\\t\t1\t[{k,[true, ]}]\nlonger\t23\t[]\n"
    );
    assert_eq!(
        table::table(&columns[..2], &rows, true, true),
        "name  \tn\na\\nb\\t\t1\nlonger\t23\n",
        "the last column is not padded"
    );
    assert_eq!(table::table(&columns[1..2], &rows, false, false), "1\n23\n");
    assert_eq!(table::table(&columns, &json!([]), true, true), "");
    assert_eq!(table::selected(&columns[1..2], &rows), json!([{"n": 1}, {"n": 23}]));
}

#[test]
fn sentences_name_what_was_done_and_no_password() {
    let said = |line: &str, answer: Value| show(&request(line), &answer);
    let text = said("add_user bob {password}secret", Value::Null);
    assert!(text.starts_with("Adding user \"bob\" ...\n") && !text.contains("secret"), "{text}");
    assert_eq!(
        said("purge_queue q", json!({"messages": 3})),
        "Purged 3 messages from queue 'q' in vhost '/'\n"
    );
    assert_eq!(
        said("convert_queue q --to quorum", json!({"from": "classic"})),
        "Queue 'q' in vhost '/' is a quorum queue now; it was a classic queue\n"
    );
    assert_eq!(said("-q purge_queue q", json!({"messages": 3})), "");
    assert_eq!(said("purge_queue q --formatter json", json!({"messages": 3})), "{\"messages\":3}\n");
    assert_eq!(said("ping --formatter json", Value::Null), "{}\n");
    assert_eq!(said("list_users -s", json!([{"user": "u", "tags": ["a", "b"]}])), "u\t[a, b]\n");
    assert!(said("status", json!({"version": "1"})).starts_with("version: 1\n"));
}
