"""Two: puts a persistent task into the durable queue `task_queue`."""

import sys

import pika
from broker import connect

message = " ".join(sys.argv[1:]) or "Hello World!"
connection = connect()
channel = connection.channel()
channel.queue_declare(queue="task_queue", durable=True)
channel.basic_publish(
    exchange="",
    routing_key="task_queue",
    body=message,
    properties=pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent),
)
print(f" [x] Sent {message}")
connection.close()
