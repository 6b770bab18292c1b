"""A fact that the table of transitions does not allow raises, and nothing is changed."""

from __future__ import annotations

import pytest

from broker.core.facts import Assigned, Closed, Fact, Moved
from corral.errors import IllegalTransition
from corral.tasks import TRANSITIONS, Cause, Retry, State, Variant
from tests.unit.core.peers import spec
from tests.unit.core.story import Story, snapshot


@pytest.fixture
def everywhere(story: Story) -> dict[State, str]:
    """A task in every state."""
    worker, client = story.worker(slots=6), story.client()
    ids = client.submits(
        spec(),
        spec(retry=Retry(delay=1000.0)),
        spec(),
        spec(retry=Retry(limit=0)),
        spec(),
        spec(needs=(Variant(cpus=99.0),), queue_limit=1.0),
        spec(needs=(Variant(cpus=99.0),)),
        spec(after={"a": "#4"}),
        spec(after={"a": "#0"}),
    )
    running, retrying, done, failed, cancelled, expired, queued, aborted, waiting = ids
    worker.gets(*ids[:5])
    worker.fails(retrying)
    worker.ends(done)
    worker.fails(failed)
    client.cancels(cancelled)
    worker.is_asked_to_stop(cancelled)
    worker.lets_go(cancelled)
    story.later(2.0)
    found = {
        State.RUNNING: running, State.RETRYING: retrying, State.SUCCEEDED: done,
        State.FAILED: failed, State.CANCELLED: cancelled, State.EXPIRED: expired,
        State.QUEUED: queued, State.ABORTED: aborted, State.WAITING: waiting,
    }  # fmt: skip
    assert {state: story.task(id).state for state, id in found.items()} == {s: s for s in State}
    return found


@pytest.mark.parametrize("state", State)
def test_no_task_is_moved_but_by_the_table(
    story: Story, everywhere: dict[State, str], state: State
) -> None:
    id = everywhere[state]
    before = snapshot(story.state)
    for cause in Cause:
        if cause not in TRANSITIONS[state]:
            refused(story, Moved(story.now, id, cause))
    assert snapshot(story.state) == before
    story.broker.check()


@pytest.mark.parametrize("state", [state for state in State if state is not State.QUEUED])
def test_only_what_is_queued_is_assigned(
    story: Story, everywhere: dict[State, str], state: State
) -> None:
    before = snapshot(story.state)
    need = Variant(cpus=1.0)
    refused(story, Assigned(story.now, "w1", 999, 0, need, [], b"x", 0, [everywhere[state]]))
    assert snapshot(story.state) == before
    story.broker.check()


@pytest.mark.parametrize("cause", [Cause.DUE, Cause.EXPIRE, Cause.REOPEN, Cause.ASSIGN])
def test_an_attempt_ends_as_the_table_says(
    story: Story, everywhere: dict[State, str], cause: Cause
) -> None:
    id = everywhere[State.RUNNING]
    before = snapshot(story.state)
    refused(story, Closed(story.now, story.task(id).attempt.token, id, cause, "ok"))
    assert snapshot(story.state) == before
    story.broker.check()


def refused(story: Story, fact: Fact) -> None:
    with pytest.raises(IllegalTransition):
        story.state.apply(fact)
