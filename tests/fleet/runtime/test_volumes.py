"""Volumes: clones, snapshots and archives keep what they must and share what they may."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest

from corral.lab.lxc.volumes import Volumes
from corral.lab.runtime import RuntimeFailed
from tests.fleet.runtime.guests import TEMPLATE, Machine

WRITER = (
    'systemd-run --unit writer python3 -c "import itertools, os\n'
    "for n in itertools.count():\n"
    "    for name in ('/first', '/second'):\n"
    "        file = open(name + '.new', 'w'); file.write(str(n)); file.close()\n"
    "        os.replace(name + '.new', name)\n\""
)


def test_a_linked_clone_is_small_and_a_full_one_stands_alone(own: Machine) -> None:
    own.template()
    linked, full = own.clone(101), own.clone(102, full=True)
    runtime = own.runtime
    assert runtime.children(TEMPLATE) == [linked]
    assert runtime.size(linked) < 1024**2 < 100 * 1024**2 < runtime.size(full)
    with pytest.raises(RuntimeFailed, match="still in use by linked clones"):
        runtime.delete(TEMPLATE)
    runtime.delete(linked)
    runtime.delete(TEMPLATE)
    own.start(102)
    assert own.booted(102) == "running"


def test_clones_do_not_see_each_other(machine: Machine) -> None:
    for vmid in (101, 102):
        machine.clone(vmid)
        machine.start(vmid)
    machine.run(101, "echo mine >/etc/mine; rm /etc/issue")
    assert machine.run(102, "ls /etc/mine || true; ls /etc/issue") == "/etc/issue"


def test_layers_follow_a_name(own: Machine) -> None:
    """A clone becomes a template in its turn, and its own template is renamed."""
    own.template()
    own.clone(101)
    own.start(101)
    own.run(101, "echo second >/etc/layer")
    assert own.runtime.shutdown(101, 20)
    own.runtime.rename("vm-101-disk-0", "base-101-disk-0")
    own.clone(102, "base-101-disk-0")
    own.runtime.rename(TEMPLATE, "base-251-disk-0")
    assert own.runtime.children("base-251-disk-0") == ["base-101-disk-0"]
    assert own.runtime.children("base-101-disk-0") == ["vm-102-disk-0"]
    own.start(102)
    assert own.run(102, "cat /etc/layer") == "second"


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(("kept", "found"), [("uninitialized", "uninitialized"), ("a" * 32, "")])
def test_identity_after_a_clone(machine: Machine, full: bool, kept: str, found: str) -> None:
    """As Proxmox: the machine id is emptied unless it waits for a first boot; SSH keys stay."""
    machine.clone(100)
    machine.start(100)
    keys = machine.run(100, f"echo {kept} >/etc/machine-id; cat /etc/ssh/ssh_host_*.pub; sync")
    machine.runtime.stop(100)
    machine.runtime.rename("vm-100-disk-0", "base-100-disk-0")
    machine.clone(101, "base-100-disk-0", full)
    dump = machine.folder / "clone.tar"
    machine.runtime.archive("vm-101-disk-0", dump, machine.log)
    listed = ["tar", "--extract", "--to-stdout", "--file", dump]
    said = subprocess.run([*listed, "./etc/machine-id"], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == found
    said = subprocess.run(
        [*listed, "--wildcards", "./etc/ssh/ssh_host_*.pub"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert sorted(said.stdout.splitlines()) == sorted(keys.splitlines())


def test_two_creations_have_different_host_keys(machine: Machine) -> None:
    for vmid in (101, 102):
        machine.runtime.create(f"vm-{vmid}-disk-0", machine.image, machine.log)
        machine.start(vmid)
    one, other = (machine.run(vmid, "cat /etc/ssh/ssh_host_ed25519_key.pub") for vmid in (101, 102))
    assert one != other


def test_a_rollback_brings_back_what_was(machine: Machine) -> None:
    machine.clone(101)
    machine.start(101)
    machine.run(101, "echo one >/data; mkdir /d; echo 1 >/d/1")
    machine.runtime.snapshot("vm-101-disk-0", "before")
    machine.run(101, "echo two >/data; rm -r /d; rm /etc/issue; sync")
    machine.runtime.snapshot("vm-101-disk-0", "after")
    with pytest.raises(RuntimeFailed, match="CT 101 is running"):
        machine.runtime.rollback("vm-101-disk-0", "before")
    machine.runtime.stop(101)
    look = "cat /data; ls /d /etc/issue 2>/dev/null || true"
    for name, seen in (("before", "one\n/etc/issue\n\n/d:\n1"), ("after", "two")):
        machine.runtime.rollback("vm-101-disk-0", name)
        machine.start(101)
        assert machine.run(101, look) == seen
        machine.runtime.stop(101)
    machine.runtime.delete_snapshot("vm-101-disk-0", "before")
    with pytest.raises(RuntimeFailed, match="no snapshot 'before'"):
        machine.runtime.rollback("vm-101-disk-0", "before")


def test_a_running_guest_is_archived_as_of_one_moment(machine: Machine) -> None:
    machine.clone(101)
    machine.start(101)
    machine.run(
        101, "echo kept >/kept; setcap cap_net_raw+ep /usr/bin/python3.11 2>/dev/null; true"
    )
    machine.run(101, WRITER)
    dump = machine.folder / "vzdump-lxc-101.tar.zst"
    for _ in range(3):
        machine.runtime.archive("vm-101-disk-0", dump, machine.log)
    assert machine.run(101, "systemctl is-active writer") == "active"  # it goes on
    assert machine.logged[-1].startswith("Total bytes written: ")
    machine.runtime.create("vm-102-disk-0", dump, machine.log)
    machine.runtime.stop(101)
    machine.start(102)
    assert machine.booted(102) == "running"
    first, second, kept = machine.run(102, "cat /first; echo; cat /second; echo; cat /kept").split()
    assert 0 <= int(first) - int(second) <= 1
    assert kept == "kept"


@pytest.mark.parametrize("flag", ["--gzip", "--xz", "--zstd"])
def test_archives_of_every_kind_are_unpacked(machine: Machine, tmp_path: Path, flag: str) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/issue").write_text("small")
    archive = tmp_path / "template.tar"
    subprocess.run(["tar", "--create", flag, "--file", archive, "."], cwd=root, check=True)
    machine.runtime.create("vm-101-disk-0", archive, machine.log)
    assert 5 <= machine.runtime.size("vm-101-disk-0") < 100_000


def test_what_is_no_root_file_system_leaves_nothing(machine: Machine, tmp_path: Path) -> None:
    broken, empty = tmp_path / "broken.tar.zst", tmp_path / "empty.tar"
    broken.write_bytes(b"not an archive")
    subprocess.run(["tar", "--create", "--file", empty, "--files-from", "/dev/null"], check=True)
    before = sorted((machine.folder / "volumes").rglob("*"))
    for archive, reason in (
        (broken, "tar: "),
        (empty, "no root file system"),
        (tmp_path / "no", "tar: "),
    ):
        with pytest.raises(RuntimeFailed, match=reason):
            machine.runtime.create("vm-101-disk-0", archive, machine.log)
    assert sorted((machine.folder / "volumes").rglob("*")) == before


def test_names_are_unique_and_must_exist(machine: Machine) -> None:
    machine.clone(101)
    runtime = machine.runtime
    for call in (
        lambda: runtime.clone(TEMPLATE, "vm-101-disk-0", False, machine.log),
        lambda: runtime.create("vm-101-disk-0", machine.image, machine.log),
        lambda: runtime.rename(TEMPLATE, "vm-101-disk-0"),
    ):
        with pytest.raises(RuntimeFailed, match="exists already"):
            call()
    for call in (
        lambda: runtime.clone("vm-7-disk-0", "vm-8-disk-0", False, machine.log),
        lambda: runtime.delete("vm-7-disk-0"),
        lambda: runtime.start(machine.guest(7), machine.log),
    ):
        with pytest.raises(RuntimeFailed, match="volume 'vm-7-disk-0' does not exist"):
            call()


def test_many_are_removed_at_the_same_time(tmp_path: Path) -> None:
    files = tmp_path / "files"
    (files / "etc").mkdir(parents=True)
    archive = tmp_path / "files.tar"
    subprocess.run(["tar", "-cf", archive, "-C", files, "."], check=True)
    volumes = Volumes(tmp_path / "volumes")
    volumes.open()
    volumes.create("base", archive, lambda _: None)
    names = [f"vm-{number}" for number in range(300)]
    for name in names:
        volumes.clone("base", name, full=False, frozen=nullcontext())
    with ThreadPoolExecutor(8) as removers:
        list(removers.map(volumes.delete, names))
    assert volumes.children("base") == []
