"""The agent's mind against children and a broker that do anything they may, in any order.

Messages cross each other, children die at every moment, the broker comes and goes. After every
event all invariants hold; no attempt begins twice; no GPU is in two living children; and when the
storm is over every attempt that reached the agent has been reported exactly once.
"""

from __future__ import annotations

from collections import Counter, deque
from random import Random

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from corral.messages import (
    Assign,
    CancelAttempts,
    Ended,
    Finished,
    Nack,
    Raw,
    Recall,
    ResultAck,
    Welcome,
)
from corral.wire import Beaten, Dialect
from tests.unit.worker.conftest import Story, lane, token
from worker.core import Session
from worker.events import (
    ChildEnded,
    ChildSaid,
    Connected,
    Greet,
    Kill,
    Lost,
    MemoryExceeded,
    Retire,
    Send,
    Spawn,
    StopRequested,
    Tell,
)
from worker.pipe import Ask, Done, FromChild, GiveBack, Given, Ready, Want, Work

GPUS = ((), (), (), ("GPU-1",), ("GPU-2",), ("GPU-1", "GPU-2"))


class ModelChild:
    """A child process: what it was sent and has not read, what runs, what it has said."""

    def __init__(self, spawn: Spawn, random: Random) -> None:
        self.gpus = spawn.gpus
        self.random = random
        self.work: deque[Work] = deque()
        self.control: deque[Ask | GiveBack] = deque()
        self.queue: deque[bytes] = deque()
        self.running: bytes | None = None
        self.want: Want | None = None
        self.held: list[Ended] = []
        self.said: deque[FromChild] = deque()
        self.begun = 0
        self.ready = self.dead = self.retired = False

    def flush(self) -> None:
        if self.held:
            raw = Raw(msgspec.msgpack.encode(self.held))
            self.said.append(Done(len(self.held), 0.001 * len(self.held), 0.001, raw))
            self.held = []

    def step(self, begins: list[bytes]) -> None:
        """Do one thing that a child may do now."""
        if not self.ready:
            self.ready = True
            self.said.append(Ready())
        elif self.control and self.random.random() < 0.5:
            self.obey(self.control.popleft())
        elif self.running is not None:
            if self.want is Want.CANCEL or self.random.random() < 0.5:
                outcome = "cancelled" if self.want is Want.CANCEL else "ok"
                self.held.append(Ended(self.running, outcome))
                self.running = self.want = None
                if self.random.random() < 0.3:
                    self.flush()
        elif self.queue:
            self.running = self.queue.popleft()
            self.begun += 1
            begins.append(self.running)
        elif self.work:
            self.queue.extend(item.token for item in self.work.popleft().items)
        else:
            self.flush()
            self.dead = self.retired

    def obey(self, message: Ask | GiveBack) -> None:
        if isinstance(message, Ask):
            if message.token == self.running:
                self.want = message.want
            return
        if self.random.random() < 0.5:  # what is in the socket may be read, or not
            while self.work:
                self.queue.extend(item.token for item in self.work.popleft().items)
        returned, self.queue = list(self.queue), deque()
        self.flush()
        self.said.append(Given(self.running or b"", 0.0, returned))


