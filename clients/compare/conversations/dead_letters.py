"""Dead-lettering: why messages leave, what is written into their headers, and where they go."""

import re
import time

from frames import Typed

from . import conversation

# RabbitMQ writes these from 3.13 on; their values are checked elsewhere.
LAST_DEATH = re.compile(r", x-last-death-\w+: S:'[^']*'")
TIME = re.compile(r"time: T:\d+")


def dead_lettering(c, channel, stem="q", exchange="", key="dead", **arguments):
    """A queue whose dead letters go to the queue `dead`, which is declared as well, or elsewhere."""
    queue = c.q(stem)
    dead = c.q("dead")
    channel.call("queue.declare", queue=dead)
    arguments = {name.replace("_", "-"): value for name, value in arguments.items()}
    arguments["x-dead-letter-exchange"] = exchange
    if key:
        arguments["x-dead-letter-routing-key"] = c.q(key)
    channel.call("queue.declare", queue=queue, arguments=arguments)
    return queue, dead


def dead_lettering_by_key(c, key=None):
    """A queue whose dead letters keep their keys, and one that gets those with `key`, or with the first one's name."""
    channel = c.open()
    exchange = c.q("x")
    channel.call("exchange.declare", exchange=exchange, type="direct")
    queue, dead = dead_lettering(c, channel, exchange=exchange, key=None)
    channel.call("queue.bind", queue=dead, exchange=exchange, routing_key=key or queue)
    return channel, queue, dead


def letter(channel, queue, no_ack=True):
    """Gets the next message of a queue once it is there, and notes it."""
    deadline = time.monotonic() + 30
    line = ""
    while not line.startswith("basic.get-ok") and time.monotonic() < deadline and not channel.peer.ended:
        with channel.peer.hush():
            line = channel.call("basic.get", queue=queue, no_ack=no_ack)
    channel.peer.note(channel.number, "got: " + TIME.sub("time: T:now", LAST_DEATH.sub("", line)))


def nacked(channel, queue, dead):
    """Gets the first message, rejects it, and gets it from where dead letters go."""
    letter(channel, queue, no_ack=False)
    channel.send("basic.nack", delivery_tag=1, requeue=False)
    letter(channel, dead)


def publish(channel, queue, *bodies, exchange="", **properties):
    for body in bodies:
        channel.publish(exchange, queue, body, **properties)


def confirmed(channel, count):
    """Waits until all that was published is enqueued."""
    channel.confirms(count)


@conversation
def dead_letter_rejected(c):
    channel = c.open()
    queue, dead = dead_lettering(c, channel)
    publish(channel, queue, b"m", delivery_mode=2, correlation_id="7", headers={"mine": 1})
    letter(channel, queue, no_ack=False)
    channel.send("basic.reject", delivery_tag=1, requeue=False)
    letter(channel, dead)


@conversation
def dead_letter_nacked_together(c):
    channel = c.open()
    queue, dead = dead_lettering(c, channel)
    publish(channel, queue, b"0", b"1", b"2")
    for _ in range(3):
        letter(channel, queue, no_ack=False)
    channel.send("basic.nack", delivery_tag=3, multiple=True, requeue=False)
    for _ in range(3):
        letter(channel, dead)


@conversation
def dead_letter_requeued_is_not(c):
    channel = c.open()
    queue, dead = dead_lettering(c, channel)
    publish(channel, queue, b"m")
    letter(channel, queue, no_ack=False)
    channel.send("basic.reject", delivery_tag=1, requeue=True)
    letter(channel, queue)
    channel.call("basic.get", queue=dead)


@conversation
def dead_letter_too_many(c):
    channel = c.open()
    queue, dead = dead_lettering(c, channel, x_max_length=1)
    channel.call("confirm.select")
    publish(channel, queue, b"0", b"1", b"2")
    confirmed(channel, 3)
    letter(channel, dead)
    letter(channel, dead)
    letter(channel, queue)


