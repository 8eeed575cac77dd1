//! A simulated disk in memory, for tests: what was not synced may be lost, kept or torn by a crash, and any
//! operation can be made to fail.
//!
//! * A file keeps what programs see and what the platter holds apart, in sectors of 512 bytes. A crash decides
//!   for each unsynced sector: old, new, or new up to some byte and old from there.
//! * A creation, rename or removal in a directory is lost or kept, each by itself, until the directory is synced.
//!   (Making a directory is durable at once.)
//! * A failed write has written some of its sectors. After a failed sync the dirty sectors count as clean, though
//!   some never reached the platter, as Linux does it.
//!
//! Every decision is a function of the seed, the path and the sector, not of the order in which threads run: the
//! same seed and the same operations on each file give the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Access, Disk, DiskFile};

const SECTOR: u64 = 512;

/// A kind of operation, for counting and for making one fail.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Op {
    /// [`Disk::open`].
    Open,
    /// [`Disk::create`].
    Create,
    /// [`Disk::rename`].
    Rename,
    /// [`Disk::remove`].
    Remove,
    /// [`Disk::sync_dir`].
    SyncDir,
    /// [`Disk::list`].
    List,
    /// [`DiskFile::write_at`].
    Write,
    /// [`DiskFile::read_at`].
    Read,
    /// [`DiskFile::sync_data`].
    Sync,
    /// [`DiskFile::allocate`].
    Allocate,
    /// [`DiskFile::set_len`].
    SetLen,
}

/// What a failing operation returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// `EIO`.
    Io,
    /// `ENOSPC`.
    NoSpace,
    /// `EMFILE`.
    TooManyFiles,
}

impl Fault {
    fn error(self) -> io::Error {
        io::Error::from_raw_os_error(match self {
            Self::Io => rustix::io::Errno::IO.raw_os_error(),
            Self::NoSpace => rustix::io::Errno::NOSPC.raw_os_error(),
            Self::TooManyFiles => rustix::io::Errno::MFILE.raw_os_error(),
        })
    }
}

/// The simulated disk. Clones share it.
#[derive(Clone, Debug)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    seed: u64,
    capacity: u64,
    dirs: BTreeSet<PathBuf>,
    files: Vec<File>,
    /// What programs see.
    names: BTreeMap<PathBuf, usize>,
    /// What the platter holds.
    synced_names: BTreeMap<PathBuf, usize>,
    /// Directory operations since the last sync of their directories, in order.
    pending: Vec<Entry>,
    counts: BTreeMap<Op, u64>,
    faults: Vec<(Op, u64, Fault)>,
}

#[derive(Clone, Debug, Default)]
struct File {
    /// Hash of the path it was created under: names it in random decisions.
    tag: u64,
    seen: Vec<u8>,
    synced: Vec<u8>,
    dirty: BTreeSet<u64>,
}

#[derive(Clone, Debug)]
enum Entry {
    Create(PathBuf, usize),
    Rename(PathBuf, PathBuf, usize),
    Remove(PathBuf),
}

