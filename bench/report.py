"""A run as its reader wants it: tables for the terminal and the docs, JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from statistics import median

import msgspec

from bench.bounds import Bound, judged
from bench.figures import FIGURES
from bench.peers import PEERS
from bench.results import Round, Run

Rows = Sequence[Sequence[str]]
NONE = "-"


def tables(run: Run) -> str:
    """Returns all tables of a run, in Markdown that also reads well on a terminal."""
    parts = [QUICK] if run.quick else []
    if run.peers:
        parts += ["## Peers", _table(PEER_HEAD, [_peer(run, name) for name in run.peers])]
        parts += [
            "How each one was tuned:",
            "\n".join(f"- {PEERS[name].title}: {PEERS[name].tuning}." for name in run.peers),
        ]
    if run.figures:
        rows = [[FIGURES[name], _numbers(numbers)] for name, numbers in run.figures.items()]
        parts += ["## Corral alone", _table(["measurement", "numbers"], rows)]
    parts += ["## Bounds", _table(BOUND_HEAD, _bounds(run))]
    for name, shares in run.profiles.items():
        rows = [[share.function, f"{share.itself:.1%}", f"{share.total:.1%}"] for share in shares]
        parts += [f"## Where the time went: {name}", _table(PROFILE_HEAD, rows)]
    return "\n\n".join(parts)


PEER_HEAD = (
    "peer", "keeps tasks", "tasks/s median (min-max)", "x plain", "x best durable",
    "p50 us", "p99 us", "CPU us/task: broker", "client", "workers",
)  # fmt: skip
PROFILE_HEAD = ("function of the broker", "itself", "with what it calls")
BOUND_HEAD = ("bound", "goal", "measured", "of the goal", "verdict")


def _peer(run: Run, name: str) -> list[str]:
    rates = run.series(name, "tasks_per_s")
    return [
        PEERS[name].title,
        PEERS[name].keeps,
        f"{median(rates):,.0f} ({min(rates):,.0f}-{max(rates):,.0f})",
        _median(run.ratios(name, "plain", "tasks_per_s"), ".3f"),
        _median(run.over_best_durable(name), ".2f"),
        _median(run.series(name, "p50_us"), ",.0f"),
        _median(run.series(name, "p99_us"), ",.0f"),
        _median(run.series(name, "broker_cpu_us"), ",.1f"),
        _median(run.series(name, "client_cpu_us"), ",.1f"),
        _median(run.series(name, "workers_cpu_us"), ",.1f"),
    ]


def _median(series: list[float], form: str) -> str:
    return format(median(series), form) if series else NONE


def _numbers(numbers: Round) -> str:
    return "; ".join(f"{name.replace('_', ' ')} {value:,.5g}" for name, value in numbers.items())


def _bounds(run: Run) -> Rows:
    return [
        [
            verdict.bound.what,
            f"{_sense(verdict.bound)} {verdict.bound.goal:g} {verdict.bound.unit}".rstrip(),
            f"{verdict.value:,.4g} {verdict.bound.unit}".rstrip(),
            f"{verdict.ratio:.2f}",
            verdict.word,
        ]
        for verdict in judged(run)
    ]


def _sense(bound: Bound) -> str:
    return "at least" if bound.at_least else "at most"


def _table(head: Sequence[str], rows: Rows) -> str:
    lines = [list(head), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([padded[0], rule, *padded[1:]])


def as_json(run: Run) -> str:
    """Returns the run by round, with its verdicts."""
    verdicts = [
        {
            "what": verdict.bound.what,
            "unit": verdict.bound.unit,
            "sense": _sense(verdict.bound),
            "goal": verdict.bound.goal,
            "floor": verdict.bound.floor,
            "value": verdict.value,
            "ratio": verdict.ratio,
            "verdict": verdict.word,
        }
        for verdict in judged(run)
    ]
    return msgspec.json.format(msgspec.json.encode(asdict(run) | {"bounds": verdicts})).decode()


def facts(run: Run) -> str:
    """Returns on what machine and by which command the run was made."""
    lines = [f"- {name.replace('_', ' ')}: {value}" for name, value in run.machine.items()]
    return "\n".join([f"`{run.command}`, {run.started}", "", *lines])


def page(run: Run) -> str:
    """Returns the page of the docs."""
    return "\n\n".join([INTRODUCTION, facts(run), tables(run)]) + "\n"


QUICK = "A quick look: one round and a fifth of the work. No result, and no ground for a verdict."
INTRODUCTION = """\
# Benchmarks

Written by `bash bench/run.sh --write`; do not edit. `make bench` measures the same on your machine.

A task takes and returns 256 random bytes. One client process submits all tasks and collects all
results; two workers of one slot run them. Every returned byte is compared with what was sent,
inside the measured time. Each round goes through all peers in turn, every measurement in fresh
processes with a fresh store; the figure is the median of the rounds, with the smallest and the
largest. Ratios are taken within a round, so that what disturbs the machine disturbs both sides.
Round trips are one task at a time. CPU is user and system time of all threads, by /proc; Redis is
its peers' broker.

*fsync before the answer* means that a task, and its result, is on stable storage before anybody is
told: Redis runs with `appendonly yes` and `appendfsync always`, Corral always does so. *In memory*
means that a crash loses everything: Dask is there for comparison, and the plain pyzmq broker, which
has no logic at all, to show what the sockets alone allow."""
