"""Peers of plain Majordomo: requests, replies, partial ones, folding, MMI and Titanic."""

from __future__ import annotations

import json
from collections.abc import Callable
from unittest.mock import ANY, patch

import pytest

from broker.core import doors
from broker.core.effects import ReplyPlain
from broker.core.events import PeerLost
from broker.core.facts import Aliased
from corral.messages import Document
from corral.tasks import State
from corral.wire import Dialect, Readied
from tests.unit.core.peers import Client, Plain, kind, packed
from tests.unit.core.story import Story

MDP01, MDP02 = Dialect.MDP01, Dialect.MDP02
BOTH = pytest.mark.parametrize("dialect", [MDP01, MDP02])


def only_task(story: Story) -> str:
    [id] = story.state.tasks
    return id


def newest(story: Story) -> str:
    return list(story.state.tasks)[-1]


# --- requests and replies -----------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("other", [MDP01, MDP02])
def test_a_request_goes_to_a_worker_of_either_dialect_and_comes_back(
    story: Story, dialect: Dialect, other: Dialect
) -> None:
    worker = story.plain("worker", dialect)
    worker.serves("coffee")
    client = story.plain("client", other)
    client.requests("coffee", b"black", b"hot")
    token = worker.gets(only_task(story))
    worker.replies(token, b"here", b"you are")
    client.hears(b"here", b"you are", service="coffee")
    story.is_(only_task(story), State.SUCCEEDED)


def test_an_empty_body_is_padded(story: Story) -> None:
    worker = story.plain("worker", MDP02)
    worker.serves("coffee")
    client = story.plain("client")
    client.requests("coffee", b"")
    worker.replies(worker.gets(only_task(story)))
    client.hears(b"", service="coffee")


def test_a_large_reply_is_known_by_its_digest(story: Story) -> None:
    worker = story.plain("worker")
    worker.serves("coffee")
    client = story.plain("client")
    client.requests("coffee", b"x")
    worker.replies(worker.gets(only_task(story)), b"much", blob="digest")
    client.hears(service="coffee", blob="digest")


def test_a_service_that_nobody_serves_yet_waits_with_a_limit(stories: Callable[..., Story]) -> None:
    story = stories(plain_queue_limit=30.0)
    client = story.plain("client")
    client.requests("later", b"x")
    id = only_task(story)
    story.is_(id, State.QUEUED)
    story.later(29.0)
    worker = story.plain("worker")
    worker.serves("later")
    worker.replies(worker.gets(id), b"done")
    client.hears(b"done", service="later")
    worker.parts()
    client.requests("later", b"y")
    story.later(31.0)
    story.is_(newest(story), State.EXPIRED)
    client.hears_nothing()  # plain Majordomo has no word for it


def test_a_plain_worker_has_one_request_at_a_time(story: Story) -> None:
    worker = story.plain("worker")
    worker.serves("coffee")
    client = story.plain("client")
    client.requests("coffee", b"1")
    client.requests("coffee", b"2")
    first, second = story.state.tasks
    token = worker.gets(first)
    worker.hears_nothing()
    worker.replies(token, b"1")
    client.hears(b"1", service="coffee")
    worker.replies(worker.gets(second), b"2")
    client.hears(b"2", service="coffee")


def test_partial_replies_go_to_clients_of_02_only(story: Story) -> None:
    worker = story.plain("worker")
    worker.serves("coffee")
    new, old = story.plain("new", MDP02), story.plain("old", MDP01)
    new.requests("coffee", b"1")
    old.requests("coffee", b"2")
    first, second = story.state.tasks
    token = worker.gets(first)
    worker.replies(token, b"grinding", final=False)
    new.hears(b"grinding", service="coffee", final=False)
    worker.replies(token, b"done")
    new.hears(b"done", service="coffee")
    token = worker.gets(second)
    worker.replies(token, b"grinding", final=False)
    old.hears_nothing()
    worker.replies(token, b"done")
    old.hears(b"done", service="coffee")


