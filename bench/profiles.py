"""Where a broker's time goes: py-spy samples it from outside, samples are summed by function.

Off unless the environment names a folder for the samples: sampling slows what it looks at, so a
figure is never taken from a sampled run.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import BIN

FOLDER = "BENCH_SAMPLES"
RATE = 200  # samples per second
MOST = 15  # functions shown


@dataclass(frozen=True)
class Share:
    """A function's part of the samples in which its thread was busy."""

    function: str
    # on top of the stack, with the C code that it calls
    itself: float
    # anywhere on the stack
    total: float


@contextmanager
def sampled(pid: int) -> Iterator[None]:
    """Samples a process while the block runs, if the environment says so."""
    folder = os.environ.get(FOLDER)
    if folder is None:
        yield
        return
    command = [
        f"{BIN}/py-spy", "record", "--pid", str(pid), "--rate", str(RATE), "--duration", "3600",
        "--function", "--format", "raw", "--output", f"{folder}/{pid}.samples",
    ]  # fmt: skip
    with Path(folder, "py-spy.log").open("ab") as log:
        sampler = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield
    finally:
        sampler.send_signal(signal.SIGINT)  # it writes what it has
        sampler.wait(60)


def shares(folder: Path) -> list[Share]:
    """Returns the functions with the most samples of their own."""
    itself: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for path in folder.glob("*.samples"):
        for line in path.read_text().splitlines():
            stack, _, count = line.rpartition(" ")
            frames = stack.split(";")
            itself[frames[-1]] += int(count)
            total.update(dict.fromkeys(frames, int(count)))
    samples = itself.total()
    return [
        Share(name, own / samples, total[name] / samples) for name, own in itself.most_common(MOST)
    ]
