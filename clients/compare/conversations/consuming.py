"""Consumers: tags, prefetch, cancellation, exclusivity, priorities, and basic.get."""

from frames import Typed

from . import conversation


def filled(c, channel, count, stem="q", **flags):
    """A queue with the messages 0, 1, 2, ..., all of them enqueued."""
    queue = c.q(stem)
    channel.call("queue.declare", queue=queue, **flags)
    c.fill(queue, *(b"%d" % number for number in range(count)))
    return queue


@conversation
def get_and_get_empty(c):
    channel = c.open()
    queue = filled(c, channel, 2)
    channel.call("basic.get", queue=queue, no_ack=True)
    channel.call("basic.get", queue=queue)
    channel.call("basic.get", queue=queue)
    channel.send("basic.ack", delivery_tag=2)
    channel.barrier()


@conversation
def get_missing_queue(c):
    c.open().call("basic.get", queue="nope")


@conversation
def consume_missing_queue(c):
    c.open().call("basic.consume", queue="nope", consumer_tag="t")


@conversation
def consume_with_acks(c):
    channel = c.open()
    queue = filled(c, channel, 3)
    channel.call("basic.consume", queue=queue, consumer_tag="t")
    for _ in range(3):
        channel.receive()
    channel.send("basic.ack", delivery_tag=3, multiple=True)
    channel.call("basic.cancel", consumer_tag="t")
    channel.ready(queue, 0)


@conversation
def consume_without_acks(c):
    channel = c.open()
    queue = filled(c, channel, 2)
    channel.call("basic.consume", queue=queue, consumer_tag="t", no_ack=True)
    for _ in range(2):
        channel.receive()
    channel.call("basic.qos", prefetch_count=1)
    channel.send("basic.ack", delivery_tag=1)
    channel.receive()


@conversation
def consume_nowait(c):
    channel = c.open()
    queue = filled(c, channel, 1)
    channel.send("basic.consume", queue=queue, consumer_tag="t", no_ack=True, nowait=True)
    channel.receive()
    channel.send("basic.cancel", consumer_tag="t", nowait=True)
    channel.barrier()
    channel.ready(queue, 0)


@conversation
def consumer_tag_generated(c):
    channel = c.open()
    queue = filled(c, channel, 1)
    channel.call("basic.consume", queue=queue)
    channel.receive()
    channel.call("basic.consume", queue=queue)


@conversation
def consumer_tag_reused_on_a_channel(c):
    channel = c.open()
    queue = filled(c, channel, 0)
    channel.call("basic.consume", queue=queue, consumer_tag="t")
    channel.call("basic.consume", queue=queue, consumer_tag="t")
    channel.peer.expect_end()


@conversation
def consumer_tag_reused_on_another_channel(c):
    channel = c.open()
    queue = filled(c, channel, 0)
    channel.call("basic.consume", queue=queue, consumer_tag="t")
    channel.peer.channel(2).call("basic.consume", queue=queue, consumer_tag="t")


@conversation
def consumer_tag_reused_after_cancel(c):
    channel = c.open()
    queue = filled(c, channel, 0)
    for _ in range(2):
        channel.call("basic.consume", queue=queue, consumer_tag="t")
        channel.call("basic.cancel", consumer_tag="t")
    channel.call("basic.cancel", consumer_tag="never")


@conversation
def cancel_keeps_the_unacknowledged(c):
    channel = c.open()
    queue = filled(c, channel, 2)
    channel.call("basic.qos", prefetch_count=1)
    channel.call("basic.consume", queue=queue, consumer_tag="t")
    channel.receive()
    channel.call("basic.cancel", consumer_tag="t")
    channel.ready(queue, 1)
    channel.send("basic.ack", delivery_tag=1)
    channel.drain()


@conversation
def exclusive_consumer(c):
    channel = c.open()
    queue = filled(c, channel, 0)
    channel.call("basic.consume", queue=queue, consumer_tag="only", exclusive=True)
    other = channel.peer.channel(2)
    other.call("basic.consume", queue=queue, consumer_tag="late")
    channel.call("basic.cancel", consumer_tag="only")
    channel.peer.channel(3).call("basic.consume", queue=queue, consumer_tag="late")