def test_partial_replies_of_the_cancelled_go_nowhere(story: Story) -> None:
    worker = story.plain("worker")
    worker.serves("work")
    native = story.client()
    id = native.submit()
    token = worker.gets(id)
    worker.replies(token, b"a part", final=False)  # a native client takes no parts
    native.cancels(id)
    worker.replies(token, b"a part", final=False)
    worker.replies(token, b"all")
    assert story.broker.refused == {"late result": 1}
    native.hears_nothing()


def test_a_native_worker_serves_plain_clients(story: Story) -> None:
    worker = story.worker(kinds=[kind("sum")])
    client = story.plain("client", MDP01)
    client.requests("sum", b'{"a": 1, "b": 2}')
    id = only_task(story)
    assert story.task(id).spec.params == packed({"a": 1, "b": 2})
    worker.gets(id)
    worker.ends(id, value=packed({"total": 3}))
    client.hears(b'{"total":3}', service="sum")


@pytest.mark.parametrize(
    ("value", "frames"),
    [
        (b"raw", [b"raw"]),
        ([b"a", b"b"], [b"a", b"b"]),
        ([], [b"[]"]),
        ([b"a", 1], [b'["YQ==",1]']),
        (None, [b"null"]),
        ({(1, 2): 3}, [bytes(packed({(1, 2): 3}))]),
    ],
)
def test_a_value_becomes_frames(story: Story, value: object, frames: list[bytes]) -> None:
    worker = story.worker(kinds=[kind("sum")])
    client = story.plain("client")
    client.requests("sum", b"{}")
    worker.gets(only_task(story))
    worker.ends(only_task(story), value=packed(value))
    client.hears(*frames, service="sum")


def test_a_kind_that_takes_frames_gets_them(story: Story) -> None:
    story.worker(kinds=[kind("raw", frames=True)], slots=0)
    story.plain("client").requests("raw", b"\x00", b"\xff")
    assert story.task(only_task(story)).spec.params == packed([b"\x00", b"\xff"])


@pytest.mark.parametrize("body", [[b"no json"], [b"[1]"], [b"{}", b"{}"], [b"\xff"], [b"[" * 5000]])
def test_a_body_that_is_no_json_object_is_refused(story: Story, body: list[bytes]) -> None:
    story.worker(kinds=[kind("sum")])
    story.plain("client").requests("sum", *body)
    assert story.state.tasks == {}
    assert story.broker.refused == {"body is no JSON object": 1}


def test_a_body_that_is_nested_too_deep_is_refused(story: Story) -> None:
    story.worker(kinds=[kind("sum")])
    story.plain("client").requests("sum", b'{"a":' + b"[" * 700 + b"]" * 700 + b"}")
    assert story.state.tasks == {}
    assert story.broker.refused == {"nested too deep": 1}


def test_a_failed_request_gets_no_reply(story: Story) -> None:
    worker = story.worker(kinds=[kind("sum", never=("ValueError",))])
    client = story.plain("client")
    client.requests("sum", b"{}")
    id = only_task(story)
    worker.gets(id)
    worker.fails(id)
    story.is_(id, State.FAILED)
    client.hears_nothing()


# --- bounds -------------------------------------------------------------------------------


def test_requests_are_bounded(stories: Callable[..., Story]) -> None:
    story = stories(max_tasks=1)
    client = story.plain("client")
    client.requests("x", b"1")
    client.requests("x", b"2")
    assert len(story.state.tasks) == 1
    assert story.broker.refused == {"busy": 1}


def test_the_bytes_of_requests_are_bounded(stories: Callable[..., Story]) -> None:
    story = stories(max_task_bytes=100)
    client = story.plain("client")
    client.requests("x", b"1" * 60)
    client.requests("titanic.request", b"x", b"2" * 60)
    client.hears(b"500", service="titanic.request")
    assert len(story.state.tasks) == 1
    assert story.broker.refused == {"busy": 1}


def test_requests_for_services_that_nobody_knows_are_bounded(story: Story) -> None:
    client = story.plain("client")
    with patch.object(doors, "MAX_STRANGERS", 2):
        for body in (b"1", b"2", b"3"):
            client.requests("unheard", body)
    assert len(story.state.tasks) == 2
    assert story.broker.refused == {"unknown service": 1}


