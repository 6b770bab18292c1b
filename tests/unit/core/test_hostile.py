"""Nothing that a peer sends stops the broker: numbers that are none, strikes, nonsense."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from broker.core.effects import Disconnect
from corral.messages import Document, Drain, Ended, Explain, Gpu, Refused, Resources, Welcome
from corral.tasks import State, Variant, force_gpu
from corral.wire import Called, Dialect, Extended, Malformed, Readied
from tests.unit.core.peers import Client, Native, Plain, gpu, kind, spec
from tests.unit.core.story import Story

NAN, INF = float("nan"), float("inf")
MDP01, MDP02 = Dialect.MDP01, Dialect.MDP02


@pytest.fixture
def client(story: Story) -> Client:
    return story.client()


# --- numbers that are none --------------------------------------------------------------------


@pytest.mark.parametrize("memory", [NAN, INF, -INF, -1.0, 1e300])
@pytest.mark.parametrize("foreign", [0.0, NAN, INF, -1.0])
def test_cards_of_impossible_size(
    story: Story, client: Client, memory: float, foreign: float
) -> None:
    card = Gpu("A", memory, "", False, foreign)
    worker = story.worker(gpus=[card])
    worker.says(Extended(Resources(NAN, [card], [])))
    id = client.submit(needs=force_gpu(gpu_memory_gb=1.0))
    if memory > 1.0 and foreign != INF:
        worker.gets(id)
    else:
        story.is_(id, State.QUEUED)
        assert story.explain(id).cure


@pytest.mark.parametrize(
    "need",
    [Variant(cpus=NAN), Variant(memory_gb=INF), Variant(gpus=-1), Variant(named={"gate": -1})],
)
def test_kinds_of_impossible_needs_are_turned_away(story: Story, need: Variant) -> None:
    peer = Native(story, "w")
    document = Document(name="w", incarnation="i", kinds=[kind(needs=(need,))])
    peer.says(Readied(MDP02, "corral", document))
    peer.takes(Disconnect)
    assert story.state.catalog.entries == {}


@pytest.mark.parametrize("seconds", [NAN, INF, -INF, -1.0])
def test_run_times_that_cannot_be_are_not_learned(
    story: Story, client: Client, seconds: float
) -> None:
    worker = story.worker(slots=1)
    for _ in range(8):
        id = client.submit()
        worker.gets(id)
        worker.finishes(Ended(worker.token(id), "ok", seconds))
    assert story.task(id).klass.estimates[0].count == 0
    ids = client.submits(spec(), spec())
    worker.gets(ids[0])


@pytest.mark.parametrize("deadline", [NAN, INF, -1.0, 1e12])
def test_a_drain_whose_deadline_is_no_time_is_refused(
    story: Story, client: Client, deadline: float
) -> None:
    worker = story.worker()
    client.calls(Drain(b"r", "w1", deadline=deadline))
    assert client.takes(Refused).code == "usage"
    assert worker.record.status == "available"


# --- what is malformed ---------------------------------------------------------------------------


def test_a_worker_may_say_nonsense_twice(story: Story, client: Client) -> None:
    worker = story.worker()
    id = client.submit()
    worker.gets(id)
    for _ in range(2):
        worker.says(Malformed("extension body", MDP02))
        worker.hears_nothing()
    worker.says(Malformed("extension body", MDP02))
    worker.takes(Disconnect)
    assert story.broker.refused == {"extension body": 3}
    assert worker.record.health == "suspect"
    assert worker.returns(worker.token(id)).adopted == [worker.token(id)]
    worker.says(Malformed("extension body", MDP02))  # counted from one again
    worker.ends(id)


def test_a_plain_worker_that_breaks_the_protocol_is_turned_away(
    story: Story, client: Client
) -> None:
    worker = story.plain("old", MDP01)
    worker.serves("work")
    id = client.submit()
    worker.gets(id)
    for _ in range(3):
        worker.says(Malformed("worker command", MDP01))
    worker.is_turned_away()
    assert story.state.workers == {}
    story.is_(id, State.QUEUED)
    assert story.task(id).attempts[0].outcome == "handed_back"


def test_who_is_no_worker_is_turned_away_at_once(story: Story) -> None:
    stranger = story.plain("stranger", MDP01)
    stranger.says(Malformed("reply envelope", MDP01))
    stranger.is_turned_away()


def test_malformed_messages_of_clients_are_counted(story: Story) -> None:
    peer = story.plain("peer", MDP02)
    peer.says(Malformed("client frames"))
    peer.says(Malformed("header"))
    peer.says(Malformed("header"))
    assert story.broker.refused == {"client frames": 1, "header": 2}


def test_foreign_dialects_are_counted_by_name(story: Story) -> None:
    peer = story.plain("peer", MDP02)
    peer.says(Malformed("foreign dialect", foreign="zproto"))
    peer.says(Malformed("foreign dialect", MDP02, foreign="wire-protocol-0.2"))
    peer.is_turned_away()
    assert story.broker.refused == {"foreign: zproto": 1, "foreign: wire-protocol-0.2": 1}


def test_a_call_that_cannot_be_read_is_answered_when_it_says_for_what(
    story: Story, client: Client
) -> None:
    client.says(Malformed("call body", request=b"r9", detail="Expected `str`"))
    refused = client.takes(Refused)
    assert (refused.request, refused.code) == (b"r9", "usage")
    assert "Expected `str`" in refused.fields["what"]


def test_calls_that_are_the_shell_s_change_nothing(story: Story, client: Client) -> None:
    client.says(Called(Explain(b"r", "x")))
    client.hears_nothing()


def test_a_deadlock_of_two_names_is_none(stories: Callable[..., Story]) -> None:
    story = stories()
    one = story.worker("one")
    two = Native(story, "other")
    two.name = "one"  # the same name from another machine: the newer one holds it
    assert isinstance(two.registers(), Welcome)
    one.beats_now()
    one.takes(Disconnect)
    assert story.state.workers["one"].peer == two.id


def test_a_worker_that_asks_like_a_client_is_turned_away(story: Story) -> None:
    worker: Plain = story.plain("odd", MDP02)
    worker.serves("work")
    worker.requests("work", b"x")
    worker.is_turned_away()
    assert story.broker.refused == {"header changed": 1}
    assert story.state.workers == {}


def test_cards_are_told_apart_by_uuid_alone(story: Story) -> None:
    worker = story.worker(gpus=[gpu("A", 8.0), gpu("A", 24.0)])
    assert [card.memory_gb for card in worker.record.gpus.values()] == [24.0]
