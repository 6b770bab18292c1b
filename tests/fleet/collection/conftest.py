"""Labs without containers that the collection is used on, and somebody who uses it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.collection.operator import Operator, make_templates
from tests.fleet.lab.process import LabProcess


@pytest.fixture
def empty_lab(tmp_path: Path) -> Iterator[LabProcess]:
    """Three large nodes, and nothing on them."""
    lab = LabProcess(tmp_path / "lab", cores=16, memory_gb=64)
    lab.start()
    yield lab
    lab.stop()


@pytest.fixture
def lab(empty_lab: LabProcess) -> LabProcess:
    """The same, with template 7 on every node."""
    make_templates(empty_lab)
    return empty_lab


@pytest.fixture
def operator(lab: LabProcess, tmp_path: Path) -> Operator:
    """Somebody with the deploy token."""
    return Operator(lab, tmp_path / "operator")
