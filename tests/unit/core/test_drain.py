"""Drain: fence first, count down to nothing, say so; deadlines, policies, who and why."""

from __future__ import annotations

import pytest

from broker.core.effects import Disconnect
from corral.messages import Drain, DrainWorker, Recall, Refused, Resume
from corral.tasks import State
from corral.wire import Dialect, Extended
from tests.unit.core.peers import Client, Native, spec
from tests.unit.core.story import Story


@pytest.fixture
def worker(story: Story) -> Native:
    return story.worker(slots=2)


@pytest.fixture
def client(story: Story) -> Client:
    return story.client()


def drained(worker: Native) -> str:
    assert worker.takes(DrainWorker).draining
    return worker.record.status


def test_an_idle_worker_is_drained_at_once(story: Story, worker: Native, client: Client) -> None:
    client.drains("w1", reason="new kernel", who="ada")
    asked = worker.takes(DrainWorker)
    assert (asked.draining, asked.reason) == (True, "new kernel")
    record = worker.record
    assert (record.status, record.drained_by, record.drain_reason) == (
        "drained", "ada", "new kernel",
    )  # fmt: skip
    assert record.drain_since == story.now
    client.submit()
    worker.hears_nothing()


def test_a_busy_worker_drains_until_nothing_runs(
    story: Story, worker: Native, client: Client
) -> None:
    first, second, third = client.submits(spec(), spec(), spec())
    worker.gets(first, second)
    client.drains("w1")
    assert drained(worker) == "draining"
    assert worker.record.drained_by == "an operator"
    worker.ends(first)
    assert worker.record.status == "draining"
    worker.ends(second)
    assert worker.record.status == "drained"
    story.is_(third, State.QUEUED)
    client.resumes("w1", who="ada")
    assert not worker.takes(DrainWorker).draining
    worker.gets(third)
    assert (worker.record.drained_by, worker.record.drain_since) == ("", None)


def test_resuming_what_is_open_says_nothing_to_it(
    story: Story, worker: Native, client: Client
) -> None:
    client.resumes("w1")
    worker.hears_nothing()


