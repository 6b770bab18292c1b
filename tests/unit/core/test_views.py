"""What the broker shows of tasks, workers, kinds and named resources."""

from __future__ import annotations

from msgspec import Raw, structs

from broker.core.views import (
    kind_views,
    longest_wait,
    named_view,
    record_view,
    story,
    task_view,
    worker_views,
)
from corral.messages import DrainWorker
from corral.settings import BrokerSettings
from corral.tasks import State, Variant, needs
from corral.wire import Dialect
from tests.unit.core.peers import gpu, kind, packed, spec
from tests.unit.core.story import Story


def test_a_queued_task_is_shown_with_what_it_asks_for(story: Story) -> None:
    story.announces(kind("work", needs=needs(cpus=2.0)))
    id = story.client().submit("work", {"a": 1}, name="first", project="p", priority=3)
    view = task_view(story.state, story.task(id))
    assert (view.id, view.kind, view.state) == (id, "work", State.QUEUED)
    assert (view.name, view.project, view.priority) == ("first", "p", 3)
    assert view.params == {"a": 1}
    assert view.needs == needs(cpus=2.0)
    assert (view.worker, view.attempts, view.progress, view.result_bytes) == ("", [], None, None)
    assert [step.cause for step in view.story] == ["submitted"]


def test_a_short_view_leaves_out_what_is_long(story: Story) -> None:
    story.announces(kind("work"))
    id = story.client().submit("work", {"a": 1})
    view = task_view(story.state, story.task(id), full=False)
    assert (view.params, view.attempts, view.story) == (None, [], [])


def test_a_running_task_shows_its_attempt_and_how_far_it_is(story: Story) -> None:
    worker = story.worker("w1", gpus=[gpu("GPU-1")])
    id = story.client().submit("work", needs=(Variant(gpus=1),))
    worker.gets(id)
    view = task_view(story.state, story.task(id))
    assert (view.state, view.worker) == (State.RUNNING, "w1")
    [attempt] = view.attempts
    assert (attempt.number, attempt.worker, attempt.gpus, attempt.ended) == (
        1,
        "w1",
        ["GPU-1"],
        None,
    )
    assert [step.cause for step in view.story] == ["submitted", "assign"]
    [fleet] = worker_views(story.state)
    [card] = fleet.gpus
    assert (card.uuid, card.holder) == ("GPU-1", id)


def test_a_task_that_succeeded_shows_its_result_and_its_whole_story(story: Story) -> None:
    worker, client = story.worker("w1"), story.client()
    id = client.submit("work")
    worker.gets(id)
    story.later(2.0)
    worker.ends(id, value=packed("four"))
    view = task_view(story.state, story.task(id))
    assert (view.state, view.progress, view.result_bytes) == (State.SUCCEEDED, 1.0, 5)
    assert [step.cause for step in view.story] == ["submitted", "assign", "succeed"]
    assert view.story[-1].at == view.ended
    assert record_view(story.state, story.state.record(story.task(id))) == view


def test_a_task_that_was_tried_again_shows_every_attempt(story: Story) -> None:
    worker, client = story.worker("w1"), story.client()
    id = client.submit("work")
    worker.gets(id)
    worker.fails(id)
    story.later(5.0)
    worker.gets(id)
    view = task_view(story.state, story.task(id))
    assert [(a.number, a.outcome) for a in view.attempts] == [(1, "error"), (2, "")]
    assert [step.cause for step in view.story] == [
        "submitted",
        "assign",
        "back_off",
        "due",
        "assign",
    ]


def test_a_revoked_attempt_that_may_still_run_is_shown(story: Story) -> None:
    worker, client = story.worker("w1"), story.client()
    id = client.submit("work")
    worker.gets(id)
    client.cancels(id)
    worker.is_asked_to_stop(id)
    view = task_view(story.state, story.task(id))
    assert view.state is State.CANCELLED
    assert [attempt.outcome for attempt in view.attempts] == ["revoked"]
    worker.lets_go(id)


def test_a_task_that_waits_for_a_parent_began_by_waiting(story: Story) -> None:
    story.announces(kind("work"))
    parent, child = story.client().submits(spec(), spec(after={"p": "#0"}))
    assert story_of(story, child) == [(State.WAITING, "submitted")]
    assert story_of(story, parent) == [(State.QUEUED, "submitted")]


