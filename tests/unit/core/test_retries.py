"""What follows when an attempt does not succeed: budgets, back-off, jitter, never, poison."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from broker.core.events import Heard
from corral import messages
from corral.messages import NIL, Done, Raw
from corral.tasks import Failure, Retry, State, Variant, needs
from corral.wire import Called
from tests.unit.core.peers import Client, Native, kind, packed, spec
from tests.unit.core.story import Story


@pytest.fixture
def worker(story: Story) -> Native:
    return story.worker(slots=1)


@pytest.fixture
def client(story: Story) -> Client:
    return story.client()


def due_in(story: Story, id: str) -> float:
    """Seconds until the next attempt."""
    retry_at = story.task(id).retry_at
    assert retry_at is not None
    return retry_at - story.now


def test_a_failed_attempt_is_followed_by_another_after_a_while(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit()
    worker.gets(id)
    worker.fails(id)
    story.is_(id, State.RETRYING)
    worker.hears_nothing()
    story.later(1.0)
    first = worker.token(id)
    worker.gets(id)
    assert worker.token(id) != first
    worker.ends(id)
    story.is_(id, State.SUCCEEDED)
    assert story.task(id).failure is None
    assert story.causes(id) == ["assign", "back_off", "due", "assign", "succeed"]
    assert [(a.number, a.outcome) for a in story.task(id).attempts] == [(1, "error"), (2, "ok")]


def test_the_delay_doubles_keeps_half_and_is_bounded(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit(retry=Retry(limit=9, delay=1.0, max_delay=20.0))
    for full in [1.0, 2.0, 4.0, 8.0, 16.0, 20.0, 20.0]:
        worker.gets(id)
        worker.fails(id)
        delay = due_in(story, id)
        assert full / 2 <= delay < full
        story.later(delay - 0.01)
        worker.hears_nothing()
        story.later(0.02)
    worker.gets(id)


def test_jitter_differs_from_task_to_task_and_not_from_replay_to_replay(
    story: Story, client: Client
) -> None:
    worker = story.worker(slots=8)
    ids = client.submits(*(spec() for _ in range(8)))
    worker.gets(*ids)
    for id in ids:
        worker.fails(id)
    assert len({story.task(id).retry_at for id in ids}) == 8


def test_the_budget_ends(story: Story, worker: Native, client: Client) -> None:
    id = client.submit(retry=Retry(limit=2))
    for _ in range(2):
        worker.gets(id)
        worker.fails(id)
        story.later(5.0)
    worker.gets(id)
    worker.fails(id, message="for good")
    story.is_(id, State.FAILED)
    assert story.task(id).failure == Failure("ValueError", "for good")


def test_three_retries_are_the_default(story: Story, worker: Native, client: Client) -> None:
    id = client.submit()
    for _ in range(3):
        worker.gets(id)
        worker.fails(id)
        story.later(10.0)
    worker.gets(id)
    worker.fails(id)
    story.is_(id, State.FAILED)


@pytest.mark.parametrize(
    ("retry", "announced"), [(Retry(never=("KeyError",)), ()), (None, ("KeyError",))]
)
def test_errors_that_must_not_be_retried(
    story: Story, client: Client, retry: Retry | None, announced: tuple[str, ...]
) -> None:
    worker = story.worker(slots=1, kinds=[kind(never=announced)])
    id = client.submit(retry=retry)
    worker.gets(id)
    worker.fails(id, "ValueError")
    story.later(2.0)
    worker.gets(id)
    worker.fails(id, "KeyError")
    story.is_(id, State.FAILED)


@pytest.mark.parametrize(
    ("outcome", "type"), [("time_limit", "time_limit"), ("error", "bad_params")]
)
def test_what_would_fail_again_is_not_tried_again(
    story: Story, worker: Native, client: Client, outcome: str, type: str
) -> None:
    id = client.submit()
    worker.gets(id)
    worker.fails(id, type, outcome)
    story.is_(id, State.FAILED)


def test_an_outcome_without_a_failure_says_at_least_its_name(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit()
    worker.gets(id)
    worker.ends(id, outcome="error")
    assert story.task(id).failure == Failure("error")


# --- memory ---------------------------------------------------------------------------------


def test_who_ran_out_of_memory_asks_for_half_as_much_more(story: Story, client: Client) -> None:
    worker = story.worker(slots=1, memory_gb=20.0)
    id = client.submit(needs=needs(memory_gb=8.0))
    for expected in (8.0, 12.0, 18.0):
        worker.gets(id)
        assert worker.record.memory_used == expected * 1024
        worker.fails(id, "out_of_memory", "out_of_memory")
        story.later(3.0)
    story.is_(id, State.FAILED)
    assert story.task(id).memory_failures == 3


def test_every_variant_asks_for_more(story: Story, client: Client) -> None:
    worker = story.worker(slots=1)
    wanted = (Variant(gpus=1, memory_gb=2.0), Variant(memory_gb=6.0))
    id = client.submit(needs=wanted)
    worker.gets(id)
    worker.fails(id, "out_of_memory", "out_of_memory")
    story.later(1.0)
    worker.gets(id)
    assert [need.memory_gb for need in story.task(id).klass.needs] == [9.0, 9.0]


def test_who_asked_for_no_memory_is_tried_again_as_it_is(story: Story, client: Client) -> None:
    worker = story.worker(slots=1)
    id = client.submit(needs=(Variant(cpus=1.0),))
    worker.gets(id)
    worker.fails(id, "out_of_memory", "out_of_memory")
    story.later(1.0)
    worker.gets(id)
    assert worker.record.memory_used == 0


def test_budgets_are_apart(story: Story, client: Client) -> None:
    worker = story.worker(slots=1)
    id = client.submit(retry=Retry(limit=1, memory_limit=1, poison_limit=2))
    for outcome in ("error", "out_of_memory", "killed"):
        worker.gets(id)
        worker.fails(id, outcome, outcome)
        story.later(5.0)
    worker.gets(id)
    task = story.task(id)
    assert (task.errors, task.memory_failures, task.poison, task.lost) == (1, 1, 1, 0)
    worker.fails(id)
    story.is_(id, State.FAILED)


# --- poison and loss --------------------------------------------------------------------------


def test_a_task_that_kills_its_process_again_and_again_fails(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit(retry=Retry(limit=50, poison_limit=3))
    for _ in range(2):
        worker.gets(id)
        worker.fails(id, "killed", "killed")
        story.later(5.0)
    worker.gets(id)
    worker.fails(id, "killed", "killed")
    story.is_(id, State.FAILED)


def test_a_task_may_be_forbidden_to_kill_even_once(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit(retry=Retry(poison_limit=0))
    worker.gets(id)
    worker.fails(id, "killed", "killed")
    story.is_(id, State.FAILED)


def test_a_worker_that_restarts_has_lost_what_it_does_not_list(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit(retry=Retry(lost_limit=1))
    worker.gets(id)
    assert worker.restarts().adopted == []
    assert story.task(id).lost == 1
    worker.gets(id)  # at once: it was not its fault
    worker.restarts()
    story.is_(id, State.FAILED)
    assert story.task(id).failure.type == "lost"


@pytest.mark.parametrize("outcome", ["handed_back", "cancelled"])
def test_what_is_no_fault_of_the_task_costs_nothing(
    story: Story, worker: Native, client: Client, outcome: str
) -> None:
    id = client.submit(retry=Retry(limit=0, lost_limit=0, poison_limit=0, memory_limit=0))
    worker.gets(id)
    worker.ends(id, outcome=outcome)
    worker.gets(id)
    task = story.task(id)
    assert (task.errors, task.lost, task.poison, task.memory_failures) == (0, 0, 0, 0)


def test_an_outcome_that_nobody_knows_is_an_error_of_the_task(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit(retry=Retry(limit=1))
    worker.gets(id)
    worker.ends(id, outcome="astonishing")
    story.later(1.0)
    worker.gets(id)
    assert story.task(id).errors == 1
    worker.ends(id, outcome="astonishing")
    story.is_(id, State.FAILED)


# --- results that cannot be kept --------------------------------------------------------------


def test_a_result_that_is_nested_too_deep_to_be_carried_is_an_error(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit(retry=Retry(limit=5))
    worker.gets(id)
    worker.ends(id, value=Raw(b"\x91" * 900 + b"\x00"))
    story.is_(id, State.FAILED)
    assert story.task(id).failure.type == "bad_result"
    assert story.task(id).value == NIL


# --- retry by hand ------------------------------------------------------------------------------


def test_a_failed_task_gets_a_new_run_with_new_budgets(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit(retry=Retry(limit=0))
    worker.gets(id)
    worker.fails(id)
    done = client.retries(id, who="ada")
    assert (done.changed, done.unchanged) == ([id], {})
    task = story.task(id)
    assert (task.run, task.errors, task.failure, task.ended) == (2, 0, None, None)
    assert task.story[-2 if task.story[-1].cause == "assign" else -1].why == "retried by ada"
    worker.gets(id)
    worker.ends(id, value=packed(1))
    story.is_(id, State.SUCCEEDED)


def test_only_what_ended_without_success_is_retried(
    story: Story, worker: Native, client: Client
) -> None:
    done = client.submit()
    worker.gets(done)
    worker.ends(done)
    running = client.submit()
    worker.gets(running)
    answer = client.retries(done, running, "nobody")
    assert answer.changed == []
    assert answer.unchanged == {
        done: "it is succeeded", running: "it is running", "nobody": "not found",
    }  # fmt: skip


def test_a_retry_opens_the_parents_that_failed_too(
    story: Story, worker: Native, client: Client
) -> None:
    once = Retry(limit=0)
    top, left, right, end = client.submits(
        spec(retry=once), spec(after={"t": "#0"}), spec(after={"t": "#0"}),
        spec(after={"l": "#1", "r": "#2"}),
    )  # fmt: skip
    worker.gets(top)
    worker.fails(top)
    assert [story.task(id).state for id in (left, right, end)] == [State.ABORTED] * 3
    assert client.retries(end).changed == [end]
    assert [story.task(id).run for id in (top, left, right, end)] == [2, 2, 2, 2]
    for id in (top, left, right, end):
        worker.gets(id)
        worker.ends(id)
    story.is_(end, State.SUCCEEDED)


def test_a_retry_leaves_parents_that_succeeded_or_go_on(
    story: Story, worker: Native, client: Client
) -> None:
    good, child = client.submits(spec(), spec(after={"a": "#0"}, retry=Retry(limit=0)))
    worker.gets(good)
    worker.ends(good)
    worker.gets(child)
    worker.fails(child)
    client.retries(child)
    assert story.task(good).run == 1
    worker.gets(child)


def test_a_retry_waits_for_a_parent_that_runs_again(
    story: Story, worker: Native, client: Client
) -> None:
    parent, child = client.submits(spec(retry=Retry(limit=0)), spec(after={"a": "#0"}))
    worker.gets(parent)
    worker.fails(parent)
    client.retries(parent)
    story.is_(child, State.ABORTED)
    worker.gets(parent)
    client.retries(child)
    story.is_(child, State.WAITING)
    worker.ends(parent)
    worker.gets(child)


def test_a_retry_whose_parent_is_no_longer_kept_is_refused(
    story: Story, worker: Native, client: Client
) -> None:
    parent, child = client.submits(spec(retry=Retry(limit=0)), spec(id="c", after={"a": "#0"}))
    worker.gets(parent)
    worker.fails(parent)
    record = story.state.record(story.task(parent))
    story.state.forget(story.task(parent))
    refused = client.is_refused_a_retry(child)
    assert (refused.code, refused.fields["parent"]) == ("missing_parent", parent)
    another = client.submit(needs=needs(gpus=1))  # which stays queued
    client.cancels(another)
    done = client.retries(child, another)
    assert done.changed == [another]
    assert parent in done.unchanged[child]
    client.cancels(another)
    assert client.is_refused(spec(id="c", after={"a": parent})).code == "missing_parent"
    story.state.restore(record)


def test_a_retry_counts_all_that_it_opens(stories: Callable[..., Story]) -> None:
    story = stories(max_tasks=2)
    worker, client = story.worker(slots=1), story.client()
    parent, child = client.submits(spec(retry=Retry(limit=0)), spec(after={"a": "#0"}))
    worker.gets(parent)
    worker.fails(parent)
    other = client.submit()
    worker.gets(other)
    assert client.is_refused_a_retry(child).code == "busy"
    worker.ends(other)
    assert client.retries(child).changed == [child]
    worker.gets(parent)


def test_a_large_task_without_room_keeps_no_small_one_from_its_retry(
    stories: Callable[..., Story],
) -> None:
    story = stories(max_task_bytes=1000)
    client = story.client()
    story.announces(kind())
    large = client.submit(params={"x": "x" * 700})
    client.cancels(large)
    small, other = client.submits(*(spec(params={"x": "x" * 300}) for _ in range(2)))
    client.cancels(small)
    done = client.retries(large, small)
    assert done.changed == [small]
    assert done.unchanged == {large: "the broker is full"}
    client.cancels(small, other)


def test_what_was_not_taken_back_for_a_retry_is_not_said_to_be_missing(
    story: Story, worker: Native, client: Client
) -> None:
    parent, child = client.submits(spec(retry=Retry(limit=0)), spec(after={"a": "#0"}))
    worker.gets(parent)
    worker.fails(parent)
    record = story.state.record(story.task(parent))
    story.state.forget(story.task(parent))
    other = client.submit(needs=needs(gpus=1))  # which stays queued
    client.cancels(other)
    call = messages.Retry(b"r", [child, parent, "nobody", other])
    story.happens(Heard(client.id, Called(call), left={parent: "the broker is full"}))
    full = "the broker is full"
    done = client.takes(Done)
    assert done.changed == [other]
    assert done.unchanged == {child: full, parent: full, "nobody": "not found"}
    client.cancels(other)
    story.state.restore(record)


def test_an_old_retry_timer_does_not_start_a_newer_wait(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit(retry=Retry(limit=1, delay=100.0))
    worker.gets(id)
    worker.fails(id)
    client.cancels(id)
    client.retries(id)
    worker.gets(id)
    worker.fails(id)
    first_timer = story.now + 100.0
    story.later(first_timer - story.now)
    worker.gets(id)
    worker.ends(id)
    story.later(400.0)


def test_a_long_chain_is_aborted_to_its_end(story: Story, worker: Native, client: Client) -> None:
    chain = [spec(retry=Retry(limit=0))]
    chain += [spec(after={"a": f"#{index}"}) for index in range(3000)]
    ids = client.submits(*chain)
    worker.gets(ids[0])
    worker.fails(ids[0])
    assert story.state.counts[State.ABORTED] == 3000
    why = story.task(ids[-1]).story[-1].why
    assert why == f"its parent a ({ids[-2]}) is aborted"
    assert client.retries(ids[-1]).changed == [ids[-1]]
    assert story.state.counts[State.WAITING] == 3000
    worker.gets(ids[0])


def test_a_parent_of_many_is_quick(story: Story, worker: Native, client: Client) -> None:
    count = 5000
    ids = client.submits(
        spec(retry=Retry(limit=0)), *(spec(after={"a": "#0"}) for _ in range(count))
    )
    worker.gets(ids[0])
    worker.fails(ids[0])
    assert story.state.counts[State.ABORTED] == count
    client.retries(*ids[1:])
    worker.gets(ids[0])
    worker.ends(ids[0])
    worker.gets(ids[1])
