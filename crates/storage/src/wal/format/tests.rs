//! Records are sealed, damaged and read back.

use super::*;

fn sealed(kind: u8, body: &[u8], salt: u64, lsn: Lsn) -> Vec<u8> {
    let mut record = record_header(kind, (RECORD_HEADER_BYTES + body.len()) as u32).to_vec();
    record.extend_from_slice(body);
    seal_record(&mut record, &[], salt, lsn);
    record
}

#[test]
fn headers_read_back_and_refuse_any_flipped_bit() {
    let file = FileHeader { number: 7, salt: 0x1122_3344_5566_7788 };
    let bytes = file.encode();
    assert_eq!(FileHeader::decode(&bytes), ReadHeader::Valid(file));
    let batch = BatchHeader {
        length: 100,
        records: 2,
        flags: FLAG_CLOSED,
        salt: file.salt,
        number: 3,
        first: 1000,
        durable_before: 900,
    };
    let batch_bytes = batch.encode();
    assert_eq!(BatchHeader::decode(&batch_bytes, file.salt), Some(batch));
    assert_eq!(BatchHeader::decode(&batch_bytes, file.salt + 1), None);
    assert_eq!((batch.end(), batch.file_bytes()), (1100, 512));
    for bit in 0..bytes.len() * 8 {
        let mut wrong = bytes;
        wrong[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(FileHeader::decode(&wrong), ReadHeader::Invalid);
    }
    for bit in 0..batch_bytes.len() * 8 {
        let mut wrong = batch_bytes;
        wrong[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(BatchHeader::decode(&wrong, file.salt), None);
    }
}

#[test]
fn another_version_is_told_apart_from_damage() {
    let mut bytes = FileHeader { number: 1, salt: 2 }.encode();
    bytes[8] = 9;
    seal(&mut bytes, FILE_CRC_AT);
    assert_eq!(FileHeader::decode(&bytes), ReadHeader::Version(9));
}

#[test]
fn a_record_verifies_only_whole_and_in_its_place() {
    let record = sealed(KIND_SETTLE, &[1; 24], 5, 40);
    assert!(record_is_intact(&record, 5, 40));
    assert!(!record_is_intact(&record, 6, 40), "another file's salt");
    assert!(!record_is_intact(&record, 5, 41), "another position");
    for bit in 0..record.len() * 8 {
        let mut wrong = record.clone();
        wrong[bit / 8] ^= 1 << (bit % 8);
        assert!(!record_is_intact(&wrong, 5, 40));
    }
    let mut split = record.clone();
    seal_record(&mut split[..30], &record[30..], 5, 40);
    assert_eq!(split, record);
}

/// As they were written when kind 8 was new.
#[test]
fn the_bytes_of_a_group_stay_readable() {
    let mut deleted = [0; 32];
    (deleted[0], deleted[4], deleted[24]) = (32, 4, 10);
    let mut note = [0; 38];
    (note[0], note[4], note[24], note[32]) = (38, 6, 11, 1);
    note[36..].copy_from_slice(b"kv");
    let group = sealed(8, &[&deleted[..], &note[..]].concat(), 0, 0);
    let Some(LogRecord::Group(group)) = LogRecord::parse(&group) else { panic!("no group") };
    let note = LogRecord::Note { queue: QueueId(11), key: b"k", value: b"v" };
    assert!(group.records().eq([LogRecord::QueueDeleted { queue: QueueId(10) }, note]));
}

#[test]
fn bodies_of_the_wrong_form_are_refused() {
    for (kind, body) in [
        (KIND_ENQUEUE, &[0; 7][..]),
        (KIND_ENQUEUE, &[1, 0, 0, 0, 2, 0, 0, 0, 9, 9]),
        (KIND_ENQUEUE, &[1, 0, 0, 0, 255, 255, 255, 255]),
        (KIND_SETTLE, &[0; 9]),
        (KIND_QUEUE_DELETED, &[0; 9]),
        (KIND_MOVE, &[0; 23]),
        (KIND_MOVE, &[1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]),
        (KIND_NOTE, &[0; 11]),
        (KIND_NOTE, &[0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1]),
        (KIND_ATTEMPTS, &[0; 31]),
        (KIND_GROUP, &[0; 7]),
        (KIND_GROUP, &sealed(KIND_SETTLE, &[0; 9], 0, 0)),
        (KIND_GROUP, &sealed(KIND_GROUP, &[], 0, 0)),
        (KIND_GROUP, &[sealed(KIND_QUEUE_DELETED, &[1; 8], 0, 0), vec![1, 0, 0, 0]].concat()),
        (KIND_DELAYS, &[0; 33]),
        (99, &[0; 8]),
    ] {
        assert_eq!(LogRecord::parse(&sealed(kind, body, 0, 0)), None, "kind {kind}");
    }
}
