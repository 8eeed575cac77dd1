"""A raw AMQP peer that writes down what it says and hears, one line each.

`Conversation` holds the transcript of one scripted exchange with one broker, `Peer` is one of its
connections, `Channel` one channel of that. Lines are already free of what differs from run to run:
generated names are numbered in order of appearance, bodies beyond a few bytes become a checksum.
"""

import collections
import contextlib
import itertools
import re
import socket
import time
import urllib.parse
import zlib

import frames
from frames import BODY, HEADER, HEARTBEAT, METHOD, Reader, frame, header_payload, method_payload

PATIENCE_SECONDS = 30  # Much longer than any delay on purpose (3 s after bad logins): the machine may be busy.
QUIET_SECONDS = 0.25
CONTENT_METHODS = ("basic.deliver", "basic.get-ok", "basic.return")
GENERATED = re.compile(r"amq\.(?:gen|ctag)-[\w-]+|amq\.rabbitmq\.reply-to\.[\w.+/=@-]+")
CAPABILITIES = {
    name: True
    for name in ("consumer_cancel_notify", "authentication_failure_close", "basic.nack", "publisher_confirms", "connection.blocked")
}


class Conversation:
    """One scripted exchange with one broker, its names and its transcript."""

    def __init__(self, name, uri):
        parsed = urllib.parse.urlsplit(uri)
        self.name = name
        self.address = (parsed.hostname, parsed.port or 5672)
        self.user = urllib.parse.unquote(parsed.username or "guest")
        self.password = urllib.parse.unquote(parsed.password or "guest")
        self.virtual_host = urllib.parse.unquote(parsed.path[1:]) or "/"
        self.lines = []
        self.names = []
        self.generated = {}
        self.peers = []

    def note(self, line):
        """Adds a line, with generated names replaced by numbered ones."""
        self.lines.append(GENERATED.sub(self._numbered, line))

    def q(self, stem="q"):
        """The name of a queue or exchange that is removed before and after the conversation."""
        name = f"compare.{self.name}.{stem}"
        if name not in self.names:
            self.names.append(name)
            self.remove([name])
        return name

    def socket(self):
        """A connection on which nothing has been said."""
        peer = Peer(self, f"c{len(self.peers) + 1}")
        self.peers.append(peer)
        return peer

    def connect(self, **tuning):
        """A connection after a silent handshake."""
        peer = self.socket()
        peer.handshake(**tuning)
        return peer

    def open(self, **tuning):
        """Channel 1 of a new connection."""
        return self.connect(**tuning).channel(1)

    def fill(self, queue, *bodies):
        """Publishes to a queue without a word in the transcript, until all of it is confirmed.

        Only a confirm says that a message is enqueued: RabbitMQ answers a passive queue.declare
        ahead of publishes that came before it.
        """
        channel = self.silent().channel(1)
        channel.call("confirm.select")
        for body in bodies:
            channel.publish("", queue, body)
        channel.confirms(len(bodies))
        channel.peer.close()

    def silent(self):
        """A connection that leaves no trace in the transcript."""
        peer = Peer(self, "silent")
        peer.handshake()
        peer.silent = True
        return peer

    def close(self):
        """Ends every connection and removes what the conversation made."""
        for peer in self.peers:
            peer.close()
        self.remove(self.names)

    def remove(self, names):
        """Deletes queues and exchanges by name, waiting for exclusive ones to go with their owner."""
        peer = self.silent()
        number = 0
        for name in names:
            for attempt in ("exchange.delete", "queue.delete"):
                deadline = time.monotonic() + PATIENCE_SECONDS
                done = False
                while not done and time.monotonic() < deadline:
                    number += 1
                    channel = peer.channel(number)
                    field = attempt.split(".")[0]
                    done = channel.call(attempt, **{field: name}).startswith(attempt)
                    if not done:
                        time.sleep(0.02)
        peer.close()

    def _numbered(self, match):
        name = match[0]
        kind = re.match(r"amq\.(?:gen-|ctag-|rabbitmq\.reply-to\.)", name)[0]
        return self.generated.setdefault(name, f"{kind}<{sum(k.startswith(kind) for k in self.generated) + 1}>")


