//! How much memory this machine, or the container we are in, has.

use std::path::{Path, PathBuf};

/// What the defaults depend on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Machine {
    /// Bytes of memory we may use: RAM, or the control group's limit where that is lower.
    pub(crate) memory: u64,
}

/// Assumed where nothing can be read (no /proc): small enough to be safe everywhere.
const UNKNOWN: u64 = 1 << 30;

impl Machine {
    /// Asks /proc and the control group hierarchy (version 2, then 1).
    pub(crate) fn detect() -> Self {
        Self::detect_under(Path::new("/"))
    }

    fn detect_under(root: &Path) -> Self {
        let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_default();
        let ram = total_ram(&read("proc/meminfo")).unwrap_or(UNKNOWN);
        let limits = limit_files(&read("proc/self/cgroup"));
        let limit = limits
            .iter()
            .filter_map(|file| std::fs::read_to_string(root.join(file)).ok()?.trim().parse().ok());
        // Version 1 says "unlimited" with a number near 2^63, version 2 with the word "max", which does not parse.
        Self { memory: limit.fold(ram, u64::min) }
    }
}

fn total_ram(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The files that may hold a limit for us: our group's and those of every group above it. Inside a container the
/// group path of the host is often not mounted and the limit sits at the root, which is the last of each list.
fn limit_files(cgroup: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in cgroup.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let (base, file) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            c if c.split(',').any(|c| c == "memory") => ("sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => continue,
        };
        let group = Path::new(path.trim_start_matches('/'));
        files.extend(group.ancestors().map(|part| Path::new(base).join(part).join(file)));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> u64 {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Machine::detect_under(dir.path()).memory
    }

    const RAM: (&str, &str) = ("proc/meminfo", "MemTotal:       8388608 kB\nMemFree: 1 kB\n");
    const GIB: u64 = 1 << 30;

    #[test]
    fn ram_without_a_limit() {
        assert_eq!(machine(&[]), UNKNOWN);
        assert_eq!(machine(&[RAM]), 8 * GIB);
        let v2 = ("proc/self/cgroup", "0::/\n");
        assert_eq!(machine(&[RAM, v2, ("sys/fs/cgroup/memory.max", "max\n")]), 8 * GIB);
    }

    #[test]
    fn limits_of_both_versions_and_of_parent_groups() {
        let v2 = ("proc/self/cgroup", "0::/a/b\n");
        assert_eq!(machine(&[RAM, v2, ("sys/fs/cgroup/a/memory.max", "2147483648\n")]), 2 * GIB);
        let v1 = ("proc/self/cgroup", "5:cpu:/x\n4:memory:/docker/1\n0::/\n");
        assert_eq!(machine(&[RAM, v1, ("sys/fs/cgroup/memory/memory.limit_in_bytes", "1073741824")]), GIB);
        let unlimited = ("sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes", "9223372036854771712");
        assert_eq!(machine(&[RAM, v1, unlimited]), 8 * GIB);
    }
}
