"""Why a task does not run: every reason that the scheduler gives, seen from outside.

Each reason is really made, with a broker and workers, and looked up where people look: the gateway
answers as the core does, and the queue says it in the words of the table. The table must have a row
for every action of a cure, and for every resource that may be short. For situations that nobody
thought of, random stories are told to the core, and its answers to the dashboard.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from msgspec import structs
from playwright.sync_api import Browser, Page, expect

from broker.core.explain import WORDS, explain
from broker.core.whatif import ROOM
from corral import Client, Task, jsons, wire
from corral.messages import Explained, Explanation, Part
from corral.tasks import Needs, Retry, State, Variant, force_gpu, needs, prefer_gpu
from tests.integration.conftest import PATIENCE, SETTINGS, Fleet, until
from tests.integration.dashboard.conftest import Visit, Visitor
from tests.support.gateway import Gateway
from tests.unit.core.story import Story
from tests.unit.core.test_explain_oracle import stories

TIME = re.compile(r"[\d.]+ (?:s|min|h)\b")
LITTLE = needs(cpus=0.0)
Ids = list[str]  #: tasks of a situation; the last one is asked about


class House:
    """The fleet, and how tasks come into it."""

    def __init__(self, fleet: Fleet, client: Client) -> None:
        self.fleet = fleet
        self.client = client

    def task(self, wanted: Needs = LITTLE, kind: str = "sleep", **more: Any) -> str:
        """Submit a task that goes on until it is cancelled."""
        params = {"seconds": 3600.0} if kind == "sleep" else {}
        return self.client.submit_many([Task(kind, params, needs=wanted, **more)])[0].id

    def state(self, id: str) -> State:
        return self.client.show([id])[0].state

    def holder(self, wanted: Needs = LITTLE) -> str:
        """The same, and see it running."""
        id = self.task(wanted)
        until("it runs", lambda: self.state(id) is State.RUNNING)
        return id

    def stop(self, name: str) -> None:
        """Let a worker leave, in order."""
        worker = self.fleet.workers.pop(name)
        worker.terminate()
        worker.wait(PATIENCE)
        until("it has left", lambda: name not in {one.name for one in self.client.workers()})

    def status(self, name: str) -> str:
        return {one.name: one.status for one in self.client.workers()}[name]


def no_worker(house: House) -> Ids:
    house.fleet.start_worker("w0")
    house.stop("w0")  # which has told what its kinds are
    return [house.task()]


def no_handler(house: House) -> Ids:
    house.fleet.start_worker(
        "w1", 4, "--cpus", "4", "--memory", "8GB", "--label", "zone=b", "--kinds", "sleep,fail"
    )
    return [house.task(kind="echo")]


def parent_runs(house: House) -> Ids:
    parent = house.holder()
    return [parent, house.task(after={"a": parent})]


def backing_off(house: House) -> Ids:
    id = house.task(kind="fail", retry=Retry(delay=300.0))
    until("it backs off", lambda: house.state(id) is State.RETRYING)
    return [id]


def no_slot(house: House) -> Ids:
    return [*(house.holder() for _ in range(4)), house.task()]


def kept_for_a_wider_one(house: House) -> Ids:
    holder = house.holder(needs(cpus=2.0))
    return [holder, house.task(needs(cpus=4.0), priority=1), house.task(needs(cpus=1.0))]


def no_slot_and_no_card(house: House) -> Ids:
    return [*(house.holder() for _ in range(4)), house.task(needs(gpus=1))]


def card_in_use(house: House) -> Ids:
    house.fleet.start_worker("g1", 4, "--cpus", "4", "--gpu", "GPU-7c5a=24GB")
    return [house.holder(force_gpu()), house.task(force_gpu())]


def all_drained(house: House) -> Ids:
    house.stop("g1")
    house.client.drain("w1", reason="to be looked at")
    until("it is drained", lambda: house.status("w1") == "drained")
    return [house.task()]


def all_silent(house: House) -> Ids:
    house.client.resume("w1")
    house.fleet.kill("w1")
    until("it is missed", lambda: house.status("w1") == "unavailable")
    return [house.task()]


def asks(wanted: Needs) -> Callable[[House], Ids]:
    """Nobody has it."""
    return lambda house: [house.task(wanted)]


def held(wanted: Needs, then: Needs | None = None) -> Callable[[House], Ids]:
    """One has it, and another wants it."""
    return lambda house: [house.holder(wanted), house.task(then or wanted)]


class Reason(NamedTuple):
    """One of them."""

    action: str  #: of the cure's part that the queue tells
    need: str  #: where the action is about a resource
    words: str  #: what the queue says
    make: Callable[[House], Ids]


# In an order in which each finds what the ones before have left: workers come and go.
REASONS = (
    Reason("add_worker", "", "no worker fits", no_worker),
    Reason("install", "kind", "no worker serves it", no_handler),
    Reason("add", "cpus", "too few cores", asks(needs(cpus=5.0))),
    Reason("add", "memory_gb", "too little memory", asks(needs(cpus=0.0, memory_gb=9.0))),
    Reason("add", "gpus", "too few GPUs", asks(needs(gpus=1))),
    Reason("label", "label.zone", "wants zone", asks((Variant(labels={"zone": "a"}),))),
    Reason("named", "named.gate", "waits for gate", held(needs(cpus=0.0, named={"gate": 1}))),
    Reason("finish", "", "waits for its parents", parent_runs),
    Reason("wait", "back_off", "backs off", backing_off),
    Reason("free", "cpus", "waits for cores", held(needs(cpus=3.0), needs(cpus=2.0))),
    Reason("free", "memory_gb", "waits for memory", held(needs(cpus=0.0, memory_gb=5.0))),
    Reason("free", "slots", "waits for a slot", no_slot),
    Reason("add", "gpus", "too few GPUs", no_slot_and_no_card),
    Reason("ahead", "", "others go first", kept_for_a_wider_one),
    Reason("free", "gpus", "waits for a GPU", card_in_use),
    Reason("wait", "gpus", "waits for a GPU", held(force_gpu(), prefer_gpu())),
    Reason("resume", "admission", "{subject} is drained", all_drained),
    Reason("revive", "health", "{subject} is away", all_silent),
)  # fmt: skip
#: no waiting brings these about, so the queue tells them before all else
LASTING = {"add", "add_worker", "install", "label"}
#: no process offers 0 slots, so that one must be had is seen in random stories alone
UNMADE = {("add", "slots"): "too few slots"}
SAID = {(one.action, one.need): one.words for one in REASONS} | UNMADE


def test_every_reason_of_the_scheduler_has_a_row() -> None:
    short = {*ROOM, "gpus"}
    assert {action for action, _ in SAID} == set(WORDS)
    for action in ("add", "free"):
        assert {need for known, need in SAID if known == action} == short


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A broker that knows a resource of the whole fleet, and no worker yet."""
    folder = tmp_path_factory.mktemp("reasons")
    named = SETTINGS.replace("broker: {", "broker: {named: {gate: 1}, ")
    fleet = Fleet(folder, named)
    try:
        yield House(fleet, fleet.client())
    finally:
        fleet.close()


