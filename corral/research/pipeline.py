"""The pipeline file: YAML in, a graph of planned tasks out.

    rank_target (symbol) -> select_features (symbol, target)
                         -> train_model (symbol, target, family) -> backtest

`load` reads and checks a file, `expand` is a pure function of what it read. Submitting the tasks
and watching them is the command line's work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from corral.errors import CorralError
from corral.research.document import BadPipeline, Document
from corral.research.schema import (
    DIRECTIONLESS,
    FAMILIES,
    NETWORKS,
    SYMBOLS,
    TARGETS,
    Backtest,
    Family,
    RankTarget,
    Seed,
    SelectFeatures,
    Symbol,
    TargetName,
    TrainModel,
    WalkForward,
)
from corral.tasks import Needs, Task, force_gpu, needs, prefer_gpu

FOLDER = Path(__file__).with_name("pipelines")


class NoPipeline(CorralError):
    """There is no pipeline file {name}.

    Give the path of a YAML file, or the name of one that comes with Corral: {shipped}.
    """

    code = "no_pipeline"
    exit_status = 3


class Want(Struct, frozen=True, forbid_unknown_fields=True):
    """Resources of one kind or family, as a pipeline file writes them."""

    gpu: Literal["never", "prefer", "force"] = "never"
    cpus: Annotated[float, Meta(gt=0)] = 1.0
    memory_gb: Annotated[float, Meta(gt=0)] = 2.0


class Pipeline(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A pipeline file. `rank`, `select`, `train` and `backtest` are params of the four kinds."""

    name: Annotated[str, Meta(min_length=1, max_length=80)]
    symbols: Annotated[tuple[Symbol, ...], Meta(min_length=1)]
    targets: Annotated[tuple[TargetName, ...], Meta(min_length=1)]
    families: Annotated[tuple[Family, ...], Meta(min_length=1)]
    seed: Seed = 0
    splits: WalkForward = WalkForward()
    rank: dict[str, Any] = {}
    select: dict[str, Any] = {}
    train: dict[str, Any] = {}
    backtest: dict[str, Any] = {}
    needs: dict[str, Want] = {}  #: by kind or by family; the others have what their kind announces


class Planned(Struct, frozen=True):
    """One task of the graph, before it has an id."""

    name: str  #: unique in the pipeline, such as AAPL/up_5d/mlp/train
    kind: str
    params: dict[str, Any]
    after: dict[str, str] = {}  #: the name the handler sees -> the parent's `name`
    needs: Needs | None = None  #: None: what the kind announces


PARAMS: Mapping[str, type[Struct]] = {
    "rank": RankTarget,
    "select": SelectFeatures,
    "train": TrainModel,
    "backtest": Backtest,
}
KINDS = {
    "rank": "rank_target",
    "select": "select_features",
    "train": "train_model",
    "backtest": "backtest",
}


RESOURCEFUL = (*KINDS.values(), *FAMILIES)  #: what `needs` may name


# Plan ------------------------------------------------------------------------------------------


def expand(pipeline: Pipeline) -> list[Planned]:
    """Every task of `pipeline`, parents before children. Equal pipelines give equal lists."""
    shared = _shared(pipeline)
    tasks: list[Planned] = []

    def plan(step: str, where: str, params: dict[str, Any], after: dict[str, str]) -> str:
        name, kind = f"{where}/{step}", KINDS[step]
        wanted = _needs(pipeline, kind, params.get("family"))
        tasks.append(Planned(name, kind, {**params, **getattr(pipeline, step)}, after, wanted))
        return name

    for symbol in pipeline.symbols:
        rank = plan("rank", symbol, {"symbol": symbol, **shared}, {})
        for target in pipeline.targets:
            where, of = f"{symbol}/{target}", {"symbol": symbol, "target": target, **shared}
            select = plan("select", where, of, {"rank": rank})
            for family in pipeline.families:
                model = f"{where}/{family}"
                train = plan("train", model, {**of, "family": family}, {"select": select})
                plan("backtest", model, {}, {"model": train})
    return tasks


