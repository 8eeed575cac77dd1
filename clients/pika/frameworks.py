"""Topologies and headers as frameworks make them: MassTransit's and Spring AMQP's, written with pika."""

import checks
import pika
from session import channel, count, take


def declare_endpoint(opened, name):
    """A receive endpoint of MassTransit: a queue behind a fanout exchange of the same name."""
    opened.exchange_declare(name, "fanout", durable=True)
    opened.queue_declare(name, durable=True)
    opened.queue_bind(name, name, "")


def masstransit_publishes_by_message_type():
    """Each message type is a fanout exchange; a subtype's is bound to its base types', these to the endpoints."""
    with channel() as opened:
        base, derived, other = (checks.name(f"Contracts:{kind}") for kind in ("IOrder", "OrderPlaced", "OrderPaid"))
        all_orders, placed_only = checks.name("all-orders"), checks.name("placed-only")
        for kind in (base, derived, other):
            opened.exchange_declare(kind, "fanout", durable=True)
        opened.exchange_bind(base, derived, "")
        opened.exchange_bind(base, other, "")
        for endpoint, kind in ((all_orders, base), (placed_only, derived)):
            declare_endpoint(opened, endpoint)
            opened.exchange_bind(endpoint, kind, "")
        opened.confirm_delivery()
        for kind in (derived, other, derived):
            opened.basic_publish(kind, "", kind.encode(), pika.BasicProperties(delivery_mode=2), mandatory=True)
        checks.equal(count(opened, all_orders), 3, "the endpoint of the base type")
        checks.equal(count(opened, placed_only), 2, "the endpoint of one subtype")
        # Sending goes to the endpoint's exchange, past the types.
        opened.basic_publish(placed_only, "", b"command", mandatory=True)
        checks.equal(count(opened, placed_only), 3, "a command sent to one endpoint")
        # Declaring it all again at the next start of a service changes nothing.
        declare_endpoint(opened, placed_only)
        opened.exchange_bind(placed_only, derived, "")
        opened.basic_publish(derived, "", b"once", mandatory=True)
        checks.equal(count(opened, placed_only), 4, "a binding made twice delivers once")
        # A type bound to an endpoint over two ways is delivered once, too.
        opened.exchange_bind(all_orders, derived, "")
        before = count(opened, all_orders)
        opened.basic_publish(derived, "", b"two ways", mandatory=True)
        checks.equal(count(opened, all_orders) - before, 1, "a message over two ways")
        for endpoint in (all_orders, placed_only):
            opened.queue_delete(endpoint)
            opened.exchange_delete(endpoint)
        for kind in (base, derived, other):
            opened.exchange_delete(kind)


def masstransit_moves_faults_to_an_error_queue():
    with channel() as opened:
        endpoint, errors = checks.name("endpoint"), checks.name("endpoint_error")
        declare_endpoint(opened, endpoint)
        declare_endpoint(opened, errors)
        opened.confirm_delivery()
        sent = pika.BasicProperties(
            content_type="application/vnd.masstransit+json", delivery_mode=2, message_id="7", headers={"Content-Type": "x"}
        )
        opened.basic_publish(endpoint, "", b"{}", sent)
        method, properties, content = take(opened, endpoint, auto_ack=False)
        fault = {"MT-Fault-Message": "no stock", "MT-Fault-RetryCount": 3, "MT-Reason": "fault"}
        properties.headers = {**properties.headers, **fault}
        opened.basic_publish(errors, "", content, properties, mandatory=True)
        opened.basic_ack(method.delivery_tag)
        _, moved, content = take(opened, errors)
        checks.equal((moved.headers, moved.message_id, content), ({"Content-Type": "x", **fault}, "7", b"{}"), "the fault")
        checks.equal(count(opened, endpoint), 0, "the endpoint's queue")
        for name in (endpoint, errors):
            opened.queue_delete(name)
            opened.exchange_delete(name)


def spring_counts_retries_in_a_header():
    """A listener that publishes a failed message anew with its count, and parks it after the third attempt."""
    with channel() as opened:
        work, parked = checks.name("work"), checks.name("work.parked")
        for name in (work, parked):
            opened.queue_declare(name, durable=True)
        opened.confirm_delivery()
        opened.basic_publish("", work, b"poison", pika.BasicProperties(delivery_mode=2, headers={"__TypeId__": "demo.Order"}))
        attempts = []
        for method, properties, content in opened.consume(work, inactivity_timeout=10):
            checks.true(method is not None, "a delivery within 10 s")
            count_so_far = properties.headers.get("x-retry-count", 0)
            attempts.append((count_so_far, method.redelivered))
            properties.headers["x-retry-count"] = count_so_far + 1
            last = count_so_far == 3
            if last:
                properties.headers |= {"x-exception-message": "boom", "x-original-exchange": "", "x-original-routingKey": work}
            opened.basic_publish("", parked if last else work, content, properties, mandatory=True)
            opened.basic_ack(method.delivery_tag)
            if last:
                break
        opened.cancel()
        checks.equal(attempts, [(number, False) for number in range(4)], "attempts: their count, and never redelivered")
        _, properties, _ = take(opened, parked)
        checks.equal(properties.headers["x-original-routingKey"], work, "the parked message's headers")
        checks.equal(properties.headers["__TypeId__"], "demo.Order", "its type survives")
        for name in (work, parked):
            opened.queue_delete(name)


def spring_requests_with_a_fixed_reply_queue():
    """RabbitTemplate with a reply queue of its own and a correlation id for each of many requests in flight."""
    with channel() as client, channel() as server:
        replies = client.queue_declare("", exclusive=True).method.queue
        shared = client.queue_declare(checks.name("requests"), durable=True).method.queue
        client.queue_bind(shared, "amq.direct", shared)

        def serve(opened, method, properties, content):
            answer = pika.BasicProperties(correlation_id=properties.correlation_id)
            opened.basic_publish("", properties.reply_to, content.upper(), answer)
            opened.basic_ack(method.delivery_tag)

        server.basic_consume(shared, serve)
        for number in range(100):
            properties = pika.BasicProperties(reply_to=replies, correlation_id=str(number))
            client.basic_publish("amq.direct", shared, b"request %d" % number, properties)
        checks.until(lambda: _pump(server) or count(client, replies) == 100, "100 replies")
        got = {}
        for _ in range(100):
            _, properties, content = take(client, replies)
            got[properties.correlation_id] = content
        checks.equal(got, {str(number): b"REQUEST %d" % number for number in range(100)}, "replies by correlation id")
        client.queue_delete(shared)


def _pump(opened):
    opened.connection.process_data_events(time_limit=0.02)


checks.run(
    masstransit_publishes_by_message_type,
    masstransit_moves_faults_to_an_error_queue,
    spring_counts_retries_in_a_header,
    spring_requests_with_a_fixed_reply_queue,
)
