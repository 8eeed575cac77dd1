//! The control socket: an operator's commands to a running broker, over a Unix socket that only its owner may use.
//!
//! One JSON object per line each way, answered in order. A request has at most [`MAX_REQUEST_BYTES`] bytes with its
//! line feed; an answer is as long as what is listed.
//!
//! ```text
//! request   {"v":1,"command":"list_queues","args":{"vhost":"/"}}
//! answer    {"v":1,"ok":[{"name":"orders","messages":3,..},..]}
//!           {"v":1,"error":"user 'x' does not exist","kind":"state"}     kind: "state" or "usage"
//! ```
//!
//! After the line of `import_definitions` come as many bytes as its argument `bytes` says: the document, of at most
//! [`posthouse_node::definitions::MAX_BYTES`] bytes. One that claims more is answered, and ends the connection.
//!
//! `v` is 1. `args` may be left out when there are none; the names of commands and arguments are those of
//! [`commands::Command`]. After a bad line the answer says why, and the connection goes on; after one that is too long
//! it ends. Passwords are in requests only, and never in answers, errors or the log. `stop` is answered at once, and its
//! connection stays open until the process is about to end.

pub mod commands;

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use posthouse_node::broker::Broker;
use posthouse_node::definitions::{DefinitionsError, MAX_BYTES};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, Semaphore};
use tracing::{debug, error, warn};

use commands::{Command, Failure, Outcome};

/// The file in the data directory.
pub const FILE_NAME: &str = "control.sock";
/// Bytes of a request, its line feed included.
pub const MAX_REQUEST_BYTES: u64 = 64 * 1024;
/// Connections at a time; more wait.
const MAX_CONNECTIONS: usize = 16;
/// How long a connection may send nothing, or not read its answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// What `status` says beyond what the broker knows of itself.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The program's version.
    pub version: &'static str,
    /// What is listened on, such as `AMQP 0-9-1 on 127.0.0.1:5672`.
    pub listeners: Vec<String>,
    /// Where data is kept; none when nothing is.
    pub data_dir: Option<PathBuf>,
}

/// What all control connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) broker: Arc<Broker>,
    pub(crate) facts: Facts,
    pub(crate) started: Instant,
    /// Held by a command that changes something, so that changes are kept in the order in which they were made.
    pub(crate) changing: Mutex<()>,
    stop: Notify,
    places: Semaphore,
    /// One for each command that is being carried out; closed when the broker stops.
    running: Semaphore,
}

/// The control socket of a running broker; dropping it removes the socket.
#[derive(Debug)]
pub struct Control {
    shared: Arc<Shared>,
    path: PathBuf,
    task: tokio::task::JoinHandle<()>,
}

impl Control {
    /// Listens on a Unix socket. One that a killed broker left there is replaced.
    ///
    /// # Errors
    /// When the socket cannot be made: the path is longer than the system allows (about 107 bytes), its directory is
    /// missing, something else than a socket is there, or another broker listens on it.
    pub fn listen(broker: Arc<Broker>, path: &Path, facts: Facts) -> io::Result<Self> {
        let listener = bind(path)?;
        let shared = Arc::new(Shared {
            broker,
            facts,
            started: Instant::now(),
            changing: Mutex::new(()),
            stop: Notify::new(),
            places: Semaphore::new(MAX_CONNECTIONS),
            running: Semaphore::new(MAX_CONNECTIONS),
        });
        let task = tokio::spawn(accept(listener, shared.clone()));
        Ok(Self { shared, path: path.to_owned(), task })
    }

    /// Waits until somebody asks the broker to stop. Cancel-safe.
    pub async fn stop_requested(&self) {
        self.shared.stop.notified().await;
    }

