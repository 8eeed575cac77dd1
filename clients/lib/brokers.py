"""Brokers to test against: Posthouse, and Debian's RabbitMQ beside whatever else runs here."""

import contextlib
import os
import pathlib
import queue
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time

from install import Problem

LISTENING = re.compile(r"listening for AMQP 0-9-1 on (\S+:\d+)")
RABBITMQ_BIN = pathlib.Path("/usr/lib/rabbitmq/bin")
RABBITMQ_START_SECONDS = 120
# What rabbitmqctl needs to find the RabbitMQ that was started last.
_rabbitmq_environment = {}
RABBITMQ_PLUGINS = (
    "rabbitmq_consistent_hash_exchange",
    "rabbitmq_jms_topic_exchange",
    "rabbitmq_random_exchange",
    "rabbitmq_recent_history_exchange",
    "rabbitmq_sharding",
)


@contextlib.contextmanager
def posthouse(binary, data=None):
    """A Posthouse on a free port; yields its URI.

    Without a data directory it gets a fresh one, which goes with it. Leaving the block sends
    SIGTERM, and the broker must then exit with 0 within 10 seconds.
    """
    with tempfile.TemporaryDirectory(prefix="posthouse-clients-") as directory, open(f"{directory}/log", "w+") as log:
        process, uri = start_posthouse(binary, data or f"{directory}/data", "127.0.0.1:0", log)
        try:
            yield uri
        finally:
            code = stop_posthouse(process)
        if code != 0:
            raise Problem(f"the broker exited with {code} after SIGTERM; its log ends:\n{_tail(log)}")


def start_posthouse(binary, data, address, log):
    """Starts a Posthouse and waits until it listens; returns its process and its URI."""
    arguments = [binary, "serve", "--data-dir", data, "--amqp", address]
    directory = pathlib.Path(log.name).parent
    try:
        process = subprocess.Popen(
            arguments, cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True
        )
    except OSError as error:
        raise Problem(f"cannot start {binary}: {error}") from None
    try:
        return process, f"amqp://guest:guest@{_address(process, log)}/"
    except Problem:
        process.kill()
        raise


def stop_posthouse(process):
    """Sends SIGTERM; returns the exit code, which must come within 10 seconds."""
    process.send_signal(signal.SIGTERM)
    try:
        return process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        raise Problem("the broker did not stop within 10 s of SIGTERM") from None


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


@contextlib.contextmanager
def rabbitmq():
    """Debian's RabbitMQ on free ports, with its own epmd and all of its files in a temporary directory.

    The plugins that bring further exchange types are on.
    """
    with tempfile.TemporaryDirectory(prefix="rabbitmq-compare-") as directory, contextlib.ExitStack() as stack:
        amqp, distribution, epmd = free_ports(3)
        environment = {
            **os.environ,
            "HOME": directory,
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(epmd),
            "RABBITMQ_CONF_ENV_FILE": f"{directory}/none",
            "RABBITMQ_CONFIG_FILE": f"{directory}/none",
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{directory}/plugins",
            "RABBITMQ_LOG_BASE": f"{directory}/log",
            "RABBITMQ_MNESIA_BASE": f"{directory}/mnesia",
            "RABBITMQ_NODENAME": f"compare{os.getpid()}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(amqp),
        }
        _rabbitmq_environment.update(environment)
        pathlib.Path(f"{directory}/plugins").write_text(f"[{','.join(RABBITMQ_PLUGINS)}].")
        log = stack.enter_context(open(f"{directory}/output", "w+"))
        stack.enter_context(_group(["epmd", "-port", str(epmd), "-address", "127.0.0.1"], environment, log))
        server = stack.enter_context(_group([RABBITMQ_BIN / "rabbitmq-server"], environment, log))
        _wait_for_amqp(server, amqp, log)
        yield f"amqp://guest:guest@127.0.0.1:{amqp}/"


def rabbitmqctl(*words):
    """What a command to the RabbitMQ that was started here says."""
    done = subprocess.run(
        [RABBITMQ_BIN / "rabbitmqctl", *words],
        env=_rabbitmq_environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        raise Problem(f"rabbitmqctl {words[0]} failed with exit code {done.returncode}: {done.stdout}")
    return done.stdout


@contextlib.contextmanager
def _group(arguments, environment, log):
    """A program with all of its children in a process group of their own, which is ended with it."""
    process = subprocess.Popen(
        arguments, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
    )
    try:
        yield process
    finally:
        for signal_number, seconds in ((signal.SIGTERM, 15), (signal.SIGKILL, 5)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal_number)
            deadline = time.monotonic() + seconds
            while _alive(process) and time.monotonic() < deadline:
                time.sleep(0.05)


def _alive(process):
    """Whether anything of the process group is left."""
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def free_ports(count):
    """Ports of the loopback interface on which nothing listened a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in sockets]


def _wait_for_amqp(server, port, log):
    deadline = time.monotonic() + RABBITMQ_START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise Problem(f"RabbitMQ ended before it listened; its output ends:\n{_tail(log)}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as probe:
            probe.sendall(b"AMQP\x00\x00\x09\x01")
            if probe.recv(1):
                return
        time.sleep(0.1)
    raise Problem(f"RabbitMQ did not listen within {RABBITMQ_START_SECONDS} s; its output ends:\n{_tail(log)}")
