"""Runs RabbitMQ's seven tutorials against the broker and checks what each program prints."""

import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading

import checks
from broker import connect

HERE = pathlib.Path(__file__).parent
PATIENCE_SECONDS = 30

# Handled here, so that the programs start with the default: a shell's background jobs ignore it, and so would they.
signal.signal(signal.SIGINT, signal.default_int_handler)


class Program:
    """A tutorial program that runs until it is interrupted, and its output so far."""

    def __init__(self, script, *arguments):
        self.script = script
        self.lines = queue.Queue()
        self.process = subprocess.Popen(
            [sys.executable, HERE / script, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self):
        checks.true("CTRL+C" in (line := self.line()) or "Awaiting" in line, f"{self.script} waits: {line}")
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGINT)
        checks.equal(self.process.wait(PATIENCE_SECONDS), 0, f"{self.script} ends when interrupted")

    def line(self):
        """The next line it prints."""
        try:
            return self.lines.get(timeout=PATIENCE_SECONDS)
        except queue.Empty:
            raise checks.Failed(f"{self.script} printed nothing for {PATIENCE_SECONDS} s") from None

    def prints(self, *expected):
        for line in expected:
            checks.equal(self.line(), line, self.script)

    def quiet(self):
        """Ends it and checks that it printed nothing more."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(PATIENCE_SECONDS)
        self.prints("Interrupted")

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line.rstrip("\n"))


def output(script, *arguments):
    """What a program that ends by itself prints."""
    done = subprocess.run([sys.executable, HERE / script, *arguments], capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    checks.equal(done.returncode, 0, f"{script} exits with (its stderr: {done.stderr})")
    return done.stdout.splitlines()


def ready(name):
    """Messages waiting in a queue; the queue must exist."""
    connection = connect()
    count = connection.channel().queue_declare(name, passive=True).method.message_count
    connection.close()
    return count


def clean():
    """Removes what an earlier run may have left under the tutorials' fixed names."""
    connection = connect()
    channel = connection.channel()
    for name in ("hello", "task_queue", "rpc_queue"):
        channel.queue_delete(name)
    for name in ("logs", "direct_logs", "topic_logs"):
        channel.exchange_delete(name)
    connection.close()


def one_hello_world():
    checks.equal(output("send.py"), [" [x] Sent 'Hello World!'"], "send.py")
    checks.until(lambda: ready("hello") == 1, "hello holds the message")
    for mode in ([], ["manual"]):
        with Program("receive.py", *mode) as receiver:
            if mode:
                output("send.py")
            receiver.prints(" [x] Received b'Hello World!'")
    checks.until(lambda: ready("hello") == 0, "hello is empty")


def two_work_queues():
    with Program("worker.py") as first, Program("worker.py") as second:
        # The long task keeps one worker busy; prefetch 1 sends every other to its colleague.
        output("new_task.py", "long" + "." * 30)
        taken = []
        for number in range(4):
            output("new_task.py", f"short{number}")
        workers = {"first": first, "second": second}
        lines = {name: worker.line() for name, worker in workers.items()}
        busy = [name for name, line in lines.items() if line.startswith(" [x] Received long")]
        checks.equal(len(busy), 1, f"one worker has the long task: {lines}")
        free = workers["second" if busy == ["first"] else "first"]
        taken.append(lines["second" if busy == ["first"] else "first"])
        for _ in range(3):
            free.prints(" [x] Done")
            taken.append(free.line())
        free.prints(" [x] Done")
        checks.equal(taken, [f" [x] Received short{number}" for number in range(4)], "the free worker's tasks")
        workers[busy[0]].prints(" [x] Done")
    checks.until(lambda: ready("task_queue") == 0, "all tasks are acknowledged")


def three_publish_subscribe():
    output("emit_log.py", "nobody", "listens")
    with Program("receive_logs.py") as first, Program("receive_logs.py") as second:
        output("emit_log.py", "info:", "Hello")
        for listener in (first, second):
            listener.prints(" [x] info: Hello")


def four_routing():
    with Program("receive_logs_routed.py", "direct", "error") as errors:
        with Program("receive_logs_routed.py", "direct", "info", "warning", "error") as everything:
            for severity in ("info", "warning", "error"):
                output("emit_log_routed.py", "direct", severity, "Run.", "Run.")
            everything.prints(*(f" [x] {severity}:Run. Run." for severity in ("info", "warning", "error")))
            errors.prints(" [x] error:Run. Run.")


def five_topics():
    keys = ["kern.critical", "cron.critical", "kern.info", "cron.info"]
    patterns = {"#": keys, "kern.*": [keys[0], keys[2]], "*.critical": keys[:2]}
    listeners = {pattern: Program("receive_logs_routed.py", "topic", pattern).__enter__() for pattern in patterns}
    for key in keys:
        output("emit_log_routed.py", "topic", key, "A message")
    for pattern, expected in patterns.items():
        listeners[pattern].prints(*(f" [x] {key}:A message" for key in expected))
        listeners[pattern].quiet()


def six_rpc():
    with Program("rpc_server.py") as server:
        for arguments in ([], ["direct"]):
            got = output("rpc_client.py", *arguments)
            checks.equal(got, [" [x] Requesting fib(20)", " [.] Got 6765"], f"rpc_client.py {arguments}")
            server.prints(" [.] fib(20)")


def seven_publisher_confirms():
    ways = ("individually", "in batches", "asynchronously")
    checks.equal(output("publisher_confirms.py"), [f"{way}: 500 published and confirmed" for way in ways], "confirms")


os.environ["AMQP_URI"] = checks.URI
checks.run(
    clean,
    one_hello_world,
    two_work_queues,
    three_publish_subscribe,
    four_routing,
    five_topics,
    six_rpc,
    seven_publisher_confirms,
    clean,
)
