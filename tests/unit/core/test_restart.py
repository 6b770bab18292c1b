"""The broker dies and starts again: what ran is adopted, what was queued is queued."""

from __future__ import annotations

import pytest

from corral.messages import Cancel, CancelAttempts, Done, Ended, Outcomes
from corral.tasks import Retry, State, force_gpu, needs
from tests.unit.core.peers import Client, Native, gpu, spec
from tests.unit.core.story import Story


@pytest.fixture
def worker(story: Story) -> Native:
    return story.worker(slots=2, gpus=[gpu("A")])


@pytest.fixture
def client(story: Story) -> Client:
    return story.client()


def test_what_runs_is_adopted_and_not_started_again(
    story: Story, worker: Native, client: Client
) -> None:
    first, second, third = client.submits(spec(), spec(), spec())
    worker.gets(first, second)
    story.restart()
    story.is_(first, State.RUNNING)
    welcome = worker.returns(worker.token(first), worker.token(second))
    assert welcome.epoch == 2
    assert set(welcome.adopted) == {worker.token(first), worker.token(second)}
    worker.hears_nothing()
    worker.ends(first)
    worker.gets(third)
    assert story.task(first).made == 1
    worker.ends(second)
    worker.ends(third)


def test_tokens_of_different_epochs_never_meet(
    story: Story, worker: Native, client: Client
) -> None:
    first = client.submit()
    worker.gets(first)
    story.restart()
    worker.returns(worker.token(first))
    second = client.submit()
    worker.gets(second)
    assert worker.token(first) != worker.token(second)
    worker.ends(second)
    story.is_(first, State.RUNNING)


