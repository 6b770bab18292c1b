"""A READY that comes late: its connection, or its process, has been replaced already."""

from __future__ import annotations

from broker.core.effects import Disconnect
from corral.tasks import State
from tests.unit.core.peers import Native
from tests.unit.core.story import Story


def late(story: Story, worker: Native, starts: int, **document: object) -> None:
    """A READY of that start arrives by a connection of its own, and is refused."""
    ghost = Native(story, worker.name)
    ghost.starts = starts
    ghost.fields = worker.fields | document
    ghost.says(ghost.readies())
    ghost.takes(Disconnect)


def test_the_ready_of_a_closed_connection_changes_nothing(story: Story) -> None:
    worker = story.worker("w", session=1)
    worker.returns(session=2)
    id = story.client().submit()
    worker.gets(id)
    late(story, worker, starts=1, session=1)
    assert story.broker.refused == {"late ready": 1}
    story.is_(id, State.RUNNING)
    worker.ends(id)
    story.is_(id, State.SUCCEEDED)


def test_the_ready_of_a_process_that_was_replaced_changes_nothing(story: Story) -> None:
    worker = story.worker("w", session=3)
    worker.restarts(session=1)
    id = story.client().submit()
    worker.gets(id)
    late(story, worker, starts=1, session=4)
    story.is_(id, State.RUNNING)
    worker.ends(id)
    worker.restarts(session=1)
    assert worker.record.former == ("w.1", "w.2")


def test_a_broker_that_was_restarted_knows_by_the_start_which_process_came_later(
    story: Story,
) -> None:
    worker = story.worker("w", started=100.0)
    story.restart()
    worker.restarts(started=160.0)
    id = story.client().submit()
    worker.gets(id)
    late(story, worker, starts=1, started=100.0)
    assert story.broker.refused == {"late ready": 1}
    story.is_(id, State.RUNNING)
    worker.ends(id)


def test_a_clock_that_was_set_back_keeps_a_new_process_out_for_a_lease_at_most(
    story: Story,
) -> None:
    worker = story.worker("w", started=160.0)
    worker.silent = True
    story.later(12.0)
    worker.restarts(started=100.0)
    assert worker.record.started == 100.0


def test_only_the_last_few_processes_are_remembered(story: Story) -> None:
    worker = story.worker("w")
    for _ in range(10):
        worker.restarts()
    assert worker.record.former == tuple(f"w.{start}" for start in range(3, 11))
