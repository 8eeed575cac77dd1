"""pika: prefetch, acknowledgement, requeue and redelivery, consumer and queue life cycles."""

import checks
import pika
from session import channel, count, take


class Inbox:
    """A consumer that keeps what it is handed and settles nothing by itself."""

    def __init__(self, opened, queue, **options):
        self.opened = opened
        self.got = []
        self.cancelled = []
        opened.add_on_cancel_callback(lambda frame: self.cancelled.append(frame.method.consumer_tag))
        self.tag = opened.basic_consume(queue, lambda _, *message: self.got.append(message), **options)

    def wait(self, number, seconds=10):
        """Serves the connection until this many messages have come in all."""
        checks.until(lambda: self._pump() >= number, f"{number} deliveries, have {len(self.got)}", seconds)

    def settle(self):
        """A round trip and a short wait, so that anything more the broker would send has come."""
        self.opened.queue_declare("", exclusive=True)
        self.opened.connection.process_data_events(time_limit=0.1)

    def bodies(self):
        return [content for _, _, content in self.got]

    def tags(self):
        return [method.delivery_tag for method, _, _ in self.got]

    def _pump(self):
        self.opened.connection.process_data_events(time_limit=0.02)
        return len(self.got)


def filled(opened, number, **flags):
    """A queue holding the messages 0, 1, 2, ..."""
    queue = opened.queue_declare("", **(flags or {"exclusive": True})).method.queue
    for index in range(number):
        opened.basic_publish("", queue, b"%d" % index)
    return queue


def numbers(*values):
    return [b"%d" % value for value in values]


def never_exceeds_the_prefetch():
    with channel() as opened:
        queue = filled(opened, 50)
        opened.basic_qos(prefetch_count=7)
        inbox = Inbox(opened, queue)
        settled = 0
        while settled < 50:
            inbox.wait(min(settled + 7, 50))
            inbox.settle()
            checks.equal(len(inbox.got) - settled, min(7, 50 - settled), "unacknowledged deliveries")
            upto = inbox.tags()[min(settled + 3, 50) - 1]
            opened.basic_ack(upto, multiple=True)
            settled = min(settled + 3, 50)
        checks.equal(inbox.bodies(), numbers(*range(50)), "order")
        checks.equal(opened.queue_delete(queue).method.message_count, 0, "left")


def auto_ack_ignores_the_prefetch():
    with channel() as opened:
        queue = filled(opened, 30)
        opened.basic_qos(prefetch_count=1)
        inbox = Inbox(opened, queue, auto_ack=True)
        inbox.wait(30)
        checks.equal(inbox.bodies(), numbers(*range(30)), "order")


def requeue_keeps_order_and_marks_redelivery():
    with channel() as opened:
        queue = filled(opened, 6)
        opened.basic_qos(prefetch_count=4)
        first = Inbox(opened, queue)
        first.wait(4)
        checks.equal([method.redelivered for method, _, _ in first.got], [False] * 4, "first delivery")
        opened.basic_cancel(first.tag)
        opened.basic_ack(first.tags()[1])
        opened.basic_nack(first.tags()[3], multiple=True, requeue=True)
        second = Inbox(opened, queue, auto_ack=True)
        second.wait(5)
        checks.equal(second.bodies(), numbers(0, 2, 3, 4, 5), "original order after requeue")
        redelivered = [method.redelivered for method, _, _ in second.got]
        checks.equal(redelivered, [True, True, True, False, False], "redelivered")


def reject_drops_or_requeues():
    with channel() as opened:
        queue = filled(opened, 2)
        method, _, _ = take(opened, queue, auto_ack=False)
        opened.basic_reject(method.delivery_tag, requeue=True)
        method, _, content = take(opened, queue, auto_ack=False)
        checks.equal((content, method.redelivered), (b"0", True), "rejected with requeue")
        opened.basic_reject(method.delivery_tag, requeue=False)
        method, _, content = take(opened, queue)
        checks.equal((content, method.redelivered), (b"1", False), "the dropped message is gone")
        checks.equal(count(opened, queue), 0, "left")


def recover_requeues_everything():
    with channel() as opened:
        queue = filled(opened, 3)
        for _ in range(3):
            take(opened, queue, auto_ack=False)
        opened.basic_recover(requeue=True)
        got = [take(opened, queue) for _ in range(3)]
        checks.equal([content for _, _, content in got], numbers(0, 1, 2), "order after recover")
        checks.equal([method.redelivered for method, _, _ in got], [True] * 3, "redelivered after recover")


