"""Declaring queues of a kind, and the rules for it that all kinds but classic have."""

from . import conversation


def declare(c, channel, kind, stem="q", durable=True, exclusive=False, auto_delete=False, **arguments):
    """Declares a queue of a kind and returns its name."""
    named = {"x-queue-type": kind} | {name.replace("_", "-"): value for name, value in arguments.items()}
    queue = c.q(stem)
    channel.call(
        "queue.declare",
        queue=queue,
        durable=durable,
        exclusive=exclusive,
        auto_delete=auto_delete,
        arguments=named,
    )
    return queue


def register(name, script):
    """Registers a conversation under a name that was put together."""
    script.__name__ = name
    conversation(script)


def declaration_rules(kind):
    """Registers the conversations about what else a declaration of a kind may say."""

    def declared_twice(c):
        channel = c.open()
        declare(c, channel, kind)
        declare(c, channel, kind)

    def redeclared_as_classic(c):
        channel = c.open()
        queue = declare(c, channel, kind)
        channel.call("queue.declare", queue=queue, durable=True)

    def classic_redeclared(c):
        channel = c.open()
        channel.call("queue.declare", queue=c.q(), durable=True)
        declare(c, channel, kind)

    register(f"{kind}_declared_twice", declared_twice)
    register(f"{kind}_redeclared_as_classic", redeclared_as_classic)
    register(f"classic_redeclared_as_{kind}", classic_redeclared)
    register(f"{kind}_not_durable", lambda c: declare(c, c.open(), kind, durable=False))
    register(f"{kind}_exclusive", lambda c: declare(c, c.open(), kind, exclusive=True))
    register(f"{kind}_auto_delete", lambda c: declare(c, c.open(), kind, auto_delete=True))


def declaration_arguments(kind, cases):
    """Registers a conversation for each case: its name, an argument and the value it is given."""
    for case, argument, value in cases:
        register(
            f"{kind}_{case}",
            lambda c, argument=argument, value=value: declare(c, c.open(), kind, **{argument: value}),
        )
