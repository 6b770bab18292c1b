"""A slot may hold a short run-queue of one class: learned, booked once, recallable."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from corral.messages import DrainWorker, Ended, Recall
from corral.tasks import State, Variant, needs
from tests.unit.core.peers import Client, Native, spec
from tests.unit.core.story import Story


@pytest.fixture
def client(story: Story) -> Client:
    return story.client()


def taught(story: Story, client: Client, seconds: float, **document: object) -> Native:
    """A worker of one slot, and a broker that knows how long its work takes."""
    worker = story.worker(**{"slots": 1, **document})
    for _ in range(5):
        id = client.submit()
        worker.gets(id)
        worker.ends(id, seconds=seconds)
    return worker


def test_nothing_is_given_in_advance_while_run_times_are_unknown(
    story: Story, client: Client
) -> None:
    worker = story.worker(slots=1)
    ids = client.submits(*(spec() for _ in range(10)))
    for index in range(5):
        worker.gets(ids[index])
        worker.ends(ids[index], seconds=0.001)
    assert len(worker.inbox) > 1  # five have been seen
    worker.gets(*ids[5:])


def test_a_slot_holds_about_so_many_milliseconds_of_work(story: Story, client: Client) -> None:
    worker = taught(story, client, 0.005)
    ids = client.submits(*(spec() for _ in range(10)))
    worker.gets(*ids[:4])  # 20 ms
    assert worker.record.slots_used == 1
    assert len({story.task(id).attempt.booking.number for id in ids[:4]}) == 1


def test_longer_work_comes_one_by_one(story: Story, client: Client) -> None:
    worker = taught(story, client, 0.5)
    ids = client.submits(*(spec() for _ in range(3)))
    worker.gets(ids[0])


def test_a_run_queue_is_bounded_however_short_the_work(story: Story, client: Client) -> None:
    worker = taught(story, client, 0.0)
    ids = client.submits(*(spec() for _ in range(2_100)))
    worker.gets(*ids[:2_048])


def test_workers_share_what_is_there(story: Story, client: Client) -> None:
    one = taught(story, client, 0.0001)
    two = story.worker("w2", slots=1)
    ids = client.submits(*(spec() for _ in range(10)))
    two.gets(*ids[:5])
    one.gets(*ids[5:])


def test_a_slot_that_runs_low_is_filled_before_it_is_empty(story: Story, client: Client) -> None:
    worker = taught(story, client, 0.005)
    ids = client.submits(*(spec() for _ in range(10)))
    worker.gets(*ids[:4])
    worker.ends(ids[0], seconds=0.005)
    worker.hears_nothing()
    worker.ends(ids[1], seconds=0.005)
    worker.gets(*ids[4:6])
    worker.ends(*ids[2:6], seconds=0.005)
    worker.gets(*ids[6:])


def test_a_task_added_later_joins_a_slot_that_runs_low(story: Story, client: Client) -> None:
    worker = taught(story, client, 0.005)
    first = client.submit()
    worker.gets(first)
    second = client.submit()
    worker.gets(second)
    assert story.task(second).attempt.booking is story.task(first).attempt.booking


def test_a_slot_is_not_filled_while_something_before_could_use_it(
    story: Story, client: Client
) -> None:
    worker = taught(story, client, 0.005, cpus=4.0)
    first = client.submit()
    worker.gets(first)
    wide = client.submit(needs=needs(cpus=4.0), priority=1)
    small = client.submit()
    worker.hears_nothing()
    worker.ends(first)
    worker.gets(wide)
    worker.ends(wide)
    worker.gets(small)


def test_a_slot_that_is_drained_is_not_filled(story: Story, client: Client) -> None:
    worker = taught(story, client, 0.005)
    ids = client.submits(spec(), spec())
    worker.gets(*ids)
    client.drains("w1")
    worker.takes(DrainWorker)
    assert worker.takes(Recall).tokens == [worker.token(id) for id in reversed(ids)]
    worker.ends(ids[0], seconds=0.005)
    [later] = client.submits(spec())
    worker.hears_nothing()
    worker.hands_back(ids[1])
    story.is_(ids[1], State.QUEUED)
    client.resumes("w1")
    worker.takes(DrainWorker)
    worker.gets(ids[1], later)


def test_a_slot_of_another_variant_is_another_slot(story: Story, client: Client) -> None:
    either = (Variant(cpus=8.0), Variant(cpus=1.0))
    slim = story.worker("slim", cpus=1.0, slots=1)
    for _ in range(5):
        id = client.submit(needs=either)
        slim.gets(id)
        slim.ends(id, seconds=0.005)
    wide = story.worker("wide", cpus=8.0, slots=1)
    first, second = client.submits(*(spec(needs=either) for _ in range(2)))
    wide.gets(first)  # how long it takes there is not known, so it comes alone
    slim.gets(second)
    third = client.submit(needs=either)
    slim.gets(third)


def test_a_slot_holds_tasks_of_one_run_limit(story: Story, client: Client) -> None:
    """Its worker keeps one limit for all that it was given there."""
    worker = taught(story, client, 0.005)
    limits = (1.0, 1.0, None, None, 1.0)
    ids = client.submits(*(spec(run_limit=limit) for limit in limits))
    worker.gets(*ids[:2])
    worker.ends(ids[0], seconds=0.005)
    worker.hears_nothing()  # it runs low, but what is next may run for ever
    worker.ends(ids[1], seconds=0.005)
    worker.gets(*ids[2:4])
    worker.ends(*ids[2:4], seconds=0.005)
    worker.gets(ids[4])
    later = client.submit(run_limit=1.0)
    worker.gets(later)  # it joins
    assert story.task(later).attempt.booking is story.task(ids[4]).attempt.booking


def test_the_run_queue_can_be_switched_off(stories: Callable[..., Story]) -> None:
    story = stories(run_queue=0.0)
    client = story.client()
    worker = taught(story, client, 0.001)
    ids = client.submits(spec(), spec())
    worker.gets(ids[0])


def test_estimates_follow_a_change_slowly(story: Story, client: Client) -> None:
    worker = taught(story, client, 0.010)
    estimate = story.task(client_id := client.submit()).attempt.booking.klass.estimates[0]
    worker.gets(client_id)
    assert estimate.seconds == pytest.approx(0.010)
    for _ in range(5):
        worker.ends(client_id, seconds=1.010)
        client_id = client.submit()
        worker.gets(client_id)
    assert 0.4 < estimate.seconds < 0.9
    assert estimate.count == 10


def test_what_was_handed_out_is_recalled_only_where_it_has_not_begun(
    story: Story, client: Client
) -> None:
    worker = taught(story, client, 0.005)
    ids = client.submits(*(spec() for _ in range(4)))
    worker.gets(*ids)
    worker.begins(ids[0])
    client.drains("w1")
    worker.takes(DrainWorker)
    assert worker.takes(Recall).tokens == [worker.token(id) for id in ids[:0:-1]]
    worker.hands_back(*ids[1:])
    assert [story.task(id).lane is not None for id in ids] == [False, True, True, True]
    assert story.task(ids[1]).klass.lanes[0, ""].head().id == ids[1]
    worker.finishes(Ended(worker.token(ids[0]), "ok", 0.005))
    assert worker.record.status == "drained"


def test_a_slot_is_filled_past_tasks_that_have_left(story: Story, client: Client) -> None:
    worker = taught(story, client, 0.005)
    hold = client.submit(needs=needs(cpus=2.0))
    worker.gets(hold)
    ids = client.submits(*(spec() for _ in range(5)))
    client.cancels(ids[1], ids[2])
    worker.ends(hold)
    worker.gets(ids[0], ids[3], ids[4])