def test_oversized_requests_are_refused(story: Story) -> None:
    client = story.plain("client")
    with patch.object(doors, "MAX_PARAMS", 10):
        client.requests("x", b"123456", b"78901")
    assert story.broker.refused == {"oversized request": 1}


def test_what_is_remembered_for_folding_is_bounded(story: Story) -> None:
    client = story.plain("client")
    native = story.client()
    with patch.object(doors, "MAX_FOLDING", 3):
        for number in range(10):
            client.requests("x", b"%d" % number)
            native.cancels(newest(story))
    assert len(story.broker.doors.folding) <= 3


# --- resends ------------------------------------------------------------------------------


def resend(story: Story, after: float, **changed: object) -> tuple[Plain, Plain]:
    """A client asks, and asks again from a new connection."""
    first = story.plain("first", MDP01)
    first.requests("x", b"same")
    story.later(after)
    second = story.plain("second", changed.get("dialect", MDP01))
    second.requests(changed.get("service", "x"), changed.get("body", b"same"))
    return first, second


def test_a_resent_request_is_folded_onto_the_one_in_flight(story: Story) -> None:
    first, second = resend(story, 2.5)
    worker = story.plain("worker")
    worker.serves("x")
    worker.replies(worker.gets(only_task(story)), b"done")
    second.hears(b"done", service="x")
    first.hears_nothing()


@pytest.mark.parametrize(
    ("after", "changed"),
    [(1.0, {}), (601.0, {}), (3.0, {"body": b"other"}), (3.0, {"service": "y"})],
)
def test_what_is_no_resend_is_a_task_of_its_own(
    story: Story, after: float, changed: dict[str, object]
) -> None:
    resend(story, after, **changed)
    assert len(story.state.tasks) == 2


def test_the_same_connection_asking_again_means_it(story: Story) -> None:
    client = story.plain("client")
    client.requests("x", b"same")
    story.later(3.0)
    client.requests("x", b"same")
    assert len(story.state.tasks) == 2


def test_an_equal_request_after_the_reply_is_a_new_task(story: Story) -> None:
    worker = story.plain("worker")
    worker.serves("x")
    client = story.plain("client")
    client.requests("x", b"same")
    worker.replies(worker.gets(only_task(story)), b"done")
    client.hears(b"done", service="x")
    story.later(3.0)
    again = story.plain("again")
    again.requests("x", b"same")
    worker.replies(worker.gets(newest(story)), b"done")
    again.hears(b"done", service="x")
    assert len(story.state.tasks) == 2


def test_a_request_that_a_native_client_collects_is_not_folded(story: Story) -> None:
    first = story.plain("first")
    first.requests("x", b"same")
    native = story.client()
    native.asks(only_task(story))
    native.inbox.clear()
    story.later(3.0)
    story.plain("second").requests("x", b"same")
    assert len(story.state.tasks) == 2


# --- workers ------------------------------------------------------------------------------


def test_a_plain_worker_is_judged_only_while_it_waits(story: Story) -> None:
    worker = story.plain("worker")
    worker.serves("x")
    client = story.plain("client")
    client.requests("x", b"1")
    token = worker.gets(only_task(story))
    story.later(120.0)
    assert len(story.state.workers) == 1
    worker.replies(token, b"done")
    client.hears(b"done", service="x")
    worker.beats_now()
    story.later(8.0)
    assert len(story.state.workers) == 1
    story.later(8.0)
    assert story.state.workers == {}


def test_a_plain_worker_whose_connection_is_gone_has_lost_its_request(story: Story) -> None:
    worker = story.plain("worker")
    worker.serves("x")
    story.plain("client").requests("x", b"1")
    id = only_task(story)
    worker.gets(id)
    story.happens(PeerLost(worker.id))
    assert story.state.workers == {}
    assert (story.task(id).lost, story.task(id).state) == (1, State.QUEUED)
    assert story.state.attempts == {}


