//! Every change on a broker in memory, and those that must survive a restart in a directory.

use std::path::Path;
use std::sync::Arc;

use posthouse_auth::authorities::Freshness;
use posthouse_model::errors::{Permission, ResourceKind};
use posthouse_model::exchange::ExchangeKind;
use posthouse_model::field::{FieldTable, FieldValue};
use posthouse_model::name::Name;
use posthouse_queue::topology::{BindingRecord, DestinationName, ExchangeRecord};
use posthouse_storage::wal::WalOptions;
use serde_json::json;

use super::*;
use crate::connections::ConnectionInfo;
use crate::declare::QueueDeclaration;
use crate::listings;
use crate::start::testing::{PLENTY_BYTES, broker, keep_in};
use crate::start::{self, Keep};
use crate::waker::{Inbox, SessionWaker};

fn in_memory() -> Arc<Broker> {
    broker(Keep::InMemory, PLENTY_BYTES)
}

fn in_directory(path: &Path) -> Arc<Broker> {
    broker(keep_in(path, WalOptions::default()), PLENTY_BYTES)
}

fn connect(broker: &Broker, user: &str, vhost: &str) -> Arc<ConnectionInfo> {
    let id = broker.connections().next_id();
    let info = Arc::new(ConnectionInfo {
        id,
        name: format!("[::1]:{id} -> 127.0.0.1:5672"),
        protocol: "AMQP 0-9-1",
        user: user.to_owned(),
        vhost: vhost.to_owned(),
        client_properties: FieldTable(vec![("product".into(), FieldValue::string("x"))]),
        connected_at_ms: 1,
        channels: 2.into(),
        state: Default::default(),
        used_up: Default::default(),
        waker: Arc::new(SessionWaker::default()),
    });
    broker.connections().add(info.clone());
    info
}

fn told(info: &ConnectionInfo) -> Option<String> {
    let mut inbox = Inbox::default();
    info.waker.take(&mut inbox);
    inbox.close.map(|error| format!("{} {}", error.code as u16, error.text))
}

fn text<T: std::fmt::Debug>(outcome: Result<T>) -> String {
    outcome.unwrap_err().to_string()
}

fn names(rows: Vec<listings::UserRow>) -> Vec<String> {
    rows.into_iter().map(|row| row.user).collect()
}

#[test]
fn users_come_change_and_go() {
    let broker = in_memory();
    add_user(&broker, "bob", b"one").unwrap();
    assert_eq!(text(add_user(&broker, "bob", b"two")), "user 'bob' already exists");
    assert_eq!(text(add_user(&broker, "eve", b"")), "expected a password, got a blank one");
    authenticate_user(&broker, "bob", b"one").unwrap();
    change_password(&broker, "bob", b"two").unwrap();
    let refused = "user 'bob' cannot be authenticated with this password";
    assert_eq!(text(authenticate_user(&broker, "bob", b"one")), refused);
    authenticate_user(&broker, "bob", b"two").unwrap();
    clear_password(&broker, "bob").unwrap();
    assert_eq!(text(authenticate_user(&broker, "bob", b"two")), refused);
    set_user_tags(&broker, "bob", vec!["monitoring".into()]).unwrap();
    assert_eq!(listings::users(&broker)[0].tags, ["monitoring"]);
    let (bobs, other) = (connect(&broker, "bob", "/"), connect(&broker, "guest", "/"));
    delete_user(&broker, "bob").unwrap();
    assert_eq!(told(&bobs).as_deref(), Some("320 user 'bob' is deleted"));
    assert_eq!(told(&other), None);
    assert_eq!(names(listings::users(&broker)), ["guest"]);
    for outcome in [
        delete_user(&broker, "bob"),
        change_password(&broker, "bob", b"x"),
        clear_password(&broker, "bob"),
        set_user_tags(&broker, "bob", Vec::new()),
        set_permissions(&broker, "bob", "/", ["", "", ""]),
        clear_permissions(&broker, "bob", "/"),
        listings::user_permissions(&broker, "bob").map(drop),
    ] {
        assert_eq!(text(outcome), "user 'bob' does not exist");
    }
}

