"""Definitions of a real RabbitMQ, imported into Posthouse and exported again: nothing is lost.

    definitions/check.py            with posthouse's binary in POSTHOUSE

Starts both brokers itself. What Posthouse exports is given back to RabbitMQ at the end, which must
then export what it exported first.
"""

import datetime
import decimal
import json
import os
import pathlib
import subprocess
import tempfile

import brokers
import checks
import pika
from pika.exceptions import ChannelClosedByBroker, ProbableAuthenticationError

VHOST = "of the shop"
# What RabbitMQ is told by a document; users and the rest are told by commands and by AMQP.
DOCUMENT = {
    "users": [
        {"name": "sha512", "password": "x", "hashing_algorithm": "rabbit_password_hashing_sha512", "tags": []},
        {"name": "no password", "password_hash": "", "tags": "policymaker, our own tag"},
    ],
    "vhosts": [
        {"name": VHOST, "metadata": {"description": "what we sell", "tags": ["a", "b"], "default_queue_type": "classic"}},
        {"name": "empty", "metadata": {"description": "", "tags": []}},
    ],
    "permissions": [
        {"user": "guest", "vhost": VHOST, "configure": ".*", "write": ".*", "read": ".*"},
        {"user": "alice", "vhost": VHOST, "configure": "^alice", "write": ".*", "read": "^(q|alice)"},
        {"user": "sha512", "vhost": "/", "configure": "", "write": "", "read": "^$"},
    ],
    "topic_permissions": [
        {"user": "alice", "vhost": VHOST, "exchange": "events", "write": "^{username}\\.", "read": ".*"},
    ],
    "parameters": [
        {
            "vhost": VHOST,
            "component": "operator_policy",
            "name": "bound",
            "value": {"pattern": "^q", "definition": {"max-length": 900}, "priority": 1, "apply-to": "queues"},
        },
        {"vhost": VHOST, "component": "vhost-limits", "name": "limits", "value": {"max-queues": 50}},
    ],
    "global_parameters": [
        {"name": "our own", "value": {"a": [1, "two", None, 0.5], "b": {"c": True}}},
        {"name": "cluster_name", "value": "shop"},
    ],
    "policies": [
        {
            "vhost": VHOST,
            "name": "long",
            "pattern": "^(?!alice).*",
            "definition": {"max-length": 800, "max-length-bytes": 5000000, "overflow": "reject-publish"},
            "priority": -3,
            "apply-to": "queues",
        },
        {"vhost": VHOST, "name": "ae", "pattern": "^events$", "definition": {"alternate-exchange": "rest"}},
    ],
    "exchanges": [],
    "queues": [],
    "bindings": [],
}
ARGUMENTS = {
    "x-max-length": 70,
    "x-overflow": "drop-head",
    "x-our-text": "caf\u00e9",
    "x-our-numbers": [1, -(1 << 40), True, None],
    "x-our-table": {"deep": {"deeper": [{"deepest": "x"}]}},
    "x-our-time": datetime.datetime(2020, 1, 1),
    "x-our-decimal": decimal.Decimal("1.5"),
    "x-our-bytes": b"\xff\x00",
}


def declare(uri):
    """Queues, exchanges and bindings of all kinds, by AMQP."""
    parameters = pika.URLParameters(uri)
    parameters.virtual_host = VHOST
    connection = pika.BlockingConnection(parameters)
    channel = connection.channel()
    channel.exchange_declare("events", "topic", durable=True)
    channel.exchange_declare("rest", "fanout", durable=True, auto_delete=True)
    channel.exchange_declare("inner", "headers", durable=True, internal=True, arguments={"x-our": 1})
    channel.exchange_declare("spread", "x-consistent-hash", durable=True, arguments={"hash-header": "h"})
    channel.exchange_declare("passing", "direct", arguments={"alternate-exchange": "amq.fanout"})
    channel.queue_declare("q1", durable=True, arguments=ARGUMENTS)
    channel.queue_declare("q2", durable=True, auto_delete=True)
    channel.queue_declare("q3")
    channel.queue_declare("", durable=True)
    channel.queue_declare("private", exclusive=True)
    channel.queue_bind("q1", "events", "alice.#")
    channel.queue_bind("q1", "events", "alice.#", arguments={"x-note": "again"})
    channel.queue_bind("q2", "rest")
    channel.queue_bind("q3", "passing", "k")
    channel.queue_bind("q2", "spread", "3")
    channel.queue_bind("q1", "amq.headers", arguments={"x-match": "any", "n": 5, "s": "x"})
    channel.queue_bind("private", "events", "private")
    channel.exchange_bind("rest", "events", "to.all", arguments={"x-note": 1})
    channel.exchange_bind("inner", "events", "in")
    # Stays open: the exclusive queue must be there when RabbitMQ exports.
    return connection


def pairs_as_objects(value):
    """RabbitMQ 3 writes some objects as lists of pairs."""
    return dict(value) if isinstance(value, list) else value


