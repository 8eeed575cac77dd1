"""AMQP 0-9-1 on the wire: encodes and decodes frames, methods, content headers and field tables.

Written by hand so that the conversations can also say what no client library would.
Table values carry their type when it matters: a plain str is a longstr ('S'), an int a signed
32-bit 'I', a bool 't', None 'V', a dict 'F', a list 'A'; `Typed(tag, value)` says any other.

    frame = type u8 | channel u16 | size u32 | payload | 0xCE
"""

import struct
from dataclasses import dataclass

METHOD, HEADER, BODY, HEARTBEAT, END = 1, 2, 3, 8, 0xCE
PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"

# Fields in wire order, each with its domain. Adjacent bits share one octet, lowest first.
_METHODS = """
10.10 connection.start version_major:octet version_minor:octet server_properties:table mechanisms:longstr locales:longstr
10.11 connection.start-ok client_properties:table mechanism:shortstr response:longstr locale:shortstr
10.20 connection.secure challenge:longstr
10.21 connection.secure-ok response:longstr
10.30 connection.tune channel_max:short frame_max:long heartbeat:short
10.31 connection.tune-ok channel_max:short frame_max:long heartbeat:short
10.40 connection.open virtual_host:shortstr capabilities:shortstr insist:bit
10.41 connection.open-ok known_hosts:shortstr
10.50 connection.close reply_code:short reply_text:shortstr class_id:short method_id:short
10.51 connection.close-ok
10.60 connection.blocked reason:shortstr
10.61 connection.unblocked
10.70 connection.update-secret new_secret:longstr reason:shortstr
10.71 connection.update-secret-ok
20.10 channel.open out_of_band:shortstr
20.11 channel.open-ok channel_id:longstr
20.20 channel.flow active:bit
20.21 channel.flow-ok active:bit
20.40 channel.close reply_code:short reply_text:shortstr class_id:short method_id:short
20.41 channel.close-ok
30.10 access.request realm:shortstr exclusive:bit passive:bit active:bit write:bit read:bit
30.11 access.request-ok ticket:short
40.10 exchange.declare ticket:short exchange:shortstr type:shortstr passive:bit durable:bit auto_delete:bit internal:bit nowait:bit arguments:table
40.11 exchange.declare-ok
40.20 exchange.delete ticket:short exchange:shortstr if_unused:bit nowait:bit
40.21 exchange.delete-ok
40.30 exchange.bind ticket:short destination:shortstr source:shortstr routing_key:shortstr nowait:bit arguments:table
40.31 exchange.bind-ok
40.40 exchange.unbind ticket:short destination:shortstr source:shortstr routing_key:shortstr nowait:bit arguments:table
40.51 exchange.unbind-ok
50.10 queue.declare ticket:short queue:shortstr passive:bit durable:bit exclusive:bit auto_delete:bit nowait:bit arguments:table
50.11 queue.declare-ok queue:shortstr message_count:long consumer_count:long
50.20 queue.bind ticket:short queue:shortstr exchange:shortstr routing_key:shortstr nowait:bit arguments:table
50.21 queue.bind-ok
50.30 queue.purge ticket:short queue:shortstr nowait:bit
50.31 queue.purge-ok message_count:long
50.40 queue.delete ticket:short queue:shortstr if_unused:bit if_empty:bit nowait:bit
50.41 queue.delete-ok message_count:long
50.50 queue.unbind ticket:short queue:shortstr exchange:shortstr routing_key:shortstr arguments:table
50.51 queue.unbind-ok
60.10 basic.qos prefetch_size:long prefetch_count:short global:bit
60.11 basic.qos-ok
60.20 basic.consume ticket:short queue:shortstr consumer_tag:shortstr no_local:bit no_ack:bit exclusive:bit nowait:bit arguments:table
60.21 basic.consume-ok consumer_tag:shortstr
60.30 basic.cancel consumer_tag:shortstr nowait:bit
60.31 basic.cancel-ok consumer_tag:shortstr
60.40 basic.publish ticket:short exchange:shortstr routing_key:shortstr mandatory:bit immediate:bit
60.50 basic.return reply_code:short reply_text:shortstr exchange:shortstr routing_key:shortstr
60.60 basic.deliver consumer_tag:shortstr delivery_tag:longlong redelivered:bit exchange:shortstr routing_key:shortstr
60.70 basic.get ticket:short queue:shortstr no_ack:bit
60.71 basic.get-ok delivery_tag:longlong redelivered:bit exchange:shortstr routing_key:shortstr message_count:long
60.72 basic.get-empty cluster_id:shortstr
60.80 basic.ack delivery_tag:longlong multiple:bit
60.90 basic.reject delivery_tag:longlong requeue:bit
60.100 basic.recover-async requeue:bit
60.110 basic.recover requeue:bit
60.111 basic.recover-ok
60.120 basic.nack delivery_tag:longlong multiple:bit requeue:bit
85.10 confirm.select nowait:bit
85.11 confirm.select-ok
90.10 tx.select
90.11 tx.select-ok
90.20 tx.commit
90.21 tx.commit-ok
90.30 tx.rollback
90.31 tx.rollback-ok
"""