def test_a_drain_may_be_changed_while_it_goes_on(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit()
    worker.gets(id)
    client.drains("w1", reason="slowly")
    drained(worker)
    client.drains("w1", reason="at once", deadline=5.0, policy="requeue")
    drained(worker)
    assert worker.record.drain_reason == "at once"
    story.later(1.0)
    client.drains("w1")
    drained(worker)
    assert worker.record.drain_reason == "at once"  # a drain without a word leaves the first
    assert worker.record.drain_since is not None
    assert worker.record.drain_since <= story.now - 1.0
    client.drains("w1", deadline=4.0, policy="requeue")
    drained(worker)
    story.later(6.0)
    story.is_(id, State.QUEUED)
    worker.is_asked_to_stop(id)
    worker.lets_go(id)
    assert worker.record.status == "drained"


@pytest.mark.parametrize(
    ("policy", "state"), [("requeue", State.QUEUED), ("kill", State.CANCELLED)]
)
def test_at_the_deadline_a_worker_is_made_to_let_go(
    story: Story, worker: Native, client: Client, policy: str, state: State
) -> None:
    first, second = client.submits(spec(), spec())
    worker.gets(first, second)
    client.cancels(second)
    worker.is_asked_to_stop(second)
    client.drains("w1", deadline=60.0, policy=policy)
    drained(worker)
    story.later(59.0)
    story.is_(first, State.RUNNING)
    story.later(2.0)
    story.is_(first, state)
    assert story.task(first).story[-1].why == "drain of w1 reached its deadline"
    assert worker.is_asked_to_stop(first).reason == "drain of w1 reached its deadline"
    assert worker.record.status == "draining"
    worker.lets_go(first)
    worker.lets_go(second)
    assert worker.record.status == "drained"


def test_the_policy_wait_waits_beyond_the_deadline(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit()
    worker.gets(id)
    client.drains("w1", deadline=10.0)
    drained(worker)
    story.later(100.0)
    story.is_(id, State.RUNNING)
    worker.ends(id)
    assert worker.record.status == "drained"


def test_a_deadline_that_was_lifted_does_nothing(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit()
    worker.gets(id)
    client.drains("w1", deadline=10.0, policy="kill")
    drained(worker)
    client.drains("w1", policy="kill")
    drained(worker)
    story.later(20.0)
    story.is_(id, State.RUNNING)
    client.drains("w1", deadline=10.0, policy="kill")
    drained(worker)
    client.resumes("w1")
    worker.takes(DrainWorker)
    story.later(20.0)
    story.is_(id, State.RUNNING)


def test_a_deadline_of_a_worker_that_is_gone_does_nothing(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit()
    worker.gets(id)
    client.drains("w1", deadline=10.0, policy="kill")
    drained(worker)
    worker.parts()
    story.later(20.0)
    story.is_(id, State.QUEUED)


def test_a_worker_nobody_knows_and_a_policy_nobody_knows(
    story: Story, worker: Native, client: Client
) -> None:
    client.calls(Drain(b"1", "nobody"))
    refused = client.takes(Refused)
    assert (refused.code, refused.fields) == ("not_found", {"noun": "worker", "name": "nobody"})
    client.calls(Resume(b"2", "nobody"))
    assert client.takes(Refused).code == "not_found"
    client.calls(Drain(b"3", "w1", policy="pray"))
    assert client.takes(Refused).code == "usage"
    assert worker.record.status == "available"


def test_a_drain_outlives_the_worker_s_restart_and_the_broker_s(
    story: Story, worker: Native, client: Client
) -> None:
    client.drains("w1", reason="disk")
    drained(worker)
    worker.restarts()
    assert worker.takes(DrainWorker).reason == "disk"
    client.submit()
    worker.hears_nothing()
    story.restart()
    worker.returns()
    assert worker.takes(DrainWorker).reason == "disk"
    worker.hears_nothing()
    assert worker.record.status == "drained"


def test_a_deadline_outlives_the_broker(story: Story, worker: Native, client: Client) -> None:
    id = client.submit()
    worker.gets(id)
    client.drains("w1", deadline=60.0, policy="requeue")
    drained(worker)
    story.later(20.0)
    story.restart()
    worker.returns(worker.token(id))
    worker.takes(DrainWorker)
    story.later(39.0)
    story.is_(id, State.RUNNING)
    story.later(2.0)
    story.is_(id, State.QUEUED)
    worker.is_asked_to_stop(id)
    worker.lets_go(id)


def test_a_draining_worker_that_restarts_with_nothing_is_drained(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit()
    worker.gets(id)
    client.drains("w1")
    drained(worker)
    worker.restarts()
    worker.takes(DrainWorker)
    assert worker.record.status == "drained"
    story.is_(id, State.QUEUED)


def test_a_draining_worker_that_falls_silent_is_drained_when_it_is_gone(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit()
    worker.gets(id)
    client.drains("w1")
    drained(worker)
    worker.silent = True
    story.later(320.0)
    assert story.state.admissions["w1"].admission == "drained"
    story.is_(id, State.QUEUED)


# --- a worker that wants to leave ---------------------------------------------------------


def test_a_worker_may_ask_to_be_drained(story: Story, worker: Native, client: Client) -> None:
    id = client.submit()
    worker.gets(id)
    worker.says(Extended(DrainWorker(True, "SIGTERM")))
    assert worker.takes(DrainWorker).draining
    record = worker.record
    assert (record.status, record.drained_by, record.drain_reason) == ("draining", "w1", "SIGTERM")
    other = client.submit()
    worker.hears_nothing()
    worker.ends(id)
    assert worker.record.status == "drained"
    worker.parts()
    assert story.state.admissions == {}
    worker.restarts()
    worker.gets(other)


def test_a_worker_that_gives_no_reason(story: Story, worker: Native) -> None:
    worker.says(Extended(DrainWorker(True)))
    worker.takes(DrainWorker)
    assert worker.record.drain_reason == "it is stopping"
    worker.says(Extended(DrainWorker(True)))  # once is enough
    worker.says(Extended(DrainWorker(False)))  # only an operator resumes
    worker.hears_nothing()
    assert worker.record.status == "drained"


def test_a_worker_that_was_stopping_and_starts_again_is_open(
    story: Story, worker: Native, client: Client
) -> None:
    worker.says(Extended(DrainWorker(True)))
    worker.takes(DrainWorker)
    worker.vanishes()
    worker.restarts()
    assert worker.record.status == "available"
    assert story.state.admissions == {}
    id = client.submit()
    worker.gets(id)


def test_a_worker_that_is_still_stopping_stays_drained(
    story: Story, worker: Native, client: Client
) -> None:
    worker.says(Extended(DrainWorker(True)))
    worker.takes(DrainWorker)
    worker.vanishes()
    worker.returns()  # the same process
    worker.takes(DrainWorker)
    assert worker.record.status == "drained"


def test_an_operator_s_drain_is_not_lifted_by_leaving(
    story: Story, worker: Native, client: Client
) -> None:
    client.drains("w1", who="ada")
    drained(worker)
    worker.parts()
    assert story.state.admissions["w1"].by == "ada"


def test_draining_a_worker_whose_connection_is_gone(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit()
    worker.gets(id)
    worker.vanishes()
    client.drains("w1")
    worker.hears_nothing()
    client.resumes("w1")
    worker.hears_nothing()
    client.drains("w1", reason="again")
    worker.returns(worker.token(id))
    assert worker.takes(DrainWorker).reason == "again"
    worker.ends(id)
    assert worker.record.status == "drained"


def test_a_plain_worker_is_drained_without_a_word(story: Story, client: Client) -> None:
    old = story.plain("old", Dialect.MDP01)
    old.serves("work")
    [name] = story.state.workers
    id = client.submit()
    token = old.gets(id)
    client.drains(name)
    old.hears_nothing()
    later = client.submit()
    old.replies(token, b"done")
    assert story.state.workers[name].status == "drained"
    client.resumes(name)
    token = old.gets(later)
    client.cancels(later)
    old.hears_nothing()  # nobody can ask it to stop
    old.replies(token, b"late")
    old.parts()


def test_what_it_has_not_begun_is_taken_back(story: Story, client: Client) -> None:
    worker = story.worker("quick", slots=1)
    for _ in range(5):
        id = client.submit()
        worker.gets(id)
        worker.ends(id, seconds=0.001)
    ids = client.submits(*(spec() for _ in range(5)))
    worker.gets(*ids)
    worker.begins(*ids[:2])
    client.drains("quick")
    worker.takes(DrainWorker)
    assert set(worker.takes(Recall).tokens) == {worker.token(id) for id in ids[2:]}
    worker.hands_back(*ids[2:])
    worker.ends(*ids[:2], seconds=0.001)
    assert worker.record.status == "drained"
    other = story.worker("other", slots=1)
    other.gets(*ids[2:])


def test_a_stranger_cannot_drain_by_worker_message(story: Story) -> None:
    stranger = Native(story, "x")
    stranger.says(Extended(DrainWorker(True)))
    stranger.takes(Disconnect)


def test_a_drained_worker_that_is_away_can_be_resumed(
    story: Story, worker: Native, client: Client
) -> None:
    client.drains("w1")
    drained(worker)
    worker.parts()
    client.resumes("w1")
    assert story.state.admissions == {}
    worker.restarts()
    worker.hears_nothing()
    worker.gets(client.submit())
