"""Limits of time and memory, cancelling, and that nothing an attempt started outlives it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from corral.messages import Ended, Nack
from tests.integration.worker.conftest import Starter, Worker, alive, eventually, value
from tests.support.scripted_broker import ScriptedBroker, item, token_of


def pids_of_spawn(folder: Path, id: str) -> list[int]:
    """The processes that a `spawn` started, once it has written down all three."""
    files = [folder / f"{id}.{what}.pid" for what in ("plain", "apart", "orphan")]
    eventually(lambda: all(file.exists() and file.read_text() for file in files), "not spawned")
    return [int(file.read_text()) for file in files]


def message_of(ended: Ended) -> str:
    assert ended.failure is not None
    return ended.failure.message


# --- time -----------------------------------------------------------------------------------


def test_the_run_limit_warns_and_then_kills(worker: Worker, broker: ScriptedBroker) -> None:
    broker.assign(
        "slow_checkpoint", item(1, {"to": 1_000, "seconds": 0.05, "polite": False}), run_limit=1.5
    )
    assert value(broker.ended(1)[0])["warned"]  # at nine tenths: it stopped in time
    began = time.monotonic()
    broker.assign("stubborn", item(2, {"seconds": 60}), run_limit=1.0)
    (ended,) = broker.ended(2)
    assert ended.outcome == "time_limit"
    assert "1 s" in message_of(ended)
    assert 1.0 <= ended.seconds < 2.0
    assert time.monotonic() - began < 3.0


def test_time_before_the_start_does_not_count(worker: Worker, broker: ScriptedBroker) -> None:
    broker.assign("sleep", *(item(number, {"seconds": 0.6}) for number in (1, 2, 3)), run_limit=1.0)
    assert [ended.outcome for ended in broker.ended(1, 2, 3)] == ["ok"] * 3


def test_everything_that_an_attempt_started_dies_with_it(
    worker: Worker, broker: ScriptedBroker, tmp_path: Path
) -> None:
    """A plain child, one in a session of its own, and an orphan that init has adopted."""
    broker.assign("spawn", item(1, {"folder": str(tmp_path)}), run_limit=2.0)
    pids = pids_of_spawn(tmp_path, "t1")
    assert all(map(alive, pids))
    assert broker.ended(1)[0].outcome == "time_limit"
    assert not any(map(alive, pids))


def test_a_crash_takes_the_descendants_along(
    worker: Worker, broker: ScriptedBroker, tmp_path: Path
) -> None:
    broker.assign("spawn", item(1, {"folder": str(tmp_path)}))
    pids = pids_of_spawn(tmp_path, "t1")
    worker.children()[0].kill()
    assert broker.ended(1)[0].outcome == "killed"
    assert not any(map(alive, pids))


# --- memory ---------------------------------------------------------------------------------


def test_an_attempt_within_its_memory_is_left_alone(worker: Worker, broker: ScriptedBroker) -> None:
    broker.assign("hog", item(1, {"gb": 0.1, "seconds": 0.5}), memory_gb=0.5)
    (ended,) = broker.ended(1)
    assert ended.outcome == "ok"
    assert 0.1 < ended.peak_gb < 0.3


@pytest.mark.parametrize("in_child", [False, True])
def test_too_much_memory_kills_whoever_holds_it(
    worker: Worker, broker: ScriptedBroker, in_child: bool
) -> None:
    broker.assign("hog", item(1, {"gb": 1.0, "seconds": 60, "in_child": in_child}), memory_gb=0.3)
    (ended,) = broker.ended(1)
    assert ended.outcome == "out_of_memory"
    assert "its limit is 0.3 GiB" in message_of(ended)
    broker.assign("hog", item(2, {"gb": 0.05, "seconds": 0.0}), memory_gb=0.3)
    assert broker.ended(2)[0].outcome == "ok"


def test_pages_that_processes_share_count_once(worker: Worker, broker: ScriptedBroker) -> None:
    """Three forks of a process that holds 0.15 GiB hold 0.15 GiB together, not 0.6."""
    broker.assign("share", item(1, {"gb": 0.15, "forks": 3, "seconds": 1.0}), memory_gb=0.4)
    assert broker.ended(1)[0].outcome == "ok"


def test_without_a_limit_nobody_counts(worker: Worker, broker: ScriptedBroker) -> None:
    broker.assign("hog", item(1, {"gb": 0.4, "seconds": 0.5}))
    assert broker.ended(1)[0].outcome == "ok"


# --- cancelling -----------------------------------------------------------------------------


def test_an_attempt_that_looks_stops_and_its_child_stays_warm(
    worker: Worker, broker: ScriptedBroker
) -> None:
    broker.assign("sleep", item(1, {"seconds": 60}), item(2, {"seconds": 0}))
    broker.started(1)
    (child,) = worker.children()
    broker.cancel(1)
    assert broker.ended(1)[0].outcome == "cancelled"
    assert broker.ended(2)[0].outcome == "ok"
    assert [one.pid for one in worker.children()] == [child.pid]


def test_an_attempt_that_does_not_look_is_killed_after_the_grace(
    worker: Worker, broker: ScriptedBroker
) -> None:
    broker.assign("stubborn", item(1, {"seconds": 60}), item(2, {"seconds": 0}))
    broker.started(1)
    began = time.monotonic()
    broker.cancel(1, grace=1.0)
    (ended,) = broker.ended(1)
    assert ended.outcome == "cancelled"
    assert 1.0 <= time.monotonic() - began < 3.0
    assert broker.ended(2)[0].outcome == "ok"


def test_what_has_not_begun_never_begins_when_it_is_cancelled(
    worker: Worker, broker: ScriptedBroker, tmp_path: Path
) -> None:
    broker.assign(
        "mark",
        item(1, {"folder": str(tmp_path), "seconds": 1.0}),
        *(item(number, {"folder": str(tmp_path)}) for number in (2, 3)),
    )
    broker.started(1)
    broker.cancel(2)
    assert broker.ended(2)[0].outcome == "cancelled"
    broker.ended(1, 3)
    assert sorted(path.name.partition(".")[0] for path in tmp_path.glob("*.json")) == ["t1", "t3"]


def test_a_wish_never_reaches_another_attempt(worker: Worker, broker: ScriptedBroker) -> None:
    """Cancel each attempt at about the moment when it ends: the next one must not be hit."""
    numbers = range(1, 41)
    broker.assign("sleep", *(item(number, {"seconds": 0.02}) for number in numbers))
    for number in range(1, 41, 2):
        broker.started(number)
        broker.cancel(number)
    outcomes = [ended.outcome for ended in broker.ended(*numbers)]
    assert set(outcomes[1::2]) == {"ok"}
    assert set(outcomes[::2]) <= {"ok", "cancelled"}


# --- recall, refusal ------------------------------------------------------------------------


def test_a_recall_gives_back_what_has_not_begun(worker: Worker, broker: ScriptedBroker) -> None:
    broker.assign("sleep", item(1, {"seconds": 1.0}), item(2, {"seconds": 0.0}))
    broker.started(1)
    broker.recall(1, 2)
    assert broker.wait_for(Nack).tokens == [token_of(2)]
    assert broker.ended(1)[0].outcome == "ok"


def test_what_is_not_here_is_refused(worker: Worker, broker: ScriptedBroker) -> None:
    broker.assign("mill", item(1))
    assert "mill" in broker.wait_for(Nack).reason
    broker.assign("echo", item(2), gpus=["GPU-9"])
    assert "GPU-9" in broker.wait_for(Nack).reason


# --- GPUs -----------------------------------------------------------------------------------


def test_a_gpu_is_never_in_two_processes(
    worker: Worker, broker: ScriptedBroker, tmp_path: Path
) -> None:
    """The next holder begins only when the killed one is dead, whatever its kind."""
    folder = {"folder": str(tmp_path)}
    broker.assign("gpu_lock", item(1, folder | {"seconds": 60}), gpus=["GPU-1"])
    broker.started(1)
    broker.cancel(1, grace=0.0)
    broker.assign("gpu_lock", item(2, folder), gpus=["GPU-1"])
    broker.assign("surroundings", item(3), gpus=["GPU-1"])
    assert broker.ended(1)[0].outcome == "cancelled"
    assert value(broker.ended(2)[0]) == ["GPU-1"]
    assert value(broker.ended(3)[0])["gpus"] == ["GPU-1"]
    assert list(tmp_path.glob("*.clash")) == []


def test_the_lock_of_a_gpu_catches_a_second_holder(start: Starter, tmp_path: Path) -> None:
    """The test's own guard works: two workers, one card, given to both."""
    import zmq

    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    brokers = [ScriptedBroker(context) for _ in range(2)]
    try:
        for number, one in enumerate(brokers, 1):
            start("--gpu", "GPU-1=8GB", to=one.endpoint, data=f"w{number}")
            one.welcome()
        params = {"folder": str(tmp_path), "seconds": 3.0}
        brokers[0].assign("gpu_lock", item(1, params), gpus=["GPU-1"])
        brokers[0].started(1)
        brokers[1].assign("gpu_lock", item(2, params), gpus=["GPU-1"])
        assert brokers[1].ended(2)[0].outcome == "killed"
        assert (tmp_path / "GPU-1.clash").read_text() == "t2 attempt 1 met t1 attempt 1"
    finally:
        for one in brokers:
            one.close()
        context.destroy(0)
