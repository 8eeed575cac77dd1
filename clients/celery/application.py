"""The Celery application that client.py drives: its settings and its tasks.

A worker imports it, and so does the program that calls the tasks; CELERY_QUEUE, CELERY_QUEUE_TYPE and CELERY_NOTES in
the environment must be the same for both.
"""

import os
import pathlib
import time

import celery

QUEUE = os.environ["CELERY_QUEUE"]
NOTES = pathlib.Path(os.environ["CELERY_NOTES"])

app = celery.Celery("application", broker=os.environ["AMQP_URI"], backend="rpc://")
app.conf.update(
    broker_connection_retry_on_startup=True,
    broker_transport_options={"confirm_publish": True},
    task_default_queue=QUEUE,
    task_default_exchange=QUEUE,
    # Native delays, which Celery uses with quorum queues, need a topic exchange.
    task_default_exchange_type="topic",
    task_default_routing_key=QUEUE,
    task_default_queue_type=os.environ["CELERY_QUEUE_TYPE"],
    # One task in advance per process, so that tasks with an ETA must widen the window.
    worker_prefetch_multiplier=1,
    worker_send_task_events=True,
)


class Broken(Exception):
    """What a task fails with on purpose."""


@app.task
def add(left, right):
    return left + right


@app.task
def fail(text):
    raise Broken(text)


@app.task
def now():
    return time.time()


@app.task(bind=True, autoretry_for=(Broken,), retry_backoff=True, retry_jitter=False, max_retries=2)
def third_time_lucky(self, began):
    """Fails twice; returns when it was called, in seconds since `began`."""
    called = time.time() - began
    note(self.request.id, f"{called}\n")
    if self.request.retries < 2:
        raise Broken("not yet")
    return [float(line) for line in (NOTES / self.request.id).read_text().splitlines()]


@app.task
def hold(seconds):
    time.sleep(seconds)


@app.task(bind=True, acks_late=True)
def hold_once(self):
    """Holds its worker up the first time; returns how many times it was called and whether its message came again."""
    note(self.request.id, "called\n")
    calls = (NOTES / self.request.id).read_text().count("called")
    if calls == 1:
        time.sleep(600)
    return calls, self.request.delivery_info["redelivered"]


def note(name, line):
    """Appends a line to what a task has noted under this name; it outlives the worker."""
    with open(NOTES / name, "a") as notes:
        notes.write(line)
