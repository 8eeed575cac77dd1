//! Running the broker from its settings until it is told to stop.

use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use posthouse_amqp::tune::Tune;
use posthouse_auth::authorities::AuthSettings;
use posthouse_node::broker::{self, Broker};
use posthouse_node::definitions::MAX_BYTES;
use posthouse_node::start::{self, Keep, StartOptions};
use posthouse_server::control::{Control, Facts};
use posthouse_server::listen::{AmqpSettings, Server};
use posthouse_storage::engine::StorageOptions;
use posthouse_storage::wal::WalOptions;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::{Loaded, Settings, Storage};
use crate::{cli, logging};

/// How long connections may take to close when the broker stops.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// Runs the broker until SIGTERM or SIGINT. Exit code 0 after an orderly stop, 1 when the state of the machine or
/// of the data directory forbids starting.
pub(crate) fn serve(loaded: &Loaded) -> ExitCode {
    let settings = &loaded.settings;
    logging::start(&settings.logging.filter);
    let files = crate::files::allow_many();
    crate::memory::use_small_pages();
    let runtime = match Builder::new_multi_thread().enable_all().thread_name("worker").build() {
        Ok(runtime) => runtime,
        Err(error) => return cli::fail(cli::STATE, format_args!("cannot start threads: {error}")),
    };
    match run(&runtime, loaded, files) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => cli::fail(cli::STATE, format_args!("{problem}")),
    }
}

fn run(runtime: &Runtime, loaded: &Loaded, files: Option<u64>) -> Result<(), String> {
    let settings = &loaded.settings;
    let mut options = start_options(settings);
    if let Some(path) = &settings.server.load_definitions {
        options.definitions = Some(read_definitions(path)?);
    }
    let own_files = match &options.keep {
        Keep::InMemory => 0,
        Keep::InDirectory { wal, .. } => {
            StorageOptions { wal: wal.clone(), ..StorageOptions::default() }.open_files()
        }
    };
    // Twice as many sockets as connections may be in the middle of being opened.
    let wanted = (settings.amqp.max_connections as usize).saturating_mul(2);
    let max_sockets = crate::files::for_sockets(files, own_files, wanted);
    if max_sockets < settings.amqp.max_connections as usize {
        let text = "the limit of open files allows fewer connections than the settings";
        // The default is more than many machines allow; nobody asked for it.
        match loaded.is_set("amqp", "max_connections") {
            true => tracing::info!(max_sockets, files, "{text}"),
            false => tracing::debug!(max_sockets, files, "{text}"),
        }
    }
    let broker = start::start(options).map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let mut stop = StopSignals::new().map_err(|e| format!("cannot watch for signals: {e}"))?;
        let (server, control) = listen(&broker, settings, max_sockets)?;
        tokio::select! {
            () = stop.wait() => {}
            () = stop_requested(control.as_ref()) => {}
        }
        tracing::info!("stopping; a second signal ends the process at once");
        let stopped = async {
            let commands = async {
                if let Some(control) = &control {
                    control.stop(STOP_PATIENCE).await;
                }
            };
            tokio::join!(server.stop(STOP_PATIENCE), commands)
        };
        tokio::select! {
            _ = stopped => {}
            () = stop.wait() => std::process::exit(i32::from(cli::STATE)),
        }
        drop(control);
        Ok::<(), String>(())
    })?;
    start::stop(&broker).map_err(|e| format!("the last checkpoint was not written: {e}"))
}

/// Reads the file of definitions that every start imports.
fn read_definitions(path: &Path) -> Result<Vec<u8>, String> {
    let shown = || format!("server.load_definitions: {}", path.display());
    let mut document = Vec::new();
    let opened = File::open(path);
    let read = opened.and_then(|file| file.take(MAX_BYTES as u64 + 1).read_to_end(&mut document));
    read.map_err(|error| format!("{}: {error}", shown()))?;
    if document.len() > MAX_BYTES {
        return Err(format!("{}: expected at most {MAX_BYTES} bytes, got more", shown()));
    }
    Ok(document)
}