    /// Takes no commands any more, and waits until those that came before are carried out, `patience` at most.
    pub async fn stop(&self, patience: Duration) {
        self.task.abort();
        let all = self.shared.running.acquire_many(MAX_CONNECTIONS as u32);
        if tokio::time::timeout(patience, all).await.is_err() {
            warn!("a command of the operator was not carried out in time");
        }
        self.shared.running.close();
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
        // One that is left behind is replaced at the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    let address = SockAddr::unix(path)?;
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(io::Error::other("another broker listens there"));
            }
            std::fs::remove_file(path)?;
        }
        Ok(_) => return Err(io::Error::other("expected a socket or nothing there, got something else")),
        Err(problem) if problem.kind() == io::ErrorKind::NotFound => {}
        Err(problem) => return Err(problem),
    }
    socket.bind(&address)?;
    // Nobody can connect before listen, so nobody can before this.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    socket.listen(MAX_CONNECTIONS as i32)?;
    socket.set_nonblocking(true)?;
    UnixListener::from_std(socket.into())
}

async fn accept(listener: UnixListener, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                let shared = shared.clone();
                tokio::spawn(async move {
                    // Never closed, so never an error.
                    let Ok(_place) = shared.places.acquire().await else { return };
                    if let Err(problem) = serve(socket, &shared).await {
                        debug!(%problem, "a control connection ended");
                    }
                });
            }
            Err(problem) => {
                // Out of file descriptors or memory: what is open may end and make room.
                error!(%problem, "cannot accept a control connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(socket: UnixStream, shared: &Arc<Shared>) -> io::Result<()> {
    let (input, mut output) = socket.into_split();
    let mut input = BufReader::new(input);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut limited = (&mut input).take(MAX_REQUEST_BYTES);
        let read = tokio::time::timeout(PATIENCE, limited.read_until(b'\n', &mut line)).await??;
        if read == 0 {
            return Ok(());
        }
        let complete = line.last() == Some(&b'\n');
        let parsed = if complete { commands::parse(&line) } else { Err(not_a_line(read)) };
        let payload_bytes = parsed.as_ref().ok().and_then(Command::payload_bytes).unwrap_or(0);
        let fits = payload_bytes <= MAX_BYTES;
        let outcome = match parsed {
            Ok(_) if !fits => Err(Failure::usage(DefinitionsError::TooLong(payload_bytes).to_string())),
            Ok(command) => {
                let payload = read_payload(&mut input, payload_bytes).await?;
                answer(command, payload, shared).await
            }
            Err(failure) => Err(failure),
        };
        let mut text = commands::encode(&outcome);
        text.push('\n');
        tokio::time::timeout(PATIENCE, output.write_all(text.as_bytes())).await??;
        if matches!(outcome, Ok(Outcome::Stop)) {
            tracing::info!("asked to stop over the control socket");
            shared.stop.notify_one();
            // The peer sees the end when the process comes to its own.
            return std::future::pending().await;
        }
        if !complete || !fits {
            return Ok(());
        }
    }
}

fn not_a_line(read: usize) -> Failure {
    Failure::usage(format!(
        "expected a line of at most {MAX_REQUEST_BYTES} bytes, got {read} bytes without a line feed"
    ))
}

/// Reads what follows a line. Memory grows with what has come, not with what was announced.
async fn read_payload(input: &mut (impl AsyncRead + Unpin), bytes: usize) -> io::Result<Vec<u8>> {
    let mut payload = Vec::new();
    let mut limited = input.take(bytes as u64);
    while payload.len() < bytes {
        let read = tokio::time::timeout(PATIENCE, limited.read_buf(&mut payload)).await??;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(payload)
}

async fn answer(command: Command, payload: Vec<u8>, shared: &Arc<Shared>) -> Result<Outcome, Failure> {
    let Ok(_running) = shared.running.acquire().await else {
        return Err(Failure::state("the broker is stopping"));
    };
    let shared = shared.clone();
    // Passwords are hashed and definitions waited for.
    let done = tokio::task::spawn_blocking(move || commands::run(&shared, command, &payload)).await;
    done.unwrap_or_else(|_| Err(Failure::state("the broker failed at this command, see its log")))
}

#[cfg(test)]
mod tests;