@conversation
def exclusive_consumer_comes_too_late(c):
    channel = c.open()
    queue = filled(c, channel, 0)
    channel.call("basic.consume", queue=queue, consumer_tag="first")
    channel.call("basic.consume", queue=queue, consumer_tag="only", exclusive=True)


@conversation
def prefetch_per_consumer(c):
    channel = c.open()
    queue = filled(c, channel, 6)
    channel.call("basic.qos", prefetch_count=2)
    channel.call("basic.consume", queue=queue, consumer_tag="a")
    channel.receive()
    channel.receive()
    channel.drain()
    channel.call("basic.qos", prefetch_count=1)
    channel.call("basic.consume", queue=queue, consumer_tag="b")
    channel.receive()
    channel.drain()
    channel.send("basic.ack", delivery_tag=2)
    channel.receive()
    channel.send("basic.ack", delivery_tag=3)
    channel.receive()
    channel.drain()


@conversation
def prefetch_does_not_limit_get(c):
    channel = c.open()
    queue = filled(c, channel, 3)
    channel.call("basic.qos", prefetch_count=1)
    for _ in range(3):
        channel.call("basic.get", queue=queue)


@conversation
def prefetch_is_lifted_for_later_consumers_only(c):
    channel = c.open()
    queue = filled(c, channel, 3)
    channel.call("basic.qos", prefetch_count=1)
    channel.call("basic.consume", queue=queue, consumer_tag="a")
    channel.receive()
    channel.call("basic.qos", prefetch_count=0)
    channel.drain()


@conversation
def prefetch_of_the_whole_channel(c):
    channel = c.open()
    one, two = filled(c, channel, 2, "one"), filled(c, channel, 2, "two")
    channel.call("basic.qos", prefetch_count=3, **{"global": True})
    channel.call("basic.consume", queue=one, consumer_tag="a")
    channel.receive()
    channel.receive()
    channel.call("basic.consume", queue=two, consumer_tag="b")
    channel.receive()
    channel.drain()
    channel.send("basic.ack", delivery_tag=1)
    channel.receive()
    channel.drain()


@conversation
def qos_with_a_size(c):
    channel = c.open()
    channel.call("basic.qos", prefetch_size=10)
    channel.peer.expect_end()


@conversation
def cancel_notice_when_the_queue_is_deleted(c):
    channel = c.open()
    queue = filled(c, channel, 0)
    channel.call("basic.consume", queue=queue, consumer_tag="t")
    channel.peer.channel(2).call("queue.delete", queue=queue)
    channel.receive()
    channel.call("basic.cancel", consumer_tag="t")


@conversation
def no_cancel_notice_without_the_capability(c):
    channel = c.open(capabilities={})
    queue = filled(c, channel, 0)
    channel.call("basic.consume", queue=queue, consumer_tag="t")
    channel.peer.channel(2).call("queue.delete", queue=queue)
    channel.drain()


@conversation
def consumer_priorities(c):
    channel = c.open()
    queue = filled(c, channel, 0)
    channel.call("basic.qos", prefetch_count=1)
    channel.call("basic.consume", queue=queue, consumer_tag="low", arguments={"x-priority": -1})
    channel.call("basic.consume", queue=queue, consumer_tag="high", arguments={"x-priority": Typed("l", 10)})
    channel.call("basic.consume", queue=queue, consumer_tag="none")
    for _ in range(3):
        channel.publish("", queue)
        channel.receive()


@conversation
def consumer_priority_of_wrong_type(c):
    channel = c.open()
    queue = filled(c, channel, 0)
    channel.call("basic.consume", queue=queue, consumer_tag="t", arguments={"x-priority": "high"})


@conversation
def no_local_is_ignored(c):
    channel = c.open()
    queue = filled(c, channel, 1)
    channel.call("basic.consume", queue=queue, consumer_tag="t", no_local=True)
    channel.receive()


@conversation
def consumers_take_turns(c):
    channel = c.open()
    queue = filled(c, channel, 0)
    channel.call("basic.qos", prefetch_count=10)
    for tag in ("a", "b"):
        channel.call("basic.consume", queue=queue, consumer_tag=tag)
    for _ in range(4):
        channel.publish("", queue)
        channel.receive()
