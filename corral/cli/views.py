"""How tasks, workers, the broker and explanations read to a person.

Pure functions from the API's structs to columns and to what rich can draw. Machine formats never
come here: they print the structs themselves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from corral.cli.options import ago, span
from corral.cli.output import cell, line, lines, table
from corral.messages import (
    AttemptView,
    BackupView,
    BrokerView,
    Explanation,
    KeyView,
    Step,
    TaskView,
    Verdict,
    WorkerVerdict,
    WorkerView,
)
from corral.tasks import TERMINAL, Needs, State, Variant

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from corral.tokens import Token

#: state -> mark and style: shape beside colour, so that it reads without colours too
MARKS: Mapping[str, tuple[str, str]] = {
    State.WAITING: ("◌", "dim"),
    State.QUEUED: ("○", ""),
    State.RUNNING: ("●", "cyan"),
    State.RETRYING: ("↻", "yellow"),
    State.SUCCEEDED: ("✔", "green"),
    State.FAILED: ("✘", "red"),
    State.CANCELLED: ("⊘", "yellow"),
    State.ABORTED: ("✘", "magenta"),
    State.EXPIRED: ("✘", "magenta"),
}
_WORKER_STYLES = {"available": "green", "busy": "cyan", "draining": "yellow", "drained": "yellow"}
_MIB = 1 << 20


def state_text(state: str) -> Text:
    """A state with its mark."""
    mark, style = MARKS[state]
    return line((f"{mark} {state}", style))


def clock(at: float | None) -> str:
    """A time of day, with the day when it is not today's."""
    if at is None:
        return ""
    then, now = datetime.fromtimestamp(at), datetime.now()
    return f"{then:%H:%M:%S}" if then.date() == now.date() else f"{then:%Y-%m-%d %H:%M:%S}"


def task_columns(now: float | None = None) -> dict[str, Callable[[TaskView], Any]]:
    """Columns of a list of tasks."""
    at = time.time() if now is None else now
    return {
        "id": lambda task: task.id,
        "kind": lambda task: task.kind,
        "name": lambda task: task.name,
        "state": lambda task: state_text(task.state),
        "done": lambda task: _share(task),
        "worker": lambda task: task.worker,
        "project": lambda task: task.project,
        "priority": lambda task: task.priority or "",
        "submitted": lambda task: ago(at, task.submitted),
        "ran": lambda task: _ran(task, at),
    }


def _share(task: TaskView) -> str:
    running = task.state is State.RUNNING and task.progress is not None
    return f"{task.progress:.0%}" if running else ""


def _ran(task: TaskView, now: float) -> str:
    end = now if task.state is State.RUNNING else task.ended
    return "" if task.started is None or end is None else span(end - task.started)


def needs_text(needs: Needs) -> str:
    """Needs in words: variants in order of preference."""
    return ", else ".join(_variant_text(variant) for variant in needs) or "nothing"


def _variant_text(variant: Variant) -> str:
    parts = [
        _many(variant.gpus, "GPU") if variant.gpus else "",
        f"{_gib(variant.gpu_memory_gb)} on each GPU" if variant.gpu_memory_gb else "",
        _many(variant.cpus, "core") if variant.cpus else "",
        _gib(variant.memory_gb) if variant.memory_gb else "",
        *(f"{amount} {name}" for name, amount in variant.named.items()),
        *(f"label {name}={value}" for name, value in variant.labels.items()),
    ]
    return " + ".join(part for part in parts if part) or "nothing"


def _many(count: float, noun: str) -> str:
    return f"{count:g} {noun}{'' if count == 1 else 's'}"


def _gib(amount: float) -> str:
    return f"{amount * 1024:.0f} MiB" if 0 < amount < 1 else f"{round(amount, 1):g} GiB"