def normal(document):
    """What must be the same in both brokers' documents: each section as a sorted list of texts."""
    sections = {}
    for name in DOCUMENT:
        objects = []
        for entry in document[name]:
            entry = dict(entry)
            if name == "vhosts":
                entry["limits"] = pairs_as_objects(entry["limits"])
            if name == "exchanges":
                entry.pop("internal", None)  # RabbitMQ 3 has no word for it: it leaves internal exchanges out.
            if entry.get("component") == "operator_policy":
                definition = pairs_as_objects(entry["value"]["definition"])
                entry["value"] = {**entry["value"], "definition": definition}
            objects.append(json.dumps(entry, sort_keys=True))
        sections[name] = sorted(objects)
    return sections


def to_the_inner(bindings):
    """The bindings to the internal exchange, which RabbitMQ 3 exports without the exchange."""
    return [text for text in bindings if json.loads(text)["destination"] in ("inner", "private")]


def users_work(uri):
    """The users of RabbitMQ log in with their passwords, and may do what they might there."""
    parameters = pika.URLParameters(uri)
    parameters.virtual_host = VHOST
    parameters.credentials = pika.PlainCredentials("alice", "secret")
    connection = pika.BlockingConnection(parameters)
    channel = connection.channel()
    channel.confirm_delivery()
    channel.basic_publish("events", "alice.made", b"this", mandatory=True)
    checks.equal(channel.basic_get("q1", auto_ack=True)[2], b"this", "the message by an imported binding")
    channel.queue_declare("alice.own", durable=True)
    channel.queue_delete("alice.own")
    for what, publish in (
        ("a topic permission", lambda: channel.basic_publish("events", "bob.made", b"")),
        ("a permission", lambda: connection.channel().queue_declare("bob.own")),
    ):
        try:
            publish()
        except ChannelClosedByBroker as error:
            checks.equal(error.reply_code, 403, what)
        else:
            raise checks.Failed(f"{what} was expected to refuse, and did not")
    connection.close()
    parameters.credentials = pika.PlainCredentials("alice", "Secret")
    try:
        pika.BlockingConnection(parameters)
    except ProbableAuthenticationError:
        pass
    else:
        raise checks.Failed("a wrong password logs in")


def posthouse_ctl(data, *words):
    """What a command to Posthouse says."""
    command = [os.environ["POSTHOUSE"], "ctl", "--data-dir", data, *words]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    checks.equal((done.returncode, done.stderr), (0, ""), f"posthouse ctl {words[0]}")
    return done.stdout


def main():
    with tempfile.TemporaryDirectory(prefix="posthouse-definitions-") as directory:
        theirs, ours, data = (f"{directory}/{name}" for name in ("theirs.json", "ours.json", "data"))
        pathlib.Path(theirs).write_text(json.dumps(DOCUMENT))
        with brokers.rabbitmq() as uri:
            brokers.rabbitmqctl("add_user", "alice", "secret")
            brokers.rabbitmqctl("import_definitions", theirs)
            connection = declare(uri)
            brokers.rabbitmqctl("export_definitions", theirs)
            connection.close()
            exported = json.loads(pathlib.Path(theirs).read_text())
            expected = normal(exported)
            checks.true(all(expected.values()), "RabbitMQ exports something of every kind")
            checks.equal(len(to_the_inner(expected["bindings"])), 2, "bindings whose ends are not exported")
            print("ok rabbitmq_exports", flush=True)
            with brokers.posthouse(os.environ["POSTHOUSE"], data) as posthouse:
                said = posthouse_ctl(data, "import_definitions", theirs)
                checks.equal(said.count("left out: "), 2, f"what is left out of {said}")
                checks.equal(said.count("'inner' does not exist"), 1, f"the internal exchange in {said}")
                users_work(posthouse)
                print("ok imported_users_work", flush=True)
                posthouse_ctl(data, "export_definitions", ours)
                got = normal(json.loads(pathlib.Path(ours).read_text()))
                expected["bindings"] = [b for b in expected["bindings"] if b not in to_the_inner(expected["bindings"])]
                for section, objects in expected.items():
                    checks.equal(got[section], objects, section)
                print("ok nothing_is_lost", flush=True)
            with brokers.posthouse(os.environ["POSTHOUSE"], data) as posthouse:
                posthouse_ctl(data, "import_definitions", theirs)
                again = normal(json.loads(posthouse_ctl(data, "export_definitions", "-")))
                users_work(posthouse)
                transient = [text for text in got["queues"] if not json.loads(text)["durable"]]
                checks.equal(len(transient), 1, "transient queues")
                for section, objects in expected.items():
                    checks.equal(again[section], objects, f"{section} after a restart and a second import")
                print("ok importing_again_changes_nothing", flush=True)
            brokers.rabbitmqctl("import_definitions", ours)
            brokers.rabbitmqctl("export_definitions", theirs)
            back = normal(json.loads(pathlib.Path(theirs).read_text()))
            # RabbitMQ tells 32-bit integers from 64-bit ones, and so binds twice what was bound with a number.
            back["bindings"] = sorted({*back["bindings"]} - {*to_the_inner(back["bindings"])})
            for section, objects in expected.items():
                checks.equal(back[section], objects, f"{section} back in RabbitMQ")
            print("ok rabbitmq_imports", flush=True)


if __name__ == "__main__":
    try:
        main()
    except Exception as error:  # noqa: BLE001 - one clear line for whatever fails
        checks.failure("definitions", error)
