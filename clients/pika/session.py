"""Connections and expected channel errors for the pika programs."""

import contextlib

import checks
import pika
from pika.exceptions import ChannelClosedByBroker


@contextlib.contextmanager
def channel(connection=None):
    """A channel on its own connection (or on the given one), closed at the end."""
    owned = connection is None
    if owned:
        connection = pika.BlockingConnection(pika.URLParameters(checks.URI))
    opened = connection.channel()
    try:
        yield opened
    finally:
        if opened.is_open:
            opened.close()
        if owned and connection.is_open:
            connection.close()


def refused(connection, code, text, action):
    """Runs `action` on a fresh channel; it must close that channel, and only that channel."""
    victim = connection.channel()
    try:
        action(victim)
        victim.queue_declare("", exclusive=True)  # A later call meets the close of an unanswered one.
    except ChannelClosedByBroker as error:
        checks.equal((error.reply_code, error.reply_text), (code, text), "channel close")
    else:
        raise checks.Failed(f"expected {code} {text}, got no error")
    checks.true(connection.is_open, f"the connection survives {code}")
    with channel(connection) as survivor:
        survivor.queue_declare("", exclusive=True)


def count(opened, queue):
    """Messages ready in a queue, as a passive declare reports them."""
    return opened.queue_declare(queue, passive=True).method.message_count


def take(opened, queue, auto_ack=True):
    """One message by basic.get, which must be there."""
    method, properties, content = opened.basic_get(queue, auto_ack=auto_ack)
    checks.true(method is not None, f"{queue} has a message")
    return method, properties, content
