//! The operating system's files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::FallocateFlags;

use super::{Access, Disk, DiskFile};

/// Slices of one `pwritev`: Linux takes at most 1,024.
const MAX_SLICES: usize = 1024;

/// Zeroes written at once where the file system cannot reserve space.
const ZERO_RUN: usize = 256 * 1024;

/// The operating system's file system.
#[derive(Clone, Copy, Default, Debug)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(access == Access::ReadWrite).open(path)?;
        Ok(Arc::new(RealFile { file }))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        Ok(Arc::new(RealFile { file }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        if dir.as_os_str().is_empty() || dir.is_dir() {
            return Ok(());
        }
        let parent = dir.parent().unwrap_or(Path::new(""));
        self.create_dir_all(parent)?;
        match fs::create_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        self.sync_dir(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

struct RealFile {
    file: File,
}

impl DiskFile for RealFile {
    fn write_at(&self, mut slices: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        IoSlice::advance_slices(&mut slices, 0); // drops empty ones: a write of nothing returns 0
        while !slices.is_empty() {
            let written =
                match rustix::io::pwritev(&self.file, &slices[..slices.len().min(MAX_SLICES)], offset) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(written) => written,
                    Err(rustix::io::Errno::INTR) => continue,
                    Err(error) => return Err(error.into()),
                };
            IoSlice::advance_slices(&mut slices, written);
            offset += written as u64;
        }
        Ok(())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.file.read_at(&mut buf[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn sync_data(&self) -> io::Result<()> {
        // Not retried on EINTR: after any error the kernel may have dropped the dirty pages.
        self.file.sync_data()
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len) {
            Err(rustix::io::Errno::OPNOTSUPP) => self.extend_with_zeroes(len),
            result => Ok(result?),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}

impl RealFile {
    fn extend_with_zeroes(&self, len: u64) -> io::Result<()> {
        let zeroes = vec![0u8; ZERO_RUN];
        let mut at = self.size()?;
        while at < len {
            let run = (len - at).min(ZERO_RUN as u64);
            self.file.write_all_at(&zeroes[..run as usize], at)?;
            at += run;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_reads_lists_and_allocates() {
        let dir = tempfile::tempdir().unwrap();
        let sub = dir.path().join("a/b");
        RealDisk.create_dir_all(&sub).unwrap();
        let path = sub.join("file");
        let file = RealDisk.create(&path).unwrap();
        assert_eq!(RealDisk.create(&path).err().unwrap().kind(), io::ErrorKind::AlreadyExists);
        let many: Vec<Vec<u8>> = (0..3000u32).map(|i| i.to_le_bytes()[..(i % 4) as usize].to_vec()).collect();
        let mut slices: Vec<_> = many.iter().map(|bytes| IoSlice::new(bytes)).collect();
        file.write_at(&mut slices, 5).unwrap();
        let mut read = vec![0; 10_000];
        let got = file.read_at(&mut read, 5).unwrap();
        assert_eq!(&read[..got], many.concat());
        file.allocate(1 << 20).unwrap();
        file.sync_data().unwrap();
        assert_eq!(file.size().unwrap(), 1 << 20);
        file.write_at(&mut [IoSlice::new(&[])], 0).unwrap();
        RealDisk.rename(&path, &sub.join("other")).unwrap();
        RealDisk.sync_dir(&sub).unwrap();
        assert_eq!(RealDisk.list(&sub).unwrap(), ["other"]);
        assert!(RealDisk.list(dir.path()).unwrap().is_empty());
        assert!(RealDisk.free_space(&sub).unwrap() > 0);
        assert_eq!(RealDisk.open(&path, Access::Read).err().unwrap().kind(), io::ErrorKind::NotFound);
        let read_only = RealDisk.open(&sub.join("other"), Access::Read).unwrap();
        assert!(read_only.write_all_at(b"x", 0).is_err());
        assert_eq!(
            read_only.read_exact_at(&mut [0; 8], (1 << 20) - 4).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
    }
}
