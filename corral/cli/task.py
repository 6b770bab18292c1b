"""`corral task`: submit, list, show, explain, watch, logs, result, cancel, retry."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from corral.cli.options import (
    DURATION,
    GIB,
    MAYBE_PAIR,
    PAIR,
    complete_kind,
    complete_task,
    connected,
)
from corral.cli.output import Output, counted, talk
from corral.cli.root import Noun

if TYPE_CHECKING:
    from corral.client import Client
    from corral.messages import TaskView
    from corral.tasks import Needs

STATES = (
    "waiting", "queued", "running", "retrying",
    "succeeded", "failed", "cancelled", "aborted", "expired",
)  # fmt: skip
ALL = 1_000_000_000  # a limit that limits nothing

ids = click.argument("ids", nargs=-1, shell_complete=complete_task)
id_ = click.argument("id", shell_complete=complete_task)


@click.group(cls=Noun)
def task() -> None:
    """Submit tasks, and see what becomes of them.

    An ID may be cut to a unique prefix, or be `last` for the newest task.
    """


# --- submit -----------------------------------------------------------------------------


@task.command()
@click.argument("kind", required=False, shell_complete=complete_kind)
@click.argument("params", nargs=-1, type=PAIR, metavar="[KEY=VALUE]...")
@click.option(
    "--file", type=click.File("rb"), help="One task as a JSON object per line; - is stdin."
)
@click.option("--gpus", type=click.IntRange(0), help="Whole GPUs.")
@click.option("--cpus", type=click.FloatRange(0), help="Cores.")
@click.option("--memory", type=GIB, metavar="8GB", help="Main memory; enforced.")
@click.option("--gpu-memory", type=GIB, metavar="8GB", help="Memory of each GPU.")
@click.option("--resource", type=PAIR, multiple=True, help="A resource counted fleet-wide.")
@click.option("--label", type=PAIR, multiple=True, help="A label that the worker must carry.")
@click.option("--force-gpu", is_flag=True, help="One GPU and nothing else will do.")
@click.option("--prefer-gpu", is_flag=True, help="One GPU if one is free in time, else none.")
@click.option(
    "--after", type=MAYBE_PAIR, multiple=True, metavar="[NAME=]ID", shell_complete=complete_task,
    help="Run after this task; the handler finds its result as NAME.",
)  # fmt: skip
@click.option("--priority", type=int, default=0, help="Higher goes first, strictly.")
@click.option("--retries", type=click.IntRange(0), help="Attempts after the first. Default: 3.")
@click.option("--time-limit", type=DURATION, metavar="10m", help="One attempt may run so long.")
@click.option("--queue-limit", type=DURATION, metavar="1h", help="It may wait so long to start.")
@click.option("--project", default="", help="Shares are fair between projects.")
@click.option("--name", default="", help="For people.")
@click.option("--id", "own_id", help="The task's id; submitted again, it is the same task.")
@click.option("--wait", is_flag=True, help="Wait for the result, print it, end as the task did.")
@click.option("--timeout", type=DURATION, metavar="10m", help="How long to wait.")
@connected
def submit(
    client: Client,
    out: Output,
    kind: str | None,
    params: Sequence[tuple[str, str]],
    file: Any,
    wait: bool,
    timeout: float | None,
    **options: Any,
) -> int:
    """Submit a task, or one for each line of a file. Prints the ids.

    A VALUE is read as JSON when it is JSON, else it is text:

    \b
      corral task submit echo text=hello number=7 list='[1, 2]' --wait
      corral task submit train_model symbol=AAPL target=up_5d family=mlp --prefer-gpu

    Dots make maps: model.depth=3 is {"model": {"depth": 3}}.

    A task that is there already, by its --id or by content, is not made again. While it goes on it
    keeps its settings, and a warning says which of them differ; if it ended without success it runs
    anew, as this submission says.

    In a file each line is {"kind": ..., "params": {...}}, with any other field of a task; KIND,
    KEY=VALUE and options given here fill in what a line leaves out, and "#3" in `after` is the
    file's fourth task. A file is accepted whole or not at all.
    """
    from corral.cli import follow
    from corral.cli.submission import Defaults, params_of, read_lines
    from corral.errors import CorralError

    if kind is None and file is None:
        raise click.UsageError("Say which KIND of task, or give --file.")
    if timeout is not None and not wait:
        raise click.UsageError("--timeout is for --wait.")
    defaults = Defaults(
        kind=kind or "",
        params=params_of(params),
        needs=needs_of(options),
        after=_parents(client, options["after"]),
        priority=options["priority"],
        retries=options["retries"],
        run_limit=options["time_limit"],
        queue_limit=options["queue_limit"],
        project=options["project"],
        name=options["name"],
        id=options["own_id"],
    )
    if file is None:
        handles = client.submit_many([defaults.task()])
    else:
        lines = read_lines(file, defaults)
        try:
            handles = client.submit_many(lines.tasks, batch=None)
        except CorralError as error:
            raise lines.blame(error) from None
    warned = follow.warn(handles)
    if wait:
        return follow.wait_for(client, out, handles, timeout, one=file is None)
    follow.print_submitted(out, handles, one=file is None)
    return follow.NOTHING_RUNS_IT if warned else 0


def needs_of(options: dict[str, Any]) -> Needs | None:
    """Needs from the options; None when none was given, so that the kind's own hold."""
    from corral import tasks

    force, prefer = options["force_gpu"], options["prefer_gpu"]
    asked = {name: options[name] for name in ("gpus", "cpus", "memory", "gpu_memory")}
    if force and prefer:
        raise click.UsageError("--force-gpu and --prefer-gpu exclude each other.")
    if (force or prefer) and asked["gpus"] is not None:
        raise click.UsageError("--gpus goes without --force-gpu and --prefer-gpu.")
    named = {name: _count(name, amount) for name, amount in options["resource"]}
    labels = dict(options["label"])
    if not (force or prefer or named or labels) and all(v is None for v in asked.values()):
        return None
    variant = tasks.Variant(
        cpus=1.0 if asked["cpus"] is None else asked["cpus"],
        memory_gb=asked["memory"] or 0.0,
        gpus=1 if force or prefer else asked["gpus"] or 0,
        gpu_memory_gb=asked["gpu_memory"] or 0.0,
        named=named,
        labels=labels,
    )
    if not prefer:
        return (variant,)
    import msgspec

    return (variant, msgspec.structs.replace(variant, gpus=0, gpu_memory_gb=0.0))


