"""Exchange types of RabbitMQ's plugins: what they refuse, and what about their choices is certain."""

from . import conversation


def declared(c, kind, **arguments):
    """Declares an exchange of that type; its channel and name."""
    channel = c.open()
    name = c.q("exchange")
    channel.call("exchange.declare", exchange=name, type=kind, arguments=arguments)
    return channel, name


def bound(channel, c, exchange, *queues):
    """Declares and binds queues; pairs of label and binding key."""
    for label, key in queues:
        channel.call("queue.declare", queue=c.q(label))
        channel.call("queue.bind", queue=c.q(label), exchange=exchange, routing_key=key)


def spread(channel, c, exchange, labels, messages):
    """Publishes, and notes how many queues got something and how much all got."""
    for key, properties in messages:
        channel.publish(exchange, key, **properties)
    with channel.peer.hush():
        lines = [channel.call("queue.purge", queue=c.q(label)) for label in labels]
    counts = [int(line.rsplit("=", 1)[1]) for line in lines]
    channel.peer.note(1, f"queues with messages: {sum(map(bool, counts))}, messages: {sum(counts)}")


@conversation
def consistent_hash_one_key(c):
    channel, exchange = declared(c, "x-consistent-hash")
    bound(channel, c, exchange, ("a", "1"), ("b", "2"), ("c", "3"))
    spread(channel, c, exchange, "abc", [("the key", {})] * 20)
    spread(channel, c, exchange, "abc", [(f"key {i}", {}) for i in range(200)])


@conversation
def consistent_hash_without_bindings(c):
    channel, exchange = declared(c, "x-consistent-hash")
    channel.publish(exchange, "k", mandatory=True)
    channel.receive()


@conversation
def consistent_hash_by_header(c):
    channel, exchange = declared(c, "x-consistent-hash", **{"hash-header": "h"})
    bound(channel, c, exchange, ("a", "1"), ("b", "1"))
    spread(channel, c, exchange, "ab", [(f"key {i}", {"headers": {"h": "same"}}) for i in range(20)])
    spread(channel, c, exchange, "ab", [("same", {"headers": {"h": f"value {i}"}}) for i in range(100)])
    spread(channel, c, exchange, "ab", [(f"key {i}", {}) for i in range(20)])


def by_property(c, name, value, others):
    channel, exchange = declared(c, "x-consistent-hash", **{"hash-property": name})
    bound(channel, c, exchange, ("a", "1"), ("b", "1"))
    spread(channel, c, exchange, "ab", [(f"key {i}", {name: value}) for i in range(20)])
    spread(channel, c, exchange, "ab", [("same", {name: other}) for other in others])
    spread(channel, c, exchange, "ab", [(f"key {i}", {}) for i in range(20)])


@conversation
def consistent_hash_by_message_id(c):
    by_property(c, "message_id", "same", [f"id {i}" for i in range(100)])


@conversation
def consistent_hash_by_correlation_id(c):
    by_property(c, "correlation_id", "same", [f"id {i}" for i in range(100)])


@conversation
def consistent_hash_by_timestamp(c):
    by_property(c, "timestamp", 7, range(1000, 1100))


@conversation
def consistent_hash_by_other_property(c):
    declared(c, "x-consistent-hash", **{"hash-property": "app_id"})


@conversation
def consistent_hash_by_property_that_is_no_string(c):
    declared(c, "x-consistent-hash", **{"hash-property": 1})


@conversation
def consistent_hash_by_header_that_is_no_string(c):
    declared(c, "x-consistent-hash", **{"hash-header": 1})


@conversation
def consistent_hash_by_header_and_property(c):
    declared(c, "x-consistent-hash", **{"hash-header": "h", "hash-property": "message_id"})


def weight(c, key):
    channel, exchange = declared(c, "x-consistent-hash")
    bound(channel, c, exchange, ("a", key))


@conversation
def consistent_hash_weight_zero(c):
    weight(c, "0")


@conversation
def consistent_hash_weight_negative(c):
    weight(c, "-1")


@conversation
def consistent_hash_weight_with_sign(c):
    weight(c, "+1")


