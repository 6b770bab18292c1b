"""A fleet of four workers that leave traces of what they run, and releases to update them to."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from corral import Client
from corral.messages import WorkerView
from tests.fleet.collection.operator import kill_group
from tests.fleet.roll.flow import KIND, PATIENCE
from tests.fleet.site import PLAY_SECONDS, Site

HANDLERS = Path(__file__).parent / "handlers"
SLOTS = 2
#: what the workers have beside what the playbooks give them, whatever release they run
OUTFIT = f"""\
[Service]
Environment=PYTHONPATH=/opt/handlers CORRAL_WORKER_SLOTS={SLOTS}
"""


@dataclass
class Fleet:
    """Four workers, two releases that are well and one that is not."""

    site: Site
    good: tuple[str, str]
    broken: str
    client: Client

    workers = ("worker-1", "worker-2", "worker-3", "worker-4")

    # --- what the broker sees ---------------------------------------------------------------

    def seen(self) -> dict[str, WorkerView]:
        """Each of the four that it knows; it also remembers those of other tests for a while."""
        return {one.name: one for one in self.client.workers() if one.name in self.workers}

    def releases(self) -> dict[str, str]:
        """What each worker's process runs, of those that are at work."""
        return {
            name: one.about["corral"]
            for name, one in self.seen().items()
            if one.health == "live" and one.admission == "open"
        }

    def ready(self) -> set[str]:
        """Those at work that know the kind of these tests."""
        return {name for name in self.releases() if KIND in self.seen()[name].kinds}

    def updating(self) -> set[str]:
        """Those that an update has drained."""
        return {
            name for name, one in self.seen().items() if one.drain_reason.startswith("update to ")
        }

    def lives(self) -> dict[str, str]:
        """The incarnation of each of the four: another one after a restart.

        The broker knows others too, of tests before, until it forgets them.
        """
        seen = self.seen()
        return {name: seen[name].incarnation for name in self.workers if name in seen}

    def is_live(self, host: str) -> bool:
        """Whether the broker has heard of a worker lately."""
        return host in self.seen() and self.seen()[host].health == "live"

    def all_on(self, release: str) -> bool:
        """Whether everybody is at work with a release."""
        return self.releases() == dict.fromkeys(self.workers, release)

    def another(self) -> str:
        """A release that none of them runs; all run the same."""
        (running,) = set(self.releases().values())
        return next(one for one in self.good if one != running)

    def until(
        self, what: Callable[[], bool], meanwhile: subprocess.Popen[str] | None = None
    ) -> None:
        """Wait until it is so, while a playbook runs."""
        until = time.monotonic() + PATIENCE
        while not what():
            assert time.monotonic() < until, self.seen()
            if meanwhile is not None and meanwhile.poll() is not None:
                raise AssertionError(meanwhile.communicate()[0])
            time.sleep(0.1)

    # --- what is done to it -----------------------------------------------------------------

    @contextmanager
    def update_under_way(self, release: str, *more: str) -> Iterator[subprocess.Popen[str]]:
        """A run of update.yml that is under way; it does not outlive the block."""
        # A worker that starts may take its time on a busy machine.
        patient = ("-e", f"patience={PATIENCE:.0f}")
        process = self.site.start("update", "-e", f"release={release}", *patient, *more)
        try:
            yield process
        finally:
            if process.poll() is None:
                kill_group(process)
            assert process.stdout is not None
            process.stdout.close()

    def update(self, release: str, *more: str) -> tuple[int, str]:
        """Play update.yml to its end; returns its exit status and what it said."""
        with self.update_under_way(release, *more) as process:
            return ended(process)

    def ssh(self, host: str, command: str) -> str:
        """A command on a machine, which must succeed."""
        done = self.site.ssh(self.site.address(host), command)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def dress(self, host: str, name: str, unit: str) -> None:
        """Give a worker's unit a drop-in, or with nothing in it take it away."""
        folder = "/etc/systemd/system/corral-worker.service.d"
        put = (
            f"cat >{folder}/{name}.conf <<'END'\n{unit}END" if unit else f"rm {folder}/{name}.conf"
        )
        self.ssh(host, f"mkdir -p {folder}\n{put}\nsystemctl daemon-reload")

    def power(self, host: str, action: str) -> None:
        """`start` or `stop` a machine at once."""
        found = self.site.containers().items()
        ((vmid, node),) = ((vmid, one["node"]) for vmid, one in found if one["hostname"] == host)
        api = self.site.lab.client()
        assert self.site.lab.wait(api, api.nodes(node).lxc(vmid).status(action).post()) == "OK"

    def make_whole(self) -> None:
        """Have four workers at work with one release, whatever a test has left."""
        if set(self.releases()) != set(self.workers):
            self.site.play("deploy", "-e", json.dumps({"fleet_workers": len(self.workers)}))
        for host in self.workers:
            if KIND not in self.seen()[host].kinds:
                _hand_out(self, host)
                self.dress(host, "witness", OUTFIT)
                self.ssh(host, "systemctl restart corral-worker")
        self.until(lambda: self.ready() == set(self.workers))
        if len(set(self.releases().values())) > 1:
            status, output = self.update(self.good[0])
            assert status == 0, output


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit status of a playbook, and what it said, once it is through."""
    output, _ = process.communicate(timeout=PLAY_SECONDS)
    return process.returncode, output


@pytest.fixture(scope="package")
def built(site: Site) -> Iterator[Fleet]:
    """The fleet that the tests of this package share."""
    good = (f"{site.release}.post1", f"{site.release}.post2")
    broken = f"{site.release}.post3"
    bundles = [site.bundle(release) for release in (*good, broken)]
    _break(bundles[-1])
    site.play("deploy", "-e", json.dumps({"fleet_workers": len(Fleet.workers)}))
    with Client(site.endpoint, key=str(site.operator_key()), timeout=PATIENCE) as client:
        yield Fleet(site, good, broken, client)
    _clear(site)
    for bundle in bundles:
        bundle.unlink()


@pytest.fixture
def fleet(built: Fleet) -> Fleet:
    """Four workers at work with the same release, whatever the test before has left."""
    built.make_whole()
    return built


def _hand_out(fleet: Fleet, host: str) -> None:
    """Put the handlers where a worker looks for them."""
    files = [one for one in HANDLERS.rglob("*") if one.is_file() and one.suffix != ".pyc"]
    for file in files:
        there = Path("/opt/handlers", file.relative_to(HANDLERS))
        text = file.read_text()
        fleet.ssh(host, f"mkdir -p {there.parent}\ncat >{there} <<'END'\n{text}END")


def _break(bundle: Path) -> None:
    """Make its worker one that cannot start."""
    with tarfile.open(bundle) as tar:
        held = {one.name: tar.extractfile(one) for one in tar.getmembers() if one.isfile()}
        files = {name: file.read() for name, file in held.items() if file is not None}
    (name,) = (name for name in files if name.startswith("./corral-"))
    wheel = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(files[name])) as whole, zipfile.ZipFile(wheel, "w") as changed:
        for member in whole.namelist():
            main = member == "worker/__main__.py"
            changed.writestr(
                member, b"raise SystemExit('broken')\n" if main else whole.read(member)
            )
    files[name] = wheel.getvalue()
    with tarfile.open(bundle, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o644
            tar.addfile(member, io.BytesIO(content))


def _clear(site: Site) -> None:
    """Leave the site as it was."""
    api = site.lab.client()
    for vmid, container in site.containers().items():
        node = api.nodes(container["node"])
        if container["status"] == "running":
            assert site.lab.wait(api, node.lxc(vmid).status.stop.post()) == "OK"
        assert site.lab.wait(api, node.lxc(vmid).delete(purge=1)) == "OK"
    (site.folder / "inventory/group_vars/all/scale.yml").unlink(missing_ok=True)