PROPERTIES = [
    ("content_type", "shortstr"),
    ("content_encoding", "shortstr"),
    ("headers", "table"),
    ("delivery_mode", "octet"),
    ("priority", "octet"),
    ("correlation_id", "shortstr"),
    ("reply_to", "shortstr"),
    ("expiration", "shortstr"),
    ("message_id", "shortstr"),
    ("timestamp", "longlong"),
    ("type", "shortstr"),
    ("user_id", "shortstr"),
    ("app_id", "shortstr"),
    ("cluster_id", "shortstr"),
]

_NUMBERS = {"octet": ">B", "short": ">H", "long": ">I", "longlong": ">Q"}
_TABLE_NUMBERS = {
    "I": ">i", "i": ">I", "l": ">q", "L": ">q", "s": ">h", "u": ">H", "b": ">b", "B": ">B", "d": ">d", "f": ">f", "T": ">Q",
}  # fmt: skip


@dataclass(frozen=True)
class Typed:
    """A table value with the type tag it is written with."""

    tag: str
    value: object

    def __repr__(self):
        return f"{self.tag}:{self.value!r}"


@dataclass(frozen=True)
class Method:
    """A method's name, its class and method numbers, and its fields."""

    name: str
    ids: tuple
    fields: tuple


def _parse_methods():
    for line in _METHODS.strip().splitlines():
        ids, name, *fields = line.split()
        yield Method(name, tuple(map(int, ids.split("."))), tuple(tuple(field.split(":")) for field in fields))


METHODS = {method.name: method for method in _parse_methods()}
_BY_IDS = {method.ids: method for method in METHODS.values()}
_EMPTY = {"shortstr": "", "longstr": "", "table": {}, "bit": False}


def frame(kind, channel, payload, end=END):
    """One frame; `end` is wrong only on purpose."""
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + bytes([end])


def method_payload(name, values):
    """A method's ids and arguments; fields not given are zero, empty or false."""
    method = METHODS[name]
    unknown = set(values) - {field for field, _ in method.fields}
    if unknown:
        raise KeyError(f"{name} has no field {', '.join(sorted(unknown))}")
    return struct.pack(">HH", *method.ids) + _fields(method.fields, values)


def header_payload(size, properties, class_id=60):
    """A content header with the properties given by name."""
    flags, parts = 0, b""
    for index, (name, domain) in enumerate(PROPERTIES):
        if name in properties:
            flags |= 1 << (15 - index)
            parts += _value(domain, properties[name])
    return struct.pack(">HHQH", class_id, 0, size, flags) + parts


def _fields(fields, values):
    out, bits, used = b"", 0, 0
    for name, domain in fields:
        if domain == "bit":
            bits |= bool(values.get(name)) << used
            used += 1
            continue
        if used:
            out, bits, used = out + bytes([bits]), 0, 0
        out += _value(domain, values.get(name, _EMPTY.get(domain, 0)))
    return out + bytes([bits]) if used else out