def test_a_plain_worker_that_never_answers_is_given_up(stories: Callable[..., Story]) -> None:
    story = stories(plain_run_limit=60.0)
    worker = story.plain("worker")
    worker.serves("x")
    client = story.plain("client")
    client.requests("x", b"1")
    id = only_task(story)
    token = worker.gets(id)
    story.later(59.0)
    story.is_(id, State.RUNNING)
    story.later(2.0)
    story.is_(id, State.FAILED)
    assert "did not answer" in story.task(id).story[-1].why
    worker.replies(token, b"late")
    assert story.broker.refused == {"late result": 1}
    client.hears_nothing()


def test_a_task_s_own_limit_holds_for_plain_workers_too(story: Story) -> None:
    worker = story.plain("worker")
    worker.serves("work")
    client = story.client()
    quick, slow = client.submit(run_limit=5.0), client.submit(run_limit=500.0)
    token = worker.gets(quick)
    worker.replies(token, b"in time")
    story.later(6.0)
    story.is_(quick, State.SUCCEEDED)
    token = worker.gets(slow)
    client.cancels(slow)
    story.later(600.0)
    story.is_(slow, State.CANCELLED)
    worker.replies(token, b"late")


def test_a_worker_of_unknown_dialect_cannot_reply(story: Story) -> None:
    worker = story.plain("worker", MDP01)
    worker.serves("x")
    worker.dialect = MDP02
    worker.replies(b"token", b"x")
    worker.dialect = MDP01
    worker.is_turned_away()
    stranger = story.plain("stranger", MDP01)
    stranger.replies(b"token", b"x")
    stranger.is_turned_away()
    assert story.broker.refused == {"unknown worker": 2}


def test_a_heartbeat_of_another_dialect_is_refused(story: Story) -> None:
    worker = story.plain("worker", MDP01)
    worker.serves("x")
    worker.dialect = MDP02
    worker.beats_now()
    worker.dialect = MDP01
    worker.is_turned_away()


def test_a_reply_for_what_is_not_its_own_changes_nothing(story: Story) -> None:
    one, two = story.plain("one"), story.plain("two")
    one.serves("x")
    two.serves("x")
    client = story.plain("client")
    client.requests("x", b"1")
    token = one.gets(only_task(story))
    two.replies(token, b"stolen")
    two.replies(b"never given", b"x")
    story.is_(only_task(story), State.RUNNING)
    one.replies(token, b"mine")
    client.hears(b"mine", service="x")


@pytest.mark.parametrize("service", ["mmi.service", "titanic.reply", "corral.submit"])
def test_nobody_serves_what_is_the_broker_s(story: Story, service: str) -> None:
    worker = story.plain("worker")
    worker.serves(service)
    worker.is_turned_away()
    assert story.state.workers == {}


def test_who_serves_twice_is_turned_away(story: Story) -> None:
    worker = story.plain("worker")
    worker.serves("x")
    worker.serves("y")
    worker.is_turned_away()
    assert story.state.workers == {}
    assert story.broker.refused == {"ready again": 1}


def test_plain_workers_are_bounded_too(stories: Callable[..., Story]) -> None:
    story = stories(max_workers=1)
    story.plain("one").serves("x")
    two = story.plain("two")
    two.serves("x")
    two.is_turned_away()


def test_a_capability_document_means_nothing_in_01(story: Story) -> None:
    worker = story.plain("worker", MDP01)
    document = Document(name="boss", incarnation="1", kinds=[])
    worker.says(Readied(MDP01, "x", document))
    assert [w.native for w in story.state.workers.values()] == [False]
    story.later(2.0)
    assert worker.beats == 1


def test_a_plain_worker_may_serve_a_kind_that_native_workers_announced(story: Story) -> None:
    story.announces(kind("sum"))
    worker = story.plain("worker")
    worker.serves("sum")
    client = story.plain("client")
    client.requests("sum", b'{"a": 1}')
    worker.replies(worker.gets(only_task(story)), b"1")
    client.hears(b"1", service="sum")


