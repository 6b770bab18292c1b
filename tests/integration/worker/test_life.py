"""How a worker begins, drains and dies: signals, kill -9, what it leaves behind, bad options."""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path

import msgspec
import psutil
import pytest

from corral.messages import Checkpoint, DrainWorker, Nack
from corral.wire import Parted
from tests.integration.worker.conftest import Starter, Worker, alive, eventually, value
from tests.integration.worker.test_bounds import pids_of_spawn
from tests.support.scripted_broker import ScriptedBroker, item, token_of

# --- leaving --------------------------------------------------------------------------------


def test_sigterm_hands_back_after_a_checkpoint_and_leaves(
    worker: Worker, broker: ScriptedBroker
) -> None:
    broker.assign("slow_checkpoint", item(1, {"to": 1_000, "seconds": 0.05}), item(2, {"to": 1}))
    broker.started(1)
    worker.process.terminate()
    assert broker.wait_for(DrainWorker).draining
    assert broker.wait_for(Nack).tokens == [token_of(2)]
    saved = broker.wait_for(Checkpoint)
    assert msgspec.msgpack.decode(saved.data)["reached"] > 0
    assert broker.ended(1)[0].outcome == "handed_back"
    assert worker.wait(broker) == 0
    broker.wait_for(Parted)
    assert "SIGTERM" in worker.log


def test_a_handler_that_saves_and_returns_when_warned_is_handed_back_too(
    worker: Worker, broker: ScriptedBroker
) -> None:
    """A drain must not pass off half of the work as a result."""
    broker.assign("slow_checkpoint", item(1, {"to": 1_000, "seconds": 0.05, "polite": False}))
    broker.started(1)
    worker.process.terminate()
    assert broker.ended(1)[0].outcome == "handed_back"
    assert worker.wait(broker) == 0


def test_a_worker_that_leaves_takes_nothing_new(worker: Worker, broker: ScriptedBroker) -> None:
    broker.assign("stubborn", item(1, {"seconds": 1.5}))
    broker.started(1)
    worker.process.terminate()
    broker.wait_for(DrainWorker)
    broker.assign("echo", item(2))
    assert broker.wait_for(Nack).tokens == [token_of(2)]
    broker.ended(1)
    assert worker.wait(broker) == 0


def test_work_that_ends_within_the_grace_is_delivered(
    worker: Worker, broker: ScriptedBroker
) -> None:
    broker.assign("stubborn", item(1, {"seconds": 1.5}))
    broker.started(1)
    worker.process.terminate()
    assert value(broker.ended(1)[0]) == 1.5
    assert worker.wait(broker) == 0


def test_after_the_grace_attempts_are_killed_and_handed_back(
    start: Starter, broker: ScriptedBroker, tmp_path: Path
) -> None:
    worker = start("--grace", "1s")
    broker.welcome()
    broker.assign("spawn", item(1, {"folder": str(tmp_path)}))
    pids = pids_of_spawn(tmp_path, "t1")
    worker.process.terminate()
    assert broker.ended(1)[0].outcome == "handed_back"
    assert worker.wait(broker) == 0
    assert not any(map(alive, pids))


def test_a_second_signal_ends_it_at_once(worker: Worker, broker: ScriptedBroker) -> None:
    broker.assign("stubborn", item(1, {"seconds": 60}))
    broker.started(1)
    worker.process.terminate()
    broker.wait_for(DrainWorker)
    began = time.monotonic()
    worker.process.send_signal(signal.SIGINT)
    assert worker.wait(broker) == 1
    assert time.monotonic() - began < 3.0
    assert not worker.descendants()


def test_an_idle_worker_leaves_quickly_with_or_without_a_broker(
    start: Starter, broker: ScriptedBroker
) -> None:
    first = start()
    broker.welcome()
    began = time.monotonic()
    first.process.terminate()
    assert first.wait(broker) == 0
    second = start(to="tcp://127.0.0.1:1", data="w2")
    eventually(lambda: "worker w1" in second.log, "it does not start")
    second.process.send_signal(signal.SIGINT)
    assert second.wait(broker) == 0
    assert time.monotonic() - began < 8.0


# --- dying ----------------------------------------------------------------------------------


def test_kill_9_of_the_agent_leaves_nothing_running(
    worker: Worker, broker: ScriptedBroker, tmp_path: Path
) -> None:
    broker.assign("spawn", item(1, {"folder": str(tmp_path)}))
    broker.assign("stubborn", item(2, {"seconds": 60}))
    pids = pids_of_spawn(tmp_path, "t1")
    broker.started(2)
    pids += [child.pid for child in worker.children()]
    worker.process.kill()
    eventually(lambda: not any(map(alive, pids)), f"{pids} live on", 5.0)
    eventually(lambda: not worker.descendants(), "something lives on", 5.0)


def test_a_child_whose_handler_never_looks_dies_with_the_agent(
    worker: Worker, broker: ScriptedBroker
) -> None:
    """Even one that spins without giving any thread of its process a turn."""
    broker.assign("hold_gil", item(1, {"seconds": 60}))
    broker.started(1)
    (child,) = worker.children()
    worker.process.kill()
    eventually(lambda: not alive(child.pid), "the child lives on", 5.0)


