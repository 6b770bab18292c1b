"""Waiting at a terminal: for results, and for whatever happens to tasks.

Progress goes to stderr, and only where a person looks. Ctrl-C lets go and says how to come back; it
never cancels.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from corral.cli.output import Output, talk, visible
from corral.cli.root import DETACHED, tell
from corral.client.pending import shown_as_update
from corral.errors import CorralError, TaskCancelled, TaskFailed
from corral.messages import ResultView, SubmittedView
from corral.tasks import TERMINAL, Failure, State

if TYPE_CHECKING:
    from corral.client import Client, Handle
    from corral.client.handles import Outcome
    from corral.messages import Update

NOTHING_RUNS_IT = 6  # exit status: accepted, but no worker that is there can run it
SHOWN_FAILURES = 5
LAST_LINES = 6  # of a traceback
#: setting of a task -> what the command line calls it
OPTIONS = {"retry": "retries", "run_limit": "time limit", "queue_limit": "queue limit"}
LOOK, LONGEST_LOOK = 2.0, 30.0  # seconds between looks at what a task waits for; each doubles it
LINE_EVERY = 2.0  # seconds between two lines of a task's progress


def print_submitted(out: Output, handles: Sequence[Handle], one: bool) -> None:
    """The ids of what was accepted."""
    told = [
        SubmittedView(id=one.id, known=one.known, warnings=one.warnings, kept=one.kept)
        for one in handles
    ]
    if one:
        out.one(told[0], lambda item: item.id, lambda item: item.id)
    elif out.for_people:
        Output("name").listing(told, {}, lambda item: item.id)
    else:
        out.listing(told, {}, lambda item: item.id)
    known = [one.id for one in handles if one.known]
    if known:
        were = "was" if len(known) == 1 else f"and {len(known) - 1} more were"
        talk(f"{known[0]} {were} there already; what is the same is not done twice")


def warn(handles: Sequence[Handle]) -> bool:
    """Say what else became of what was accepted; whether some of it cannot run at present."""
    keepers: dict[tuple[str, ...], list[str]] = {}
    for handle in handles:
        if handle.kept:
            keepers.setdefault(handle.kept, []).append(handle.id)
    for kept, ids in keepers.items():
        settings = ", ".join(OPTIONS.get(setting, setting) for setting in kept)
        rest = f" (and {len(ids) - 1} more)" if len(ids) > 1 else ""
        talk(f"warning: {ids[0]}{rest} is there already and keeps its own {settings}")
        talk(
            f"  To change that: corral task cancel {ids[0]}, and submit again; or give another --id"
        )
    about = {warning: handle.id for handle in reversed(handles) for warning in handle.warnings}
    for warning, id in reversed(about.items()):
        talk(f"warning: {warning}")
        talk(f"  It is accepted and starts when it can: corral task explain {id}")
    return bool(about)


def wait_for(
    client: Client, out: Output, handles: Sequence[Handle], timeout: float | None, one: bool
) -> int:
    """Wait for tasks and print what they returned; the exit status tells how they ended.

    Raises:
        TimedOut: some go on.
    """
    ended: dict[str, Outcome] = {}
    distinct = list({handle.id: handle for handle in handles}.values())
    warned = {warning for handle in distinct for warning in handle.warnings}

    def first_open() -> str | None:
        return next((handle.id for handle in distinct if handle.id not in ended), None)

    try:
        with (
            _bar(len(distinct)) as bar,
            _progress_of(client, distinct, bar),
            _obstacles_told(client, first_open, warned),
        ):
            for handle, outcome in client.results(distinct, timeout):
                ended[handle.id] = outcome
                bar.advance()
    except KeyboardInterrupt:
        return detached([handle.id for handle in distinct if handle.id not in ended])
    told = [
        ResultView(id=outcome.id, state=outcome.state, value=outcome.value, failure=outcome.failure)
        for outcome in (ended[handle.id] for handle in handles)
    ]
    if not out.for_people:
        if one:
            out.one(told[0], str, lambda item: item.id)
        else:
            out.listing(told, {}, lambda item: item.id)
    else:
        for item in told:
            if item.state is State.SUCCEEDED:
                out.value(item.value)
    return tell_failures(ended.values())


def tell_failures(outcomes: Any) -> int:
    """Say on stderr what did not succeed, and why; returns the exit status."""
    errors: list[tuple[CorralError, Failure | None]] = []
    for outcome in outcomes:
        try:
            outcome.result()
        except (TaskFailed, TaskCancelled) as error:
            errors.append((error, outcome.failure))
    for told, failure in errors[:SHOWN_FAILURES]:
        if failure is not None and failure.traceback:
            talk(*failure.traceback.rstrip().split("\n")[-LAST_LINES:])
        tell(told)
    if len(errors) > SHOWN_FAILURES:
        talk(f"... and {len(errors) - SHOWN_FAILURES} more did not succeed")
    return min((told.exit_status for told, _ in errors), default=0)


def detached(ids: Sequence[str]) -> int:
    """What Ctrl-C comes to: the tasks go on, and this is how to come back."""
    rest = f" and {len(ids) - 1} more" if len(ids) > 1 else ""
    talk("")
    if ids:
        talk(f"Detached; {ids[0]}{rest} goes on. Come back: corral task watch {ids[0]}")
    return DETACHED


# --- a bar where a person looks ---------------------------------------------------------


class Bar(Protocol):
    """Progress of a wait."""

    def advance(self) -> None:
        """One more is done."""

    def show(self, fraction: float, note: str) -> None:
        """How far a single task is."""


class _NoBar:
    def advance(self) -> None:
        pass

    def show(self, fraction: float, note: str) -> None:
        pass


class _RichBar:
    def __init__(self, progress: Any, total: int) -> None:
        self._progress = progress
        self._total = total
        self._task = progress.add_task("waiting", total=total)

    def advance(self) -> None:
        self._progress.advance(self._task)

    def show(self, fraction: float, note: str) -> None:
        self._progress.update(
            self._task, completed=fraction * self._total, description=visible(note)
        )


@contextlib.contextmanager
def _bar(total: int) -> Iterator[Bar]:
    if not sys.stderr.isatty():
        yield _NoBar()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    done = [MofNCompleteColumn()] if total > 1 else []
    columns = [
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        *done,
        TimeElapsedColumn(),
    ]
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield _RichBar(progress, total)


@contextlib.contextmanager
def _progress_of(client: Client, handles: Sequence[Handle], bar: Bar) -> Iterator[None]:
    """Let a bar that stands for one task move with it."""
    if len(handles) != 1 or isinstance(bar, _NoBar):
        yield
        return

    def move() -> None:
        with contextlib.suppress(CorralError):
            for update in client.watch_task(handles[0].id):
                bar.show(update.progress or 0.0, _note(update))

    thread = threading.Thread(target=move, daemon=True)
    thread.start()
    yield


def _note(update: Update) -> str:
    metrics = "  ".join(f"{name} {value:.4g}" for name, value in update.metrics.items())
    state = update.state.value if update.state else "running"
    where = f" on {update.worker}" if update.worker else ""
    return metrics or f"{state}{where}"


@contextlib.contextmanager
def _obstacles_told(
    client: Client, first_open: Callable[[], str | None], told: set[str] | frozenset[str]
) -> Iterator[None]:
    """Meanwhile, say why nothing that is there can run the first task that is waited for.

    At once, unless it was `told` before, and again whenever the reason is another.
    """
    over = threading.Event()

    def look() -> None:
        last = ""
        pause = 0.0
        while not over.wait(pause) and (id := first_open()) is not None:
            pause = min(max(LOOK, 2 * pause), LONGEST_LOOK)
            explanation = client.explain(id)
            blocked = explanation.blocked
            if over.is_set() or blocked == last:
                continue
            if blocked and (last or blocked not in told):
                talk(f"waiting: {blocked}")
                talk(f"  {explanation.summary} More: corral task explain {id}")
            elif last and not blocked:
                talk(f"{id} waits no longer for that; it can run now")
            last = blocked

    def look_until_over() -> None:
        with contextlib.suppress(CorralError):
            look()

    threading.Thread(target=look_until_over, daemon=True).start()
    try:
        yield
    finally:
        over.set()


# --- watch ------------------------------------------------------------------------------


def watch(client: Client, out: Output, ids: Sequence[str], since: int | None) -> int:
    """Print updates until all these tasks have ended; of everything when none is named."""
    views = client.show(list(ids)) if ids else []
    states = {view.id: view.state for view in views}
    for view in views:
        if view.state in TERMINAL:
            _print(out, shown_as_update(view))
    open_ = [id for id, state in states.items() if state not in TERMINAL]

    def first_open() -> str | None:
        return next((id for id in open_ if states[id] not in TERMINAL), None)

    try:
        with _obstacles_told(client, first_open, frozenset()):
            updates = client.watch(open_, since) if open_ or not ids else iter(())
            for update in calmed(updates) if out.for_people else updates:
                _print(out, update)
                if update.state is not None and update.id in states:
                    states[update.id] = update.state
                    if all(state in TERMINAL for state in states.values()):
                        break
    except KeyboardInterrupt:
        return detached([id for id, state in states.items() if state not in TERMINAL])
    bad = [state for state in states.values() if state is not State.SUCCEEDED]
    if not bad:
        return 0
    only_cancelled = all(state is State.CANCELLED for state in bad)
    return TaskCancelled.exit_status if only_cancelled else TaskFailed.exit_status


def calmed(updates: Iterable[Update]) -> Iterator[Update]:
    """Every change of state; of progress no more than a person reads, by the broker's clock."""
    told: dict[str, float] = {}
    for update in updates:
        if update.state is None and 0 <= update.at - told.get(update.id, -LINE_EVERY) < LINE_EVERY:
            continue
        told[update.id] = update.at
        if update.state in TERMINAL:
            del told[update.id]
        yield update


def _print(out: Output, update: Update) -> None:
    if out.format in ("json", "jsonl"):
        Output("jsonl").listing([update], {}, str)
    elif out.format == "name":
        sys.stdout.write(f"{update.id}\n")
    else:
        from corral.cli.views import MARKS, clock

        state = update.state.value if update.state else "running"
        parts = [
            clock(update.at),
            update.id,
            f"{MARKS[state][0]} {state:<9}",
            f"{update.progress:4.0%}" if update.cause == "progress" and update.progress else "",
            f"on {update.worker}" if update.worker else "",
            "  ".join(f"{name} {value:.4g}" for name, value in update.metrics.items()),
            update.why,
        ]
        sys.stdout.write("  ".join(visible(part) for part in parts if part) + "\n")
    sys.stdout.flush()