def test_a_handed_back_request_is_no_fault(story: Story) -> None:
    worker = story.plain("worker")
    worker.serves("x")
    story.plain("client").requests("x", b"1")
    id = only_task(story)
    worker.gets(id)
    worker.parts()
    assert (story.task(id).state, story.task(id).lost) == (State.QUEUED, 0)


# --- MMI (RFC 8) --------------------------------------------------------------------------


def mmi(story: Story, what: str, body: bytes = b"x") -> list[bytes]:
    client = story.plain("asker", MDP01)
    client.requests(f"mmi.{what}", body)
    reply = client.takes(ReplyPlain)
    assert (reply.service, reply.final, reply.dialect) == (f"mmi.{what}", True, MDP01)
    return reply.body


def test_mmi_service_knows_who_is_there(story: Story) -> None:
    assert mmi(story, "service") == [b"404"]
    worker = story.plain("worker")
    worker.serves("x")
    assert mmi(story, "service") == [b"200"]
    assert mmi(story, "service", b"\xff") == [b"404"]
    worker.parts()
    assert mmi(story, "service") == [b"404"]


def test_mmi_service_says_no_for_a_drained_worker(story: Story) -> None:
    worker = story.worker(kinds=[kind("x")])
    client: Client = story.client()
    assert mmi(story, "service") == [b"200"]
    client.drains("w1")
    worker.inbox.clear()
    assert mmi(story, "service") == [b"404"]


def test_mmi_workers_queue_and_version(story: Story) -> None:
    story.plain("client").requests("x", b"1")
    story.plain("client").requests("x", b"2")
    assert mmi(story, "queue") == [b"200", b"2"]
    story.worker("b", kinds=[kind("y")])
    story.worker("a", kinds=[kind("y")])
    assert [json.loads(f) if f != b"200" else f for f in mmi(story, "workers", b"y")] == [
        b"200", ["a", "b"],
    ]  # fmt: skip
    assert mmi(story, "version") == [b"200", b"MDP/0.1 MDP/0.2"]
    assert mmi(story, "astrology") == [b"501"]


# --- Titanic (RFC 9) ----------------------------------------------------------------------


class Titanic:
    """A client of Titanic."""

    def __init__(self, story: Story) -> None:
        self.client = story.plain("titanic", MDP01)

    def __call__(self, what: str, *body: bytes) -> list[bytes]:
        self.client.requests(f"titanic.{what}", *body)
        reply = self.client.takes(ReplyPlain)
        return [*reply.body, reply.blob.encode()] if reply.blob else reply.body


@pytest.fixture
def titanic(story: Story) -> Titanic:
    return Titanic(story)


def test_a_request_is_stored_before_it_is_answered(story: Story, titanic: Titanic) -> None:
    status, alias = titanic("request", b"x", b"body")
    assert status == b"200"
    assert len(alias) == 32
    replayed = story.replayed()
    assert replayed.aliases == {alias.decode(): only_task(story)}


def test_a_reply_is_pending_then_there_then_closed(story: Story, titanic: Titanic) -> None:
    _, alias = titanic("request", b"x", b"body")
    assert titanic("reply", alias) == [b"300"]
    worker = story.plain("worker")
    worker.serves("x")
    token = worker.gets(only_task(story))
    assert titanic("reply", alias.upper()) == [b"300"]
    worker.replies(token, b"one", b"two")
    assert titanic("reply", alias) == [b"200", b"one", b"two"]
    assert titanic("reply", alias) == [b"200", b"one", b"two"]
    assert titanic("close", alias) == [b"200"]
    assert titanic("reply", alias) == [b"400"]
    assert titanic("close", alias) == [b"200"]
    assert story.state.forgettable(story.task(only_task(story)))


def test_a_large_result_is_named(story: Story, titanic: Titanic) -> None:
    _, alias = titanic("request", b"x", b"body")
    worker = story.plain("worker")
    worker.serves("x")
    worker.replies(worker.gets(only_task(story)), b"much", blob="digest")
    assert titanic("reply", alias) == [b"200", b"digest"]