#[test]
fn permissions_reach_open_sessions() {
    let broker = in_memory();
    add_user(&broker, "bob", b"x").unwrap();
    assert_eq!(
        broker.authorities().access("bob", "/").unwrap_err().text,
        "access to vhost '/' refused for user 'bob'"
    );
    set_permissions(&broker, "bob", "/", ["^a", "", ""]).unwrap();
    let mut access = broker.authorities().access("bob", "/").unwrap();
    assert_eq!(access.check(Permission::Configure, ResourceKind::Queue, "a"), Ok(()));
    set_permissions(&broker, "bob", "/", ["^b", "w", "r"]).unwrap();
    assert_eq!(broker.authorities().refresh(&mut access), Freshness::Changed);
    assert!(access.check(Permission::Configure, ResourceKind::Queue, "a").is_err());
    let rows = listings::user_permissions(&broker, "bob").unwrap();
    assert_eq!((&*rows[0].configure, &*rows[0].write, &*rows[0].read), ("^b", "w", "r"));
    assert_eq!(listings::permissions(&broker, "/").unwrap().len(), 2);
    clear_permissions(&broker, "bob", "/").unwrap();
    clear_permissions(&broker, "bob", "/").unwrap();
    assert_eq!(broker.authorities().refresh(&mut access), Freshness::Revoked);
    let bad = set_permissions(&broker, "guest", "/", ["(", "", ""]);
    assert_eq!(text(bad), "expected a regular expression as configure pattern, got '(': unclosed group");
}

#[test]
fn virtual_hosts_come_and_go_with_what_is_in_them() {
    let broker = in_memory();
    add_vhost(&broker, "v", &json!({})).unwrap();
    assert_eq!(text(add_vhost(&broker, "v", &json!({}))), "virtual host 'v' already exists");
    assert_eq!(
        text(add_vhost(&broker, "", &json!({}))),
        "expected a virtual host name of 1 to 255 bytes, got 0"
    );
    assert!(add_vhost(&broker, &"x".repeat(256), &json!({})).is_err());
    set_permissions(&broker, "guest", "v", [".*", ".*", ".*"]).unwrap();
    let inside = connect(&broker, "guest", "v");
    declare(&broker, "v", "q");
    delete_vhost(&broker, "v").unwrap();
    assert_eq!(told(&inside).as_deref(), Some("320 vhost 'v' is deleted"));
    assert_eq!(listings::user_permissions(&broker, "guest").unwrap().len(), 1);
    for outcome in [
        delete_vhost(&broker, "v"),
        set_permissions(&broker, "guest", "v", ["", "", ""]),
        clear_permissions(&broker, "guest", "v"),
        delete_queue(&broker, "v", "q", DeleteIf::default()).map(drop),
        purge_queue(&broker, "v", "q").map(drop),
        close_all_connections(&broker, Some("v"), "").map(drop),
        listings::queues(&broker, "v").map(drop),
        listings::exchanges(&broker, "v").map(drop),
        listings::bindings(&broker, "v").map(drop),
        listings::consumers(&broker, "v").map(drop),
        listings::permissions(&broker, "v").map(drop),
    ] {
        assert_eq!(text(outcome), "virtual host 'v' does not exist");
    }
}

#[test]
fn queues_are_listed_purged_and_deleted() {
    let broker = in_memory();
    declare(&broker, "/", "q");
    let rows = listings::queues(&broker, "/").unwrap();
    assert_eq!((&*rows[0].name, rows[0].durable, rows[0].messages), ("q", true, 0));
    assert_eq!(rows[0].arguments, serde_json::json!({}));
    let bindings = listings::bindings(&broker, "/").unwrap();
    assert_eq!((&*bindings[0].source_name, &*bindings[0].destination_name), ("", "q"));
    assert_eq!(listings::exchanges(&broker, "/").unwrap().len(), 7);
    assert_eq!(listings::totals(&broker).queues, 1);
    assert_eq!(purge_queue(&broker, "/", "q").unwrap(), 0);
    assert_eq!(delete_queue(&broker, "/", "q", DeleteIf { unused: true, empty: true }).unwrap(), 0);
    assert_eq!(text(purge_queue(&broker, "/", "q")), "no queue 'q' in vhost '/'");
    assert_eq!(text(delete_queue(&broker, "/", "q", DeleteIf::default())), "no queue 'q' in vhost '/'");
}

#[test]
fn connections_are_closed_by_name_number_or_all() {
    let broker = in_memory();
    let all =
        [connect(&broker, "guest", "/"), connect(&broker, "guest", "/"), connect(&broker, "guest", "/")];
    let row = &listings::connections(&broker)[0];
    assert_eq!((&*row.peer_host, row.peer_port, &*row.host, row.port), ("[::1]", 1, "127.0.0.1", 5672));
    close_connection(&broker, &all[0].name, "why").unwrap();
    assert_eq!(told(&all[0]).as_deref(), Some("320 why"));
    close_connection(&broker, "2", "because").unwrap();
    assert_eq!(told(&all[1]).as_deref(), Some("320 because"));
    assert_eq!(told(&all[2]), None);
    assert_eq!(text(close_connection(&broker, "9", "")), "connection '9' does not exist");
    assert_eq!(close_all_connections(&broker, Some("/"), "all").unwrap(), 3);
    assert_eq!(told(&all[2]).as_deref(), Some("320 all"));
}

