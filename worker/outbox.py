"""What the broker does not yet have for certain: results, and the latest checkpoints. Pure.

Results are kept until they are acknowledged, and said again in every new session; on disk too when
much work stands behind them, and all of them whenever the broker is away. Of checkpoints only the
latest of each attempt counts. Every method returns instructions; `worker.core` decides when.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from msgspec import Struct

from corral.messages import Checkpoint, Ended, Finished, Raw
from worker.events import Batch, Forget, Instruction, Keep, Send

SAVE_EVERY = 1.0  # seconds between checkpoints that are sent; the last one always is


class _Stored(Struct):
    """The checkpoint that an attempt saved last."""

    data: bytes
    sent: bool = False


class Outbox:
    """Results and checkpoints of one agent."""

    def __init__(self, spooled: Iterable[Batch], spool_after: float, now: float) -> None:
        self.is_open = False  #: the broker has welcomed us, so things can be sent
        self._spool_after = spool_after
        self._batches: dict[int, Batch] = {batch.seq: batch for batch in spooled}
        self._seq = max(self._batches, default=0)
        self._checkpoints: dict[bytes, _Stored] = {}
        self._saved_at = now

    def __bool__(self) -> bool:
        """Whether results wait to be acknowledged."""
        return bool(self._batches)

    @property
    def tokens(self) -> list[bytes]:
        """The attempts whose results are here."""
        return [token for batch in self._batches.values() for token in batch.tokens]

    def opened(self, now: float) -> list[Instruction]:
        """A session has begun: say everything.

        Results that the broker did not adopt too: it frees what they held when it hears of them.
        """
        self.is_open = True
        return self._send_checkpoints(now) + [_say(batch) for batch in self._batches.values()]

    def closed(self) -> list[Instruction]:
        """The session is over: nothing of it counts as received."""
        self.is_open = False
        for stored in self._checkpoints.values():
            stored.sent = False
        return self.keep()

    def keep(self) -> list[Instruction]:
        """Put on disk what is in memory alone."""
        return _keep(self._batches.values())

    # --- results ------------------------------------------------------------------------

    def put(
        self, tokens: list[bytes], items: Raw | list[Ended], longest: float
    ) -> list[Instruction]:
        """Results of these attempts, the longest of which ran so many seconds."""
        self._seq += 1
        batch = self._batches[self._seq] = Batch(self._seq, tokens, items)
        out: list[Instruction] = []
        if self._checkpoints:
            for token in tokens:
                out += self._send_checkpoint(token)
        if longest >= self._spool_after or not self.is_open:
            out += _keep([batch])
        if self.is_open:
            out.append(_say(batch))
        return out

    def acked(self, seqs: Iterable[int]) -> list[Instruction]:
        """The broker has these on stable storage."""
        batches = [batch for seq in seqs if (batch := self._batches.pop(seq, None)) is not None]
        if self._checkpoints:
            for batch in batches:
                for token in batch.tokens:
                    self._checkpoints.pop(token, None)
        on_disk = [batch.seq for batch in batches if batch.on_disk]
        return [Forget(on_disk)] if on_disk else []

    # --- checkpoints --------------------------------------------------------------------

    def save(self, token: bytes, data: bytes, now: float) -> list[Instruction]:
        """An attempt saved its state."""
        self._checkpoints[token] = _Stored(data)
        return self._send_checkpoints(now) if now >= self._saved_at + SAVE_EVERY else []

    @property
    def due(self) -> float | None:
        """When `tick` has a checkpoint to send; None: there is none that could be sent."""
        if self.is_open and any(not stored.sent for stored in self._checkpoints.values()):
            return self._saved_at + SAVE_EVERY
        return None

    def tick(self, now: float) -> list[Instruction]:
        """Time has passed."""
        due = self.due
        return self._send_checkpoints(now) if due is not None and now >= due else []

    def _send_checkpoints(self, now: float) -> list[Instruction]:
        self._saved_at = now
        return [one for token in self._checkpoints for one in self._send_checkpoint(token)]

    def _send_checkpoint(self, token: bytes) -> list[Instruction]:
        stored = self._checkpoints.get(token)
        if stored is None or stored.sent or not self.is_open:
            return []
        stored.sent = True
        return [Send(Checkpoint(token, stored.data))]

    # --- invariants ---------------------------------------------------------------------

    def check(self, running: Iterable[bytes]) -> None:
        """Nothing has ended that runs; without a session everything is on disk."""
        assert set(running).isdisjoint(self.tokens), "an attempt runs and has ended"
        for seq, batch in self._batches.items():
            assert batch.seq == seq <= self._seq
            assert batch.on_disk or self.is_open
        assert self._checkpoints.keys() <= {*running, *self.tokens}, "a checkpoint of nobody"


def _say(batch: Batch) -> Instruction:
    # An agent does not decode results: what a child packed goes out as it came.
    return Send(Finished(batch.seq, cast("list[Ended]", batch.items)))


def _keep(batches: Iterable[Batch]) -> list[Instruction]:
    fresh = [batch for batch in batches if not batch.on_disk]
    for batch in fresh:
        batch.on_disk = True
    return [Keep(fresh)] if fresh else []
