"""Compares what two brokers answer in one conversation, and what to make of a difference.

RabbitMQ is many processes, and where two of them race, it gives more than one right answer. So a
difference is not the last word: both brokers are asked again, and the other broker is right when each
of its answers is one that RabbitMQ gave too. Knows neither sockets nor scripts: a broker is a function
that holds the conversation and returns its lines.
"""

import difflib
import re
from dataclasses import dataclass, field

ASK_AGAIN = 4
SCRIPT_FAILED = "SCRIPT FAILED"


@dataclass
class Outcome:
    """What came of one conversation."""

    lines: list  # RabbitMQ's first transcript.
    declared: int = 0  # Differences that are wanted.
    undeclared: int = 0
    report: list = field(default_factory=list)  # To be printed; empty when there is nothing to say.


def compare(name, rabbitmq, other, declared):
    """Holds a conversation with both brokers, more than once when they differ."""
    mine, theirs = [rabbitmq()], [other()]
    asked = 1
    while unexplained(name, mine, theirs, declared) and asked <= ASK_AGAIN:
        asked += 1
        for answers, ask in ((mine, rabbitmq), (theirs, other)):
            if (answer := ask()) not in answers:
                answers.append(answer)
    wrong = unexplained(name, mine, theirs, declared)
    wanted, unwanted = min(
        (differences(name, known, (wrong or theirs)[0], declared) for known in mine), key=lambda found: len(found[1])
    )
    outcome = Outcome(mine[0], wanted)
    if wrong:
        outcome.undeclared = max(1, len(unwanted))
        outcome.report = _report(name, unwanted, mine + wrong)
    for who, answers in (("RabbitMQ", mine), ("the other broker", theirs)):
        if len(answers) > 1:
            outcome.report.append(f"{name}: {who} answers in {len(answers)} ways, asked {asked} times")
    return outcome


def unexplained(name, mine, theirs, declared):
    """Those answers of the other broker that are none of RabbitMQ's, declared differences aside."""
    return [
        answer
        for answer in theirs
        if not _whole([answer]) or not any(not differences(name, known, answer, declared)[1] for known in _whole(mine))
    ]


def differences(name, mine, theirs, declared):
    """How many differences between two transcripts are declared, and the others as pairs of joined lines."""
    wanted, unwanted = 0, []
    matcher = difflib.SequenceMatcher(None, mine, theirs, autojunk=False)
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag == "equal":
            continue
        hunk = "\n".join(mine[a:b]), "\n".join(theirs[c:d])
        if any(_covers(entry, name, *hunk) for entry in declared):
            wanted += 1
        else:
            unwanted.append(hunk)
    return wanted, unwanted


def _covers(entry, name, mine, theirs):
    expected = (entry["conversation"], name), (entry["rabbitmq"], mine), (entry["other"], theirs)
    return all(re.fullmatch(expression, text, re.DOTALL) for expression, text in expected)


def _whole(answers):
    """The transcripts whose script ran to its end."""
    return [lines for lines in answers if not any(SCRIPT_FAILED in line for line in lines)]


def _report(name, hunks, shown):
    report = []
    for mine, theirs in hunks:
        report += [f"{name}:"]
        report += [f"    - {line}" for line in mine.splitlines()]
        report += [f"    + {line}" for line in theirs.splitlines()]
    for failure in (line for lines in shown for line in lines if SCRIPT_FAILED in line):
        report += [f"{name}: its script failed", f"    {failure}"]
    return report
