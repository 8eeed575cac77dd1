"""pika's SelectConnection: callbacks end to end, with asynchronous confirms and a returned message."""

import checks
import pika

MESSAGES = 200
PREFETCH = 10


class Exchange:
    """Publishes and consumes on two channels of one connection until everything is settled."""

    def __init__(self):
        self.queue = checks.name("select")
        self.unconfirmed = set()
        self.returned = []
        self.received = []
        self.unacked = 0
        self.most_unacked = 0
        self.channel_error = None
        self.closed = None
        self.connection = pika.SelectConnection(
            pika.URLParameters(checks.URI),
            on_open_callback=lambda connection: connection.channel(on_open_callback=self.publisher_open),
            on_open_error_callback=self.open_failed,
            on_close_callback=self.connection_closed,
        )

    def open_failed(self, connection, error):
        self.closed = error
        connection.ioloop.stop()

    def connection_closed(self, connection, reason):
        self.closed = reason
        connection.ioloop.stop()

    def publisher_open(self, channel):
        self.publisher = channel
        channel.add_on_return_callback(lambda _, method, properties, body: self.returned.append((method, body)))
        channel.confirm_delivery(ack_nack_callback=self.confirmed, callback=self.confirming)

    def confirming(self, _frame):
        self.publisher.queue_declare(self.queue, exclusive=True, callback=self.declared)

    def declared(self, _frame):
        self.connection.channel(on_open_callback=self.consumer_open)
        for number in range(1, MESSAGES + 1):
            self.unconfirmed.add(number)
            self.publisher.basic_publish("", self.queue, b"%d" % number)
        self.unconfirmed.add(MESSAGES + 1)
        self.publisher.basic_publish("", "nobody", b"unroutable", mandatory=True)

    def confirmed(self, frame):
        method = frame.method
        checks.equal(type(method).__name__, "Ack", "publisher confirm")
        upto = method.delivery_tag
        if method.multiple:
            self.unconfirmed = {tag for tag in self.unconfirmed if tag > upto}
        else:
            self.unconfirmed.remove(upto)
        self.finish_when_done()

    def consumer_open(self, channel):
        self.consumer = channel
        channel.basic_qos(prefetch_count=PREFETCH, callback=self.consume)

    def consume(self, _frame):
        self.consumer.basic_consume(self.queue, self.deliver)

    def deliver(self, channel, method, _properties, body):
        self.received.append(int(body))
        self.unacked += 1
        self.most_unacked = max(self.most_unacked, self.unacked)
        # Acknowledged a turn of the loop later, so that the prefetch window fills up.
        self.connection.ioloop.call_later(0.001, lambda: self.settle(method.delivery_tag))

    def settle(self, tag):
        self.unacked -= 1
        self.consumer.basic_ack(tag)
        self.finish_when_done()

    def finish_when_done(self):
        if len(self.received) == MESSAGES and self.unacked == 0 and not self.unconfirmed:
            self.consumer.add_on_close_callback(self.consumer_closed)
            self.consumer.queue_declare("nope", passive=True)

    def consumer_closed(self, _channel, reason):
        self.channel_error = (reason.reply_code, reason.reply_text)
        self.publisher.queue_delete(self.queue, callback=lambda _frame: self.connection.close())


def publishes_and_consumes_with_callbacks():
    run = Exchange()
    run.connection.ioloop.call_later(20, run.connection.ioloop.stop)
    run.connection.ioloop.start()
    checks.true(isinstance(run.closed, pika.exceptions.ConnectionClosedByClient), f"a clean end, got {run.closed!r}")
    checks.equal(run.received, list(range(1, MESSAGES + 1)), "received in order")
    checks.equal(run.most_unacked, PREFETCH, "most unacknowledged at once")
    checks.equal(run.unconfirmed, set(), "unconfirmed")
    method, body = run.returned[0]
    got = (len(run.returned), method.reply_code, method.reply_text, method.routing_key, body)
    checks.equal(got, (1, 312, "NO_ROUTE", "nobody", b"unroutable"), "basic.return")
    checks.equal(run.channel_error, (404, "NOT_FOUND - no queue 'nope' in vhost '/'"), "channel error")


checks.run(publishes_and_consumes_with_callbacks)
