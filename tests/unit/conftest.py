"""A broker in this process, on a real store and a real socket, whose turns the test gives it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.server import Server
from broker.store.sqlite import SqliteStore
from corral.settings import BrokerSettings


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    """Settings other than the default are its parameter."""
    store = SqliteStore(tmp_path / "data")
    store.lead("test")
    server = Server(
        BrokerSettings(**getattr(request, "param", {})), "tcp://127.0.0.1:*", store, tmp_path
    )
    yield server
    server.close()
    server.context.destroy(0)
