"""Native clients and the operator: what people ask, and what they do when no answer comes.

A client keeps a call until it is answered and sends it again, marked as a resend, on the same or a
new connection; it asks for outcomes that it was not sent. Whatever it is told goes into the
history.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import structs

from corral import wire
from corral.messages import (
    Accepted,
    Call,
    Cancel,
    Done,
    Drain,
    Explain,
    List,
    Outcomes,
    Refused,
    Results,
    Resume,
    Retry,
    Show,
    Status,
    Submit,
    Unwatch,
    Watch,
    Workers,
)
from corral.tasks import TERMINAL, Spec, State, request_id
from corral.wire import Frames
from tests.sim.history import plain_spec
from tests.sim.network import Host, Socket
from tests.sim.workload import CURRENT, Mix

if TYPE_CHECKING:
    from tests.sim.world import World

PATIENCE = 6.0  # seconds until a call is sent again
SILENCE = 20.0  # seconds after which an outcome that was not sent is asked for
TICK = 3.0
AUDIT = 200  # ids in one question of the last audit


class Asked:
    """A call that is not answered yet."""

    __slots__ = ("at", "call")

    def __init__(self, call: Call, at: float) -> None:
        self.call = call
        self.at = at


class Client:
    """What native clients have in common: one socket, calls, answers."""

    lossy = 0.03

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.engine = world.engine
        self.name = name
        self.host = Host(name)
        world.hosts.append(self.host)
        self.calls: dict[bytes, Asked] = {}
        self.count = 0
        self._open()
        self.engine.after(TICK * self.engine.random.random(), self._tick)

    def _open(self) -> None:
        self.socket = Socket(self.world.network, self.host, self.hear, self.lossy)

    def request(self) -> bytes:
        """A name for the next call that no other has."""
        self.count += 1
        return f"{self.name}-{self.count}".encode()

    def ask(self, call: Call) -> None:
        """Send a call and keep it until it is answered."""
        self.calls[call.request] = Asked(call, self.engine.now)
        self.socket.send(wire.call(call))

    def _tick(self) -> None:
        self.engine.after(TICK, self._tick)
        now = self.engine.now
        late = [asked for asked in self.calls.values() if now - asked.at > PATIENCE]
        if late and self.engine.chance(0.5):
            self.socket.close()
            self._open()
        for asked in late:
            asked.at = now
            if isinstance(asked.call, Submit):
                asked.call = structs.replace(asked.call, resend=True)
            self.socket.send(wire.call(asked.call))
        self.tick(now)

    def tick(self, now: float) -> None:
        """What else there is to do every few seconds."""

    def hear(self, frames: Frames) -> None:
        """A message of answers."""
        for answer in wire.heard_by_client(frames):
            asked = self.calls.pop(answer.request, None)
            if isinstance(answer, Refused):
                self.refused(answer, asked.call if asked else None)
            else:
                self.answered(answer, asked.call if asked else None)

    def babble(self) -> None:
        """Say what no client says."""
        for frames in (
            [b"MDPC02", b"\x09"],
            [b"MDPC02", b"\x01", b"corral.submit", b"\xc1"],
            [b"x"],
        ):
            self.socket.send(frames)

    def refused(self, answer: Refused, call: Call | None) -> None:
        """The broker says no."""
        self.world.history.log(
            "refused",
            client=self.name,
            code=answer.code,
            why=str(answer.fields.get("what", "")),
            call=type(call).__name__,
            ids=list(getattr(call, "ids", ())),
        )

    def answered(self, answer: Any, call: Call | None) -> None:
        """The broker says anything else."""


class Researcher(Client):
    """Submits, cancels, retries, and wants every outcome."""

    def __init__(self, world: World, name: str, pace: float) -> None:
        super().__init__(world, name)
        self.pace = pace
        self.mix: Mix = world.mix
        self.waiting: dict[str, float] = {}  #: task -> when its outcome was last asked for
        self.mine: list[str] = []
        self.last: Submit | None = None
        self.ended: dict[str, str] = {}
        self.engine.after(8.0 + pace * self.engine.random.random(), self._act)
        self.audited = 0

    def _act(self) -> None:
        if self.world.quiet:
            return
        self.engine.after(self.engine.random.expovariate(1.0 / self.pace), self._act)
        random, mix = self.engine.random, self.mix
        roll = random.random()
        if roll < 0.005:
            self.submit(mix.burst())
        elif roll < 0.5:
            self.submit([mix.one()])
        elif roll < 0.58:
            self.submit([mix.one() for _ in range(random.randrange(2, 8))])
        elif roll < 0.66:
            self.submit(mix.graph())
        elif roll < 0.68:
            self.submit(mix.tiny(random.randrange(20, 120)))
        elif roll < 0.80:
            self.submit([mix.content() for _ in range(random.randrange(1, 4))])
        elif roll < 0.83:
            self._name_one()
        elif roll < 0.86:
            self._hang_under()
        elif roll < 0.95:
            self._cancel()
        elif roll < 0.98:
            self._retry()
        elif self.last is not None:
            # The same request once more, long after it was answered.
            self.ask(structs.replace(self.last, resend=True))

    def submit(self, specs: list[Spec]) -> None:
        """Submit, and collect the outcomes."""
        call = Submit(self.request(), specs, collect=self.engine.chance(0.8))
        self.last = call
        self.world.history.log(
            "submit",
            client=self.name,
            request=call.request,
            ids=[self._id_of(call, index) for index in range(len(specs))],
            tasks=[plain_spec(spec) for spec in specs],
        )
        self.ask(call)
        if self.engine.chance(0.05):
            self.socket.send(wire.call(call))  # a client that is too eager

    def _id_of(self, call: Submit, index: int) -> str | None:
        """What its id will be; None when the broker tells."""
        spec = call.tasks[index]
        if spec.id is not None:
            return spec.id
        return None if spec.kind == "select" else request_id(call.request, index)

    def _name_one(self) -> None:
        """A task whose id the caller gives; the same one again later."""
        number = self.engine.random.randrange(30)
        body = self.world.named_specs.get(number)
        if body is None or self.engine.chance(0.05):
            do, k = self.engine.random.choice((("ok", 0), ("error", 1), ("error", 4)))
            params = self.mix.params(self.engine.between(0.1, 8.0), do, k)
            body = Spec("work", params, id=f"job-{number}", retry=CURRENT)
            self.world.named_specs.setdefault(number, body)
        self.submit([body])

    def _hang_under(self) -> None:
        """A task after others, ended ones among them."""
        if self.mine:
            parents = {self._any() for _ in range(self.engine.random.randrange(1, 4))}
            after = {f"p{index}": id for index, id in enumerate(sorted(parents))}
            self.submit([structs.replace(self.mix.one(), after=after)])

    def _any(self) -> str:
        return self.engine.random.choice(self.mine[-300:])

    def _cancel(self) -> None:
        if self.mine:
            waiting = list(self.waiting)[-40:]
            many = self.engine.random.randrange(1, 4)
            ids = {self.engine.random.choice(waiting or self.mine) for _ in range(many)}
            call = Cancel(self.request(), sorted(ids), "changed my mind")
            self.world.history.log("cancel", client=self.name, ids=call.ids)
            self.ask(call)

    def _retry(self) -> None:
        lost = [id for id, state in self.ended.items() if state != State.SUCCEEDED][-40:]
        if lost:
            ids = {self.engine.random.choice(lost) for _ in range(2)}
            call = Retry(self.request(), sorted(ids))
            self.world.history.log("retry", client=self.name, ids=call.ids)
            self.ask(call)

    def tick(self, now: float) -> None:
        """Ask for outcomes that should have come."""
        late = [id for id, asked in self.waiting.items() if now - asked > SILENCE][:60]
        if late:
            for id in late:
                self.waiting[id] = now
            self.ask(Results(self.request(), late, wait=self.engine.chance(0.7)))
        if self.world.auditing and self.audited < len(self.mine):
            ids = self.mine[self.audited : self.audited + AUDIT]
            self.audited += AUDIT
            self.ask(Results(self.request(), ids, wait=False))

    def answered(self, answer: Any, call: Call | None) -> None:
        """Note down what is known now."""
        log = self.world.history.log
        now = self.engine.now
        if isinstance(answer, Accepted):
            if not isinstance(call, Submit):
                return  # an answer that came twice
            count = len(call.tasks)
            ids = answer.ids or [request_id(answer.request, index) for index in range(count)]
            log("accepted", client=self.name, request=answer.request, ids=ids, known=answer.known)
            for id in ids:
                if id not in self.ended:
                    self.waiting[id] = now
            self.mine += [id for id in dict.fromkeys(ids) if id not in self.world.owned]
            self.world.owned.update(dict.fromkeys(ids))
        elif isinstance(answer, Outcomes):
            if answer.last and not answer.request:  # the broker has lost track of who waits
                self.waiting = dict.fromkeys(self.waiting, 0.0)
            for item in answer.items:
                log(
                    "outcome",
                    client=self.name,
                    id=item.id,
                    state=item.state.value,
                    value=self.world.fetch(item),
                )
                assert item.state in TERMINAL
                self.waiting.pop(item.id, None)
                self.ended[item.id] = item.state.value
        elif isinstance(answer, Done) and isinstance(call, Cancel):
            log("cancelled", client=self.name, request=answer.request, ids=answer.changed)
        elif isinstance(answer, Done) and isinstance(call, Retry):
            log("retried", client=self.name, request=answer.request, ids=answer.changed)
            for id in answer.changed:
                self.waiting[id] = now


class Operator(Client):
    """Drains workers, lets them work again, and looks at everything."""

    lossy = 0.01

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self.drained: dict[str, float] = {}
        self.engine.after(20.0, self._act)

    def _act(self) -> None:
        self.engine.after(self.engine.between(5.0, 25.0), self._act)
        random, world = self.engine.random, self.world
        now = self.engine.now
        for name, until in list(self.drained.items()):
            if now > until or world.quiet:
                del self.drained[name]
                self.ask(Resume(self.request(), name))
        if world.quiet:
            return
        roll = random.random()
        if roll < 0.35:
            name = random.choice([worker.name for worker in world.workers])
            policy = random.choice(("wait", "requeue", "kill"))
            deadline = random.choice((None, 5.0, 30.0))
            world.history.log("drain", worker=name, policy=policy, deadline=deadline)
            self.drained[name] = now + random.uniform(10.0, 90.0)
            self.ask(Drain(self.request(), name, "maintenance", deadline, policy))
        else:
            self._look()

    def _look(self) -> None:
        random = self.engine.random
        ids = list(self.world.owned)[-200:]
        id = random.choice(ids) if ids else "last"
        calls: list[Call] = [
            Status(self.request()),
            Workers(self.request()),
            List(self.request(), limit=20),
            Show(self.request(), [id]),
            Explain(self.request(), id),
            Watch(self.request(), [], None),
            Unwatch(self.request(), f"{self.name}-{self.count - 5}".encode()),
        ]
        self.ask(random.choice(calls))

    def refused(self, answer: Refused, call: Call | None) -> None:
        """A worker that is away cannot be resumed: try later."""
        super().refused(answer, call)
        if isinstance(call, Resume):
            self.drained[call.worker] = self.engine.now + 10.0

    def answered(self, answer: Any, call: Call | None) -> None:
        """A worker that drains is asked to work again later."""
        if isinstance(answer, Done) and isinstance(call, Drain):
            self.world.history.log("drained", worker=call.worker)
        if isinstance(call, Watch):
            self.calls.pop(call.request, None)