def _value(domain, value):
    if domain in _NUMBERS:
        return struct.pack(_NUMBERS[domain], value)
    if domain == "table":
        return table(value)
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack(">B" if domain == "shortstr" else ">I", len(raw)) + raw


def table(entries):
    """A field table with its length in front."""
    out = b"".join(_value("shortstr", key) + _table_value(value) for key, value in entries.items())
    return struct.pack(">I", len(out)) + out


def _table_value(value):
    value = _typed(value)
    tag, raw = value.tag.encode(), value.value
    if value.tag in _TABLE_NUMBERS:
        return tag + struct.pack(_TABLE_NUMBERS[value.tag], raw)
    if value.tag in "Sx":
        return tag + _value("longstr", raw)
    if value.tag == "t":
        return tag + bytes([raw])
    if value.tag == "V":
        return tag
    if value.tag == "D":
        return tag + struct.pack(">BI", *raw)
    if value.tag == "F":
        return tag + table(raw)
    items = b"".join(map(_table_value, raw))
    return tag + struct.pack(">I", len(items)) + items


def _typed(value):
    if isinstance(value, Typed):
        return value
    kinds = {bool: "t", int: "I", str: "S", bytes: "x", dict: "F", list: "A", type(None): "V", float: "d"}
    return Typed(kinds[type(value)], value)


class Reader:
    """Reads fields from a payload in order."""

    def __init__(self, payload):
        self.payload = payload
        self.at = 0
        self.bits = None

    def method(self):
        """The method of a method frame and its fields by name."""
        ids = self.number(">H"), self.number(">H")
        method = _BY_IDS[ids]
        values = {}
        for name, domain in method.fields:
            values[name] = self._bit() if domain == "bit" else self._domain(domain)
        self._nothing_left()
        return method, values

    def header(self):
        """A content header's body size and its properties by name."""
        _class_id, _weight = self.number(">H"), self.number(">H")
        size, flags = self.number(">Q"), self.number(">H")
        present = [entry for index, entry in enumerate(PROPERTIES) if flags & 1 << (15 - index)]
        properties = {name: self._domain(domain) for name, domain in present}
        self._nothing_left()
        return size, properties

    def number(self, form):
        self.bits = None
        (value,) = struct.unpack_from(form, self.payload, self.at)
        self.at += struct.calcsize(form)
        return value

    def _nothing_left(self):
        if self.at != len(self.payload):
            raise ValueError(f"{len(self.payload) - self.at} bytes left over in {self.payload!r}")

    def _bit(self):
        if self.bits is None or self.bits[1] == 8:
            self.bits = [self.number(">B"), 0]
        octet, used = self.bits
        self.bits = [octet, used + 1]
        return bool(octet >> used & 1)

    def _domain(self, domain):
        if domain in _NUMBERS:
            return self.number(_NUMBERS[domain])
        if domain == "table":
            return self._table()
        return _text(self._bytes(self.number(">B" if domain == "shortstr" else ">I")))

    def _bytes(self, length):
        self.bits = None
        taken = self.payload[self.at : self.at + length]
        if len(taken) != length:
            raise ValueError(f"expected {length} bytes, got {len(taken)}")
        self.at += length
        return taken

    def _table(self):
        end = self.number(">I") + self.at
        entries = {}
        while self.at < end:
            key = self._domain("shortstr")
            entries[key] = self._table_value()
        return entries

    def _table_value(self):
        tag = chr(self.number(">B"))
        if tag in _TABLE_NUMBERS:
            return Typed(tag, self.number(_TABLE_NUMBERS[tag]))
        if tag == "t":
            return Typed(tag, bool(self.number(">B")))
        if tag == "V":
            return Typed(tag, None)
        if tag == "D":
            return Typed(tag, (self.number(">B"), self.number(">I")))
        if tag == "F":
            return Typed(tag, self._table())
        if tag == "A":
            end = self.number(">I") + self.at
            items = []
            while self.at < end:
                items.append(self._table_value())
            return Typed(tag, items)
        if tag in "Sx":
            return Typed(tag, _text(self._bytes(self.number(">I"))))
        raise ValueError(f"unknown table type {tag!r}")


def _text(raw):
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw
