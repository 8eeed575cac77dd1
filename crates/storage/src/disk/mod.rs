//! The only way storage touches files: [`Disk`] and [`DiskFile`], with a real ([`real::RealDisk`]) and a
//! simulated ([`sim::SimDisk`]) implementation.
//!
//! Positional reads and writes only, no memory mapping: a full or failing disk must come back as an
//! [`io::Error`], never as a signal. Errors carry no path; the caller knows it and adds it, with the offset.

pub mod real;
pub mod sim;

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

/// What an opened file may be used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Reading only; the file is never changed.
    Read,
    /// Reading and writing.
    ReadWrite,
}

/// A file system. Paths are passed on as they are; entries become durable only by [`Disk::sync_dir`].
pub trait Disk: Send + Sync {
    /// Opens an existing file; `NotFound` when there is none.
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>>;

    /// Makes a new, empty file for reading and writing; `AlreadyExists` when there is one.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Renames a file, replacing what was at `to`. Atomic; durable after `sync_dir` of its directory.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Open handles keep working.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Returns when every creation, rename and removal in `dir` is durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Names of the files (not directories) in `dir`, sorted; names that are not UTF-8 are left out.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Makes `dir` and its parents, durably; no error when they exist.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Bytes that an unprivileged process may still allocate on the file system that holds `path`.
    fn free_space(&self, path: &Path) -> io::Result<u64>;
}

/// An open file. Methods take `&self`: positions are arguments, so one handle serves many threads.
pub trait DiskFile: Send + Sync {
    /// Writes all bytes of `slices`, in order, starting at `offset`. The slices are used up. After an error any
    /// part of them may have been written.
    fn write_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()>;

    /// Reads up to `buf.len()` bytes at `offset`; fewer only at the end of the file, 0 past it.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Returns when everything written is durable, and the length with it. After an error the state of what was
    /// written is unknown for good: a later success proves nothing.
    fn sync_data(&self) -> io::Result<()>;

    /// Reserves space for the first `len` bytes and extends the file to at least `len`; new bytes read as zero.
    /// `StorageFull` when there is not enough; the file may then have grown in part.
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// Cuts or extends the file to `len` bytes; new bytes read as zero and are not reserved.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// The file's length in bytes.
    fn size(&self) -> io::Result<u64>;

    /// Fills `buf` from `offset`; `UnexpectedEof` when the file ends before.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if self.read_at(buf, offset)? == buf.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    /// Writes one run of bytes at `offset`.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_at(&mut [IoSlice::new(bytes)], offset)
    }
}
