"""A story of events and instructions: what the tests of the agent's mind are written in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec
import pytest

from corral.messages import (
    Assign,
    CancelAttempts,
    Ended,
    Extension,
    Finished,
    Item,
    Lane,
    Raw,
    Recall,
    ResultAck,
    Welcome,
)
from worker.core import Core, Machine
from worker.events import (
    Batch,
    ChildEnded,
    ChildSaid,
    Connected,
    Event,
    Heard,
    Instruction,
    Send,
    Spawn,
    Tell,
    Ticked,
)
from worker.pipe import Done, FromChild, Given, Ready, Work

T = TypeVar("T")
MACHINE = Machine(
    slots=2,
    kinds=frozenset({"echo", "train"}),
    cores=(0, 1, 2, 3),
    gpus=frozenset({"GPU-1", "GPU-2"}),
    spool_after=2.0,
)


def token(name: str | int) -> bytes:
    return f"token {name}".encode()


def item(name: str | int) -> Item:
    return Item(token(name), f"task {name}", 1, Raw(b"\x80"))


def lane(booking: int, *names: str | int, kind: str = "echo", **more: Any) -> Lane:
    fields = {"cpus": 0.0, "memory_gb": 0.0, "gpus": [], "run_limit": None, **more}
    return Lane(booking, kind, items=[item(name) for name in names], **fields)


class Story:
    """An agent's mind and what it was told. Every event is followed by a check of invariants."""

    def __init__(self, machine: Machine = MACHINE, spooled: list[Batch] | None = None) -> None:
        self.now = 1000.0
        self.core = Core(machine, spooled or [], self.now)
        self.out: list[Instruction] = []  #: what the last event led to

    def happens(self, event: Event) -> list[Instruction]:
        self.out = self.core.handle(event, self.now)
        self.core.check()
        return self.out

    def says(self, message: Extension | Any) -> list[Instruction]:
        """The broker says something."""
        return self.happens(Heard(message))

    def welcomed(self, *adopted: bytes, heartbeat: float = 2.0, lease: float = 10.0) -> Story:
        self.happens(Connected())
        self.says(Welcome(1, heartbeat, lease, 0.0, list(adopted)))
        return self

    def assigns(self, *lanes: Lane) -> list[Instruction]:
        return self.says(Assign(list(lanes)))

    def cancels(self, *names: str | int, grace: float = 5.0) -> list[Instruction]:
        return self.says(CancelAttempts([token(name) for name in names], "unwanted", grace))

    def recalls(self, *names: str | int) -> list[Instruction]:
        return self.says(Recall([token(name) for name in names]))

    def acks(self, *seqs: int) -> list[Instruction]:
        return self.says(ResultAck(list(seqs)))

    def child_says(self, child: int, message: FromChild) -> list[Instruction]:
        return self.happens(ChildSaid(child, message))

    def ready(self, child: int) -> list[Instruction]:
        return self.child_says(child, Ready())

    def done(self, child: int, count: int = 1, seconds: float = 0.1) -> list[Instruction]:
        """A child ended so many of its attempts, each of which took `seconds`."""
        ended = Raw(msgspec.msgpack.encode([Ended(b"", "ok")] * count))
        return self.child_says(child, Done(count, count * seconds, seconds, ended))

    def given(self, child: int, running: str | int | None, *back: str | int) -> list[Instruction]:
        """A child's answer to `GiveBack`."""
        runs = b"" if running is None else token(running)
        return self.child_says(child, Given(runs, self.now, [token(name) for name in back]))

    def dies(self, child: int, begun: int, how: str = "SIGSEGV") -> list[Instruction]:
        return self.happens(ChildEnded(child, how, begun))

    def passes(self, seconds: float) -> list[Instruction]:
        """Time passes; the mind is asked whenever it wants to be, and at the end."""
        until = self.now + seconds
        out: list[Instruction] = []
        for _ in range(1_000):
            due = self.core.next_deadline()
            if due > until:
                break
            self.now = max(self.now, due)
            out += self.happens(Ticked())
        else:
            raise AssertionError("the mind wants to be asked all the time")
        self.now = until
        out += self.happens(Ticked())
        self.out = out
        return out

    def learns(self, seconds: float, kind: str = "echo") -> Story:
        """Attempts of `kind` are known to take so long."""
        self.core.pace.learn(kind, 1, seconds)
        return self

    # --- what came of it ----------------------------------------------------------------

    def of(self, kind: type[T]) -> list[T]:
        """The instructions of one type that the last event led to."""
        return [one for one in self.out if isinstance(one, kind)]

    def sent(self, kind: type[T]) -> list[T]:
        """The messages of one type to the broker that the last event led to."""
        return [one.message for one in self.of(Send) if isinstance(one.message, kind)]

    def told(self, kind: type[T]) -> list[tuple[int, T]]:
        """The messages of one type to children that the last event led to."""
        return [(one.child, one.message) for one in self.of(Tell) if isinstance(one.message, kind)]

    def fed(self) -> dict[int, list[bytes]]:
        """Child -> tokens that the last event fed it."""
        return {child: [item.token for item in work.items] for child, work in self.told(Work)}

    def spawned(self) -> list[Spawn]:
        return self.of(Spawn)

    def outcomes(self) -> dict[bytes, str]:
        """Token -> outcome of the attempts whose end the agent itself reports."""
        return {
            ended.token: ended.outcome
            for finished in self.sent(Finished)
            if isinstance(finished.items, list)
            for ended in finished.items
        }


@pytest.fixture
def story() -> Iterator[Story]:
    """An agent that was just started. Its invariants are checked after every event."""
    told = Story()
    yield told
    told.core.check()
