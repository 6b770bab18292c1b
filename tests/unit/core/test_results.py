"""Who waits for an outcome gets it: pushed to who collects, answered to who asks."""

from __future__ import annotations

from unittest.mock import patch

import pytest

from broker.core import machine
from corral.messages import Accepted, Outcomes, Refused, Results, Submit
from corral.tasks import Retry, State
from tests.unit.core.peers import Client, Native, kind, packed, spec
from tests.unit.core.story import Story


@pytest.fixture
def worker(story: Story) -> Native:
    return story.worker(slots=4)


@pytest.fixture
def client(story: Story) -> Client:
    return story.client()


def test_outcomes_are_pushed_to_who_collects(story: Story, worker: Native, client: Client) -> None:
    ids = client.submits(spec(), spec(retry=Retry(limit=0)), collect=True)
    worker.gets(*ids)
    worker.ends(ids[0], value=packed({"x": 1}))
    pushed = client.is_told(ids[0])
    assert (pushed.state, pushed.value, pushed.failure) == (State.SUCCEEDED, packed({"x": 1}), None)
    worker.fails(ids[1], message="boom")
    pushed = client.is_told(ids[1])
    assert (pushed.state, pushed.failure.message) == (State.FAILED, "boom")


def test_what_is_pushed_names_no_request(story: Story, worker: Native, client: Client) -> None:
    [id] = client.submits(spec(), collect=True)
    worker.gets(id)
    worker.ends(id)
    assert client.takes(Outcomes).request == b""


def test_who_does_not_collect_is_told_nothing(story: Story, worker: Native, client: Client) -> None:
    id = client.submit()
    worker.gets(id)
    worker.ends(id)
    client.hears_nothing()


def test_who_asks_is_answered_as_tasks_end(story: Story, worker: Native, client: Client) -> None:
    ids = client.submits(spec(), spec(), spec())
    worker.gets(*ids)
    worker.ends(ids[0])
    request = client.asks(*ids)
    first = client.takes(Outcomes)
    assert (first.request, first.last, [o.id for o in first.items]) == (request, False, [ids[0]])
    worker.ends(ids[2])
    second = client.takes(Outcomes)
    assert (second.last, second.items[0].id) == (False, ids[2])
    worker.ends(ids[1])
    third = client.takes(Outcomes)
    assert (third.request, third.last, third.items[0].id) == (request, True, ids[1])


