use super::*;

fn put(table: MetaTable, key: &str, value: &str) -> MetaOp {
    MetaOp::Put { table, key: key.into(), value: value.into() }
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(Vec<u8>, Vec<u8>)> {
    expected.iter().map(|(k, v)| (k.as_bytes().to_vec(), v.as_bytes().to_vec())).collect()
}

fn no_fatal() -> MetaFatal {
    Arc::new(|text: &str| panic!("unexpected fatal error: {text}"))
}

fn check_interface(store: &MetaStore) {
    store.apply(vec![put(MetaTable::Queues, "b", "1"), put(MetaTable::Queues, "a", "2")]);
    store.apply(vec![put(MetaTable::Users, "a", "3"), put(MetaTable::Queues, "c", "4")]);
    let last = store.apply(vec![
        MetaOp::Delete { table: MetaTable::Queues, key: b"b".to_vec() },
        put(MetaTable::Queues, "a", "5"),
        MetaOp::Delete { table: MetaTable::Queues, key: b"nothing".to_vec() },
    ]);
    store.flush().unwrap();
    assert_eq!(last, MetaPos(7));
    assert_eq!(store.committed(), last);
    assert!(!store.congested());
    check_content(store);
}

fn check_content(store: &MetaStore) {
    assert_eq!(store.scan(MetaTable::Queues).unwrap(), pairs(&[("a", "5"), ("c", "4")]));
    assert_eq!(store.scan(MetaTable::Users).unwrap(), pairs(&[("a", "3")]));
    assert_eq!(store.scan(MetaTable::System).unwrap(), []);
    assert_eq!(store.scan(MetaTable::Bindings).unwrap(), []);
}

#[test]
fn memory_keeps_what_it_is_told() {
    check_interface(&MetaStore::in_memory());
}

#[test]
fn a_file_keeps_what_it_is_told_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("meta.redb");
    check_interface(&MetaStore::open(&path, no_fatal()).unwrap());
    check_content(&MetaStore::open(&path, no_fatal()).unwrap());
    let before = std::fs::read(&path).unwrap();
    let census = inspect(&path).unwrap();
    assert_eq!(census.entries, [0, 1, 0, 0, 0, 2, 0, 0, 0, 0]);
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn dropping_the_store_commits_what_is_queued() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("meta.redb");
    MetaStore::open(&path, no_fatal()).unwrap().apply(vec![put(MetaTable::Vhosts, "/", "{}")]);
    let store = MetaStore::open(&path, no_fatal()).unwrap();
    assert_eq!(store.scan(MetaTable::Vhosts).unwrap(), pairs(&[("/", "{}")]));
}

/// What a crash leaves: a copy of the file taken while it is open.
#[test]
fn a_file_left_open_by_a_crash_has_all_that_was_committed() {
    let dir = tempfile::tempdir().unwrap();
    let store = MetaStore::open(&dir.path().join("meta.redb"), no_fatal()).unwrap();
    check_interface(&store);
    let copy = dir.path().join("copy.redb");
    std::fs::copy(dir.path().join("meta.redb"), &copy).unwrap();
    assert_eq!(inspect(&copy).unwrap().entries[MetaTable::Queues as usize], 2);
    check_content(&MetaStore::open(&copy, no_fatal()).unwrap());
}

#[test]
fn refuses_formats_it_does_not_know() {
    for (format, expected) in [
        ("2", "has format 2, this version reads formats up to 1"),
        ("x", "format key is damaged: expected a decimal number, got \"x\""),
        ("0", "format key is damaged: expected a decimal number, got \"0\""),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("meta.redb");
        MetaStore::open(&path, no_fatal()).unwrap().apply(vec![put(MetaTable::System, "format", format)]);
        let error = MetaStore::open(&path, no_fatal()).err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
        let error = inspect(&path).err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_damaged_file_is_an_error_not_an_empty_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("meta.redb");
    std::fs::write(&path, b"this is not a database, but it is longer than nothing").unwrap();
    assert!(matches!(MetaStore::open(&path, no_fatal()), Err(MetaError::Store { .. })));
    assert!(matches!(inspect(&path), Err(MetaError::Store { .. })));
}

#[test]
fn ten_thousand_queued_changes_need_few_commits() {
    let dir = tempfile::tempdir().unwrap();
    let store = MetaStore::open(&dir.path().join("meta.redb"), no_fatal()).unwrap();
    let started = std::time::Instant::now();
    for i in 0..10_000 {
        store.apply(vec![put(MetaTable::Queues, &format!("/\0queue-{i}"), &"x".repeat(100))]);
    }
    store.flush().unwrap();
    println!("10,000 queue declarations in {:?}", started.elapsed());
    assert_eq!(store.scan(MetaTable::Queues).unwrap().len(), 10_000);
}
