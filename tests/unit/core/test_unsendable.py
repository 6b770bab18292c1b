"""An attempt whose inputs fit into no message fails for good, and frees what it held."""

from __future__ import annotations

from broker.core.events import Unsendable
from corral.tasks import State
from tests.unit.core.story import Story


def test_it_fails_at_once_and_says_why(story: Story) -> None:
    worker, client = story.worker("w1"), story.client()
    id = client.submit("work")
    worker.gets(id)
    story.happens(Unsendable(worker.token(id), 90_000_000))
    story.is_(id, State.FAILED)
    failure = story.task(id).failure
    assert failure is not None
    assert failure.type == "inputs_too_large"
    assert "90000000 bytes" in failure.message
    assert worker.record.slots_used == 0


def test_a_cancelled_one_is_left_to_its_worker(story: Story) -> None:
    worker, client = story.worker("w1"), story.client()
    id = client.submit("work")
    worker.gets(id)
    token = worker.token(id)
    client.cancels(id)
    worker.is_asked_to_stop(id)
    story.happens(Unsendable(token, 90_000_000))
    story.is_(id, State.CANCELLED)
    worker.lets_go(id)
    story.happens(Unsendable(token, 90_000_000))
