"""Queues with priorities: order, places, limits, and what a declaration may say."""

from . import conversation
from .limits import limited, publish_each
from .settling import rest


def prioritised(c, maximum, *priorities):
    """A channel, and a queue with a message for each priority; its body says which message it is."""
    channel = c.open()
    queue = c.q()
    channel.call("queue.declare", queue=queue, arguments={"x-max-priority": maximum})
    put(channel, queue, *priorities)
    channel.ready(queue, len(priorities))
    return channel, queue


def put(channel, queue, *priorities):
    for number, priority in enumerate(priorities):
        properties = {} if priority is None else {"priority": priority}
        channel.publish("", queue, b"%d" % number, **properties)


@conversation
def priorities_highest_first(c):
    channel, queue = prioritised(c, 10, None, 40, 9, 0, 5, 4, 5, 10)
    rest(channel, queue, 9)


@conversation
def priorities_up_to_255(c):
    channel, queue = prioritised(c, 255, 254, 255, 0, 128)
    rest(channel, queue, 5)


@conversation
def priorities_maximum_of_nothing(c):
    channel, queue = prioritised(c, 0, 1, 0, 9, None)
    rest(channel, queue, 5)


@conversation
def priorities_of_a_queue_without(c):
    channel = c.open()
    queue = c.q()
    channel.call("queue.declare", queue=queue)
    put(channel, queue, 1, 0, 9, None)
    channel.ready(queue, 4)
    rest(channel, queue, 5)


@conversation
def priorities_requeue_keeps_the_place(c):
    channel, queue = prioritised(c, 5, 2, 2, 2, 1)
    for _ in range(2):
        channel.call("basic.get", queue=queue)
    put(channel, queue, 3, 2)
    channel.ready(queue, 4)
    channel.send("basic.nack", delivery_tag=2, multiple=True, requeue=True)
    channel.ready(queue, 6)
    rest(channel, queue, 7)


@conversation
def priorities_after_what_was_prefetched(c):
    channel, queue = prioritised(c, 5, 1, 1, 1)
    channel.call("basic.qos", prefetch_count=2)
    channel.call("basic.consume", queue=queue, consumer_tag="c")
    channel.receive()
    channel.receive()
    put(channel, queue, 5)
    channel.ready(queue, 2)
    channel.send("basic.ack", delivery_tag=1)
    channel.receive()
    channel.send("basic.ack", delivery_tag=2)
    channel.receive()


@conversation
def priorities_recover(c):
    channel, queue = prioritised(c, 5, 0, 4)
    channel.call("basic.get", queue=queue)
    channel.call("basic.recover", requeue=True)
    channel.ready(queue, 2)
    rest(channel, queue, 3)


@conversation
def priorities_purge_and_delete(c):
    channel, queue = prioritised(c, 5, 0, 4, 4, 9)
    channel.call("basic.get", queue=queue)
    channel.call("queue.purge", queue=queue)
    put(channel, queue, 3, 1)
    channel.ready(queue, 2)
    channel.call("queue.delete", queue=queue)


@conversation
def priorities_in_a_transaction(c):
    channel = c.open()
    queue = c.q()
    channel.call("queue.declare", queue=queue, arguments={"x-max-priority": 3})
    channel.call("tx.select")
    put(channel, queue, None, 3, 1)
    channel.call("tx.commit")
    rest(channel, queue, 4)


@conversation
def priorities_refuse_beyond_a_limit(c):
    channel, queue = limited(c, max_priority=5, max_length=2, overflow="reject-publish")
    for number, priority in enumerate((1, 2, 5)):
        channel.publish("", queue, b"%d" % number, priority=priority)
        channel.receive()
    rest(channel, queue, 3)


@conversation
def priorities_make_room(c):
    channel, queue = limited(c, max_priority=9, max_length=2)
    for priority in (9, 0, 5, 1):
        channel.publish("", queue, b"%d" % priority, priority=priority)
        channel.receive()
    rest(channel, queue, 3)


@conversation
def priorities_make_room_within_one(c):
    channel, queue = limited(c, max_priority=9, max_length=2)
    publish_each(channel, queue, b"1", b"2", b"3")
    rest(channel, queue, 3)


@conversation
def priorities_declared_again(c):
    channel = c.open()
    channel.call("queue.declare", queue=c.q(), arguments={"x-max-priority": 5})
    channel.call("queue.declare", queue=c.q(), arguments={"x-max-priority": 5})
    channel.call("queue.declare", queue=c.q(), arguments={"x-max-priority": 6})


@conversation
def priorities_declared_again_without(c):
    channel = c.open()
    channel.call("queue.declare", queue=c.q(), arguments={"x-max-priority": 5})
    channel.call("queue.declare", queue=c.q())


@conversation
def priorities_declared_later(c):
    channel = c.open()
    channel.call("queue.declare", queue=c.q())
    channel.call("queue.declare", queue=c.q(), arguments={"x-max-priority": 5})


@conversation
def max_priority_negative(c):
    c.open().call("queue.declare", queue=c.q(), arguments={"x-max-priority": -1})


@conversation
def max_priority_not_a_number(c):
    c.open().call("queue.declare", queue=c.q(), arguments={"x-max-priority": "5"})


@conversation
def max_priority_a_boolean(c):
    c.open().call("queue.declare", queue=c.q(), arguments={"x-max-priority": True})


@conversation
def max_priority_a_float(c):
    c.open().call("queue.declare", queue=c.q(), arguments={"x-max-priority": 5.0})


@conversation
def max_priority_of_a_durable_queue(c):
    c.open().call("queue.declare", queue=c.q(), durable=True, arguments={"x-max-priority": 255})