def story_of(told: Story, id: str) -> list[tuple[State, str]]:
    return [(step.state, step.cause) for step in story(told.task(id))]


def test_a_worker_shows_what_it_has_and_what_is_used(story: Story) -> None:
    worker = story.worker("w1", slots=3, cpus=4.0, memory_gb=8.0, labels={"rack": "a"})
    id = story.client().submit("work", needs=(Variant(cpus=1.5, memory_gb=2.0),))
    worker.gets(id)
    [view] = worker_views(story.state)
    assert (view.slots, view.slots_used) == (3, 1)
    assert (view.cpus, view.cpus_used) == (4.0, 1.5)
    assert (view.memory_gb, view.memory_gb_used) == (8.0, 2.0)
    assert (view.labels, view.tasks, view.dialect) == ({"rack": "a"}, [id], "native")


def test_a_plain_worker_has_not_said_what_it_has(story: Story) -> None:
    plain = story.plain("p", Dialect.MDP01)
    plain.serves("work")
    [view] = worker_views(story.state)
    assert (view.dialect, view.cpus, view.memory_gb) == ("MDP/0.1", 0.0, 0.0)


def test_kinds_are_shown_with_how_many_open_workers_serve_them(story: Story) -> None:
    worker = story.worker("w1")
    found = {view.kind: view for view in kind_views(story.state, story.now)}
    assert found["work"].workers == 1
    story.client().drains("w1")
    worker.takes(DrainWorker)
    assert {view.kind: view.workers for view in kind_views(story.state, story.now)}["work"] == 0


def test_named_resources_are_shown_with_what_is_used() -> None:
    told = Story(BrokerSettings(named={"ib_gateway": 2}))
    worker = told.worker("w1")
    id = told.client().submit("work", needs=(Variant(named={"ib_gateway": 1}),))
    worker.gets(id)
    assert named_view(told.state) == {"ib_gateway": (1, 2)}


def test_params_that_nobody_can_read_are_shown_as_none(story: Story) -> None:
    story.announces(kind("work"))
    id = story.client().submit("work")
    task = story.task(id)
    task.spec = structs.replace(task.spec, params=Raw(b"\xc1"))
    assert task_view(story.state, task).params is None
    task.spec = structs.replace(task.spec, params=packed({}))


def test_a_kind_tells_how_many_wait_and_how_slow_its_slowest_attempt_is(story: Story) -> None:
    worker, client = story.worker("w1", slots=2, cpus=2.0), story.client()
    for _ in range(5):
        id = client.submit("work")
        worker.gets(id)
        worker.ends(id, seconds=2.0)

    def shown() -> tuple[int, float]:
        found = {view.kind: view for view in kind_views(story.state, story.now)}
        return found["work"].queued, found["work"].slowest

    assert shown() == (0, 0.0)
    first, second, third = (client.submit("work") for _ in range(3))
    worker.gets(first, second)
    assert shown() == (1, 0.0)  # neither is known to have begun
    worker.begins(first)
    story.later(5.0)
    assert shown() == (1, 2.5)
    assert story.task(third).state is State.QUEUED


def test_nothing_is_slow_of_which_nothing_is_expected_yet(story: Story) -> None:
    worker, client = story.worker("w1"), story.client()
    id = client.submit("work")
    worker.gets(id)
    worker.begins(id)
    story.later(60.0)
    assert kind_views(story.state, story.now)[0].slowest == 0.0


def test_what_is_expected_to_be_short_is_judged_as_a_second(story: Story) -> None:
    worker, client = story.worker("w1"), story.client()
    for _ in range(5):
        id = client.submit("work")
        worker.gets(id)
        worker.ends(id, seconds=0.001)
    id = client.submit("work")
    worker.gets(id)
    worker.begins(id)
    story.later(1.5)
    assert kind_views(story.state, story.now)[0].slowest == 1.5


def test_the_longest_wait_is_that_of_the_task_that_is_next_in_its_line(story: Story) -> None:
    client = story.client()
    story.announces(kind("work"), kind("other"))
    assert longest_wait(story.state, story.now) is None
    client.submit("work")
    story.later(3.0)
    client.submit("other")
    assert longest_wait(story.state, story.now) == 3.0