class Storm:
    """One run of the mind among such children and such a broker."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.story = Story()
        self.children: dict[int, ModelChild] = {}
        self.assigned: set[bytes] = set()
        self.begins: list[bytes] = []
        self.reports: dict[int | str, set[bytes]] = {}  #: seq or "nack N" -> tokens
        self.unacked: list[int] = []
        self.greeted: list[bytes] | None = None
        self.numbers = 0

    def carry_out(self) -> None:
        """What the shell would do with the last instructions."""
        for one in self.story.out:
            if isinstance(one, Spawn):
                held = {gpu for child in self.children.values() for gpu in child.gpus}
                assert held.isdisjoint(one.gpus), "a GPU is in two living children"
                self.children[one.child] = ModelChild(one, self.random)
            elif isinstance(one, Kill):
                if one.child in self.children:
                    self.children[one.child].dead = True
            elif isinstance(one, Retire):
                self.children[one.child].retired = True
            elif isinstance(one, Greet):
                self.greeted = one.inflight
            elif isinstance(one, Tell):
                child = self.children[one.child]
                if isinstance(one.message, Work):
                    child.work.append(one.message)
                else:
                    child.control.append(one.message)
            elif isinstance(one, Send):
                self.broker_hears(one.message)

    def broker_hears(self, message: object) -> None:
        if isinstance(message, Nack):
            self.reports[f"nack {len(self.reports)}"] = set(message.tokens)
        elif isinstance(message, Finished):
            ended: list[Ended] = message.items
            if isinstance(ended, Raw):
                ended = msgspec.msgpack.decode(ended, type=list[Ended])
            tokens = {one.token for one in ended}
            assert len(tokens) == len(ended)
            assert self.reports.setdefault(message.seq, tokens) == tokens
            self.unacked.append(message.seq)

    # --- what may happen ------------------------------------------------------------------

    def broker_does(self) -> None:
        random, story = self.random, self.story
        if story.core.session is Session.CONNECTING:
            story.happens(Connected())
        elif story.core.session is Session.GREETING:
            assert self.greeted is not None
            adopted = [one for one in self.greeted if random.random() < 0.8]
            story.says(Welcome(1, 2.0, 10.0, 0.0, adopted))
        else:
            known = [*sorted(story.core.where), token("nobody")]
            some = random.sample(known, random.randint(1, min(5, len(known))))
            choice = random.random()
            if choice < 0.45:
                story.says(Assign([self.new_lane()]))
            elif choice < 0.6 and self.unacked:
                story.says(ResultAck([self.unacked.pop(random.randrange(len(self.unacked)))]))
            elif choice < 0.75:
                story.says(Recall(some))
            elif choice < 0.9:
                story.says(CancelAttempts(some, "", random.choice([0.0, 0.01, 5.0])))
            elif choice < 0.95:
                story.says(Beaten(Dialect.MDP02))
            else:
                story.happens(Lost("it ended"))

    def new_lane(self) -> object:
        random = self.random
        count = random.choice([1, 1, 3, 12])
        names = list(range(self.numbers, self.numbers + count))
        self.numbers += count
        self.assigned.update(token(name) for name in names)
        joined = random.random() < 0.3 and self.story.core.lanes
        if joined:
            known = self.story.core.lanes[random.choice(list(self.story.core.lanes))]
            purpose = {"gpus": sorted(known.gpus), "kind": known.kind}
            return lane(known.booking, *names, **purpose)
        return lane(
            1_000_000 + self.numbers,
            *names,
            kind=random.choice(["echo", "train"]),
            gpus=list(random.choice(GPUS)),
            cpus=random.choice([0.0, 1.0, 2.0]),
            run_limit=random.choice([None, None, 0.05]),
        )

    def child_does(self, number: int, deadly: bool) -> None:
        child = self.children[number]
        random = self.random
        if deadly and random.random() < 0.02:
            child.dead = True
        if not child.dead and random.random() < 0.7:
            child.step(self.begins)
        elif child.said:
            self.story.happens(ChildSaid(number, child.said.popleft()))
        elif child.dead:
            del self.children[number]
            self.story.happens(ChildEnded(number, "SIGKILL", child.begun))
        elif deadly and random.random() < 0.02:
            self.story.happens(MemoryExceeded(number, 1.0))
        else:
            return
        self.carry_out()
        self.story.out = []

    def one_thing(self, deadly: bool = True) -> None:
        self.story.out = []
        choice = self.random.random()
        if choice < 0.15 and deadly:
            self.broker_does()
        elif choice < 0.3:
            self.story.passes(self.random.choice([0.0, 0.001, 0.006, 0.006, 0.5]))
        elif self.children:
            self.child_does(self.random.choice(list(self.children)), deadly)
        self.carry_out()
        self.story.out = []
        again = [one for one, count in Counter(self.begins).items() if count > 1]
        assert not again, f"{again} began twice"

    def settle(self) -> None:
        """The storm is over: everything that is here comes to its end."""
        for _ in range(20_000):
            if not self.story.core.where:
                break
            if self.story.core.session is not Session.WELCOMED:
                self.story.out = []
                self.broker_does()
                self.carry_out()
            self.story.says(Beaten(Dialect.MDP02))
            self.one_thing(deadly=False)
        else:
            raise AssertionError(f"{len(self.story.core.where)} attempts came to no end")
        while self.story.core.session is not Session.WELCOMED:
            self.story.out = []
            self.broker_does()
            self.carry_out()

    def judge(self) -> None:
        reported = Counter(one for tokens in self.reports.values() for one in tokens)
        twice = [one for one, count in reported.items() if count > 1]
        assert not twice, f"{twice} were reported twice"
        assert self.assigned == reported.keys()


@given(st.integers(0, 2**32))
def test_every_attempt_is_reported_once_and_begins_at_most_once(seed: int) -> None:
    storm = Storm(seed)
    for _ in range(400):
        storm.one_thing()
    storm.settle()
    storm.judge()


@given(st.integers(0, 2**32))
def test_a_stop_in_any_storm_ends(seed: int) -> None:
    storm = Storm(seed)
    for _ in range(300):
        storm.one_thing()
    storm.story.happens(StopRequested("SIGTERM", 30.0))
    storm.carry_out()
    for _ in range(5_000):
        if storm.story.core.left:
            break
        storm.one_thing(deadly=False)
    assert storm.story.core.left
    storm.story.core.check()
