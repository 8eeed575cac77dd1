"""Three: prints every log line from an exclusive server-named queue."""

from broker import connect, serve


def main():
    channel = connect().channel()
    channel.exchange_declare(exchange="logs", exchange_type="fanout")
    queue_name = channel.queue_declare(queue="", exclusive=True).method.queue
    channel.queue_bind(exchange="logs", queue=queue_name)
    print(" [*] Waiting for logs. To exit press CTRL+C", flush=True)
    channel.basic_consume(
        queue=queue_name,
        on_message_callback=lambda ch, method, properties, body: print(f" [x] {body.decode()}", flush=True),
        auto_ack=True,
    )
    channel.start_consuming()


serve(main)
