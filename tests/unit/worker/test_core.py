"""The agent's mind, told as stories: something happens, and the mind says what to do."""

from __future__ import annotations

import pytest
from msgspec import structs

from corral.messages import (
    Checkpoint,
    DrainWorker,
    Ended,
    FetchLog,
    Finished,
    Gpu,
    Nack,
    Progress,
    Progressed,
    Resources,
    Welcome,
)
from corral.tasks import Failure
from corral.wire import Beaten, Dialect, Parted
from tests.unit.worker.conftest import MACHINE, Story, item, lane, token
from worker.core import Illegal, Session
from worker.events import (
    Batch,
    Beat,
    Bury,
    Changed,
    ChildEnded,
    ChildSaid,
    Confine,
    Connected,
    Depart,
    Exit,
    Forget,
    Greet,
    Keep,
    Kill,
    Lost,
    MemoryExceeded,
    ReadLog,
    Reconnect,
    Retire,
    Say,
    Send,
    Spawn,
    StopRequested,
)
from worker.pipe import Ask, GiveBack, Ready, Saved, Told, Want, Work
from worker.pool import SPARE

STOP = StopRequested("the worker got SIGTERM", 30.0)


# --- the session --------------------------------------------------------------------------


def test_ready_is_said_when_the_connection_stands_and_work_waits_for_the_welcome(
    story: Story,
) -> None:
    assert story.happens(Connected()) == [Greet([])]
    assert story.assigns(lane(1, "a")) == []  # nothing counts before WELCOME
    story.says(Welcome(7, 2.0, 10.0, 0.0, []))
    assert story.core.session is Session.WELCOMED
    story.assigns(lane(1, "a"))
    assert story.spawned() == [Spawn(1, "echo", (), 1)]


def test_the_agent_beats_whatever_its_attempts_do(story: Story) -> None:
    story.welcomed(heartbeat=2.0, lease=100.0).assigns(lane(1, "a"))
    story.ready(1)
    story.passes(20.0)
    assert 9 <= len(story.of(Beat)) <= 10


def test_no_beat_before_the_connection_stands(story: Story) -> None:
    story.passes(9.0)
    assert story.of(Beat) == []


def test_silence_leads_to_a_new_socket_and_ready_lists_what_runs(story: Story) -> None:
    story.welcomed(lease=10.0).assigns(lane(1, "a", "b"), lane(2, "c"))
    story.ready(1)
    story.passes(10.0)
    assert [reconnect.why for reconnect in story.of(Reconnect)] == [
        "the broker was silent for 10 s"
    ]
    greeting = story.happens(Connected())
    assert greeting == [Greet([token("a"), token("b"), token("c")])]


def test_a_beat_of_the_broker_is_a_sign_of_life(story: Story) -> None:
    story.welcomed(lease=10.0)
    for _ in range(5):
        story.passes(6.0)
        assert story.of(Reconnect) == []
        story.says(Beaten(Dialect.MDP02))


def test_a_broker_that_beats_but_never_welcomes_is_left(story: Story) -> None:
    story.happens(Connected())
    for _ in range(4):
        story.passes(2.0)
        story.says(Beaten(Dialect.MDP02))
    story.passes(2.0)
    assert story.of(Reconnect)


@pytest.mark.parametrize("end", [Lost("it ended"), "DISCONNECT"])
def test_the_end_of_a_connection_leads_to_a_new_one(story: Story, end: Lost | str) -> None:
    story.welcomed()
    if isinstance(end, Lost):
        story.happens(end)
    else:
        story.says(Parted(Dialect.MDP02))
    assert len(story.of(Reconnect)) == 1
    assert story.core.session is Session.CONNECTING


def test_attempts_that_are_not_adopted_stop_at_once_and_their_end_is_told(story: Story) -> None:
    story.welcomed().assigns(lane(1, "a", "b"), lane(2, "c"))
    story.ready(1)
    story.happens(Lost("it ended"))
    story.happens(Connected())
    story.says(Welcome(2, 2.0, 10.0, 0.0, [token("c")]))
    assert story.told(Ask) == [(1, Ask(token("a"), Want.CANCEL))]
    assert story.of(Kill) == [Kill(1)]
    assert story.outcomes() == {token("b"): "cancelled"}
    story.dies(1, begun=1, how="SIGKILL")
    assert story.outcomes() == {token("a"): "cancelled"}
    assert story.core.where.keys() == {token("c")}


