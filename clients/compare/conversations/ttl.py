"""Messages that expire, and queues that do.

Every time is either so short that it is over when it is looked for, or so long that it is not.
"""

import time

from peer import PATIENCE_SECONDS

from . import conversation
from .limits import limited, publish_each
from .settling import rest

SHORT = 1
LONG = 600000


def until_gone(c, queue):
    """Publishes until the broker says that the queue is not there; looking for it would be using it."""
    channel = c.connect().channel(1)
    channel.call("confirm.select")
    deadline = time.monotonic() + PATIENCE_SECONDS
    line = ""
    while not line.startswith("basic.return") and time.monotonic() < deadline and not channel.peer.ended:
        with channel.peer.hush():
            channel.publish("", queue, b"?", mandatory=True)
            line = channel.receive()
            if line.startswith("basic.return"):
                channel.receive()
    channel.peer.note(channel.number, f"until gone: {line}")


@conversation
def ttl_of_a_queue(c):
    channel, queue = limited(c, message_ttl=SHORT)
    publish_each(channel, queue, b"1", b"2")
    channel.ready(queue, 0)
    rest(channel, queue, 1)


@conversation
def ttl_of_messages(c):
    channel, queue = limited(c)
    publish_each(channel, queue, b"1", b"2", expiration=str(SHORT))
    publish_each(channel, queue, b"3", expiration=str(LONG))
    channel.ready(queue, 1)
    rest(channel, queue, 2)


@conversation
def ttl_shorter_of_queue_and_message(c):
    channel, queue = limited(c, message_ttl=LONG)
    publish_each(channel, queue, b"1", expiration=str(SHORT))
    publish_each(channel, queue, b"2", expiration=str(2 * LONG))
    channel.ready(queue, 1)
    rest(channel, queue, 2)


@conversation
def ttl_zero_without_a_consumer(c):
    channel, queue = limited(c, message_ttl=0)
    publish_each(channel, queue, b"1", b"2")
    channel.ready(queue, 0)
    other = c.q("plain")
    channel.call("queue.declare", queue=other)
    publish_each(channel, other, b"3", expiration="0")
    channel.ready(other, 0)


@conversation
def ttl_zero_with_a_consumer(c):
    channel, queue = limited(c, message_ttl=0)
    consumer = c.connect().channel(1)
    consumer.call("basic.consume", queue=queue, no_ack=True)
    channel.publish("", queue, b"1")
    consumer.receive()
    channel.publish("", queue, b"2", expiration="0")
    consumer.receive()


@conversation
def ttl_zero_beyond_the_prefetch(c):
    channel, queue = limited(c, message_ttl=0)
    consumer = c.connect().channel(1)
    consumer.call("basic.qos", prefetch_count=1)
    consumer.call("basic.consume", queue=queue)
    publish_each(channel, queue, b"1")
    consumer.receive()
    publish_each(channel, queue, b"2")
    channel.ready(queue, 0)
    consumer.send("basic.ack", delivery_tag=1)
    consumer.barrier()


@conversation
def ttl_zero_given_back(c):
    channel, queue = limited(c, message_ttl=0)
    peer = c.connect()
    consumer = peer.channel(1)
    consumer.call("basic.consume", queue=queue)
    publish_each(channel, queue, b"1")
    consumer.receive()
    consumer.send("basic.nack", delivery_tag=1, requeue=True)
    channel.ready(queue, 0)
    consumer.barrier()


@conversation
def ttl_is_over_while_a_message_is_held(c):
    channel, queue = limited(c, message_ttl=300)
    other = c.q("other")
    channel.call("queue.declare", queue=other, arguments={"x-message-ttl": 300})
    publish_each(channel, queue, b"1")
    channel.call("basic.get", queue=queue)
    publish_each(channel, other, b"2")
    channel.ready(other, 0)
    channel.send("basic.nack", delivery_tag=1, requeue=True)
    channel.call("basic.get", queue=queue)


@conversation
def ttl_given_back_in_time(c):
    channel, queue = limited(c, message_ttl=LONG)
    publish_each(channel, queue, b"1")
    channel.call("basic.get", queue=queue)
    channel.send("basic.reject", delivery_tag=1, requeue=True)
    rest(channel, queue, 2)


@conversation
def ttl_redeclared_with_another(c):
    channel, queue = limited(c, message_ttl=LONG)
    channel.call("queue.declare", queue=queue, arguments={"x-message-ttl": LONG + 1})


@conversation
def ttl_redeclared_without(c):
    channel, queue = limited(c, message_ttl=LONG)
    channel.call("queue.declare", queue=queue)


@conversation
def message_ttl_not_a_number(c):
    limited(c, message_ttl="long")


@conversation
def expires_negative(c):
    limited(c, expires=-1)


@conversation
def expires_redeclared(c):
    channel, queue = limited(c, expires=LONG)
    channel.call("queue.declare", queue=queue, arguments={"x-expires": LONG})
    channel.call("queue.declare", queue=queue, arguments={"x-expires": LONG + 1})


@conversation
def a_queue_expires(c):
    channel, queue = limited(c, expires=100)
    publish_each(channel, queue, b"1")
    until_gone(c, queue)
    channel.call("queue.declare", queue=queue, passive=True)


@conversation
def a_queue_with_a_consumer_does_not_expire(c):
    channel, queue = limited(c, expires=100)
    consumer = c.connect().channel(1)
    consumer.call("basic.consume", queue=queue, no_ack=True)
    other = c.q("other")
    channel.call("queue.declare", queue=other, arguments={"x-expires": 300})
    until_gone(c, other)
    publish_each(channel, queue, b"1")
    consumer.receive()
