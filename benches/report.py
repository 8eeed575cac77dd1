"""From the records of single runs to the Markdown of docs/benchmarks.md.

A record is a dictionary, one JSON line in the raw file:

    {"run": ID, "setting": {...}}                        once per run: what was measured on what
    {"run": ID, "row": KEY, "broker": NAME, "round": N,   once per broker and round
     "result": {...} or null, "error": TEXT or null}

Knows nothing of how a record came about. Something that failed is shown as such, never left out.
"""

import statistics

from rows import ROWS, shown

HEAD = """\
| row | peer | Posthouse | ratio | us per message | peak RSS, MB | goal | met |
|---|---|---|---|---|---|---|---|"""
ERROR_CHARACTERS = 400
PEER, OURS, YARDSTICK = "rabbitmq", "posthouse", "fdatasync"


class Samples:
    """The records of one row and broker."""

    def __init__(self, records):
        self.results = [record["result"] for record in records if record["result"] is not None]
        self.errors = [(record["round"], record["error"]) for record in records if record["error"]]

    def values(self, pick):
        """One number per round; none at all when any round failed."""
        return [] if self.errors else [pick(result) for result in self.results]

    def median(self, pick):
        values = self.values(pick)
        return statistics.median(values) if values else None

    def cell(self, pick, absent="not measured"):
        if self.errors:
            return "ERROR"
        values = self.values(pick)
        if not values:
            return absent
        spread = f" ({number(min(values))} - {number(max(values))})" if len(values) > 1 else ""
        return f"{number(statistics.median(values))}{spread}"


class Report:
    """Everything that was recorded; of a row measured in several runs the latest."""

    def __init__(self, records, only=None):
        self.rows = [row for row in ROWS if not only or row.key in only]
        self.settings = {record["run"]: record["setting"] for record in records if "setting" in record}
        latest = {}
        for record in records:
            if "row" in record:
                latest[record["row"]] = max(record["run"], latest.get(record["row"], ""))
        self.samples = {}
        for record in records:
            if "row" in record and record["run"] == latest[record["row"]]:
                self.samples.setdefault((record["row"], record["broker"]), []).append(record)

    def of(self, row, broker):
        return Samples(self.samples.get((row.key, broker), []))

    def failed(self):
        return any(record["error"] for records in self.samples.values() for record in records)

    def markdown(self):
        """What was measured on what, the table, and what went wrong."""
        lines = [*self.described(), "", HEAD]
        lines += [line for row in self.rows for line in self.lines(row)]
        errors = [
            f"* ERROR: {row.title}, {broker}, {moment(count)}: {shortened(text)}"
            for row in self.rows
            for broker in (PEER, OURS, YARDSTICK)
            for count, text in self.of(row, broker).errors
        ]
        return "\n".join([*lines, *([""] if errors else []), *errors]) + "\n"

    def described(self):
        """A line for each setting that rows shown here were measured in, naming them where there are several."""
        groups = {}
        for row in self.rows:
            for record in self.samples.get((row.key, OURS), [])[:1]:
                setting = dict(self.settings[record["run"]])
                load = setting.pop("load")
                rows, loads = groups.setdefault(tuple(setting.items()), ([], set()))
                rows.append(f"`{row.key}`")
                loads.add(load)
        for items, (rows, loads) in groups.items():
            some = f" Rows {', '.join(rows)}." if len(groups) > 1 else ""
            yield f"{describe(dict(items))} Load before: {max(loads):.2f}.{some}  "

    def lines(self, row):
        """A table line per figure; the first one also has what the run cost the broker."""
        peer, ours = self.of(row, PEER), self.of(row, OURS)
        for index, figure in enumerate(row.figures):
            theirs, mine = peer.median(figure.pick), ours.median(figure.pick)
            ratio = f"{number(mine / theirs)}x" if mine is not None and theirs and theirs > 0 else "-"
            costs = self.costs(row) if index == 0 and row.kind == "amqp" else ("", "")
            goal, met = self.verdict(row, figure, mine, theirs)
            theirs_shown = peer.cell(figure.pick, "-" if row.huge or row.peer_rounds == 0 else "not measured")
            yield (
                f"| {row.title}: {figure.name}, {figure.unit} | {theirs_shown} |"
                f" {ours.cell(figure.pick)} | {ratio} | {costs[0]} | {costs[1]} | {goal} | {met} |"
            )

    def costs(self, row):
        """CPU microseconds per message and peak memory, of the peer and of ours."""

        def pair(pick):
            medians = [self.of(row, broker).median(pick) for broker in (PEER, OURS)]
            return " / ".join("-" if median is None else number(median) for median in medians)

        if not any("broker" in result for result in self.of(row, OURS).results + self.of(row, PEER).results):
            return "", ""
        return pair(lambda r: r["broker"]["us_per_message"]), pair(lambda r: r["broker"]["rss_peak"] / 1e6)

    def verdict(self, row, figure, mine, theirs):
        """The goal and whether it is met: yes, no, or why that cannot be said."""
        goal = figure.goal
        if goal is None:
            return "-", "-"
        text = goal.text(figure.unit)
        if mine is None:
            return text, "no: error" if self.of(row, OURS).errors else "not measured"
        reference = {None: 1, "peer": theirs}[goal.of] if goal.of in (None, "peer") else self.reference(row, goal.of)
        if reference is None:
            return text, f"unknown: no {goal.of}"
        bound = goal.factor * reference
        if goal.of not in (None, "peer"):
            text += f" = {number(bound)}"
        return text, "yes" if (mine >= bound if goal.sign == ">=" else mine <= bound) else "no"

    def reference(self, row, name):
        if name == YARDSTICK:
            return self.of(row, YARDSTICK).median(lambda result: result["p50_us"])
        other = next(other for other in ROWS if other.key == name)
        return self.of(other, OURS).median(other.figures[0].pick)


