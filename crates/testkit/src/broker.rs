//! A broker of its own for each test, on a free port, with a data directory of its own.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::handshake::Handshake;
use crate::peer::Peer;
use crate::process::Process;
use crate::{TIMEOUT, binary};

/// Names the `IP:PORT` of a broker that runs already, RabbitMQ for example, to run tests against.
const EXTERNAL: &str = "POSTHOUSE_TEST_ADDRESS";

/// The broker's program, not started: for its other subcommands, and for starts that must fail.
pub fn program() -> Command {
    Command::new(binary::posthouse())
}

/// How the line starts that says where the broker listens.
const LISTENING: &str = "listening for AMQP 0-9-1 on ";

/// Where a broker keeps messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Storage {
    /// Nowhere but in memory.
    Memory,
    /// In its data directory.
    Log,
}

/// How a broker is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it keeps messages.
    pub storage: Storage,
    /// Settings by their environment variables, such as `("POSTHOUSE__AMQP__HEARTBEAT", "1s")`.
    pub settings: Vec<(&'static str, String)>,
    /// How many files it may have open; as many as the test itself when there is none.
    pub open_files: Option<u32>,
}

impl Options {
    /// In memory: the quickest to start.
    pub fn memory() -> Self {
        Self { storage: Storage::Memory, settings: Vec::new(), open_files: None }
    }

    /// On disk, with log files so small that they are reused.
    pub fn log() -> Self {
        Self { storage: Storage::Log, settings: Vec::new(), open_files: None }
            .set("POSTHOUSE__LOG__FILE_SIZE", "4MiB")
            .set("POSTHOUSE__LOG__FILES", "4")
    }

    /// With a limit of open files.
    #[must_use]
    pub fn open_files(mut self, limit: u32) -> Self {
        self.open_files = Some(limit);
        self
    }

    /// With a setting.
    #[must_use]
    pub fn set(mut self, variable: &'static str, value: impl ToString) -> Self {
        self.settings.push((variable, value.to_string()));
        self
    }
}

/// A running broker. What it wrote to standard error is shown when the test fails.
pub struct Broker {
    options: Options,
    data_dir: TempDir,
    address: SocketAddr,
    /// None when the broker is external, or between a stop and the next start.
    process: Option<Process>,
    external: bool,
}

impl Broker {
    /// A broker in memory, or the external one when there is one.
    pub fn shared() -> Self {
        match std::env::var(EXTERNAL) {
            Ok(address) => Self {
                options: Options::memory(),
                data_dir: TempDir::new().expect("a temporary directory"),
                address: address.parse().expect("IP:PORT"),
                process: None,
                external: true,
            },
            Err(_) => Self::start(Options::memory()),
        }
    }

    /// Starts a broker and waits until it listens.
    pub fn start(options: Options) -> Self {
        let data_dir = TempDir::new().expect("a temporary directory");
        let (process, address) = launch(&options, &data_dir);
        Self { options, data_dir, address, process: Some(process), external: false }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its data directory.
    pub fn data_dir(&self) -> &std::path::Path {
        self.data_dir.path()
    }

    /// A name that no other test uses: `base` itself unless the broker is external.
    pub fn name(&self, base: &str) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if !self.external {
            return base.to_owned();
        }
        format!("{base}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// A connection as guest, with channel 1 open.
    pub fn peer(&self) -> Peer {
        self.peer_with(&Handshake::default())
    }

    /// A connection with channel 1 open.
    pub fn peer_with(&self, handshake: &Handshake) -> Peer {
        let mut peer = Peer::open(self.address, handshake);
        peer.open_channel(1);
        peer
    }

    /// A socket on which nothing has been said.
    pub fn socket(&self) -> Peer {
        Peer::connect(self.address)
    }

    /// Tells it to stop and waits until it has, without complaint.
    pub fn stop(&mut self) {
        let mut process = self.process.take().expect("the broker runs");
        process.signal(Signal::TERM);
        let status = process.wait(TIMEOUT);
        assert!(status.success(), "the broker exited with {status}; it wrote\n{}", process.stderr());
    }

    /// Ends it without any chance to do anything.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("the broker runs");
        process.signal(Signal::KILL);
        process.wait(TIMEOUT);
    }

    /// Starts it again, after [`Self::stop`] or [`Self::kill`], with the same data. The port is another one.
    pub fn start_again(&mut self) {
        assert!(self.process.is_none(), "the broker runs");
        let (process, address) = launch(&self.options, &self.data_dir);
        (self.process, self.address) = (Some(process), address);
    }

    /// The same with other settings.
    pub fn start_again_with(&mut self, options: Options) {
        self.options = options;
        self.start_again();
    }

    /// Stops it and starts it again.
    pub fn restart(&mut self) {
        self.stop();
        self.start_again();
    }

    /// What `posthouse ctl` prints for these words, without column names; it must succeed.
    #[track_caller]
    pub fn ctl(&self, words: &[&str]) -> String {
        let output = self.run_ctl(words);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {}: {complaint}", output.status);
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// What `posthouse ctl` complains of for these words; it must fail.
    #[track_caller]
    pub fn ctl_refused(&self, words: &[&str]) -> String {
        let output = self.run_ctl(words);
        assert!(!output.status.success(), "{words:?}");
        let complaint = String::from_utf8(output.stderr).expect("UTF-8");
        complaint.trim_start_matches("posthouse: ctl: ").trim_end().to_owned()
    }

    fn run_ctl(&self, words: &[&str]) -> std::process::Output {
        let mut command = program();
        command.args(["ctl", "-s", "--data-dir"]).arg(self.data_dir()).args(words);
        command.output().expect("the program runs")
    }

    /// Checks the data directory of the stopped broker: what `posthouse check` prints, which must find no damage.
    #[track_caller]
    pub fn check(&self) -> String {
        let output = program().arg("check").arg(self.data_dir()).output().expect("the program runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {text}{complaint}", output.status);
        assert!(text.ends_with("\nok\n"), "{text}");
        text
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the broker runs, and is not external")
    }

    /// Whether it is one that ran before the test.
    pub fn is_external(&self) -> bool {
        self.external
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(process) = self.process.as_ref().filter(|_| std::thread::panicking()) {
            eprintln!("--- the broker wrote ---\n{}---", process.stderr());
        }
    }
}

fn launch(options: &Options, data_dir: &TempDir) -> (Process, SocketAddr) {
    let storage = match options.storage {
        Storage::Memory => "memory",
        Storage::Log => "log",
    };
    let mut command = match options.open_files {
        None => program(),
        Some(limit) => {
            let mut limited = Command::new("sh");
            limited.args(["-c", "ulimit -n $0; exec \"$@\"", &limit.to_string()]).arg(binary::posthouse());
            limited
        }
    };
    command.args(["serve", "--amqp", "127.0.0.1:0", "--storage", storage, "--data-dir"]).arg(data_dir.path());
    command.envs(options.settings.iter().map(|(variable, value)| (variable, value)));
    let process = Process::spawn(&mut command);
    while let Some(line) = process.line(TIMEOUT) {
        if let Some(address) = line.trim().strip_prefix(LISTENING) {
            let address = address.parse().unwrap_or_else(|error| panic!("{line}: {error}"));
            return (process, address);
        }
    }
    panic!("the broker does not listen; it wrote\n{}", process.stderr());
}
