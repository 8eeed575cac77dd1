"""pika: the exchange types that RabbitMQ has as plugins, used as their documentation shows."""

import collections
import contextlib

import checks
import pika
from session import channel, count

QUEUES = 4


@contextlib.contextmanager
def exchange_with_queues(opened, kind, keys, arguments=None):
    """An exchange of this type and one exclusive queue for each binding key; yields their names."""
    exchange = checks.name(kind)
    opened.exchange_declare(exchange, kind, durable=True, arguments=arguments)
    queues = [opened.queue_declare("", exclusive=True).method.queue for _ in keys]
    for queue, key in zip(queues, keys):
        opened.queue_bind(queue, exchange, key)
    yield exchange, queues
    opened.exchange_delete(exchange)


def drain(opened, queue):
    got = []
    while (message := opened.basic_get(queue, auto_ack=True))[0]:
        got.append(message)
    return got


def consistent_hash_follows_weights():
    with channel() as opened, exchange_with_queues(opened, "x-consistent-hash", ["1", "1", "2", "2"]) as (exchange, queues):
        opened.confirm_delivery()
        for number in range(3000):
            opened.basic_publish(exchange, f"key {number}", b"", mandatory=True)
        shares = [count(opened, queue) for queue in queues]
        checks.equal(sum(shares), 3000, "each message went to one queue")
        light, heavy = sum(shares[:2]), sum(shares[2:])
        checks.true(1.5 < heavy / light < 2.7, f"weights of 1 and 2 gave {shares}")


def consistent_hash_keeps_a_key_in_one_queue():
    with channel() as opened, exchange_with_queues(opened, "x-consistent-hash", ["10"] * QUEUES) as (exchange, queues):
        for number in range(50):
            for key in range(20):
                opened.basic_publish(exchange, f"customer {key}", b"%d" % number)
        homes = collections.defaultdict(set)
        for queue in queues:
            orders = collections.defaultdict(list)
            for method, _, content in drain(opened, queue):
                homes[method.routing_key].add(queue)
                orders[method.routing_key].append(int(content))
            for key, numbers in orders.items():
                checks.equal(numbers, list(range(50)), f"the order of {key}")
        checks.equal({key: len(where) for key, where in homes.items()}, {f"customer {key}": 1 for key in range(20)}, "queues")


def consistent_hash_of_a_header_or_property():
    cases = [
        ({"hash-header": "hash-on"}, lambda number: pika.BasicProperties(headers={"hash-on": f"user {number}"})),
        ({"hash-property": "message_id"}, lambda number: pika.BasicProperties(message_id=f"id {number}")),
        ({"hash-property": "correlation_id"}, lambda number: pika.BasicProperties(correlation_id=f"id {number}")),
    ]
    for arguments, properties in cases:
        with channel() as opened:
            with exchange_with_queues(opened, "x-consistent-hash", ["1"] * QUEUES, arguments) as (exchange, queues):
                for key in range(200):  # Every routing key another; what counts is the other value.
                    opened.basic_publish(exchange, str(key), b"", properties(7))
                shares = sorted(count(opened, queue) for queue in queues)
                checks.equal(shares, [0] * (QUEUES - 1) + [200], f"one value, {arguments}")
                for number in range(400):
                    opened.basic_publish(exchange, "same", b"", properties(number))
                used = [count(opened, queue) for queue in queues]
                checks.equal(sum(used), 600, "none is lost")
                checks.true(all(used), f"many values use all queues, {arguments}: {used}")


def modulus_hash_keeps_a_key_in_one_queue():
    with channel() as opened, exchange_with_queues(opened, "x-modulus-hash", [""] * QUEUES) as (exchange, queues):
        for number in range(400):
            opened.basic_publish(exchange, f"key {number % 100}", b"")
        homes = collections.defaultdict(set)
        for queue in queues:
            for method, _, _ in drain(opened, queue):
                homes[method.routing_key].add(queue)
        checks.equal(len(homes), 100, "every key's messages arrived")
        checks.true(all(len(where) == 1 for where in homes.values()), "each key has one queue")
        checks.true(len(set.union(*homes.values())) == QUEUES, "all queues are used")


def random_uses_all_queues_once_per_message():
    with channel() as opened, exchange_with_queues(opened, "x-random", [""] * QUEUES) as (exchange, queues):
        for _ in range(400):
            opened.basic_publish(exchange, "same", b"")
        shares = [count(opened, queue) for queue in queues]
        checks.equal(sum(shares), 400, "each message went to one queue")
        checks.true(min(shares) > 40, f"each queue gets about a quarter: {shares}")


def alternate_exchange_of_a_hash_exchange():
    """A hash exchange without queues has no destination: its alternate exchange gets the message."""
    with channel() as opened:
        rest = checks.name("rest")
        opened.exchange_declare(rest, "fanout")
        queue = opened.queue_declare("", exclusive=True).method.queue
        opened.queue_bind(queue, rest)
        with exchange_with_queues(opened, "x-consistent-hash", [], {"alternate-exchange": rest}) as (exchange, _):
            opened.basic_publish(exchange, "any", b"unrouted")
            checks.equal([content for _, _, content in drain(opened, queue)], [b"unrouted"], "the alternate exchange's queue")
        opened.exchange_delete(rest)


checks.run(
    consistent_hash_follows_weights,
    consistent_hash_keeps_a_key_in_one_queue,
    consistent_hash_of_a_header_or_property,
    modulus_hash_keeps_a_key_in_one_queue,
    random_uses_all_queues_once_per_message,
    alternate_exchange_of_a_hash_exchange,
)
