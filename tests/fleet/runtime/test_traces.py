"""What a runtime leaves: everything when it is killed, nothing when it is closed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from corral.lab.__main__ import OPEN
from corral.lab.lxc import LxcRuntime, kernel
from corral.lab.runtime import RuntimeFailed
from tests.fleet.runtime.guests import TEMPLATE, Machine, opened

Traces = dict[str, list[object]]
PATIENCE = 10.0  # seconds in which a card of another lab is put on its bridge


def output(*argv: str | Path) -> list[str]:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()


def traces(folder: Path) -> Traces:
    """All that this machine shows of a lab; `alone` are cards on no bridge, whoever made them."""
    links = [line.split() for line in output("ip", "-oneline", "link", "show")]
    return {
        "mounts": [
            line
            for line in output("findmnt", "--noheadings", "-lo", "target")
            if str(folder) in line
        ],
        "bridges": [words[1] for words in links if words[1].startswith("lab")],
        "alone": [words[1] for words in links if "veth" in words[1] and "master" not in words],
        "cgroups": [str(path) for path in Path("/sys/fs/cgroup").glob("**/corral-lab-*")],
        "containers": output("lxc-ls", "-P", folder / "lxc", "-1")
        if (folder / "lxc").exists()
        else [],
        "processes": [
            process.info["cmdline"]
            for process in psutil.process_iter(["pid", "cmdline"])
            if process.info["pid"] != os.getpid()
            and str(folder) in " ".join(process.info["cmdline"] or [])
        ],
        "inotify": [kernel.INOTIFY.read_text()],
        "labs": sorted(path.name for path in kernel.LABS.glob("lab-*")),
        "locks": list(Path("/run/lxc/lock", *folder.parts[1:]).glob("lxc/*")),
    }


def left(folder: Path, before: Traces) -> Traces:
    """What is there that was not."""
    now = traces(folder)
    new = {name: [one for one in found if one not in before[name]] for name, found in now.items()}
    return {name: found for name, found in new.items() if found}


def must_be_gone(folder: Path, before: Traces) -> None:
    """What a lab made goes with it; other labs work on meanwhile."""
    until = time.monotonic() + PATIENCE
    while there := left(folder, before):
        assert time.monotonic() < until, there
        time.sleep(0.1)


@pytest.fixture
def clean(tmp_path: Path) -> Traces:
    """The machine before a runtime was opened."""
    return traces(tmp_path / "lab")


def test_close_leaves_nothing(clean: Traces, own: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    own.template()
    for vmid in (101, 102):
        own.clone(vmid)
        own.start(vmid)
    assert {"mounts", "bridges", "cgroups", "containers", "processes"} <= left(
        own.folder, clean
    ).keys()
    # The monitor of one hangs, as LXC's does when what it has begun to start is killed.
    monkeypatch.setattr("corral.lab.lxc.guests.KILLED_WITHIN", 0.5)
    os.kill(int((own.folder / "lxc/101/monitor.pid").read_text()), signal.SIGSTOP)
    late = range(103, 111)
    for vmid in late:
        own.clone(vmid)
    with ThreadPoolExecutor(len(late)) as threads:
        starts = [threads.submit(own.runtime.start, own.guest(vmid), own.log) for vmid in late]
        time.sleep(0.02)  # they are on their way
        own.runtime.close()
    must_be_gone(own.folder, clean)
    for failure in filter(None, (start.exception() for start in starts)):
        assert "the lab ends" in str(failure), "what was begun was not waited for"
    with pytest.raises(RuntimeFailed, match="the lab ends"):
        own.runtime.start(own.guest(103), own.log)
    shutil.rmtree(own.folder)  # nothing below it is busy
    own.runtime.close()  # and there is nothing left to close


@pytest.mark.parametrize("killed", [False, True])
def test_what_a_killed_one_left_is_known_also_after_one_that_cannot_begin(
    tmp_path: Path, killed: bool
) -> None:
    mark = tmp_path / OPEN
    if killed:
        mark.touch()
    started = subprocess.run(
        [sys.executable, "-m", "corral.lab", "--data", tmp_path],
        env={"PATH": "/nowhere", "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert started.returncode == 1
    assert "packages are missing" in started.stderr
    assert mark.exists() == killed


def test_killed_and_opened_again(clean: Traces, own: Machine, key: Path) -> None:
    own.template()
    own.clone(101)
    own.clone(102)
    shutil.copy(key.with_suffix(".pub"), own.folder / "key.pub")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fleet.runtime.guests", own.folder, own.subnet, "101"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    own.reach(own.address(101))

    after = opened(own.folder, own.subnet)
    assert set(after.usage()) == {101}
    assert after.addresses(101)["eth0"][0] == f"{own.address(101)}/24"
    with pytest.raises(RuntimeFailed, match="CT 101 is running"):
        after.delete("vm-101-disk-0")
    assert after.shutdown(101, 20)
    after.delete("vm-101-disk-0")
    after.start(own.guest(102), own.log)
    after.close()
    must_be_gone(own.folder, clean)


def test_a_clone_that_was_killed_half_way_is_swept(own: Machine) -> None:
    own.template()
    volumes = own.folder / "volumes"
    before = sorted(volumes.iterdir())
    (volumes / "0123456789abcdef" / "files").mkdir(parents=True)
    (volumes / "still-abc" / "root").mkdir(parents=True)
    again = opened(own.folder, own.subnet)
    assert sorted(volumes.iterdir()) == before
    assert again.size(TEMPLATE) > 0


def test_who_never_opened_it_ends_a_guest_that_lost_its_monitor(
    clean: Traces, own: Machine
) -> None:
    own.template()
    own.clone(101)
    own.start(101)
    init = psutil.Process(own.runtime.usage()[101].pid)
    monitor = init.parent()
    assert monitor is not None
    monitor.kill()
    LxcRuntime(own.folder, {"vmbr0": f"{own.subnet}.1/24"}).close()
    assert not init.is_running() or init.status() == psutil.STATUS_ZOMBIE
    must_be_gone(own.folder, clean)


def test_two_labs_do_not_touch_each_other(
    machine: Machine, tmp_path: Path, image: Path, key: Path
) -> None:
    other = Machine(LxcRuntime(tmp_path / "other", {"vmbr0": "10.63.254.1/24"}), tmp_path / "other",
                    "10.63.254", image, key)  # fmt: skip
    other.runtime.open()
    try:
        other.template()
        for lab in (machine, other):
            lab.clone(101)
            lab.start(101)
    finally:
        other.runtime.close()
        shutil.rmtree(other.folder)
    assert machine.booted(101) == "running"
    assert int(kernel.INOTIFY.read_text()) >= kernel.ENOUGH


def test_a_folder_that_mount_cannot_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailed, match="may have no blank or comma"):
        LxcRuntime(tmp_path / "a, b", {"vmbr0": "10.63.253.1/24"}).open()
