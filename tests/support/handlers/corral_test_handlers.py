"""Handlers that misbehave on purpose: they leave marks, hold locks, fail, hang, eat memory, die.

This folder is an installed distribution in the eyes of `importlib.metadata`: a module and the
`.dist-info` that names its entry points. A worker with the folder on PYTHONPATH finds and announces
these kinds beside the built-in ones; `tests.support.kinds.environment()` gives such an environment.

| kind | what it does |
| --- | --- |
| `mark` | writes a file of its own for its start, sleeps, returns |
| `gpu_lock` | the same with a lock for each GPU it holds; a lock that is held is a loud failure |
| `fail` | raises an error of a given type in its first attempts |
| `hog` | allocates memory and touches it |
| `share` | forks, so that processes share what it holds |
| `spawn` | starts processes that sleep, in its own session and in others |
| `crash` | kills its own process |
| `slow_checkpoint` | counts slowly, and saves where it is |
| `chatter` | writes to standard output in every way there is |
| `leak` | opens files until it may open no more |
| `surroundings` | returns environment, cores, folder and process ids |
| `odd_result` | returns what does not travel, or too much |
| `progress_twice` | tells its progress twice, then is silent |
| `stubborn` | ignores every wish to stop |
| `spin` | keeps a core busy |
| `hold_gil` | keeps every other thread of its process from running |
| `lacks_module`, `lacks_extra` | need what is not installed |
"""

from __future__ import annotations

import builtins
import ctypes
import fcntl
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import msgspec

from corral.handlers import Run, force_gpu, handler, needs

WAITS = needs(cpus=0.0)


