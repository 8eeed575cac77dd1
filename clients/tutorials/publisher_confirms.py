"""Seven: three ways of waiting for publisher confirms.

The blocking connection waits for each message; waiting once a batch and handling confirms as
they come need pika's callback interface.
"""

import os

import pika
from broker import connect

MESSAGE_COUNT = 500
BATCH_SIZE = 100


def publish_individually():
    connection = connect()
    channel = connection.channel()
    queue = channel.queue_declare(queue="", exclusive=True).method.queue
    channel.confirm_delivery()
    for i in range(MESSAGE_COUNT):
        channel.basic_publish(exchange="", routing_key=queue, body=str(i), mandatory=True)
    stored = channel.queue_declare(queue, passive=True).method.message_count
    connection.close()
    print(f"individually: {stored} published and confirmed")


class CallbackPublisher:
    """Publishes `window` messages, then as many more as were confirmed, or waits for the whole window."""

    def __init__(self, window, whole_window):
        self.window = window
        self.whole_window = whole_window
        self.published = 0
        self.outstanding = {}
        self.connection = pika.SelectConnection(
            pika.URLParameters(os.environ.get("AMQP_URI", "amqp://guest:guest@127.0.0.1:5672/%2f")),
            on_open_callback=lambda connection: connection.channel(on_open_callback=self.opened),
            on_close_callback=lambda connection, reason: connection.ioloop.stop(),
        )

    def run(self):
        self.connection.ioloop.start()
        return self.published - len(self.outstanding)

    def opened(self, channel):
        self.channel = channel
        channel.confirm_delivery(self.confirmed)
        channel.queue_declare("", exclusive=True, callback=self.declared)

    def declared(self, frame):
        self.queue = frame.method.queue
        self.publish()

    def publish(self):
        while self.published < MESSAGE_COUNT and len(self.outstanding) < self.window:
            self.published += 1
            self.outstanding[self.published] = str(self.published)
            self.channel.basic_publish("", self.queue, self.outstanding[self.published])

    def confirmed(self, frame):
        tag = frame.method.delivery_tag
        tags = [t for t in self.outstanding if t <= tag] if frame.method.multiple else [tag]
        for settled in tags:
            body = self.outstanding.pop(settled)
            if isinstance(frame.method, pika.spec.Basic.Nack):
                print(f"Message with body {body} has been nack-ed")
        if not self.whole_window or not self.outstanding:
            self.publish()
        if not self.outstanding:
            self.connection.close()


publish_individually()
batch = CallbackPublisher(BATCH_SIZE, whole_window=True)
print(f"in batches: {batch.run()} published and confirmed")
free = CallbackPublisher(MESSAGE_COUNT, whole_window=False)
print(f"asynchronously: {free.run()} published and confirmed")