@conversation
def consistent_hash_weight_word(c):
    weight(c, "heavy")


@conversation
def consistent_hash_weight_empty(c):
    weight(c, "")


@conversation
def consistent_hash_weight_fraction(c):
    weight(c, "1.5")


@conversation
def consistent_hash_bound_twice(c):
    channel, exchange = declared(c, "x-consistent-hash")
    bound(channel, c, exchange, ("a", "1"), ("a", "2"))
    spread(channel, c, exchange, "a", [(f"key {i}", {}) for i in range(20)])
    channel.call("queue.unbind", queue=c.q("a"), exchange=exchange, routing_key="1")
    spread(channel, c, exchange, "a", [(f"key {i}", {}) for i in range(20)])


@conversation
def consistent_hash_with_extra_keys(c):
    channel, exchange = declared(c, "x-consistent-hash")
    bound(channel, c, exchange, ("a", "1"), ("b", "1"))
    spread(channel, c, exchange, "ab", [("k", {"headers": {"CC": [f"k{i}" for i in range(20)]}})] * 20)


@conversation
def modulus_hash(c):
    channel, exchange = declared(c, "x-modulus-hash")
    bound(channel, c, exchange, ("a", ""), ("b", "anything"), ("c", "#"))
    spread(channel, c, exchange, "abc", [("the key", {})] * 20)
    spread(channel, c, exchange, "abc", [(f"key {i}", {}) for i in range(200)])


@conversation
def modulus_hash_without_bindings(c):
    channel, exchange = declared(c, "x-modulus-hash")
    channel.publish(exchange, "k", mandatory=True)
    channel.receive()


@conversation
def random_choice(c):
    channel, exchange = declared(c, "x-random")
    bound(channel, c, exchange, ("a", ""), ("b", "anything"), ("c", "#"))
    spread(channel, c, exchange, "abc", [("the key", {})] * 200)


@conversation
def random_choice_of_one(c):
    channel, exchange = declared(c, "x-random")
    bound(channel, c, exchange, ("a", "k"))
    spread(channel, c, exchange, "a", [("other", {})] * 5)


@conversation
def random_choice_of_none(c):
    channel, exchange = declared(c, "x-random")
    channel.publish(exchange, "k", mandatory=True)
    channel.receive()


def history(c, length, **arguments):
    channel, exchange = declared(c, "x-recent-history", **arguments)
    for i in range(length):
        channel.publish(exchange, f"k{i}", f"m{i}".encode())
    channel.publish(exchange, "k", b"not kept", headers={"x-recent-history-no-store": True})
    return channel, exchange


def late_queue(c, channel, exchange):
    queue = c.q("late")
    channel.call("queue.declare", queue=queue)
    channel.call("queue.bind", queue=queue, exchange=exchange, routing_key="x")
    for _ in range(30):
        if channel.call("basic.get", queue=queue, no_ack=True).startswith("basic.get-empty"):
            return


@conversation
def recent_history(c):
    late_queue(c, *history(c, 3))


@conversation
def recent_history_of_default_length(c):
    late_queue(c, *history(c, 25))


@conversation
def recent_history_of_length_two(c):
    channel, exchange = history(c, 5, **{"x-recent-history-length": 2})
    late_queue(c, channel, exchange)
    late_queue(c, channel, exchange)


@conversation
def recent_history_to_exchange(c):
    channel, exchange = history(c, 2)
    channel.call("exchange.declare", exchange=c.q("behind"), type="fanout")
    channel.call("queue.declare", queue=c.q("behind queue"))
    channel.call("queue.bind", queue=c.q("behind queue"), exchange=c.q("behind"))
    channel.call("exchange.bind", destination=c.q("behind"), source=exchange)
    channel.call("basic.get", queue=c.q("behind queue"), no_ack=True)


@conversation
def recent_history_length_zero(c):
    declared(c, "x-recent-history", **{"x-recent-history-length": 0})


@conversation
def recent_history_length_negative(c):
    declared(c, "x-recent-history", **{"x-recent-history-length": -1})


@conversation
def recent_history_length_word(c):
    declared(c, "x-recent-history", **{"x-recent-history-length": "many"})