class Mark(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Params of `mark` and `gpu_lock`."""

    folder: str  #: where the marks are written
    seconds: float = 0.0


def leave_mark(folder: str, run: Run, **more: Any) -> Path:
    """Write that this attempt began: one file for each start, so that none can hide another.

    Named `<task id>.<attempt>.<ns since boot>.<pid>.json`; synced, so that it outlives a kill.
    """
    at = time.time()
    name = f"{run.id}.{run.attempt}.{time.monotonic_ns()}.{os.getpid()}"
    path = Path(folder, f"{name}.json")
    fresh = path.with_suffix(".new")
    content = {"id": run.id, "attempt": run.attempt, "at": at, "pid": os.getpid(), **more}
    with fresh.open("w") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)
    return path


def rest(seconds: float, run: Run) -> None:
    """Sleep, and stop when the task is cancelled."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        run.check_cancelled()
        time.sleep(min(0.05, left))


@handler("mark", needs=WAITS, version="1")
def mark(params: Mark, run: Run) -> str:
    """Leave a mark, sleep, and return the mark's path."""
    path = leave_mark(params.folder, run)
    rest(params.seconds, run)
    return str(path)


@handler("gpu_lock", needs=force_gpu(cpus=0.0), version="1")
def gpu_lock(params: Mark, run: Run) -> list[str]:
    """Hold a lock file `<uuid>.lock` for each GPU, without waiting for it, while it sleeps.

    A lock that is held already means that one card was given twice: that is written to
    `<uuid>.clash` beside it, and the process dies, so that no retry can hide it.
    """
    leave_mark(params.folder, run, gpus=list(run.gpus))
    with ExitStack() as locks:
        for gpu in run.gpus:
            lock = locks.enter_context(Path(params.folder, f"{gpu}.lock").open("a+"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.seek(0)
                clash = f"{run.id} attempt {run.attempt} met {lock.read()}"
                Path(params.folder, f"{gpu}.clash").write_text(clash)
                os.kill(os.getpid(), signal.SIGKILL)
            lock.truncate(0)
            lock.write(f"{run.id} attempt {run.attempt}")
            lock.flush()
        rest(params.seconds, run)
    return list(run.gpus)


class Fail(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Params of `fail`."""

    error: str = "ValueError"  #: a built-in exception
    message: str = "as asked"
    times: int = 1_000_000  #: attempts that fail; the next one succeeds


@handler("fail", needs=WAITS, never=("TypeError",), version="1")
def fail(params: Fail, run: Run) -> int:
    """Raise in the first `times` attempts, then return the attempt's number."""
    if run.attempt <= params.times:
        raise getattr(builtins, params.error)(params.message)
    return run.attempt


class Hog(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Params of `hog`."""

    gb: float
    seconds: float = 5.0
    in_child: bool = False  #: let a process of its own hold the memory


@handler("hog", needs=needs(cpus=0.0, memory_gb=0.5), version="1")
def hog(params: Hog, run: Run) -> int:
    """Fill `gb` GiB step by step, hold them for a while, and return the number of bytes."""
    if params.in_child:
        code = f"import time; held = b'x' * {int(params.gb * (1 << 30))}; time.sleep(60)"
        subprocess.run([sys.executable, "-c", code], check=True)
    held = []
    step = 1 << 24
    while len(held) * step < params.gb * (1 << 30):
        held.append(b"x" * step)
        time.sleep(0.001)
    rest(params.seconds, run)
    return len(held) * step


class Share(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Params of `share`."""

    gb: float
    forks: int
    seconds: float


@handler("share", needs=needs(cpus=0.0, memory_gb=0.5), version="1")
def share(params: Share, run: Run) -> None:
    """Fill `gb` GiB and fork, so that several processes hold the same pages."""
    held = b"x" * int(params.gb * (1 << 30))
    forks = []
    for _ in range(params.forks):
        fork = os.fork()
        if fork == 0:
            time.sleep(params.seconds)
            os._exit(len(held) * 0)
        forks.append(fork)
    for fork in forks:
        os.waitpid(fork, 0)


class Spawn(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Params of `spawn`."""

    folder: str  #: where the ids of the processes are written, one file each
    seconds: float = 60.0


@handler("spawn", needs=WAITS, version="1")
def spawn(params: Spawn, run: Run) -> list[int]:
    """Start three processes: a plain one, one in a session of its own, and one whose parent ended.

    Their ids are in files of the folder, named `<task id>.<what>.pid`. Sleeps without looking
    whether it is cancelled.
    """
    code = f"import time; time.sleep({params.seconds + 60})"
    plain = subprocess.Popen([sys.executable, "-c", code])
    apart = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    orphan = os.fork()
    if orphan == 0:
        os.setsid()
        grandchild = os.fork()
        if grandchild == 0:
            time.sleep(params.seconds + 60)
            os._exit(0)
        Path(params.folder, f"{run.id}.orphan.pid").write_text(str(grandchild))
        os._exit(0)
    os.waitpid(orphan, 0)
    Path(params.folder, f"{run.id}.apart.pid").write_text(str(apart.pid))
    Path(params.folder, f"{run.id}.plain.pid").write_text(str(plain.pid))
    time.sleep(params.seconds)
    return [plain.pid, apart.pid]


class Crash(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Params of `crash`."""

    how: str = "SIGKILL"  #: a signal's name, `exit` or `_exit`
    times: int = 1_000_000  #: attempts that crash; the next one returns


@handler("crash", needs=WAITS, version="1")
def crash(params: Crash, run: Run) -> int:
    """End this process, in the first `times` attempts."""
    if run.attempt <= params.times:
        if params.how == "exit":
            sys.exit(3)
        if params.how == "_exit":
            os._exit(4)
        os.kill(os.getpid(), getattr(signal, params.how))
        time.sleep(10)
    return run.attempt


class Count(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Params of `slow_checkpoint`."""

    to: int = 10
    seconds: float = 0.1  #: for each number
    polite: bool = True  #: stops when asked; else only looks at `soft_limit`, and returns early


class Counted(msgspec.Struct, frozen=True):
    """Result of `slow_checkpoint`."""

    reached: int
    began_at: int  #: where the checkpoint let it begin
    warned: bool


@handler("slow_checkpoint", needs=WAITS, version="1")
def slow_checkpoint(params: Count, run: Run) -> Counted:
    """Count to `to`, telling progress, and begin where an earlier attempt stopped."""
    state = run.checkpoint.load() or {"reached": 0}
    reached = began_at = state["reached"]
    warned = False
    while reached < params.to:
        time.sleep(params.seconds)
        reached += 1
        run.progress(reached / params.to, reached=reached)
        if run.soft_limit and not warned:
            warned = True
            run.checkpoint.save({"reached": reached})
            if not params.polite:
                break
        if params.polite:
            run.check_cancelled()
    return Counted(reached, began_at, warned)


class Chatter(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Params of `chatter`."""

    words: str
    seconds: float = 0.0
    ways: tuple[str, ...] = ("print", "stderr", "descriptor", "process")


@handler("chatter", needs=WAITS, version="1")
def chatter(params: Chatter, run: Run) -> None:
    """Write `<words> by <way>` in each way, then sleep."""
    for way in params.ways:
        text = f"{params.words} by {way}"
        if way == "print":
            print(text)
        elif way == "stderr":
            print(text, file=sys.stderr)
        elif way == "descriptor":
            os.write(1, f"{text}\n".encode())
        elif way == "process":
            subprocess.run(["echo", text], check=True)
        elif way == "logging":
            logging.warning(text)
    time.sleep(params.seconds)


LEAKED: list[int] = []


@handler("leak", needs=needs(cpus=0.0, memory_gb=0.5), version="1")
def leak(params: Any, run: Run) -> int:
    """Open files until this process may open no more, and return how many."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, most))
    with suppress(OSError):
        while True:
            LEAKED.append(os.open(os.devnull, os.O_RDONLY))
    return len(LEAKED)


@handler("surroundings", needs=WAITS, version="1")
def surroundings(params: dict[str, float], run: Run) -> dict[str, Any]:
    """What this process sees of itself. With `seconds` it sleeps before it returns."""
    run.workdir.joinpath("scratch").write_text("x")
    seen = {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "environment": dict(os.environ),
        "cores": sorted(os.sched_getaffinity(0)),
        "gpus": list(run.gpus),
        "cpus": run.cpus,
        "attempt": run.attempt,
        "workdir": str(run.workdir),
        "parents": dict(run.parents),
    }
    time.sleep(params.get("seconds", 0.0))
    return seen


@handler("odd_result", needs=WAITS, version="1")
def odd_result(params: dict[str, Any], run: Run) -> Any:
    """Return what is asked: `object`, `numpy`, `huge` (an integer), or so many bytes."""
    what = params["what"]
    if what == "numpy":
        import numpy as np

        return {"score": np.float64(0.5)}
    if what == "huge":
        return 1 << 70
    return object() if what == "object" else b"x" * int(what)


@handler("stubborn", needs=WAITS, version="1")
def stubborn(params: dict[str, float], run: Run) -> float:
    """Sleep `seconds` in one piece, whatever anybody wants."""
    time.sleep(params["seconds"])
    return params["seconds"]


@handler("progress_twice", needs=WAITS, version="1")
def progress_twice(params: dict[str, float], run: Run) -> None:
    """Tell progress twice at once, then be silent for `seconds`."""
    run.progress(0.25, loss=0.5)
    run.progress(0.5, loss=0.25)
    time.sleep(params["seconds"])


@handler("spin", needs=needs(cpus=1.0), version="1")
def spin(params: dict[str, float], run: Run) -> int:
    """Keep a core busy for `seconds`."""
    until = time.monotonic() + params["seconds"]
    turns = 0
    while time.monotonic() < until:
        turns += 1
    return turns


@handler("hold_gil", needs=WAITS, version="1")
def hold_gil(params: dict[str, float], run: Run) -> None:
    """Sleep `seconds` in C without letting any other thread of this process run."""
    ctypes.PyDLL(None).sleep(int(params["seconds"]))


@handler("lacks_module", needs=WAITS, version="1")
def lacks_module(params: Any, run: Run) -> None:
    """Import what nobody has."""
    import cheese_of_the_moon  # type: ignore[import-not-found]  # noqa: F401 - it is not there


@handler("lacks_extra", needs=WAITS, version="1")
def lacks_extra(params: Any, run: Run) -> None:
    """Never runs: its entry point names an extra that is not installed."""
