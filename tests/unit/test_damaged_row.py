"""A row whose record is damaged: it is told to who asks for it, and ends nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.keeper import Keeper
from broker.server import Server
from broker.store.sqlite import SqliteStore
from corral.messages import Refused, Watch
from corral.settings import BrokerSettings
from tests.unit.store.conformance import done
from tests.unit.test_take_back import Peer

LONG_AFTER = 1e9  # seconds


@pytest.fixture
def store(tmp_path: Path) -> SqliteStore:
    """A store with two ended tasks; the record of the first is damaged."""
    store = SqliteStore(tmp_path / "data")
    store.lead("test")
    store.fold(store.epoch, [done("a", 1.0), done("b", 2.0)])
    store.db.execute("UPDATE tasks SET record = x'00' WHERE id = 'a'")
    return store


def test_it_goes_when_its_time_is_over(store: SqliteStore) -> None:
    keeper = Keeper(store, BrokerSettings())
    state = keeper.load()
    assert keeper.away["succeeded"] == 2
    keeper.tend(state, LONG_AFTER)
    assert store.prefix("") == []
    assert keeper.away["succeeded"] == 0
    store.close()


def test_a_watcher_that_needs_it_is_refused(store: SqliteStore, tmp_path: Path) -> None:
    server = Server(BrokerSettings(), "tcp://127.0.0.1:*", store, tmp_path)
    server.now = lambda: 3.0  # type: ignore[method-assign]  # before its retention ends
    watcher = Peer(server)
    try:
        watcher.calls(Watch(b"one", [], None))
        watcher.hears()
        server.watches.watchers[b"one"].behind = True
        [refused] = watcher.answers()
        assert isinstance(refused, Refused)
        assert refused.code == "store_corrupt"
        assert "task a" in str(refused.fields["why"])
    finally:
        server.close()
        server.context.destroy(0)
