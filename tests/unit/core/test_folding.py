"""Records and the journal after them lead to the same state, wherever folding stood."""

from __future__ import annotations

import pytest

from broker.core.facts import Aliased
from corral.tasks import Retry, State, force_gpu, needs
from tests.unit.core.peers import Client, Native, gpu, kind, spec
from tests.unit.core.story import Story, snapshot, unordered


@pytest.fixture
def worker(story: Story) -> Native:
    return story.worker(slots=2, gpus=[gpu("A")])


@pytest.fixture
def client(story: Story) -> Client:
    return story.client()


def agrees(story: Story) -> None:
    """What is loaded is what is live."""
    state = story.loaded()
    state.check()
    assert unordered(snapshot(state)) == unordered(snapshot(story.state))


def test_rows_that_a_record_holds_already_are_left_out(
    story: Story, worker: Native, client: Client
) -> None:
    first, second, third = client.submits(spec(), spec(), spec())
    worker.gets(first, second)
    story.fold(first)
    agrees(story)
    worker.ends(first)
    worker.gets(third)
    story.fold(second)
    agrees(story)
    client.cancels(second)
    worker.is_asked_to_stop(second)
    agrees(story)
    story.fold_rest()
    agrees(story)
    worker.lets_go(second)
    worker.ends(third)


def test_attempts_of_one_booking_may_be_folded_one_by_one(story: Story, client: Client) -> None:
    worker = story.worker("quick", slots=1)
    for _ in range(5):
        id = client.submit()
        worker.gets(id)
        worker.ends(id, seconds=0.001)
    ids = client.submits(*(spec() for _ in range(4)))
    worker.gets(*ids)
    story.fold(ids[1])
    agrees(story)
    worker.ends(ids[0], seconds=0.001)
    story.fold(ids[0], ids[2])
    agrees(story)
    worker.hands_back(*ids[2:])
    agrees(story)
    worker.ends(ids[1], seconds=0.001)
    worker.gets(*ids[2:])


def test_a_card_may_pass_from_one_to_the_next_between_two_records(
    story: Story, worker: Native, client: Client
) -> None:
    first, second, third = client.submits(*(spec(needs=force_gpu()) for _ in range(3)))
    worker.gets(first)
    story.fold(first)
    worker.ends(first)
    worker.gets(second)
    story.fold(second)
    agrees(story)
    worker.ends(second)
    worker.gets(third)
    agrees(story)
    assert story.loaded().ledger.gpu_holder == story.state.ledger.gpu_holder


def test_kinds_drains_and_aliases_are_folded_too(
    story: Story, worker: Native, client: Client
) -> None:
    story.plain("old").requests("titanic.request", b"x", b"body")
    story.peers[b"old#1"].inbox.clear()
    story.announces(kind("new"))
    client.drains("w1")
    worker.inbox.clear()
    story.fold_rest()
    agrees(story)
    client.resumes("w1")
    worker.inbox.clear()
    [alias] = story.state.aliases
    story.plain("old").requests("titanic.close", alias.encode())
    story.peers[b"old#1"].inbox.clear()
    story.announces(kind("new", code_version="2"))
    agrees(story)
    story.broker._fact(Aliased("again", story.state.tasks[next(iter(story.state.tasks))].id))
    story.turn()
    agrees(story)


def test_rows_may_stay_longer_than_they_are_needed(
    story: Story, worker: Native, client: Client
) -> None:
    begun = len(story.journal)
    story.announces(kind("new"))
    client.drains("w1")
    worker.inbox.clear()
    client.resumes("w1")
    worker.inbox.clear()
    id = client.submit()
    worker.gets(id)
    story.fold_rest(begun)
    agrees(story)
    worker.ends(id)
    agrees(story)


def test_a_child_whose_parent_is_no_longer_kept(
    story: Story, worker: Native, client: Client
) -> None:
    parent, child = client.submits(spec(), spec(after={"a": "#0"}, retry=Retry(delay=100.0)))
    worker.gets(parent)
    worker.ends(parent)
    worker.gets(child)
    worker.fails(child)
    story.fold_rest()
    del story.tables[parent]
    state = story.loaded()
    state.check()
    assert parent not in state.tasks
    assert state.tasks[child].waiting == 0
    assert state.tasks[child].state is State.RETRYING
    story.fold_rest()


def test_a_broker_goes_on_from_what_was_folded(
    story: Story, worker: Native, client: Client
) -> None:
    ids = client.submits(spec(), spec(), spec(needs=needs(cpus=99.0)), spec())
    worker.gets(*ids[:2])
    story.fold(*ids[:3])
    worker.ends(ids[0])
    worker.gets(ids[3])
    story.fold_rest()
    worker.ends(ids[3])
    story.restart(story.loaded())
    assert worker.returns(worker.token(ids[1])).adopted == [worker.token(ids[1])]
    worker.ends(ids[1])
    assert [story.task(id).state.value for id in ids] == [
        "succeeded", "succeeded", "queued", "succeeded",
    ]  # fmt: skip
