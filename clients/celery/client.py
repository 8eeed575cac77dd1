"""Celery: an application, its workers and its callers. Usage: celery/client.py classic|quorum"""

import contextlib
import datetime
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import checks

DIRECTORY = pathlib.Path(__file__).parent
NOTES = tempfile.TemporaryDirectory(prefix="posthouse-celery-")
os.environ |= {
    "CELERY_QUEUE": checks.name(sys.argv[1]),
    "CELERY_QUEUE_TYPE": sys.argv[1],
    "CELERY_NOTES": NOTES.name,
}

from application import Broken, add, app, fail, hold, hold_once, now, third_time_lucky  # noqa: E402
from celery import group, uuid  # noqa: E402
from celery.exceptions import TaskRevokedError  # noqa: E402

PATIENCE = 30
WORKER = f"one@{os.getpid()}"


class Worker:
    """`celery worker` in a process group of its own."""

    def __init__(self, name=WORKER):
        self.log = open(f"{NOTES.name}/log", "a")
        command = [sys.executable, "-m", "celery", "-A", "application", "worker", "-n", name, "-c", "2", "-l", "info"]
        self.process = subprocess.Popen(
            command, cwd=DIRECTORY, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, start_new_session=True
        )
        try:
            checks.until(lambda: ping(name), f"worker {name} answers", PATIENCE)
        except BaseException:
            self.kill()
            raise

    def kill(self):
        """Ends it and its pool as a power cut would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def ping(name):
    return app.control.ping(destination=[name], timeout=0.3)


def thousand_tasks():
    results = group(add.s(number, number) for number in range(1000))()
    checks.equal(results.get(timeout=PATIENCE), [2 * number for number in range(1000)], "results in order")


def chains_and_failures():
    checks.equal((add.s(1, 2) | add.s(3) | add.s(4))().get(timeout=PATIENCE), 10, "a chain")
    checks.equal(raises(Broken, fail.delay("on purpose")), "on purpose", "the task's own error")


def countdown_and_eta():
    due = time.time() + 2
    eta = datetime.datetime.fromtimestamp(due, datetime.timezone.utc)
    later = [now.apply_async(countdown=2) for _ in range(5)] + [now.apply_async(eta=eta) for _ in range(5)]
    at_once = now.delay().get(timeout=PATIENCE)
    checks.true(at_once < due, "tasks that wait for their time do not hold up others")
    for result in later:
        checks.true(result.get(timeout=PATIENCE) >= due - 0.1, "no task runs before its time")


def retries_with_back_off():
    first, second, third = third_time_lucky.delay(time.time()).get(timeout=PATIENCE)
    checks.true(second - first >= 0.9, f"the first retry waits a second: {first}, {second}")
    checks.true(third - second >= 1.9, f"the second one two: {second}, {third}")


def remote_control():
    inspect = app.control.inspect([WORKER], timeout=PATIENCE)
    checks.equal(inspect.ping(), {WORKER: {"ok": "pong"}}, "ping")
    checks.true("application.add" in inspect.registered()[WORKER], "registered tasks")
    [queue] = inspect.active_queues()[WORKER]
    checks.equal(queue["name"], os.environ["CELERY_QUEUE"], "active queues")
    processes = lambda: len(inspect.stats()[WORKER]["pool"]["processes"])  # noqa: E731
    checks.equal(processes(), 2, "processes in the pool")
    app.control.pool_grow(1, destination=[WORKER], reply=True, timeout=PATIENCE)
    checks.until(lambda: processes() == 3, "the pool grows", PATIENCE)
    app.control.pool_shrink(1, destination=[WORKER], reply=True, timeout=PATIENCE)
    checks.until(lambda: processes() == 2, "the pool shrinks", PATIENCE)
    [answer] = app.control.rate_limit("application.add", "1000/s", destination=[WORKER], reply=True, timeout=PATIENCE)
    checks.equal(answer, {WORKER: {"ok": "new rate limit set successfully"}}, "rate limit")
    other = checks.name("another")
    app.control.add_consumer(other, exchange=other, routing_key=other, destination=[WORKER], reply=True, timeout=PATIENCE)
    checks.equal(add.apply_async((1, 2), queue=other).get(timeout=PATIENCE), 3, "a queue added at run time")
    app.control.cancel_consumer(other, destination=[WORKER], reply=True, timeout=PATIENCE)
    # The worker answers before it cancels.
    checks.until(lambda: len(inspect.active_queues()[WORKER]) == 1, "the queue is cancelled", PATIENCE)
    with app.connection_for_write() as connection:
        connection.default_channel.queue_delete(other)


def events():
    seen = []
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": lambda event: seen.append((event.get("uuid"), event["type"]))})
        with receiver.consumer_context() as (link, _, _):
            task = add.delay(1, 1)
            while (task.id, "task-succeeded") not in seen:
                link.drain_events(timeout=PATIENCE)
    kinds = [kind for task_id, kind in seen if task_id == task.id]
    checks.equal(kinds, ["task-received", "task-started", "task-succeeded"], "events of a task")


def revoked_tasks_do_not_run():
    inspect = app.control.inspect([WORKER], timeout=PATIENCE)
    unwanted = uuid()
    app.control.revoke([unwanted])
    checks.until(lambda: unwanted in inspect.revoked()[WORKER], "the worker knows", PATIENCE)
    raises(TaskRevokedError, now.apply_async(task_id=unwanted))
    running = hold.delay(600)
    checks.until(lambda: running.id in str(inspect.active()), "the task runs", PATIENCE)
    # The pool process that comes in the killed one's place closes connections it shares with its parent, on any broker;
    # an answer of the parent can be lost in that, so nothing is asked of it from here on.
    app.control.revoke([running.id], terminate=True, signal="SIGKILL")
    raises(TaskRevokedError, running)
    checks.equal(add.delay(1, 2).get(timeout=PATIENCE), 3, "a task after one that was killed")


def raises(error, result):
    """The task must have ended with this error; returns its text."""
    try:
        got = result.get(timeout=PATIENCE)
    except error as raised:
        return str(raised)
    raise checks.Failed(f"expected {error.__name__}, got the result {got!r}")


def a_killed_worker_loses_no_task():
    late = hold_once.delay()
    checks.until((pathlib.Path(NOTES.name) / late.id).exists, "the task runs", PATIENCE)
    worker.kill()
    successor = Worker(f"two@{os.getpid()}")
    try:
        checks.equal(late.get(timeout=PATIENCE), [2, True], "calls, and redelivered on the second")
        app.control.shutdown(destination=[f"two@{os.getpid()}"])
        checks.equal(successor.process.wait(PATIENCE), 0, "exit code of a worker that was shut down")
    finally:
        successor.kill()


def main():
    global worker
    worker = Worker()
    try:
        checks.run(
            thousand_tasks,
            chains_and_failures,
            countdown_and_eta,
            retries_with_back_off,
            remote_control,
            events,
            revoked_tasks_do_not_run,
            a_killed_worker_loses_no_task,
        )
    except SystemExit:
        print(pathlib.Path(f"{NOTES.name}/log").read_text())
        raise
    finally:
        worker.kill()
        with app.connection_for_write() as connection:
            connection.default_channel.queue_delete(os.environ["CELERY_QUEUE"])
            connection.default_channel.exchange_delete(os.environ["CELERY_QUEUE"])


main()
