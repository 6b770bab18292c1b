"""What the four kinds have in common: equal work is one task, and some failures are final.

The handlers themselves live in `ranking`, `selection`, `training` and `backtest`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from corral.handlers import Run, handler
from corral.research import datasets

# They show results and plan tasks, but compute none: changing them must not repeat finished work.
_NOT_COMPUTING = frozenset({"charts.py", "document.py", "pipeline.py", "report.py"})


def code_version(folder: Path = Path(__file__).parent) -> str:
    """A digest of the source that computes results: `folder` without what shows and plans them."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(folder.glob("*.py")):
        if path.name not in _NOT_COMPUTING:
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


#: `handler` for kinds that are a pure function of params, parents, code and data. What such a
#: function refuses (ValueError) it would refuse again, so a retry is no use.
research_kind = partial(
    handler,
    identity="content",
    version=code_version(),
    data=datasets.snapshot,
    never=("ValueError", "DataChanged", "MissingExtra"),
)


@contextmanager
def threads_of(run: Run) -> Iterator[int]:
    """Linear algebra inside this block uses no more threads than the attempt holds cores."""
    with datasets.research_extra():
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it has none

    threads = max(1, int(run.cpus))
    with threadpool_limits(threads):
        yield threads
