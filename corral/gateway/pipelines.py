"""Pipelines as resources: submit one, list what is known, show one as a graph.

A pipeline is the tasks of one project. What a pipeline file may say is `corral.research`'s; it is
imported when one is submitted, so that the gateway stands beside it.
"""

from __future__ import annotations

import asyncio
import importlib
from collections import Counter
from graphlib import TopologicalSorter
from typing import Annotated, Any

from msgspec import Meta, Struct

from corral.errors import Usage
from corral.gateway.problems import NoSuchPipeline
from corral.gateway.routes import Ask, Resource, Told
from corral.gateway.tasks import MOST_AT_ONCE, Short, submit_all
from corral.messages import SubmittedView, TaskView
from corral.tasks import TERMINAL, State


class PipelineBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of both."""

    shipped: Short = ""  #: a pipeline that comes with Corral, such as `demo`
    yaml: Annotated[str, Meta(max_length=1 << 20)] = ""  #: a pipeline file


class Submitted(Struct, frozen=True, kw_only=True):
    """A pipeline that was accepted."""

    name: str  #: its tasks' project
    reused: int  #: tasks that were known already
    tasks: list[SubmittedView]


class PipelineView(Struct, frozen=True, kw_only=True):
    """How far the tasks of one project are."""

    name: str
    tasks: dict[str, int]  #: state -> how many
    progress: float  #: 0 to 1: the part that has ended
    submitted: float  #: the first, seconds since the epoch
    ended: float | None  #: the last; null while any goes on


class Place(Struct, frozen=True, kw_only=True):
    """A task in its graph."""

    id: str
    name: str
    kind: str
    state: State
    after: dict[str, str]  #: name -> id of a parent
    worker: str
    progress: float | None
    started: float | None
    ended: float | None
    why: str  #: it failed


class Graph(PipelineView, frozen=True, kw_only=True):
    """A pipeline with its tasks, parents before children."""

    graph: list[Place]


async def submit(ask: Ask) -> Told:
    """Submit a pipeline file, or one that comes with Corral. What was done before is reused."""
    asked: PipelineBody = ask.body
    if bool(asked.shipped) == bool(asked.yaml):
        raise Usage(what="give either `shipped` or `yaml`")
    name, tasks = await asyncio.to_thread(_tasks, asked)
    views = await submit_all(ask.upstream.client, tasks)
    ask.note.update(pipeline=name, tasks=len(views))
    reused = sum(view.known for view in views)
    return Told(Submitted(name=name, reused=reused, tasks=views), 201)


def _tasks(asked: PipelineBody) -> tuple[str, Any]:
    pipelines = importlib.import_module("corral.research.pipeline")
    if asked.yaml:
        graph = pipelines.parse(asked.yaml, "the pipeline")
    elif asked.shipped in pipelines.shipped():
        graph = pipelines.load(asked.shipped)
    else:
        raise pipelines.NoPipeline(name=asked.shipped, shipped=", ".join(pipelines.shipped()))
    return graph.name, pipelines.submission(graph)


async def listed(ask: Ask) -> list[PipelineView]:
    """List the projects of the latest 5,000 tasks, the newest first."""
    projects: dict[str, list[Any]] = {}
    for row in ask.hub.page.rows():
        if row.project:
            projects.setdefault(row.project, []).append(row)
    views = [PipelineView(**_figures(name, rows)) for name, rows in projects.items()]
    return sorted(views, key=lambda view: -view.submitted)


async def show(ask: Ask) -> Graph:
    """Show a pipeline as a graph: every task with its parents, state and progress."""
    name = ask.path["name"]
    views = await ask.upstream.client.tasks([], project=name, limit=MOST_AT_ONCE)
    if not views:
        raise NoSuchPipeline(name=name)
    known = {view.id: view for view in views}
    parents = {id: set(view.after.values()) & known.keys() for id, view in known.items()}
    order = TopologicalSorter(parents).static_order()
    return Graph(**_figures(name, views), graph=[_place(known[id]) for id in order])


def _figures(name: str, tasks: list[Any]) -> dict[str, Any]:
    """The fields of a `PipelineView`, of rows or of views."""
    over = [task for task in tasks if task.state in TERMINAL]
    return {
        "name": name,
        "tasks": dict(Counter(task.state.value for task in tasks)),
        "progress": len(over) / len(tasks),
        "submitted": min(task.submitted for task in tasks),
        "ended": max(task.ended or 0.0 for task in over) if len(over) == len(tasks) else None,
    }


def _place(view: TaskView) -> Place:
    return Place(
        id=view.id,
        name=view.name,
        kind=view.kind,
        state=view.state,
        after=view.after,
        worker=view.worker,
        progress=view.progress,
        started=view.started,
        ended=view.ended,
        why=view.failure.message if view.failure else "",
    )


RESOURCES = (
    Resource(
        "POST", "/pipelines", submit, Submitted, role="client", body=PipelineBody, status=201
    ),
    Resource("GET", "/pipelines", listed, list[PipelineView]),
    Resource("GET", "/pipelines/{name}", show, Graph),
)  # fmt: skip
