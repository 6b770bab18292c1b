"""The paths, field names and words of the documents that Corral comes from; nowhere else.

There a task is an operation, a worker has a type and words in capitals, and `backtests/start` and
`trainings/start` name a strategy. Here these become tasks of the built-in kinds: a strategy is
`FAMILY` or `FAMILY/TARGET`, such as `mlp/up_5d`. What is asked for and has no meaning here (the
prices are daily, and every model is tested on the whole history out of sample) is told back as a
warning, not passed over. Paths that have no successor tell what took their place.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

import msgspec
import yaml
from msgspec import Meta, Struct

from corral.errors import BadTask
from corral.gateway.problems import Gone, moment
from corral.gateway.routes import Ask, Nothing, Resource
from corral.gateway.tasks import Short, outcome_of, submit_all
from corral.messages import TaskView, WorkerView
from corral.tasks import TERMINAL, Needs, State, Task, force_gpu, needs, prefer_gpu
from corral.yamls import Loader

Word = Literal["AVAILABLE", "BUSY", "TEMPORARILY_UNAVAILABLE", "DRAINING", "DRAINED", "REMOVED"]
Status = Literal["pending", "running", "completed", "failed", "cancelled"]
Day = Annotated[str, Meta(max_length=40)]

TRAIN, BACKTEST = "train_model", "backtest"  # the kinds
TARGET = "up_5d"  # of a strategy that names none
WORDS: dict[str, Word] = {
    "available": "AVAILABLE",
    "busy": "BUSY",
    "suspect": "TEMPORARILY_UNAVAILABLE",
    "unavailable": "TEMPORARILY_UNAVAILABLE",
    "draining": "DRAINING",
    "drained": "DRAINED",
    "gone": "REMOVED",
}
STATUS: dict[State, Status] = {
    State.WAITING: "pending",
    State.QUEUED: "pending",
    State.RETRYING: "pending",
    State.RUNNING: "running",
    State.SUCCEEDED: "completed",
    State.FAILED: "failed",
    State.ABORTED: "failed",
    State.EXPIRED: "failed",
    State.CANCELLED: "cancelled",
}
TYPES = {TRAIN: "training", BACKTEST: "backtesting"}  #: kind -> operation type
KINDS = {word: kind for kind, word in TYPES.items()}
PLACED = 5, 0.1  # looks, and seconds between them, for where a new task runs


# --- workers ----------------------------------------------------------------------------


class Capabilities(Struct, frozen=True, kw_only=True):
    """What a worker has."""

    gpu: bool
    gpu_type: str | None
    gpu_count: int
    gpu_memory_gb: float  #: of the smallest
    cores: float
    memory_gb: float
    kinds: list[str]


class Metadata(Struct, frozen=True, kw_only=True):
    """What else is known of a worker."""

    current_operation: str | None
    operations: list[str]
    slots: int
    labels: dict[str, str]
    drain_reason: str


class Worker(Struct, frozen=True, kw_only=True):
    """A worker in the words of those documents; `/fleet` has it in Corral's own."""

    worker_id: str
    worker_type: str  #: its label `worker_type`; else by its GPUs and kinds
    endpoint_url: None  #: workers listen on nothing
    status: Word
    current_operation_id: str | None
    capabilities: Capabilities
    last_health_check: str  #: its last sign of life
    health_check_failures: int  #: 0, or 1 while it is missed
    metadata: Metadata


class FleetHealth(Struct, frozen=True, kw_only=True):
    """How many workers are how."""

    total_workers: int
    available: int
    busy: int
    temporarily_unavailable: int
    draining: int
    removed: int


def worker_of(view: WorkerView) -> Worker:
    """A worker in those words."""
    current = view.tasks[0] if view.tasks else None
    gpus = view.gpus
    return Worker(
        worker_id=view.name,
        worker_type=_type_of(view),
        endpoint_url=None,
        status=WORDS[view.status],
        current_operation_id=current,
        capabilities=Capabilities(
            gpu=bool(gpus),
            gpu_type="CUDA" if gpus else None,
            gpu_count=len(gpus),
            gpu_memory_gb=min((gpu.memory_gb for gpu in gpus), default=0.0),
            cores=view.cpus,
            memory_gb=view.memory_gb,
            kinds=view.kinds,
        ),
        last_health_check=moment(view.seen),
        health_check_failures=int(view.health != "live"),
        metadata=Metadata(
            current_operation=current,
            operations=view.tasks,
            slots=view.slots,
            labels=view.labels,
            drain_reason=view.drain_reason,
        ),
    )


def _type_of(view: WorkerView) -> str:
    if labelled := view.labels.get("worker_type"):
        return labelled
    if view.gpus or (TRAIN in view.kinds and BACKTEST not in view.kinds):
        return "training"
    return "backtesting" if BACKTEST in view.kinds else "other"


async def workers(ask: Ask) -> list[Worker]:
    """List every worker in the registry."""
    return [worker_of(view) for view in await ask.upstream.client.workers()]


