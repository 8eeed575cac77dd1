//! One queue of a checkpoint as bytes, in every version. They are drawn in the module above.

use posthouse_model::attempts::{AttemptRange, Attempts};
use posthouse_model::bitmap::SeqBitmap;
use posthouse_model::chunk::Received;
use posthouse_model::delays::DelayRange;
use posthouse_model::ids::QueueId;
use posthouse_model::shares::{Share, Shares, UserNumber};

use super::{BlockRef, Note, QueueState};
use crate::segment::{Class, Location, SegmentId};
use crate::varint;

/// The first version with notes.
const VERSION_OF_NOTES: u16 = 2;
/// The first version with times.
pub(super) const VERSION_OF_TIMES: u16 = 3;
/// The first version with ranges of messages that came back.
const VERSION_OF_ATTEMPTS: u16 = 4;
/// The first version with shared blocks.
const VERSION_OF_SHARED: u16 = 5;
/// The first version that knows who published.
const VERSION_OF_PUBLISHERS: u16 = 6;
/// The first version with delays.
const VERSION_OF_DELAYS: u16 = 7;

/// Appends a queue in the newest version.
pub(super) fn encode_queue(state: &QueueState, out: &mut Vec<u8>) {
    varint::put(out, state.id.0);
    varint::put(out, state.next_seq);
    for below in [state.floor, state.covered, state.delivered_below] {
        debug_assert!(below <= state.next_seq, "{state:?}");
        varint::put(out, state.next_seq - below.min(state.next_seq));
    }
    varint::put(out, state.blocks.len() as u64);
    let (mut end, mut file, mut first_ms) = (0, 0u64, 0u64);
    for block in &state.blocks {
        debug_assert!(block.first_seq >= end && block.location.class == Class::Durable, "{block:?}");
        varint::put(out, block.first_seq - end);
        end = block.first_seq + u64::from(block.span);
        let (expires, has_bitmap) = (u64::from(block.expires), u64::from(block.settled.is_some()));
        let shared = u64::from(block.location.shared);
        let published = u64::from(block.shares != Shares::default());
        let bits = published << 3 | shared << 2 | expires << 1 | has_bitmap;
        varint::put(out, u64::from(block.span) << 4 | bits);
        varint::put(out, u64::from(block.span.saturating_sub(block.location.records)));
        varint::put(out, varint::zigzag(block.location.file.0.wrapping_sub(file) as i64));
        file = block.location.file.0;
        varint::put(out, block.location.offset.into());
        varint::put(out, block.location.len.into());
        varint::put(out, varint::zigzag(block.received.first_ms.wrapping_sub(first_ms) as i64));
        first_ms = block.received.first_ms;
        varint::put(out, block.received.last_ms.saturating_sub(first_ms));
        if published == 1 {
            encode_shares(&block.shares, out);
        }
        if let Some(settled) = &block.settled {
            settled.encode(out);
        }
    }
    varint::put(out, state.notes.len() as u64);
    for bytes in state.notes.iter().flat_map(|note| [&note.key, &note.value]) {
        varint::put(out, bytes.len() as u64);
        out.extend_from_slice(bytes);
    }
    varint::put(out, state.attempts.len() as u64);
    let mut end = 0;
    for range in &state.attempts {
        debug_assert!(range.first >= end && range.last >= range.first, "{range:?}");
        varint::put(out, range.first - end);
        varint::put(out, range.last - range.first);
        varint::put(out, range.attempts.failed.into());
        varint::put(out, range.attempts.acquired.into());
        end = range.last;
    }
    varint::put(out, state.delays.len() as u64);
    let (mut end, mut due_ms) = (0, 0u64);
    for range in &state.delays {
        debug_assert!(range.first >= end && range.last >= range.first, "{range:?}");
        varint::put(out, range.first - end);
        varint::put(out, range.last - range.first);
        varint::put(out, varint::zigzag(range.due_ms.wrapping_sub(due_ms) as i64));
        (end, due_ms) = (range.last, range.due_ms);
    }
}

fn encode_shares(shares: &Shares, out: &mut Vec<u8>) {
    match shares {
        Shares::One(user) => {
            varint::put(out, 1);
            varint::put(out, user.0.into());
        }
        Shares::Several(list) => {
            varint::put(out, list.len() as u64);
            for share in list {
                varint::put(out, share.user.0.into());
                varint::put(out, share.bytes.into());
            }
        }
    }
}

fn decode_shares(bytes: &mut &[u8]) -> Option<Shares> {
    let user = |bytes: &mut &[u8]| Some(UserNumber(u16::try_from(varint::take(bytes)?).ok()?));
    let count = usize::try_from(varint::take(bytes)?).ok()?;
    if count == 1 {
        return Some(Shares::One(user(bytes)?));
    }
    // A share takes at least two bytes.
    let mut list = Vec::with_capacity(count.min(bytes.len() / 2));
    for _ in 0..count {
        list.push(Share { user: user(bytes)?, bytes: u32::try_from(varint::take(bytes)?).ok()? });
    }
    let ascends = list.windows(2).all(|pair| pair[0].user < pair[1].user);
    (count > 1 && ascends).then(|| Shares::Several(list.into()))
}

