"""Quorum queues: declaration rules, and what is done with their messages."""

import re

from . import conversation, kinds
from .dead_letters import letter

# 3.10 says of a first delivery that it is none again, and does not say how often a message was handed out.
NO_FAILURE = re.compile(r"headers=\{x-delivery-count: l:0\}")
HANDED_OUT = re.compile(r"x-acquired-count: l:\d+, ")


def declare(c, channel, **arguments):
    """Declares a quorum queue and returns its name."""
    return kinds.declare(c, channel, "quorum", **arguments)


kinds.declaration_rules("quorum")


@conversation
def quorum_redeclared_with_other_length(c):
    channel = c.open()
    declare(c, channel, x_max_length=1000)
    declare(c, channel)


kinds.declaration_arguments(
    "quorum",
    [
        ("group_size_zero", "x_quorum_initial_group_size", 0),
        ("group_size_negative", "x_quorum_initial_group_size", -1),
        ("group_size_text", "x_quorum_initial_group_size", "1"),
        ("group_size_large", "x_quorum_initial_group_size", 5),
        ("max_length", "x_max_length", 10),
        ("max_length_negative", "x_max_length", -1),
        ("overflow_reject_publish", "x_overflow", "reject-publish"),
        ("overflow_unknown", "x_overflow", "nonsense"),
        ("single_active_consumer", "x_single_active_consumer", True),
        ("max_in_memory_length", "x_max_in_memory_length", 10),
        ("max_in_memory_bytes", "x_max_in_memory_bytes", 10),
        ("leader_locator_unknown", "x_queue_leader_locator", "nowhere"),
        ("leader_locator_balanced", "x_queue_leader_locator", "balanced"),
        ("with_queue_mode", "x_queue_mode", "lazy"),
        ("with_queue_version", "x_queue_version", 2),
        ("with_max_age", "x_max_age", "1D"),
        ("with_segment_size", "x_stream_max_segment_size_bytes", 1000),
        ("with_initial_cluster_size", "x_initial_cluster_size", 1),
        ("with_unknown_argument", "x_own", 1),
    ],
)


@conversation
def quorum_get_and_acknowledge(c):
    channel = c.open()
    queue = declare(c, channel)
    c.fill(queue, b"a", b"b")
    channel.call("basic.get", queue=queue, no_ack=False)
    channel.call("basic.get", queue=queue, no_ack=True)
    channel.call("basic.get", queue=queue, no_ack=True)
    channel.call("queue.purge", queue=queue)


@conversation
def quorum_delete(c):
    channel = c.open()
    queue = declare(c, channel)
    c.fill(queue, b"a", b"b")
    channel.call("queue.delete", queue=queue)


@conversation
def quorum_delete_if_empty(c):
    channel = c.open()
    queue = declare(c, channel)
    channel.call("queue.delete", queue=queue, if_empty=True)


@conversation
def quorum_delete_if_unused(c):
    channel = c.open()
    queue = declare(c, channel)
    channel.call("queue.delete", queue=queue, if_unused=True)


def limited(c, limit):
    """A quorum queue with a delivery limit and one message, and the queue of its dead letters."""
    channel = c.open()
    dead = c.q("dead")
    channel.call("queue.declare", queue=dead)
    named = {"x_dead_letter_exchange": "", "x_dead_letter_routing_key": dead, "x_delivery_limit": limit}
    queue = declare(c, channel, **named)
    c.fill(queue, b"m")
    return channel, queue, dead


def take(channel, queue):
    """Gets a message, and notes what both series say of its deliveries."""
    with channel.peer.hush():
        line = channel.call("basic.get", queue=queue)
    channel.peer.note(channel.number, "got: " + HANDED_OUT.sub("", NO_FAILURE.sub("", line)))


@conversation
def quorum_delivery_limit_by_reject(c):
    channel, queue, dead = limited(c, 2)
    for tag in (1, 2, 3):
        take(channel, queue)
        channel.send("basic.reject", delivery_tag=tag, requeue=True)
    letter(channel, dead)
    channel.call("basic.get", queue=queue)


@conversation
def quorum_delivery_limit_by_nack(c):
    channel, queue, dead = limited(c, 1)
    for tag in (1, 2):
        take(channel, queue)
        channel.send("basic.nack", delivery_tag=tag, requeue=True)
    channel.ready(dead, 1)
    channel.call("basic.get", queue=queue)


@conversation
def quorum_delivery_limit_of_nothing(c):
    channel, queue, dead = limited(c, 0)
    take(channel, queue)
    channel.send("basic.reject", delivery_tag=1, requeue=True)
    channel.ready(dead, 1)
    channel.call("basic.get", queue=queue)


@conversation
def quorum_delivery_limit_by_lost_channels(c):
    channel, queue, dead = limited(c, 1)
    for number in (2, 3):
        other = channel.peer.channel(number)
        take(other, queue)
        other.call("channel.close")
    channel.ready(dead, 1)
    channel.call("basic.get", queue=queue)