def test_adopted_attempts_go_on(story: Story) -> None:
    story.welcomed().assigns(lane(1, "a", "b"))
    story.ready(1)
    story.happens(Lost("it ended"))
    story.happens(Connected())
    story.says(Welcome(2, 2.0, 10.0, 0.0, [token("a"), token("b")]))
    assert not story.of(Kill)
    story.done(1)
    assert story.fed() == {1: [token("b")]}


def test_a_new_broker_is_told_again_what_has_begun(story: Story) -> None:
    story.welcomed().assigns(lane(1, "a"))
    story.ready(1)
    story.passes(0.006)
    story.happens(Lost("it ended"))
    story.passes(1.0)
    story.happens(Connected())
    story.says(Welcome(2, 2.0, 10.0, 0.0, [token("a")]))
    story.passes(0.0)
    assert story.sent(Progress) == [Progress([Progressed(token("a"), 0.0, started=True)])]


def test_a_second_welcome_changes_nothing(story: Story) -> None:
    story.welcomed().assigns(lane(1, "a"))
    assert story.says(Welcome(1, 2.0, 10.0, 0.0, [])) == []


def test_what_the_machine_has_is_told_when_it_changes(story: Story) -> None:
    news = Resources(8.0, [Gpu("GPU-3", 24.0)], [])
    assert story.happens(Changed(news)) == []  # READY will say it
    story.welcomed()
    assert story.happens(Changed(news)) == [Send(news)]
    story.assigns(lane(1, "a", gpus=["GPU-3"]))
    assert story.spawned() == [Spawn(1, "echo", ("GPU-3",), 1)]


def test_impossible_events_raise_and_change_nothing(story: Story) -> None:
    story.welcomed()
    with pytest.raises(Illegal):
        story.happens(Connected())
    with pytest.raises(Illegal):
        story.happens(ChildEnded(9, "SIGKILL", 0))
    with pytest.raises(Illegal):
        story.happens(ChildSaid(9, Ready()))
    story.assigns(lane(1, "a"))
    story.ready(1)
    with pytest.raises(Illegal):
        story.done(1, count=2)
    assert story.core.where.keys() == {token("a")}


# --- lanes and children ---------------------------------------------------------------------


def test_a_lane_gets_one_attempt_until_its_kind_is_known_to_be_fast(story: Story) -> None:
    story.welcomed().assigns(lane(1, *range(2000)))
    story.ready(1)
    assert story.fed() == {1: [token(0)]}
    story.done(1, seconds=0.000_005)
    assert story.fed() == {1: [token(n) for n in range(1, 1001)]}


def test_slow_attempts_go_to_the_child_one_by_one(story: Story) -> None:
    story.welcomed().learns(1.0).assigns(lane(1, "a", "b", "c"))
    story.ready(1)
    assert story.fed() == {1: [token("a")]}
    story.done(1, seconds=1.0)
    assert story.fed() == {1: [token("b")]}


def test_a_child_is_fed_again_when_half_of_its_work_is_done(story: Story) -> None:
    story.welcomed().learns(0.000_5).assigns(lane(1, *range(100)))  # ten in five milliseconds
    story.ready(1)
    assert len(story.fed()[1]) == 10
    story.done(1, count=4, seconds=0.000_5)
    assert story.fed() == {}
    story.done(1, count=1, seconds=0.000_5)
    assert len(story.fed()[1]) == 5


def test_more_items_of_a_booking_join_its_lane(story: Story) -> None:
    story.welcomed().assigns(lane(1, "a"))
    story.assigns(lane(1, "b"))
    assert not story.spawned()
    story.ready(1)
    story.done(1)
    assert story.fed() == {1: [token("b")]}


def test_an_attempt_that_is_here_already_is_not_begun_twice(story: Story) -> None:
    story.welcomed().assigns(lane(1, "a"))
    story.ready(1)
    story.assigns(lane(1, "a"), lane(2, "a"))
    assert story.fed() == {}
    assert story.spawned() == []