def test_the_guard_is_replaced_when_it_dies(worker: Worker, broker: ScriptedBroker) -> None:
    agent = psutil.Process(worker.process.pid)
    (guard,) = [child for child in agent.children() if "worker.guard" in child.cmdline()]
    guard.kill()
    eventually(lambda: "starting another" in worker.log, "nobody noticed")
    broker.assign("stubborn", item(1, {"seconds": 60}))
    broker.started(1)
    (child,) = worker.children()
    worker.process.kill()
    eventually(lambda: not alive(child.pid), "the child lives on", 5.0)


def test_results_of_a_killed_agent_are_delivered_by_the_next(
    start: Starter, broker: ScriptedBroker
) -> None:
    first = start()
    old = broker.welcome()
    broker.acking = False
    broker.assign("sleep", item(1, {"seconds": 2.2}), item(2, {"seconds": 60}))
    assert value(broker.ended(1)[0]) >= 2.2
    first.process.kill()
    first.process.wait()
    broker.heard.clear()
    broker.acking = True
    start()
    new = broker.welcome()
    assert new.incarnation != old.incarnation
    assert new.inflight == [token_of(1)]  # what ran died with the agent
    assert value(broker.ended(1)[0]) >= 2.2
    broker.listen(0.2)
    assert list((first.folder / "spool" / "w1").iterdir()) == []


def test_a_stopped_agent_that_wakes_up_announces_itself_again(
    worker: Worker, broker: ScriptedBroker
) -> None:
    broker.assign("sleep", item(1, {"seconds": 5.0}))
    broker.started(1)
    first = broker.peer
    worker.process.send_signal(signal.SIGSTOP)
    broker.beating = False
    broker.listen(2.5)
    worker.process.send_signal(signal.SIGCONT)
    document = broker.welcome()
    broker.beating = True
    assert broker.peer != first
    assert document.inflight == [token_of(1)]
    assert broker.ended(1)[0].outcome == "ok"


def test_what_an_earlier_agent_left_running_ends_before_the_next_begins(
    start: Starter, broker: ScriptedBroker
) -> None:
    """Agent and guard are killed together, and the handler keeps its other thread from running."""
    first = start()
    broker.welcome()
    broker.assign("hold_gil", item(1, {"seconds": 60}))
    broker.started(1)
    (child,) = first.children()
    agent = psutil.Process(first.process.pid)
    guard = next(one for one in agent.children() if "worker.guard" in one.cmdline())
    guard.suspend()
    first.process.kill()
    guard.kill()
    first.process.wait()
    assert alive(child.pid)
    start()
    broker.welcome()
    assert not alive(child.pid)


# --- beginning ------------------------------------------------------------------------------


def test_two_agents_do_not_share_a_folder(start: Starter, broker: ScriptedBroker) -> None:
    start()
    broker.welcome()
    second = start()
    assert second.wait(broker) == 2
    assert "give each worker its own --data" in second.log


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--kinds", "mill"], 2, "no handler is installed for mill; there are"),
        (["--slots", "0"], 2, "slots"),
        (["--memory", "much"], 2, "memory"),
        (["--gpu", "GPU-1"], 2, "NAME=VALUE"),
        (["--name", "two words"], 2, "'two words' cannot name a worker"),
        (["--broker", "localhost"], 2, "tcp://HOST:PORT"),
        (["--key", "/nowhere/w1.key"], 2, "/nowhere/w1.key"),
        (["--data", "/proc/w1"], 2, "/proc/w1 cannot be written"),
    ],
)
def test_bad_options_say_what_is_wrong(
    start: Starter, broker: ScriptedBroker, options: list[str], status: int, words: str
) -> None:
    worker = start(*options)
    assert worker.wait(broker) == status
    assert words in worker.log


def drain(channel: socket.socket) -> list[bytes]:
    """What waits in a datagram socket."""
    found = []
    channel.settimeout(0.01)
    with suppress(TimeoutError):
        while True:
            found.append(channel.recv(1024))
    return found


def test_systemd_hears_of_it(start: Starter, broker: ScriptedBroker, tmp_path: Path) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(address))
        systemd.settimeout(5)
        worker = start(NOTIFY_SOCKET=str(address), WATCHDOG_USEC="400000")
        assert systemd.recv(1024) == b"READY=1"
        broker.welcome()
        broker.assign("surroundings", item(1))
        assert "NOTIFY_SOCKET" not in value(broker.ended(1)[0])["environment"]
        heard = [systemd.recv(1024) for _ in range(10)]
        assert heard.count(b"WATCHDOG=1") >= 5
        assert any(b"STATUS=welcomed" in words for words in heard)
        os.kill(worker.process.pid, signal.SIGSTOP)
        time.sleep(0.1)
        drain(systemd)
        time.sleep(0.6)
        assert drain(systemd) == []  # a loop that stands still feeds no watchdog
        os.kill(worker.process.pid, signal.SIGCONT)
        worker.process.terminate()
        systemd.settimeout(5)
        while not (words := systemd.recv(1024)).startswith(b"STOPPING=1"):
            pass
        assert b"EXTEND_TIMEOUT_USEC=" in words
        assert worker.wait(broker) == 0


def test_a_hard_end_of_the_broker_is_no_end_of_the_worker(
    worker: Worker, broker: ScriptedBroker
) -> None:
    """Nonsense from the broker leads to a new connection, nothing else."""
    broker.send([b"MDPW02", b"\x48", b"\xc1 nonsense"])
    broker.welcome()
    broker.send([b"MDPW02", b"\x02", b"address", b"", b"a plain request"])
    broker.welcome()
    broker.assign("echo", item(1))
    broker.ended(1)
    assert "does not speak Corral's commands" in worker.log
