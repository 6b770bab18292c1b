"""`corral pipeline run|submit|show`: a file becomes a graph of tasks, and the graph a report.

What the file may say and what the report shows is `corral.research`'s; it is imported when a
command runs, so that help stays quick.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from corral.cli.processes import LocalFleet, free_endpoint
from corral.client import Client
from corral.client.handles import Handle
from corral.messages import TaskView
from corral.tasks import TERMINAL, State, Task

REDRAW = 0.1  # seconds between two pictures of the tree


def tasks_of(planned: Sequence[Any], project: str) -> list[Task]:
    """Planned tasks as one submission; parents by their place in it."""
    place = {one.name: index for index, one in enumerate(planned)}
    return [
        Task(
            kind=one.kind,
            params=one.params,
            after={alias: f"#{place[parent]}" for alias, parent in one.after.items()},
            needs=one.needs,
            project=project,
            name=one.name,
        )
        for one in planned
    ]


@contextlib.contextmanager
def broker_for(local: bool, data: Path, endpoint: str | None) -> Iterator[str | None]:
    """The endpoint to use: the configured one, or a private broker's for the length of the run."""
    if not local:
        yield endpoint
        return
    click.echo("starting a private broker and two workers ...", err=True)
    with LocalFleet(data, free_endpoint()) as fleet:
        yield fleet.endpoint


def run(
    source: str, local: bool, data: Path, report: Path, endpoint: str | None, key: str | None
) -> int:
    """Submit a pipeline, follow it, and write its report. Returns the exit status."""
    pipelines = importlib.import_module("corral.research.pipeline")
    pipeline = pipelines.load(source)
    planned = pipelines.expand(pipeline)
    began = time.monotonic()
    with broker_for(local, data, endpoint) as address, Client(address, key=key) as client:
        tasks = tasks_of(planned, pipeline.name)
        handles = client.submit_many(tasks, batch=len(tasks))
        reused = sum(handle.known for handle in handles)
        click.echo(
            f"{pipeline.name}: {len(tasks)} tasks submitted, {reused} of them known already", err=True
        )
        follow(client, handles, [one.name for one in planned])
        outcomes = {handle.id: outcome for handle, outcome in client.results(handles)}
        views = client.show([handle.id for handle in handles])
    seconds = time.monotonic() - began
    _write_report(pipelines, source, pipeline, planned, handles, outcomes, views, report)
    counts = Counter(view.state.value for view in views)
    told = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    click.echo(f"{told} in {seconds:.1f} s, {reused} reused; report: {report}", err=True)
    failed = [view for view in views if view.state is not State.SUCCEEDED]
    for view in failed[:10]:
        why = view.failure.message if view.failure else ""
        click.echo(f"{view.state} {view.name} ({view.id}): {why}", err=True)
        click.echo(f"  corral task explain {view.id}", err=True)
    return 1 if failed else 0


def _write_report(
    pipelines: Any,
    source: str,
    pipeline: Any,
    planned: Sequence[Any],
    handles: Sequence[Handle],
    outcomes: dict[str, Any],
    views: Sequence[TaskView],
    path: Path,
) -> None:
    reports = importlib.import_module("corral.research.report")
    results = []
    for one, handle in zip(planned, handles, strict=True):
        outcome = outcomes[handle.id]
        ok = outcome.state is State.SUCCEEDED
        results.append(
            reports.Outcome(
                name=one.name,
                kind=one.kind,
                state=outcome.state.value,
                result=outcome.value if ok else None,
                why=outcome.failure.message if outcome.failure else "",
            )
        )
    spans = [
        reports.Span(
            task=view.id,
            kind=view.kind,
            name=view.name,
            worker=attempt.worker,
            started=attempt.started,
            finished=attempt.ended,
            state=view.state.value,
        )
        for view in views
        for attempt in view.attempts
        if attempt.ended is not None
    ]
    print_leaderboard(reports.leaderboard(results))
    known = pipelines.shipped().get(source)
    text = (known or Path(source)).read_text()
    generated = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(reports.render_report(pipeline.name, results, spans, text, generated))


