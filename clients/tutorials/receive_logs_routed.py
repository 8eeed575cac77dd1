"""Four and five: prints the log lines whose routing keys match, from `direct_logs` or `topic_logs`.

Arguments: the exchange type (direct or topic), then the binding keys.
"""

import sys

from broker import connect, serve


def callback(ch, method, properties, body):
    print(f" [x] {method.routing_key}:{body.decode()}", flush=True)


def main():
    kind, binding_keys = sys.argv[1], sys.argv[2:]
    exchange = f"{kind}_logs"
    channel = connect().channel()
    channel.exchange_declare(exchange=exchange, exchange_type=kind)
    queue_name = channel.queue_declare("", exclusive=True).method.queue
    for binding_key in binding_keys:
        channel.queue_bind(exchange=exchange, queue=queue_name, routing_key=binding_key)
    print(" [*] Waiting for logs. To exit press CTRL+C", flush=True)
    channel.basic_consume(queue=queue_name, on_message_callback=callback, auto_ack=True)
    channel.start_consuming()


serve(main)
