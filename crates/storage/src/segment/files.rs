//! Accounting of live blocks per file, and the bounded set of open handles.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use super::{Class, Location, SegmentId, SegmentUsage};
use crate::disk::DiskFile;

/// Handles kept open for reading.
pub(super) const OPEN_HANDLES: usize = 64;

#[derive(Debug)]
struct Account {
    class: Class,
    /// Still appended to.
    open: bool,
    /// Not to be rewritten: a block in it is damaged.
    set_aside: bool,
    total_bytes: u64,
    live_bytes: u64,
    live_blocks: u32,
}

#[derive(Debug, Default)]
pub(super) struct Files {
    accounts: BTreeMap<SegmentId, Account>,
    /// How often each shared block that is live is referred to, by file and offset. For its file it counts once.
    shared: HashMap<(SegmentId, u32), u32>,
}

impl Files {
    /// A durable file that an earlier process left.
    pub(super) fn found(&mut self, id: SegmentId, size: u64) {
        self.insert(id, Class::Durable, false, size);
    }

    /// A file that is being appended to.
    pub(super) fn created(&mut self, id: SegmentId, class: Class, size: u64) {
        self.insert(id, class, true, size);
    }

    fn insert(&mut self, id: SegmentId, class: Class, open: bool, total_bytes: u64) {
        let account = Account { class, open, set_aside: false, total_bytes, live_bytes: 0, live_blocks: 0 };
        self.accounts.insert(id, account);
    }

    pub(super) fn size(&self, id: SegmentId) -> Option<u64> {
        self.accounts.get(&id).map(|account| account.total_bytes)
    }

    /// A live block, or one more reference to a shared one; a block just written also extends the file.
    pub(super) fn add(&mut self, location: &Location) {
        if location.shared {
            let references = self.shared.entry((location.file, location.offset)).or_default();
            *references += 1;
            if *references > 1 {
                return;
            }
        }
        if let Some(account) = self.accounts.get_mut(&location.file) {
            let end = u64::from(location.offset) + u64::from(location.len);
            account.total_bytes = account.total_bytes.max(end);
            account.live_bytes += u64::from(location.len);
            account.live_blocks += 1;
        }
    }

    /// One more reference to a shared block; false when it is not live any more, or damaged as far as is known.
    pub(super) fn share(&mut self, location: &Location) -> bool {
        let sound = self.accounts.get(&location.file).is_some_and(|account| !account.set_aside);
        let references = self.shared.get_mut(&(location.file, location.offset)).filter(|_| sound);
        references.map(|references| *references += 1).is_some()
    }

    /// Nothing more is appended; whether the file is dead already.
    pub(super) fn close(&mut self, id: SegmentId) -> bool {
        let Some(account) = self.accounts.get_mut(&id) else { return false };
        account.open = false;
        account.live_blocks == 0
    }

    /// A block, or a reference to a shared one, is given up. Whether the file is dead now.
    pub(super) fn release(&mut self, location: &Location) -> bool {
        if location.shared {
            let place = (location.file, location.offset);
            let references = self.shared.get_mut(&place);
            debug_assert!(references.is_some(), "released too often: {location:?}");
            match references {
                Some(references) if *references > 1 => {
                    *references -= 1;
                    return false;
                }
                Some(_) => drop(self.shared.remove(&place)),
                None => return false,
            }
        }
        let Some(account) = self.accounts.get_mut(&location.file) else { return false };
        debug_assert!(account.live_blocks > 0, "released twice: {location:?}");
        account.live_blocks = account.live_blocks.saturating_sub(1);
        account.live_bytes = account.live_bytes.saturating_sub(location.len.into());
        !account.open && account.live_blocks == 0
    }

    pub(super) fn retired(&self) -> Vec<SegmentId> {
        let dead = |a: &Account| a.class == Class::Durable && !a.open && a.live_blocks == 0;
        self.accounts.iter().filter(|(_, a)| dead(a)).map(|(id, _)| *id).collect()
    }

    pub(super) fn forget(&mut self, id: SegmentId) {
        self.accounts.remove(&id);
    }

    /// The file is not among the mostly dead ones from now on.
    pub(super) fn set_aside(&mut self, id: SegmentId) {
        if let Some(account) = self.accounts.get_mut(&id) {
            account.set_aside = true;
        }
    }

    pub(super) fn mostly_dead(&self, class: Class, live_bytes: &HashMap<SegmentId, u64>) -> Vec<SegmentId> {
        let mut found: Vec<_> = self
            .accounts
            .iter()
            .filter(|(_, a)| a.class == class && !a.open && !a.set_aside && a.live_blocks > 0)
            .map(|(id, a)| (live_bytes.get(id).copied().unwrap_or(0), a.total_bytes, *id))
            .filter(|(live, total, _)| live * 2 < *total)
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(_, _, id)| id).collect()
    }

    pub(super) fn usage(&self, class: Class) -> SegmentUsage {
        let mut usage = SegmentUsage::default();
        for account in self.accounts.values().filter(|a| a.class == class) {
            usage.files += 1;
            usage.bytes += account.total_bytes;
            usage.live_bytes += account.live_bytes;
        }
        usage
    }
}

/// The most recently used handles.
#[derive(Default)]
pub(super) struct Handles {
    recent: VecDeque<(SegmentId, Arc<dyn DiskFile>)>,
}

impl Handles {
    pub(super) fn get(&mut self, id: SegmentId) -> Option<Arc<dyn DiskFile>> {
        let at = self.recent.iter().position(|(known, _)| *known == id)?;
        let entry = self.recent.remove(at)?;
        let file = Arc::clone(&entry.1);
        self.recent.push_front(entry);
        Some(file)
    }

    pub(super) fn put(&mut self, id: SegmentId, file: Arc<dyn DiskFile>) {
        self.forget(id);
        self.recent.push_front((id, file));
        self.recent.truncate(OPEN_HANDLES);
    }

    pub(super) fn forget(&mut self, id: SegmentId) {
        self.recent.retain(|(known, _)| *known != id);
    }
}
