"""Labs without containers, as processes of their own, and clients of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.lab.process import LabProcess


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[LabProcess]:
    """A fresh lab of three nodes."""
    process = LabProcess(tmp_path / "lab")
    process.start()
    yield process
    process.stop()
