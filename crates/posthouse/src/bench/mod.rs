//! `posthouse bench`: a load generator for any AMQP 0-9-1 broker, and the yardsticks beside it.
//!
//! As many threads as there are cores for each side, each with an event loop over its connections ([`event_loop`]); large
//! reads and writes, templates in which only numbers are patched: the generator must not be what is measured. Every body is numbered ([`payload`]) and every delivery checked
//! ([`tally`]).

mod bindings;
mod client;
mod consumer;
mod delivery;
mod event_loop;
mod expiring;
mod fdatasync;
mod histogram;
mod idle;
mod monitor;
mod options;
mod payload;
mod plan;
mod process;
mod producer;
mod report;
mod run;
mod shared;
mod sink;
mod start;
mod tally;
mod template;
mod topology;
mod uri;
mod window;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::cli;
use plan::{Plan, Workload};

/// Arguments of `posthouse bench`.
#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Subcommand, Debug)]
enum BenchCommand {
    /// Load an AMQP 0-9-1 broker, measure it, verify what arrives
    Amqp(Box<options::AmqpArgs>),
    /// Measure write and fdatasync on a disk: the floor of durable confirms
    Fdatasync(fdatasync::FdatasyncArgs),
    /// Measure how long a broker takes from start to accepting: bench start -- COMMAND ARGS
    Start(start::StartArgs),
    /// Serve as a broker that only counts and repeats: the generator's own ceiling
    #[command(hide = true)]
    Sink(sink::SinkArgs),
}

/// Runs a benchmark. Exit code 1 when it cannot be run, or when what arrived is not what was sent.
pub(crate) fn run(args: BenchArgs) -> ExitCode {
    let result = match args.command {
        BenchCommand::Amqp(args) => match args.plan() {
            Ok(plan) => amqp(&plan),
            Err(message) => return cli::fail(cli::USAGE, format_args!("{message}")),
        },
        BenchCommand::Fdatasync(args) => fdatasync::run(&args).map(|text| cli::print(&text)),
        BenchCommand::Start(args) => start::run(&args).map(|text| cli::print(&text)),
        BenchCommand::Sink(args) => sink::run(&args).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| cli::fail(cli::STATE, format_args!("bench: {error:#}")))
}

fn amqp(plan: &Plan) -> Result<ExitCode> {
    crate::files::allow_many();
    let (text, json, complaint) = match plan.workload {
        Workload::Messages => {
            let outcome = run::run(plan)?;
            (outcome.summary.to_text(), serde_json::to_string(&outcome.summary)?, outcome.complaint)
        }
        Workload::Connections(n) => objects(&idle::connections(plan, n)?)?,
        Workload::Declares(n) => objects(&idle::declares(plan, n)?)?,
        Workload::Bindings(n) => {
            let bindings = bindings::run(plan, n)?;
            (bindings.to_text(), serde_json::to_string(&bindings)?, None)
        }
        Workload::Expiring(n) => {
            let expiring = expiring::run(plan, n)?;
            (expiring.to_text(), serde_json::to_string(&expiring)?, expiring.complaint())
        }
    };
    let printed = cli::print(&if plan.json { json + "\n" } else { text });
    Ok(complaint.map_or(printed, |complaint| cli::fail(cli::STATE, format_args!("bench: {complaint}"))))
}

fn objects(objects: &idle::Objects) -> Result<(String, String, Option<String>)> {
    Ok((objects.to_text(), serde_json::to_string(objects)?, None))
}
