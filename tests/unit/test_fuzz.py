"""Malformed and hostile messages, in process: through the decoders, and into the broker's core.

Over real sockets the same messages are sent by tests/integration/test_fuzz_sockets.py.
"""

from __future__ import annotations

import gc
import itertools
import random
import sys
import time
import tracemalloc

import msgspec
import psutil
import pytest

from broker.core.effects import AssignTask, Effect, ReplyPlain, ReplyToClient
from broker.core.events import Heard, PeerLost, Turn
from broker.core.explain import explain
from broker.core.machine import Broker
from corral import messages, wire
from corral.messages import Accepted, Answer, Document, Ended, Finished, Kind, Outcomes, Refused
from corral.settings import BrokerSettings
from corral.tasks import Failure, Spec, State
from tests.evidence import Evidence
from tests.support.malformed import malformed

MESSAGES = 200_000
MIB = 1 << 20
INBOUND = (
    wire.Called, wire.Requested, wire.Readied, wire.Replied, wire.Extended, wire.Beaten,
    wire.Parted, wire.Malformed,
)  # fmt: skip


def test_the_same_seed_makes_the_same_messages() -> None:
    first = list(itertools.islice(malformed(7), 2_000))
    assert first == list(itertools.islice(malformed(7), 2_000))
    assert first != list(itertools.islice(malformed(8), 2_000))


def test_no_message_costs_much_while_it_is_decoded() -> None:
    frames = list(itertools.islice(malformed(2025), 10_000))
    tracemalloc.start()
    try:
        for each in frames:
            wire.decode(each)
        now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert now < 1 << 20
    assert peak < 8 << 20


# --- the core ---------------------------------------------------------------------------

CANARY, ASKER = b"\x00canary", b"\x00asker"