def test_the_last_close_cancels_what_is_queued(story: Story, titanic: Titanic) -> None:
    _, alias = titanic("request", b"x", b"body")
    titanic("close", alias)
    story.is_(only_task(story), State.CANCELLED)


def test_a_close_leaves_what_runs(story: Story, titanic: Titanic) -> None:
    _, alias = titanic("request", b"x", b"body")
    worker = story.plain("worker")
    worker.serves("x")
    token = worker.gets(only_task(story))
    titanic("close", alias)
    worker.replies(token, b"done")
    story.is_(only_task(story), State.SUCCEEDED)


def test_a_request_that_failed_for_good_says_so(story: Story, titanic: Titanic) -> None:
    _, alias = titanic("request", b"x", b"body")
    client = story.client()
    client.cancels(only_task(story))
    assert titanic("reply", alias) == [b"400", b"FAILED cancelled"]


@pytest.mark.parametrize(
    "body",
    [[b"x"], [b"", b"y"], [b"mmi.service", b"y"], [b"titanic.request", b"y"], [b"two words", b"y"],
     [b"corral.submit", b"y"]],
)  # fmt: skip
def test_a_request_that_cannot_be_is_refused(
    story: Story, titanic: Titanic, body: list[bytes]
) -> None:
    assert titanic("request", *body) == [b"400"]
    assert story.state.tasks == {}


def test_a_request_that_is_not_taken_says_so(story: Story, titanic: Titanic) -> None:
    story.worker(kinds=[kind("sum")])
    assert titanic("request", b"sum", b"no json") == [b"500"]


def test_a_full_store_takes_no_request(story: Story, titanic: Titanic) -> None:
    assert titanic("request", b"sum", b"1") == [b"200", ANY]
    story.broker.full = "no room"
    story.plain("client").requests("sum", b"2")
    assert titanic("request", b"sum", b"3") == [b"500"]
    assert len(story.state.tasks) == 1
    assert story.broker.refused == {"store_full": 2}


@pytest.mark.parametrize("alias", [b"", b"unknown", b"\xff\xfe"])
def test_an_alias_nobody_knows(story: Story, titanic: Titanic, alias: bytes) -> None:
    assert titanic("reply", alias) == [b"400"]
    assert titanic("close", alias) == [b"200"]


def test_titanic_knows_three_words(titanic: Titanic) -> None:
    assert titanic("sink", b"x") == [b"501"]


def test_titanic_survives_a_restart(story: Story, titanic: Titanic) -> None:
    _, alias = titanic("request", b"x", b"body")
    story.restart()
    worker = story.plain("worker")
    worker.serves("x")
    worker.replies(worker.gets(only_task(story)), b"done")
    assert titanic("reply", alias) == [b"200", b"done"]
    story.restart(story.restored())
    assert titanic("reply", alias) == [b"200", b"done"]


def test_requests_of_one_broker_and_the_next_differ(story: Story, titanic: Titanic) -> None:
    _, first = titanic("request", b"x", b"body")
    story.restart()
    _, second = titanic("request", b"x", b"body")
    assert first != second
    assert len(story.state.tasks) == 2


def test_two_aliases_of_one_task_are_closed_one_by_one(story: Story) -> None:
    titanic = Titanic(story)
    _, alias = titanic("request", b"x", b"body")
    id = only_task(story)
    story.broker._fact(Aliased("second", id))
    story.turn()
    titanic("close", alias)
    story.is_(id, State.QUEUED)
    titanic("close", b"second")
    story.is_(id, State.CANCELLED)


def test_requests_that_nobody_closes_are_bounded(story: Story, titanic: Titanic) -> None:
    with patch.object(doors, "MAX_ALIASES", 2):
        _, first = titanic("request", b"x", b"one")
        titanic("request", b"x", b"two")
        assert titanic("request", b"x", b"three") == [b"500"]
        titanic("close", first)
        assert titanic("request", b"x", b"three")[0] == b"200"
    assert story.broker.refused == {"too many open requests": 1}
