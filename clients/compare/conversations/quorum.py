"""Quorum queues: declaration rules, and what is done with their messages."""

from . import conversation, kinds


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
