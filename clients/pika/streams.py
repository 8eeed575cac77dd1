"""pika: streams, used as RabbitMQ's documentation shows for AMQP 0-9-1 clients, and what the broker remembers for them."""

import contextlib

import checks
import pika
from session import channel


@contextlib.contextmanager
def stream(opened, stem, messages=0, **arguments):
    """A stream with the messages b"0", b"1", ..., confirmed."""
    name = checks.name(stem)
    opened.queue_declare(name, durable=True, arguments={"x-queue-type": "stream", **arguments})
    opened.confirm_delivery()
    for number in range(messages):
        opened.basic_publish("", name, b"%d" % number)
    try:
        yield name
    finally:
        opened.queue_delete(name)


def read(name, count, tag=None, prefetch=100, acknowledge=True, **arguments):
    """The first deliveries of a consumer of its own connection: bodies and offsets."""
    got = []
    with channel() as opened:
        opened.basic_qos(prefetch_count=prefetch)

        def on_message(_, method, properties, body):
            got.append((body, properties.headers["x-stream-offset"]))
            if acknowledge:
                opened.basic_ack(method.delivery_tag)

        given = {name.replace("_", "-"): value for name, value in arguments.items()}
        opened.basic_consume(name, on_message, consumer_tag=tag, arguments=given)
        checks.until(lambda: opened.connection.process_data_events(0.02) or len(got) >= count, "deliveries")
        # The acknowledgements arrive before the connection is closed.
        opened.connection.process_data_events(0)
    return got


def numbers(first, end):
    return [(b"%d" % number, number) for number in range(first, end)]


def offsets():
    """Every consumer has a place of its own, and reading takes nothing away."""
    with channel() as opened, stream(opened, "offsets", 20) as name:
        checks.equal(read(name, 20, x_stream_offset="first"), numbers(0, 20), "from the first")
        checks.equal(read(name, 5, x_stream_offset=15), numbers(15, 20), "from a number")
        checks.equal(read(name, 1, x_stream_offset="last"), numbers(19, 20), "the last")
        checks.equal(read(name, 20, x_stream_offset="1h"), numbers(0, 20), "of the last hour")


def retention():
    """Whole segments go when there is too much."""
    limits = {"x-max-length-bytes": 500_000, "x-stream-max-segment-size-bytes": 100_000}
    with channel() as opened, stream(opened, "retention", **limits) as name:
        for _ in range(100):
            opened.basic_publish("", name, b"x" * 20_000)
        kept = opened.queue_declare(name, passive=True).method.message_count
        assert 10 <= kept <= 35, f"{kept} are kept"


def filtering():
    """The broker sends what matches."""
    with channel() as opened, stream(opened, "filtering") as name:
        for number in range(30):
            headers = {"x-stream-filter-value": "invoices" if number % 3 == 0 else "orders"}
            opened.basic_publish("", name, b"%d" % number, pika.BasicProperties(headers=headers))
        got = read(name, 10, x_stream_offset="first", x_stream_filter=["invoices"])
        checks.equal(got, [(b"%d" % number, number) for number in range(0, 30, 3)], "what matches")


def stored_offsets():
    """A consumer that comes back goes on where it was."""
    named = {"x_stream_consumer_name": "b"}
    for tag, arguments in [("app", {"x_stream_automatic_offset_tracking": True}), (None, named)]:
        with channel() as opened, stream(opened, "stored", 20) as name:
            got = read(name, 5, tag=tag, prefetch=5, acknowledge=False, x_stream_offset="first", **arguments)
            checks.equal(got, numbers(0, 5), "nothing is acknowledged")
            got = read(name, 20, tag=tag, x_stream_offset="first", **arguments)
            checks.equal(got, numbers(0, 20), "so everything comes")
            opened.basic_publish("", name, b"20")
            checks.equal(read(name, 1, tag=tag, x_stream_offset="first", **arguments), numbers(20, 21), "the next one")


def publishing_again():
    """What is published twice is kept once."""
    with channel() as opened, stream(opened, "publishing") as name:
        for number in [1, 2, 3, 2, 3, 4]:
            headers = {"x-stream-publisher-reference": "app", "x-stream-publishing-id": number}
            opened.basic_publish("", name, b"%d" % number, pika.BasicProperties(headers=headers))
        got = [body for body, _ in read(name, 4, x_stream_offset="first")]
        checks.equal(got, [b"1", b"2", b"3", b"4"], "once each")
        checks.equal(opened.queue_declare(name, passive=True).method.message_count, 4, "messages")


checks.run(offsets, retention, filtering, stored_offsets, publishing_again)
