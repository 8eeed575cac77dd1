//! `posthouse check`: reads a stopped broker's data directory and says what is in it.
//!
//! What is printed, one `name: value` a line and then one `damage:` line for each damaged place:
//!
//! ```text
//! data directory: ./posthouse-data
//! last stop: orderly
//! definitions: 12
//! durable queues: 3
//! messages: 1200
//! of them scheduled for later: 7
//! segments: 2 files, 8388608 bytes, 4096 of them dead
//! log since the checkpoint: 0 records, 0 bytes
//! ok
//! ```

use std::collections::HashSet;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use posthouse_model::ids::QueueId;
use posthouse_node::records;
use posthouse_storage::check::{self, CheckReport};

use crate::cli;

/// Arguments of `posthouse check`.
#[derive(clap::Args, Debug)]
pub(crate) struct CheckArgs {
    /// Data directory of a stopped broker
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
}

/// Verifies the directory; exit code 1 on damage. Changes nothing.
pub(crate) fn run(args: &CheckArgs) -> ExitCode {
    let mut report = match check::check(&args.dir) {
        Ok(report) => report,
        Err(problem) => return cli::fail(cli::STATE, format_args!("{problem}")),
    };
    let scheduled = scheduled(&mut report);
    let undefined = undefined(&mut report, &scheduled);
    let printed = cli::print(&describe(&args.dir.display().to_string(), &report, &scheduled, undefined));
    if report.damages.is_empty() { printed } else { ExitCode::from(cli::STATE) }
}

/// The queues of messages that wait for a time.
fn scheduled(report: &mut CheckReport) -> HashSet<QueueId> {
    let mut scheduled = HashSet::new();
    for (key, value) in report.meta.iter().flat_map(|meta| &meta.system) {
        match records::read_schedule(key, value) {
            Ok(found) => scheduled.extend(found.map(|(_, queue)| queue)),
            Err(problem) => report.damages.push(problem.to_string()),
        }
    }
    scheduled
}

/// How many messages are in queues that are not defined. After an orderly stop there are none, so the definitions and
/// the messages do not belong together: that is added to the damages.
fn undefined(report: &mut CheckReport, scheduled: &HashSet<QueueId>) -> u64 {
    let Some(meta) = &report.meta else { return 0 };
    let mut defined = scheduled.clone();
    for (key, value) in &meta.queues {
        match records::read_queue(key, value) {
            Ok((id, ..)) => drop(defined.insert(id)),
            Err(problem) => report.damages.push(problem.to_string()),
        }
    }
    let undefined = report.queues.iter().filter(|(id, _)| !defined.contains(id));
    let messages = undefined.map(|(_, messages)| messages).sum();
    if messages > 0 && report.clean {
        let damage =
            format!("meta.redb does not define the queues of {messages} messages, after an orderly stop");
        report.damages.push(damage);
    }
    messages
}

fn describe(dir: &str, report: &CheckReport, scheduled: &HashSet<QueueId>, undefined: u64) -> String {
    let mut text = format!("data directory: {dir}\n");
    let stop = if report.clean { "orderly" } else { "not orderly; the next start reads the log" };
    // Writing to a string cannot fail.
    let _ = writeln!(text, "last stop: {stop}");
    if let Some(meta) = &report.meta {
        let _ = writeln!(text, "definitions: {}", meta.entries.iter().sum::<u64>());
    }
    let defined = report.meta.as_ref().map_or(report.queues.len(), |meta| meta.queues.len());
    let _ = writeln!(text, "durable queues: {defined}\nmessages: {}", report.messages());
    let waiting = report.queues.iter().filter(|(id, _)| scheduled.contains(id));
    let waiting: u64 = waiting.map(|(_, messages)| messages).sum();
    if waiting > 0 {
        let _ = writeln!(text, "of them scheduled for later: {waiting}");
    }
    if undefined > 0 {
        let _ = writeln!(text, "of them in undefined queues: {undefined}, which the next start deletes");
    }
    let (files, bytes, dead) = (report.segment_files, report.segment_bytes, report.dead_bytes());
    let _ = writeln!(text, "segments: {files} files, {bytes} bytes, {dead} of them dead");
    let (records, bytes) = (report.log_records, report.log_bytes);
    let _ = writeln!(text, "log since the checkpoint: {records} records, {bytes} bytes");
    for damage in &report.damages {
        let _ = writeln!(text, "damage: {damage}");
    }
    if report.damages.is_empty() {
        text.push_str("ok\n");
    }
    text
}
