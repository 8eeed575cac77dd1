//! Every version of a definition is read, and none that is newer.

use posthouse_model::field::FieldValue;

use super::*;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn key_and_value(op: MetaOp) -> (Vec<u8>, Vec<u8>) {
    match op {
        MetaOp::Put { key, value, .. } => (key, value),
        MetaOp::Delete { .. } => panic!("expected a put, got {op:?}"),
    }
}

#[test]
fn version_1_identities_of_exchanges_are_read() {
    let (key, value) = key_and_value(put_seen("/a", "once", QueueId(8)));
    assert_eq!((&key[..], &value[..]), (&br#"["seen","/a","once"]"#[..], &br#"{"v":1,"id":8}"#[..]));
    let read = read_seen(&key, &value).unwrap();
    assert_eq!(read, Some((Name::truncated("/a"), Name::truncated("once"), QueueId(8))));
    assert_eq!(read_seen(br#"["schedule","/a"]"#, &value).unwrap(), None);
    assert_eq!(read_seen(br#"["other","/a","once"]"#, &value).unwrap(), None);
    assert_eq!(read_schedule(&key, &value).unwrap(), None);
    assert!(read_seen(&key, br#"{"v":2,"id":8}"#).is_err());
}

#[test]
fn version_1_schedules_are_read() {
    let (key, value) = key_and_value(put_schedule("/a", QueueId(7)));
    assert_eq!((&key[..], &value[..]), (&br#"["schedule","/a"]"#[..], &br#"{"v":1,"id":7}"#[..]));
    assert_eq!(read_schedule(&key, &value).unwrap(), Some((Name::truncated("/a"), QueueId(7))));
    assert_eq!(read_schedule(NEXT_QUEUE_ID, b"9").unwrap(), None);
    assert!(read_schedule(&key, br#"{"v":2,"id":7}"#).is_err());
}

#[test]
fn version_1_queues_are_read() {
    let key = br#"["/","a \"b\""]"#;
    let value = br#"{"v":1,"id":7,"auto_delete":true,"arguments":"AAAABwF4SQAAAAU="}"#;
    let (id, definition, setup) = read_queue(key, value).unwrap();
    assert_eq!((id, &*definition.name), (QueueId(7), "a \"b\""));
    assert_eq!(setup.arguments.get("x"), Some(&FieldValue::I32(5)));
    assert_eq!(key_and_value(put_queue(id, &definition, &setup)), (key.to_vec(), value.to_vec()));
}

#[test]
fn queues_with_priorities_have_a_version_of_their_own() {
    let (id, definition, mut setup) =
        read_queue(br#"["/","q"]"#, br#"{"v":1,"id":7,"auto_delete":true,"arguments":"AAAAAA=="}"#).unwrap();
    setup.arguments = FieldTable(vec![("x-max-priority".to_owned(), FieldValue::I32(9))]);
    let (key, value) = key_and_value(put_queue(id, &definition, &setup));
    let kept = br#"{"v":2,"id":7,"auto_delete":true,"arguments":"AAAAFA54LW1heC1wcmlvcml0eUkAAAAJ"}"#;
    assert_eq!(String::from_utf8_lossy(&value), String::from_utf8_lossy(kept));
    assert_eq!(read_queue(&key, kept).unwrap().2, setup);
    let newer = read_queue(&key, br#"{"v":5,"id":7,"auto_delete":true,"arguments":"AAAAAA=="}"#);
    let expected = "cannot read a definition in table queues: expected version 4 at most, got 5";
    assert_eq!(newer.unwrap_err().to_string(), expected);
}

#[test]
fn queues_with_levels_of_former_types_have_a_version_of_their_own() {
    let key = br#"["/","q"]"#;
    let value =
        br#"{"v":4,"id":7,"auto_delete":false,"arguments":"AAAAAA==","former":[[40,31,4],[0,0,0]],"base":1}"#;
    let (id, definition, setup) = read_queue(key, value).unwrap();
    assert_eq!(setup.settings().levels().base, 1);
    let (_, put) = key_and_value(put_queue(id, &definition, &setup));
    assert_eq!(String::from_utf8_lossy(&put), String::from_utf8_lossy(value));
    let refused = |value: &str| {
        let error = read_queue(key, value.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("expected former levels apart from each other, 255 at most"), "{error}");
    };
    refused(
        r#"{"v":4,"id":7,"auto_delete":false,"arguments":"AAAAAA==","former":[[0,0,0],[0,31,4]],"base":40}"#,
    );
    refused(r#"{"v":4,"id":7,"auto_delete":false,"arguments":"AAAAAA==","former":[[0,0]],"base":1}"#);
    // With x-max-priority 9 there is no level for 8 and 9.
    refused(
        r#"{"v":4,"id":7,"auto_delete":true,"arguments":"AAAAFA54LW1heC1wcmlvcml0eUkAAAAJ","former":[[0,0,0]],"base":248}"#,
    );
}

#[test]
fn version_3_queues_are_read() {
    let key = br#"["/","q"]"#;
    let value = br#"{"v":3,"id":7,"auto_delete":false,"arguments":"AAAAAA==","former":[[0,0],[31,4]]}"#;
    let (id, definition, setup) = read_queue(key, value).unwrap();
    assert_eq!(setup.settings().levels().base, 33);
    let (_, put) = key_and_value(put_queue(id, &definition, &setup));
    assert_eq!(read_queue(key, &put).unwrap().2, setup);
    let many = br#"{"v":3,"id":7,"auto_delete":false,"arguments":"AAAAAA==","former":[[255,0]]}"#;
    let error = read_queue(key, many).unwrap_err().to_string();
    assert!(
        error.ends_with("expected former levels apart from each other, 255 at most, got [[255, 0]] and 0"),
        "{error}"
    );
}

#[test]
fn version_1_exchanges_and_bindings_are_read() {
    let key = br#"["/","logs"]"#;
    let value = br#"{"v":1,"type":"fanout","auto_delete":false,"internal":true,"arguments":"AAAAAA=="}"#;
    let (vhost, change) = read_exchange(key, value).unwrap();
    assert_eq!(key_and_value(topology_change(&vhost, &change)), (key.to_vec(), value.to_vec()));
    let key = br#"["/","logs","queue","q","k","AAAAAA=="]"#;
    let (vhost, change) = read_binding(key, br#"{"v":1}"#).unwrap();
    assert_eq!(key_and_value(topology_change(&vhost, &change)), (key.to_vec(), br#"{"v":1}"#.to_vec()));
}

#[test]
fn version_1_parameters_are_read() {
    let key = br#"["/","policy","p"]"#;
    let value = br#"{"v":1,"value":{"definition":{"queue-version":2},"pattern":"^a"}}"#;
    let ([vhost, component, name], read) = read_parameter(key, value).unwrap();
    assert_eq!((&*vhost, &*component, &*name), ("/", "policy", "p"));
    let put = put_parameter(&vhost, &component, &name, &read);
    assert_eq!(key_and_value(put), (key.to_vec(), value.to_vec()));
    assert!(read_parameter(key, br#"{"v":2,"value":1}"#).is_err());
    assert!(read_parameter(br#"["/","policy"]"#, value).is_err());
    let (key, value) = (br#"["cluster_name"]"#, br#"{"v":1,"value":"a"}"#);
    let (name, read) = read_global_parameter(key, value).unwrap();
    assert_eq!(key_and_value(put_global_parameter(&name, &read)), (key.to_vec(), value.to_vec()));
}

#[test]
fn newer_versions_and_damage_are_refused_by_name() {
    let error = read_vhost(br#"["/"]"#, br#"{"v":3}"#).unwrap_err().to_string();
    assert_eq!(error, "cannot read a definition in table vhosts: expected version 2 at most, got 3");
    let error = read_vhost(br#"["/","x"]"#, br#"{"v":1}"#).unwrap_err().to_string();
    assert_eq!(error, "cannot read a definition in table vhosts: expected a key of 1 names, got 2");
    assert!(read_next_queue_id(b"x").is_err());
    assert!(read_queue(br#"["/","q"]"#, br#"{"v":1,"id":1,"auto_delete":true,"arguments":"!"}"#).is_err());
}

#[test]
fn a_virtual_host_comes_back() {
    let metadata = VhostMetadata { description: "d".into(), ..VhostMetadata::default() };
    let (key, value) = key_and_value(put_vhost("a/b", &metadata));
    assert_eq!(value, br#"{"v":2,"metadata":{"description":"d","tags":[]}}"#);
    assert_eq!(read_vhost(&key, &value).unwrap(), (name("a/b"), metadata));
    let first = read_vhost(&key, br#"{"v":1}"#).unwrap();
    assert_eq!(first, (name("a/b"), VhostMetadata::default()));
}
