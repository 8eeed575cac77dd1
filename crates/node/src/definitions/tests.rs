//! Documents of RabbitMQ 3 and 4 come in and go out again, and what is wrong is refused before anything is changed.

use std::sync::Arc;

use posthouse_model::field::{FieldTable, FieldValue};
use posthouse_model::name::Name;
use posthouse_queue::topology::{BindingRecord, DestinationName};
use posthouse_storage::wal::WalOptions;
use serde_json::{Value, json};

use super::*;
use crate::admin;
use crate::start::testing::{PLENTY_BYTES, broker};
use crate::start::{self, Keep};

/// As RabbitMQ 4 exports it, with what only its plugins know.
const OF_RABBITMQ_4: &str = include_str!("tests/rabbitmq-4.json");

fn in_memory() -> Arc<Broker> {
    broker(Keep::InMemory, PLENTY_BYTES)
}

fn imported(broker: &Broker, document: &Value) -> Imported {
    import(broker, document.to_string().as_bytes()).unwrap()
}

fn refused(broker: &Broker, document: &Value) -> String {
    import(broker, document.to_string().as_bytes()).unwrap_err().to_string()
}

/// Every object of a section but those a new broker has, as text, sorted.
fn section(document: &Value, name: &str) -> Vec<String> {
    let is_own = |object: &&Value| {
        object["name"] != json!("guest") && object["user"] != json!("guest") && object["name"] != json!("/")
    };
    let objects = document[name].as_array().unwrap().iter();
    let mut texts: Vec<String> = objects.filter(is_own).map(Value::to_string).collect();
    texts.sort();
    texts
}

#[test]
fn a_document_of_rabbitmq_4_comes_back_whole() {
    let broker = in_memory();
    let document: Value = serde_json::from_str(OF_RABBITMQ_4).unwrap();
    assert_eq!(imported(&broker, &document).left_out, Vec::<String>::new());
    let exported = export(&broker, "4.3.0", "1");
    let sections = document.as_object().unwrap().iter().filter(|(_, value)| value.is_array());
    let mut compared = 0;
    for (name, _) in sections {
        assert_eq!(section(&exported, name), section(&document, name), "{name}");
        compared += 1;
    }
    assert_eq!(compared, 10);
    let again = exported.to_string();
    imported(&broker, &exported);
    assert_eq!(export(&broker, "4.3.0", "1").to_string(), again);
    admin::authenticate_user(&broker, "alice", b"test12").unwrap();
    admin::authenticate_user(&broker, "strong", b"pw").unwrap();
    assert!(admin::authenticate_user(&broker, "nobody", b"test12").is_err());
}

#[test]
fn what_is_imported_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    let keep = || Keep::InDirectory {
        path: path.clone(),
        wal: WalOptions::default(),
        undefined_queues: start::UndefinedQueues::default(),
    };
    let first = broker(keep(), PLENTY_BYTES);
    import(&first, OF_RABBITMQ_4.as_bytes()).unwrap();
    let exported = export(&first, "4.3.0", "1");
    let durable = |document: &Value, section: &str| -> Vec<Value> {
        let objects = document[section].as_array().unwrap().iter();
        objects.filter(|object| object["durable"] != json!(false)).cloned().collect()
    };
    start::stop(&first).unwrap();
    drop(first);
    while posthouse_storage::datadir::DataDir::open_read_only(&path).is_err() {
        std::thread::yield_now();
    }
    let second = broker(keep(), PLENTY_BYTES);
    let back = export(&second, "4.3.0", "1");
    for name in
        ["users", "vhosts", "permissions", "topic_permissions", "parameters", "global_parameters", "policies"]
    {
        assert_eq!(back[name], exported[name], "{name}");
    }
    for name in ["queues", "exchanges"] {
        assert_eq!(durable(&back, name), durable(&exported, name), "{name}");
    }
    assert_eq!(back["bindings"].as_array().unwrap().len(), exported["bindings"].as_array().unwrap().len());
    admin::delete_vhost(&second, "orders").unwrap();
    admin::clear_global_parameter(&second, "cluster_tags").unwrap();
    start::stop(&second).unwrap();
    drop(second);
    while posthouse_storage::datadir::DataDir::open_read_only(&path).is_err() {
        std::thread::yield_now();
    }
    let third = export(&broker(keep(), PLENTY_BYTES), "4.3.0", "1");
    assert_eq!(third["parameters"], json!([]));
    assert!(!third["global_parameters"].to_string().contains("cluster_tags"));
}

