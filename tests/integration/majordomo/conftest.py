"""The broker that these tests speak to: a process of its own for each test, with quick beats."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import BrokerDaemon

SETTINGS = """\
broker:
  heartbeat: 0.5
  suspect_after: 2.0
  unavailable_after: 4.0
  adoption_window: 3.0
"""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[BrokerDaemon]:
    """A broker that serves; ends with the test."""
    settings = tmp_path / "corral.yaml"
    settings.write_text(SETTINGS)
    with BrokerDaemon(tmp_path / "broker", options=("--config", settings)) as daemon:
        yield daemon
