"""An attempt whose inputs cannot be sent fails for good, and frees what it held."""

from __future__ import annotations

import pytest

from broker.core.events import Unsendable
from corral.tasks import Failure, State
from tests.unit.core.story import Story

TOO_LARGE = Failure("inputs_too_large", "its parents' results are 90000000 bytes together")
LOST = Failure("input_lost", "the result of its parent cannot be read")


@pytest.mark.parametrize("why", [TOO_LARGE, LOST])
def test_it_fails_at_once_and_says_why(story: Story, why: Failure) -> None:
    worker, client = story.worker("w1"), story.client()
    id = client.submit("work")
    worker.gets(id)
    story.happens(Unsendable(worker.token(id), why))
    story.is_(id, State.FAILED)
    assert story.task(id).failure == why
    assert worker.record.slots_used == 0


def test_a_cancelled_one_is_left_to_its_worker(story: Story) -> None:
    worker, client = story.worker("w1"), story.client()
    id = client.submit("work")
    worker.gets(id)
    token = worker.token(id)
    client.cancels(id)
    worker.is_asked_to_stop(id)
    story.happens(Unsendable(token, TOO_LARGE))
    story.is_(id, State.CANCELLED)
    worker.lets_go(id)
    story.happens(Unsendable(token, TOO_LARGE))
