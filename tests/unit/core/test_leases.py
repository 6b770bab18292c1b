"""Signs of life and their absence: suspect, unavailable, gone; late results; who comes back."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from broker.core.effects import Disconnect
from broker.core.events import PeerLost
from corral.messages import CancelAttempts, Document, Ended, LogChunk, Progress, Progressed
from corral.tasks import Retry, State, force_gpu, needs
from corral.wire import Beaten, Dialect, Extended, Readied
from tests.unit.core.peers import Client, Native, gpu, kind, spec
from tests.unit.core.story import Story


@pytest.fixture
def worker(story: Story) -> Native:
    return story.worker(slots=2)


@pytest.fixture
def client(story: Story) -> Client:
    return story.client()


def test_everybody_is_beaten_to_once_a_heartbeat(story: Story, worker: Native) -> None:
    story.later(20.0)
    assert 9 <= worker.beats <= 10


def test_silence_makes_suspect_then_unavailable_then_gone(story: Story, worker: Native) -> None:
    worker.silent = True
    story.later(5.9)
    assert worker.record.status == "available"
    story.later(2.1)
    assert worker.record.status == "suspect"
    story.later(4.0)
    assert worker.record.status == "unavailable"
    story.later(285.0)
    assert worker.record.status == "unavailable"
    story.later(8.0)
    assert "w1" not in story.state.workers


def test_nothing_new_goes_to_the_suspect(story: Story, worker: Native, client: Client) -> None:
    worker.silent = True
    story.later(8.0)
    id = client.submit()
    worker.hears_nothing()
    worker.beats_now()
    assert worker.record.status == "available"
    worker.gets(id)


def test_any_word_is_a_sign_of_life(story: Story, worker: Native, client: Client) -> None:
    id = client.submit()
    worker.gets(id)
    worker.silent = True
    for fraction in (0.2, 0.4, 0.6):
        story.later(5.0)
        worker.says(Extended(Progress([Progressed(worker.token(id), fraction, {"loss": 1.0})])))
        assert story.progress().fraction == fraction
    assert worker.record.status == "available"
    assert story.task(id).attempt.metrics == {"loss": 1.0}


def test_the_attempts_of_the_silent_are_queued_again(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit()
    worker.gets(id)
    worker.silent = True
    story.later(12.0)
    story.is_(id, State.QUEUED)
    assert story.task(id).lost == 1
    assert "silent for" in story.task(id).story[-1].why
    other = story.worker("w2")
    other.gets(id)


def test_what_the_unavailable_held_stays_booked(story: Story, client: Client) -> None:
    one = story.worker("one", gpus=[gpu("A")])
    two = story.worker("two", gpus=[gpu("A")])
    id = client.submit(needs=force_gpu())
    one.gets(id)
    one.silent = True
    story.later(100.0)
    two.hears_nothing()
    story.later(220.0)  # gone: now it is known to be free
    two.gets(id)
    assert one.name not in story.state.workers


def test_named_resources_of_the_unavailable_stay_booked(stories: Callable[..., Story]) -> None:
    story = stories(named={"gate": 1})
    client = story.client()
    one, two = story.worker("one", slots=1), story.worker("two", slots=1)
    id = client.submit(needs=needs(named={"gate": 1}))
    one.gets(id)
    one.silent = True
    story.later(100.0)
    two.hears_nothing()
    one.restarts()  # a new process: what the old one held is free
    two.gets(id)


def test_who_returns_in_time_goes_on(story: Story, worker: Native, client: Client) -> None:
    id = client.submit()
    worker.gets(id)
    worker.vanishes()
    assert worker.record.status == "suspect"
    story.later(4.0)
    assert worker.returns(worker.token(id)).adopted == [worker.token(id)]
    worker.ends(id)
    story.is_(id, State.SUCCEEDED)
    assert story.task(id).made == 1


def test_who_returns_too_late_is_asked_to_stop(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit()
    worker.gets(id)
    worker.vanishes()
    story.later(20.0)
    other = story.worker("w2")
    other.gets(id)
    assert worker.returns(worker.token(id)).adopted == []
    asked = worker.takes(CancelAttempts)
    assert (asked.tokens, asked.grace) == ([worker.token(id)], 0.0)
    worker.lets_go(id)
    other.ends(id)
    assert [a.outcome for a in story.task(id).attempts] == ["cancelled", "ok"]


def test_a_result_of_the_revoked_changes_nothing(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit()
    worker.gets(id)
    worker.vanishes()
    story.later(20.0)
    other = story.worker("w2")
    other.gets(id)
    worker.returns(worker.token(id))
    worker.takes(CancelAttempts)
    worker.ends(id)
    story.is_(id, State.RUNNING)
    other.ends(id)
    assert story.task(id).attempts[-1].worker == "w2"


def test_what_never_reached_its_worker_is_no_fault(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit()
    worker.gets(id)
    worker.vanishes()
    worker.returns()
    assert story.task(id).lost == 0
    worker.gets(id)


def test_too_many_losses_fail_a_task(story: Story, worker: Native, client: Client) -> None:
    id = client.submit(retry=Retry(lost_limit=0))
    worker.gets(id)
    worker.silent = True
    story.later(12.0)
    story.is_(id, State.FAILED)
    assert worker.record.slots_used == 1


def test_the_gone_free_what_they_held(story: Story, worker: Native, client: Client) -> None:
    id = client.submit(retry=Retry(lost_limit=0))
    worker.gets(id)
    worker.silent = True
    story.later(320.0)
    assert story.state.ledger.bookings == {}
    assert [a.outcome for a in story.task(id).attempts] == ["gone"]


def test_the_broker_that_stood_still_judges_nobody(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit()
    worker.gets(id)
    story.now += 1000.0
    story.turn()
    assert worker.record.status == "available"
    story.is_(id, State.RUNNING)
    story.later(4.0)
    assert worker.record.health == "live"


def stands_still(story: Story, worker: Native, times: int) -> None:
    """Seconds of silence, and between them the broker stands still for less than a heartbeat."""
    worker.silent = True
    for _ in range(times):
        story.later(1.0)
        story.now += 1.9
        story.turn()


def test_standing_still_often_and_shortly_judges_nobody_either(
    story: Story, worker: Native
) -> None:
    stands_still(story, worker, times=6)
    assert worker.record.status == "suspect"
    story.later(5.0)
    assert worker.record.status == "unavailable"


def test_standing_still_often_and_shortly_leaves_time_to_come_back(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit()
    worker.gets(id)
    story.restart()
    stands_still(story, worker, times=18)
    story.is_(id, State.RUNNING)
    story.later(14.0)
    story.is_(id, State.QUEUED)


def test_a_worker_whose_key_was_revoked_is_lost_at_once(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit()
    worker.gets(id)
    story.happens(PeerLost(worker.id, revoked=True))
    worker.connected = False
    story.is_(id, State.QUEUED)
    assert worker.record.status == "unavailable"
    assert "its key was revoked" in story.task(id).story[-1].why


def test_who_leaves_in_order_hands_back(story: Story, worker: Native, client: Client) -> None:
    first, second = client.submits(spec(), spec())
    worker.gets(first, second)
    worker.parts()
    assert "w1" not in story.state.workers
    other = story.worker("w2", slots=2)
    other.gets(first, second)
    assert story.task(first).lost == 0
    assert story.task(first).attempts[0].outcome == "handed_back"


def test_who_leaves_takes_revoked_attempts_along(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit()
    worker.gets(id)
    client.cancels(id)
    worker.is_asked_to_stop(id)
    worker.parts()
    assert story.state.attempts == {}
    story.is_(id, State.CANCELLED)


def test_strangers_are_told_to_register(story: Story) -> None:
    stranger = Native(story, "stranger")
    stranger.beats_now()
    stranger.takes(Disconnect)
    stranger.says(Extended(Progress([])))
    stranger.takes(Disconnect)
    stranger.parts()
    stranger.vanishes()
    assert story.broker.refused == {"unknown worker": 2}


def test_a_worker_that_is_unavailable_must_register_again(story: Story, worker: Native) -> None:
    worker.silent = True
    story.later(12.0)
    worker.beats_now()
    worker.takes(Disconnect)
    worker.returns()
    assert worker.record.health == "live"


def test_who_registers_twice_on_one_connection_is_turned_away(story: Story, worker: Native) -> None:
    worker.says(worker.readies())
    worker.takes(Disconnect)
    assert story.broker.refused == {"ready again": 1}
    assert worker.record.health == "suspect"
    worker.returns()


def test_a_new_connection_takes_the_place_of_the_old(story: Story, worker: Native) -> None:
    old = worker.id
    worker.returns()
    assert list(story.broker.fleet.peers) == [worker.id]
    worker.id, new = old, worker.id
    worker.says(Beaten(Dialect.MDP02))
    worker.takes(Disconnect)
    worker.id = new
    assert worker.record.peer == new


@pytest.mark.parametrize(
    "document",
    [
        {"name": "two words", "incarnation": "i", "kinds": []},
        {"name": "w", "incarnation": "i", "kinds": [kind("mmi.service")]},
        {"name": "w", "incarnation": "i", "kinds": [kind("corral.submit")]},
        {"name": "w", "incarnation": "i", "kinds": [kind("titanic.request")]},
        {"name": "w", "incarnation": "i", "kinds": [kind("")]},
        {"name": "w", "incarnation": "", "kinds": []},
    ],
)
def test_what_cannot_be_a_worker_is_turned_away(story: Story, document: dict[str, object]) -> None:
    peer = Native(story, "w")
    peer.says(Readied(Dialect.MDP02, "corral", Document(**document)))
    peer.takes(Disconnect)
    assert story.state.workers == {}
    assert story.broker.refused == {"ready": 1}


def test_the_registry_is_bounded(stories: Callable[..., Story]) -> None:
    story = stories(max_workers=2)
    first = story.worker("a")
    story.worker("b")
    third = Native(story, "c")
    third.says(third.readies())
    third.takes(Disconnect)
    first.returns()
    first.parts()
    third.connect()
    third.registers()


def test_boasting_is_cut_down(story: Story) -> None:
    worker = story.worker(slots=10**9, cpus=float("inf"), memory_gb=-5.0)
    assert (worker.record.slots, worker.record.cpus, worker.record.memory) == (10_000, 10**9, 0)


def test_what_is_no_number_is_no_amount(story: Story, client: Client) -> None:
    worker = story.worker(cpus=float("nan"), memory_gb=float("nan"))
    assert (worker.record.cpus, worker.record.memory) == (0, 0)


# --- progress and checkpoints ---------------------------------------------------------------------


def test_progress_is_sampled_and_kept_between_nothing_and_all(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit()
    worker.gets(id)
    rows = len(story.journal)
    for said, kept in ((0.5, 0.5), (7.0, 1.0), (-1.0, 0.0)):
        worker.says(Extended(Progress([Progressed(worker.token(id), said)])))
        told = story.progress()
        assert (told.id, told.fraction, story.task(id).attempt.fraction) == (id, kept, kept)
    assert len(story.journal) == rows


def test_progress_of_others_and_of_the_revoked_is_not_told(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit()
    worker.gets(id)
    thief = story.worker("thief", slots=0)
    thief.says(Extended(Progress([Progressed(worker.token(id), 0.5), Progressed(b"x", 0.5)])))
    client.cancels(id)
    worker.is_asked_to_stop(id)
    worker.says(Extended(Progress([Progressed(worker.token(id), 0.5)])))
    assert story.telemetry == []
    worker.lets_go(id)


def test_progress_that_is_no_number_stops_nothing(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit()
    worker.gets(id)
    worker.says(Extended(Progress([Progressed(worker.token(id), float("nan"))])))
    assert 0.0 <= story.progress().fraction <= 1.0


def test_the_last_checkpoint_is_kept_for_the_next_attempt(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit()
    worker.gets(id)
    token = worker.token(id)
    for digest in ("d1", "d2"):
        worker.saves(token, digest)
    assert story.task(id).checkpoint == "d2"
    assert story.replayed().tasks[id].checkpoint == "d2"
    worker.fails(id)
    story.later(1.0)
    assert story.task(id).checkpoint == "d2"
    worker.gets(id)
    worker.saves(token, "d3")  # of the first attempt
    worker.saves(worker.token(id), "")
    assert story.task(id).checkpoint == "d2"
    worker.ends(id)
    assert story.task(id).checkpoint == ""


def test_a_checkpoint_of_the_revoked_or_of_another_s_is_not_kept(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit()
    worker.gets(id)
    thief = story.worker("thief", slots=0)
    thief.saves(worker.token(id), "d1")
    client.cancels(id)
    worker.is_asked_to_stop(id)
    worker.saves(worker.token(id), "d2")
    assert story.task(id).checkpoint == ""
    worker.lets_go(id)


def test_messages_that_are_the_shell_s_change_nothing(story: Story, worker: Native) -> None:
    worker.says(Extended(LogChunk(1, b"", 0)))
    assert worker.record.health == "live"


def test_a_large_result_is_known_by_its_digest(
    story: Story, worker: Native, client: Client
) -> None:
    id = client.submit()
    worker.gets(id)
    worker.finishes(Ended(worker.token(id), "ok"), blobs={worker.token(id): "digest"})
    assert story.task(id).blob == "digest"
    client.asks(id)
    assert client.is_told(id).blob == "digest"
