"""A broker, one worker with the test's own kinds, and a gateway; one for a whole module."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.integration.conftest import Fleet
from tests.support.gateway import Gateway


class House:
    """All that runs."""

    def __init__(self, fleet: Fleet, gateway: Gateway) -> None:
        self.fleet = fleet
        self.gateway = gateway


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A fleet with the worker w1, of two slots, and a gateway without tokens."""
    folder = tmp_path_factory.mktemp("house")
    fleet = Fleet(folder)
    try:
        fleet.start_worker("w1", 2)
        with Gateway(folder, fleet.endpoint) as gateway:
            yield House(fleet, gateway)
    finally:
        fleet.close()


@pytest.fixture
def rest(house: House) -> Iterator[httpx.Client]:
    """A client of the gateway."""
    with house.gateway.client() as client:
        yield client
