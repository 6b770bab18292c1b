"""What the tests of this tier share: how a fleet of real processes is made and ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.chaos.fleet import Fleet


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Callable[..., Fleet]]:
    """Makes a fleet; takes what `Fleet` takes after the folder. All of it ends with the test."""
    with ExitStack() as fleets:
        yield lambda **options: fleets.enter_context(Fleet(tmp_path, **options))
