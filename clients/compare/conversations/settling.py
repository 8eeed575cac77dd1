"""Acknowledging, rejecting, requeueing and recovering deliveries."""

from . import conversation
from .consuming import filled


def held(c, count):
    """A channel that holds this many unacknowledged messages of one queue."""
    channel = c.open()
    queue = filled(c, channel, count)
    for _ in range(count):
        channel.call("basic.get", queue=queue)
    return channel, queue


def rest(channel, queue, count):
    for _ in range(count):
        channel.call("basic.get", queue=queue, no_ack=True)


@conversation
def ack_out_of_order(c):
    channel, queue = held(c, 3)
    for tag in (2, 1, 3):
        channel.send("basic.ack", delivery_tag=tag)
    channel.ready(queue, 0)


@conversation
def ack_everything_with_zero(c):
    channel, queue = held(c, 3)
    channel.send("basic.ack", delivery_tag=0, multiple=True)
    channel.barrier()
    channel.send("basic.ack", delivery_tag=1)
    channel.receive()


@conversation
def ack_nothing_with_zero_multiple(c):
    channel = c.open()
    channel.send("basic.ack", delivery_tag=0, multiple=True)
    channel.barrier()


@conversation
def ack_zero_single(c):
    channel = c.open()
    channel.call("basic.ack", delivery_tag=0)


@conversation
def ack_twice(c):
    channel, _ = held(c, 1)
    channel.send("basic.ack", delivery_tag=1)
    channel.call("basic.ack", delivery_tag=1)


@conversation
def ack_multiple_up_to_a_settled_tag(c):
    channel, _ = held(c, 3)
    channel.send("basic.ack", delivery_tag=2)
    channel.send("basic.ack", delivery_tag=2, multiple=True)
    channel.call("basic.qos")


@conversation
def ack_unknown_tag(c):
    c.open().call("basic.ack", delivery_tag=5)


@conversation
def ack_unknown_tag_multiple(c):
    channel, _ = held(c, 1)
    channel.call("basic.ack", delivery_tag=5, multiple=True)


@conversation
def nack_unknown_tag(c):
    c.open().call("basic.nack", delivery_tag=5, requeue=True)


@conversation
def reject_unknown_tag(c):
    c.open().call("basic.reject", delivery_tag=5, requeue=True)


@conversation
def ack_on_another_channel(c):
    channel, _ = held(c, 1)
    channel.peer.channel(2).call("basic.ack", delivery_tag=1)


@conversation
def nack_requeues_in_place(c):
    channel, queue = held(c, 4)
    channel.send("basic.ack", delivery_tag=2)
    channel.send("basic.nack", delivery_tag=3, multiple=True, requeue=True)
    rest(channel, queue, 3)


@conversation
def nack_without_requeue(c):
    channel, queue = held(c, 3)
    channel.send("basic.nack", delivery_tag=2, multiple=True)
    channel.send("basic.nack", delivery_tag=3, requeue=True)
    rest(channel, queue, 2)


@conversation
def nack_everything_with_zero(c):
    channel, queue = held(c, 2)
    channel.send("basic.nack", delivery_tag=0, multiple=True, requeue=True)
    rest(channel, queue, 3)


@conversation
def reject_with_and_without_requeue(c):
    channel, queue = held(c, 2)
    channel.send("basic.reject", delivery_tag=1, requeue=True)
    channel.send("basic.reject", delivery_tag=2, requeue=False)
    rest(channel, queue, 2)


@conversation
def recover_with_requeue(c):
    channel, queue = held(c, 3)
    channel.send("basic.ack", delivery_tag=2)
    channel.call("basic.recover", requeue=True)
    rest(channel, queue, 3)


@conversation
def recover_without_requeue(c):
    channel, _ = held(c, 1)
    channel.call("basic.recover", requeue=False)
    channel.peer.expect_end()


@conversation
def recover_async(c):
    channel, queue = held(c, 2)
    channel.send("basic.recover-async", requeue=True)
    rest(channel, queue, 3)


@conversation
def recover_redelivers_to_the_consumer(c):
    channel = c.open()
    queue = filled(c, channel, 2)
    channel.call("basic.consume", queue=queue, consumer_tag="t")
    channel.receive()
    channel.receive()
    channel.send("basic.recover", requeue=True)
    channel.gather("basic.recover-ok", "basic.deliver", "basic.deliver")


@conversation
def closing_a_channel_requeues(c):
    channel, queue = held(c, 2)
    other = channel.peer.channel(2)
    channel.call("channel.close", reply_code=200, reply_text="done")
    rest(other, queue, 3)


@conversation
def requeued_to_a_waiting_consumer(c):
    channel = c.open()
    queue = filled(c, channel, 1)
    channel.call("basic.consume", queue=queue, consumer_tag="t")
    channel.receive()
    for tag in (1, 2, 3):
        channel.send("basic.nack", delivery_tag=tag, requeue=True)
        channel.receive()
