//! What /proc says about a process: CPU time and resident memory.

use std::time::Duration;

use anyhow::{Context, Result, bail};

/// A process that is watched from outside.
#[derive(Clone, Copy, Debug)]
pub(super) struct Process {
    pid: u32,
}

impl Process {
    /// This one.
    pub(super) fn own() -> Self {
        Self { pid: std::process::id() }
    }

    /// Another one, which must exist.
    pub(super) fn of(pid: u32) -> Result<Self> {
        let process = Self { pid };
        process
            .rss_bytes()
            .with_context(|| format!("--broker-pid: expected a running process, got {pid}"))?;
        Ok(process)
    }

    /// CPU time used so far, user and system, all threads; in steps of the kernel's clock tick (10 ms).
    pub(super) fn cpu(&self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.pid);
        let stat = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        let Some(ticks) = ticks(&stat) else { bail!("{path}: expected user and system time") };
        Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
    }

    /// Resident memory now, bytes.
    pub(super) fn rss_bytes(&self) -> Result<u64> {
        let path = format!("/proc/{}/statm", self.pid);
        let statm = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        let pages: Option<u64> = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
        let Some(pages) = pages else { bail!("{path}: expected pages") };
        Ok(pages * rustix::param::page_size() as u64)
    }
}

/// User and system time of a `stat` line. The command's name stands in parentheses and may hold anything, so counting
/// starts at the last one.
fn ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut times = fields.split(' ').skip(11).map(|field| field.parse::<u64>().ok());
    Some(times.next()?? + times.next()??)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_a_stat_line() {
        let stat = "4242 (a ) b) S 1 4242 4242 0 -1 4194560 100 0 2 0 700 55 0 0 20 0 9 0 1234 1 2 3";
        assert_eq!(ticks(stat), Some(755));
        assert_eq!(ticks("nonsense"), None);
    }

    #[test]
    fn this_process_is_there() {
        assert!(Process::own().rss_bytes().unwrap() > 100_000);
        Process::own().cpu().unwrap();
        let error = Process::of(u32::MAX).expect_err("must be refused");
        assert_eq!(error.to_string(), "--broker-pid: expected a running process, got 4294967295");
    }
}