class Core:
    """The machine with a clock, and peers that do what they should."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.broker = Broker(BrokerSettings(), bytes(16), now=self.now)
        self.reasons = set[str]()  #: why messages were malformed

    def hear(self, peer: bytes, frames: list[bytes]) -> list[Effect]:
        message = wire.decode(frames)
        assert isinstance(message, INBOUND)
        if isinstance(message, wire.Malformed):
            self.reasons.add(message.reason)
        return self.broker.handle(Heard(peer, message), self.now)

    def clear(self) -> None:
        """Cancel all that was accepted, and let go of it, as after a fold."""
        state = self.broker.state
        live = [task.id for task in state.tasks.values() if task.live]
        self.hear(ASKER, wire.call(messages.Cancel(b"cancel", live)))
        for alias in list(state.aliases):
            self.hear(ASKER, [b"MDPC02", b"\x01", b"titanic.close", alias.encode()])
        state.forget(*[task for task in state.tasks.values() if state.forgettable(task)])
        state.dirty.clear()

    def turn(self) -> list[Effect]:
        return self.broker.handle(Turn(), self.now)

    def ready(self, peer: bytes, kind: Kind, name: str = "w") -> None:
        document = Document(name=name, incarnation="1", kinds=[kind], cpus=4.0)
        self.hear(peer, wire.ready(kind.kind, document))

    def submit(self, spec: Spec, request: bytes = b"request") -> list[Answer]:
        submit = messages.Submit(request, [spec], collect=True)
        return answers(self.hear(ASKER, wire.call(submit)))

    def canary(self, number: int) -> None:
        """A task goes through while all this happens."""
        request = b"canary" + number.to_bytes(8, "big")
        assert isinstance(self.submit(Spec("canary"), request)[0], Accepted)
        assigned = [e for e in self.turn() if isinstance(e, AssignTask) and e.peer == CANARY]
        assert len(assigned) == 1
        result = Finished(number, [Ended(assigned[0].token, "ok", 0.01, messages.Raw(b"\x07"))])
        effects = self.hear(CANARY, wire.extension(result)) + self.turn()
        outcomes = [a for a in answers(effects) if isinstance(a, Outcomes)]
        assert [(o.id, o.state) for a in outcomes for o in a.items] == [
            (assigned[0].id, State.SUCCEEDED)
        ]


PARAMS = {
    "an object": b"\x81\xa1x\x01",
    "text": b"\x81\xa1x\xa1a",
    "no UTF-8": b"\x81\xa1x\xa2\xff\xfe",
    "deep": b"\x81\xa1x" * 400 + b"\x01",
    "keys that are lists": b"\x81\x91\x01\x01",
    "keys that are bytes": b"\x81\xc4\x01x\x01",
    "keys that are maps": b"\x81\x80\x01",
    "an extension type": b"\x81\xa1x\xd4\x05\x00",
    "a date": b"\x81\xa1x\xd6\xff\x00\x00\x00\x00",
    "NaN": b"\x81\xa1x\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",
}


def answers(effects: list[Effect]) -> list[Answer]:
    return [effect.answer for effect in effects if isinstance(effect, ReplyToClient)]


def about(token: bytes, source: random.Random) -> list[bytes]:
    """What a worker gone mad says about an attempt that it really has."""
    outcomes = ("ok", "error", "out_of_memory", "killed", "handed_back", "refused", "nonsense", "")
    ended = Ended(
        token,
        source.choice(outcomes),
        source.choice((0.0, -1.0, 1e9)),
        messages.Raw(source.choice((*PARAMS.values(), b"\xc0"))),
        source.choice((None, Failure("E"), Failure("", "\x00" * 1_000))),
        peak_gb=source.choice((0.0, 1e6)),
    )
    return source.choice(
        (
            wire.extension(Finished(source.randrange(3), [ended] * source.choice((1, 1, 2)))),
            wire.extension(messages.Nack([token])),
            wire.extension(messages.Checkpoint(token, b"state")),
            wire.extension(messages.Progress([messages.Progressed(token, float("nan"), {})])),
            wire.extension(messages.DrainWorker(source.random() < 0.5)),
            wire.final(token, []),
            [b"MDPW02", b"\x03", token, b"", b"partial"],
            [b"", b"MDPW01", b"\x03", token, b"", b"body"],
        )
    )


def test_200_000_messages_while_a_canary_is_answered(evidence: Evidence) -> None:
    """From a crowd that works, too, and vanishes. What it gets accepted is cancelled in time."""
    began, process = time.monotonic(), psutil.Process()
    source, core = random.Random(2024), Core()
    peers = [bytes((0, 0, 0, 0, number)) for number in range(40)]
    core.ready(CANARY, Kind("canary"), "canary")
    held: list[AssignTask] = []
    given = 0
    for number, frames in enumerate(itertools.islice(malformed(2024), MESSAGES)):
        core.now += source.choice((0.0, 0.001, 0.01, 0.1))
        core.hear(source.choice(peers), frames)
        wire.heard_by_worker(frames)
        wire.heard_by_client(frames)
        if source.random() < 0.3:
            held += [effect for effect in core.turn() if isinstance(effect, AssignTask)]
        if held and source.random() < 0.5:
            one = held.pop(source.randrange(len(held)))
            given += 1
            peer = one.peer if source.random() < 0.9 else source.choice(peers)
            for _ in range(source.randrange(4)):
                core.hear(peer, about(one.token, source))
        if source.random() < 0.02:
            core.broker.handle(PeerLost(source.choice(peers)), core.now)
        if number % 50 == 0:
            core.hear(CANARY, wire.heartbeat())
        if number % 500 == 0:
            live = [task for task in core.broker.state.tasks.values() if task.live]
            for task in source.sample(live, min(5, len(live))):
                assert explain(core.broker.state, task.id, core.now).id == task.id
            core.canary(number)
            core.broker.check()
        if number % 5_000 == 0:
            core.clear()
        if number == MESSAGES // 5:
            gc.collect()
            warm, blocks = process.memory_info().rss, sys.getallocatedblocks()
    core.clear()
    gc.collect()
    grown, more = process.memory_info().rss - warm, sys.getallocatedblocks() - blocks
    assert given > 500
    assert core.reasons == {
        "no frames", "header", "foreign dialect", "client frames", "call body", "service name",
        "unknown call", "worker frames", "worker command", "ready frames", "document",
        "document size", "reply envelope", "extension frames", "extension body",
    }  # fmt: skip
    # What other tests let go of may hide growth from the system, but not from Python.
    assert grown < 16 * MIB, f"{grown / MIB:.0f} MiB for {MESSAGES * 4 // 5} messages"
    assert more < MESSAGES // 5, f"{more} objects for {MESSAGES * 4 // 5} messages"
    evidence.record(
        "malformed messages in process",
        messages=MESSAGES,
        canaries=MESSAGES // 500,
        seconds=time.monotonic() - began,
        grown_mib=grown / MIB,
    )


SCHEMAS = {
    "deep": "[" * 5_000,
    "no JSON": "{",
    "no text": "\ud7ff",
    "no schema": '{"type": 7}',
    "endless": '{"additionalProperties": {"$ref": "#"}}',
    "a circle": '{"$ref": "#"}',
    "a hole": '{"properties": {"x": {"$ref": "#/$defs/nope"}}}',
    "a broken pattern": '{"properties": {"x": {"pattern": "("}}}',
    "elsewhere": '{"properties": {"x": {"$ref": "http://127.0.0.1:1/schema"}}}',
    "nothing": "",
}


@pytest.mark.parametrize("content", [False, True], ids=["request", "content"])
@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_whatever_schema_and_params_are_the_submission_is_answered(
    schema: str, content: bool
) -> None:
    core = Core()
    core.ready(CANARY, Kind("k", schema=schema, content=content, code_version="1"))
    for number, params in enumerate(PARAMS.values()):
        spec = Spec("k", params=messages.Raw(params))
        answer = core.submit(spec, b"r%d" % number)[0]
        assert isinstance(answer, Accepted | Refused)
        if isinstance(answer, Refused):
            assert answer.code == "bad_params"
        core.turn()
    core.broker.check()


def test_two_tasks_of_one_id_are_compared_even_when_their_params_do_not_decode() -> None:
    core = Core()
    core.ready(CANARY, Kind("k"))
    for one, other in itertools.permutations(PARAMS.values(), 2):
        id = f"id-{hash((one, other))}"
        core.submit(Spec("k", params=messages.Raw(one), id=id), b"one")
        answer = core.submit(Spec("k", params=messages.Raw(other), id=id), b"other")[0]
        assert isinstance(answer, Refused)
        assert answer.code in ("duplicate_id", "bad_params")


@pytest.mark.parametrize("value", [*PARAMS.values(), b"\xc1", b""], ids=[*PARAMS, "junk", "empty"])
def test_a_plain_client_outlives_any_result_of_a_native_worker(value: bytes) -> None:
    core = Core()
    core.ready(CANARY, Kind("k", frames=True))
    core.hear(b"plain", [b"", b"MDPC01", b"k", b"body"])
    assigned = [effect for effect in core.turn() if isinstance(effect, AssignTask)]
    body = msgspec.msgpack.encode([1, [[assigned[0].token, "ok", 0.0, messages.Raw(value)]]])
    core.hear(CANARY, [b"MDPW02", b"\x49", body])
    core.turn()
    core.broker.check()


@pytest.mark.parametrize("dialect", wire.Dialect)
def test_a_plain_body_that_is_one_json_object_is_the_params(dialect: wire.Dialect) -> None:
    core = Core()
    core.ready(CANARY, Kind("k"))
    head = [b"", b"MDPC01"] if dialect is wire.Dialect.MDP01 else [b"MDPC02", b"\x01"]
    for body in ([b"[1]"], [b"text"], [b"{}", b"{}"], [b"[" * 20_000], [b'{"x": 1e999}'[:-1]]):
        core.hear(b"plain", [*head, b"k", *body])
        assert not [effect for effect in core.turn() if isinstance(effect, AssignTask)]
    core.hear(b"plain", [*head, b"k", b'{"x": [1, "a"]}'])
    assigned = [effect for effect in core.turn() if isinstance(effect, AssignTask)]
    assert len(assigned) == 1
    params = core.broker.state.tasks[assigned[0].id].spec.params
    assert msgspec.msgpack.decode(params) == {"x": [1, "a"]}
    value = messages.Raw(msgspec.msgpack.encode({"y": 2}))
    result = Finished(1, [Ended(assigned[0].token, "ok", 0.0, value)])
    effects = core.hear(CANARY, wire.extension(result)) + core.turn()
    assert [e.body for e in effects if isinstance(e, ReplyPlain)] == [[b'{"y":2}']]


def test_a_task_of_a_kind_that_nobody_announced_is_explained() -> None:
    core = Core()
    core.ready(CANARY, Kind("canary"))
    core.hear(b"plain", [b"MDPC02", b"\x01", b"nobody", b"body"])
    core.turn()
    (task,) = core.broker.state.tasks.values()
    explanation = explain(core.broker.state, task.id, core.now)
    assert any("nobody" in part.text for part in explanation.cure)


@pytest.mark.parametrize("reference", ["#" + "9" * 5_000, "#-1", "#1", "#", "#\u0663", "#1e3"])
def test_a_parent_that_cannot_be_is_missing(reference: str) -> None:
    core = Core()
    core.ready(CANARY, Kind("k"))
    answer = core.submit(Spec("k", after={"p": reference}))[0]
    assert isinstance(answer, Refused)
    assert answer.code == "missing_parent"