fn start_options(settings: &Settings) -> StartOptions {
    let keep = match settings.server.storage {
        Storage::Memory => Keep::InMemory,
        Storage::Log => Keep::InDirectory {
            path: settings.server.data_dir.clone(),
            wal: WalOptions {
                file_bytes: settings.log.file_size,
                ring_files: usize::from(settings.log.files),
                ..WalOptions::default()
            },
            undefined_queues: settings.server.undefined_queues,
        },
    };
    StartOptions {
        settings: broker::Settings {
            max_message_bytes: settings.amqp.max_message_size,
            memory_budget_bytes: settings.memory.budget_bytes() as usize,
            memory_watermark_bytes: settings.memory.watermark_bytes() as usize,
            disk_free_limit_bytes: settings.disk.free_limit,
            max_consumers_per_channel: settings.amqp.max_consumers_per_channel,
            max_connections: settings.amqp.max_connections,
        },
        auth: AuthSettings {
            loopback_users: settings.auth.loopback_users.clone(),
            anonymous_user: settings.auth.anonymous_user.clone(),
            ..AuthSettings::default()
        },
        definitions: None,
        event_vhost: settings.server.event_exchange.clone(),
        default_user: (settings.auth.default_user.clone(), settings.auth.default_pass.clone()),
        keep,
        on_fatal: die,
    }
}

/// The disk failed: nothing more can be promised, and what was promised is on it.
fn die(problem: &str) {
    tracing::error!(
        problem,
        "the disk failed; the broker stops at once so that nothing is confirmed wrongly"
    );
    std::process::abort();
}

/// Waits until the control socket, if there is one, brings a command to stop.
async fn stop_requested(control: Option<&Control>) {
    match control {
        Some(control) => control.stop_requested().await,
        None => std::future::pending().await,
    }
}

fn listen(
    broker: &Arc<Broker>,
    settings: &Settings,
    max_sockets: usize,
) -> Result<(Server, Option<Control>), String> {
    let amqp = &settings.amqp;
    let amqp_settings = AmqpSettings {
        tune: Tune {
            channel_max: amqp.channel_max,
            frame_max: amqp.frame_max,
            heartbeat: u16::try_from(amqp.heartbeat.as_secs()).unwrap_or(u16::MAX),
        },
        handshake_timeout: amqp.handshake_timeout,
        product: amqp.product.clone(),
        max_sockets,
    };
    let mut server = Server::new(broker.clone(), amqp_settings);
    let mut greeting = String::new();
    let mut listeners = Vec::new();
    for &address in &amqp.listeners {
        let got = server.listen(address).map_err(|e| format!("cannot listen on {address}: {e}"))?;
        // Writing to a string cannot fail.
        let _ = writeln!(greeting, "listening for AMQP 0-9-1 on {got}");
        listeners.push(format!("AMQP 0-9-1 on {got}"));
    }
    let _ = match settings.server.storage {
        Storage::Memory => writeln!(greeting, "keeping everything in memory: nothing survives a restart"),
        Storage::Log => writeln!(greeting, "keeping data in {}", settings.server.data_dir.display()),
    };
    let control = start_control(broker, settings, listeners)?;
    if control.is_none() {
        let _ =
            writeln!(greeting, "posthouse ctl is off: there is no data directory and no --control-socket");
    }
    cli::print(&greeting);
    Ok((server, control))
}

fn start_control(
    broker: &Arc<Broker>,
    settings: &Settings,
    listeners: Vec<String>,
) -> Result<Option<Control>, String> {
    let Some(path) = settings.server.control_path() else { return Ok(None) };
    let facts = Facts {
        version: env!("CARGO_PKG_VERSION"),
        listeners,
        data_dir: (settings.server.storage == Storage::Log).then(|| settings.server.data_dir.clone()),
    };
    let control = Control::listen(broker.clone(), &path, facts);
    let problem =
        |e| format!("cannot listen on control socket {} (server.control_socket): {e}", path.display());
    control.map(Some).map_err(problem)
}

/// SIGTERM and SIGINT.
struct StopSignals {
    term: Signal,
    int: Signal,
}

impl StopSignals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}
