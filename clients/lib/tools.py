"""Installing what the client programs need, and running a broker for them.

Knows which Debian packages and lock files there are; knows nothing of what the programs check.
"""

import contextlib
import hashlib
import os
import pathlib
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading

CLIENTS = pathlib.Path(__file__).resolve().parent.parent
ROOT = CLIENTS.parent
PYTHON = CLIENTS / ".venv/bin/python"
LISTENING = re.compile(r"listening for AMQP 0-9-1 on (\S+:\d+)")


class Problem(Exception):
    """What stops a run before any program could; one line for the user."""


def command(arguments, **options):
    """Runs an installing command, showing its output only when it fails."""
    done = subprocess.run(
        arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )
    if done.returncode != 0:
        sys.stderr.write(done.stdout)
        raise Problem(f"{' '.join(map(str, arguments))} failed with exit code {done.returncode}")


def debian_packages(wanted):
    """Installs the Debian packages whose program is missing; `wanted` maps programs to packages."""
    packages = [package for program, package in wanted.items() if not shutil.which(program)]
    if not packages:
        return
    if os.geteuid() != 0:
        raise Problem(f"missing packages, install them as root: apt-get install {' '.join(packages)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command(["apt-get", "update"])
    # Daemons of these packages are started by hand on free ports, never by the package.
    with _no_service_starts():
        command(["apt-get", "install", "-y", "--no-install-recommends", *packages], env=environment)


@contextlib.contextmanager
def _no_service_starts():
    policy = pathlib.Path("/usr/sbin/policy-rc.d")
    if policy.exists():
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink()


def unless_stamped(stamp, inputs, install):
    """Calls `install` unless the stamp says it was done for exactly these input files."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in inputs)).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return
    install()
    stamp.write_text(digest)


def install_python():
    """The pinned Python clients in clients/.venv."""
    requirements = CLIENTS / "requirements.txt"

    def install():
        command([sys.executable, "-m", "venv", "--clear", CLIENTS / ".venv"])
        command([PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements])

    unless_stamped(CLIENTS / ".venv/stamp", [requirements], install)


def install_node():
    """The pinned Node client in clients/node/node_modules."""
    node = CLIENTS / "node"
    inputs = [node / "package.json", node / "package-lock.json"]
    install = lambda: command(["npm", "ci", "--no-audit", "--no-fund"], cwd=node)
    unless_stamped(node / "node_modules/stamp", inputs, install)


def build_lapin():
    """Builds the Rust client program (cargo knows by itself whether there is anything to do)."""
    command(["cargo", "build", "--quiet", "--locked", "--manifest-path", CLIENTS / "lapin/Cargo.toml", *LAPIN_TARGET])


LAPIN_TARGET = ["--target-dir", ROOT / "target/clients"]
LAPIN_PROGRAM = ROOT / "target/clients/debug/lapin-client"


@contextlib.contextmanager
def posthouse(binary):
    """A Posthouse on a free port with a fresh data directory; yields its URI.

    Leaving the block sends SIGTERM, and the broker must then exit with 0 within 10 seconds.
    """
    with tempfile.TemporaryDirectory(prefix="posthouse-clients-") as directory:
        arguments = [binary, "serve", "--data-dir", f"{directory}/data", "--amqp", "127.0.0.1:0"]
        log = open(f"{directory}/log", "w+")
        try:
            process = subprocess.Popen(
                arguments, cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True
            )
        except OSError as error:
            raise Problem(f"cannot start {binary}: {error}") from None
        try:
            yield f"amqp://guest:guest@{_address(process, log)}/"
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                code = process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                raise Problem("the broker did not stop within 10 s of SIGTERM") from None
        if code != 0:
            raise Problem(f"the broker exited with {code} after SIGTERM; its log ends:\n{_tail(log)}")


def _address(process, log):
    lines = queue.Queue()

    def read():  # Also drains the pipe afterwards, so that the broker never blocks on it.
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=15)
        except queue.Empty:
            raise Problem("the broker did not say within 15 s where it listens") from None
        if line is None:
            raise Problem(f"the broker ended before it listened; its log ends:\n{_tail(log)}")
        if found := LISTENING.search(line):
            return found[1]


def _tail(log):
    log.seek(0)
    return "".join(log.readlines()[-20:])