#[test]
fn lists_of_pairs_of_rabbitmq_3_are_read() {
    let broker = in_memory();
    let document = json!({
        "rabbit_version": "3.5.7",
        "users": [
            {"name": "old", "password_hash": "AQIDBJR91gt1SAWTmvD+VzA7MFU=", "tags": "administrator, x"},
            {"name": "new", "password": "plain"},
            {"name": "none", "password_hash": "", "tags": []},
        ],
        "vhosts": [{"name": "v", "limits": [["max-queues", 5]], "description": "d", "tags": ["t"]}],
        "parameters": [
            {"vhost": "v", "component": "operator_policy", "name": "o", "value": {
                "pattern": "", "definition": [["max-length", 4]], "priority": 0, "apply-to": "all"}},
            {"vhost": "v", "component": "policy", "name": "p", "value": {
                "pattern": "a", "definition": [["max-length", 9]]}},
        ],
        "queues": [{"vhost": "v", "name": "amq.gen-1", "durable": true, "auto_delete": false, "arguments": []}],
    });
    assert_eq!(imported(&broker, &document).left_out, Vec::<String>::new());
    let exported = export(&broker, "4.3.0", "1");
    let user = |name: &str| {
        exported["users"].as_array().unwrap().iter().find(|user| user["name"] == json!(name)).unwrap().clone()
    };
    assert_eq!(user("old")["tags"], json!(["administrator", "x"]));
    assert_eq!(user("old")["hashing_algorithm"], json!("rabbit_password_hashing_md5"));
    assert_eq!(user("none")["password_hash"], json!(""));
    admin::authenticate_user(&broker, "new", b"plain").unwrap();
    admin::authenticate_user(&broker, "old", b"pw").unwrap();
    let vhost = exported["vhosts"].as_array().unwrap().iter().find(|v| v["name"] == json!("v")).unwrap();
    assert_eq!(vhost["metadata"], json!({"description": "d", "tags": ["t"]}));
    assert_eq!(vhost["limits"], json!({"max-queues": 5}));
    assert_eq!(exported["parameters"][0]["value"]["definition"], json!({"max-length": 4}));
    assert_eq!(exported["policies"][0]["name"], json!("p"));
    assert_eq!(exported["queues"][0]["name"], json!("amq.gen-1"));
}

#[test]
fn what_cannot_be_is_refused_by_name_before_anything_is_changed() {
    let broker = in_memory();
    admin::add_vhost(&broker, "v", &json!({})).unwrap();
    imported(
        &broker,
        &json!({
            "exchanges": [{"vhost": "v", "name": "e", "type": "topic", "durable": true, "auto_delete": false}],
            "queues": [{"vhost": "v", "name": "q", "durable": true, "auto_delete": false}],
        }),
    );
    let before = export(&broker, "4", "1");
    let queue = |fields: Value| {
        let mut queue =
            json!({"vhost": "v", "name": "n", "durable": true, "auto_delete": false, "arguments": {}});
        queue.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        json!({"vhosts": [{"name": "new"}], "queues": [queue]})
    };
    for (document, text) in [
        (json!({"queues": {}}), "queues: expected a list, got an object"),
        (json!({"queues": [5]}), "queues[0]: expected an object, got a number"),
        (queue(json!({"name": 5})), "queues[0]: name: expected a text, got a number"),
        (
            queue(json!({"durable": 1})),
            "queue 'n' in vhost 'v': durable: expected true or false, got a number",
        ),
        (queue(json!({"vhost": "w"})), "queue 'n' in vhost 'w': vhost 'w' does not exist"),
        (
            queue(json!({"name": "q", "durable": false})),
            "queue 'q' in vhost 'v': inequivalent arg 'durable' for queue 'q' in vhost 'v': received 'false' but \
             current is 'true'",
        ),
        (
            queue(json!({"arguments": {"x-max-length": -1}})),
            "queue 'n' in vhost 'v': invalid arg 'x-max-length' for queue 'n' in vhost 'v': {value_negative,-1}",
        ),
        (
            queue(json!({"arguments": [1]})),
            "queue 'n' in vhost 'v': arguments: expected an object, got a list",
        ),
        (
            json!({"exchanges": [{"vhost": "v", "name": "e", "type": "fanout", "durable": true, "auto_delete": false}]}),
            "exchange 'e' in vhost 'v': inequivalent arg 'type' for exchange 'e' in vhost 'v': received 'fanout' but \
             current is 'topic'",
        ),
        (
            json!({"exchanges": [{"vhost": "v", "name": "f", "type": "x-foo", "durable": true, "auto_delete": false}]}),
            "exchange 'f' in vhost 'v': unknown exchange type 'x-foo'",
        ),
        (
            json!({"permissions": [{"user": "x", "vhost": "v", "configure": "", "write": "", "read": ""}]}),
            "permissions of user 'x' in vhost 'v': user 'x' does not exist",
        ),
        (
            json!({"permissions": [{"user": "guest", "vhost": "v", "configure": "(", "write": "", "read": ""}]}),
            "permissions of user 'guest' in vhost 'v': expected a regular expression as configure pattern, got '(': \
             unclosed group",
        ),
        (
            json!({"users": [{"name": "u", "password_hash": "AAAA", "hashing_algorithm": "rabbit_password_hashing_sha256"}]}),
            "user 'u': expected base64 of a 4-byte salt and the hash as sha256 password hash",
        ),
        (
            json!({"policies": [{"vhost": "v", "name": "p", "pattern": "", "definition": {"foo": 1}}]}),
            "policy 'p' in vhost 'v': [{<<\"foo\">>,1}] are not recognised policy settings",
        ),
        (json!({"vhosts": [{"name": ""}]}), "vhosts[0]: name: expected a name, got an empty one"),
        (
            json!({"bindings": [{"vhost": "v", "source": "e", "destination": "q", "destination_type": "x", "routing_key": ""}]}),
            "binding from 'e' to 'q' with key '' in vhost 'v': destination_type: expected queue or exchange, got 'x'",
        ),
        (
            json!({"vhosts": [{"name": "v", "limits": {"max-queues": 1}}], "queues": queue(json!({}))["queues"]}),
            "vhost 'v': expected at most 1 queues (max-queues), they would become 2",
        ),
    ] {
        assert_eq!(refused(&broker, &document), text);
        assert_eq!(export(&broker, "4", "1"), before, "{text}");
    }
    let bad = import(&broker, b"{\n  \"users\": [}").unwrap_err().to_string();
    assert_eq!(bad, "expected definitions as a JSON object, got an error at line 2 column 13");
    assert!(matches!(
        import(&broker, &vec![b' '; MAX_BYTES + 1]),
        Err(AdminError::Definitions(DefinitionsError::TooLong(_)))
    ));
}

