"""Assertions and scenario running shared by the Python client programs.

Knows nothing of any client library: programs pass in what they got and what they expected.
"""

import os
import sys
import time
import traceback

URI = os.environ.get("AMQP_URI", "amqp://guest:guest@127.0.0.1:5672/%2f")

# RabbitMQ's reply for a second connection touching an exclusive queue; %s is the queue's name.
LOCKED = (
    "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '%s' in vhost '/'. "
    "It could be originally declared on another connection or the exclusive property value "
    "does not match that of the original declaration."
)


class Failed(Exception):
    """An expectation that did not hold."""


def name(stem):
    """A name no other run uses, so a crashed run leaves nothing that disturbs the next."""
    program = os.path.splitext(os.path.basename(sys.argv[0]))[0]
    return f"check.{program}.{stem}.{os.getpid()}"


def equal(got, expected, what):
    """Fails unless both are equal, naming both."""
    if got != expected:
        raise Failed(f"{what}: expected {expected!r}, got {got!r}")


def true(condition, what):
    """Fails unless the condition holds."""
    if not condition:
        raise Failed(what)


def starts_with(got, expected, what):
    """Fails unless `got` begins with `expected`."""
    if not got.startswith(expected):
        raise Failed(f"{what}: expected it to start with {expected!r}, got {got!r}")


def until(condition, what, seconds=10):
    """Polls for something only another connection's end can bring about."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"{what}: still not so after {seconds} s")
        time.sleep(0.02)


def body(size):
    """Bytes of a repeating pattern whose period shares no factor with any frame size."""
    pattern = bytes(range(251))
    return (pattern * (size // len(pattern) + 1))[:size]


def failure(scenario, error):
    """Prints one clear line and the trace, then exits with 1."""
    print(f"FAIL {scenario}: {type(error).__name__}: {error}", flush=True)
    traceback.print_exception(error)
    sys.exit(1)


def run(*scenarios):
    """Runs scenarios in turn; the first failure ends the program with exit code 1."""
    for scenario in scenarios:
        try:
            scenario()
        except Exception as error:
            failure(scenario.__name__, error)
        print(f"ok {scenario.__name__}", flush=True)
