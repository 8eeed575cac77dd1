"""Where the tutorial programs find their broker; the originals name localhost here."""

import os

import pika


def connect():
    uri = os.environ.get("AMQP_URI", "amqp://guest:guest@127.0.0.1:5672/%2f")
    return pika.BlockingConnection(pika.URLParameters(uri))


def serve(main):
    """Runs a program that ends with Ctrl+C."""
    try:
        main()
    except KeyboardInterrupt:
        print("Interrupted", flush=True)