def test_lanes_beyond_the_slots_wait(story: Story) -> None:
    story.welcomed().assigns(lane(1, "a"), lane(2, "b"), lane(3, "c"))
    assert len(story.spawned()) == 2
    story.ready(1)
    story.done(1)
    assert story.fed() == {1: [token("c")]}  # in the child that is warm


def test_a_child_serves_lanes_of_its_kind_its_gpus_and_its_threads_only(story: Story) -> None:
    story.welcomed().assigns(lane(1, "a", cpus=2.0))
    story.ready(1)
    story.done(1)
    story.assigns(lane(2, "b", cpus=2.0))
    assert story.fed() == {1: [token("b")]}
    story.done(1)
    for booking, other in enumerate(
        (lane(3, "c"), lane(4, "d", kind="train"), lane(5, "e", gpus=["GPU-1"])), 2
    ):
        story.assigns(other)
        assert [spawn.child for spawn in story.spawned()] == [booking]
        story.ready(booking)
        story.done(booking)


def test_idle_children_are_few_and_the_oldest_goes(story: Story) -> None:
    """One for each slot and SPARE more: a pipeline changes between kinds at every step."""
    story.welcomed()
    most = MACHINE.slots + SPARE
    retired: list[Retire] = []
    for number in range(1, most + 2):
        assert retired == []
        story.passes(1.0)
        story.says(Beaten(Dialect.MDP02))
        story.assigns(lane(number, number, cpus=float(number)))
        retired = story.of(Retire)
        story.ready(number)
        story.done(number)
    assert retired == [Retire(1)]


def test_an_idle_child_ends_after_a_while(story: Story) -> None:
    story.welcomed(lease=1000.0).assigns(lane(1, "a"))
    story.ready(1)
    story.done(1)
    story.passes(59.0)
    assert story.of(Retire) == []
    story.passes(2.0)
    assert story.of(Retire) == [Retire(1)]
    story.passes(6.0)
    assert story.of(Kill) == [Kill(1)]  # it would not go by itself
    assert story.dies(1, begun=1, how="SIGKILL") == []


def test_a_gpu_is_given_on_only_when_the_child_that_held_it_is_dead(story: Story) -> None:
    story.welcomed().assigns(lane(1, "a", gpus=["GPU-1"]))
    story.ready(1)
    story.done(1)
    story.assigns(lane(2, "b", kind="train", gpus=["GPU-1"]))
    assert story.of(Retire) == [Retire(1)]
    assert not story.spawned()
    story.dies(1, begun=1, how="exit status 0")
    assert story.spawned() == [Spawn(2, "train", ("GPU-1",), 1)]


def test_a_lane_that_waits_for_a_gpu_holds_up_no_other(story: Story) -> None:
    story.welcomed().assigns(lane(1, "a", gpus=["GPU-1"]))
    story.ready(1)
    story.cancels("a", grace=0.0)
    story.assigns(lane(2, "b", kind="train", gpus=["GPU-1"]), lane(3, "c"))
    assert [spawn.gpus for spawn in story.spawned()] == [()]


def test_lanes_share_cores_only_when_they_must(story: Story) -> None:
    wide = Story(structs.replace(MACHINE, slots=3))
    wide.welcomed().assigns(lane(1, "a", cpus=2.0), lane(2, "b", cpus=1.5), lane(3, "c", cpus=1.0))
    assert [confine.cores for confine in wide.of(Confine)] == [(0, 1), (2, 3), (0,)]
    for child in (1, 2):
        wide.ready(child)
        wide.done(child)
    wide.assigns(lane(4, "d", cpus=3.0))
    assert [confine.cores for confine in wide.of(Confine)] == [(1, 2, 3)]


def test_kinds_and_gpus_that_are_not_here_are_refused(story: Story) -> None:
    story.welcomed().assigns(lane(1, "a", kind="mill"), lane(2, "b", gpus=["GPU-9"]))
    assert story.sent(Nack) == [
        Nack([token("a")], "this worker does not have the kind mill"),
        Nack([token("b")], "this worker does not have the GPU GPU-9"),
    ]
    assert not story.core.lanes


# --- what runs, and what can be had back ------------------------------------------------------


