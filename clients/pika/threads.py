"""pika with threads: one runs the connection, others work, acknowledge and publish through it."""

import functools
import queue
import threading

import checks
import pika
from session import channel, count

MESSAGES = 200
WORKERS = 4


class Shared:
    """A connection with a thread that serves it; other threads hand it callbacks, the only call that they may make."""

    def __init__(self):
        self.connection = pika.BlockingConnection(pika.URLParameters(checks.URI))
        self.channel = self.connection.channel()
        self.stopping = False
        self.thread = threading.Thread(target=self._serve)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.connection.add_callback_threadsafe(self._stop)
        self.thread.join(10)
        checks.true(not self.thread.is_alive(), "the connection's thread ends")

    def later(self, call, *arguments, **options):
        """Has the connection's thread make a call."""
        self.connection.add_callback_threadsafe(functools.partial(call, *arguments, **options))

    def result(self, call, *arguments, **options):
        """The same, waiting for what it returns."""
        results = queue.Queue()
        self.later(lambda: results.put(call(*arguments, **options)))
        return results.get(timeout=10)

    def _serve(self):
        while not self.stopping:
            self.connection.process_data_events(time_limit=1)
        self.connection.close()

    def _stop(self):
        self.stopping = True


def workers_acknowledge_through_the_connections_thread():
    with channel() as publisher:
        name = publisher.queue_declare(checks.name("work"), durable=True).method.queue
        for number in range(MESSAGES):
            publisher.basic_publish("", name, b"%d" % number)
        work = queue.Queue()
        done = queue.Queue()
        with Shared() as shared:

            def worker():
                for method, content in iter(work.get, None):
                    shared.later(shared.channel.basic_ack, method.delivery_tag)
                    done.put(content)

            workers = [threading.Thread(target=worker) for _ in range(WORKERS)]
            for thread in workers:
                thread.start()
            shared.result(shared.channel.basic_qos, prefetch_count=WORKERS)
            shared.result(shared.channel.basic_consume, name, lambda _, method, properties, content: work.put((method, content)))
            finished = {done.get(timeout=10) for _ in range(MESSAGES)}
            checks.equal(finished, {b"%d" % number for number in range(MESSAGES)}, "what the workers got")
            checks.equal(done.qsize(), 0, "nothing came twice")
            for _ in workers:
                work.put(None)
            for thread in workers:
                thread.join(10)
        # The connection is closed: what was not acknowledged would be back by now.
        checks.until(lambda: publisher.queue_declare(name, passive=True).method.consumer_count == 0, "the consumer is gone")
        checks.equal(count(publisher, name), 0, "every acknowledgement arrived")
        publisher.queue_delete(name)


def threads_publish_through_one_connection():
    with channel() as observer, Shared() as shared:
        name = observer.queue_declare("", exclusive=False, auto_delete=True).method.queue
        shared.result(shared.channel.confirm_delivery)

        def publish(thread):
            for number in range(50):
                shared.later(shared.channel.basic_publish, "", name, f"{thread} {number}".encode(), mandatory=True)

        threads = [threading.Thread(target=publish, args=(index,)) for index in range(WORKERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        shared.result(lambda: None)  # Behind all of them.
        checks.equal(count(observer, name), 50 * WORKERS, "every thread's messages are there")
        got = [observer.basic_get(name, auto_ack=True)[2].split() for _ in range(50 * WORKERS)]
        for thread in range(WORKERS):
            numbers = [int(number) for publisher, number in got if int(publisher) == thread]
            checks.equal(numbers, list(range(50)), "each thread's messages in its order")
        observer.queue_delete(name)


def a_busy_thread_does_not_starve_heartbeats():
    """A connection whose consumer works longer than three heartbeats, in another thread, stays open."""
    parameters = pika.URLParameters(checks.URI)
    parameters.heartbeat = 1
    connection = pika.BlockingConnection(parameters)
    try:
        opened = connection.channel()
        name = opened.queue_declare("", exclusive=True).method.queue
        opened.basic_publish("", name, b"long")
        finished = []

        def work(method):
            threading.Event().wait(3.5)
            connection.add_callback_threadsafe(functools.partial(finish, method))

        def finish(method):
            opened.basic_ack(method.delivery_tag)
            finished.append(True)

        opened.basic_consume(
            name, lambda _, method, properties, content: threading.Thread(target=work, args=(method,)).start()
        )
        while not finished:
            connection.process_data_events(time_limit=1)
        checks.equal(count(opened, name), 0, "acknowledged after 3.5 s")
    finally:
        connection.close()


checks.run(
    workers_acknowledge_through_the_connections_thread,
    threads_publish_through_one_connection,
    a_busy_thread_does_not_starve_heartbeats,
)
