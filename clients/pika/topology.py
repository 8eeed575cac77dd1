"""pika: queues and exchanges of every kind, and how each exchange type routes."""

import checks
import pika
from session import channel, count, take


def routed(opened, exchange, queues, key="", headers=None):
    """Publishes once and says which of the queues got it."""
    opened.basic_publish(exchange, key, b"m", pika.BasicProperties(headers=headers))
    return {label for label, queue in queues.items() if opened.basic_get(queue, auto_ack=True)[0]}


def bound_queues(opened, exchange, bindings):
    """One exclusive server-named queue per label, bound as given: label -> (key, arguments)."""
    queues = {}
    for label, (key, arguments) in bindings.items():
        queues[label] = opened.queue_declare("", exclusive=True).method.queue
        opened.queue_bind(queues[label], exchange, key, arguments)
    return queues


def declares_queues_of_every_kind():
    with channel() as opened:
        kinds = {
            "durable": {"durable": True},
            "transient": {},
            "exclusive": {"exclusive": True},
            "auto_delete": {"auto_delete": True},
        }
        for kind, flags in kinds.items():
            queue = checks.name(kind)
            for _ in range(2):  # The second declaration is the same, and so is its answer.
                got = opened.queue_declare(queue, **flags).method
                checks.equal((got.queue, got.message_count, got.consumer_count), (queue, 0, 0), kind)
            checks.equal(opened.queue_declare(queue, passive=True).method.queue, queue, f"passive {kind}")
            checks.equal(opened.queue_delete(queue).method.message_count, 0, f"delete {kind}")


def names_queues():
    with channel() as opened:
        names = {opened.queue_declare("", exclusive=True).method.queue for _ in range(3)}
        checks.equal(len(names), 3, "distinct names")
        for queue in names:
            checks.starts_with(queue, "amq.gen-", "server-named queue")


def counts_purges_and_deletes():
    with channel() as opened:
        opened.confirm_delivery()
        queue = checks.name("counted")
        opened.queue_declare(queue)
        for number in range(7):
            opened.basic_publish("", queue, b"%d" % number)
        checks.equal(count(opened, queue), 7, "ready messages")
        checks.equal(opened.queue_purge(queue).method.message_count, 7, "purged messages")
        opened.basic_publish("", queue, b"last")
        checks.equal(opened.queue_delete(queue).method.message_count, 1, "deleted messages")
        checks.equal(opened.queue_delete(queue).method.message_count, 0, "deleting a missing queue")


def direct_routes_by_equal_key():
    with channel() as opened:
        opened.confirm_delivery()
        exchange = checks.name("direct")
        opened.exchange_declare(exchange, "direct", durable=True)
        queues = bound_queues(opened, exchange, {"red": ("red", None), "blue": ("blue", None), "also red": ("red", None)})
        checks.equal(routed(opened, exchange, queues, "red"), {"red", "also red"}, "red")
        checks.equal(routed(opened, exchange, queues, "green"), set(), "green")
        opened.queue_unbind(queues["red"], exchange, "red")
        checks.equal(routed(opened, exchange, queues, "red"), {"also red"}, "red after unbind")
        opened.exchange_delete(exchange)


def fanout_routes_to_all():
    with channel() as opened:
        opened.confirm_delivery()
        exchange = checks.name("fanout")
        opened.exchange_declare(exchange, "fanout")
        queues = bound_queues(opened, exchange, {"a": ("ignored", None), "b": ("", None)})
        checks.equal(routed(opened, exchange, queues, "anything"), {"a", "b"}, "fanout")
        opened.exchange_delete(exchange)


def topic_routes_by_words():
    with channel() as opened:
        opened.confirm_delivery()
        keys = ["#", "*", "a.*", "a.#", "*.b.*", "#.b", "a.b.c", "a..c"]
        queues = bound_queues(opened, "amq.topic", {key: (key, None) for key in keys})
        cases = {
            "a": {"#", "*", "a.#"},
            "a.b": {"#", "a.*", "a.#", "#.b"},
            "a.b.c": {"#", "a.#", "*.b.*", "a.b.c"},
            "b": {"#", "*", "#.b"},
            "a..c": {"#", "a.#", "a..c"},
            "": {"#"},
            "x.b.y": {"#", "*.b.*"},
        }
        for key, expected in cases.items():
            checks.equal(routed(opened, "amq.topic", queues, key), expected, f"topic key {key!r}")


