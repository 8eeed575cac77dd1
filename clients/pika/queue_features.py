"""pika: what queues do for their consumers, used as RabbitMQ's documentation shows."""

import time

import checks
import pika
from session import channel, count


def single_active_consumer():
    """The documentation's example: three consumers, one of which gets the messages until it goes."""
    with channel() as opened:
        queue = checks.name("single-active")
        opened.queue_declare(queue, durable=True, arguments={"x-single-active-consumer": True})
        got = []
        tags = [
            opened.basic_consume(queue, lambda _, method, __, content: got.append((method.consumer_tag, content)), auto_ack=True)
            for _ in range(3)
        ]
        expected = []
        while tags:
            for number in range(10):
                opened.basic_publish("", queue, b"%d" % number)
                expected.append((tags[0], b"%d" % number))
            checks.until(lambda: opened.connection.process_data_events(0.02) or len(got) >= len(expected), "deliveries")
            checks.equal(got, expected, "all go to one consumer, the next when it has gone")
            opened.basic_cancel(tags.pop(0))
        checks.equal(count(opened, queue), 0, "messages left")
        opened.queue_delete(queue)


def consumer_timeout():
    """A consumer that sits on a message is cancelled; another one gets it, and the first may be late with its ack."""
    with channel() as slow, channel() as quick:
        queue = checks.name("consumer-timeout")
        slow.queue_declare(queue, durable=True, arguments={"x-consumer-timeout": 300})
        held, cancelled, got = [], [], []
        slow.add_on_cancel_callback(lambda frame: cancelled.append(frame.method.consumer_tag))
        tag = slow.basic_consume(queue, lambda _, method, __, content: held.append(method.delivery_tag))
        slow.basic_publish("", queue, b"job")
        checks.until(lambda: slow.connection.process_data_events(0.02) or cancelled, "the cancellation")
        checks.equal(cancelled, [tag], "the cancelled consumer")

        def work(_, method, __, content):
            got.append((content, method.redelivered))
            quick.basic_ack(method.delivery_tag)

        quick.basic_consume(queue, work)
        checks.until(lambda: quick.connection.process_data_events(0.02) or got, "the job")
        checks.equal(got, [(b"job", True)], "the job's second delivery")
        slow.basic_ack(held[0])
        slow.queue_delete(queue)


def delivery_limit():
    """A message that is rejected again and again leaves; the others are worked off."""
    with channel() as opened:
        queue = checks.name("delivery-limit")
        opened.queue_declare(queue, durable=True, arguments={"x-delivery-limit": 3})
        seen = []
        done = []

        def work(_, method, properties, content):
            if content == b"poison":
                seen.append((properties.headers or {}).get("x-delivery-count"))
                opened.basic_nack(method.delivery_tag, requeue=True)
            else:
                done.append(content)
                opened.basic_ack(method.delivery_tag)

        opened.basic_qos(prefetch_count=1)
        tag = opened.basic_consume(queue, work)
        for content in (b"before", b"poison", b"after"):
            opened.basic_publish("", queue, content, pika.BasicProperties(delivery_mode=2))
        checks.until(lambda: opened.connection.process_data_events(0.02) or done == [b"before", b"after"], "the good messages")
        checks.equal(seen, [None, 1, 2, 3], "x-delivery-count of the bad one")
        opened.basic_cancel(tag)
        checks.equal(count(opened, queue), 0, "messages left")
        opened.queue_delete(queue)


def delayed_retries():
    """A job that fails is tried again later each time, and the others are worked off meanwhile."""
    with channel() as opened:
        queue = checks.name("delayed-retries")
        back_off = {"x-delayed-retry-type": "all", "x-delayed-retry-min": 100, "x-delayed-retry-max": 250}
        opened.queue_declare(queue, durable=True, arguments=back_off)
        tried, done = [], []

        def work(_, method, properties, content):
            if content == b"flaky":
                tried.append(time.monotonic())
                checks.equal((properties.headers or {}).get("x-delivery-count", 0), len(tried) - 1, "failures before")
            if content == b"flaky" and len(tried) < 5:
                opened.basic_nack(method.delivery_tag, requeue=True)
            else:
                done.append(content)
                opened.basic_ack(method.delivery_tag)

        opened.basic_qos(prefetch_count=1)
        tag = opened.basic_consume(queue, work)
        for content in (b"flaky", b"second", b"third"):
            opened.basic_publish("", queue, content, pika.BasicProperties(delivery_mode=2))
        checks.until(lambda: opened.connection.process_data_events(0.02) or len(done) == 3, "all jobs")
        checks.equal(done, [b"second", b"third", b"flaky"], "the order of what is done")
        waits = [after - before for before, after in zip(tried, tried[1:])]
        for wait, least in zip(waits, [0.1, 0.2, 0.25, 0.25], strict=True):
            checks.true(wait >= least, f"waited for {wait:.3f} s instead of {least} s")
        opened.basic_cancel(tag)
        opened.queue_delete(queue)


def deduplication():
    """The plugin's example: a queue that drops what it has already, by a header, until it is acknowledged."""
    with channel() as opened:
        queue = checks.name("deduplication")
        opened.queue_declare(queue, durable=True, arguments={"x-message-deduplication": True})
        opened.confirm_delivery()

        def publish(value, content):
            headers = {"x-deduplication-header": value}
            opened.basic_publish("", queue, content, pika.BasicProperties(headers=headers, delivery_mode=2))

        for value, content in [("order-1", b"first"), ("order-2", b"second"), ("order-1", b"again"), (7, b"third")]:
            publish(value, content)
        checks.equal(count(opened, queue), 3, "messages without the duplicate")
        method, _, content = opened.basic_get(queue)
        checks.equal(content, b"first", "the first message")
        publish("order-1", b"while it is outstanding")
        opened.basic_ack(method.delivery_tag)
        publish("order-1", b"after it was acknowledged")
        got = [opened.basic_get(queue, auto_ack=True)[2] for _ in range(3)]
        checks.equal(got, [b"second", b"third", b"after it was acknowledged"], "the messages")
        opened.queue_delete(queue)