def _facts(facts: Mapping[str, object]) -> RenderableType:
    """Names and values, those without a value left out."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    for name, value in facts.items():
        if value not in ("", None, [], {}, ()):
            grid.add_row(line(name), cell(value))
    return grid


def task_page(task: TaskView) -> RenderableType:
    """Everything about one task."""
    import msgspec
    from rich.console import Group

    now = time.time()
    metrics = "  ".join(f"{name} {value:.6g}" for name, value in task.metrics.items())
    parts: list[RenderableType] = [
        _facts(
            {
                "task": line((task.id, "bold")),
                "kind": task.kind,
                "name": task.name,
                "state": state_text(task.state),
                "progress": f"{_share(task)}  {metrics}".strip(),
                "worker": task.worker,
                "project": task.project,
                "priority": task.priority or "",
                "needs": needs_text(task.needs),
                "after": ", ".join(f"{name}: {id}" for name, id in task.after.items()),
                "params": msgspec.json.encode(task.params).decode(),
                "submitted": f"{clock(task.submitted)} ({ago(now, task.submitted)})",
                "ran": _ran(task, now),
                "retries at": clock(task.retry_at),
                "result": f"{task.result_bytes} bytes" if task.result_bytes is not None else "",
                "run": task.run if task.run > 1 else "",
            }
        )
    ]
    if task.story:
        parts += [line(), table(task.story, STEP_COLUMNS, "story")]
    if task.attempts:
        parts += [line(), table(task.attempts, ATTEMPT_COLUMNS, "attempts")]
    if task.failure is not None:
        last = "" if task.state in TERMINAL else "last failure: "
        parts += [line(), line((f"{last}{task.failure.type}: {task.failure.message}", "red"))]
        if task.failure.traceback:
            parts.append(lines(task.failure.traceback.rstrip(), "dim"))
    return Group(*parts)


STEP_COLUMNS: dict[str, Callable[[Step], Any]] = {
    "at": lambda step: clock(step.at),
    "state": lambda step: state_text(step.state),
    "cause": lambda step: step.cause,
    "attempt": lambda step: step.attempt or "",
    "worker": lambda step: step.worker,
    "why": lambda step: step.why,
}


ATTEMPT_COLUMNS: dict[str, Callable[[AttemptView], Any]] = {
    "attempt": lambda one: str(one.number),
    "worker": lambda one: one.worker,
    "gpus": lambda one: ", ".join(one.gpus),
    "started": lambda one: clock(one.started),
    "ran": lambda one: "" if one.ended is None else span(one.ended - one.started),
    "outcome": lambda one: one.outcome,
    "why there": lambda one: one.decision,
}


# --- explain ----------------------------------------------------------------------------


def explanation_page(told: Explanation) -> RenderableType:
    """Why a task stands where it stands: per worker what was wanted and is there, and the cure."""
    from rich.console import Group

    mark, style = MARKS[told.state]
    parts: list[RenderableType] = [
        line((told.id, "bold"), "  ", (f"{mark} {told.state}", style)),
        line(told.summary),
    ]
    if told.decision:
        parts.append(line(f"Why there: {told.decision}"))
    parts += [line(f"- {reason}") for reason in told.reasons]
    if told.workers:
        parts += [line(), table(_rows(told.workers), _VERDICT_COLUMNS, "worker by worker")]
    if told.cure:
        parts += [line(), line(("What would let it run", "bold"))]
        parts += [
            line((f"{number}. {part.text or part.action}", "green"))
            for number, part in enumerate(told.cure, 1)
        ]
    return Group(*parts)


def _rows(workers: list[WorkerVerdict]) -> list[tuple[WorkerVerdict, Verdict | None, bool]]:
    """A row for each need that is not met; the first of a worker's variant carries its name."""
    rows: list[tuple[WorkerVerdict, Verdict | None, bool]] = []
    for worker in workers:
        unmet = [verdict for verdict in worker.verdicts if not verdict.met]
        listed: list[Verdict | None] = [*unmet] or [None]
        rows += [(worker, verdict, index == 0) for index, verdict in enumerate(listed)]
    return rows


def _mark(met: bool) -> Text:
    return line(("✔ met", "green") if met else ("✘ not met", "red"))


def _met(worker: WorkerVerdict) -> str:
    return ", ".join(verdict.need for verdict in worker.verdicts if verdict.met)


_VERDICT_COLUMNS: dict[str, Callable[[tuple[WorkerVerdict, Verdict | None, bool]], Any]] = {
    "worker": lambda row: row[0].worker if row[2] else "",
    "variant": lambda row: str(row[0].variant + 1) if row[2] else "",
    "need": lambda row: row[1].need if row[1] else "",
    "wanted": lambda row: row[1].wanted if row[1] else "",
    "has": lambda row: row[1].has if row[1] else "",
    "": lambda row: _mark(row[1] is None and row[0].fits),
    "met": lambda row: _met(row[0]) if row[2] else "",
}


# --- workers and broker -----------------------------------------------------------------


def worker_columns(now: float | None = None) -> dict[str, Callable[[WorkerView], Any]]:
    """Columns of a list of workers."""
    at = time.time() if now is None else now
    return {
        "name": lambda worker: worker.name,
        "status": lambda worker: status_text(worker),
        "slots": lambda worker: f"{worker.slots_used}/{worker.slots}",
        "cpus": lambda worker: f"{worker.cpus_used:g}/{worker.cpus:g}",
        "memory": lambda worker: f"{worker.memory_gb_used:.1f}/{worker.memory_gb:.1f} GiB",
        "gpus": lambda worker: _gpus(worker),
        "kinds": lambda worker: len(worker.kinds),
        "seen": lambda worker: ago(at, worker.seen),
        "note": lambda worker: _drain_note(worker, at),
    }