#[test]
fn changes_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    let first = in_directory(&path);
    add_user(&first, "bob", b"pw").unwrap();
    set_user_tags(&first, "bob", vec!["administrator".into()]).unwrap();
    add_vhost(&first, "kept", &json!({})).unwrap();
    add_vhost(&first, "gone", &json!({})).unwrap();
    set_permissions(&first, "bob", "kept", ["c", "w", "r"]).unwrap();
    set_permissions(&first, "bob", "gone", ["c", "w", "r"]).unwrap();
    declare(&first, "kept", "q1");
    declare(&first, "kept", "q2");
    delete_queue(&first, "kept", "q2", DeleteIf::default()).unwrap();
    delete_vhost(&first, "gone").unwrap();
    delete_user(&first, "guest").unwrap();
    start::stop(&first).unwrap();
    drop(first);
    let second = reopen(&path);
    assert_eq!(names(listings::users(&second)), ["bob"]);
    authenticate_user(&second, "bob", b"pw").unwrap();
    let vhosts: Vec<_> = listings::vhosts(&second).into_iter().map(|row| row.name).collect();
    assert_eq!(vhosts, ["/", "kept"]);
    let rows = listings::user_permissions(&second, "bob").unwrap();
    assert_eq!((rows.len(), &*rows[0].vhost, &*rows[0].configure), (1, "kept", "c"));
    let queues: Vec<_> = listings::queues(&second, "kept").unwrap().into_iter().map(|row| row.name).collect();
    assert_eq!(queues, ["q1"]);
    start::stop(&second).unwrap();
}

/// The broker's own threads hold it for moments; the directory is free when they let go.
fn reopen(path: &Path) -> Arc<Broker> {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while posthouse_storage::datadir::DataDir::open_read_only(path).is_err() {
        assert!(std::time::Instant::now() < deadline, "the directory stays locked");
        std::thread::yield_now();
    }
    in_directory(path)
}

fn declare(broker: &Broker, vhost: &str, name: &str) {
    let vhost = broker.vhost(vhost).unwrap();
    let arguments = FieldTable(Vec::new());
    let declaration =
        QueueDeclaration { name: name.into(), durable: true, arguments, ..QueueDeclaration::default() };
    broker.declare_queue(&vhost, declaration, 1).unwrap();
}

#[test]
fn a_deleted_vhost_takes_everything_with_it_and_nothing_comes_after() {
    let data = tempfile::tempdir().unwrap();
    {
        let broker = in_directory(data.path());
        add_vhost(&broker, "v", &json!({})).unwrap();
        let vhost = broker.vhost("v").unwrap();
        let queue = |name: &str| QueueDeclaration {
            name: name.to_owned(),
            durable: true,
            ..QueueDeclaration::default()
        };
        let exchange = |name: &str| ExchangeRecord {
            name: Name::truncated(name),
            kind: ExchangeKind::Fanout,
            durable: true,
            auto_delete: false,
            internal: false,
            arguments: FieldTable::default(),
        };
        let bind = |source: &str, destination: DestinationName| BindingRecord {
            source: Name::truncated(source),
            destination,
            routing_key: Name::truncated(""),
            arguments: FieldTable::default(),
        };
        let to_direct = || bind("amq.fanout", DestinationName::Exchange(Name::truncated("amq.direct")));
        broker.declare_queue(&vhost, queue("before"), 0).unwrap();
        broker.declare_exchange(&vhost, exchange("before")).unwrap();
        broker.bind(&vhost, to_direct()).unwrap();
        broker.bind(&vhost, bind("before", DestinationName::Queue(Name::truncated("before")))).unwrap();
        delete_vhost(&broker, "v").unwrap();
        // A session that has not heard of it yet.
        for refused in [
            broker.declare_queue(&vhost, queue("after"), 0).unwrap_err(),
            broker.declare_exchange(&vhost, exchange("after")).unwrap_err(),
            broker.bind(&vhost, to_direct()).unwrap_err(),
            vhost.check_not_deleted().unwrap_err(),
        ] {
            assert_eq!((refused.code as u16, &*refused.text), (320, "vhost 'v' is deleted"));
        }
        // Another one of that name has nothing of it, now and after a restart.
        add_vhost(&broker, "v", &json!({})).unwrap();
        broker.store().meta().flush().unwrap();
    }
    let broker = reopen(data.path());
    let vhost = broker.vhost("v").unwrap();
    assert_eq!(vhost.queues().len(), 0);
    assert_eq!(vhost.with_topology(|topology| topology.bindings()), []);
    assert!(vhost.with_topology(|topology| topology.exchange("before").is_none()));
}