def test_an_attempt_that_takes_longer_than_a_moment_is_said_to_have_begun(story: Story) -> None:
    story.welcomed().assigns(lane(1, "a"))
    story.ready(1)
    story.passes(0.004)
    assert story.sent(Progress) == []
    story.passes(0.002)
    assert story.sent(Progress) == [Progress([Progressed(token("a"), 0.0, started=True)])]
    story.passes(1.0)
    assert story.sent(Progress) == []


def test_a_child_that_is_late_is_asked_what_runs_and_gives_back_the_rest(story: Story) -> None:
    story.welcomed().learns(0.000_5).assigns(lane(1, *range(10)))
    story.ready(1)
    story.passes(0.006)
    assert story.told(GiveBack) == [(1, GiveBack())]
    story.done(1, count=2, seconds=0.000_5)
    story.given(1, 2, *range(3, 10))
    story.passes(0.006)
    assert story.sent(Progress) == [Progress([Progressed(token(2), 0.0, started=True)])]
    story.done(1, seconds=3.0)
    assert story.fed() == {1: [token(3)]}  # now it is known to be slow


def test_work_that_crossed_the_question_stays_with_the_child(story: Story) -> None:
    story.welcomed().learns(0.000_5).assigns(lane(1, *range(14)))
    story.ready(1)
    story.passes(0.006)
    story.given(1, 0, 1, 2, 3)  # the rest was still on its way to it
    assert [item.token for item in story.core.lanes[1].fed] == [
        token(n) for n in (0, 4, 5, 6, 7, 8, 9)
    ]
    story.done(1, count=7, seconds=0.000_5)
    assert story.fed()[1][:3] == [token(1), token(2), token(3)]


def test_a_child_that_was_done_when_it_was_asked(story: Story) -> None:
    story.welcomed().learns(0.000_5).assigns(lane(1, *range(10)))
    story.ready(1)
    story.passes(0.006)
    story.done(1, count=10, seconds=0.000_5)
    assert story.given(1, None) == []


def test_a_recall_brings_back_what_has_not_begun(story: Story) -> None:
    story.welcomed().assigns(lane(1, "a", "b", "c"))
    story.ready(1)
    story.recalls("a", "b", "nobody")
    assert story.sent(Nack) == [Nack([token("b")], "recalled")]
    story.done(1)
    assert story.fed() == {1: [token("c")]}


def test_a_recall_reaches_into_the_child(story: Story) -> None:
    story.welcomed().learns(0.000_5).assigns(lane(1, *range(10)))
    story.ready(1)
    story.recalls(3, 4)
    assert story.told(GiveBack) == [(1, GiveBack())]
    story.given(1, 0, *range(1, 10))
    assert story.sent(Nack) == [Nack([token(3), token(4)], "recalled")]


def test_what_is_handed_back_while_the_broker_is_away_is_not_forgotten(story: Story) -> None:
    story.welcomed().learns(0.000_5).assigns(lane(1, *range(10)))
    story.ready(1)
    story.recalls(3)
    story.happens(Lost("it ended"))
    story.happens(Connected())
    story.given(1, 0, *range(1, 10))
    adopted = [token(n) for n in range(10)]
    story.says(Welcome(2, 2.0, 10.0, 0.0, adopted))
    assert story.outcomes() == {token(3): "handed_back"}


def test_a_recall_of_what_began_meanwhile_is_void(story: Story) -> None:
    story.welcomed().learns(0.000_5).assigns(lane(1, "a", "b"))
    story.ready(1)
    story.recalls("b")
    story.done(1)
    story.given(1, "b")
    assert story.sent(Nack) == []
    story.done(1)
    assert not story.core.lanes


# --- cancel ------------------------------------------------------------------------------------


def test_cancelling_what_has_not_begun_ends_it(story: Story) -> None:
    story.welcomed().assigns(lane(1, "a", "b"))
    story.ready(1)
    story.cancels("b")
    assert story.outcomes() == {token("b"): "cancelled"}
    assert story.told(Ask) == []


