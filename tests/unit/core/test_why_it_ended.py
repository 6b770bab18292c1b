"""The reason that a client hears is that of the end, not of an earlier attempt."""

from __future__ import annotations

from corral.tasks import Retry
from tests.unit.core.story import Story


def test_who_ended_otherwise_than_an_earlier_attempt_says_its_own_reason(story: Story) -> None:
    client, worker = story.client(), story.worker()
    id = client.submit(retry=Retry(limit=1))
    worker.gets(id)
    worker.fails(id)
    client.cancels(id, reason="enough")
    client.asks(id)
    failure = client.is_told(id).failure
    assert failure is not None
    assert (failure.type, failure.message) == ("cancelled", "enough")


def test_who_is_lost_too_often_says_so(story: Story) -> None:
    client, worker = story.client(), story.worker()
    id = client.submit(retry=Retry(lost_limit=0))
    worker.gets(id)
    worker.silent = True
    story.later(12.0)
    client.asks(id)
    failure = client.is_told(id).failure
    assert failure is not None
    assert (failure.type, failure.message[:16]) == ("lost", "w1: silent for 1")
