"""The world: one broker, its fleet and its clients, for one hour of virtual time.

The first part of the hour has faults; in the quiet period nothing fails any more, everything that
can run must end, and every client asks once more for all its outcomes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from corral.messages import Document, Gpu, Kind, Outcome
from corral.settings import BrokerSettings
from corral.tasks import Spec
from tests.sim.clients import Operator, Researcher
from tests.sim.engine import Engine
from tests.sim.faults import Faults
from tests.sim.history import Entry, History, plain_needs
from tests.sim.network import Host, Network
from tests.sim.plain import PlainClient, PlainWorker, TitanicClient
from tests.sim.process import BrokerProcess
from tests.sim.workers import NativeWorker
from tests.sim.workload import KINDS, NAMED, WEIGHTS, Mix, drifting, plain_kind

HOUR = 3600.0
QUIET = 600.0  # seconds without faults at the end
SAMPLE = 5.0
EVERY = 10.0  # seconds between two faults, on average
SETTINGS = BrokerSettings(
    gone_after=120.0,
    prefer_gpu_wait=20.0,
    cancel_grace=5.0,
    plain_run_limit=60.0,
    plain_queue_limit=250.0,
    in_memory=300,
    inline_result=200,
    named=NAMED,
    weights=WEIGHTS,
)


@dataclass(frozen=True)
class Report:
    """What one hour was."""

    seed: int
    events: int
    faults: int
    entries: int
    tasks: int
    attempts: int
    broker_deaths: int
    folds: int
    refusals: int
    exceptions: int
    digest: int
    cpu: float  #: seconds


class World:
    """Everything there is."""

    def __init__(
        self,
        seed: int,
        hours: float,
        see: Callable[[Entry], None],
        strict: bool = True,
        every: float = EVERY,
    ) -> None:
        self.seed = seed
        self.arguments = f"--seed {seed} --hours {hours:g} --every {every:g}"
        self.ends = hours * HOUR
        self.quiet_at = self.ends - min(QUIET, self.ends / 3)
        self.quiet = self.auditing = False
        self.engine = Engine(seed)
        self.history = History(self.engine, self._seeing(see))
        self.mix = Mix(self.engine.random)
        self.version = 1  #: of the drifting kind
        self.hosts: list[Host] = []
        self.network = Network(self.engine)
        self.network.router.on_gap = lambda name, since: self.history.log(
            "contact", worker=name, since=since
        )
        self.process = BrokerProcess(self, SETTINGS, strict)
        self.tokens: list[bytes] = []  #: of late attempts, for those who forge
        self.tasks = self.attempts = 0
        self.owned: dict[str, None] = {}  #: ids that some client was told
        self.named_specs: dict[int, Spec] = {}
        self._describe()
        self.workers = [NativeWorker(self, document) for document in fleet(self.engine)]
        self.plain_workers = [
            PlainWorker(self, f"plain{index}", 1 + index % 2, plain_kind(index % 2))
            for index in range(4)
        ]
        self.researchers = [
            Researcher(self, f"client{index}", pace) for index, pace in enumerate((4, 8, 12, 16))
        ]
        self.operator = Operator(self, "operator")
        for dialect in (1, 2):
            PlainClient(self, f"asker{dialect}", dialect)
        for index in range(3):
            TitanicClient(self, f"titanic{index}")
        self.faults = Faults(self, every)

    def _describe(self) -> None:
        settings = SETTINGS
        self.history.log(
            "settings",
            seed=self.seed,
            named=settings.named,
            unavailable_after=settings.unavailable_after,
            gone_after=settings.gone_after,
            adoption_window=settings.adoption_window,
            heartbeat=settings.heartbeat,
            plain_run_limit=settings.plain_run_limit,
            kinds={name: plain_needs(kind.needs) for name, kind in KINDS.items()},
        )

    def _seeing(self, see: Callable[[Entry], None]) -> Callable[[Entry], None]:
        def look(entry: Entry) -> None:
            what = entry["what"]
            if what == "start":
                self.attempts += 1
                self.tokens = [*self.tokens[-60:], entry["token"]]
            elif what == "accepted":
                self.tasks += len(entry["ids"]) - len(entry["known"])
            see(entry)

        return look

    def run(self) -> Report:
        """Let the hour pass."""
        began = time.process_time()
        engine = self.engine
        logger = logging.getLogger("corral.broker")
        level = logger.level
        logger.setLevel(logging.CRITICAL + 1)
        try:
            with self.process.clock():
                self.process.start()
                starts = [worker.start for worker in self.workers]
                starts += [worker.start for worker in self.plain_workers]
                for start in starts:
                    engine.after(engine.between(0.0, 4.0), start)
                engine.after(SAMPLE, self._sample)
                engine.at(self.quiet_at, self._calm)
                engine.at(self.quiet_at + (self.ends - self.quiet_at) * 0.7, self._audit)
                engine.run(self.ends)
                self.process.check()
                self.history.log("stop")
        finally:
            logger.setLevel(level)
        return Report(
            seed=self.seed,
            events=engine.events,
            faults=self.faults.done.total(),
            entries=len(self.history.entries),
            tasks=self.tasks,
            attempts=self.attempts,
            broker_deaths=self.process.deaths,
            folds=self.process.disk.folds,
            refusals=self.process.disk.refusals,
            exceptions=len(self.process.exceptions),
            digest=self.history.digest,
            cpu=time.process_time() - began,
        )

    def _calm(self) -> None:
        """Mend everything."""
        self.quiet = True
        self.process.disk.room = None
        self.process.disk.slow = 0.0
        self.process.doom = ""
        for host in self.hosts:
            host.slow = 0.0
            if not (host.up and host.down):
                self.network.heal(host)
        for worker in self.workers:
            worker.start()
        for plain in self.plain_workers:
            plain.kill()  # one that hangs would hang for ever
            plain.start()
        self.history.log("quiet")

    def _audit(self) -> None:
        """Every client asks for everything again."""
        self.auditing = True
        self.history.log("audit")

    def _sample(self) -> None:
        self.engine.after(SAMPLE, self._sample)
        healthy = [
            worker.name
            for worker in self.workers
            if worker.up
            and worker.welcomed
            and worker.frozen is None
            and not worker.leaving
            and worker.host.up
            and worker.host.down
            and not worker.host.slow
            and worker.socket is not None
            and worker.socket.link is not None
            and worker.socket.link.greeted
        ]
        self.history.log("sample", healthy=healthy)

    # --- what actors ask --------------------------------------------------------------------

    def kind_now(self, kind: Kind) -> Kind:
        """The kind as a worker that starts now announces it."""
        return drifting(self.version) if kind.kind == "drift" else kind

    def fetch(self, outcome: Outcome) -> bytes:
        """The value of an outcome, as `corral.blob` gives it when it is large."""
        return self.process.disk.blobs[outcome.blob] if outcome.blob else bytes(outcome.value)

    def token_on(self, worker: NativeWorker, token: bytes) -> bool:
        """Whether a worker has anything to do with a token."""
        held = [e.token for items in worker.unacked.values() for e in items]
        return token in worker.where or token in held or token in worker.acked

    def pause_of_broker(self) -> float:
        """Seconds until a dead broker is started again."""
        if self.quiet:
            return 0.2
        low, high = self.engine.random.choice(((0.1, 1.0), (0.5, 4.0), (0.5, 4.0), (5.0, 50.0)))
        return min(self.engine.between(low, high), max(self.quiet_at - self.engine.now, 0.2))

    def later_start(self, worker: NativeWorker) -> None:
        """Start a worker again some time after it died."""
        low, high = self.engine.random.choice(((0.2, 4.0), (1.0, 20.0), (5.0, 60.0), (60.0, 200.0)))
        most = max(self.quiet_at - self.engine.now, 0.2)
        self.engine.after(min(self.engine.between(low, high), most), worker.start)


def fleet(engine: Engine) -> list[Document]:
    """The native workers of one world."""
    random = engine.random
    documents: list[Document] = []
    common = [kind for name, kind in KINDS.items() if name != "rare"]
    for index in range(20):  # the first six have cards
        kinds = list(common)
        if index in (8, 9):
            kinds.append(KINDS["rare"])
        if 10 <= index < 15:
            kinds.append(drifting(1))
        if index >= 16:  # machines for light work only
            kinds = [kind for kind in kinds if kind.kind in ("work", "tiny", "gateway", "select")]
        documents.append(
            Document(
                name=f"w{index:02}",
                incarnation="",
                kinds=kinds,
                slots=random.choice((1, 2, 2, 4)),
                cpus=float(random.choice((2, 4, 8))) if index >= 6 else 8.0,
                memory_gb=float(random.choice((8, 16, 32))),
                gpus=_gpus(index),
                labels={"zone": random.choice("ab")},
                caches=["prices"] if index % 3 == 0 else [],
                extensions=["all"],
            )
        )
    return documents


def _gpus(index: int) -> list[Gpu]:
    """Six machines have cards; the last two of them see the same ones."""
    if index < 4:
        return [Gpu(f"GPU-{index}{card}", 24.0 if index % 2 else 16.0) for card in "ab"]
    return [Gpu(f"GPU-S{card}", 24.0) for card in "ab"] if index < 6 else []
