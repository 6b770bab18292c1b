"""A fleet, its gateway, and a real Prometheus that watches it; a phone that may ring."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.integration.conftest import Fleet
from tests.support.gateway import Gateway
from tests.support.prometheus import Phone, Watch, ringing, watching


class Watched(NamedTuple):
    """All that runs."""

    token: str
    fleet: Fleet
    gateway: Gateway
    watch: Watch
    phone: Phone


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Three workers of four that are expected; Prometheus comes in by a viewer's token."""
    folder = tmp_path_factory.mktemp("house")
    table = folder / "tokens.json"
    expected = folder / "expected"
    expected.write_text("w1\nw2\nw3\nw9\n")
    corral = Path(sys.executable).with_name("corral")
    made = [corral, "gateway", "token", "new", "prometheus", "--role", "viewer", "--tokens", table]
    token = subprocess.run(made, capture_output=True, text=True, check=True).stdout.strip()
    fleet = Fleet(folder)
    try:
        fleet.start_worker("w1", 1, "--label", "at=w1", "--kinds", "sleep,echo")
        fleet.start_worker("w2", 1, "--kinds", "mark")
        fleet.start_worker("w3", 1, "--kinds", "fail")
        with (
            Phone() as phone,
            ringing(folder / "alertmanager", phone) as ringer,
            Gateway(folder, fleet.endpoint, "--tokens", table, "--expect", expected) as gateway,
            watching(folder / "prometheus", gateway.bind, token, ringer) as watch,
        ):
            yield Watched(token, fleet, gateway, watch, phone)
    finally:
        fleet.close()
