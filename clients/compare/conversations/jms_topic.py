"""The exchange of RabbitMQ's JMS client: selectors as that client compiles them, against messages."""

from . import conversation

MESSAGES = (
    {"tenant": "acme", "retries": 3, "weight": 2.5, "urgent": True},
    {"tenant": "other", "retries": 5, "weight": -1.0, "urgent": False},
    {"tenant": "a_b%c", "retries": 0},
    {},
)


def selected(name, *terms):
    """Registers a conversation: a queue for each selector, and how many of the messages each gets."""

    def script(c):
        channel = c.open()
        exchange = c.q("exchange")
        channel.call("exchange.declare", exchange=exchange, type="x-jms-topic")
        queues = [c.q(str(number)) for number in range(len(terms))]
        for queue, term in zip(queues, terms):
            channel.call("queue.declare", queue=queue)
            arguments = {"rjms_erlang_selector": f"{term}."}
            channel.call("queue.bind", queue=queue, exchange=exchange, routing_key="k", arguments=arguments)
        for headers in MESSAGES:
            channel.publish(exchange, "some other key", headers=headers)
        channel.publish(exchange, "k")
        with channel.peer.hush():
            lines = [channel.call("queue.purge", queue=queue) for queue in queues]
        for term, line in zip(terms, lines):
            channel.peer.note(1, f"{term}: {line.rsplit('=', 1)[1]}")

    script.__name__ = f"jms_topic_{name}"
    conversation(script)


def ident(name):
    return f"{{'ident',<<\"{name}\">>}}"


def op(operator, *operands):
    return f"{{'{operator}',{','.join(operands)}}}"


selected(
    "comparisons",
    ident("urgent"),
    op("=", ident("tenant"), '<<"acme">>'),
    op("<>", ident("tenant"), '<<"acme">>'),
    op("=", ident("retries"), "3"),
    op("=", ident("retries"), "3.0"),
    op("<>", ident("retries"), "3"),
    op("<", ident("retries"), "5"),
    op("<=", ident("retries"), "5"),
    op(">", ident("weight"), "0"),
    op(">=", ident("weight"), "2.5"),
    op("=", ident("tenant"), "3"),
    op("<>", ident("tenant"), "3"),
)

selected(
    "logic",
    "true",
    "false",
    op("and", ident("urgent"), op(">", ident("retries"), "2")),
    op("or", ident("urgent"), op(">", ident("retries"), "4")),
    op("not", ident("urgent")),
    op("not", op("=", ident("nosuch"), "1")),
    op("or", op("=", ident("nosuch"), "1"), "true"),
    op("is_null", ident("urgent")),
    op("not_null", ident("urgent")),
    op("not", op("and", ident("nosuch"), "false")),
)

selected(
    "arithmetic",
    op("=", op("+", ident("retries"), "2"), "5"),
    op("=", op("*", ident("retries"), "2"), "10"),
    op("=", op("/", ident("retries"), "2"), "2.5"),
    op("=", op("/", "7", "2"), "3.5"),
    op("<", op("-", ident("retries")), "-4"),
    op("=", op("-", ident("retries"), "1"), "-1"),
    op(">", op("/", "5", "0"), "1000"),
)

selected(
    "tests",
    op("between", ident("retries"), "3", "4"),
    op("not_between", ident("retries"), "3", "4"),
    op("between", ident("retries"), op("range", "0", "3")),
    op("in", ident("tenant"), '[<<"acme">>,<<"x">>]'),
    op("not_in", ident("tenant"), '[<<"acme">>,<<"x">>]'),
    op("in", ident("tenant"), "[]"),
    op("like", ident("tenant"), '<<"a%">>', "'no_escape'"),
    op("like", ident("tenant"), '<<"_cme">>', "'no_escape'"),
    op("like", ident("tenant"), '<<"a!_b!%c">>', '<<"!">>'),
    op("not_like", ident("tenant"), '<<"%e%">>', "no_escape"),
    op("like", ident("tenant"), '<<"a.*">>', "'no_escape'"),
)


@conversation
def jms_topic_through_a_topic_exchange(c):
    channel = c.open()
    topic, exchange, queue = c.q("topic"), c.q("exchange"), c.q()
    channel.call("exchange.declare", exchange=topic, type="topic")
    channel.call("exchange.declare", exchange=exchange, type="x-jms-topic")
    channel.call("exchange.bind", destination=exchange, source=topic, routing_key="news.#")
    channel.call("queue.declare", queue=queue)
    arguments = {"rjms_erlang_selector": '{\'=\',{\'ident\',<<"tenant">>},<<"acme">>}.'}
    channel.call("queue.bind", queue=queue, exchange=exchange, routing_key="", arguments=arguments)
    for key in ("news.today", "weather.today"):
        for tenant in ("acme", "other"):
            channel.publish(topic, key, headers={"tenant": tenant})
    channel.call("basic.get", queue=queue, no_ack=True)
    channel.call("basic.get", queue=queue, no_ack=True)
    channel.call("queue.unbind", queue=queue, exchange=exchange, routing_key="", arguments=arguments)
    channel.publish(topic, "news.today", headers={"tenant": "acme"})
    channel.call("basic.get", queue=queue, no_ack=True)


@conversation
def jms_topic_unroutable(c):
    channel = c.open()
    exchange = c.q("exchange")
    channel.call("exchange.declare", exchange=exchange, type="x-jms-topic")
    channel.call("queue.declare", queue=c.q())
    arguments = {"rjms_erlang_selector": "false."}
    channel.call("queue.bind", queue=c.q(), exchange=exchange, routing_key="k", arguments=arguments)
    channel.publish(exchange, "k", mandatory=True)
    channel.receive()


@conversation
def jms_topic_selector_that_is_none(c):
    channel = c.open()
    exchange = c.q("exchange")
    channel.call("exchange.declare", exchange=exchange, type="x-jms-topic")
    channel.call("queue.declare", queue=c.q())
    arguments = {"rjms_erlang_selector": "{'='"}
    channel.call("queue.bind", queue=c.q(), exchange=exchange, routing_key="k", arguments=arguments)
