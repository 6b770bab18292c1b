"""Cancel is durable and frees nothing early; limits of time in the queue and of the run."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import patch

import pytest

from broker.core import machine
from corral.messages import (
    Cancel,
    CancelAttempts,
    Done,
    DrainWorker,
    Ended,
    Nack,
    Refused,
    ResultAck,
)
from corral.tasks import Retry, State, force_gpu
from corral.wire import Extended
from tests.unit.core.peers import Client, Native, gpu, spec
from tests.unit.core.story import Story


@pytest.fixture
def worker(story: Story) -> Native:
    return story.worker(slots=1)


@pytest.fixture
def client(story: Story) -> Client:
    return story.client()


# --- cancel ---------------------------------------------------------------------------------


def test_a_queued_task_is_cancelled_at_once(story: Story, client: Client) -> None:
    story.announces()
    story.worker("w0").parts()
    id = client.submit()
    done = client.cancels(id, reason="changed my mind", who="ada")
    assert done.changed == [id]
    story.is_(id, State.CANCELLED)
    assert story.task(id).story[-1].why == "changed my mind (ada)"


def test_reasons_have_a_bound_together(story: Story, client: Client) -> None:
    """Each task keeps the reason, and the journal has one row for all of them."""
    story.worker("w0").parts()
    ids = client.submits(spec(), spec(), spec())
    with patch.object(machine, "MAX_REASONS", 20):
        for reason in ("too slow", "\u6162\u6162\u6162"):  # of the second, bytes are too many
            client.calls(Cancel(b"r", ids, reason))
            refused = client.takes(Refused)
            assert (refused.code, story.state.unfinished) == ("usage", 3)
        assert client.cancels(*ids, reason="slow", who="ada").changed == ids
    whys = [story.task(one).story[-1].why for one in ids]
    assert whys == ["slow (ada)"] * 3
    assert len({id(why) for why in whys}) == 1  # one text, however many tasks keep it


def test_a_long_reason_for_very_many_tasks_is_refused(story: Story, client: Client) -> None:
    client.calls(Cancel(b"r", ["none"] * 20_000, "x" * 2000))
    assert client.takes(Refused).code == "usage"


def test_of_a_worker_s_reason_no_more_is_kept_than_of_a_person_s(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit()
    worker.gets(id)
    worker.says(Extended(DrainWorker(True, "x" * 5000)))
    assert worker.takes(DrainWorker).reason == "x" * 2000
    worker.says(Extended(Nack([worker.token(id)], "y" * 5000)))
    assert story.task(id).failure.message == "y" * 2000


def test_cancel_is_in_the_journal_before_it_is_answered(story: Story, client: Client) -> None:
    story.worker("w0").parts()
    id = client.submit()
    client.cancels(id)
    assert story.replayed().tasks[id].state is State.CANCELLED
    assert story.task(id).story[-1].why == "cancelled by a client"


def test_a_running_task_stays_booked_until_its_worker_lets_go(
    story: Story, worker: Native, client: Client
) -> None:
    first, second = client.submits(spec(), spec())
    worker.gets(first)
    client.cancels(first, reason="too slow")
    story.is_(first, State.CANCELLED)
    asked = worker.is_asked_to_stop(first)
    assert (asked.reason, asked.grace) == ("too slow", 10.0)
    worker.hears_nothing()
    assert worker.record.slots_used == 1
    worker.lets_go(first)
    worker.gets(second)
    assert [a.outcome for a in story.task(first).attempts] == ["cancelled"]


def test_a_card_is_not_given_again_while_a_cancelled_attempt_may_use_it(
    story: Story, client: Client
) -> None:
    one = story.worker("one", gpus=[gpu("A")], slots=2)
    two = story.worker("two", gpus=[gpu("A")], slots=2)
    first = client.submit(needs=force_gpu())
    one.gets(first)
    client.cancels(first)
    one.is_asked_to_stop(first)
    second = client.submit(needs=force_gpu())
    two.hears_nothing()
    one.lets_go(first)
    two.gets(second)


def test_a_result_after_the_cancel_changes_nothing(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit()
    worker.gets(id)
    client.cancels(id)
    worker.is_asked_to_stop(id)
    worker.ends(id)
    story.is_(id, State.CANCELLED)
    assert story.broker.refused == {"late result": 1}


def test_a_waiting_and_a_retrying_task_can_be_cancelled(
    story: Story, worker: Native, client: Client
) -> None:
    parent, child = client.submits(spec(), spec(after={"a": "#0"}))
    worker.gets(parent)
    worker.fails(parent)
    story.is_(parent, State.RETRYING)
    assert client.cancels(child, parent).changed == [child, parent]
    story.later(10.0)
    worker.hears_nothing()
    assert story.state.unfinished == 0


def test_children_of_a_cancelled_task_are_aborted(
    story: Story, worker: Native, client: Client
) -> None:
    parent, child, grandchild = client.submits(
        spec(), spec(after={"a": "#0"}), spec(after={"a": "#1"})
    )
    worker.gets(parent)
    client.cancels(parent)
    worker.is_asked_to_stop(parent)
    assert story.task(child).story[-1].why == f"its parent a ({parent}) is cancelled"
    story.is_(grandchild, State.ABORTED)
    worker.lets_go(parent)


def test_cancelling_what_is_over_or_unknown_says_so(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit()
    worker.gets(id)
    worker.ends(id)
    done = client.cancels(id, "nobody")
    assert done.changed == []
    assert done.unchanged == {id: "it is succeeded already", "nobody": "not found"}


def test_cancelling_twice_changes_once(story: Story, worker: Native, client: Client) -> None:
    id = client.submit()
    worker.gets(id)
    assert client.cancels(id, id).unchanged == {id: "it is cancelled already"}
    worker.is_asked_to_stop(id)
    worker.lets_go(id)


def test_a_cancelled_task_can_run_again_while_its_old_attempt_ends(
    story: Story, client: Client
) -> None:
    worker = story.worker(slots=2)
    id = client.submit()
    worker.gets(id)
    old = worker.token(id)
    client.cancels(id)
    worker.is_asked_to_stop(id)
    client.retries(id)
    worker.gets(id)
    assert worker.record.slots_used == 2
    assert len(story.state.attempts_of(story.task(id))) == 2
    worker.finishes(Ended(old, "ok", 1.0))
    story.is_(id, State.RUNNING)
    worker.ends(id)
    story.is_(id, State.SUCCEEDED)
    assert [a.outcome for a in story.task(id).attempts] == ["ok", "ok"]


def test_a_worker_without_a_connection_is_not_asked(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit()
    worker.gets(id)
    worker.vanishes()
    client.cancels(id)
    worker.hears_nothing()
    welcome = worker.returns(worker.token(id))
    assert welcome.adopted == []
    assert worker.takes(CancelAttempts).reason == "revoked"
    assert worker.record.slots_used == 1
    worker.lets_go(id)
    assert worker.record.slots_used == 0


def test_a_report_of_what_nobody_knows_is_acknowledged_and_counted(
    story: Story, worker: Native, client: Client
) -> None:
    worker.finishes(Ended(b"\x01nonsense", "ok"))
    assert story.broker.refused == {"late result": 1}


def test_a_report_of_another_s_attempt_changes_nothing(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit()
    worker.gets(id)
    thief = story.worker("thief", slots=0)
    thief.finishes(Ended(worker.token(id), "ok"))
    story.is_(id, State.RUNNING)
    worker.ends(id)
    story.is_(id, State.SUCCEEDED)


def test_a_report_that_comes_twice_counts_once(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit()
    worker.gets(id)
    worker.ends(id)
    worker.ends(id)
    assert len(story.task(id).attempts) == 1
    assert story.broker.refused == {"late result": 1}


def test_all_results_of_a_message_count(story: Story, client: Client) -> None:
    worker = story.worker(slots=3)
    ids = client.submits(spec(), spec(retry=Retry(limit=0)), spec())
    worker.gets(*ids)
    worker.finishes(
        Ended(worker.token(ids[0]), "ok"),
        Ended(worker.token(ids[1]), "error"),
        Ended(worker.token(ids[2]), "ok"),
    )
    assert [story.task(id).state.value for id in ids] == ["succeeded", "failed", "succeeded"]
    worker.hears_nothing()
    with pytest.raises(AssertionError):
        worker.takes(ResultAck)


# --- time in the queue ------------------------------------------------------------------------


def test_a_task_that_waits_too_long_expires(story: Story, worker: Native, client: Client) -> None:
    first, second = client.submits(spec(), spec(queue_limit=30.0))
    worker.gets(first)
    story.later(29.9)
    story.is_(second, State.QUEUED)
    story.later(0.2)
    story.is_(second, State.EXPIRED)
    assert story.task(second).story[-1].why == "waited 30 s, its limit"


def test_waiting_for_parents_counts_as_time_in_the_queue(
    story: Story, worker: Native, client: Client
) -> None:
    parent, child, grandchild = client.submits(
        spec(), spec(after={"a": "#0"}, queue_limit=10.0), spec(after={"b": "#1"})
    )
    worker.gets(parent)
    story.later(11.0)
    story.is_(child, State.EXPIRED)
    story.is_(grandchild, State.ABORTED)
    worker.ends(parent)


def test_the_limit_is_for_the_first_attempt(story: Story, worker: Native, client: Client) -> None:
    id = client.submit(queue_limit=10.0)
    worker.gets(id)
    worker.fails(id)
    worker.parts()
    story.later(60.0)
    story.is_(id, State.QUEUED)


def test_a_cancelled_task_does_not_expire(story: Story, worker: Native, client: Client) -> None:
    first, second = client.submits(spec(), spec(queue_limit=10.0))
    worker.gets(first)
    client.cancels(second)
    story.later(20.0)
    story.is_(second, State.CANCELLED)


def test_a_new_run_has_its_own_time(story: Story, worker: Native, client: Client) -> None:
    first, second = client.submits(spec(), spec(queue_limit=10.0))
    worker.gets(first)
    story.later(5.0)
    client.cancels(second)
    client.retries(second)
    story.later(6.0)  # the timer of the earlier run rings
    story.is_(second, State.QUEUED)
    story.later(5.0)
    story.is_(second, State.EXPIRED)


def test_limits_go_on_after_a_restart(story: Story, worker: Native, client: Client) -> None:
    first, second = client.submits(spec(), spec(queue_limit=50.0))
    worker.gets(first)
    story.later(20.0)
    story.restart()
    worker.returns(worker.token(first))
    story.later(29.0)
    story.is_(second, State.QUEUED)
    story.later(2.0)
    story.is_(second, State.EXPIRED)
    worker.ends(first)


def test_a_back_off_goes_on_after_a_restart(story: Story, worker: Native, client: Client) -> None:
    id = client.submit(retry=Retry(delay=100.0))
    worker.gets(id)
    worker.fails(id)
    due = story.task(id).retry_at
    story.restart()
    worker.returns()
    story.later(due - story.now - 1.0)
    worker.hears_nothing()
    story.later(2.0)
    worker.gets(id)


def test_tasks_that_are_over_set_no_timers(stories: Callable[..., Story]) -> None:
    story = stories()
    client, worker = story.client(), story.worker()
    id = client.submit(queue_limit=10.0)
    worker.gets(id)
    worker.ends(id)
    story.restart()
    assert story.broker.timers == []


def test_done_answers_name_their_request(story: Story, worker: Native, client: Client) -> None:
    id = client.submit()
    worker.gets(id)
    done = client.cancels(id)
    assert isinstance(done, Done)
    assert done.request == f"client/{client.requests}".encode()
    worker.is_asked_to_stop(id)
    worker.lets_go(id)
