"""Work that changes the machine: begun until the runtime closes, which waits for its end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from corral.lab.runtime import RuntimeFailed


class Work:
    """The work of all threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._begun = 0
        self._over = False

    @contextmanager
    def one(self) -> Iterator[None]:
        """A piece of it.

        Raises:
            RuntimeFailed: it comes too late.
        """
        with self._changed:
            if self._over:
                raise RuntimeFailed("the lab ends, and begins nothing more")
            self._begun += 1
        try:
            yield
        finally:
            with self._changed:
                self._begun -= 1
                self._changed.notify_all()

    def end(self) -> None:
        """Let nothing begin any more, and wait for what is under way."""
        with self._changed:
            self._over = True
            self._changed.wait_for(lambda: self._begun == 0)
