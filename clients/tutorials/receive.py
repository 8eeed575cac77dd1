"""One: prints what arrives in the queue `hello`; with `manual` as argument it acknowledges itself."""

import sys

from broker import connect, serve

MANUAL = sys.argv[1:] == ["manual"]


def callback(ch, method, properties, body):
    print(f" [x] Received {body}", flush=True)
    if MANUAL:
        ch.basic_ack(delivery_tag=method.delivery_tag)


def main():
    channel = connect().channel()
    channel.queue_declare(queue="hello")
    channel.basic_consume(queue="hello", on_message_callback=callback, auto_ack=not MANUAL)
    print(" [*] Waiting for messages. To exit press CTRL+C", flush=True)
    channel.start_consuming()


serve(main)
