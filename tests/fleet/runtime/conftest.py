"""Real containers: made by each test from a template that the tests share."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from corral.lab.runtime import RuntimeFailed
from tests.fleet.runtime.guests import TEMPLATE, Machine, opened


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private SSH key, its public half beside it."""
    path = tmp_path_factory.mktemp("ssh") / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


@contextmanager
def _machine(folder: Path, image: Path, key: Path) -> Iterator[Machine]:
    """An open runtime on a subnet that is free; what it wrote is large and does not stay."""
    while True:
        subnet = f"10.{random.randrange(64, 128)}.{random.randrange(256)}"
        try:
            runtime = opened(folder, subnet)
        except RuntimeFailed as failure:
            if "is in use" in str(failure):
                continue
            raise
        break
    try:
        yield Machine(runtime, folder, subnet, image, key)
    finally:
        runtime.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def own(tmp_path: Path, image: Path, key: Path) -> Iterator[Machine]:
    """A runtime for one test, which may do what it likes to it."""
    with _machine(tmp_path / "lab", image, key) as machine:
        yield machine


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, image: Path, key: Path) -> Iterator[Machine]:
    """A runtime with a template in it, because to unpack one takes longer than most tests."""
    with _machine(tmp_path_factory.mktemp("shared") / "lab", image, key) as machine:
        machine.template()
        yield machine


@pytest.fixture
def machine(shared: Machine) -> Iterator[Machine]:
    """A runtime with a template and nothing else."""
    yield shared
    for vmid in shared.runtime.usage():
        shared.runtime.stop(vmid)
    while left := shared.volumes() - {TEMPLATE}:
        for volume in left:
            if not shared.runtime.children(volume):
                shared.runtime.delete(volume)
    shared.logged.clear()