impl SimDisk {
    /// An empty disk of unlimited size with the root directory `/`.
    pub fn new(seed: u64) -> Self {
        let state = State {
            seed,
            capacity: u64::MAX,
            dirs: BTreeSet::from([PathBuf::from("/")]),
            files: Vec::new(),
            names: BTreeMap::new(),
            synced_names: BTreeMap::new(),
            pending: Vec::new(),
            counts: BTreeMap::new(),
            faults: Vec::new(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// What the disk may hold after losing power now. This disk goes on unharmed; faults and the capacity are not
    /// carried over.
    pub fn crash(&self) -> Self {
        let state = self.lock();
        let seed = mix(state.seed, 0xc5a5);
        let files: Vec<File> = state.files.iter().map(|file| file.after_crash(seed)).collect();
        let mut names = state.synced_names.clone();
        for (at, entry) in state.pending.iter().enumerate() {
            if mix(mix(seed, entry.tag()), at as u64).is_multiple_of(2) {
                entry.apply(&mut names);
            }
        }
        let after = Self::new(mix(seed, 1));
        {
            let mut new = after.lock();
            new.dirs = state.dirs.clone();
            new.files = files;
            new.synced_names = names.clone();
            new.names = names;
        }
        after
    }

    /// Makes the `nth` operation of kind `op` from now on (1 is the next) fail with `fault`, once.
    pub fn fail(&self, op: Op, nth: u64, fault: Fault) {
        let mut state = self.lock();
        let at = state.counts.get(&op).copied().unwrap_or(0) + nth;
        state.faults.push((op, at, fault));
    }

    /// Forgets the faults that were not reached.
    pub fn heal(&self) {
        self.lock().faults.clear();
    }

    /// How many operations of kind `op` were done, failed ones included.
    pub fn count(&self, op: Op) -> u64 {
        self.lock().counts.get(&op).copied().unwrap_or(0)
    }

    /// Limits the sum of all files' lengths to `bytes`; what would grow it beyond gets `ENOSPC`.
    pub fn set_capacity(&self, bytes: u64) {
        self.lock().capacity = bytes;
    }

    /// Flips the bits of `mask` in the byte at `offset`, on the platter and for readers: bit rot.
    ///
    /// # Panics
    /// When there is no such file or byte.
    pub fn corrupt(&self, path: &Path, offset: u64, mask: u8) {
        let mut state = self.lock();
        let index = state.names[path];
        let file = &mut state.files[index];
        file.seen[offset as usize] ^= mask;
        if let Some(byte) = file.synced.get_mut(offset as usize) {
            *byte ^= mask;
        }
    }

    /// Every file's path and the bytes that programs see.
    pub fn contents(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let state = self.lock();
        state.names.iter().map(|(path, &index)| (path.clone(), state.files[index].seen.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, index: usize, access: Access) -> Arc<dyn DiskFile> {
        Arc::new(SimFile { disk: self.clone(), index, access })
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.lock();
        state.begin(Op::Open)?;
        let index = state.find(path)?;
        Ok(self.handle(index, access))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.lock();
        state.begin(Op::Create)?;
        state.need_dir(parent(path))?;
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let index = state.files.len();
        state.files.push(File { tag: tag_of(path), ..File::default() });
        state.change(Entry::Create(path.to_owned(), index));
        Ok(self.handle(index, Access::ReadWrite))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.begin(Op::Rename)?;
        let index = state.find(from)?;
        state.need_dir(parent(to))?;
        state.change(Entry::Rename(from.to_owned(), to.to_owned(), index));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.begin(Op::Remove)?;
        state.find(path)?;
        state.change(Entry::Remove(path.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.begin(Op::SyncDir)?;
        state.need_dir(dir)?;
        let (done, kept) =
            std::mem::take(&mut state.pending).into_iter().partition(|entry| entry.touches(dir));
        state.pending = kept;
        let done: Vec<Entry> = done;
        done.iter().for_each(|entry| entry.apply(&mut state.synced_names));
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut state = self.lock();
        state.begin(Op::List)?;
        state.need_dir(dir)?;
        let inside = state.names.keys().filter(|path| parent(path) == dir);
        Ok(inside.filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).collect())
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.dirs.extend(dir.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn free_space(&self, _path: &Path) -> io::Result<u64> {
        let state = self.lock();
        Ok(state.capacity.saturating_sub(state.used()))
    }
}

impl State {
    fn begin(&mut self, op: Op) -> io::Result<()> {
        let count = self.counts.entry(op).or_default();
        *count += 1;
        let now = *count;
        match self.faults.iter().position(|&(kind, at, _)| kind == op && at == now) {
            Some(at) => Err(self.faults.swap_remove(at).2.error()),
            None => Ok(()),
        }
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn need_dir(&self, dir: &Path) -> io::Result<()> {
        if self.dirs.contains(dir) { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    fn change(&mut self, entry: Entry) {
        entry.apply(&mut self.names);
        self.pending.push(entry);
    }

    fn used(&self) -> u64 {
        let live: BTreeSet<usize> = self.names.values().copied().collect();
        live.into_iter().map(|index| self.files[index].seen.len() as u64).sum()
    }

    /// Grows a file to at least `len`, within the capacity.
    fn grow(&mut self, index: usize, len: u64) -> io::Result<()> {
        let more = len.saturating_sub(self.files[index].seen.len() as u64);
        if more > 0 && self.capacity.saturating_sub(self.used()) < more {
            return Err(Fault::NoSpace.error());
        }
        if more > 0 {
            self.files[index].seen.resize(len as usize, 0);
        }
        Ok(())
    }
}

impl Entry {
    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Create(path, index) => {
                names.insert(path.clone(), *index);
            }
            Self::Rename(from, to, index) => {
                if names.get(from) == Some(index) {
                    names.remove(from);
                }
                names.insert(to.clone(), *index);
            }
            Self::Remove(path) => {
                names.remove(path);
            }
        }
    }

    fn touches(&self, dir: &Path) -> bool {
        match self {
            Self::Create(path, _) | Self::Remove(path) => parent(path) == dir,
            Self::Rename(from, to, _) => parent(from) == dir || parent(to) == dir,
        }
    }

    fn tag(&self) -> u64 {
        match self {
            Self::Create(path, _) | Self::Remove(path) | Self::Rename(path, _, _) => tag_of(path),
        }
    }
}

impl File {
    fn after_crash(&self, seed: u64) -> Self {
        let seed = mix(seed, self.tag);
        let keep_length = mix(seed, u64::MAX).is_multiple_of(2);
        let mut bytes = self.synced.clone();
        if keep_length {
            bytes.resize(self.seen.len(), 0);
        }
        for &sector in &self.dirty {
            let start = ((sector * SECTOR) as usize).min(bytes.len());
            let end = (start + SECTOR as usize).min(bytes.len()).min(self.seen.len()).max(start);
            let choice = mix(seed, sector);
            let new_bytes = match choice % 3 {
                0 => 0,
                1 => end - start,
                _ => (choice >> 8) as usize % (end - start + 1),
            };
            bytes[start..start + new_bytes].copy_from_slice(&self.seen[start..start + new_bytes]);
        }
        Self { tag: self.tag, seen: bytes.clone(), synced: bytes, dirty: BTreeSet::new() }
    }

    fn touch(&mut self, from: u64, to: u64) {
        self.dirty.extend(from / SECTOR..to.div_ceil(SECTOR));
    }

    fn persist(&mut self, sector: u64) {
        let start = ((sector * SECTOR) as usize).min(self.seen.len());
        let end = (start + SECTOR as usize).min(self.seen.len());
        self.synced[start..end].copy_from_slice(&self.seen[start..end]);
    }
}

struct SimFile {
    disk: SimDisk,
    index: usize,
    access: Access,
}

impl SimFile {
    fn check_writable(&self) -> io::Result<()> {
        if self.access == Access::Read {
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::BADF.raw_os_error()));
        }
        Ok(())
    }
}

impl DiskFile for SimFile {
    fn write_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.check_writable()?;
        let mut state = self.disk.lock();
        let fault = state.begin(Op::Write);
        let seed = mix(state.seed, state.counts.get(&Op::Write).copied().unwrap_or(0));
        let mut bytes = slices.iter().fold(Vec::new(), |mut all, slice| {
            all.extend_from_slice(slice);
            all
        });
        if fault.is_err() {
            bytes.truncate(seed as usize % (bytes.len() + 1));
        }
        let end = offset + bytes.len() as u64;
        state.grow(self.index, end)?;
        let file = &mut state.files[self.index];
        file.seen[offset as usize..end as usize].copy_from_slice(&bytes);
        file.touch(offset, end);
        fault
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.lock();
        state.begin(Op::Read)?;
        let seen = &state.files[self.index].seen;
        let start = (offset.min(seen.len() as u64)) as usize;
        let count = buf.len().min(seen.len() - start);
        buf[..count].copy_from_slice(&seen[start..start + count]);
        Ok(count)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.lock();
        let fault = state.begin(Op::Sync);
        let seed = mix(state.seed, state.counts.get(&Op::Sync).copied().unwrap_or(0));
        let file = &mut state.files[self.index];
        file.synced.resize(file.seen.len(), 0);
        for sector in std::mem::take(&mut file.dirty) {
            if fault.is_ok() || mix(seed, sector).is_multiple_of(2) {
                file.persist(sector);
            }
        }
        fault
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.check_writable()?;
        let mut state = self.disk.lock();
        state.begin(Op::Allocate)?;
        state.grow(self.index, len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check_writable()?;
        let mut state = self.disk.lock();
        state.begin(Op::SetLen)?;
        let file = &mut state.files[self.index];
        let old = file.seen.len() as u64;
        file.seen.resize(len as usize, 0);
        file.touch(old.min(len), old.max(len));
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        let state = self.disk.lock();
        Ok(state.files[self.index].seen.len() as u64)
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

fn tag_of(path: &Path) -> u64 {
    path.as_os_str().as_encoded_bytes().iter().fold(0, |tag, &byte| mix(tag, u64::from(byte)))
}

/// One step of splitmix64 over two numbers: all the randomness this disk needs.
fn mix(seed: u64, value: u64) -> u64 {
    let mut z = (seed ^ value.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests;
