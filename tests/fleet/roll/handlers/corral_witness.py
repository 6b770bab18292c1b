"""A kind for the workers of a fleet under test: `witness`, which leaves its traces outside Corral.

Every attempt appends a line to a file of its container when it begins and another when it ends:
`started|ended ID ATTEMPT SECONDS`. What was run, and how often, is counted there.
"""

from __future__ import annotations

import os
import time

import msgspec

from corral.handlers import Run, handler, needs

FILE = "/var/lib/corral-worker/witness"  # what a worker may write to, and what an update leaves


class Rest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Params of `witness`."""

    seconds: float


@handler("witness", needs=needs(cpus=0.0, memory_gb=0.0), version="1")
def witness(params: Rest, run: Run) -> int:
    """Rest between two lines, and return the attempt's number."""
    _write("started", run)
    time.sleep(params.seconds)
    _write("ended", run)
    return run.attempt


def _write(what: str, run: Run) -> None:
    file = os.open(FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, f"{what} {run.id} {run.attempt} {time.time():.3f}\n".encode())
    finally:
        os.close(file)