def _count(name: str, amount: str) -> int:
    if not amount.isdecimal():
        raise click.UsageError(f"--resource {name}={amount}: the amount must be a whole number.")
    return int(amount)


def _parents(client: Client, after: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Whole ids of parents given by prefix or `last`."""
    if not after:
        return {}
    views = client.show([id for _, id in after])
    return {
        name or f"parent{index}": view.id
        for index, ((name, _), view) in enumerate(zip(after, views, strict=True))
    }


# --- look -------------------------------------------------------------------------------


@task.command("list")
@click.option("--state", "states", type=click.Choice(STATES), multiple=True, help="Repeatable.")
@click.option("--kind", default="", shell_complete=complete_kind)
@click.option("--project", default="")
@click.option("--worker", default="", help="Where it runs, or ran last.")
@click.option("-n", "--limit", type=click.IntRange(1), default=100, show_default=True)
@click.option("--all", "all_", is_flag=True, help="No limit.")
@connected
def list_(
    client: Client, out: Output, states: Sequence[str], limit: int, all_: bool, **filters: str
) -> None:
    """List tasks, newest first."""
    from corral.cli.views import task_columns

    most = ALL if all_ else limit
    found = client.tasks(states, limit=most + 1, **filters)
    out.listing(
        found[:most],
        task_columns(),
        lambda one: one.id,
        empty="No such tasks. Submit one: corral task submit echo text=hello",
    )
    if len(found) > most:
        talk(f"The newest {most} are shown; older ones are hidden, use --all or --limit.")


def _show(client: Client, out: Output, ids: Sequence[str]) -> None:
    from corral.cli.views import task_columns, task_page

    views = client.show(list(ids) or ["last"])
    if len(views) == 1:
        out.one(views[0], task_page, lambda view: view.id)
    else:
        out.listing(views, task_columns(), lambda view: view.id)


@task.command()
@ids
@connected
def show(client: Client, out: Output, ids: Sequence[str]) -> None:
    """Tell everything about tasks: state, needs, attempts, and their story with causes."""
    _show(client, out, ids)


@task.command()
@ids
@connected
def status(client: Client, out: Output, ids: Sequence[str]) -> None:
    """The same as show."""
    _show(client, out, ids)


@task.command()
@id_
@connected
def explain(client: Client, out: Output, id: str) -> None:
    """Say why a task does not run, worker by worker and need by need, and what would let it."""
    from corral.cli.views import explanation_page

    out.one(client.explain(id), explanation_page, lambda told: told.id)


@task.command()
@ids
@click.option("--since", type=int, help="Begin after this sequence number.")
@connected
def watch(client: Client, out: Output, ids: Sequence[str], since: int | None) -> int:
    """Follow tasks until they end; without an ID everything, until Ctrl-C.

    A task's progress is a line every two seconds; -o jsonl has all of it.

    Ends with the exit status of what was watched: 0, 1 when one failed, 8 when one was cancelled.
    """
    from corral.cli import follow

    return follow.watch(client, out, ids, since)


@task.command()
@id_
@click.option("-f", "--follow", is_flag=True, help="Go on until the task ends.")
@click.option("--attempt", type=click.IntRange(1), help="Default: the last one.")
@connected
def logs(client: Client, out: Output, id: str, follow: bool, attempt: int | None) -> None:
    """Print what an attempt has written, byte for byte.

    It is the handler's own stream: colours, bars and whatever else a terminal obeys are in it.
    With `| cat -v` they can be seen and do nothing.
    """
    [view] = client.show([id])
    for piece in client.logs(view.id, attempt or 0, follow=follow):
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()


@task.command()
@ids
@click.option("--timeout", type=DURATION, metavar="10m", help="How long to wait.")
@connected
def result(client: Client, out: Output, ids: Sequence[str], timeout: float | None) -> int:
    """Print what tasks returned; waits for those that go on.

    A text is printed as it is; on a terminal, what that would obey is made visible (ESC as \\x1b).
    """
    from corral.cli import follow
    from corral.tasks import TERMINAL

    views = client.show(list(ids) or ["last"])
    if all(view.state in TERMINAL for view in views):
        timeout = None  # there is nothing to wait for
    whole = [view.id for view in views]
    handles = [client.handle(id) for id in whole]
    return follow.wait_for(client, out, handles, timeout, one=len(whole) == 1)


# --- change -----------------------------------------------------------------------------


def _selection(function: Any) -> Any:
    """Ids, or a filter that stands for all that match it."""
    for option in (
        click.option("--yes", is_flag=True, help="Do not ask before acting on a filter."),
        click.option("--project", default="", help="All of this project."),
        click.option("--kind", default="", help="All of this kind.", shell_complete=complete_kind),
        click.option("--state", type=click.Choice(STATES), help="All in this state."),
        ids,
    ):
        function = option(function)
    return function


def _selected(
    client: Client,
    verb: str,
    ids: Sequence[str],
    state: str | None,
    kind: str,
    project: str,
    yes: bool,
    states: Sequence[str],
) -> list[str]:
    """Whole ids of what is meant; asks before acting on a filter."""
    if ids:
        if state or kind or project:
            raise click.UsageError("Give ids or a filter, not both.")
        return [view.id for view in client.show(list(ids))]
    if not (state or kind or project):
        raise click.UsageError("Say which tasks: ids, or --state, --kind, --project.")
    wanted = [state] if state else list(states)
    found = client.tasks(wanted, kind=kind, project=project, limit=ALL)
    if found and not yes:
        if not sys.stdin.isatty():
            many = counted(len(found), "task")
            raise click.UsageError(f"This would {verb} {many}; add --yes to do it.")
        click.confirm(f"{verb} {counted(len(found), 'task')}?", abort=True, err=True)
    return [view.id for view in found]


@task.command()
@_selection
@click.option("--reason", default="", help="Kept in the task's story.")
@connected
def cancel(client: Client, out: Output, ids: Sequence[str], reason: str, **selection: Any) -> int:
    """Cancel tasks for good. Prints the ids of those that it changed."""
    live = ("waiting", "queued", "running", "retrying")
    meant = _selected(client, "cancel", ids, states=live, **selection)
    return _changed(client, out, "cancel", meant, client.cancel(meant, reason) if meant else None)


@task.command()
@_selection
@connected
def retry(client: Client, out: Output, ids: Sequence[str], **selection: Any) -> int:
    """Run tasks again that ended without success. Prints their ids."""
    lost = ("failed", "cancelled", "aborted", "expired")
    meant = _selected(client, "retry", ids, states=lost, **selection)
    return _changed(client, out, "retry", meant, client.retry(meant) if meant else None)


def _changed(client: Client, out: Output, verb: str, meant: Sequence[str], done: Any) -> int:
    """Print what was changed; tell what was not, and why."""
    from corral.cli.root import tell
    from corral.cli.views import task_columns
    from corral.errors import WrongState
    from corral.messages import NO_ROOM

    changed = list(done.changed) if done else []
    views: list[TaskView] = client.show(changed) if changed else []
    out.listing(views, task_columns(), lambda view: view.id)
    unchanged = dict(done.unchanged) if done else {}
    if not meant:
        talk(f"There was nothing to {verb}.")
    refused = None
    if unchanged and not changed:
        [view] = client.show([next(iter(unchanged))])
        if (verb, view.state.value) != ("cancel", "cancelled"):
            action = {"cancel": "be cancelled", "retry": "be run again"}[verb]
            refused = WrongState(id=view.id, state=view.state.value, action=action)
            del unchanged[view.id]  # the error tells of it
    for id, why in unchanged.items():
        talk(f"{id} was left as it is: {why}")
    if refused:
        tell(refused)
        return refused.exit_status
    return int(NO_ROOM in unchanged.values())