def deduplication_window():
    """A queue that knows what it had for a while, though the messages were acknowledged."""
    with channel() as opened:
        queue = checks.name("deduplication-window")
        arguments = {"x-message-deduplication": True, "x-cache-size": 2, "x-cache-ttl": 60_000}
        opened.queue_declare(queue, durable=True, arguments=arguments)
        opened.confirm_delivery()
        got = []
        for value in ["order-1", "order-2", "order-1", "order-2", "order-3", "order-3", "order-1"]:
            properties = pika.BasicProperties(headers={"x-deduplication-header": value}, delivery_mode=2)
            opened.basic_publish("", queue, value.encode(), properties)
            content = opened.basic_get(queue, auto_ack=True)[2]
            got.extend([content] if content else [])
        expected = [b"order-1", b"order-2", b"order-3", b"order-1"]
        checks.equal(got, expected, "the last two values are known, and the oldest made room")
        opened.queue_delete(queue)


def deduplication_exchange():
    """The plugin's example: an exchange that passes each value on once, for a time."""
    with channel() as opened:
        exchange, queue = checks.name("deduplication"), checks.name("deduplicated")
        arguments = {"x-cache-size": 100, "x-cache-ttl": 60_000, "x-cache-persistence": "disk"}
        opened.exchange_declare(exchange, "x-message-deduplication", durable=True, arguments=arguments)
        opened.queue_declare(queue, durable=True)
        opened.queue_bind(queue, exchange)
        opened.confirm_delivery()

        def publish(value, content, **headers):
            headers = {"x-deduplication-header": value, **headers}
            opened.basic_publish(exchange, "any", content, pika.BasicProperties(headers=headers), mandatory=True)

        publish("order-1", b"first")
        checks.equal(opened.basic_get(queue, auto_ack=True)[2], b"first", "the first message")
        publish("order-1", b"again")
        publish("order-2", b"second", **{"x-cache-ttl": 1})
        checks.equal(opened.basic_get(queue, auto_ack=True)[2], b"second", "what comes next, though the first is gone")

        def passes():
            publish("order-2", b"after its time")
            return count(opened, queue) == 1

        checks.until(passes, "a value whose time is over")
        opened.queue_delete(queue)
        opened.exchange_delete(exchange)


def idempotent_publisher():
    """A publisher that sends its last messages again on another connection, because it does not know."""
    queue = checks.name("idempotent")
    with channel() as opened:
        opened.queue_declare(queue, durable=True, arguments={"x-publisher-deduplication": True})

    def publish(numbers):
        with channel() as opened:
            opened.confirm_delivery()
            for number in numbers:
                headers = {"x-stream-publisher-reference": "orders", "x-stream-publishing-id": number}
                opened.basic_publish("", queue, b"%d" % number, pika.BasicProperties(headers=headers, delivery_mode=2))

    publish(range(0, 20))
    publish(range(10, 30))
    with channel() as opened:
        got = [int(opened.basic_get(queue, auto_ack=True)[2]) for _ in range(30)]
        checks.equal(got, list(range(30)), "each message once")
        checks.equal(count(opened, queue), 0, "messages left")
        opened.queue_delete(queue)


def message_groups():
    """Orders of many customers, worked off by four consumers at once: each customer's in order, by one at a time."""
    customers, orders = 20, 15
    with channel() as publisher, channel() as first, channel() as second, channel() as third, channel() as fourth:
        queue = checks.name("message-groups")
        publisher.queue_declare(queue, durable=True, arguments={"x-message-groups": True})
        busy, done, workers = {}, {}, {}

        def worker(opened):
            def work(_, method, properties, content):
                customer = properties.headers["x-message-group"]
                held = busy.setdefault(customer, set())
                checks.equal(held - {opened}, set(), f"others that have orders of customer {customer}")
                held.add(opened)
                workers.setdefault(opened, set()).add(customer)
                pending.append((opened, method.delivery_tag, customer, int(content)))

            pending = []
            opened.basic_qos(prefetch_count=5)
            opened.basic_consume(queue, work)
            return pending

        consumers = [first, second, third, fourth]
        queues = [worker(opened) for opened in consumers]
        for order in range(orders):
            for customer in range(customers):
                properties = pika.BasicProperties(headers={"x-message-group": customer}, delivery_mode=2)
                publisher.basic_publish("", queue, b"%d" % order, properties)

        def step():
            for opened, pending in zip(consumers, queues):
                opened.connection.process_data_events(0.002)
                while pending:
                    _, tag, customer, order = pending.pop(0)
                    done.setdefault(customer, []).append(order)
                    if all(other != customer for _, _, other, _ in pending):
                        busy[customer].discard(opened)
                    opened.basic_ack(tag)
            return sum(map(len, done.values())) == customers * orders

        checks.until(step, "all orders")
        checks.equal(done, {customer: list(range(orders)) for customer in range(customers)}, "each customer's orders")
        checks.equal(len(workers), 4, "consumers that had work")
        checks.until(lambda: count(publisher, queue) == 0, "an empty queue")
        publisher.queue_delete(queue)


checks.run(single_active_consumer, consumer_timeout, delivery_limit, delayed_retries, deduplication, deduplication_window, deduplication_exchange, idempotent_publisher, message_groups)
