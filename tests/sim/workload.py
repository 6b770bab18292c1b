"""What is submitted: the kinds of the simulated fleet, and tasks with params that say how they go.

A handler of this world does what its params tell it: run `t` seconds, end as `do` says while the
attempt's number is at most `k`, and succeed after that. It really uses the named things in `uses`.
"""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec

from corral.messages import Kind, Raw
from corral.tasks import Needs, Retry, Spec, Variant, force_gpu, needs, prefer_gpu

pack = msgspec.msgpack.Encoder().encode
unpack = msgspec.msgpack.Decoder().decode

NAMED = {"ib_gateway": 2, "license": 3}
WEIGHTS = {"alpha": 2.0}
SCARCE = ("gateway", "pair", "rare")  # little of what they need is there
PROJECTS = ("", "alpha", "beta")
PRIORITIES = (0, 0, 0, 0, 5, 5, 10)
CURRENT = Retry(limit=2, lost_limit=6, poison_limit=3, delay=0.5, max_delay=8.0, never=("Fatal",))


def kind_of(name: str, wants: Needs, **more: Any) -> Kind:
    """A kind that anything can be sent to."""
    return Kind(name, needs=wants, **more)


KINDS: dict[str, Kind] = {
    kind.kind: kind
    for kind in (
        kind_of("work", needs(1.0)),
        kind_of("tiny", needs(0.0)),
        kind_of("train", prefer_gpu(2.0, 4.0), strategy="affinity"),
        kind_of("force", force_gpu(1.0, 2.0, gpu_memory_gb=20.0)),
        kind_of("pair", (Variant(cpus=2.0, memory_gb=4.0, gpus=2),)),
        kind_of("fat", needs(4.0, 16.0), strategy="least_loaded"),
        kind_of("gateway", needs(0.5, named={"ib_gateway": 1}), strategy="round_robin"),
        kind_of("select", needs(1.0, 1.0), content=True, code_version="1", data_snapshot="d"),
        kind_of("rare", needs(1.0, 1.0)),
    )
}


def drifting(version: int) -> Kind:
    """A kind whose code, and with it what it needs, changes as workers are updated."""
    more = 1.0 + version % 3
    return kind_of("drift", needs(more, 2.0 * more), code_version=str(version))


def plain_kind(index: int) -> str:
    """A service of plain Majordomo workers."""
    return f"plain.{index}"


class Mix:
    """Makes tasks."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.count = 0

    def params(self, t: float, do: str = "ok", k: int = 0, **more: Any) -> Raw:
        """Params that no other task has."""
        self.count += 1
        return Raw(pack({"n": self.count, "t": t, "do": do, "k": k, **more}))

    def one(self) -> Spec:
        """A task of its own."""
        random = self.random
        kind = random.choices(
            ("work", "train", "force", "pair", "fat", "gateway", "drift", "rare"),
            (40, 12, 6, 2, 8, 6, 8, 4),
        )[0]
        lengths = (
            (0.05, 0.5, 2.0, 5.0) if kind in SCARCE else (0.05, 0.5, 2.0, 5.0, 5.0, 12.0, 30.0)
        )
        seconds = random.choice(lengths) * (0.5 + random.random())
        do, k, more = self._fate()
        wants: Needs | None = None
        uses: dict[str, int] = {"ib_gateway": 1} if kind == "gateway" else {}
        if kind == "work" and random.random() < 0.3:
            wants, uses = self._needs()
        if do == "oom":
            more["gb"] = random.choice((3.0, 4.0, 40.0))
            wants = (Variant(cpus=1.0, memory_gb=2.0),)
            kind, uses = "work", {}
        return Spec(
            kind,
            self.params(seconds, do, k, uses=uses, **more),
            needs=wants,
            priority=random.choice(PRIORITIES),
            project=random.choice(PROJECTS),
            retry=CURRENT if random.random() < 0.8 else None,
            run_limit=random.choice((None, None, None, 20.0)),
            queue_limit=random.uniform(3.0, 90.0) if random.random() < 0.06 else None,
            caches=("prices",) if kind == "train" and random.random() < 0.5 else (),
        )

    def _fate(self) -> tuple[str, int, dict[str, Any]]:
        random = self.random
        do = random.choices(
            ("ok", "error", "fatal", "oom", "killed", "hang", "refused", "handed_back"),
            (80, 8, 2, 3, 3, 2, 1, 1),
        )[0]
        k = 0 if do == "ok" else random.choice((1, 1, 2, 99))
        return do, 1 if do == "handed_back" else k, {}

    def _needs(self) -> tuple[Needs, dict[str, int]]:
        random = self.random
        roll = random.random()
        if roll < 0.3:
            return (Variant(cpus=2.0, memory_gb=8.0),), {}
        if roll < 0.5:
            return (Variant(cpus=1.0, labels={"zone": random.choice("ab")}),), {}
        if roll < 0.7:
            return (Variant(cpus=0.5, named={"license": 2}),), {"license": 2}
        if roll < 0.9:
            return (Variant(cpus=3.0, memory_gb=24.0), Variant(cpus=1.0, memory_gb=2.0)), {}
        return (Variant(cpus=64.0),), {}  # no worker has that

    def burst(self) -> list[Spec]:
        """More than there is room for, of what little there is, and of what needs much at once."""
        random = self.random
        kinds, lengths = random.choice(
            (
                (("gateway", "force", "pair", "train", "fat", "fat", "rare"), (0.3, 2.0, 4.0)),
                (("train", "train", "force", "fat"), (4.0, 8.0, 12.0)),
            )
        )
        specs = []
        for _ in range(random.randrange(20, 60)):
            kind = random.choice(kinds)
            uses = {"ib_gateway": 1} if kind == "gateway" else {}
            params = self.params(random.choice(lengths), uses=uses)
            specs.append(Spec(kind, params, priority=random.choice(PRIORITIES)))
        return specs

    def tiny(self, count: int) -> list[Spec]:
        """Many short tasks of one class."""
        priority = self.random.choice((0, 0, 5))
        return [
            Spec("tiny", self.params(0.001 + 0.004 * self.random.random()), priority=priority)
            for _ in range(count)
        ]

    def content(self) -> Spec:
        """A task that its content identifies; one of few, so that equal ones meet."""
        n = self.random.randrange(400)
        do, k = ("error", 99) if n % 10 == 0 else ("error", 1) if n % 10 == 1 else ("ok", 0)
        body = {"n": -n, "t": 0.5 + n % 7, "do": do, "k": k}
        # Who submits it again may ask for another order of the params; it is the same content.
        items = list(body.items())
        self.random.shuffle(items)
        return Spec(
            "select", Raw(pack(dict(items))), priority=self.random.choice(PRIORITIES), retry=CURRENT
        )

    def graph(self) -> list[Spec]:
        """Tasks that wait for each other: a fan, a chain, or anything."""
        random = self.random
        size = random.randrange(2, 12)
        shape = random.choice(("fan", "chain", "any"))
        specs: list[Spec] = []
        for index in range(size):
            spec = self.content() if random.random() < 0.2 else self.one()
            after: dict[str, str] = {}
            if index and shape == "chain":
                after = {"before": f"#{index - 1}"}
            elif index and shape == "fan":
                after = {"root": "#0"} if index < size - 1 else {}
                if index == size - 1:
                    after = {f"p{i}": f"#{i}" for i in range(1, index)} or {"root": "#0"}
            elif index:
                picked = random.sample(range(index), random.randrange(0, min(index, 3) + 1))
                after = {f"p{i}": f"#{i}" for i in picked}
            specs.append(msgspec.structs.replace(spec, after=after))
        return specs
