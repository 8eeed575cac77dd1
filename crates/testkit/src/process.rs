//! A child process whose output is collected, and what `/proc` says of it.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use rustix::process::Signal;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, kill_process, prlimit};

/// A running child process. It is killed when dropped.
pub struct Process {
    child: Child,
    /// Lines of standard output; disconnected when the process has closed it, which it does by exiting.
    lines: Mutex<Receiver<String>>,
    output: Arc<Mutex<Vec<u8>>>,
    /// Ends when standard error is closed.
    collector: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts it.
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        let output = Arc::new(Mutex::new(Vec::new()));
        let (sender, lines) = channel();
        let stdout = child.stdout.take().expect("standard output is piped");
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Nobody listens any more once the process is dropped; the pipe is drained all the same.
                let _ = sender.send(line);
            }
        });
        let stderr = child.stderr.take().expect("standard error is piped");
        let collected = Arc::clone(&output);
        let collector = std::thread::spawn(move || collect(stderr, &collected));
        Self { child, lines: Mutex::new(lines), output, collector: Some(collector) }
    }

    /// The next line of standard output, or `None` when there will be none before `limit` has passed.
    pub fn line(&self, limit: Duration) -> Option<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(limit).ok()
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        let output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&output).into_owned()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the process can be signalled");
    }

    /// Waits until it has exited, and everything it wrote is there.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let deadline = Instant::now() + limit;
        loop {
            let lines = self.lines.get_mut().unwrap_or_else(PoisonError::into_inner);
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("the process did not exit within {limit:?}"),
            }
        }
        if let Some(collector) = self.collector.take() {
            collector.join().expect("reading standard error");
        }
        self.child.wait().expect("the process is a child")
    }

    /// Sets how many files it may have open from now on; how many it might before. What is open stays open.
    pub fn limit_open_files(&self, limit: u64) -> u64 {
        let maximum = getrlimit(Resource::Nofile).maximum;
        let new = Rlimit { current: Some(limit), maximum };
        let before = prlimit(Some(self.pid()), Resource::Nofile, new).expect("a lower limit is allowed");
        before.current.expect("a limit")
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("the process runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a VmRSS line");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number of kB");
        kib * 1024
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(mut from: impl Read, to: &Mutex<Vec<u8>>) {
    let mut piece = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut piece) {
        to.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&piece[..read]);
    }
}