def rows_table():
    """The rows and their commands, for the method section."""
    lines = ["| row | | command |", "|---|---|---|"]
    for row in ROWS:
        peer = f"; the peer {shown(row.peer_arguments)}" if row.peer_arguments else ""
        lines.append(f"| `{row.key}` | {row.title} | {row.command()}{peer} |")
    return "\n".join(lines) + "\n"


def replace_block(text, name, block):
    """The page with what stands between the two comments of `name` replaced; an error when they are not there."""
    begin, end = f"<!-- {name}: written by benches/compare -->\n", f"<!-- end of {name} -->\n"
    before, found_begin, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise ValueError(f"expected the lines {begin.strip()!r} and {end.strip()!r}")
    return f"{before}{begin}\n{block}\n{end}{after}"


def describe(setting):
    """One line: when, on what, with what."""
    scaled = "" if setting["scale"] == 1 else f" TRIAL: counts times {setting['scale']:g}."
    return (
        f"{setting['date']}, {setting['machine']}. Posthouse {setting['posthouse']}, profile {setting['profile']};"
        f" peer {setting['peer']}. Rounds of {setting['seconds']:g} s: {setting['rounds']}.{scaled}"
    )


def moment(count):
    return count if isinstance(count, str) else f"round {count}"


def shortened(text):
    flat = " ".join(text.split()).replace("|", "\\|")
    return flat if len(flat) <= ERROR_CHARACTERS else f"{flat[:ERROR_CHARACTERS]} ..."


def number(value):
    """Three significant digits, thousands and millions as k and M."""
    for limit, divisor, suffix in ((1e6, 1e6, " M"), (1e4, 1e3, " k")):
        if abs(value) >= limit * 0.9995:
            return f"{digits(value / divisor)}{suffix}"
    return digits(value)


def digits(value):
    if value == 0:
        return "0"
    whole = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    return f"{value:,.{max(0, 3 - whole)}f}"
