//! How the kernel gives memory to the process.

/// Has memory come and go in pages of 4 KiB, not in transparent huge pages of 2 MiB: the allocator asks for those, and
/// then a freed chunk of messages beside one in use is not given back, and every page that is taken again is zeroed as
/// a whole. Where the kernel cannot be told, that is all it costs.
pub(crate) fn use_small_pages() {
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

#[cfg(test)]
mod tests {
    #[test]
    fn huge_pages_are_off() {
        super::use_small_pages();
        assert!(rustix::thread::transparent_huge_pages_are_disabled().unwrap());
    }
}