#[test]
fn what_is_left_out_is_said() {
    let broker = in_memory();
    let binding = |destination: &str| {
        json!({"vhost": "/", "source": "amq.fanout", "destination": destination, "destination_type": "queue",
               "routing_key": "k", "arguments": {}})
    };
    let mut bindings: Vec<Value> = (0..120).map(|n| binding(&format!("q{n}"))).collect();
    bindings.push(json!({"vhost": "/", "source": "", "destination": "q", "destination_type": "queue",
                         "routing_key": "q"}));
    let document = json!({
        "future": [],
        "queues": [{"vhost": "/", "name": "q", "durable": true, "auto_delete": false, "surprise": 1}],
        "bindings": bindings,
    });
    let left_out = imported(&broker, &document).left_out;
    assert_eq!(left_out.len(), LEFT_OUT_MAX + 1);
    assert_eq!(left_out.last().unwrap(), "and 22 more");
    let missing = "binding from 'amq.fanout' to 'q0' with key 'k' in vhost '/': queue 'q0' does not exist";
    assert!(left_out.contains(&missing.to_owned()));
    assert!(left_out.contains(&"the section 'future' is not known".to_owned()));
    assert!(left_out.contains(&"queues: the field 'surprise' is not known".to_owned()));
}

#[test]
fn a_binding_of_other_integers_is_not_made_twice() {
    let broker = in_memory();
    imported(
        &broker,
        &json!({"queues": [{"vhost": "/", "name": "q", "durable": true, "auto_delete": false}]}),
    );
    let vhost = broker.vhost("/").unwrap();
    let binding = BindingRecord {
        source: Name::truncated("amq.headers"),
        destination: DestinationName::Queue(Name::truncated("q")),
        routing_key: Name::truncated(""),
        arguments: FieldTable(vec![("n".to_owned(), FieldValue::I32(1))]),
    };
    broker.bind(&vhost, binding).unwrap();
    imported(&broker, &export(&broker, "4.3.0", "1"));
    let bindings = export(&broker, "4.3.0", "1")["bindings"].clone();
    assert_eq!(bindings.as_array().unwrap().len(), 1, "{bindings}");
}

#[test]
fn a_broker_started_with_definitions_has_nothing_else() {
    let document = json!({
        "vhosts": [{"name": "only"}],
        "users": [{"name": "u", "password": "p"}],
    });
    let options = |document: &Value| start::StartOptions {
        definitions: Some(document.to_string().into_bytes()),
        ..start::testing::options(Keep::InMemory, PLENTY_BYTES)
    };
    let started = start::start(options(&document)).unwrap();
    let exported = export(&started, "4.3.0", "1");
    assert_eq!(exported["vhosts"].as_array().unwrap().len(), 1);
    assert_eq!(exported["users"].as_array().unwrap().len(), 1);
    let refused = start::start(options(&json!({"users": 1}))).unwrap_err();
    assert_eq!(refused.to_string(), "cannot import definitions: users: expected a list, got a number");
}
