"""Who is next: strict priority, fair shares between projects, first come first served."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

from broker.core.queues import Queue
from corral import messages
from corral.tasks import State, Variant, needs
from tests.unit.core.peers import Client, Native, kind, spec
from tests.unit.core.story import Story


def one_after_the_other(story: Story, worker: Native, count: int) -> list[str]:
    """Ids in the order in which a worker of one slot gets them."""
    order = []
    for _ in range(count):
        [id] = [one.id for one in worker.inbox]
        worker.gets(id)
        order.append(id)
        worker.ends(id)
    worker.hears_nothing()
    return order


def queued(story: Story, *specs: messages.Spec) -> list[str]:
    """Submit while nobody is there."""
    story.announces(kind(), kind("a"), kind("b"))
    return story.client("submitter").submits(*specs)


def test_first_come_first_served(story: Story) -> None:
    ids = queued(story, *(spec() for _ in range(5)))
    worker = story.worker(slots=1)
    assert one_after_the_other(story, worker, 5) == ids


def test_kinds_take_their_turns_by_age(story: Story) -> None:
    ids = queued(story, spec("a"), spec("b"), spec("a"), spec("b"))
    worker = story.worker(slots=1, kinds=[kind("a"), kind("b")])
    assert one_after_the_other(story, worker, 4) == ids


def test_a_higher_priority_goes_first_whatever_its_age(story: Story) -> None:
    low, high, middle = queued(story, spec(), spec(priority=5), spec(priority=1))
    worker = story.worker(slots=1)
    assert one_after_the_other(story, worker, 3) == [high, middle, low]


def test_projects_share_by_turns(story: Story) -> None:
    ids = queued(story, *(spec(project=name) for name in "aaaabbbb"))
    worker = story.worker(slots=1)
    got = one_after_the_other(story, worker, 8)
    assert [ids.index(id) // 4 for id in got] == [0, 1, 0, 1, 0, 1, 0, 1]


def test_projects_share_by_their_weights(stories: Callable[..., Story]) -> None:
    story = stories(weights={"big": 3.0})
    queued(story, *(spec(project=name) for name in ["small", "big"] * 8))
    worker = story.worker(slots=1)
    got = one_after_the_other(story, worker, 16)
    first = Counter(story.task(id).spec.project for id in got[:8])
    assert first == {"big": 6, "small": 2}


def test_a_project_that_asks_for_more_gets_its_turn_less_often(story: Story) -> None:
    heavy = [spec(project="heavy", needs=needs(cpus=4.0)) for _ in range(5)]
    light = [spec(project="light", needs=needs(cpus=1.0)) for _ in range(5)]
    queued(story, *heavy, *light)
    worker = story.worker(slots=1)
    got = one_after_the_other(story, worker, 10)
    first = Counter(story.task(id).spec.project for id in got[:6])
    assert first == {"light": 4, "heavy": 2}


def test_priority_comes_before_fairness(story: Story) -> None:
    ids = queued(story, spec(project="a", priority=1), spec(project="a", priority=1), spec())
    worker = story.worker(slots=1)
    assert one_after_the_other(story, worker, 3) == ids


def test_who_was_away_has_no_claim_on_that_time(story: Story) -> None:
    worker = story.worker(slots=1)
    client = story.client()
    for _ in range(10):
        [id] = client.submits(spec(project="steady"))
        worker.gets(id)
        worker.ends(id)
    ids = client.submits(*(spec(project=name) for name in ["steady"] * 3 + ["late"] * 3))
    got = one_after_the_other(story, worker, 6)
    assert [story.task(id).spec.project for id in got].count("late") == 3
    assert [story.task(id).spec.project for id in got[:4]].count("steady") == 2
    assert sorted(got) == sorted(ids)


def test_a_task_that_was_handed_back_keeps_its_place(story: Story) -> None:
    first, second, third = queued(story, spec(), spec(), spec())
    worker = story.worker(slots=1)
    worker.gets(first)
    worker.hands_back(first)
    assert one_after_the_other(story, worker, 3) == [first, second, third]


def test_a_retried_task_goes_to_the_end(story: Story) -> None:
    first, second, third = queued(story, spec(), spec(), spec())
    worker = story.worker(slots=1)
    worker.gets(first)
    worker.fails(first)
    story.later(1.0)
    assert one_after_the_other(story, worker, 3) == [second, third, first]


def test_a_cancelled_task_leaves_the_middle_of_its_lane(story: Story) -> None:
    first, second, third = queued(story, spec(), spec(), spec())
    client: Client = story.client()
    assert client.cancels(second).changed == [second]
    worker = story.worker(slots=1)
    assert one_after_the_other(story, worker, 2) == [first, third]


def test_a_task_that_was_taken_out_and_comes_back_stands_in_its_lane_once(story: Story) -> None:
    first, second, third = queued(story, spec(), spec(), spec())
    client = story.client()
    client.cancels(second)
    client.retries(second)
    worker = story.worker(slots=1)
    assert one_after_the_other(story, worker, 3) == [first, third, second]


def test_a_lane_whose_head_was_cancelled_goes_on(story: Story) -> None:
    ids = queued(story, spec(), spec(), spec())
    story.client().cancels(*ids[:2])
    worker = story.worker(slots=1)
    assert one_after_the_other(story, worker, 1) == ids[2:]


def test_an_announcement_with_other_needs_leaves_older_tasks_as_they_were(story: Story) -> None:
    story.announces(kind(needs=needs(cpus=2.0)))
    client = story.client()
    old = client.submit()
    later = kind(needs=needs(cpus=6.0))
    story.announces(later)
    new = client.submit()
    worker = story.worker("w1", cpus=8.0, slots=2, kinds=[later])
    worker.gets(old, new)
    assert worker.record.cpus_used == 8000


def test_what_is_booked_does_not_change_when_a_kind_announces_fewer_variants(story: Story) -> None:
    either = kind(needs=(Variant(gpus=1), Variant(cpus=3.0)))
    worker = story.worker("w1", kinds=[either])
    client = story.client()
    id = client.submit()
    worker.gets(id)
    story.announces(kind(needs=needs(cpus=1.0)))
    story.restart(story.restored())
    assert story.state.workers["w1"].cpus_used == 3000
    assert worker.returns(worker.token(id)).adopted == [worker.token(id)]
    worker.ends(id)


# --- the queue's bounds -------------------------------------------------------------------


def test_classes_that_nobody_asks_for_are_forgotten(story: Story) -> None:
    story.announces(kind())
    client = story.client()
    with patch.object(Queue, "MAX_CLASSES", 8):
        for cpus in range(40):
            id = client.submit(needs=needs(cpus=float(cpus)))
            client.cancels(id)
    assert len(story.state.queue.classes) <= 8


def test_a_class_that_was_forgotten_and_made_again_is_one_class(story: Story) -> None:
    story.announces(kind())
    client = story.client()
    client.cancels(client.submit())  # the class of the kind's own needs is known
    with patch.object(Queue, "MAX_CLASSES", 4):
        for cpus in range(2, 12):
            client.cancels(client.submit(needs=needs(cpus=float(cpus))))
    explicit = client.submit(needs=needs(cpus=1.0))
    default = client.submit()
    worker = story.worker(slots=2)
    worker.gets(explicit, default)


def test_projects_that_are_empty_are_forgotten(story: Story) -> None:
    story.announces(kind())
    client = story.client()
    with patch.object(Queue, "MAX_CLASSES", 4):
        for number in range(20):
            client.cancels(client.submit(project=f"p{number}"))
    assert len(story.state.queue.projects) <= 5


# --- the order does not depend on chance -----------------------------------------------------

SCENE = """
from corral.tasks import needs
from tests.unit.core.peers import by_worker, kind, spec
from tests.unit.core.story import Story
story = Story()
story.announces(kind())
client = story.client()
client.submits(*(spec(needs=needs(cpus=1.0 + n % 4)) for n in range(9)))
with story.together():
    workers = [story.worker(f"w{n}", slots=2, cpus=8.0) for n in range(12)]
for _ in range(6):
    given = by_worker(workers)
    print(given)
    for worker in workers[::2]:
        worker.ends(*given.get(worker.name, []))
    client.submits(*(spec(needs=needs(cpus=1.0 + n % 4)) for n in range(9)))
"""


def test_the_same_events_lead_to_the_same_places_in_any_process() -> None:
    root = Path(__file__).parents[3]
    told = set()
    for seed in ("1", "2", "3"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(root)}
        done = subprocess.run(
            [sys.executable, "-c", SCENE], env=environment, cwd=root, text=True,
            capture_output=True, check=True,
        )  # fmt: skip
        assert done.stdout.count("w1") > 4
        told.add(done.stdout)
    assert len(told) == 1


def test_a_task_may_be_gone_while_its_lane_still_lists_it(story: Story) -> None:
    ids = queued(story, *(spec() for _ in range(4)))
    client = story.client()
    client.cancels(*ids[1:3])
    assert story.explain(ids[3]).state is State.QUEUED
    worker = story.worker(slots=1)
    assert one_after_the_other(story, worker, 2) == [ids[0], ids[3]]
