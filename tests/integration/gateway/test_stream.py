"""The live stream: everything once, then what changed; resumed, slow, and ended in time."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from corral.client import Client
from corral.tasks import Task
from tests.evidence import Evidence
from tests.integration.conftest import Fleet, until
from tests.integration.gateway.conftest import House
from tests.support.gateway import PATIENCE, Event, Gateway, events


def submit(house: House, *tasks: Task) -> list[str]:
    with Client(house.fleet.endpoint, timeout=PATIENCE) as client:
        handles = client.submit_many(tasks)
        list(client.results(handles, timeout=PATIENCE))
    return [handle.id for handle in handles]


def follow(stream: Iterator[Event], seen: dict[str, Any], enough: Callable[[], object]) -> str:
    """Read until it is enough; the id of the last event."""
    for event in stream:
        if event.kind == "snapshot":
            seen.clear()
        seen.update({row["id"]: row for row in event.data.get("tasks", [])})
        for id in event.data.get("gone", []):
            seen.pop(id, None)
        if enough():
            return event.id
    raise AssertionError("the stream ended")


def over(seen: dict[str, Any], ids: list[str]) -> bool:
    return all(seen.get(id, {}).get("state") == "succeeded" for id in ids)


def test_everything_once_and_then_what_changes(house: House, rest: httpx.Client) -> None:
    [before] = submit(house, Task("echo", name="before", project="p"))
    until("the gateway knows it", lambda: state_in_snapshot(rest, before) == "succeeded")
    with events(rest) as stream:
        first = next(stream)
        assert first.kind == "snapshot"
        assert first.data["link"]["up"] is True
        [row] = [row for row in first.data["tasks"] if row["id"] == before]
        assert (row["name"], row["project"], row["state"]) == ("before", "p", "succeeded")
        [after] = submit(house, Task("echo", name="after"))
        seen: dict[str, Any] = {}
        follow(stream, seen, lambda: over(seen, [after]))
        assert before not in seen
        assert seen[after]["name"] == "after"
        assert seen[after]["worker"] == "w1"
        view = rest.get(f"/tasks/{after}").json()
        assert {name: view[name] for name in seen[after]} == seen[after]


def state_in_snapshot(rest: httpx.Client, id: str) -> str | None:
    with events(rest) as stream:
        rows = {row["id"]: row for row in next(stream).data.get("tasks", [])}
    return rows[id]["state"] if id in rows else None


def test_workers_and_the_broker_s_figures_come_too(rest: httpx.Client) -> None:
    with events(rest) as stream:
        names: set[str] = set()
        seq = 0
        for event in stream:
            names |= {one["name"] for one in event.data.get("workers", [])}
            seq = event.data.get("broker", {}).get("seq", seq)
            if "w1" in names and seq:
                break


def test_one_who_comes_back_gets_what_was_missed(house: House, rest: httpx.Client) -> None:
    with events(rest) as stream:
        last = next(stream).id
    ids = submit(house, *[Task("echo", {"n": n}) for n in range(3)])
    seen: dict[str, Any] = {}
    with events(rest, last) as stream:
        first = next(stream)
        assert first.kind == "delta"
        seen.update({row["id"]: row for row in first.data.get("tasks", [])})
        if not over(seen, ids):
            follow(stream, seen, lambda: over(seen, ids))
    assert set(seen) >= set(ids)


@pytest.mark.parametrize("last", ["", "nonsense", "00000000/5", "{boot}/99999999999", "{boot}/x"])
def test_one_whose_place_is_unknown_begins_anew(rest: httpx.Client, last: str) -> None:
    with events(rest) as stream:
        boot = next(stream).id.partition("/")[0]
    with events(rest, last.format(boot=boot)) as stream:
        assert next(stream).kind == "snapshot"


def test_at_most_ten_frames_a_second(house: House, rest: httpx.Client) -> None:
    with events(rest) as stream:
        next(stream)
        count, began = 0, time.monotonic()
        with Client(house.fleet.endpoint, timeout=PATIENCE) as client:
            seen: dict[str, Any] = {}
            ids: list[str] = []
            while time.monotonic() - began < 2:
                ids += [one.id for one in client.submit_many([Task("echo")] * 20)]
                for event in stream:
                    count += 1
                    seen.update({row["id"]: row for row in event.data.get("tasks", [])})
                    break
            follow(stream, seen, lambda: over(seen, ids))
        assert 0 < count <= 10 * (time.monotonic() - began) + 1


def test_a_reader_who_does_not_read_costs_nothing_and_gets_the_newest(house: House) -> None:
    host, _, port = house.gateway.bind.rpartition(":")
    with socket.create_connection((host, int(port))) as slow, house.gateway.client() as rest:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.sendall(b"GET /api/v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        ids = submit(house, *[Task("echo", {"n": n}, name="x" * 150) for n in range(3000)])
        seen: dict[str, Any] = {}
        with events(rest) as quick:
            follow(quick, seen, lambda: over(seen, ids[-1:]))
        text = b""
        slow.settimeout(PATIENCE)
        wanted = f'"{ids[-1]}"'.encode()
        while wanted not in text or b'"succeeded"' not in text.rpartition(wanted)[2]:
            piece = slow.recv(65536)
            assert piece
            text += piece


def test_it_stops_in_time_with_streams_open(
    house: House, tmp_path: Path, evidence: Evidence
) -> None:
    with Gateway(tmp_path, house.fleet.endpoint) as gateway, ExitStack() as open_:
        host, _, port = gateway.bind.rpartition(":")
        for _ in range(3):
            client = open_.enter_context(gateway.client())
            next(open_.enter_context(events(client)))
        stuck = open_.enter_context(socket.create_connection((host, int(port))))
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.sendall(b"GET /api/v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with Client(house.fleet.endpoint, timeout=PATIENCE) as client:
            [waited] = client.submit_many([Task("sleep", {"seconds": 600})])
            waiting = open_.enter_context(socket.create_connection((host, int(port))))
            path = f"/api/v1/tasks/{waited.id}/result?wait=60"
            waiting.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            time.sleep(0.2)
            seconds = gateway.stop()
            client.cancel([waited.id])
    evidence.record("gateway stops with open streams", seconds=round(seconds, 2))
    assert seconds < 2


def test_a_restart_of_the_gateway_begins_anew(house: House, tmp_path: Path) -> None:
    [id] = submit(house, Task("echo"))
    with Gateway(tmp_path, house.fleet.endpoint) as gateway, gateway.client() as rest:
        with events(rest) as stream:
            last = next(stream).id
        gateway.stop()
        gateway.start()
        with events(rest, last) as stream:
            event = next(stream)
            seen = {row["id"]: row for row in event.data.get("tasks", [])}
            assert event.kind == "snapshot"
            if not over(seen, [id]):
                follow(stream, seen, lambda: over(seen, [id]))


def test_a_restart_of_the_broker_is_told_and_survived(fleet: Fleet, tmp_path: Path) -> None:
    fleet.start_worker("w1", 2)
    house = House(fleet, Gateway(tmp_path, fleet.endpoint))
    with house.gateway as gateway, gateway.client() as rest, events(rest) as stream:
        [first] = submit(house, Task("echo"))
        seen: dict[str, Any] = {}
        follow(stream, seen, lambda: over(seen, [first]))
        fleet.broker.kill()
        assert next(e for e in stream if "link" in e.data).data["link"]["up"] is False
        fleet.broker.start()
        assert next(e for e in stream if "link" in e.data).data["link"]["up"] is True
        until("w1 is back", lambda: statuses(rest) == ["available"])
        [second] = submit(house, Task("echo"))
        follow(stream, seen, lambda: over(seen, [second]))


def statuses(rest: httpx.Client) -> list[str]:
    answer = rest.get("/fleet")
    return [one["status"] for one in answer.json()] if answer.status_code == 200 else []


def test_streams_are_bounded(house: House, tmp_path: Path) -> None:
    two = "gateway: {rate: 100000, streams: 2}\n"
    with Gateway(tmp_path, house.fleet.endpoint, config=two) as gateway, gateway.client() as rest:
        with events(rest) as one, events(rest) as other:
            next(one), next(other)
            refused = rest.get("/stream")
            assert (refused.status_code, refused.json()["code"]) == (503, "too_many_streams")
        until("one is free", lambda: _opens(rest))


def _opens(rest: httpx.Client) -> bool:
    with rest.stream("GET", "/stream") as answer:
        return answer.status_code == 200