def test_cancelling_what_runs_asks_then_kills(story: Story) -> None:
    story.welcomed(lease=100.0).assigns(lane(1, "a"))
    story.ready(1)
    story.cancels("a", grace=5.0)
    assert story.told(Ask) == [(1, Ask(token("a"), Want.CANCEL))]
    story.passes(4.9)
    assert story.of(Kill) == []
    story.passes(0.2)
    assert story.of(Kill) == [Kill(1)]
    story.dies(1, begun=1, how="SIGKILL")
    assert story.outcomes() == {token("a"): "cancelled"}
    assert story.of(Bury) == [Bury(1, "task a", 1)]


def test_an_attempt_that_heeds_its_cancel_leaves_the_child_warm(story: Story) -> None:
    story.welcomed(lease=100.0).assigns(lane(1, "a", "b"))
    story.ready(1)
    story.cancels("a")
    story.done(1)
    assert story.fed() == {1: [token("b")]}
    story.passes(20.0)
    assert story.of(Kill) == []


def test_cancelling_in_a_chunk_finds_out_first_what_runs(story: Story) -> None:
    story.welcomed().learns(0.000_5).assigns(lane(1, *range(10)))
    story.ready(1)
    story.cancels(0, 5)
    assert story.told(Ask) == []
    assert story.told(GiveBack) == [(1, GiveBack())]
    story.given(1, 0, *range(1, 10))
    assert story.outcomes() == {token(5): "cancelled"}
    assert story.told(Ask) == [(1, Ask(token(0), Want.CANCEL))]


def test_cancelling_the_unknown_changes_nothing(story: Story) -> None:
    story.welcomed()
    assert story.cancels("nobody") == []
    assert story.recalls("nobody") == []


# --- limits -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "soft"), [(10.0, 9.0), (600.0, 570.0)])
def test_the_run_limit_warns_and_then_kills(story: Story, limit: float, soft: float) -> None:
    story.welcomed(lease=10_000.0).assigns(lane(1, "a", "b", run_limit=limit))
    story.passes(3.0)  # the start of the child does not count
    story.ready(1)
    story.passes(soft - 0.1)
    assert story.told(Ask) == []
    story.passes(0.2)
    assert story.told(Ask) == [(1, Ask(token("a"), Want.SOFT))]
    story.passes(limit - soft - 0.2)
    assert story.of(Kill) == []
    story.passes(0.2)
    assert story.of(Kill) == [Kill(1)]
    story.dies(1, begun=1, how="SIGKILL")
    assert story.outcomes() == {token("a"): "time_limit"}
    assert story.spawned() == [Spawn(2, "echo", (), 1)]  # a fresh one for what waits
    story.ready(2)
    assert story.fed() == {2: [token("b")]}


def test_a_result_that_crosses_the_kill_counts(story: Story) -> None:
    story.welcomed(lease=100.0).assigns(lane(1, "a", run_limit=1.0))
    story.ready(1)
    story.passes(1.1)
    assert story.of(Kill) == [Kill(1)]
    story.done(1, seconds=1.05)
    assert len(story.sent(Finished)) == 1
    story.dies(1, begun=1, how="SIGKILL")
    assert story.outcomes() == {}


def test_a_kill_that_hits_the_next_attempt_is_not_its_fault(story: Story) -> None:
    story.welcomed(lease=100.0).learns(0.000_5).assigns(lane(1, "a", "b", run_limit=1.0))
    story.ready(1)
    story.passes(1.1)  # the child does not even say what runs
    assert story.of(Kill) == [Kill(1)]
    story.done(1, seconds=1.05)
    story.dies(1, begun=2, how="SIGKILL")
    assert story.outcomes() == {token("b"): "handed_back"}


def test_too_much_memory_kills(story: Story) -> None:
    story.welcomed().assigns(lane(1, "a", memory_gb=2.0))
    assert story.of(Confine) == [Confine(1, (), 2.0)]
    story.ready(1)
    assert story.told(Work)[0][1].measure
    story.happens(MemoryExceeded(1, 2.5))
    assert story.of(Kill) == [Kill(1)]
    story.dies(1, begun=1, how="SIGKILL")
    (finished,) = story.sent(Finished)
    assert finished.items[0].outcome == "out_of_memory"
    assert finished.items[0].failure == Failure(
        "out_of_memory", "it used 2.50 GiB; its limit is 2 GiB"
    )