def status_text(worker: WorkerView) -> Text:
    """A worker's status, coloured."""
    return line((worker.status, _WORKER_STYLES.get(worker.status, "red")))


def _gpus(worker: WorkerView) -> str:
    if not worker.gpus:
        return ""
    held = sum(bool(gpu.holder) for gpu in worker.gpus)
    declared = " declared" if any(gpu.declared for gpu in worker.gpus) else ""
    return f"{held}/{len(worker.gpus)}{declared}"


def _drain_note(worker: WorkerView, now: float) -> str:
    if worker.drain_since is None:
        return ""
    who = f" by {worker.drained_by}" if worker.drained_by else ""
    why = f": {worker.drain_reason}" if worker.drain_reason else ""
    return f"{worker.admission}{who} for {span(now - worker.drain_since)}{why}"


def worker_page(worker: WorkerView) -> RenderableType:
    """Everything about one worker."""
    from rich.console import Group

    now = time.time()
    facts = {
        "worker": line((worker.name, "bold")),
        "status": status_text(worker),
        "drain": _drain_note(worker, now),
        "incarnation": worker.incarnation,
        "speaks": worker.dialect,
        "slots": f"{worker.slots_used} of {worker.slots} used",
        "cpus": f"{worker.cpus_used:g} of {worker.cpus:g} used",
        "memory": f"{worker.memory_gb_used:.1f} of {worker.memory_gb:.1f} GiB used",
        "labels": ", ".join(f"{name}={value}" for name, value in worker.labels.items()),
        "caches": ", ".join(worker.caches),
        "kinds": ", ".join(worker.kinds),
        "tasks": ", ".join(worker.tasks),
        "registered": ago(now, worker.since),
        "last seen": ago(now, worker.seen),
        **worker.about,
    }
    parts: list[RenderableType] = [_facts(facts)]
    if worker.gpus:
        columns: dict[str, Callable[[Any], Any]] = {
            "uuid": lambda gpu: gpu.uuid,
            "name": lambda gpu: "declared" if gpu.declared else gpu.name,
            "memory": lambda gpu: _gib(gpu.memory_gb),
            "held by": lambda gpu: gpu.holder,
            "others use": lambda gpu: _gib(gpu.foreign_gb) if gpu.foreign_gb else "",
        }
        parts += [line(), table(worker.gpus, columns, "GPUs")]
    return Group(*parts)


def broker_page(broker: BrokerView) -> RenderableType:
    """The broker's own figures."""
    from rich.console import Group

    facts = {
        "broker": line((broker.endpoint, "bold")),
        "version": broker.version,
        "data": broker.data,
        "up": span(time.time() - broker.started),
        "epoch": broker.epoch,
        "events": broker.seq,
        "memory": f"{broker.rss_bytes / _MIB:.0f} MiB",
        "store": line(("full: it takes no new work", "red")) if broker.store_full else "writable",
        "tasks": counts_text(broker.tasks) or "none",
        "workers": counts_text(broker.workers) or "none",
        "resources": ", ".join(f"{n} {used}/{all}" for n, (used, all) in broker.named.items()),
        "refused": counts_text(broker.refused),
    }
    parts: list[RenderableType] = [_facts(facts)]
    if broker.kinds:
        columns: dict[str, Callable[[Any], Any]] = {
            "kind": lambda kind: kind.kind,
            "workers": lambda kind: kind.workers,
            "identity": lambda kind: "content" if kind.content else "submit",
            "code": lambda kind: kind.code_version[:12],
            "data": lambda kind: kind.data_snapshot[:12],
        }
        parts += [line(), table(broker.kinds, columns, "kinds")]
    return Group(*parts)


def backup_page(backup: BackupView) -> RenderableType:
    """What a copy of the store holds."""
    return _facts(
        {
            "copy": backup.path,
            "tasks": backup.tasks,
            "size": f"{backup.bytes / _MIB:.1f} MiB",
            "took": span(backup.seconds),
        }
    )


def counts_text(counts: Mapping[str, int]) -> str:
    """Those that are not zero, as `3 queued, 2 running`."""
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


KEY_COLUMNS: dict[str, Callable[[KeyView], Any]] = {
    "name": lambda key: key.name,
    "role": lambda key: key.role,
    "public": lambda key: key.public,
    "added": lambda key: clock(key.added),
    "revoked": lambda key: clock(key.revoked),
}

TOKEN_COLUMNS: dict[str, Callable[[Token], Any]] = {
    "name": lambda token: token.name,
    "role": lambda token: token.role,
    "added": lambda token: clock(token.added),
    "revoked": lambda token: clock(token.revoked),
}
