"""The tasks of one pipeline while they run: a live tree on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.tree import Tree

from corral.cli.output import line, talk
from corral.client.pending import shown_as_update
from corral.tasks import TERMINAL, State

if TYPE_CHECKING:
    from corral.client import Client
    from corral.messages import Update

REDRAW = 0.1  # seconds between two pictures of the tree
LINES = 10  # at most so many lines of progress off a terminal, failures apart


class Board:
    """What is known of every task of one pipeline, and its picture."""

    def __init__(self, ids: Sequence[str], names: Sequence[str]) -> None:
        self.names = dict(zip(ids, names, strict=True))
        self.states: dict[str, State] = {}
        self.progress: dict[str, float] = {}
        self.workers: dict[str, str] = {}

    def take(self, update: Update) -> bool:
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

    @property
    def finished(self) -> bool:
        """Whether all have."""
        return self.done == len(self.names)

    def tree(self) -> Tree:
        """A branch for each part of the names, with counts; running tasks with their progress."""
        root = Tree(line((f"{self.done} of {len(self.names)} tasks done", "bold")))
        groups: dict[str, list[str]] = {}
        for id, name in self.names.items():
            groups.setdefault(name.split("/")[0], []).append(id)
        for group, ids in groups.items():
            states = Counter(self.states.get(id, State.WAITING) for id in ids)
            ended = sum(count for state, count in states.items() if state in TERMINAL)
            bad = ended - states[State.SUCCEEDED]
            note = f" {bad} not succeeded" if bad else ""
            bar = _bar(ended / len(ids))
            branch = root.add(line(f"{group:<6} ", *bar, f" {ended}/{len(ids)}", (note, "red")))
            for id in ids:
                if self.states.get(id) is State.RUNNING:
                    bar = _bar(self.progress.get(id, 0.0), 10)
                    name = self.names[id].partition("/")[2] or self.names[id]
                    where = f"on {self.workers.get(id, '')}"
                    branch.add(line(*bar, f" {name} ", (where, "dim")))
        return root


def _bar(share: float, width: int = 20) -> tuple[tuple[str, str], tuple[str, str]]:
    full = round(share * width)
    return ("━" * full, "green"), ("━" * (width - full), "dim")


def follow(client: Client, ids: Sequence[str], names: Sequence[str]) -> None:
    """Show the tasks until all have ended."""
    board = Board(ids, names)
    distinct = list(board.names)
    for view in client.show(distinct):
        board.take(shown_as_update(view))
    if not board.finished:
        (_live if sys.stderr.isatty() else _lines)(client.watch(distinct), board)


def _live(updates: Iterator[Update], board: Board) -> None:
    drawn = 0.0
    with Live(board.tree(), console=Console(stderr=True), auto_refresh=False) as live:
        for update in updates:
            board.take(update)
            if board.finished or time.monotonic() - drawn > REDRAW:
                drawn = time.monotonic()
                live.update(board.tree(), refresh=True)
            if board.finished:
                return


def _lines(updates: Iterator[Update], board: Board) -> None:
    total, told = len(board.names), board.done * LINES // len(board.names)
    for update in updates:
        if board.take(update) and update.state is not None:
            reached = board.done * LINES // total
            if reached > told or update.state is not State.SUCCEEDED:
                told = reached
                talk(f"{board.done}/{total} {update.state.value} {board.names[update.id]}")
        if board.finished:
            return
