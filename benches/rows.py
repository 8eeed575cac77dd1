"""What is compared: the rows of docs/benchmarks.md, each with its command, its figures and its goals.

Knows nothing of how a row is run or shown.
"""

import dataclasses
import operator
from collections.abc import Callable

BENCH = "posthouse bench"
DURABLE = "--size 1024 --persistent"
WINDOWED = f"{DURABLE} --confirm 1000 --prefetch 1000"
# With a prefetch of 1,000 a reader of small messages would wait for its own acknowledgements.
STREAM = "--persistent --queue-args x-queue-type=stream --prefetch 10000 --ack-every 1000"
LIVE = f"{STREAM} --rate 200000"
SPACED = "--rate 1000 --latency --messages 4000"


@dataclasses.dataclass(frozen=True)
class Goal:
    """A bound: `factor` times what `of` names, or `factor` in the figure's own unit without it."""

    sign: str  # ">=" or "<="
    factor: float
    of: str | None = None  # "peer", "fdatasync", or another row, whose first figure counts

    def text(self, unit):
        if self.of is None:
            return f"{self.sign} {self.factor:,.12g} {unit}"
        return f"{self.sign} {self.factor:g}x {self.of if self.of in ('peer', 'fdatasync') else f'row `{self.of}`'}"


@dataclasses.dataclass(frozen=True)
class Figure:
    """One number of a row; `pick` finds it in the result that a broker's run gave."""

    name: str
    unit: str
    pick: Callable[[dict], float]
    goal: Goal | None = None


@dataclasses.dataclass(frozen=True)
class Row:
    """One workload, measured in as many rounds as are asked for unless it says otherwise."""

    key: str
    title: str
    arguments: str
    figures: tuple[Figure, ...]
    kind: str = "amqp"  # or "start", or "start-filled": `arguments` say what is there before
    peer_arguments: str | None = None  # Where the peer cannot be asked for as much
    fresh: bool = False  # A broker started for each round: what it keeps after a round would hide what it needs
    peer_rounds: int | None = None  # Where the peer is slow and the goal does not depend on it; 0 for none
    huge: bool = False  # Minutes of one broker alone: Posthouse in one round, only with --huge
    beside: str | None = None  # A yardstick measured in every round
    without: str | None = None  # Arguments of the same without a feature: measured in every round, just before
    before: str | None = None  # Arguments of what is done before every round, not measured
    meanwhile: str | None = None  # Arguments of what is done again and again while a round is measured

    def command(self):
        """The command for a reader."""
        if self.kind == "amqp":
            clauses = [(" after", self.without), ("; before", self.before), ("; meanwhile", self.meanwhile)]
            others = "".join(f"{words} {shown(arguments)}" for words, arguments in clauses if arguments)
            return f"{shown(self.arguments)}{others}" + (f" beside `{BENCH} {self.beside} $DIR`" if self.beside else "")
        started = f"`{BENCH} start --uri $URI -- posthouse serve --data-dir $DIR`"
        return started if self.kind == "start" else f"`B {self.arguments}`, stop, then as `cold-start`"


def shown(arguments):
    """A command with these arguments, as the page abbreviates it."""
    return f"`S{arguments.removeprefix(STREAM)}`" if arguments.startswith(STREAM) else f"`B {arguments}`"


def at_least(factor, of=None):
    return Goal(">=", factor, of)


def at_most(factor, of=None):
    return Goal("<=", factor, of)


def consumed(goal=None):
    return Figure("consumed", "/s", lambda result: result["consumed_per_s"], goal)


def compared(goal, other="it is without"):
    """What is consumed with a feature, of what is consumed without it in the same round."""
    return Figure(
        f"consumed, of what {other}", "x", lambda r: r["consumed_per_s"] / r["without"]["consumed_per_s"], goal
    )


def cpu_compared():
    """The broker's CPU time per message with a feature, of that without it: less moved by what else the machine does."""
    return Figure(
        "broker CPU per message, of what it is without",
        "x",
        lambda r: r["broker"]["us_per_message"] / r["without"]["broker"]["us_per_message"],
    )


