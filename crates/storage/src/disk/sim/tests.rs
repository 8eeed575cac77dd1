//! What the simulated disk does to bytes and names.

use super::*;

fn path(name: &str) -> PathBuf {
    Path::new("/").join(name)
}

#[test]
fn synced_bytes_survive_and_unsynced_ones_vary() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..60 {
        let disk = SimDisk::new(seed);
        let file = disk.create(&path("f")).unwrap();
        file.write_all_at(&[1; 2000], 0).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        file.write_all_at(&[2; 512], 512).unwrap();
        let after = disk.crash().contents().remove(&path("f")).unwrap();
        assert_eq!(after.len(), 2000);
        assert!(after[..512].iter().chain(&after[1024..]).all(|&byte| byte == 1));
        let new = after[512..1024].iter().take_while(|&&byte| byte == 2).count();
        assert!(after[512 + new..1024].iter().all(|&byte| byte == 1), "torn once, not mixed");
        outcomes.insert(if new == 0 {
            "lost"
        } else if new == 512 {
            "kept"
        } else {
            "torn"
        });
    }
    assert_eq!(outcomes.len(), 3, "{outcomes:?}");
}

#[test]
fn names_need_their_directory_synced() {
    let (mut lost, mut kept) = (0, 0);
    for seed in 0..40 {
        let disk = SimDisk::new(seed);
        disk.create_dir_all(&path("d")).unwrap();
        disk.create(&path("d/a")).unwrap();
        disk.sync_dir(&path("d")).unwrap();
        disk.rename(&path("d/a"), &path("d/b")).unwrap();
        let names = disk.crash().list(&path("d")).unwrap();
        match names.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["a"] => lost += 1,
            ["b"] => kept += 1,
            _ => panic!("a rename is atomic: {names:?}"),
        }
        disk.sync_dir(&path("d")).unwrap();
        assert_eq!(disk.crash().list(&path("d")).unwrap(), ["b"]);
    }
    assert!(lost > 0 && kept > 0);
}

#[test]
fn faults_strike_once_and_capacity_limits_growth() {
    let disk = SimDisk::new(1);
    let file = disk.create(&path("f")).unwrap();
    disk.fail(Op::Write, 2, Fault::Io);
    file.write_all_at(b"one", 0).unwrap();
    let error = file.write_all_at(b"two", 0).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
    file.write_all_at(b"two", 0).unwrap();
    assert_eq!(disk.count(Op::Write), 3);
    disk.set_capacity(100);
    assert_eq!(file.allocate(101).unwrap_err().kind(), io::ErrorKind::StorageFull);
    file.allocate(100).unwrap();
    assert_eq!(disk.free_space(&path("")).unwrap(), 0);
}

#[test]
fn a_failed_sync_cannot_be_made_good() {
    let lost = (0..40).any(|seed| {
        let disk = SimDisk::new(seed);
        let file = disk.create(&path("f")).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        file.write_all_at(&[3; 4096], 0).unwrap();
        disk.fail(Op::Sync, 1, Fault::Io);
        file.sync_data().unwrap_err();
        file.sync_data().unwrap();
        disk.crash().contents()[&path("f")] != [3; 4096]
    });
    assert!(lost);
}
