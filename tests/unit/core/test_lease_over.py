"""A worker that speaks after its lease has ended: it registers again, and works again."""

from __future__ import annotations

from broker.core.effects import Disconnect
from corral.tasks import State
from tests.unit.core.story import Story


def test_who_speaks_after_the_lease_is_told_to_register_and_is_given_work_again(
    story: Story,
) -> None:
    client, worker = story.client(), story.worker()
    id = client.submit()
    worker.gets(id)
    worker.silent = True
    story.later(12.0)
    story.is_(id, State.QUEUED)
    # The connection held, so it cannot know that its attempt was revoked.
    worker.beats_now()
    worker.takes(Disconnect)
    worker.silent = False
    welcome = worker.returns(worker.token(id))
    assert welcome.adopted == []
    worker.is_asked_to_stop(id)
    worker.hears_nothing()
    worker.lets_go(id)
    worker.gets(id)
    worker.ends(id)
    story.is_(id, State.SUCCEEDED)