def a_lost_connection_gives_messages_back():
    with channel() as watcher:
        queue = checks.name("lost")
        watcher.queue_declare(queue)
        for index in range(4):
            watcher.basic_publish("", queue, b"%d" % index)
        with channel() as opened:
            inbox = Inbox(opened, queue)
            inbox.wait(4)
            opened.basic_ack(inbox.tags()[2])
        checks.until(lambda: count(watcher, queue) == 3, "unacknowledged messages are back")
        got = [take(watcher, queue) for _ in range(3)]
        checks.equal([content for _, _, content in got], numbers(0, 1, 3), "order")
        checks.equal([method.redelivered for method, _, _ in got], [True] * 3, "redelivered")
        watcher.queue_delete(queue)


def consumers_share_a_queue():
    with channel() as opened:
        queue = opened.queue_declare("", exclusive=True).method.queue
        opened.basic_qos(prefetch_count=1)
        inboxes = [Inbox(opened, queue) for _ in range(2)]
        for index in range(4):
            opened.basic_publish("", queue, b"%d" % index)
        for inbox in inboxes:
            inbox.wait(1)
            inbox.settle()
        checks.equal([len(inbox.got) for inbox in inboxes], [1, 1], "one each at prefetch 1")
        checks.equal(sorted(inboxes[0].bodies() + inboxes[1].bodies()), numbers(0, 1), "the first two")
        opened.basic_ack(inboxes[1].tags()[0])
        inboxes[1].wait(2)
        checks.equal(inboxes[1].bodies()[1], b"2", "the next goes to whoever is free")


def deleting_a_queue_cancels_its_consumers():
    with channel() as opened:
        queue = checks.name("cancelled")
        opened.queue_declare(queue)
        inbox = Inbox(opened, queue)
        with channel() as other:
            other.queue_delete(queue)
        checks.until(lambda: inbox._pump() == 0 and inbox.cancelled, "basic.cancel from the broker")
        checks.equal(inbox.cancelled, [inbox.tag], "cancelled consumer")
        checks.true(opened.is_open, "the channel survives")


def exclusive_queue_lives_with_its_connection():
    queue = checks.name("exclusive")
    with channel() as watcher:
        with channel() as owner:
            owner.queue_declare(queue, exclusive=True)
            try:
                watcher.queue_declare(queue, passive=True)
            except pika.exceptions.ChannelClosedByBroker as error:
                checks.equal((error.reply_code, error.reply_text), (405, checks.LOCKED % queue), "another connection")
            else:
                raise checks.Failed("an exclusive queue answered another connection")
    with channel() as watcher:  # Free again: anyone may take the name.
        checks.until(lambda: _missing(watcher.connection, queue), "the exclusive queue is gone")


def auto_delete_queue_goes_with_its_last_consumer():
    queue = checks.name("auto_delete")
    with channel() as opened:
        opened.queue_declare(queue, auto_delete=True)
        opened.basic_get(queue)  # Only a consumer's end counts.
        tags = [opened.basic_consume(queue, lambda *_: None) for _ in range(2)]
        checks.equal(opened.queue_declare(queue, passive=True).method.consumer_count, 2, "consumers")
        opened.basic_cancel(tags[0])
        checks.equal(opened.queue_declare(queue, passive=True).method.consumer_count, 1, "consumers")
        opened.basic_cancel(tags[1])
        checks.until(lambda: _missing(opened.connection, queue), "the auto-delete queue is gone")


def _missing(connection, queue):
    try:
        with channel(connection) as probe:
            probe.queue_declare(queue, passive=True)
    except pika.exceptions.ChannelClosedByBroker as error:
        if error.reply_code == 405:
            return False
        checks.equal((error.reply_code, error.reply_text), (404, f"NOT_FOUND - no queue '{queue}' in vhost '/'"), "passive")
        return True
    return False


checks.run(
    never_exceeds_the_prefetch,
    auto_ack_ignores_the_prefetch,
    requeue_keeps_order_and_marks_redelivery,
    reject_drops_or_requeues,
    recover_requeues_everything,
    a_lost_connection_gives_messages_back,
    consumers_share_a_queue,
    deleting_a_queue_cancels_its_consumers,
    exclusive_queue_lives_with_its_connection,
    auto_delete_queue_goes_with_its_last_consumer,
)