def feature(key, title, argument, goal, messages="--auto-ack"):
    """A row that measures what a feature costs, at 16 B transient, 1 to 1."""
    figures = (compared(goal), cpu_compared(), consumed())
    return Row(key, title, f"{messages} {argument}", figures, without=messages, peer_rounds=0)


def dead_lettered(reason, title):
    """A row that measures how fast dead letters arrive where they go."""
    arguments = f"{WINDOWED} --ack-every 100 --dead-letter {reason}"
    return Row(f"dead-letter-{reason}", title, arguments, (consumed(at_least(60_000)),))


def read_of_published(goal):
    """How fast what was published is read, of how fast it was published."""
    return Figure("read, of what was published", "x", lambda r: r["consumed_per_s"] / r["published_per_s"], goal)


def binding_figures(goal):
    """How fast bindings are made, removed, and passed through."""
    names = (("bound", "binds_per_s", goal), ("unbound", "unbinds_per_s", goal), ("published", "publishes_per_s", None))
    return tuple(Figure(name, "/s", operator.itemgetter(key), bound) for name, key, bound in names)


def latest(goal):
    return Figure("the latest arrives after its time", "ms", lambda result: result["late_ms"], goal)


def published(goal=None):
    return Figure("published", "/s", lambda result: result["published_per_s"], goal)


def confirmed(goal=None):
    return Figure("confirmed", "/s", lambda result: result["confirmed_per_s"], goal)


def latency(quantile, goal=None, of="latency_us"):
    return Figure(f"{quantile}", "us", lambda result: result[of][quantile], goal)


def latency_without(quantile):
    return Figure(f"{quantile} without", "us", lambda result: result["without"]["latency_us"][quantile])


def broker_cpu(goal):
    return Figure("broker CPU per message", "us", lambda result: result["broker"]["us_per_message"], goal)


def rss_peak(goal):
    return Figure("peak RSS", "MB", lambda result: result["broker"]["rss_peak"] / 1e6, goal)


def rss_growth(goal):
    return Figure(
        "RSS growth", "MB", lambda result: (result["broker"]["rss_peak"] - result["broker"]["rss_before"]) / 1e6, goal
    )


def made(goal=None):
    return Figure("made", "/s", lambda result: result["per_s"], goal)


def rss_each(goal):
    return Figure("RSS each", "KiB", lambda result: result["rss_bytes_each"] / 1024, goal)


def ready(goal):
    return Figure("start to open connection", "ms", lambda result: result["start_ms"], goal)