async def workers_health(ask: Ask) -> FleetHealth:
    """Count workers by how they are."""
    words = [WORDS[view.status] for view in await ask.upstream.client.workers()]
    return FleetHealth(
        total_workers=len(words),
        available=words.count("AVAILABLE"),
        busy=words.count("BUSY"),
        temporarily_unavailable=words.count("TEMPORARILY_UNAVAILABLE"),
        draining=words.count("DRAINING") + words.count("DRAINED"),
        removed=words.count("REMOVED"),
    )


async def register(ask: Ask) -> Nothing:
    """Tell how workers come in now: this path has no successor."""
    raise Gone(
        what="Workers register at the broker, not here, and listen on nothing.",
        next="Start one with `corral worker start --broker ENDPOINT --name NAME`.",
    )


# --- operations -------------------------------------------------------------------------


class OperationFilter(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which operations to list."""

    status: Status | None = None
    operation_type: Short = ""
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class Operation(Struct, frozen=True, kw_only=True):
    """A task in the words of those documents."""

    operation_id: str
    operation_type: str  #: training, backtesting, or the kind
    status: Status
    progress: float  #: percent
    worker_id: str | None
    created_at: str
    started_at: str | None
    completed_at: str | None
    metrics: dict[str, float]
    error: str | None
    result: Any = None  #: what the handler returned; not in lists
    results: Any = None  #: the same; of a backtest, with the strategy's figures at the top


class OperationMetrics(Struct, frozen=True, kw_only=True):
    """What a task last told of its progress."""

    operation_id: str
    status: Status
    progress: float  #: percent
    metrics: dict[str, float]


def operation_of(view: TaskView, value: Any = None) -> Operation:
    """A task in those words."""
    return Operation(
        operation_id=view.id,
        operation_type=TYPES.get(view.kind, view.kind),
        status=STATUS[view.state],
        progress=_percent(view),
        worker_id=view.worker or None,
        created_at=moment(view.submitted),
        started_at=None if view.started is None else moment(view.started),
        completed_at=None if view.ended is None else moment(view.ended),
        metrics=view.metrics,
        error=view.failure.message or view.failure.type if view.failure else None,
        result=value,
        results=_flat(value),
    )


def _percent(view: TaskView) -> float:
    return round(100 * (view.progress or 0.0), 1)


def _flat(value: Any) -> Any:
    figures = value.get("strategy") if isinstance(value, dict) else None
    return {**value, **figures} if isinstance(figures, dict) else value


async def operations(ask: Ask) -> list[Operation]:
    """List operations, newest first."""
    asked: OperationFilter = ask.query
    states = [state for state, word in STATUS.items() if word == asked.status]
    kind = KINDS.get(asked.operation_type, asked.operation_type)
    found = await ask.upstream.client.tasks(states, kind=kind, limit=asked.limit)
    return [operation_of(view) for view in found]


async def _view(ask: Ask) -> TaskView:
    return (await ask.upstream.client.show([ask.path["id"]]))[0]


async def operation(ask: Ask) -> Operation:
    """Tell everything about an operation, with its result once it is completed."""
    view = await _view(ask)
    done = view.state is State.SUCCEEDED
    value = (await outcome_of(ask.upstream.client, view.id)).value if done else None
    return operation_of(view, value)


async def metrics(ask: Ask) -> OperationMetrics:
    """Tell the metrics that an operation last told."""
    view = await _view(ask)
    return OperationMetrics(
        operation_id=view.id,
        status=STATUS[view.state],
        progress=_percent(view),
        metrics=view.metrics,
    )


async def cancel(ask: Ask) -> Operation:
    """Cancel an operation for good; one that has ended stays as it is."""
    view = await _view(ask)
    ask.note.update(id=view.id)
    if view.state not in TERMINAL:
        await ask.upstream.client.cancel([view.id], f"by {ask.caller.name}")
    return operation_of((await ask.upstream.client.show([view.id]))[0])


# --- start ------------------------------------------------------------------------------


class Strategy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `strategy_yaml` may hold: params of the kind `train_model`."""

    family: str
    target: str = TARGET
    features: list[str] | None = None
    epochs: int | None = None
    seed: int | None = None


class StartBacktest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Train a strategy on a symbol, and trade what it predicts."""

    strategy_name: Short
    symbol: Short
    timeframe: Short = "1d"
    start_date: Day | None = None
    end_date: Day | None = None
    model_path: Short | None = None
    task_id: Annotated[str, Meta(max_length=64)] | None = None


class StartTraining(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Train a strategy on a symbol."""

    strategy_name: Short | None = None
    strategy_yaml: Annotated[str, Meta(max_length=1 << 16)] | None = None
    symbols: Annotated[list[Short], Meta(min_length=1, max_length=100)]
    timeframe: Short | None = None
    timeframes: Annotated[list[Short], Meta(max_length=100)] = []
    start_date: Day | None = None
    end_date: Day | None = None
    force_gpu: bool | None = None
    prefer_gpu: bool | None = None
    training_config: dict[str, Any] = {}
    task_id: Annotated[str, Meta(max_length=64)] | None = None


class Started(Struct, frozen=True, kw_only=True):
    """What has begun."""

    success: bool
    operation_id: str
    worker_id: str | None  #: null while it waits: `/tasks/{id}/explain` tells why
    status: str  #: started, queued, or how it ended
    message: str
    warnings: list[str]  #: what of the request has no meaning here


async def start_backtest(ask: Ask) -> Started:
    """Train a strategy on a symbol and trade what it predicts; equal work is done once."""
    asked: StartBacktest = ask.body
    _check_timeframe("timeframe", asked.timeframe)
    train = Task(TRAIN, _named(asked.strategy_name, asked.symbol))
    trade = Task(BACKTEST, {}, after={"model": "#0"}, id=asked.task_id, name=asked.strategy_name)
    return await _start(ask, [train, trade], f"Backtest of {asked.strategy_name}", asked)


async def start_training(ask: Ask) -> Started:
    """Train a strategy on a symbol, on a GPU where one is to be had; equal work is done once."""
    asked: StartTraining = ask.body
    for index, frame in enumerate([asked.timeframe or "1d", *asked.timeframes]):
        _check_timeframe(f"timeframes[{index - 1}]" if index else "timeframe", frame)
    if len(asked.symbols) > 1:
        raise BadTask(path="symbols", why="start one operation for each symbol")
    if (asked.strategy_name is None) == (asked.strategy_yaml is None):
        raise BadTask(path="strategy_name", why="give this or strategy_yaml")
    [symbol] = asked.symbols
    params = (
        _written(asked.strategy_yaml, symbol)
        if asked.strategy_yaml is not None
        else _named(asked.strategy_name or "", symbol)
    )
    task = Task(TRAIN, params, needs=_needs(asked), id=asked.task_id)
    return await _start(ask, [task], f"Training on {symbol}", asked)


def _check_timeframe(path: str, frame: str) -> None:
    if frame.lower() != "1d":
        raise BadTask(path=path, why="the prices are daily; write 1d")


def _named(strategy: str, symbol: str) -> dict[str, Any]:
    family, _, target = strategy.partition("/")
    return {"symbol": symbol, "family": family, "target": target or TARGET}


def _written(text: str, symbol: str) -> dict[str, Any]:
    try:
        found = msgspec.convert(yaml.load(text, Loader), Strategy)
    except (yaml.YAMLError, msgspec.ValidationError, RecursionError) as bad:
        why = " ".join(str(bad).split())[:300]
        raise BadTask(path="strategy_yaml", why=why) from None
    fields = {name: getattr(found, name) for name in found.__struct_fields__}
    return {"symbol": symbol, **{name: one for name, one in fields.items() if one is not None}}


def _needs(asked: StartTraining) -> Needs:
    """`force_gpu` and `prefer_gpu`, at the top or in the config; a GPU is preferred."""

    def said(name: str, given: bool | None, default: bool) -> bool:
        value = asked.training_config.get(name, default) if given is None else given
        if not isinstance(value, bool):
            raise BadTask(path=f"training_config.{name}", why="must be true or false")
        return value

    if said("force_gpu", asked.force_gpu, False):
        return force_gpu(cpus=1, memory_gb=2)
    if said("prefer_gpu", asked.prefer_gpu, True):
        return prefer_gpu(cpus=1, memory_gb=2)
    return needs(cpus=1, memory_gb=2)


async def _start(
    ask: Ask, tasks: list[Task], what: str, asked: StartBacktest | StartTraining
) -> Started:
    client = ask.upstream.client
    submitted = (await submit_all(client, tasks))[-1]
    ask.note["ids"] = [submitted.id]
    looks, pause = PLACED
    [view] = await client.show([submitted.id])
    while not view.worker and view.state is State.QUEUED and looks:
        await asyncio.sleep(pause)
        [view] = await client.show([submitted.id])
        looks -= 1
    word = STATUS[view.state]
    return Started(
        success=True,
        operation_id=view.id,
        worker_id=view.worker or None,
        status={"pending": "queued", "running": "started"}.get(word, word),
        message=f"{what}: {view.state.value}",
        warnings=[*_meaningless(asked), *submitted.warnings],
    )


def _meaningless(asked: StartBacktest | StartTraining) -> list[str]:
    told = {
        "start_date": "every model is tested out of sample on the whole history",
        "end_date": "every model is tested out of sample on the whole history",
        "model_path": "the model is trained by a task of its own, once for equal work",
    }
    return [
        f"{name} was not used: {why}"
        for name, why in told.items()
        if getattr(asked, name, None) is not None
    ]


RESOURCES = (
    Resource("GET", "/workers", workers, list[Worker]),
    Resource("GET", "/workers/health", workers_health, FleetHealth),
    Resource("POST", "/workers/register", register, Nothing),
    Resource("GET", "/operations", operations, list[Operation], query=OperationFilter),
    Resource("GET", "/operations/{id}/metrics", metrics, OperationMetrics),
    Resource("DELETE", "/operations/{id}/cancel", cancel, Operation, role="client"),
    Resource("GET", "/operations/{id}", operation, Operation),
    Resource("POST", "/backtests/start", start_backtest, Started, "client", body=StartBacktest),
    Resource("POST", "/trainings/start", start_training, Started, "client", body=StartTraining),
)
