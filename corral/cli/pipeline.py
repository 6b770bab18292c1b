"""`corral pipeline`: run, submit, show. A file becomes a graph of tasks, and the graph a report.

What the file may say and what the report shows is `corral.research`'s; it is imported when a
command runs, so that the command line stands beside it and does not wait for it.
"""

from __future__ import annotations

import contextlib
import importlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from corral.cli.options import broker_options, connect, connected, printed
from corral.cli.output import Output, console, counted, line, table, talk
from corral.cli.root import Noun

if TYPE_CHECKING:
    from rich.tree import Tree

    from corral.client import Client, Handle, Outcome
    from corral.messages import TaskView

SHOWN_ROWS = 15  # of the leaderboard
SHOWN_FAILURES = 10


def _complete(_: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """The pipelines that come with Corral, or files."""
    shipped = importlib.import_module("corral.research.pipeline").shipped()
    names = [CompletionItem(name) for name in shipped if name.startswith(begun)]
    return names or [CompletionItem(begun, type="file")]


@click.group(cls=Noun)
def pipeline() -> None:
    """Run a graph of research tasks from a file.

    FILE is a YAML file, or the name of a pipeline that comes with Corral, such as `demo`.
    """


@pipeline.command()
@click.argument("source", metavar="FILE", shell_complete=_complete)
@click.option("--local", is_flag=True, help="Start a private broker and two workers for this run.")
@click.option(
    "--data", type=click.Path(path_type=Path), default=Path(".corral"), show_default=True,
    help="Their folder; a second run finds the results of the first.",
)  # fmt: skip
@click.option(
    "--report", type=click.Path(path_type=Path),
    help="Where the report goes. Default: report.html, in --data when --local.",
)  # fmt: skip
@broker_options
def run(
    source: str,
    local: bool,
    data: Path,
    report: Path | None,
    broker: str | None,
    key: str | None,
) -> int:
    """Submit a pipeline, follow it, show the leaderboard, and write its report.

    Work that was done before is not done again. Ends with 1 when a task did not succeed.
    """
    from corral.cli.root import DETACHED

    pipelines = importlib.import_module("corral.research.pipeline")
    graph = pipelines.load(source)
    with importlib.import_module("corral.research.datasets").research_extra():
        importlib.import_module("jinja2")  # for the report: better missed now than in the end
    path = report or (data if local else Path()) / "report.html"
    try:
        with _client(local, data, broker, key) as client:
            return _run(client, source, graph, path, alone=local)
    except KeyboardInterrupt:
        if local:
            talk("", "Stopped; what was done is kept. Type the same command to go on.")
        else:
            talk("", f"Detached; {graph.name} goes on. Come back: corral pipeline run {source}")
        return DETACHED


@pipeline.command()
@click.argument("source", metavar="FILE", shell_complete=_complete)
@connected
def submit(client: Client, out: Output, source: str) -> int:
    """Submit a pipeline and leave. Prints the ids of its tasks."""
    from corral.cli.follow import NOTHING_RUNS_IT, print_submitted, warn

    pipelines = importlib.import_module("corral.research.pipeline")
    graph = pipelines.load(source)
    handles = client.submit_many(pipelines.submission(graph), batch=None)
    warned = warn(handles)
    print_submitted(out, handles, one=False)
    talk(f"Follow it to its report: corral pipeline run {source}")
    return NOTHING_RUNS_IT if warned else 0


@pipeline.command()
@click.argument("source", metavar="FILE", shell_complete=_complete)
@printed
def show(out: Output, source: str) -> None:
    """Show the graph that a pipeline becomes, and how many tasks of each kind. Asks no broker."""
    pipelines = importlib.import_module("corral.research.pipeline")
    graph = pipelines.load(source)
    planned = pipelines.expand(graph)
    if not out.for_people:
        out.listing(planned, {}, lambda one: str(one.name))
        return
    counts = Counter(one.kind for one in planned)
    told = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    console().print(_tree(f"{graph.name}: {counted(len(planned), 'task')}: {told}", planned))


def _tree(title: str, planned: Sequence[Any]) -> Tree:
    """Tasks by the parts of their names; those that end at one place stand on one line."""
    from rich.tree import Tree

    tree = Tree(line(title))
    places = {"": tree}
    leaves: dict[str, list[str]] = {}
    for one in planned:
        *path, leaf = one.name.split("/")
        for depth in range(len(path)):
            place = "/".join(path[: depth + 1])
            if place not in places:
                places[place] = places["/".join(path[:depth])].add("")
        leaves.setdefault("/".join(path), []).append(leaf)
    for place, branch in places.items():
        ends = "".join(f"  {leaf}" for leaf in leaves.get(place, ()))
        branch.label = line(place.rpartition("/")[2] or title, (ends, "dim"))
    return tree


@contextlib.contextmanager
def _client(local: bool, data: Path, broker: str | None, key: str | None) -> Iterator[Client]:
    """A client of the configured broker, or of a private one for the length of the run."""
    if not local:
        with connect(broker, key) as client:
            yield client
        return
    from corral.cli.processes import LocalFleet, free_endpoint

    talk("starting a private broker and two workers ...")
    with LocalFleet(data, free_endpoint()) as fleet, connect(fleet.endpoint, "") as client:
        fleet.start_gateway("127.0.0.1:0", needed=False)
        if fleet.gateway:
            talk(f"see it live, while it runs: {fleet.gateway}/")
        yield client


def _run(client: Client, source: str, graph: Any, path: Path, alone: bool) -> int:
    """Submit, follow, report; returns the exit status. `alone`: no other worker will come."""
    from corral.cli.board import follow
    from corral.cli.follow import NOTHING_RUNS_IT, warn
    from corral.tasks import State

    pipelines = importlib.import_module("corral.research.pipeline")
    planned = pipelines.expand(graph)
    began = time.monotonic()
    handles = client.submit_many(pipelines.submission(graph), batch=None)
    reused = sum(handle.known for handle in handles)
    talk(f"{graph.name}: {counted(len(handles), 'task')} submitted, {reused} of them known already")
    if warn(handles) and alone:
        return NOTHING_RUNS_IT
    follow(client, [handle.id for handle in handles], [one.name for one in planned])
    outcomes = {handle.id: outcome for handle, outcome in client.results(handles)}
    views = client.show([handle.id for handle in handles])
    seconds = time.monotonic() - began
    _report(source, graph, planned, handles, outcomes, views, path)
    counts = Counter(view.state.value for view in views)
    told = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    talk(f"{told} in {seconds:.1f} s, {reused} reused; report: {path}")
    failed = [view for view in views if view.state is not State.SUCCEEDED]
    for view in failed[:SHOWN_FAILURES]:
        why = f": {view.failure.message}" if view.failure else ""
        talk(f"{view.state.value} {view.name}{why}")
        talk(f"  corral task show {view.id}")
    return 1 if failed else 0


def _report(
    source: str,
    graph: Any,
    planned: Sequence[Any],
    handles: Sequence[Handle],
    outcomes: dict[str, Outcome],
    views: Sequence[TaskView],
    path: Path,
) -> None:
    """Print the leaderboard and write the page."""
    reports = importlib.import_module("corral.research.report")
    results = []
    for one, handle in zip(planned, handles, strict=True):
        outcome = outcomes[handle.id]
        results.append(
            reports.Outcome(
                name=one.name,
                kind=one.kind,
                state=outcome.state.value,
                result=outcome.value,
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
    _print_leaderboard(reports.leaderboard(results))
    pipelines = importlib.import_module("corral.research.pipeline")
    text = pipelines.shipped().get(source, Path(source)).read_text(encoding="utf-8")
    generated = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    path.parent.mkdir(parents=True, exist_ok=True)
    page = reports.render_report(graph.name, results, spans, text, generated)
    path.write_text(page, encoding="utf-8")


def _print_leaderboard(rows: Sequence[Any]) -> None:
    """The best backtests, as a table on stdout."""

    def column(name: str) -> Any:
        def cell(row: Any) -> str:
            value = getattr(row, name)
            return f"{value:7.3f}" if isinstance(value, float) else str(value)

        return cell

    names = ("place", "symbol", "target", "family", "score", "baseline", "sharpe", "hold_sharpe")
    columns = {name.replace("_", " "): column(name) for name in names}
    title = "Leaderboard: by Sharpe ratio above that of holding, after costs and out of sample"
    console().print(table(rows[:SHOWN_ROWS], columns, title))
    if len(rows) > SHOWN_ROWS:
        talk(f"The best {SHOWN_ROWS} of {len(rows)}; the report has all.")