def headers_route_by_table():
    with channel() as opened:
        opened.confirm_delivery()
        bindings = {
            "all": ("", {"x-match": "all", "format": "pdf", "pages": 3}),
            "any": ("", {"x-match": "any", "format": "pdf", "pages": 3}),
            "default": ("", {"format": "pdf"}),
            "present": ("", {"x-match": "all", "format": None}),
        }
        queues = bound_queues(opened, "amq.headers", bindings)
        both = routed(opened, "amq.headers", queues, headers={"format": "pdf", "pages": 3})
        checks.equal(both, {"all", "any", "default", "present"}, "both headers")
        one = routed(opened, "amq.headers", queues, headers={"format": "pdf"})
        checks.equal(one, {"any", "default", "present"}, "one header")
        other = routed(opened, "amq.headers", queues, headers={"format": "zip"})
        checks.equal(other, {"present"}, "another value")
        typed = routed(opened, "amq.headers", queues, headers={"pages": "3"})
        checks.equal(typed, set(), "a string is not a number")
        checks.equal(routed(opened, "amq.headers", queues), set(), "no headers")


def exchanges_bind_to_exchanges():
    with channel() as opened:
        opened.confirm_delivery()
        source, target = checks.name("source"), checks.name("target")
        opened.exchange_declare(source, "topic")
        opened.exchange_declare(target, "fanout")
        queue = opened.queue_declare("", exclusive=True).method.queue
        opened.queue_bind(queue, target)
        opened.queue_bind(queue, source, "log.#")
        opened.exchange_bind(target, source, "log.*")
        opened.exchange_bind(source, target)  # A cycle must not loop.
        opened.basic_publish(source, "log.info", b"once")
        checks.equal(take(opened, queue)[2], b"once", "through two exchanges")
        checks.equal(opened.basic_get(queue)[0], None, "each queue gets one copy")
        opened.exchange_unbind(target, source, "log.*")
        opened.queue_unbind(queue, source, "log.#")
        opened.basic_publish(source, "log.info", b"gone")
        checks.equal(opened.basic_get(queue)[0], None, "after exchange.unbind")
        opened.exchange_delete(source)
        opened.exchange_delete(target)


def alternate_exchange_takes_the_unroutable():
    with channel() as opened:
        opened.confirm_delivery()
        spare, main = checks.name("spare"), checks.name("main")
        opened.exchange_declare(spare, "fanout")
        opened.exchange_declare(main, "direct", arguments={"alternate-exchange": spare})
        queue = opened.queue_declare("", exclusive=True).method.queue
        opened.queue_bind(queue, spare)
        opened.basic_publish(main, "nobody", b"saved", mandatory=True)
        method, _, content = take(opened, queue)
        checks.equal((method.exchange, method.routing_key, content), (main, "nobody", b"saved"), "alternate exchange")
        opened.exchange_delete(main)
        opened.exchange_delete(spare)


def auto_delete_exchange_goes_with_its_last_binding():
    with channel() as opened:
        exchange = checks.name("auto_exchange")
        opened.exchange_declare(exchange, "direct", auto_delete=True)
        queue = opened.queue_declare("", exclusive=True).method.queue
        opened.queue_bind(queue, exchange, "k")
        opened.exchange_declare(exchange, passive=True)
        opened.queue_unbind(queue, exchange, "k")
        # Declaring it anew with another type proves that the old one is gone.
        opened.exchange_declare(exchange, "fanout")
        opened.exchange_delete(exchange)


checks.run(
    declares_queues_of_every_kind,
    names_queues,
    counts_purges_and_deletes,
    direct_routes_by_equal_key,
    fanout_routes_to_all,
    topic_routes_by_words,
    headers_route_by_table,
    exchanges_bind_to_exchanges,
    alternate_exchange_takes_the_unroutable,
    auto_delete_exchange_goes_with_its_last_binding,
)
