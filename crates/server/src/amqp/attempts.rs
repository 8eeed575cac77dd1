//! Deliveries of messages that came back, from queues with a delivery limit: with `x-delivery-count` and
//! `x-acquired-count` among their headers.

use std::borrow::Cow;

use posthouse_amqp::frame::OVERHEAD_BYTES;
use posthouse_model::attempts::Attempts;
use posthouse_model::header_entries;

/// A message's content header with what became of its earlier deliveries. As it is when there were none, and when it would
/// not fit into a frame.
pub(crate) fn with_attempts(header: &[u8], attempts: Attempts, frame_max: u32) -> Cow<'_, [u8]> {
    let Attempts { failed, acquired } = attempts;
    let entries = [("x-acquired-count", acquired), ("x-delivery-count", failed)];
    let entries = match attempts {
        Attempts { acquired: 0, .. } => return Cow::Borrowed(header),
        Attempts { failed: 0, .. } => &entries[..1],
        Attempts { .. } => &entries[..],
    };
    header_entries::with_integers(header, entries)
        .filter(|with| frame_max == 0 || with.len() + OVERHEAD_BYTES <= frame_max as usize)
        .map_or(Cow::Borrowed(header), Cow::Owned)
}
