"""Single active consumer: who gets messages, who takes over, and what is refused."""

from . import conversation

SINGLE = {"x-single-active-consumer": True}


def crowd(c, *tags):
    """A channel per consumer of one queue with a single active consumer, and one to publish on."""
    channel = c.open()
    channel.call("confirm.select")
    queue = c.q()
    channel.call("queue.declare", queue=queue, arguments=SINGLE)
    channels = []
    for number, tag in enumerate(tags, 2):
        channels.append(channel.peer.channel(number))
        channels[-1].call("basic.consume", queue=queue, consumer_tag=tag)
    return channel, queue, channels


def publish(channel, queue, *bodies):
    """Publishes one by one, each confirmed before the next."""
    for body in bodies:
        channel.publish("", queue, body)
        channel.receive()


@conversation
def single_active_consumer_gets_everything(c):
    channel, queue, (first, second) = crowd(c, "first", "second")
    publish(channel, queue, b"1", b"2", b"3")
    for _ in range(3):
        first.receive()
    second.barrier()


@conversation
def single_active_consumer_cancelled(c):
    channel, queue, (first, second, third) = crowd(c, "first", "second", "third")
    publish(channel, queue, b"1")
    first.receive()
    first.call("basic.cancel", consumer_tag="first")
    publish(channel, queue, b"2")
    second.receive()
    third.barrier()


@conversation
def single_active_consumers_channel_closed(c):
    channel, queue, (first, second) = crowd(c, "first", "second")
    publish(channel, queue, b"1", b"2", b"3")
    for _ in range(3):
        first.receive()
    first.send("basic.ack", delivery_tag=2)
    first.call("channel.close", reply_code=200)
    second.receive()
    second.receive()


@conversation
def single_active_consumer_with_prefetch(c):
    channel = c.open()
    queue = c.q()
    channel.call("queue.declare", queue=queue, arguments=SINGLE)
    channel.call("basic.qos", prefetch_count=1)
    for tag in ("first", "second"):
        channel.call("basic.consume", queue=queue, consumer_tag=tag)
    for number in range(1, 4):
        channel.publish("", queue, b"%d" % number)
    for number in range(1, 4):
        channel.receive()
        channel.send("basic.ack", delivery_tag=number)
    channel.barrier()


@conversation
def single_active_consumer_of_higher_priority(c):
    channel, queue, (low,) = crowd(c, "low")
    high = channel.peer.channel(3)
    high.call("basic.consume", queue=queue, consumer_tag="high", arguments={"x-priority": 10})
    publish(channel, queue, b"1")
    low.drain()
    high.drain()


@conversation
def single_active_consumer_and_exclusive_consumer(c):
    channel = c.open()
    queue = c.q()
    channel.call("queue.declare", queue=queue, arguments=SINGLE)
    channel.call("basic.consume", queue=queue, consumer_tag="t", exclusive=True)


@conversation
def single_active_consumer_and_get(c):
    channel, queue, (first,) = crowd(c, "first")
    first.call("basic.cancel", consumer_tag="first")
    publish(channel, queue, b"1")
    channel.call("basic.get", queue=queue, no_ack=True)


@conversation
def single_active_consumer_redeclared(c):
    channel = c.open()
    queue = c.q()
    channel.call("queue.declare", queue=queue, arguments=SINGLE)
    channel.call("queue.declare", queue=queue, arguments=SINGLE)
    channel.call("queue.declare", queue=queue, arguments={"x-single-active-consumer": False})


@conversation
def single_active_consumer_redeclared_without(c):
    channel = c.open()
    queue = c.q()
    channel.call("queue.declare", queue=queue, arguments=SINGLE)
    channel.call("queue.declare", queue=queue)


@conversation
def single_active_consumer_of_wrong_type(c):
    channel = c.open()
    channel.call("queue.declare", queue=c.q(), arguments={"x-single-active-consumer": 1})
