"""How topic and headers exchanges match, and direct reply-to."""

from frames import Typed

from . import conversation


def matching(c, exchange, bindings, messages):
    """Binds one queue a binding, publishes every message and notes which queues got it."""
    channel = c.open()
    for label, (key, arguments) in bindings.items():
        queue = c.q(label)
        channel.call("queue.declare", queue=queue)
        channel.call("queue.bind", queue=queue, exchange=exchange, routing_key=key, arguments=arguments)
    for key, properties in messages:
        channel.publish(exchange, key, **properties)
        with channel.peer.hush():
            counts = [channel.call("queue.purge", queue=c.q(label)) for label in bindings]
        channel.peer.note(1, f"got it: {[label for label, line in zip(bindings, counts) if not line.endswith('=0')]}")


@conversation
def topic_words(c):
    patterns = ["#", "*", "a.*", "*.b", "a.#", "#.c", "a.*.c", "a.#.c", "#.b.#", "*.*", "a", "a..c", ".", "#.#", "*.#"]
    bindings = {pattern: (pattern, {}) for pattern in patterns}
    keys = ["", "a", "b", "a.b", "a.b.c", "a.c", "a..c", ".", "a.", ".b", "x.b.y", "a.b.b.c"]
    exchange = c.q("exchange")
    c.open().call("exchange.declare", exchange=exchange, type="topic")
    matching(c, exchange, bindings, [(key, {}) for key in keys])


@conversation
def headers_matching(c):
    exchange = c.q("exchange")
    c.open().call("exchange.declare", exchange=exchange, type="headers")
    bindings = {
        "default": ("", {"a": "1", "b": "2"}),
        "all": ("", {"x-match": "all", "a": "1", "b": "2"}),
        "any": ("", {"x-match": "any", "a": "1", "b": "2"}),
        "empty all": ("", {}),
        "empty any": ("", {"x-match": "any"}),
        "void": ("", {"a": None}),
        "integer": ("", {"a": 1}),
        "long": ("", {"a": Typed("l", 1)}),
        "double": ("", {"a": 1.0}),
        "bool": ("", {"a": True}),
        "x ignored": ("", {"x-match": "all", "a": "1", "x-b": "2"}),
        "only x any": ("", {"x-match": "any", "x-b": "2"}),
    }
    messages = [
        {},
        {"headers": {}},
        {"headers": {"a": "1", "b": "2", "c": "3"}},
        {"headers": {"a": "1"}},
        {"headers": {"b": "other"}},
        {"headers": {"a": 1}},
        {"headers": {"a": Typed("l", 1)}},
        {"headers": {"a": Typed("b", 1)}},
        {"headers": {"a": 1.0}},
        {"headers": {"a": Typed("f", 1.0)}},
        {"headers": {"a": True}},
        {"headers": {"a": None}},
        {"headers": {"x-b": "2"}},
    ]
    matching(c, exchange, bindings, [("ignored", message) for message in messages])


@conversation
def headers_matching_with_x(c):
    exchange = c.q("exchange")
    c.open().call("exchange.declare", exchange=exchange, type="headers")
    bindings = {
        "all-with-x": ("", {"x-match": "all-with-x", "a": "1", "x-b": "2"}),
        "any-with-x": ("", {"x-match": "any-with-x", "a": "1", "x-b": "2"}),
    }
    messages = [{"a": "1"}, {"x-b": "2"}, {"a": "1", "x-b": "2"}]
    matching(c, exchange, bindings, [("", {"headers": headers}) for headers in messages])


@conversation
def headers_bad_match_kind(c):
    channel = c.open()
    channel.call("queue.declare", queue=c.q())
    channel.call("queue.bind", queue=c.q(), exchange="amq.headers", arguments={"x-match": "foo"})


@conversation
def headers_match_kind_of_wrong_type(c):
    channel = c.open()
    channel.call("queue.declare", queue=c.q())
    channel.call("queue.bind", queue=c.q(), exchange="amq.headers", arguments={"x-match": 1})


@conversation
def bindings_differ_by_arguments(c):
    channel = c.open()
    queue = c.q()
    channel.call("queue.declare", queue=queue)
    for value in ("1", "2"):
        channel.call("queue.bind", queue=queue, exchange="amq.headers", arguments={queue: value})
    channel.call("queue.unbind", queue=queue, exchange="amq.headers", arguments={queue: "1"})
    for value in ("1", "2"):
        channel.publish("amq.headers", "", headers={queue: value})
        channel.call("queue.purge", queue=queue)


@conversation
def fanout_delivers_once_per_queue(c):
    channel = c.open()
    exchange, one, two = c.q("exchange"), c.q("one"), c.q("two")
    channel.call("exchange.declare", exchange=exchange, type="fanout")
    for queue in (one, two):
        channel.call("queue.declare", queue=queue)
        channel.call("queue.bind", queue=queue, exchange=exchange)
    channel.call("queue.bind", queue=one, exchange=exchange, routing_key="again")
    channel.publish(exchange, "again")
    for queue in (one, two):
        channel.ready(queue, 1)


def asking(c):
    """A channel that consumes direct replies, and one that received its question."""
    asker = c.open()
    asker.call("basic.consume", queue="amq.rabbitmq.reply-to", consumer_tag="replies", no_ack=True)
    server = c.open()
    queue = c.q()
    server.call("queue.declare", queue=queue)
    asker.publish("", queue, b"question", reply_to="amq.rabbitmq.reply-to", correlation_id="1")
    asker.ready(queue, 1)
    server.call("basic.get", queue=queue, no_ack=True)
    address = next(name for name in c.generated if "reply-to" in name)
    return asker, server, address


@conversation
def direct_reply(c):
    asker, server, address = asking(c)
    server.call("confirm.select")
    server.publish("", address, b"answer", mandatory=True, correlation_id="1")
    server.confirms(1)
    asker.receive()
    server.call("queue.declare", queue=address)


@conversation
def direct_reply_after_the_asker_left(c):
    asker, server, address = asking(c)
    asker.call("channel.close", reply_code=200, reply_text="done")
    server.call("confirm.select")
    server.publish("", address, b"answer")
    server.confirms(1)


@conversation
def direct_reply_declared_after_the_asker_left(c):
    asker, server, address = asking(c)
    asker.call("channel.close", reply_code=200, reply_text="done")
    server.call("queue.declare", queue=address, passive=True)


@conversation
def direct_reply_needs_no_ack(c):
    c.open().call("basic.consume", queue="amq.rabbitmq.reply-to", consumer_tag="t")


@conversation
def direct_reply_consumed_twice(c):
    channel = c.open()
    channel.call("basic.consume", queue="amq.rabbitmq.reply-to", consumer_tag="a", no_ack=True)
    channel.call("basic.consume", queue="amq.rabbitmq.reply-to", consumer_tag="b", no_ack=True)


@conversation
def direct_reply_cancelled_and_consumed_again(c):
    channel = c.open()
    for tag in ("a", "b"):
        channel.call("basic.consume", queue="amq.rabbitmq.reply-to", consumer_tag=tag, no_ack=True)
        channel.call("basic.cancel", consumer_tag=tag)


@conversation
def direct_reply_without_consumer(c):
    channel = c.open()
    channel.publish("", "nobody", reply_to="amq.rabbitmq.reply-to")
    channel.receive()


@conversation
def direct_reply_pseudo_queue_declared(c):
    channel = c.open()
    channel.call("queue.declare", queue="amq.rabbitmq.reply-to")
    channel.call("queue.declare", queue="amq.rabbitmq.reply-to", passive=True)
