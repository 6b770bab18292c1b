"""What grows with time is bounded: timers, names, and memory without a collector of cycles."""

from __future__ import annotations

import gc
from collections import Counter
from unittest.mock import patch

from broker.core import doors, machine
from broker.core.state import TaskRecord
from corral.messages import Done, DrainWorker
from corral.tasks import Retry, State, needs
from corral.wire import Extended
from tests.unit.core.peers import gpu, kind, spec
from tests.unit.core.story import Story


def test_timers_of_what_is_over_do_not_pile_up(story: Story) -> None:
    worker = story.plain("worker")
    worker.serves("x")
    client = story.plain("client")
    with patch.object(machine, "SPARE_TIMERS", 20):
        for number in range(200):
            client.requests("x", b"%d" % number)
            worker.replies(worker.takes_token(), b"done")
            client.inbox.clear()
    assert len(story.broker.timers) < 60
    assert story.state.counts[State.SUCCEEDED] == 200


@patch.object(machine, "SPARE_TIMERS", 4)
def test_timers_of_what_goes_on_are_kept(story: Story) -> None:
    worker, client = story.worker(slots=1), story.client()
    running, *waiting = client.submits(*(spec(queue_limit=50.0) for _ in range(30)))
    worker.gets(running)
    client.drains("w1", deadline=40.0, policy="kill")
    worker.takes(DrainWorker)
    for _ in range(100):
        client.cancels(client.submit(queue_limit=1000.0))
    assert len(story.broker.timers) < 80
    story.later(45.0)
    story.is_(running, State.CANCELLED)
    worker.is_asked_to_stop(running)
    worker.lets_go(running)
    story.later(10.0)
    assert {story.task(id).state for id in waiting} == {State.EXPIRED}


@patch.object(machine, "SPARE_TIMERS", 2)
def test_timers_of_workers_that_are_gone_are_dropped(story: Story) -> None:
    client = story.client()
    for number in range(20):
        worker = story.worker(f"w{number}")
        client.drains(worker.name, deadline=1e6)
        worker.inbox.clear()
        worker.parts()
    assert len(story.broker.timers) <= 4


def test_cancelled_tasks_behind_one_that_waits_are_let_go() -> None:
    story = Story()  # the journal goes on knowing what is forgotten here
    story.announces(kind())
    client = story.client()
    first, *rest, last = client.submits(*(spec() for _ in range(400)))
    client.cancels(*rest)
    for id in rest:
        story.state.forget(story.task(id))
    # `isinstance` would ask other libraries' objects, which may answer with a warning.
    behind = [one for one in gc.get_objects() if type(one) is TaskRecord and one.id in rest]
    assert len(behind) < 100
    worker = story.worker(slots=2)
    worker.gets(first, last)


def test_only_services_nobody_knows_count_as_such(story: Story) -> None:
    story.announces(kind())
    story.client().submits(*(spec() for _ in range(5)))
    client = story.plain("client")
    with patch.object(doors, "MAX_STRANGERS", 2):
        for body in (b"1", b"2", b"3"):
            client.requests("unheard", body)
    assert story.broker.refused == {"unknown service": 1}
    assert story.state.counts[State.QUEUED] == 7


def test_a_worker_that_was_stopping_and_never_came_back_leaves_no_trace(story: Story) -> None:
    worker = story.worker()
    worker.says(Extended(DrainWorker(True, "SIGTERM")))
    worker.takes(DrainWorker)
    worker.silent = True
    story.later(320.0)
    assert story.state.workers == {}
    assert story.state.admissions == {}


def test_nothing_that_is_dropped_needs_the_collector() -> None:
    """The broker runs with the collector of cycles switched off."""
    story = Story()
    client = story.client()

    def live() -> None:
        workers = [story.worker(f"w{n}", slots=2, gpus=[gpu(f"G{n}")]) for n in range(3)]
        ids = client.submits(
            *(spec(retry=Retry(limit=0)) for _ in range(6)),
            *(spec(after={"a": f"#{n}"}) for n in range(6)),
            *(spec(needs=needs(cpus=1.0 + n)) for n in range(6)),
            collect=True,
        )
        for _ in range(4):
            for worker in workers:
                for assigned in list(worker.inbox):
                    worker.gets_any(assigned)
                    worker.ends(assigned.id) if assigned.booking % 3 else worker.fails(assigned.id)
        for id in ids[::4]:
            story.explain(id)
        client.calls(machine.Cancel(b"c", ids))
        client.calls(machine.Retry(b"r", ids[:3]))
        client.calls(machine.Cancel(b"c", ids))
        assert any(isinstance(answer, Done) for answer in client.inbox)
        for worker in workers:
            worker.parts()
            worker.inbox.clear()
        client.inbox.clear()
        for id in ids:
            if story.state.forgettable(story.task(id)):
                story.state.forget(story.task(id))

    live()
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        live()
        gc.collect()
        left = Counter(type(one).__name__ for one in gc.garbage if _of_the_core(one))
        assert left == {}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def _of_the_core(one: object) -> bool:
    return type(one).__module__.startswith("broker.core")
