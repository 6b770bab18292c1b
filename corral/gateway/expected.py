"""Which workers ought to be there, by a file of names, and how those that are there differ from it.

The file is the inventory's, or a person's: one name a line, `#` begins a comment. It is read again
when it changes, so a fleet that grows needs no gateway that starts anew. What the difference is
shown as is the page's and the figures' matter.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from corral.errors import Usage
from corral.messages import WorkerView

log = logging.getLogger("corral.gateway")

MOST = 1 << 20  # bytes of the file
HEARD = frozenset({"live", "suspect"})  #: health of workers that are no news yet


class Difference(Struct, frozen=True, kw_only=True):
    """The expected fleet against the registered one."""

    expected: list[str] | None  #: null: nobody has said whom to expect
    silent: list[str]  #: expected, and not registered or not heard any more
    unknown: list[str]  #: registered, and expected by nobody


class Expected:
    """The file."""

    def __init__(self, path: Path) -> None:
        """Read it.

        Raises:
            Usage: it cannot be read.
        """
        self._path = path
        self._seen = (0, 0)
        self._names: list[str] = []
        try:
            self._read()
        except (OSError, ValueError) as bad:
            raise Usage(what=f"the expected workers cannot be read from {path}: {bad}") from None

    def names(self) -> list[str]:
        """Who is expected now. A file that cannot be read leaves it as it was, and is said once."""
        try:
            self._read()
        except (OSError, ValueError) as bad:
            if self._seen != (0, 0):
                log.error("the expected workers are as they were: %s: %s", self._path, bad)
            self._seen = (0, 0)
        return self._names

    def _read(self) -> None:
        stat = self._path.stat()
        seen = (stat.st_mtime_ns, stat.st_ino)
        if seen == self._seen:
            return
        if stat.st_size > MOST:
            raise ValueError(f"it has {stat.st_size:,} bytes, of at most {MOST:,}")
        lines = self._path.read_text(encoding="utf-8").splitlines()
        words = (line.partition("#")[0].strip() for line in lines)
        self._names = sorted({word for word in words if word})
        self._seen = seen


def difference(expected: Sequence[str] | None, workers: Sequence[WorkerView]) -> Difference:
    """How those that are there differ from those that ought to be."""
    if expected is None:
        return Difference(expected=None, silent=[], unknown=[])
    heard = {one.name for one in workers if one.health in HEARD}
    return Difference(
        expected=[*expected],
        silent=[name for name in expected if name not in heard],
        unknown=sorted({one.name for one in workers} - {*expected}),
    )
