"""Length limits: what is dropped, what is refused, and how publishers hear of it."""

from . import conversation
from .settling import rest


def limited(c, **arguments):
    """A channel in confirm mode, and a queue with these arguments."""
    channel = c.open()
    channel.call("confirm.select")
    queue = c.q()
    named = {"x-" + name.replace("_", "-"): value for name, value in arguments.items()}
    channel.call("queue.declare", queue=queue, arguments=named)
    return channel, queue


def publish_each(channel, queue, *bodies, **properties):
    """Publishes one by one, each answered before the next."""
    for body in bodies:
        channel.publish("", queue, body, **properties)
        channel.receive()


@conversation
def length_limit_drops_the_oldest(c):
    channel, queue = limited(c, max_length=2)
    publish_each(channel, queue, b"1", b"2", b"3", b"4")
    channel.ready(queue, 2)
    rest(channel, queue, 3)


@conversation
def length_limit_of_nothing(c):
    channel, queue = limited(c, max_length=0)
    publish_each(channel, queue, b"1")
    rest(channel, queue, 1)


@conversation
def length_limit_in_bytes_counts_bodies(c):
    channel, queue = limited(c, max_length_bytes=10)
    publish_each(channel, queue, b"1234", b"5678", b"90", b"x")
    channel.ready(queue, 3)
    publish_each(channel, queue, b"more than ten bytes")
    channel.ready(queue, 0)


@conversation
def length_limit_counts_ready_messages_only(c):
    channel, queue = limited(c, max_length=1)
    publish_each(channel, queue, b"1")
    channel.call("basic.get", queue=queue)
    publish_each(channel, queue, b"2")
    channel.send("basic.nack", delivery_tag=1, requeue=True)
    channel.ready(queue, 1)
    rest(channel, queue, 2)


@conversation
def length_limit_refuses_exactly(c):
    channel, queue = limited(c, max_length=2, overflow="reject-publish")
    publish_each(channel, queue, b"1", b"2", b"3", b"4")
    channel.call("basic.get", queue=queue, no_ack=True)
    publish_each(channel, queue, b"5", b"6")
    rest(channel, queue, 3)


@conversation
def length_limit_in_bytes_refuses_what_does_not_fit(c):
    channel, queue = limited(c, max_length_bytes=5, overflow="reject-publish")
    publish_each(channel, queue, b"1234", b"56", b"7", b"", b"8")
    rest(channel, queue, 4)


@conversation
def length_limit_refuses_without_confirms_silently(c):
    queue = c.q()
    channel = c.open()
    arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
    channel.call("queue.declare", queue=queue, arguments=arguments)
    channel.publish("", queue, b"1")
    channel.publish("", queue, b"2", mandatory=True)
    channel.ready(queue, 1)
    rest(channel, queue, 2)


@conversation
def length_limit_refused_by_one_queue_of_two(c):
    channel, queue = limited(c, max_length=1, overflow="reject-publish")
    other = c.q("other")
    channel.call("queue.declare", queue=other)
    for name in (queue, other):
        channel.call("queue.bind", queue=name, exchange="amq.fanout", routing_key="k")
    for body in (b"1", b"2"):
        channel.publish("amq.fanout", "k", body)
        channel.receive()
    channel.ready(queue, 1)
    channel.ready(other, 2)


@conversation
def length_limit_refuses_part_of_a_transaction(c):
    queue = c.q()
    channel = c.open()
    arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
    channel.call("queue.declare", queue=queue, arguments=arguments)
    channel.call("tx.select")
    channel.publish("", queue, b"1")
    channel.publish("", queue, b"2")
    channel.call("tx.commit")


@conversation
def length_limit_redeclared(c):
    channel, queue = limited(c, max_length=2)
    channel.call("queue.declare", queue=queue, arguments={"x-max-length": 2})
    channel.call("queue.declare", queue=queue, arguments={"x-max-length": 3})


@conversation
def length_limit_redeclared_without(c):
    channel, queue = limited(c, max_length=2, overflow="drop-head")
    channel.call("queue.declare", queue=queue)


@conversation
def overflow_of_wrong_type(c):
    limited(c, overflow=1)


@conversation
def max_length_bytes_not_a_number(c):
    limited(c, max_length_bytes="many")