@conversation
def dead_letter_refused(c):
    channel = c.open()
    queue, dead = dead_lettering(c, channel, x_max_length=1, x_overflow="reject-publish-dlx")
    channel.call("confirm.select")
    publish(channel, queue, b"0", b"1", b"2")
    confirmed(channel, 3)
    letter(channel, dead)
    letter(channel, dead)
    letter(channel, queue)


@conversation
def dead_letter_keeps_its_key(c):
    channel, queue, dead = dead_lettering_by_key(c)
    publish(channel, queue, b"m")
    nacked(channel, queue, dead)


@conversation
def dead_letter_with_cc(c):
    channel, queue, dead = dead_lettering_by_key(c, "copy")
    publish(channel, queue, b"m", headers={"CC": ["copy"]})
    nacked(channel, queue, dead)


@conversation
def dead_letter_with_bcc(c):
    channel, queue, dead = dead_lettering_by_key(c, "hidden")
    publish(channel, queue, b"m", headers={"BCC": ["hidden"], "CC": ["other"]})
    nacked(channel, queue, dead)


@conversation
def dead_letter_with_another_key_loses_cc(c):
    channel = c.open()
    queue, dead = dead_lettering(c, channel)
    publish(channel, queue, b"m", headers={"CC": ["nowhere"]})
    nacked(channel, queue, dead)


@conversation
def dead_letter_nowhere(c):
    channel = c.open()
    queue, dead = dead_lettering(c, channel, exchange="compare.no-such-exchange")
    publish(channel, queue, b"m")
    letter(channel, queue, no_ack=False)
    channel.send("basic.nack", delivery_tag=1, requeue=False)
    channel.barrier()
    channel.ready(queue, 0)
    channel.call("basic.get", queue=dead)


@conversation
def dead_letter_cycle_with_rejections_goes_round(c):
    channel = c.open()
    queue, dead = dead_lettering(c, channel)
    other, _ = dead_lettering(c, channel, stem="other", key="q")
    publish(channel, other, b"m")
    letter(channel, other, no_ack=False)
    channel.send("basic.nack", delivery_tag=1, requeue=False)
    letter(channel, queue, no_ack=False)
    channel.send("basic.nack", delivery_tag=2, requeue=False)
    letter(channel, dead)


@conversation
def dead_letter_to_itself_counts(c):
    channel = c.open()
    queue, _ = dead_lettering(c, channel, key="q")
    publish(channel, queue, b"m")
    for tag in range(1, 4):
        letter(channel, queue, no_ack=False)
        channel.send("basic.nack", delivery_tag=tag, requeue=False)
    letter(channel, queue)


@conversation
def dead_letter_cycle_by_itself_ends(c):
    channel = c.open()
    queue, dead = dead_lettering(c, channel, key="q", x_max_length=1)
    channel.call("confirm.select")
    publish(channel, queue, b"0", b"1")
    confirmed(channel, 2)
    letter(channel, queue)
    channel.call("basic.get", queue=queue)


@conversation
def dead_letter_by_fanout(c):
    channel = c.open()
    exchange = c.q("x")
    channel.call("exchange.declare", exchange=exchange, type="fanout")
    queue, dead = dead_lettering(c, channel, exchange=exchange, key=None)
    second = c.q("second")
    channel.call("queue.declare", queue=second)
    for target in (dead, second):
        channel.call("queue.bind", queue=target, exchange=exchange)
    publish(channel, queue, b"m")
    nacked(channel, queue, dead)
    letter(channel, second)


@conversation
def dead_letter_says_what_a_publisher_said(c):
    channel = c.open()
    queue, dead = dead_lettering(c, channel)
    said = {"x-death": [{"queue": queue, "reason": "rejected", "count": Typed("l", 5)}]}
    publish(channel, queue, b"m", headers=said)
    nacked(channel, queue, dead)


@conversation
def dead_letter_key_of_wrong_type(c):
    channel = c.open()
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": 1}
    channel.call("queue.declare", queue=c.q(), arguments=arguments)


@conversation
def dead_letter_redeclared(c):
    channel = c.open()
    queue, _ = dead_lettering(c, channel)
    channel.call("queue.declare", queue=queue, arguments={"x-dead-letter-exchange": ""})