def submission(pipeline: Pipeline) -> list[Task]:
    """The same as one submission: a project of the pipeline's name, parents by their place."""
    planned = expand(pipeline)
    place = {one.name: index for index, one in enumerate(planned)}
    return [
        Task(
            kind=one.kind,
            params=one.params,
            after={alias: f"#{place[parent]}" for alias, parent in one.after.items()},
            needs=one.needs,
            project=pipeline.name,
            name=one.name,
        )
        for one in planned
    ]


def _shared(pipeline: Pipeline) -> dict[str, Any]:
    """Seed and splits where given: what is in sample for one step must be so for all."""
    given = {} if pipeline.seed == 0 else {"seed": pipeline.seed}
    if pipeline.splits != WalkForward():
        given["splits"] = msgspec.to_builtins(pipeline.splits)
    return given


def _needs(pipeline: Pipeline, kind: str, family: str | None) -> Needs | None:
    want = pipeline.needs.get(family or "", pipeline.needs.get(kind))
    if want is None:
        # train_model announces prefer_gpu, which only networks can use
        return needs(cpus=1, memory_gb=2) if family and family not in NETWORKS else None
    make: Mapping[str, Callable[[float, float], Needs]]
    make = {"never": needs, "prefer": prefer_gpu, "force": force_gpu}
    return make[want.gpu](want.cpus, want.memory_gb)


# Read ------------------------------------------------------------------------------------------


def shipped() -> dict[str, Path]:
    """Name -> file of the pipelines that come with Corral."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def load(source: str | Path) -> Pipeline:
    """Read and check a pipeline file, given by its path or by the name of a shipped one.

    Raises:
        NoPipeline: there is no such file.
        BadPipeline: something in it is wrong; names file, line and key.
    """
    path = shipped().get(str(source), Path(source))
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise NoPipeline(name=source, shipped=", ".join(shipped())) from error
    except UnicodeDecodeError as error:
        raise BadPipeline(file=path, line=1, key="the file", why="is not UTF-8 text") from error
    return parse(text, str(path))


def parse(text: str, file: str) -> Pipeline:
    """The pipeline in `text`; `file` is named in errors.

    Raises:
        BadPipeline: something in it is wrong; names file, line and key.
    """
    document = Document(text, file)
    _check_needs(document)
    pipeline = document.convert(
        (), document.value, Pipeline, symbols=SYMBOLS, targets=TARGETS, families=FAMILIES
    )
    for key in ("symbols", "targets", "families"):
        values = getattr(pipeline, key)
        for index, value in enumerate(values):
            if value in values[:index]:
                raise document.error((key, index), f"{value} is listed twice")
    _check_sections(document, pipeline)
    for index, target in enumerate(pipeline.targets):
        if target in DIRECTIONLESS:
            raise document.error(
                ("targets", index), f"{target} says nothing about direction: it cannot be traded"
            )
        if target not in pipeline.rank.get("targets", TARGETS):
            raise document.error(("rank", "targets"), f"leaves out {target}, which targets lists")
    return pipeline


def _check_needs(document: Document) -> None:
    wants = document.value.get("needs") if isinstance(document.value, dict) else None
    for name, want in wants.items() if isinstance(wants, dict) else ():
        if name not in RESOURCEFUL:
            known = ", ".join(RESOURCEFUL)
            raise document.error(("needs", name), f"is neither a kind nor a family: {known}")
        document.convert(("needs", name), want, Want)


def _check_sections(document: Document, pipeline: Pipeline) -> None:
    planned = {task.kind: task for task in expand(pipeline)}
    for step, params in PARAMS.items():
        for name in ("symbol", "target", "family", "seed", "splits"):
            if name in getattr(pipeline, step):
                raise document.error((step, name), "is set by the pipeline for every task")
        document.convert((step,), planned[KINDS[step]].params, params)