def test_who_asks_for_what_has_ended_is_answered_at_once(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit()
    worker.gets(id)
    worker.ends(id)
    client.asks(id)
    assert client.takes(Outcomes).last


def test_who_does_not_wait_gets_what_there_is(story: Story, worker: Native, client: Client) -> None:
    first, second = client.submits(spec(), spec())
    worker.gets(first, second)
    worker.ends(first)
    client.asks(first, second, wait=False)
    answer = client.takes(Outcomes)
    assert (answer.last, [o.id for o in answer.items]) == (True, [first])
    worker.ends(second)


def test_asking_for_the_same_task_twice_in_one_call_ends(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit()
    worker.gets(id)
    client.asks(id, id)
    client.takes(Outcomes)
    worker.ends(id)
    assert client.takes(Outcomes).last


def test_asking_for_what_does_not_exist_changes_nothing(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit()
    worker.gets(id)
    client.asks(id, "nobody")
    refused = client.takes(Refused)
    assert refused.fields == {"noun": "task", "name": "nobody", "kept": "30 days"}
    worker.ends(id)
    client.hears_nothing()


def test_who_asks_again_from_a_new_connection_is_answered_in_full(
    story: Story, worker: Native, client: Client
) -> None:
    ids = client.submits(spec(), spec())
    worker.gets(*ids)
    request = client.asks(*ids)
    client.takes(Outcomes)
    client.connect()
    client.calls(Results(request, ids))
    client.takes(Outcomes)
    worker.ends(ids[0])
    first = [client.takes(Outcomes) for _ in range(2)]  # one of them to the old connection
    assert [answer.last for answer in first] == [False, False]
    worker.ends(ids[1])
    second = [client.takes(Outcomes) for _ in range(2)]
    assert [answer.last for answer in second] == [True, True]


def test_who_asks_the_same_again_is_answered_once(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit()
    worker.gets(id)
    for _ in range(3):
        client.calls(Results(b"same", [id]))
        client.takes(Outcomes)
    worker.ends(id)
    assert client.takes(Outcomes).last
    client.hears_nothing()


def test_two_clients_may_choose_the_same_request(
    story: Story, worker: Native, client: Client
) -> None:
    other = story.client("other")
    first, second = client.submits(spec(), spec())
    worker.gets(first, second)
    client.calls(Results(b"same", [first, second]))
    client.takes(Outcomes)
    other.calls(Results(b"same", [first]))
    other.takes(Outcomes)
    worker.ends(first)
    assert other.takes(Outcomes).last
    assert not client.takes(Outcomes).last
    worker.ends(second)
    assert client.takes(Outcomes).last


def test_only_so_many_wait_for_one_task(story: Story, worker: Native, client: Client) -> None:
    id = client.submit()
    worker.gets(id)
    clients = [story.client(f"c{number}") for number in range(30)]
    for one in clients:
        one.asks(id)
        one.takes(Outcomes)
    worker.ends(id)
    told = [one.name for one in clients if one.inbox]
    assert told == [f"c{number}" for number in range(30 - machine.MAX_WAITERS, 30)]
    for one in clients:
        one.inbox.clear()


def test_collecting_twice_pushes_once(story: Story, client: Client) -> None:
    worker = story.worker(kinds=[kind(content=True)], slots=4)
    [id] = client.submits(spec(), collect=True)
    worker.gets(id)
    client.calls(Submit(b"again", [spec()], collect=True))
    client.takes(Accepted)
    worker.ends(id)
    client.is_told(id)
    client.hears_nothing()


def test_many_clients_may_collect(story: Story, worker: Native) -> None:
    with patch.object(machine, "MAX_COLLECTORS", 3):
        clients = [story.client(f"c{number}") for number in range(8)]
        ids = [client.submits(spec(), collect=True)[0] for client in clients]
        again = clients[0].submits(spec(), collect=True)[0]
    worker.gets(*ids[:4])
    worker.ends(*ids[:4])
    worker.gets(*ids[4:])
    worker.ends(*ids[4:])
    worker.gets(again)
    worker.ends(again)
    for client, id in zip(clients, ids, strict=True):
        assert client.is_told(id).state is State.SUCCEEDED
    clients[0].is_told(again)


def test_what_was_opened_again_for_a_child_is_collected_when_it_ends(
    story: Story, worker: Native, client: Client
) -> None:
    specs = [spec(id="p", retry=Retry(limit=0)), spec(id="c", after={"a": "p"})]
    client.submits(*specs)
    worker.gets("p")
    worker.fails("p")
    client.submits(*specs, collect=True)
    client.hears_nothing()
    worker.gets("p")
    worker.ends("p")
    client.is_told("p")
    worker.gets("c")
    worker.ends("c")
    client.is_told("c")


def test_a_submission_that_would_open_what_cannot_be_is_refused_whole(
    story: Story, worker: Native, client: Client
) -> None:
    client.submits(spec(id="p", retry=Retry(limit=0)), spec(id="c", after={"a": "p"}))
    worker.gets("p")
    worker.fails("p")
    record = story.state.record(story.task("p"))
    story.state.forget(story.task("p"))
    story.state.restore(record)  # known again, while what it came after is not
    grand = spec(id="g", after={"a": "c"})
    client.submits(grand)
    story.is_("g", State.ABORTED)
    record = story.state.record(story.task("p"))
    story.state.forget(story.task("p"))
    refused = client.is_refused(spec(), grand)
    assert (refused.code, refused.fields["parent"]) == ("missing_parent", "p")
    story.state.restore(record)


@pytest.mark.parametrize("state", [State.CANCELLED, State.EXPIRED])
def test_an_outcome_without_a_failure_says_why(story: Story, client: Client, state: State) -> None:
    story.announces(kind())
    id = client.submit(queue_limit=5.0)
    client.asks(id)
    client.takes(Outcomes)
    if state is State.CANCELLED:
        story.client("other").cancels(id)
    story.later(6.0)
    outcome = client.is_told(id)
    assert outcome.state is state
    assert outcome.failure.type == state.value
    assert outcome.failure.message
