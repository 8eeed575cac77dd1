"""Six: asks for a Fibonacci number; `direct` as argument uses direct reply-to in place of a queue."""

import sys
import uuid

import pika
from broker import connect

DIRECT = sys.argv[1:] == ["direct"]


class FibonacciRpcClient:
    def __init__(self):
        self.connection = connect()
        self.channel = self.connection.channel()
        if DIRECT:
            self.callback_queue = "amq.rabbitmq.reply-to"
        else:
            self.callback_queue = self.channel.queue_declare(queue="", exclusive=True).method.queue
        self.channel.basic_consume(queue=self.callback_queue, on_message_callback=self.on_response, auto_ack=True)
        self.response = None
        self.corr_id = None

    def on_response(self, ch, method, props, body):
        if self.corr_id == props.correlation_id:
            self.response = body

    def call(self, n):
        self.response = None
        self.corr_id = str(uuid.uuid4())
        self.channel.basic_publish(
            exchange="",
            routing_key="rpc_queue",
            properties=pika.BasicProperties(reply_to=self.callback_queue, correlation_id=self.corr_id),
            body=str(n),
        )
        while self.response is None:
            self.connection.process_data_events(time_limit=None)
        return int(self.response)


fibonacci_rpc = FibonacciRpcClient()
print(" [x] Requesting fib(20)")
print(f" [.] Got {fibonacci_rpc.call(20)}")
fibonacci_rpc.connection.close()