def print_leaderboard(rows: Sequence[Any], most: int = 15) -> None:
    """The best backtests, as a table on stdout."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="leaderboard: Sharpe after costs, out of sample")
    columns = ("symbol", "target", "family", "score", "baseline", "sharpe", "hold_sharpe")
    table.add_column("place", justify="right")
    for column in columns:
        table.add_column(column, justify="left" if column in columns[:3] else "right")
    for row in rows[:most]:
        cells = [getattr(row, column) for column in columns]
        table.add_row(
            str(row.place), *(f"{c:.3f}" if isinstance(c, float) else str(c) for c in cells)
        )
    Console().print(table)


# --- following ---------------------------------------------------------------------------


class Board:
    """What is known of every task of one pipeline, and its picture."""

    def __init__(self, ids: Sequence[str], names: Sequence[str]) -> None:
        self.names = dict(zip(ids, names, strict=True))
        self.states: dict[str, State] = {}
        self.progress: dict[str, float] = {}
        self.workers: dict[str, str] = {}

    def take(self, update: Any) -> bool:
        """Take an update in; True when the task has just ended."""
        if update.progress is not None:
            self.progress[update.id] = update.progress
        if update.worker:
            self.workers[update.id] = update.worker
        if update.state is None:
            return False
        before = self.states.get(update.id)
        self.states[update.id] = update.state
        return update.state in TERMINAL and before not in TERMINAL

    @property
    def done(self) -> int:
        """How many have ended."""
        return sum(state in TERMINAL for state in self.states.values())

    def tree(self) -> Any:
        """A branch for each part of the names, with counts; running tasks with their progress."""
        from rich.tree import Tree

        total = len(self.names)
        root = Tree(f"[bold]{self.done} of {total} tasks done")
        groups: dict[str, list[str]] = {}
        for id, name in self.names.items():
            groups.setdefault(name.split("/")[0], []).append(id)
        for group, ids in groups.items():
            states = Counter(self.states.get(id, State.WAITING) for id in ids)
            ended = sum(count for state, count in states.items() if state in TERMINAL)
            bad = sum(states[s] for s in TERMINAL) - states[State.SUCCEEDED]
            bar = _bar(ended / len(ids))
            note = f" [red]{bad} not succeeded[/]" if bad else ""
            branch = root.add(f"{group:<6} {bar} {ended}/{len(ids)}{note}")
            for id in ids:
                if self.states.get(id) is State.RUNNING:
                    share = _bar(self.progress.get(id, 0.0), 10)
                    name = self.names[id].partition("/")[2]
                    branch.add(f"{share} {name} [dim]on {self.workers.get(id, '')}")
        return root


def _bar(share: float, width: int = 20) -> str:
    full = round(share * width)
    return f"[green]{'━' * full}[/][dim]{'━' * (width - full)}[/]"


def follow(client: Client, handles: Sequence[Handle], names: Sequence[str]) -> None:
    """Show the tasks until all have ended: a live tree on a terminal, lines elsewhere."""
    board = Board([handle.id for handle in handles], names)
    ids = list(board.names)
    if sys.stderr.isatty():
        _follow_live(client, ids, board)
    else:
        _follow_lines(client, ids, board)


def _follow_live(client: Client, ids: list[str], board: Board) -> None:
    from rich.console import Console
    from rich.live import Live

    drawn = 0.0
    with Live(board.tree(), console=Console(stderr=True), auto_refresh=False) as live:
        for update in client.watch(ids):
            board.take(update)
            finished = board.done == len(board.names)
            if finished or time.monotonic() - drawn > REDRAW:
                drawn = time.monotonic()
                live.update(board.tree(), refresh=True)
            if finished:
                return


def _follow_lines(client: Client, ids: list[str], board: Board) -> None:
    total = len(board.names)
    told = 0
    for update in client.watch(ids):
        if board.take(update):
            done = board.done
            if update.state is not State.SUCCEEDED or done * 10 // total > told:
                told = done * 10 // total
                name = board.names[update.id]
                click.echo(f"{done}/{total} {update.state} {name}", err=True)
        if board.done == total:
            return
