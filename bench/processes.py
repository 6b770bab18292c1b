"""Processes that the bench starts: a free port, start, wait until ready, stop by id, cost by /proc.

What runs in them is told by the peers and the figures.
"""

from __future__ import annotations

import os
import random
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from bench import ROOT

TICKS = os.sysconf("SC_CLK_TCK")
READY_SECONDS = 60.0
STOP_SECONDS = 5.0  # then it is killed: taskiq, for one, would wait for a minute


class BenchError(Exception):
    """A measurement could not be made, or came out wrong. The bench fails with this text."""


def free_port() -> int:
    """Returns a TCP port that is free on loopback, from below the ephemeral range.

    A port of that range can be taken as the source of any outgoing connection, even of the one that
    is looking for this very server: such a connection then talks to itself.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


@contextmanager
def process(
    *command: str | Path, log: Path, ready: Callable[[], bool] = lambda: True
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a command until the block ends; its output goes to `log`, and `ready` says when it is.

    Raises:
        BenchError: it ended before it was ready, or was not ready within a minute.
    """
    arguments = [str(part) for part in command]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with log.open("ab") as output:
        child = subprocess.Popen(arguments, stdout=output, stderr=output, env=environment)
    try:
        deadline = time.monotonic() + READY_SECONDS
        while not ready():
            if child.poll() is not None or time.monotonic() > deadline:
                state = "is not ready" if child.returncode is None else f"ended: {child.returncode}"
                raise BenchError(f"{' '.join(arguments)} {state}\n{tail(log)}")
            time.sleep(0.005)
        yield child
    finally:
        stop(child)


def await_true(condition: Callable[[], bool], what: str, seconds: float = READY_SECONDS) -> None:
    """Waits until a condition holds.

    Raises:
        BenchError: it did not in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise BenchError(f"after {seconds:g} s it is still not so that {what}")
        time.sleep(0.02)


def says(log: Path, text: str, times: int = 1) -> Callable[[], bool]:
    """Returns a condition: the log holds a text so many times."""
    return lambda: log.exists() and log.read_text(errors="replace").count(text) >= times


def accepts(port: int) -> Callable[[], bool]:
    """Returns a condition: somebody listens on a port of loopback."""

    def connected() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    return connected


def stop(child: subprocess.Popen[bytes]) -> None:
    """Ends a process by its id: asks first, then kills it with its children."""
    if child.poll() is None:
        family = psutil.Process(child.pid).children(recursive=True)
        child.terminate()
        try:
            child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        for orphan in family:  # psutil compares start times, so a reused id is never hit
            if orphan.is_running():
                orphan.kill()


def tail(log: Path, lines: int = 25) -> str:
    """Returns the end of a log file."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def cpu_seconds(pids: tuple[int, ...]) -> float:
    """Returns the CPU time that processes have used, user and system, all threads.

    Source: proc(5), fields 14 and 15 of stat.
    """
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def resident_bytes(pid: int) -> int:
    """Returns the resident memory of a process (proc(5), VmRSS of status)."""
    return _memory(pid, "VmRSS")


def peak_bytes(pid: int) -> int:
    """Returns the most memory that a process had resident so far (proc(5), VmHWM of status)."""
    return _memory(pid, "VmHWM")


def _memory(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise BenchError(f"process {pid} has no resident memory: it is ending")
