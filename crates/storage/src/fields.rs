//! Fields at fixed places of a header: little-endian numbers, and a checksum of all bytes around it.

/// Writes a field.
pub(crate) fn put<const N: usize>(bytes: &mut [u8], at: usize, field: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&field);
}

/// Reads a field of 2 bytes.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// Reads a field of 4 bytes.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Reads a field of 8 bytes.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// CRC-32C of a header but for the 4 bytes of its checksum at `at`.
pub(crate) fn crc_around(header: &[u8], at: usize) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[..at]), &header[at + 4..])
}

/// Fills in a header's checksum at `at`.
pub(crate) fn seal(header: &mut [u8], at: usize) {
    put(header, at, crc_around(header, at).to_le_bytes());
}
