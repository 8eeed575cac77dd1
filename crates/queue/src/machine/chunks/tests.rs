//! Settling, and what chunks cost.

use std::sync::Arc;

use posthouse_model::chunk::ChunkBuilder;

use super::*;

fn held(first_seq: Seq, span: u32) -> Held<u32> {
    let mut builder = ChunkBuilder::default();
    for _ in 0..span {
        builder.push(0, 0, b"\0\0", b"", 1, b"x");
    }
    Held::new(first_seq, Arc::new(builder.finish()), Persistence::Transient, 0)
}

fn chunks() -> Chunks<u32> {
    let mut chunks = Chunks::default();
    chunks.push(held(10, 5));
    chunks.push(held(15, 5));
    chunks.push(held(30, 5));
    chunks
}

#[test]
fn settling_in_order_needs_no_bitmap() {
    let mut chunks = chunks();
    assert_eq!(chunks.settle(10, 12).count, 3);
    assert!(!chunks.get(0).unwrap().has_holes());
    assert_eq!(chunks.settle(10, 16).count, 4, "three were settled before");
    assert_eq!((chunks.len(), chunks.get(0).unwrap().prefix), (2, 2));
}

#[test]
fn holes_are_absorbed_when_the_prefix_reaches_them() {
    let mut chunks = chunks();
    assert_eq!(chunks.settle(12, 12).count, 1);
    assert_eq!(chunks.settle(12, 13).count, 1);
    assert!(chunks.get(0).unwrap().is_settled(3));
    assert_eq!(chunks.settle(10, 11).count, 2);
    let first = chunks.get(0).unwrap();
    assert_eq!((first.prefix, first.live, first.has_holes()), (4, 1, false));
}

#[test]
fn dead_chunks_leave_and_free_their_memory() {
    let mut chunks = chunks();
    let one = chunks.memory_bytes() / 3;
    assert_eq!(chunks.settle(0, 31).count, 12);
    assert_eq!((chunks.len(), chunks.memory_bytes()), (1, one));
    assert_eq!(chunks.settle(0, 100).count, 3);
    assert_eq!(chunks.memory_bytes(), 0);
}

/// A place in a segment as large as the storage's.
type Place = (u64, u32, u32, u32, bool);

#[test]
fn a_backlog_on_disk_costs_a_small_descriptor_per_chunk() {
    const CHUNKS: usize = 50_000;
    const DESCRIPTOR_BYTES: usize = 128;
    assert!(size_of::<Held<Place>>() <= DESCRIPTOR_BYTES, "{} bytes", size_of::<Held<Place>>());
    let mut chunks: Chunks<Place> = Chunks::default();
    for n in 0..CHUNKS as u64 {
        let residence = Residence::Stored((n / 64, 0, 256 << 10, 4_000, true));
        chunks.push(Held::recovered(n * 4_000, 4_000, None, residence));
        let bound = (chunks.len() + chunks.len() / 8 + GROW_MIN) * DESCRIPTOR_BYTES;
        assert!(chunks.descriptor_bytes() <= bound, "{} of {bound}", chunks.descriptor_bytes());
    }
    assert_eq!(chunks.memory_bytes(), 0);
    chunks.settle(0, (CHUNKS as u64 - 1) * 4_000 - 1);
    assert_eq!(chunks.len(), 1);
    assert!(
        chunks.descriptor_bytes() <= KEPT_MAX * DESCRIPTOR_BYTES,
        "{} are kept",
        chunks.descriptor_bytes()
    );
}

#[test]
fn dead_stored_chunks_release_their_place() {
    let mut chunks = chunks();
    chunks.set_residence(1, Residence::Stored(77));
    chunks.settle(15, 19);
    assert_eq!(chunks.take_released(), [77]);
}
