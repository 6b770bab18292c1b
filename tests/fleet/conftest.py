"""What the tests with real containers share: the lab's image, and sites."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from corral.lab import image as images
from tests.fleet.lab.process import LabProcess, NotStarted
from tests.fleet.site import Site

#: a lab as `corral lab up` makes it, not as quick as those of other tests
REAL = {"dry": False, "statistics_seconds": 10.0, "lock_seconds": 10.0}


@pytest.fixture(scope="session")
def image() -> Path:
    """The lab's image; `make lab-image` makes it beforehand, which takes longer than a test may."""
    return images.build(images.cache())


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, image: Path) -> Iterator[Site]:
    """Three empty nodes with keys, the bundle and the template, and an operator.

    It takes a minute or two and is every test's: leave it with as little as you found. The first
    test to use it pays for it, so mark it with a timeout.
    """
    with _untouched(tmp_path_factory) as made:
        made.play("keys")
        made.bundle(made.release)
        made.play("template")
        yield made


@pytest.fixture
def bare(tmp_path_factory: pytest.TempPathFactory, image: Path) -> Iterator[Site]:
    """A site of one's own, as `make lab` leaves it: an operator who has typed nothing yet."""
    with _untouched(tmp_path_factory) as made:
        yield made


@contextmanager
def _untouched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    lab, subnet = _started(tmp_path_factory)
    try:
        yield Site(lab, subnet)
    finally:
        try:
            lab.stop()
        finally:
            shutil.rmtree(lab.folder)


def _started(tmp_path_factory: pytest.TempPathFactory) -> tuple[LabProcess, str]:
    """A lab on a subnet that is free."""
    while True:
        folder = tmp_path_factory.mktemp("site") / "lab"
        subnet = f"10.{random.randrange(128, 192)}.{random.randrange(256)}"
        lab = LabProcess(folder, **REAL, bridges={"vmbr0": f"{subnet}.1/24"})
        try:
            lab.start()
        except NotStarted as refused:
            if "is in use" not in str(refused):
                raise
        else:
            return lab, subnet