ROWS = (
    Row(
        "transient-16",
        "16 B transient, 1 to 1",
        "--auto-ack",
        (consumed(at_least(25, "peer")), broker_cpu(at_most(0.25))),
    ),
    Row("transient-1k", "1 KiB transient, 1 to 1", "--auto-ack --size 1024", (consumed(at_least(8, "peer")),)),
    Row("durable", "1 KiB durable, window 1000", f"{WINDOWED} --ack-every 100", (consumed(at_least(12, "peer")),)),
    Row(
        "durable-ack-each",
        "the same, each acknowledged",
        f"{WINDOWED} --ack-every 1",
        (consumed(at_least(12, "peer")),),
    ),
    Row(
        "durable-100-queues",
        "the same over 100 queues",
        f"{DURABLE} --queues 100 --producers 100 --confirm 10 --consumers 100 --prefetch 1000 --ack-every 100",
        (consumed(at_least(0.9, "durable")),),
    ),
    Row(
        "fan-out",
        "fan-out 1 to 10 queues, 16 B",
        "--auto-ack --exchange fanout --queues 10 --consumers 10",
        (consumed(at_least(30, "peer")),),
    ),
    Row(
        "fan-in",
        "fan-in 64 to 1, 16 B",
        "--auto-ack --producers 64",
        (consumed(at_least(0.8, "transient-16")), rss_peak(at_most(200))),
        # What 64 sockets hold when the time is over takes RabbitMQ minutes.
        peer_arguments="--auto-ack --producers 64 --messages 1000000",
    ),
    Row(
        "window-1",
        "64 producers, window 1, 16 B",
        "--auto-ack --producers 64 --confirm 1",
        (confirmed(at_least(3, "peer")),),
    ),
    Row(
        "keys-20",
        "20 keys interleaved, 16 B",
        "--auto-ack --keys 20",
        (consumed(at_least(0.5, "transient-16")),),
    ),
    Row(
        "priorities",
        "10 priorities in turn, 16 B",
        "--auto-ack --priorities 10 --queue-args x-max-priority=9",
        (consumed(at_least(0.85, "transient-16")),),
    ),
    feature("ttl", "with a time to live", "--queue-args x-message-ttl=3600000", at_least(0.95)),
    feature("max-length", "with a length limit", "--queue-args x-max-length=100000000", at_least(0.95)),
    feature("single-active", "with a single active consumer", "--queue-args x-single-active-consumer=true", at_least(0.95)),
    feature("delivery-limit", "with a delivery limit", "--queue-args x-delivery-limit=20", at_least(0.95)),
    feature(
        "delayed-retry",
        "with delayed retries",
        "--queue-args x-delayed-retry-type=all --queue-args x-delayed-retry-min=60000",
        at_least(0.95),
    ),
    feature(
        "unique",
        "with deduplication",
        "--queue-args x-message-deduplication=true",
        at_least(0.7),
        "--auto-ack --unique",
    ),
    feature(
        "groups",
        "with message groups, 1,000 of them",
        "--queue-args x-message-groups=true",
        None,
        "--ack-every 100 --groups 1000",
    ),
    feature("delay-0", "with `x-delay: 0`", "--delay 0", at_least(0.7)),
    Row(
        "late",
        "how late a message with `x-delay: 500` is, 16 B transient",
        f"--auto-ack {SPACED} --delay 500",
        (latency("p50"), latency("p99"), latency("max", at_most(20_000))),
        peer_rounds=0,
    ),
    Row(
        "late-durable",
        "the same with `x-delay: 5000`, 1 KiB durable",
        f"{DURABLE} --confirm 1000 --ack-every 1 {SPACED} --delay 5000",
        (latency("p50"), latency("p99"), latency("max", at_most(20_000))),
        peer_rounds=0,
    ),
    Row(
        "scheduled-huge",
        "10 million scheduled for tomorrow, durable",
        "--persistent --confirm 1000 --publish-only --messages 10000000 --delay 86400000",
        (rss_growth(at_most(64)), published()),
        fresh=True,
        huge=True,
    ),
    dead_lettered("rejected", "1 KiB durable, rejected and dead-lettered"),
    dead_lettered("expired", "the same, expired after 100 ms"),
    dead_lettered("maxlen", "the same, dropped by a length limit"),
    Row(
        "expiring-queues",
        "10,000 durable queues, a message in each expires after 8 s and is dead-lettered",
        "--persistent --expiring-queues 10000",
        (rss_each(at_most(4)), latest(at_most(2000))),
        fresh=True,
        peer_rounds=1,
    ),
    Row(
        "stream-16",
        "stream, 16 B, published, then read",
        f"{STREAM} --backlog --messages 10000000",
        (read_of_published(at_least(0.7)), published(), consumed()),
        peer_arguments=f"{STREAM} --backlog --messages 1000000",
        peer_rounds=1,
    ),
    Row(
        "stream-1k",
        "the same, 1 KiB",
        f"{STREAM} --backlog --messages 400000 --size 1024",
        (read_of_published(at_least(0.7)), published(), consumed()),
        peer_arguments=f"{STREAM} --backlog --messages 200000 --size 1024",
        peer_rounds=1,
    ),
    Row(
        "stream-readers",
        "stream, 16 B, 10 readers live, of 1 reader",
        f"{LIVE} --consumers 10",
        (compared(at_least(5), "1 reader gets"), consumed()),
        without=LIVE,
        peer_rounds=0,
    ),
    Row(
        "stream-readers-full",
        "the same, as fast as they can",
        f"{STREAM} --backlog --messages 2000000 --consumers 10",
        (compared(at_least(5), "1 reader gets"), consumed()),
        without=f"{STREAM} --backlog --messages 2000000",
        peer_rounds=0,
    ),
    Row(
        "stream-tail",
        "stream, 16 B, live tail beside a reader of old messages",
        f"{LIVE} --latency",
        (compared(at_least(0.8), "it is without"), latency("p50"), latency_without("p50"), latency("p99")),
        without=f"{LIVE} --latency",
        before=f"{STREAM} --publish-only --messages 5000000 --name old",
        meanwhile=f"{STREAM} --consume-only --messages 5000000 --name old --keep",
        peer_rounds=0,
    ),
    Row(
        "bindings",
        "100,000 bindings of a queue to a topic exchange",
        "--bindings 100000",
        binding_figures(at_least(50_000)),
        peer_rounds=0,
    ),
    Row(
        "bindings-durable",
        "the same, durable",
        "--persistent --bindings 100000",
        binding_figures(at_least(10_000)),
        peer_rounds=0,
    ),
    Row(
        "latency",
        "latency at 1,000/s, 16 B transient",
        "--auto-ack --rate 1000 --latency",
        (latency("p50", at_most(45)), latency("p99", at_most(1, "peer"))),
    ),
    Row(
        "latency-durable",
        "latency at 1,000/s, 1 KiB durable",
        f"{DURABLE} --confirm 1000 --ack-every 1 --rate 1000 --latency",
        (latency("p50", at_most(80)), latency("p99", at_most(1, "peer"))),
    ),
    Row(
        "backlog",
        "publish only, then drain, 16 B",
        "--auto-ack --backlog --messages 10000000",
        (published(at_least(4_000_000)), consumed(at_least(4_000_000))),
        peer_arguments="--auto-ack --backlog --messages 1000000",
    ),
    Row(
        "backlog-huge",
        "100 million queued, then drained",
        "--auto-ack --backlog --messages 100000000",
        (rss_growth(at_most(25)), published(), consumed()),
        fresh=True,
        huge=True,
    ),
    Row(
        "connections",
        "1,000 idle connections",
        "--idle-connections 1000",
        (rss_each(at_most(20)), made()),
        fresh=True,
    ),
    Row(
        "queues",
        "10,000 idle durable queues, declared in a pipeline",
        "--persistent --declare-queues 10000 --keep",
        (made(at_least(10_000)), rss_each(at_most(2))),
        fresh=True,
        peer_rounds=1,
    ),
    Row(
        "queues-many",
        "100,000 idle durable queues, declared in a pipeline",
        "--persistent --declare-queues 100000 --keep",
        (made(at_least(10_000)), rss_each(at_most(2))),
        fresh=True,
        peer_rounds=0,
    ),
    Row("cold-start", "cold start, empty", "", (ready(at_most(60)),), kind="start", peer_rounds=1),
    Row(
        "cold-start-queues",
        "cold start with 100,000 durable queues",
        "--persistent --declare-queues 100000 --keep",
        (ready(at_most(3000)),),
        kind="start-filled",
        peer_rounds=0,
    ),
    Row(
        "cold-start-huge",
        "cold start with 10 GB",
        # So many messages fill 10 GB on disk.
        f"{DURABLE} --confirm 1000 --publish-only --messages 10000000",
        (ready(at_most(2000)),),
        kind="start-filled",
        peer_rounds=0,
        huge=True,
    ),
    Row(
        "confirm-depth-1",
        "confirm depth 1, 1 KiB durable",
        f"{DURABLE} --confirm 1 --latency",
        (latency("p50", at_most(1.5, "fdatasync"), of="confirm_latency_us"),),
        beside="fdatasync",
    ),
)