@pytest.fixture(scope="module")
def gateway(house: House) -> Iterator[Gateway]:
    with Gateway(house.fleet.folder, house.fleet.endpoint) as gateway:
        yield gateway


def test_every_reason_is_made_and_told(house: House, gateway: Gateway, visit: Visit) -> None:
    visitor = visit(gateway)
    for reason in REASONS:
        ids = reason.make(house)
        told = answered(gateway, ids[-1])
        assert timeless(told) == timeless(house.client.explain(ids[-1])), reason
        part = weightiest(told)
        assert (part.action, part.need) == (reason.action, reason.need), told
        seen_in_queue(visitor, told, reason.words.format(subject=part.subject))
        house.client.cancel(ids)
        until("it is over", lambda: not any(one.tasks for one in house.client.workers()))


def answered(gateway: Gateway, id: str) -> Explanation:
    with gateway.client() as rest:
        return msgspec.json.decode(rest.get(f"/tasks/{id}/explain").content, type=Explanation)


def weightiest(told: Explanation) -> Part:
    """The part of a cure that the queue is to tell."""
    return next((part for part in told.cure if part.action in LASTING), told.cure[0])


def seen_in_queue(visitor: Visitor, told: Explanation, words: str) -> None:
    page = visitor.go(f"?view=queue&q={told.id}")
    row = page.locator(".row")
    expect(row.locator(".chip")).to_have_text(words)
    expect(row.locator(".cure")).to_have_text(
        pattern("; and ".join(part.text for part in told.cure))
    )
    whole = row.locator("a.verdict")
    for line in (told.summary, *told.reasons):
        expect(whole).to_have_attribute("title", pattern(line))


def pattern(text: str) -> re.Pattern[str]:
    """The text, at whatever time it is said."""
    return re.compile(TIME.pattern.join(map(re.escape, TIME.split(text))))


def timeless(told: Explanation) -> str:
    """All of it but the lengths of time, which go on between two answers."""
    cure = [structs.replace(one, amount=0.0) if one.action == "wait" else one for one in told.cure]
    return TIME.sub("", jsons.encode(structs.replace(told, cure=cure)).decode())


# --- whatever may happen ------------------------------------------------------------------


WORDS_OF = """async told => {
  const { reasonWord, cureLine } = await import("/web/verdicts.js");
  return told.map((one) => [reasonWord(one), cureLine(one)]);
}"""


def expected(told: Explanation) -> list[str]:
    """What the dashboard says of it."""
    line = "; and ".join(part.text for part in told.cure)
    return [said_of(weightiest(told)) if told.cure else told.summary, line]


def said_of(part: Part) -> str:
    words = SAID.get((part.action, part.need)) or SAID[part.action, family(part.need)]
    return words.format(subject=part.subject)


def family(need: str) -> str:
    """The row's resource that stands for one of many names."""
    return {"label": "label.zone", "named": "named.gate"}.get(need.partition(".")[0], need)


@pytest.fixture(scope="module")
def page(gateway: Gateway, browser: Browser) -> Iterator[Page]:
    """The dashboard's own words, without a task to say them of."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"http://{gateway.bind}/")
    yield page
    context.close()


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(story=stories())
def test_whatever_the_core_says_arrives_and_has_words(page: Page, story: Story) -> None:
    waiting = [one.id for one in story.state.tasks.values() if one.live and one.attempt is None]
    told = [explain(story.state, id, story.now) for id in waiting]
    arrived = [jsons.encode(as_the_gateway_gets_it(one)) for one in told]
    assert [msgspec.json.decode(one, type=Explanation) for one in arrived] == told
    said = page.evaluate(WORDS_OF, [msgspec.json.decode(one) for one in arrived])
    assert said == [expected(one) for one in told]


def as_the_gateway_gets_it(told: Explanation) -> Explanation:
    [answer] = wire.heard_by_client(
        wire.answers("corral.explain", [Explained(b"r", told)], final=True)
    )
    assert isinstance(answer, Explained)
    return answer.explanation
