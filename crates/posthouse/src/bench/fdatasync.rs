//! The yardstick for confirms: how long one write and `fdatasync` takes on a disk, nothing else going on.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;

use super::histogram::Histogram;

/// Flags of `posthouse bench fdatasync`.
#[derive(Args, Debug)]
pub(crate) struct FdatasyncArgs {
    /// Directory on the disk in question
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Bytes of one write
    #[arg(long, value_name = "BYTES", default_value_t = 1_100, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    size: u64,
    /// How long
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
}

const FILE_BYTES: u64 = 64 << 20;

/// Writes to a file that was written once before, as a log that reuses its files does.
pub(super) fn run(args: &FdatasyncArgs) -> Result<String> {
    let path = args.dir.join(format!("posthouse-bench-{}.tmp", std::process::id()));
    let measured = measure(args, &path).with_context(|| path.display().to_string());
    let removed = std::fs::remove_file(&path);
    let histogram = measured?;
    removed.with_context(|| path.display().to_string())?;
    let us = |nanos: u64| nanos as f64 / 1e3;
    let (p50, p99, max) = (histogram.quantile(0.5), histogram.quantile(0.99), histogram.max());
    let per_s = histogram.count() as f64 / args.seconds as f64;
    Ok(format!("fdatasync  {per_s:.0}/s  p50 {:.1}  p99 {:.1}  max {:.1} us\n", us(p50), us(p99), us(max)))
}

fn measure(args: &FdatasyncArgs, path: &PathBuf) -> Result<Histogram> {
    let file = File::create_new(path)?;
    let block = vec![0x5a; 1 << 20];
    for at in (0..FILE_BYTES).step_by(block.len()) {
        file.write_all_at(&block, at)?;
    }
    file.sync_all()?;
    let record = vec![0xa5; args.size as usize];
    let mut histogram = Histogram::default();
    let end = Instant::now() + Duration::from_secs(args.seconds);
    let mut at = 0;
    while Instant::now() < end {
        let start = Instant::now();
        file.write_all_at(&record, at)?;
        file.sync_data()?;
        histogram.record(start.elapsed().as_nanos() as u64, 1);
        at = (at + args.size) % (FILE_BYTES - args.size);
    }
    Ok(histogram)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_and_cleans_up() {
        let dir = tempfile::tempdir().unwrap();
        let text = run(&FdatasyncArgs { dir: dir.path().into(), size: 100, seconds: 1 }).unwrap();
        assert!(text.starts_with("fdatasync  ") && text.ends_with(" us\n"), "{text}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let missing = FdatasyncArgs { dir: "/nonexistent".into(), size: 1, seconds: 1 };
        assert!(run(&missing).is_err());
    }
}
