"""Checkpoints that newer ones replaced leave the disk soon; those that are still named do not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from broker.keeper import CHECKPOINTS_EVERY
from broker.server import Server
from broker.store.blobs import digest_of
from broker.store.sqlite import SqliteStore
from corral import wire
from corral.errors import StoreFull
from corral.messages import Accepted, Checkpoint, Item, Submit
from corral.settings import BrokerSettings
from corral.tasks import Spec
from tests.unit.test_outbox import works
from tests.unit.test_take_back import Peer


class Training:
    """A broker, and one worker on which a task saves its state."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = SqliteStore(folder / "data")
        self.store.lead("test")
        self.server = Server(BrokerSettings(), "tcp://127.0.0.1:*", self.store, folder)
        self.client = Peer(self.server)
        self.client.calls(Submit(b"one", [Spec("echo", msgspec.Raw(b"\x80"))]))
        assert isinstance(self.client.answers()[0], Accepted)
        self.worker, self.item = works(self.server, "1")
        self.later = 0.0

    def saves(self, *states: bytes) -> None:
        for state in states:
            message = wire.extension(Checkpoint(self.item.token, state))
            self.worker.socket.send_multipart(message)
            while self.server.state.tasks[self.item.id].checkpoint != digest_of(state):
                self.server.turn(50)

    def a_minute_passes(self, fold: bool) -> None:
        """What is due then is done; a busy broker has no time to fold."""
        keeper, state = self.server.keeper, self.server.state
        self.later += CHECKPOINTS_EVERY
        now = self.server.now() + self.later
        keeper.append([], now if not fold else 0.0)
        while keeper.tend(state, now):
            pass

    def blobs(self) -> set[str]:
        return {path.name for path in (self.folder / "data" / "blobs").iterdir()}

    def started_again(self) -> Item:
        """The attempt that follows when its worker has lost the one before."""
        again, item = works(self.server, "2")
        again.socket.close()
        return item

    def close(self) -> None:
        self.client.socket.close()
        self.worker.socket.close()
        self.server.close()
        self.server.context.destroy(0)


@pytest.fixture
def training(tmp_path: Path) -> Iterator[Training]:
    training = Training(tmp_path)
    yield training
    training.close()


def digests(*states: bytes) -> set[str]:
    return set(map(digest_of, states))


def test_within_a_minute_only_the_newest_is_there(training: Training) -> None:
    training.saves(*(b"epoch %d" % i for i in range(120)))
    training.a_minute_passes(fold=False)
    assert training.blobs() == digests(b"epoch 119")
    training.saves(b"epoch 120", b"epoch 119")  # back to one that was replaced before
    training.a_minute_passes(fold=False)
    assert training.blobs() == digests(b"epoch 119")
    assert training.started_again().checkpoint == b"epoch 119"


def test_they_go_while_the_disk_has_no_room_for_a_fold(
    training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise StoreFull(why="no room")

    training.saves(b"epoch 1", b"epoch 2")
    monkeypatch.setattr(training.store, "fold", full)
    with pytest.raises(StoreFull):
        training.a_minute_passes(fold=True)
    assert training.blobs() == digests(b"epoch 2")


def test_what_a_row_still_names_stays(training: Training) -> None:
    training.saves(b"epoch 0")
    training.a_minute_passes(fold=True)
    training.saves(b"epoch 1", b"epoch 2")
    training.a_minute_passes(fold=False)
    assert training.blobs() == digests(b"epoch 0", b"epoch 2")


def test_what_a_backup_counts_on_stays(training: Training) -> None:
    training.saves(b"epoch 0", b"epoch 1")
    folder = training.folder
    backup = training.store.backup(folder / "copy", folder / "draft", lambda: ())
    next(backup)
    training.a_minute_passes(fold=False)
    assert training.blobs() == digests(b"epoch 0", b"epoch 1")
    backup.close()