def test_memory_of_an_idle_child_is_nobodys_fault(story: Story) -> None:
    story.welcomed().assigns(lane(1, "a", memory_gb=2.0))
    story.ready(1)
    story.done(1)
    assert story.of(Confine) == [Confine(1, (), 0.0)]
    assert story.happens(MemoryExceeded(1, 2.5)) == []
    assert story.happens(MemoryExceeded(9, 2.5)) == []


# --- children that die --------------------------------------------------------------------------


def test_a_dead_child_fails_what_ran_and_what_waits_goes_on(story: Story) -> None:
    story.welcomed().assigns(lane(1, "a", "b"))
    story.ready(1)
    story.dies(1, begun=1)
    (finished,) = story.sent(Finished)
    assert finished.items[0].outcome == "killed"
    assert finished.items[0].failure == Failure("killed", "its process ended: SIGSEGV")
    assert story.spawned() == [Spawn(2, "echo", (), 1)]


def test_only_the_attempt_that_ran_is_blamed(story: Story) -> None:
    """Results that died with the child are no fault of their attempts; what had not begun waits."""
    story.welcomed().learns(0.000_5).assigns(lane(1, *range(10)))
    story.ready(1)
    story.done(1, count=2, seconds=0.000_5)
    story.dies(1, begun=5)
    assert story.outcomes() == {
        token(2): "handed_back",
        token(3): "handed_back",
        token(4): "killed",
    }
    story.ready(2)
    assert story.fed()[2] == [token(n) for n in range(5, 10)]


def test_a_child_that_dies_between_attempts_fails_nobody(story: Story) -> None:
    story.welcomed().learns(0.000_5).assigns(lane(1, *range(10)))
    story.ready(1)
    story.done(1, count=3, seconds=0.000_5)
    story.dies(1, begun=3)
    assert story.sent(Finished) == []
    assert len(story.core.lanes[1].queue) == 7


def test_a_child_that_cannot_start_fails_whose_turn_it_is(story: Story) -> None:
    story.welcomed().assigns(lane(1, "a", "b"))
    story.dies(1, begun=0, how="out of processes")
    (finished,) = story.sent(Finished)
    assert finished.items[0].failure == Failure(
        "killed", "its process could not start: out of processes"
    )
    assert story.spawned() == [Spawn(2, "echo", (), 1)]


def test_a_child_that_never_gets_ready_is_killed(story: Story) -> None:
    story.welcomed(lease=1000.0).assigns(lane(1, "a"))
    story.passes(59.0)
    assert story.of(Kill) == []
    story.passes(2.0)
    assert story.of(Kill) == [Kill(1)]
    story.dies(1, begun=0, how="SIGKILL")
    assert story.outcomes() == {token("a"): "killed"}


# --- results --------------------------------------------------------------------------------------


def test_results_are_kept_until_they_are_acknowledged(story: Story) -> None:
    story.welcomed().assigns(lane(1, "a"))
    story.ready(1)
    story.done(1)
    assert [finished.seq for finished in story.sent(Finished)] == [1]
    story.happens(Lost("it ended"))
    (kept,) = story.of(Keep)
    assert [batch.seq for batch in kept.batches] == [1]
    assert story.happens(Connected()) == [Greet([token("a")])]
    story.says(Welcome(2, 2.0, 10.0, 0.0, [token("a")]))
    assert [finished.seq for finished in story.sent(Finished)] == [1]
    assert story.acks(1) == [Forget([1])]
    assert story.acks(1) == []


def test_results_that_nobody_adopts_are_sent_too_so_that_what_they_held_is_freed(
    story: Story,
) -> None:
    story.welcomed().assigns(lane(1, "a"))
    story.ready(1)
    story.done(1)
    story.happens(Lost("it ended"))
    story.happens(Connected())
    story.says(Welcome(2, 2.0, 10.0, 0.0, []))
    assert [finished.seq for finished in story.sent(Finished)] == [1]


def test_results_of_long_work_go_to_the_disk_before_they_are_sent(story: Story) -> None:
    story.welcomed(lease=100.0).assigns(lane(1, "a", "b"))
    story.ready(1)
    story.done(1, seconds=1.9)
    assert story.of(Keep) == []
    story.done(1, seconds=2.0)
    kinds = [type(one) for one in story.out]
    assert kinds.index(Keep) < kinds.index(Send)


