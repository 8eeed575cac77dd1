//! Shorthands for reporting bytes that are not what they must be.

use std::fmt::Display;
use std::path::Path;

use crate::disk::DiskFile;
use crate::error::StorageError;

pub(crate) fn corrupt(
    path: &Path,
    offset: u64,
    what: &'static str,
    expected: impl Display,
    got: impl Display,
) -> StorageError {
    let (expected, got) = (expected.to_string(), got.to_string());
    StorageError::Corrupt { path: path.to_owned(), offset, what, expected, got }
}

/// A checksum did not match.
pub(crate) fn bad_crc(
    path: &Path,
    offset: u64,
    what: &'static str,
    stored: u32,
    computed: u32,
) -> StorageError {
    corrupt(path, offset, what, format_args!("{stored:#010x}"), format_args!("{computed:#010x}"))
}

/// Reads a whole run of bytes; a file that ends before is damaged, not unreadable.
pub(crate) fn read_exact(
    file: &dyn DiskFile,
    path: &Path,
    offset: u64,
    bytes: usize,
) -> Result<Vec<u8>, StorageError> {
    let mut buffer = vec![0; bytes];
    fill(file, path, offset, &mut buffer)?;
    Ok(buffer)
}

/// [`read_exact`] into a buffer.
pub(crate) fn fill(
    file: &dyn DiskFile,
    path: &Path,
    offset: u64,
    buffer: &mut [u8],
) -> Result<(), StorageError> {
    let got = file.read_at(buffer, offset).map_err(|e| StorageError::io_at("read", path, offset, e))?;
    if got < buffer.len() {
        let (expected, got) = (format!("{} bytes", buffer.len()), format!("{got} before the end"));
        return Err(corrupt(path, offset, "length", expected, got));
    }
    Ok(())
}

/// For `map_err`: the system refused to `action` the file.
pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> StorageError {
    move |source| StorageError::io(action, path, source)
}