class Ended(Exception):
    """The broker ended the connection (or its part of the conversation)."""


class Peer:
    """One connection."""

    def __init__(self, conversation, label):
        self.conversation = conversation
        self.label = label
        self.socket = socket.create_connection(conversation.address, timeout=PATIENCE_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.inboxes = collections.defaultdict(collections.deque)
        self.ended = False
        self.heartbeats = 0
        self.silent = False
        self.zero = Channel(self, 0)

    def note(self, channel, line):
        if not self.silent:
            self.conversation.note(f"{self.label}.{channel} {line}")

    def handshake(self, channel_max=2047, frame_max=131072, heartbeat=0, capabilities=CAPABILITIES, user=None):
        """Connects and logs in without a word in the transcript."""
        with self.hush():
            self.raw(frames.PROTOCOL_HEADER)
            self.zero.receive()
            self.start_ok(user=user, capabilities=capabilities)
            self.zero.receive()
            self.zero.send("connection.tune-ok", channel_max=channel_max, frame_max=frame_max, heartbeat=heartbeat)
            self.zero.call("connection.open", virtual_host=self.conversation.virtual_host)

    def start_ok(self, user=None, password=None, capabilities=CAPABILITIES, **fields):
        """Answers connection.start; by default with the right PLAIN response."""
        user = user or self.conversation.user
        password = password or self.conversation.password
        values = {"mechanism": "PLAIN", "response": f"\0{user}\0{password}", "locale": "en_US"}
        properties = {"product": "compare", "capabilities": capabilities} if capabilities is not None else {"product": "compare"}
        self.zero.send("connection.start-ok", client_properties=properties, **(values | fields))

    def channel(self, number):
        """Opens a channel without a word in the transcript."""
        channel = Channel(self, number)
        with self.hush():
            channel.call("channel.open")
        return channel

    @contextlib.contextmanager
    def hush(self):
        """Keeps what is said and heard meanwhile out of the transcript."""
        was, self.silent = self.silent, True
        try:
            yield
        finally:
            self.silent = was

    def raw(self, octets):
        """Sends bytes as they are."""
        try:
            self.socket.sendall(octets)
        except OSError:
            self.ended = True

    def frame(self, kind, channel, payload, end=frames.END):
        """Sends one frame and notes it."""
        self.note(channel, f"> frame type={kind} payload={_brief(payload)}" + ("" if end == frames.END else f" end={end}"))
        self.raw(frame(kind, channel, payload, end))

    def pump(self, deadline):
        """Reads one frame into its channel's inbox; False when the deadline passed first."""
        while not self.ended:
            if len(self.buffer) >= 8 and self.buffer[:4] == b"AMQP":
                self.inboxes[0].append(("protocol-header", self.buffer[:8]))
                self.buffer = self.buffer[8:]
                return True
            if len(self.buffer) >= 7:
                size = int.from_bytes(self.buffer[3:7], "big")
                if len(self.buffer) >= size + 8:
                    whole, self.buffer = self.buffer[: size + 8], self.buffer[size + 8 :]
                    self._keep(whole)
                    return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self.socket.settimeout(left)
            try:
                octets = self.socket.recv(1 << 20)
            except TimeoutError:
                return False
            except OSError:  # A reset and an orderly end race with each other; both are an end.
                octets = b""
            self.ended = octets == b""
            self.buffer += octets
        return False

    def _keep(self, whole):
        kind, channel = whole[0], int.from_bytes(whole[1:3], "big")
        if whole[-1] != frames.END:
            raise ValueError(f"the broker sent a frame that ends with {whole[-1]}")
        if kind == HEARTBEAT and channel == 0:
            self.heartbeats += 1
        else:
            self.inboxes[channel].append((kind, whole[7:-1]))

    def gone(self, queue):
        """Waits until a queue does not exist any more, and notes how that was answered last."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        line, number = "", 1000
        while "NOT_FOUND" not in line and time.monotonic() < deadline and not self.ended:
            number += 1
            with self.hush():
                line = self.channel(number).call("queue.declare", queue=queue, passive=True)
        self.note(0, f"gone: {line}")

    def expect_end(self, within=PATIENCE_SECONDS):
        """Notes that the broker ends the connection, or what it does instead."""
        self.zero.drain(within)

    def close(self):
        """Ends the connection politely when it still can be."""
        self.silent = True
        if not self.ended:
            self.zero.send("connection.close", reply_code=200, reply_text="bye")
            deadline = time.monotonic() + PATIENCE_SECONDS
            while (line := self.zero._next(deadline)) and not line.startswith("connection.close-ok"):
                pass
        self.socket.close()


class Channel:
    """One channel of a connection."""

    def __init__(self, peer, number):
        self.peer = peer
        self.number = number

    def send(self, name, **fields):
        """Sends a method without waiting."""
        shown = " ".join(f"{field}={_shown(value)}" for field, value in fields.items())
        self.peer.note(self.number, f"> {name} {shown}".rstrip())
        self.peer.raw(frame(METHOD, self.number, method_payload(name, fields)))

    def call(self, name, **fields):
        """Sends a method and receives what comes next on the channel."""
        self.send(name, **fields)
        return self.receive()

    def publish(self, exchange, routing_key, body=b"m", mandatory=False, immediate=False, splits=(), **properties):
        """Publishes; `splits` are the sizes of the first body frames."""
        flags = {"mandatory": True} if mandatory else {}
        flags |= {"immediate": True} if immediate else {}
        self.send("basic.publish", exchange=exchange, routing_key=routing_key, **flags)
        shown = " ".join(f"{name}={_shown(value)}" for name, value in properties.items())
        self.peer.note(self.number, f"> content {_brief(body)} {shown}".rstrip())
        octets = frame(HEADER, self.number, header_payload(len(body), properties))
        at = 0
        for size in splits:
            octets += frame(BODY, self.number, body[at : at + size])
            at += size
        while at < len(body):
            octets += frame(BODY, self.number, body[at : at + 131064])
            at += 131064
        self.peer.raw(octets)

    def receive(self):
        """Notes the next method (with its content) on this channel and returns its line.

        A close from the broker is answered; the end of the connection is a line like any other.
        """
        line = self._next(time.monotonic() + PATIENCE_SECONDS)
        line = line or ("(connection ended)" if self.peer.ended else f"(nothing within {PATIENCE_SECONDS} s)")
        self.peer.note(self.number, f"< {line}")
        return line

    def gather(self, *names):
        """Receives one line for each of these methods and notes them sorted by the order given.

        For replies whose order among each other is the broker's choice.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        lines = []
        while len(lines) < len(names) and (line := self._next(deadline)):
            lines.append(line)
        rank = {name: index for index, name in reversed(list(enumerate(names)))}
        for line in sorted(lines, key=lambda line: rank.get(line.split(" ")[0], len(names))):
            self.peer.note(self.number, f"< {line}")
        if len(lines) < len(names):
            self.peer.note(self.number, "(connection ended)" if self.peer.ended else f"(only {len(lines)} of {len(names)})")

    def confirms(self, count):
        """Waits until the tags 1 to `count` are settled by the broker, singly or together.

        Which of them are settled together depends on timing, so only the outcome is noted.
        """
        settled, others = {}, []
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(settled) < count and (line := self._next(deadline)):
            found = re.fullmatch(r"basic\.(n?ack) delivery_tag=(\d+) multiple=(\w+).*", line)
            if not found:
                others.append(line)
                continue
            upto = int(found[2])
            for tag in range(1, upto + 1) if found[3] == "True" else [upto]:
                settled.setdefault(tag, found[1])
        outcomes = [settled.get(tag, "nothing") for tag in range(1, count + 1)]
        self.peer.note(self.number, f"< settled: {[f'{outcome} x{len(list(run))}' for outcome, run in itertools.groupby(outcomes)]}")
        for line in others:
            self.peer.note(self.number, f"< {line}")

    def drain(self, quiet=QUIET_SECONDS):
        """Notes everything that comes until it has been quiet for this long, or until the end.

        To see that nothing more comes; what must come is received.
        """
        while line := self._next(time.monotonic() + quiet):
            self.peer.note(self.number, f"< {line}")
        self.peer.note(self.number, "(connection ended)" if self.peer.ended else "(quiet)")

    def ready(self, queue, count):
        """Waits until this many messages are ready, and notes how many were.

        RabbitMQ answers a passive queue.declare ahead of publishes and acknowledgements that came
        before it, so one look is not enough.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        line, expected = "", f"message_count={count} "
        while expected not in line and time.monotonic() < deadline and not self.peer.ended:
            with self.peer.hush():
                line = self.call("queue.declare", queue=queue, passive=True)
        self.peer.note(self.number, f"ready: {line}")

    def barrier(self):
        """Waits for the answer to a harmless call, so that the channel has handled everything before it."""
        self.call("basic.qos", prefetch_count=0)

    def _next(self, deadline):
        """The next method on this channel as a line, or None."""
        taken = self._take(deadline)
        if taken is None:
            return None
        kind, payload = taken
        if kind == "protocol-header":
            return f"protocol header {payload.hex(' ')}"
        if kind != METHOD:
            return f"frame type={kind} {_brief(payload)}"
        method, values = Reader(payload).method()
        line = f"{method.name} " + " ".join(_field(name, value) for name, value in values.items())
        if method.name in CONTENT_METHODS:
            line += self._content(deadline)
        if method.name in ("channel.close", "connection.close"):
            number = 0 if method.name.startswith("connection") else self.number
            self.peer.raw(frame(METHOD, number, method_payload(f"{method.name}-ok", {})))
        return line.rstrip()

    def _take(self, deadline):
        inboxes = self.peer.inboxes
        while True:
            if inboxes[self.number]:
                return inboxes[self.number].popleft()
            # A connection-level error reaches whoever is waiting, on any channel.
            if inboxes[0] and inboxes[0][0][0] == METHOD and inboxes[0][0][1][:4] == b"\0\x0a\0\x32":
                return inboxes[0].popleft()
            if not self.peer.pump(deadline):
                return None

    def _content(self, deadline):
        header = self._take(deadline)
        if header is None or header[0] != HEADER:
            return f" WITHOUT CONTENT HEADER: {header}"
        size, properties = Reader(header[1]).header()
        body, sizes = b"", []
        while len(body) < size:
            piece = self._take(deadline)
            if piece is None or piece[0] != BODY:
                return f" BODY ENDS AT {len(body)} OF {size}: {piece}"
            body += piece[1]
            sizes.append(len(piece[1]))
        shown = " ".join(f"{name}={_shown(value)}" for name, value in properties.items())
        split = f" in frames of {sizes}" if len(sizes) > 1 else ""
        return f" | {shown} | {_brief(body)}{split}"


def _field(name, value):
    if name == "server_properties":
        return f"capabilities={_shown(value.get('capabilities'))} others={sorted(set(value) - {'capabilities'})}"
    if name == "mechanisms":
        return f"mechanisms={sorted(value.split())}"
    return f"{name}={_shown(value)}"


def _shown(value):
    """A value as text, tables in the order of their keys."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_shown(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_shown, value)) + "]"
    if isinstance(value, frames.Typed):
        return f"{value.tag}:{_shown(value.value)}"
    if isinstance(value, (bytes, str)) and len(value) > 300:
        return _brief(value if isinstance(value, bytes) else value.encode())
    return repr(value)


def _brief(octets):
    return repr(octets) if len(octets) <= 40 else f"{len(octets)} bytes crc32 {zlib.crc32(octets):08x}"
