"""What is sent when the disk does not give back what was put on it."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from broker.server import Server
from corral import wire
from corral.messages import Accepted, Assign, Checkpoint, Document, Item, Kind, Submit
from corral.tasks import Spec
from tests.integration.test_large_inputs import alter
from tests.unit.test_take_back import Peer


def works(server: Server, incarnation: str) -> tuple[Peer, Item]:
    """A worker that registers, and the attempt that it is given."""
    worker = Peer(server)
    document = Document(name="w", incarnation=incarnation, kinds=[Kind("echo")])
    worker.socket.send_multipart(wire.ready("echo", document))
    while True:
        heard = wire.heard_by_worker(worker.hears())
        if isinstance(heard, wire.Extended) and isinstance(heard.message, Assign):
            [lane] = heard.message.lanes
            return worker, lane.items[0]


@pytest.fixture
def saved(server: Server) -> Iterator[None]:
    """A task whose first attempt saved where it was."""
    client = Peer(server)
    client.calls(Submit(b"one", [Spec("echo", msgspec.Raw(b"\x80"))]))
    assert isinstance(client.answers()[0], Accepted)
    one, first = works(server, "1")
    one.socket.send_multipart(wire.extension(Checkpoint(first.token, b"reached 7")))
    yield
    for peer in (client, one):
        peer.socket.close()


@pytest.mark.usefixtures("saved")
@pytest.mark.parametrize("lose", [alter, Path.unlink])
def test_an_attempt_whose_checkpoint_is_lost_begins_anew(
    lose: Callable[[Path], None], server: Server, tmp_path: Path
) -> None:
    two, second = works(server, "2")
    assert (second.attempt, second.checkpoint) == (2, b"reached 7")
    [blob] = (tmp_path / "data" / "blobs").iterdir()
    lose(blob)
    three, third = works(server, "3")
    assert (third.attempt, third.checkpoint) == (3, None)
    for peer in (two, three):
        peer.socket.close()


@pytest.mark.usefixtures("saved")
def test_no_attempt_begins_anew_because_the_system_lacked_something_for_a_moment(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(digest: str) -> bytes:
        monkeypatch.undo()
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(server.store, "blob_get", lacking)
    two, second = works(server, "2")  # after the delay of a retry
    assert (second.attempt, second.checkpoint) == (3, b"reached 7")
    two.socket.close()