/// Reads a queue of that version off the front of `bytes`; none when they are cut short or make no sense.
pub(super) fn decode_queue(bytes: &mut &[u8], version: u16) -> Option<QueueState> {
    let id = QueueId(varint::take(bytes)?);
    let next_seq = varint::take(bytes)?;
    let floor = next_seq.checked_sub(varint::take(bytes)?)?;
    let covered = next_seq.checked_sub(varint::take(bytes)?)?;
    let delivered_below = next_seq.checked_sub(varint::take(bytes)?)?;
    let count = usize::try_from(varint::take(bytes)?).ok()?;
    // A block takes at least six bytes, so a count beyond that is not worth its memory.
    let mut blocks = Vec::with_capacity(count.min(bytes.len() / 6));
    let has_times = version >= VERSION_OF_TIMES;
    let flag_bits = match version {
        VERSION_OF_PUBLISHERS.. => 4,
        VERSION_OF_SHARED => 3,
        VERSION_OF_TIMES.. => 2,
        _ => 1,
    };
    let (mut end, mut file, mut first_ms) = (0u64, 0u64, 0u64);
    for _ in 0..count {
        let first_seq = end.checked_add(varint::take(bytes)?)?;
        let span = varint::take(bytes)?;
        let has_bitmap = span & 1 == 1;
        let expires = has_times && span & 2 == 2;
        let shared = version >= VERSION_OF_SHARED && span & 4 == 4;
        let published = version >= VERSION_OF_PUBLISHERS && span & 8 == 8;
        let span = u32::try_from(span >> flag_bits).ok()?;
        end = first_seq.checked_add(span.into())?;
        let records = span.checked_sub(u32::try_from(varint::take(bytes)?).ok()?)?;
        file = file.wrapping_add(varint::unzigzag(varint::take(bytes)?) as u64);
        let offset = u32::try_from(varint::take(bytes)?).ok()?;
        let len = u32::try_from(varint::take(bytes)?).ok()?;
        let received = if has_times {
            first_ms = first_ms.wrapping_add(varint::unzigzag(varint::take(bytes)?) as u64);
            Received { first_ms, last_ms: first_ms.checked_add(varint::take(bytes)?)? }
        } else {
            Received::UNKNOWN
        };
        let shares = if published { decode_shares(bytes)? } else { Shares::default() };
        let settled = if has_bitmap {
            let (bitmap, rest) = SeqBitmap::decode(bytes).filter(|(bitmap, _)| bitmap.len() == span)?;
            *bytes = rest;
            Some(bitmap)
        } else {
            None
        };
        let location =
            Location { file: SegmentId(file), class: Class::Durable, shared, offset, len, records };
        blocks.push(BlockRef { location, first_seq, span, settled, received, expires, shares });
    }
    let notes = if version < VERSION_OF_NOTES { Vec::new() } else { decode_notes(bytes)? };
    let attempts = if version < VERSION_OF_ATTEMPTS { Vec::new() } else { decode_attempts(bytes)? };
    let delays = if version < VERSION_OF_DELAYS { Vec::new() } else { decode_delays(bytes)? };
    Some(QueueState { id, next_seq, floor, covered, delivered_below, blocks, notes, attempts, delays })
}

fn decode_notes(bytes: &mut &[u8]) -> Option<Vec<Note>> {
    let count = usize::try_from(varint::take(bytes)?).ok()?;
    // A note takes at least three bytes.
    let mut notes = Vec::with_capacity(count.min(bytes.len() / 3));
    for _ in 0..count {
        notes.push(Note { key: decode_bytes(bytes)?, value: decode_bytes(bytes)? });
    }
    Some(notes)
}

fn decode_bytes(bytes: &mut &[u8]) -> Option<Box<[u8]>> {
    let length = usize::try_from(varint::take(bytes)?).ok()?;
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken.into())
}

fn decode_attempts(bytes: &mut &[u8]) -> Option<Vec<AttemptRange>> {
    let count = usize::try_from(varint::take(bytes)?).ok()?;
    // A range takes at least four bytes.
    let mut ranges = Vec::with_capacity(count.min(bytes.len() / 4));
    let mut end = 0u64;
    for _ in 0..count {
        let first = end.checked_add(varint::take(bytes)?)?;
        let last = first.checked_add(varint::take(bytes)?)?;
        let failed = u32::try_from(varint::take(bytes)?).ok()?;
        let acquired = u32::try_from(varint::take(bytes)?).ok()?;
        ranges.push(AttemptRange { first, last, attempts: Attempts { failed, acquired } });
        end = last;
    }
    Some(ranges)
}

fn decode_delays(bytes: &mut &[u8]) -> Option<Vec<DelayRange>> {
    let count = usize::try_from(varint::take(bytes)?).ok()?;
    // A range takes at least three bytes.
    let mut ranges = Vec::with_capacity(count.min(bytes.len() / 3));
    let (mut end, mut due_ms) = (0u64, 0u64);
    for _ in 0..count {
        let first = end.checked_add(varint::take(bytes)?)?;
        let last = first.checked_add(varint::take(bytes)?)?;
        due_ms = due_ms.wrapping_add(varint::unzigzag(varint::take(bytes)?) as u64);
        ranges.push(DelayRange { first, last, due_ms });
        end = last;
    }
    Some(ranges)
}
