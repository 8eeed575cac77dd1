"""Four and five: publishes a log line with a routing key to `direct_logs` or `topic_logs`.

Arguments: the exchange type (direct or topic), the routing key, the words of the message.
"""

import sys

from broker import connect

kind, routing_key = sys.argv[1:3]
message = " ".join(sys.argv[3:]) or "Hello World!"
exchange = f"{kind}_logs"
connection = connect()
channel = connection.channel()
channel.exchange_declare(exchange=exchange, exchange_type=kind)
channel.basic_publish(exchange=exchange, routing_key=routing_key, body=message)
print(f" [x] Sent {routing_key}:{message}")
connection.close()
