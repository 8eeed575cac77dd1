"""kombu over py-amqp: what Celery builds on."""

import contextlib

import checks
from amqp.exceptions import AccessRefused, NotFound, PreconditionFailed, ResourceLocked
from kombu import Connection, Consumer, Exchange, Producer, Queue

MEBIBYTE = 1024 * 1024


def connection():
    return Connection(checks.URI, transport_options={"confirm_publish": True})


def drain(queue):
    """Takes all that is in a bound queue: (body, redelivered) each."""
    got = []
    while message := queue.get(no_ack=True):
        got.append((message.body, message.delivery_info["redelivered"]))
    return got


def exclusive_queue(channel):
    return Queue("", exclusive=True)(channel)


def refused(link, error, text, action):
    """The action must close its own channel with this error, and leave the connection alone."""
    try:
        action(link.channel())
    except error as refusal:
        checks.true(text in str(refusal), f"expected {text!r}, got {refusal}")
    else:
        raise checks.Failed(f"expected {text!r}, got no error")
    survivor = link.channel()
    exclusive_queue(survivor).declare()
    survivor.close()


def declares_and_routes():
    with connection() as link:
        channel = link.channel()
        kinds = {"durable": {"durable": True}, "transient": {"durable": False}, "auto": {"durable": False, "auto_delete": True}}
        for kind, flags in kinds.items():
            queue = Queue(checks.name(kind), **flags)(channel)
            queue.declare()
            checks.equal(queue.queue_declare(passive=True).message_count, 0, kind)
            queue.delete()
        source = Exchange(checks.name("source"), "fanout", durable=False)(channel)
        source.declare()
        cases = [
            ("direct", "red", None, "red", 1),
            ("direct", "red", None, "blue", 0),
            ("fanout", "", None, "anything", 1),
            ("topic", "*.red.#", None, "light.red", 1),
            ("topic", "*.red.#", None, "red", 0),
            ("headers", "", {"x-match": "any", "format": "pdf", "pages": 4}, "", 1),
            ("headers", "", {"x-match": "all", "format": "pdf", "pages": 4}, "", 0),
        ]
        for kind, pattern, arguments, key, expected in cases:
            exchange = Exchange(checks.name(kind), kind, durable=False)(channel)
            exchange.declare()
            exchange.bind_to(source)
            queue = Queue("", exchange, pattern, exclusive=True, binding_arguments=arguments)(channel)
            queue.declare()
            Producer(channel).publish("m", key, exchange=source, headers={"format": "pdf", "pages": 3})
            checks.equal(len(drain(queue)), expected, f"{kind} binding {pattern!r} key {key!r}")
            exchange.delete()
        source.delete()


def publishes_and_consumes_with_prefetch():
    with connection() as link:
        channel = link.channel()
        queue = exclusive_queue(channel)
        queue.declare()
        producer = Producer(channel)
        for number in range(20):
            producer.publish({"number": number}, queue.name, serializer="json")
        got = []
        keep = [lambda body, message: got.append((body, message))]
        with Consumer(channel, queue, callbacks=keep, prefetch_count=5, auto_declare=False):
            for taken in range(5, 21, 5):
                while len(got) < taken:
                    link.drain_events(timeout=10)
                with contextlib.suppress(TimeoutError):
                    link.drain_events(timeout=0.1)
                checks.equal(len(got), taken, "unacknowledged deliveries stay within the prefetch")
                got[taken - 1][1].ack(multiple=True)
        checks.equal([body for body, _ in got], [{"number": number} for number in range(20)], "decoded bodies in order")
        checks.equal({message.content_type for _, message in got}, {"application/json"}, "content type")


def requeue_and_reject():
    with connection() as link:
        channel = link.channel()
        queue = exclusive_queue(channel)
        queue.declare()
        checks.equal(queue.get(), None, "get-empty")
        for number in range(3):
            Producer(channel).publish(b"%d" % number, queue.name)
        held = [queue.get() for _ in range(3)]
        held[2].requeue()
        held[1].reject()
        held[0].requeue()
        checks.equal(drain(queue), [(b"0", True), (b"2", True)], "original order after requeue")


def large_and_compressed_bodies():
    with connection() as link:
        channel = link.channel()
        queue = exclusive_queue(channel)
        queue.declare()
        for compression in (None, "zlib"):
            body = checks.body(10 * MEBIBYTE)
            Producer(channel).publish(body, queue.name, compression=compression)
            checks.true(queue.get(no_ack=True).payload == body, f"10 MiB are unchanged (compression {compression})")


def a_queue_that_goes_away_ends_its_consumer():
    with connection() as link, connection() as other:
        channel = link.channel()
        queue = Queue(checks.name("cancelled"), durable=False)(channel)
        queue.declare()
        with Consumer(channel, queue, callbacks=[lambda *_: None], auto_declare=False):
            Queue(queue.name, durable=False)(other.channel()).delete()
            try:
                while True:
                    link.drain_events(timeout=10)
            except link.recoverable_connection_errors + link.recoverable_channel_errors as error:
                checks.equal(type(error).__name__, "ConsumerCancelled", "the notification")


def errors():
    with connection() as link, connection() as stranger:
        no_queue = "(404) NOT_FOUND - no queue 'nope' in vhost '/'"
        refused(link, NotFound, no_queue, lambda channel: Queue("nope")(channel).queue_declare(passive=True))
        reserved = "(403) ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'"
        refused(link, AccessRefused, reserved, lambda channel: Queue("amq.mine")(channel).declare())
        durable = Queue(checks.name("durable"), durable=True)(link.channel())
        durable.declare()
        differs = f"(406) PRECONDITION_FAILED - inequivalent arg 'durable' for queue '{durable.name}' in vhost '/'"
        refused(link, PreconditionFailed, differs, lambda channel: Queue(durable.name, durable=False)(channel).declare())
        durable.delete()
        owned = Queue(checks.name("exclusive"), exclusive=True)(link.channel())
        owned.declare()
        locked = "(405) " + checks.LOCKED % owned.name
        refused(stranger, ResourceLocked, locked, lambda channel: Queue(owned.name)(channel).queue_declare(passive=True))


checks.run(
    declares_and_routes,
    publishes_and_consumes_with_prefetch,
    requeue_and_reject,
    large_and_compressed_bodies,
    a_queue_that_goes_away_ends_its_consumer,
    errors,
)