def test_what_had_not_reached_its_worker_is_queued_again(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit()
    worker.gets(id)
    story.restart()
    worker.returns()  # the same start of the same process, without it
    task = story.task(id)
    assert task.attempts[0].outcome == "lost"
    worker.gets(id)


def test_cards_stay_booked_until_somebody_says_what_runs(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit(needs=force_gpu())
    worker.gets(id)
    story.restart()
    other = story.worker("other", gpus=[gpu("A")])
    more = client.submit(needs=force_gpu())
    other.hears_nothing()
    worker.returns(worker.token(id))
    worker.hears_nothing()
    worker.ends(id)
    other.gets(more)


def test_a_worker_that_does_not_come_back_in_the_window_is_lost(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit()
    worker.gets(id)
    story.restart()
    other = story.worker("other")
    story.later(29.0)
    story.is_(id, State.RUNNING)
    story.later(3.0)
    other.gets(id)
    assert "did not come back" in story.task(id).story[-2].why
    assert worker.record.slots_used == 1  # it may still run there
    story.later(300.0)
    assert worker.name not in story.state.workers


def test_a_worker_that_comes_back_after_the_window_stops_what_it_runs(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit()
    worker.gets(id)
    story.restart()
    story.later(40.0)
    story.is_(id, State.QUEUED)
    assert worker.returns(worker.token(id)).adopted == []
    assert worker.takes(CancelAttempts).tokens == [worker.token(id)]
    old = worker.token(id)
    worker.gets(id)
    worker.finishes(Ended(old, "cancelled"))
    worker.ends(id)


def test_a_result_made_while_the_broker_was_away_is_taken(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit()
    worker.gets(id)
    story.restart()
    worker.returns(worker.token(id))  # spooled
    worker.ends(id)
    story.is_(id, State.SUCCEEDED)
    assert story.task(id).made == 1


def test_cancel_survives_a_restart(story: Story, worker: Native, client: Client) -> None:
    id = client.submit()
    worker.gets(id)
    client.cancels(id)
    worker.is_asked_to_stop(id)
    story.restart()
    assert worker.returns(worker.token(id)).adopted == []
    worker.takes(CancelAttempts)
    worker.ends(id)
    story.is_(id, State.CANCELLED)


def test_a_restart_in_the_middle_of_everything(
    story: Story, worker: Native, client: Client
) -> None:
    ids = client.submits(
        spec(priority=2), spec(retry=Retry(delay=50.0)), spec(), spec(after={"a": "#0"}),
        spec(needs=needs(cpus=99.0)), spec(),
    )  # fmt: skip
    worker.gets(*ids[:2])
    worker.fails(ids[1])
    worker.gets(ids[2])
    client.cancels(ids[5])
    states = {id: story.task(id).state for id in ids}
    for source in (story.replayed(), story.restored()):
        assert {id: source.tasks[id].state for id in ids} == states
    story.restart(story.restored())
    assert set(worker.returns(worker.token(ids[0]), worker.token(ids[2])).adopted) == {
        worker.token(ids[0]), worker.token(ids[2]),
    }  # fmt: skip
    worker.ends(ids[0])
    worker.gets(ids[3])
    worker.ends(ids[2])
    story.later(60.0)
    worker.gets(ids[1])


def test_the_order_survives_a_restart(story: Story, worker: Native, client: Client) -> None:
    ids = client.submits(*(spec() for _ in range(8)))
    worker.gets(ids[0], ids[1])
    worker.hands_back(ids[1])
    worker.gets(ids[1])
    for state in (story.replayed(), story.restored()):
        state.queue.put_in_order()
        [lane] = state.queue.lanes()
        assert [task.id for task in lane.tasks] == ids[2:]


def test_a_task_that_left_memory_comes_back(story: Story, worker: Native, client: Client) -> None:
    id = client.submit()
    worker.gets(id)
    worker.ends(id)
    task = story.task(id)
    assert story.state.forgettable(task)
    record = story.state.record(task)
    story.state.forget(task)
    assert id not in story.state.tasks
    story.state.restore(record)
    assert story.task(id).value == task.value


def test_what_somebody_needs_is_not_forgotten(story: Story, client: Client) -> None:
    worker = story.worker("w2", slots=3)
    parent, child, collected = client.submits(spec(), spec(after={"a": "#0"}), spec())
    worker.gets(parent, collected)
    forgettable = story.state.forgettable
    assert not forgettable(story.task(parent))
    worker.ends(parent)
    worker.gets(child)
    assert not forgettable(story.task(parent))  # its child runs
    worker.ends(child)
    assert forgettable(story.task(parent))
    client.asks(collected)
    assert client.takes(Outcomes).items == []
    assert not forgettable(story.task(collected))
    client.calls(Cancel(b"c", [collected]))
    assert client.is_told(collected).state is State.CANCELLED
    client.takes(Done)
    worker.is_asked_to_stop(collected)
    assert not forgettable(story.task(collected))  # an attempt of it may still run
    worker.lets_go(collected)
    assert forgettable(story.task(collected))
    with pytest.raises(AssertionError):
        story.state.forget(story.task(client.submit()))
    worker.inbox.clear()


def test_a_long_story_keeps_its_ends(story: Story, worker: Native, client: Client) -> None:
    id = client.submit(retry=Retry(limit=1000, delay=0.0))
    for _ in range(220):
        worker.gets(id)
        worker.fails(id)
        story.later(0.001)
    worker.gets(id)
    task = story.task(id)
    assert (len(task.story), len(task.attempts)) == (200, 200)
    assert (task.attempts[0].number, task.attempts[-1].number) == (1, 220)
    assert task.story[-1].attempt == 221
    assert len(story.state.attempts_of(task)) == 1


def test_workers_that_hold_nothing_are_not_known_after_a_restart(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit()
    worker.gets(id)
    worker.ends(id)
    worker.parts()
    story.restart()
    assert story.state.workers == {}


def test_booking_numbers_are_not_given_again(story: Story, worker: Native, client: Client) -> None:
    id = client.submit()
    worker.gets(id)
    worker.ends(id)
    story.fold(id)  # the row of its assignment is left out
    assert story.loaded().booking == 1
