//! Parts of a data directory that are gone: each is refused, with nothing changed, and everything is there again when
//! the part is put back.

use super::*;

/// A disk after an orderly stop of the second run, with messages in segments and records in the log.
fn stopped() -> SimDisk {
    let disk = new_disk(1);
    let (owner, _) = start(&disk, None);
    for _ in 0..60 {
        owner.enqueue(&[1, 2], 10, 300, 0);
        owner.store.checkpoint(&owner, false).unwrap();
    }
    let owner = restart(&disk, owner);
    owner.enqueue(&[1], 10, 100, 0);
    owner.store.close(&owner).unwrap();
    disk
}

/// Files whose path has `part` in it, with their bytes.
fn files(disk: &SimDisk, part: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let contents = disk.contents().into_iter();
    contents.filter(|(path, _)| path.to_string_lossy().contains(part)).collect()
}

fn live(recovered: &Recovered) -> u64 {
    recovered.queues.iter().map(RecoveredQueue::live).sum()
}

#[test]
fn each_part_is_missed() {
    for (part, missing) in [
        ("/checkpoint-", "the checkpoint that the log goes on from is missing, found "),
        ("/wal/", "the log in wal is missing, found 1 x checkpoint, "),
        ("/segments/", "everything in segments is missing, found 1 x checkpoint, "),
    ] {
        let disk = stopped();
        let taken = files(&disk, part);
        assert!(!taken.is_empty());
        taken.iter().for_each(|(path, _)| disk.remove(path).unwrap());
        let left = disk.contents();
        let refusal = open(&disk).err().unwrap().to_string();
        let expected = format!("data directory {DIR} is incomplete: {missing}");
        assert!(refusal.starts_with(&expected), "{refusal}");
        assert!(disk.contents() == left, "something was changed though {part} is missing");
        for (path, bytes) in taken {
            disk.create(&path).unwrap().write_all_at(&bytes, 0).unwrap();
        }
        let (_, recovered) = open(&disk).unwrap();
        assert_eq!((recovered.damages.len(), live(&recovered)), (0, 1210), "{part}");
    }
}

#[test]
fn definitions_are_missed_once_there_was_anything() {
    let dir = Path::new(DIR);
    let allowed = |disk: &SimDisk| Presence::of(disk, dir).unwrap().allows_no_definitions(dir);
    let disk = new_disk(1);
    for name in ["wal", "segments"] {
        disk.create_dir_all(&dir.join(name)).unwrap();
    }
    allowed(&disk).unwrap();
    // A first start that got as far as the log's first files.
    let (store, recovered) = open(&disk).unwrap();
    assert!(recovered.new);
    allowed(&disk.crash()).unwrap();
    store.wal().stage().settle(QueueId(1), &[(0, 0)]);
    store.wal().sync().unwrap();
    let refusal = allowed(&disk.crash()).unwrap_err().to_string();
    let expected = format!(
        "data directory {DIR} is incomplete: meta.redb is missing, found 1 x log file with records: "
    );
    assert!(refusal.starts_with(&expected), "{refusal}");
}

#[test]
fn a_log_without_a_checkpoint_is_whole_until_there_was_one() {
    let disk = new_disk(1);
    let (owner, recovered) = start(&disk, None);
    assert!(recovered.new && !recovered.clean);
    owner.enqueue(&[1], 10, 300, 0);
    owner.store.wal().sync().unwrap();
    let crashed = disk.crash();
    let (_, recovered) = start(&crashed, Some(&owner));
    assert!(!recovered.new);
    // Damage to the first record is damage, not a lost checkpoint.
    let log = files(&crashed, "/wal/").into_iter().find(|(_, bytes)| bytes[4096] != 0).unwrap().0;
    crashed.corrupt(&log, 4100, 0xff);
    assert_eq!(open(&crashed).unwrap().1.damages.len(), 1);
}

#[test]
fn a_start_that_is_given_up_leaves_the_stop_before_an_orderly_one() {
    let disk = stopped();
    for _ in 0..3 {
        let (store, recovered) = open(&disk).unwrap();
        assert!(recovered.clean);
        drop(store);
    }
    let (store, _) = open(&disk).unwrap();
    store.begin().unwrap();
    assert!(!open(&disk.crash()).unwrap().1.clean);
}
