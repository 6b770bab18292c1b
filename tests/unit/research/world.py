"""What the research tests share: a `Run` in memory, and prices whose future is shuffled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from corral.handlers import Cancelled, Handler, Run


class Checkpoints:
    """Keeps what was saved as the wire would carry it: packed, and unpacked as builtins."""

    def __init__(self, packed: bytes | None = None) -> None:
        self.packed = packed
        self.history: list[bytes] = []

    def load(self) -> Any:
        return None if self.packed is None else msgspec.msgpack.decode(self.packed)

    def save(self, state: Any) -> None:
        self.packed = msgspec.msgpack.encode(state)
        self.history.append(self.packed)


class FakeRun:
    """A `corral.handlers.Run` without broker and worker; `cancel_after` counts progress reports."""

    def __init__(
        self,
        parents: Mapping[str, Any] | None = None,
        *,
        cpus: float = 1.0,
        saved: bytes | None = None,
        cancel_after: int | None = None,
    ) -> None:
        self.id, self.attempt, self.gpus, self.cpus = "a1b2", 1, (), cpus
        self.workdir, self.soft_limit = Path("/nonexistent"), False
        self.parents = {name: msgspec.to_builtins(value) for name, value in (parents or {}).items()}
        self.checkpoint = Checkpoints(saved)
        self.told: list[tuple[float, dict[str, float]]] = []
        self.cancel_after = cancel_after

    def check_cancelled(self) -> None:
        if self.cancel_after is not None and len(self.told) >= self.cancel_after:
            raise Cancelled

    def progress(self, fraction: float, **metrics: float) -> None:
        self.told.append((fraction, metrics))


def do(handler: Handler, params: Any, run: Run | None = None, **parents: Any) -> Any:
    """What `handler` makes of `params`."""
    return handler.function(params, run or FakeRun(parents))


def shuffled_from(prices: pd.DataFrame, row: int, seed: int = 0) -> pd.DataFrame:
    """The same prices before `row`; from it on the same days in disorder, and dearer."""
    order = np.random.default_rng(seed).permutation(len(prices) - row)
    future = prices.iloc[row:].iloc[order] * 1.5
    future.index = prices.index[row:]
    return pd.concat([prices.iloc[:row], future])