def test_while_the_broker_is_away_every_result_goes_to_the_disk(story: Story) -> None:
    story.welcomed().assigns(lane(1, "a", "b"))
    story.ready(1)
    story.happens(Lost("it ended"))
    story.done(1)
    assert len(story.of(Keep)) == 1
    assert story.sent(Finished) == []
    assert story.fed() == {1: [token("b")]}  # work goes on


def test_what_an_earlier_agent_left_on_disk_is_announced_and_delivered() -> None:
    left = Batch(41, [token("x"), token("y")], [Ended(token("x"), "ok")], on_disk=True)
    story = Story(spooled=[left])
    assert story.happens(Connected()) == [Greet([token("x"), token("y")])]
    story.says(Welcome(2, 2.0, 10.0, 0.0, [token("x")]))
    assert [finished.seq for finished in story.sent(Finished)] == [41]
    story.assigns(lane(1, "a"))
    story.ready(1)
    story.done(1)
    assert [finished.seq for finished in story.sent(Finished)] == [42]
    assert story.acks(41, 42) == [Forget([41])]


# --- progress, checkpoints, logs ------------------------------------------------------------------


def test_progress_is_passed_on_while_it_is_of_interest(story: Story) -> None:
    story.welcomed().assigns(lane(1, "a"))
    story.ready(1)
    told = Told(token("a"), 0.5, {"loss": 0.1})
    story.child_says(1, told)
    assert story.sent(Progress) == [Progress([Progressed(token("a"), 0.5, {"loss": 0.1})])]
    story.done(1)
    assert story.child_says(1, told) == []  # it came too late


def test_the_latest_checkpoint_is_sent_about_once_a_second(story: Story) -> None:
    story.welcomed(lease=100.0).assigns(lane(1, "a"))
    story.ready(1)
    story.passes(1.0)
    story.child_says(1, Saved(token("a"), b"one"))
    assert story.sent(Checkpoint) == [Checkpoint(token("a"), b"one")]
    for state in (b"two", b"three"):
        story.child_says(1, Saved(token("a"), state))
        assert story.sent(Checkpoint) == []
    story.passes(1.1)
    assert story.sent(Checkpoint) == [Checkpoint(token("a"), b"three")]


def test_the_last_checkpoint_arrives_before_the_end_of_its_attempt(story: Story) -> None:
    story.welcomed().assigns(lane(1, "a"))
    story.ready(1)
    story.child_says(1, Saved(token("a"), b"last"))
    story.done(1)
    kinds = [type(one.message) for one in story.of(Send)]
    assert kinds == [Checkpoint, Finished]
    story.acks(1)
    story.happens(Lost("it ended"))
    story.happens(Connected())
    story.says(Welcome(2, 2.0, 10.0, 0.0, []))
    assert story.sent(Checkpoint) == []


def test_a_checkpoint_outlives_the_broker(story: Story) -> None:
    story.welcomed().assigns(lane(1, "a"))
    story.ready(1)
    story.passes(1.0)
    story.child_says(1, Saved(token("a"), b"sent"))
    story.happens(Lost("it ended"))
    story.happens(Connected())
    story.says(Welcome(2, 2.0, 10.0, 0.0, [token("a")]))
    assert story.sent(Checkpoint) == [Checkpoint(token("a"), b"sent")]


def test_the_log_of_what_runs_is_in_its_childs_hands(story: Story) -> None:
    story.welcomed().assigns(lane(1, "a"))
    story.ready(1)
    fetch = FetchLog(1, "task a", 1, 0, 100)
    assert story.says(fetch) == [ReadLog(fetch, 1)]
    story.done(1)
    assert story.says(fetch) == [ReadLog(fetch, None)]


# --- leaving --------------------------------------------------------------------------------------


