"""Results of many tasks, asked for at once: several messages, none of them large."""

from __future__ import annotations

import zmq

from corral import Task, wire
from corral.messages import Outcomes, Results
from tests.integration.conftest import PATIENCE, Fleet

COUNT, SIZE = 500, 50_000  # inline results: 25 MB together
MOST = 9_000_000  # bytes of a message


def test_an_answer_with_much_in_it_comes_in_parts(fleet: Fleet) -> None:
    fleet.start_worker(slots=2)
    with fleet.client() as client:
        tasks = [Task("echo", {"i": i, "data": "x" * SIZE}) for i in range(COUNT)]
        ids = [handle.id for handle in client.submit_many(tasks)]
        assert sum(1 for _ in client.results(ids, PATIENCE)) == COUNT

        socket = zmq.Context.instance().socket(zmq.DEALER)
        socket.linger = 0
        socket.connect(fleet.endpoint)
        asked = {b"one": ids[: COUNT // 2], b"two": ids[COUNT // 2 :]}  # answered in one turn
        for request, some in asked.items():
            socket.send_multipart(wire.call(Results(request, some)))
        came: dict[bytes, list[str]] = {request: [] for request in asked}
        over: list[bytes] = []
        while len(over) < len(asked):
            assert socket.poll(PATIENCE * 1000)
            frames = socket.recv_multipart()
            assert sum(map(len, frames)) < MOST
            for answer in wire.heard_by_client(frames):
                assert isinstance(answer, Outcomes)
                assert answer.request not in over
                came[answer.request] += [outcome.id for outcome in answer.items]
                over += [answer.request] if answer.last else []
        assert came == asked
        socket.close()

    with fleet.client() as stranger:  # the SDK takes them as they come
        outcomes = dict(stranger.results(ids, PATIENCE))
        assert sorted(outcome.value["i"] for outcome in outcomes.values()) == list(range(COUNT))
