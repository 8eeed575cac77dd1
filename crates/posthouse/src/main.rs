//! The `posthouse` binary: the broker, its administration and its load generator in one file.

mod bench;
mod check;
mod cli;
mod config;
mod ctl;
mod files;
mod logging;
mod memory;
mod one_line;
mod serve;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::run()
}