def test_a_stop_hands_back_what_waits_and_asks_what_runs_for_a_checkpoint(story: Story) -> None:
    story.welcomed(lease=100.0).assigns(lane(1, "a", "b"), lane(2, "c"))
    story.ready(1)
    story.happens(STOP)
    assert story.sent(DrainWorker) == [DrainWorker(True, "the worker got SIGTERM")]
    assert {token for nack in story.sent(Nack) for token in nack.tokens} == {
        token("b"),
        token("c"),
    }
    assert story.told(Ask) == [(1, Ask(token("a"), Want.HAND_BACK))]
    story.assigns(lane(3, "d"))
    assert story.sent(Nack) == [Nack([token("d")], "the worker got SIGTERM")]
    story.child_says(1, Saved(token("a"), b"state"))
    story.done(1)
    assert [type(one.message) for one in story.of(Send)] == [Checkpoint, Finished]
    assert story.of(Exit) == []  # not before the result is safe
    story.acks(1)
    assert story.out[-2:] == [Depart(), Exit(0)]


def test_a_stop_kills_what_does_not_heed_it(story: Story) -> None:
    story.welcomed(lease=1000.0).assigns(lane(1, "a"))
    story.ready(1)
    story.happens(STOP)
    story.passes(29.9)
    assert story.of(Kill) == []
    story.passes(0.2)
    assert story.of(Kill) == [Kill(1)]
    story.dies(1, begun=1, how="SIGKILL")
    assert story.outcomes() == {token("a"): "handed_back"}
    story.acks(1)
    assert story.of(Exit) == [Exit(0)]


def test_a_stop_in_a_chunk_asks_what_runs_then_hands_back(story: Story) -> None:
    story.welcomed().learns(0.000_5).assigns(lane(1, *range(10)))
    story.ready(1)
    story.happens(STOP)
    assert story.told(GiveBack) == [(1, GiveBack())]
    story.given(1, 0, *range(1, 10))
    assert story.sent(Nack) == [Nack([token(n) for n in range(1, 10)], "the worker got SIGTERM")]
    assert story.told(Ask) == [(1, Ask(token(0), Want.HAND_BACK))]


def test_a_cancel_overrules_the_wish_for_a_checkpoint(story: Story) -> None:
    story.welcomed(lease=100.0).assigns(lane(1, "a"))
    story.ready(1)
    story.happens(STOP)
    story.cancels("a", grace=1.0)
    assert story.told(Ask) == [(1, Ask(token("a"), Want.CANCEL))]
    story.passes(1.1)
    story.dies(1, begun=1, how="SIGKILL")
    assert story.outcomes() == {token("a"): "cancelled"}


def test_an_idle_worker_leaves_at_once(story: Story) -> None:
    story.welcomed()
    story.happens(STOP)
    assert story.out[-2:] == [Depart(), Exit(0)]


def test_a_second_stop_ends_everything_now(story: Story) -> None:
    story.welcomed().assigns(lane(1, "a"))
    story.ready(1)
    story.happens(STOP)
    story.happens(STOP)
    assert [type(one) for one in story.out] == [Say, Kill, Depart, Exit]
    assert story.happens(STOP) == []


def test_without_a_broker_the_results_stay_on_disk(story: Story) -> None:
    story.welcomed().assigns(lane(1, "a"))
    story.ready(1)
    story.happens(Lost("it ended"))
    story.happens(STOP)
    story.done(1)
    assert len(story.of(Keep)) == 1
    assert story.of(Exit) == [Exit(0)]


def test_acknowledgements_are_not_waited_for_for_ever(story: Story) -> None:
    story.welcomed(lease=1000.0).assigns(lane(1, "a"))
    story.ready(1)
    story.happens(STOP)
    story.done(1)
    story.passes(39.9)
    assert story.of(Exit) == []
    story.passes(0.2)
    assert [type(one) for one in story.out[-3:]] == [Kill, Depart, Exit]
    assert story.of(Keep)


def test_the_brokers_drain_is_told_to_the_log(story: Story) -> None:
    story.welcomed()
    story.says(DrainWorker(True, "update"))
    story.says(DrainWorker(False))
    assert [say.text for say in story.of(Say)] == ["the broker lets this worker work again"]


def test_what_only_workers_say_means_nothing_to_a_worker(story: Story) -> None:
    story.welcomed()
    assert story.says(Nack([token("a")])) == []
    assert item("a").token == token("a")
