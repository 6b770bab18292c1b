"""`corral up`, `worker start|stop|drain|resume`, `broker start|status|fsck|backup`: real processes.

Everything is started by the command line, and must be gone when it says so.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from corral.messages import BackupView, BrokerView, WorkerView
from tests.integration.cli.conftest import BIN, Cli, Fleet, Started, free_endpoint

Keep = Callable[[Started], Started]


def below(process: int) -> list[psutil.Process]:
    """A process and all that it started."""
    root = psutil.Process(process)
    return [root, *root.children(recursive=True)]


def all_gone(processes: list[psutil.Process]) -> bool:
    deadline = time.monotonic() + 30
    while alive := [one for one in processes if one.is_running() and one.status() != "zombie"]:
        if time.monotonic() > deadline:
            raise AssertionError(f"still there: {[one.cmdline() for one in alive]}")
        time.sleep(0.05)
    return True


def go_up(
    cli: Cli, started: Keep, *options: str, gateway: str = "--no-gateway", **variables: str
) -> Started:
    up = started(cli.start("up", "--bind", "tcp://127.0.0.1:*", gateway, *options, **variables))
    up.until(lambda: "corral task submit" in up.err)
    return up


def endpoint_of(up: Started) -> str:
    found = re.search(r"a broker at (\S+),", up.err)
    assert found is not None
    return found[1]


def heard(systemd: socket.socket) -> list[bytes]:
    """What has been told to systemd and not been read."""
    words = []
    systemd.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            words.append(systemd.recv(1024))
    return words


# --- up ---------------------------------------------------------------------------------


def test_an_option_that_is_empty_is_none(alone: Cli, started: Keep) -> None:
    (alone.folder / "corral.yaml").write_text("worker: {data: mine}\ngateway: {tokens: table}\n")
    worker = started(alone.start("worker", "start", "--broker", free_endpoint(), "--data", ""))
    worker.until((alone.folder / "mine/worker.lock").exists)
    assert not (alone.folder / "worker.lock").exists()
    gateway = started(alone.start("gateway", "start", "--bind", "127.0.0.1:0", "--tokens", ""))
    gateway.until(lambda: "tokens are wanted" in gateway.err)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_serves_and_leaves_nothing_behind(alone: Cli, started: Keep, number: int) -> None:
    up = go_up(alone, started, "--workers", "2", "--slots", "3")
    endpoint = endpoint_of(up)
    assert f"export CORRAL_BROKER={endpoint}" in up.err  # the next thing to type
    assert up.out == ""
    workers = alone("worker", "list", "--broker", endpoint, "-o", "json").json(list[WorkerView])
    assert [(worker.name, worker.slots) for worker in workers] == [("w1", 3), ("w2", 3)]
    done = alone("task", "submit", "echo", "--wait", "--id", "kept", CORRAL_BROKER=endpoint)
    assert done.status == 0
    names = {line.split("|")[0].strip() for line in up.err.splitlines() if " | " in line}
    assert names == {"broker", "w1", "w2"}
    family = below(up.process.pid)
    ended = up.end(number)
    assert ended.status == 0, ended
    assert all_gone(family)
    stops = [line.split("|")[0].strip() for line in ended.err.splitlines() if "stopped" in line]
    assert stops.index("broker") > max(stops.index("w1"), stops.index("w2"))
    again = go_up(alone, started)  # what was accepted is there again
    assert alone("task", "result", "kept", CORRAL_BROKER=endpoint_of(again)).status == 0


def test_up_says_which_process_died_and_stops_the_others(alone: Cli, started: Keep) -> None:
    up = go_up(alone, started)
    family = below(up.process.pid)
    [victim] = [one for one in family if "w2" in one.cmdline()]
    victim.kill()
    ended = up.wait()
    assert ended.status == 1
    assert "w2 ended with status -9" in ended.err
    assert all_gone(family)


def test_up_starts_a_gateway_beside_the_rest(alone: Cli, started: Keep) -> None:
    # Whoever has a key for another broker needs none here.
    (alone.folder / "corral.yaml").write_text("key: another.key\n")
    up = go_up(alone, started, gateway="--gateway=127.0.0.1:0")
    assert 'corral task submit echo text=hello --wait --key ""\n' in up.err
    broker = ("--broker", endpoint_of(up), "--key", "")
    assert alone("task", "submit", "echo", "text=hello", "--wait", *broker).status == 0
    dashboard = re.search(r"Dashboard: (\S+)", up.err)
    assert dashboard is not None
    assert "<title>Corral</title>" in httpx.get(dashboard[1]).text
    found = re.search(r"REST: (\S+)/api/v1/openapi.json", up.err)
    assert found is not None, up.err
    assert httpx.get(f"{found[1]}/api/v1/health").json()["healthy"]
    family = below(up.process.pid)
    assert up.end().status == 0
    assert all_gone(family)


def test_up_goes_on_without_a_gateway_that_nobody_named(alone: Cli, started: Keep) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):  # then another program has it, which is as good
            taken.bind(("127.0.0.1", 8000))
            taken.listen()
        up = started(alone.start("up", "--bind", "tcp://127.0.0.1:*"))
        up.until(lambda: "corral task submit" in up.err)
    assert "cannot listen at 127.0.0.1:8000" in up.err
    assert "The rest goes on without it" in up.err
    assert "REST:" not in up.err
    endpoint = endpoint_of(up)
    assert alone("task", "submit", "echo", "--wait", "--broker", endpoint).status == 0
    assert up.end().status == 0


def test_up_ends_when_the_gateway_that_was_named_cannot_start(alone: Cli, started: Keep) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        up = started(alone.start("up", "--bind", "tcp://127.0.0.1:*", "--gateway", address))
        family = below(up.process.pid)
        ended = up.wait()
    assert ended.status == 1
    assert address in ended.err
    assert "gateway ended with status 2" in ended.err
    assert all_gone(family)


def test_up_that_is_killed_takes_its_processes_along(alone: Cli, started: Keep) -> None:
    up = go_up(alone, started)
    family = below(up.process.pid)
    up.end(signal.SIGKILL)
    assert all_gone(family)


def test_up_on_a_busy_port_disturbs_nobody(corral: Cli, fleet: Fleet) -> None:
    before = corral("worker", "list", "-o", "json").json(list[WorkerView])
    ended = corral("up", "--data", "other", "--bind", fleet.endpoint)
    assert ended.status == 1
    assert "broker ended with status 2" in ended.err
    assert fleet.endpoint in ended.err
    assert "in use" in ended.err
    after = corral("worker", "list", "-o", "json").json(list[WorkerView])
    assert [one.incarnation for one in after] == [one.incarnation for one in before]


def test_up_on_a_store_that_is_led(corral: Cli, fleet: Fleet) -> None:
    ended = corral("up", "--data", fleet.data, "--bind", "tcp://127.0.0.1:*")
    assert ended.status == 1
    assert "broker ended with status 2" in ended.err
    assert "already leads the store" in ended.err
    assert corral("broker", "status").status == 0


# --- broker -----------------------------------------------------------------------------


def test_broker_status(corral: Cli, fleet: Fleet) -> None:
    view = corral("broker", "status", "-o", "json").json(BrokerView)
    assert view.endpoint == fleet.endpoint
    assert "echo" in {kind.kind for kind in view.kinds}
    page = corral("broker", "status").out
    assert fleet.endpoint in page
    assert "echo" in page


def test_broker_start_port_in_use_and_second_broker(corral: Cli, fleet: Fleet) -> None:
    busy = corral("broker", "start", "--data", "mine", "--bind", fleet.endpoint)
    assert busy.status == 2
    assert fleet.endpoint in busy.err
    second = corral("broker", "start", "--data", fleet.data / "broker", "--bind", free_endpoint())
    assert second.status == 2
    assert "already leads" in second.err
    open_ = corral("broker", "start", "--data", "mine", "--bind", "tcp://0.0.0.0:*")
    assert open_.status == 2
    assert "corral keys new" in open_.err


def test_broker_start_fsck_and_backup(alone: Cli, started: Keep) -> None:
    endpoint = free_endpoint()
    broker = started(alone.start("broker", "start", "--data", "store", "--bind", endpoint))
    broker.until(lambda: "serving" in broker.err)
    assert alone("broker", "status", "--broker", endpoint).status == 0
    assert alone("broker", "fsck", "--data", "store").status != 0  # it is led
    assert broker.end(signal.SIGTERM).status == 0
    assert alone("broker", "fsck", "--data", "store").status == 0
    saved = alone("broker", "backup", "--data", "store", "--to", "saved", "-o", "json")
    assert saved.status == 0, saved
    assert saved.json(BackupView).path == str(alone.folder / "saved")
    assert alone("broker", "fsck", "--data", "saved").status == 0
    again = alone("broker", "backup", "--data", "store", "--to", "saved")
    assert again.status == 1
    assert "something is there already" in again.err
    by_default = alone("broker", "backup", "--data", "store", "-o", "name").out.strip()
    assert Path(by_default).parent == alone.folder / "store" / "backups"
    assert alone("broker", "fsck", "--data", by_default).status == 0


def test_broker_backup_asks_the_running_broker(corral: Cli, fleet: Fleet) -> None:
    id = corral("task", "submit", "echo", "x=1", "--wait").err
    view = corral("broker", "backup", "-o", "json").json(BackupView)
    copy = Path(view.path)
    assert copy.parent == fleet.data / "broker" / "backups"
    assert view.tasks >= 1
    page = corral("broker", "backup", "--to", corral.folder / "copy").out
    for word in (str(corral.folder / "copy"), "tasks", "MiB"):
        assert word in page, (page, id)
    for one in (copy, corral.folder / "copy"):
        assert corral("broker", "fsck", "--data", one).status == 0
    led = corral("broker", "backup", "--data", fleet.data / "broker")
    assert led.status == 2
    assert "already leads" in led.err
    relative = corral("broker", "backup", "--to", "copy")
    assert relative.status == 2
    assert "begin with /" in relative.err
    full = corral("broker", "backup", "--to", corral.folder / "copy")
    assert full.status == 1
    assert "something is there already" in full.err
    assert "corral broker backup" in full.err


def test_systemd_hears_of_the_broker(alone: Cli, started: Keep) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(alone.folder / "notify"))
        systemd.settimeout(20)
        notify = {"NOTIFY_SOCKET": str(alone.folder / "notify"), "WATCHDOG_USEC": "200000"}
        bind = ("--bind", "tcp://127.0.0.1:*")
        broker = started(alone.start("broker", "start", "--data", "store", *bind, **notify))
        ready = systemd.recv(1024)
        assert ready.startswith(b"READY=1\nSTATUS=serving tcp://127.0.0.1:")
        assert [systemd.recv(1024) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        broker.process.send_signal(signal.SIGSTOP)
        time.sleep(0.1)
        heard(systemd)
        time.sleep(1.5)
        assert heard(systemd) == []  # a loop that stands still feeds no watchdog
        broker.process.send_signal(signal.SIGCONT)
        assert broker.end(signal.SIGTERM).status == 0
        assert heard(systemd)[-1] == b"STOPPING=1"


def test_the_daemons_options_are_told_by_help(alone: Cli) -> None:
    assert "--bind" in alone("broker", "start", "--help").out
    assert "--slots" in alone("worker", "start", "--help").out


def test_a_users_own_worker_module_does_not_shadow_ours(corral: Cli, started: Keep) -> None:
    (corral.folder / "worker.py").write_text("raise SystemExit('shadowed')")
    worker = started(corral.start("worker", "start", "--name", "w3", "--data", "w3"))
    worker.until(lambda: "welcomed" in worker.err)
    assert corral("worker", "stop", "--data", "w3").status == 0
    assert worker.wait().status == 0


# --- worker -----------------------------------------------------------------------------


@pytest.fixture
def w9(corral: Cli, started: Keep) -> Started:
    """One more worker of the fleet."""
    options = ("--name", "w9", "--slots", "1", "--data", "w9", "--gpu", "GPU-test=24GB")
    worker = started(corral.start("worker", "start", *options))
    worker.until(lambda: "welcomed" in worker.err)
    return worker


def test_worker_start_with_a_declared_gpu_and_stop_by_name(corral: Cli, w9: Started) -> None:
    page = corral("worker", "status", "w9").out
    for word in ("w9", "available", "GPU-test", "24 GiB", "declared", socket.gethostname()):
        assert word in page, page
    assert "declared" in corral("worker", "list").out
    stopped = corral("worker", "stop", "w9")
    assert stopped.status == 0, stopped
    assert w9.wait().status == 0


def test_worker_stop_by_its_folder_loses_nothing_that_it_runs(corral: Cli, w9: Started) -> None:
    id = corral("task", "submit", "sleep", "seconds=60", "--gpus", "1").out.strip()
    deadline = time.monotonic() + 30
    while "running" not in corral("task", "show", id).out:
        assert time.monotonic() < deadline
    stopped = corral("worker", "stop", "w9", "--data", "w9")
    assert (stopped.status, stopped.out) == (0, "")
    assert w9.wait().status == 0
    assert corral("task", "show", id, "-o", "json").json()["state"] == "queued"
    assert corral("task", "cancel", id).status == 0
    again = corral("worker", "stop", "--data", "w9")
    assert again.status == 3
    assert "w9" in again.err


def test_drain_says_who_and_why_and_resume_ends_it(corral: Cli) -> None:
    drained = corral("worker", "drain", "w2", "--reason", "a new driver", "--wait")
    assert drained.status == 0
    view = corral("worker", "status", "w2", "-o", "json").json(WorkerView)
    assert (view.admission, view.drain_reason) == ("drained", "a new driver")
    assert view.drained_by
    assert "a new driver" in corral("worker", "list").out
    assert corral("worker", "resume", "w2").status == 0
    assert corral("worker", "status", "w2", "-o", "json").json(WorkerView).admission == "open"
    assert corral("worker", "drain", "nobody").status == 3
    assert corral("worker", "resume", "nobody").status == 3


def test_drain_that_takes_too_long_goes_on(corral: Cli, w9: Started) -> None:
    id = corral("task", "submit", "sleep", "seconds=60", "--gpus", "1").out.strip()
    deadline = time.monotonic() + 30
    while "running" not in corral("task", "show", id).out:
        assert time.monotonic() < deadline
    late = corral("worker", "drain", "w9", "--wait", "--timeout", "300ms")
    assert late.status == 7
    assert "corral worker resume" in late.err
    assert corral("worker", "drain", "w9", "--policy", "kill").status == 2  # without a deadline
    now = corral("worker", "drain", "w9", "--deadline", "100ms", "--policy", "requeue", "--wait")
    assert now.status == 0, now
    assert corral("task", "show", id, "-o", "json").json()["state"] == "queued"
    assert corral("task", "cancel", id).status == 0


def test_every_process_is_the_console_script(fleet: Fleet) -> None:
    family = below(fleet.up.process.pid)[1:]
    scripts = {Path(word).name for one in family for word in one.cmdline() if str(BIN) in word}
    assert {"corral-broker", "corral-worker"} <= scripts
    assert os.environ.get("PYTHONSAFEPATH") is None
    daemons = [one for one in family if any("corral-" in word for word in one.cmdline())]
    assert all(one.environ()["PYTHONSAFEPATH"] == "1" for one in daemons)
