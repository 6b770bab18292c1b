"""A gateway that serves: its parts joined, started, and stopped in order.

Streams end before uvicorn is told to stop, which would wait for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from corral.client import AsyncClient
from corral.config import Settings
from corral.gateway.app import build
from corral.gateway.door import LOOPBACK, Door, Guests, Pace, Tokens
from corral.gateway.expected import Expected
from corral.gateway.history import History
from corral.gateway.metrics import Counted
from corral.gateway.stream import Hub
from corral.gateway.tally import Tally
from corral.gateway.upstream import Upstream
from corral.systemd import Systemd

log = logging.getLogger("corral.gateway")

FIRST_CONTACT = 2.0  # seconds that the broker has to be heard before this serves without it
STOP_SECONDS = 0.5  # that requests in hand have; streams end by themselves
HEAD_SECONDS = 10.0  # in which the head of a request must have come
BEAT = 0.5  # seconds between turns that feed the watchdog


async def serve(
    settings: Settings, listening: socket.socket, host: str, audit: Callable[[bytes], None]
) -> None:
    """Answer at a socket that listens, until SIGTERM; `host` is the name it was bound by."""
    mine = settings.gateway
    guests = Guests(Tokens(Path(mine.tokens)) if mine.tokens else None)
    hosts = LOOPBACK | {host.lower(), *(name.lower() for name in mine.hosts)}
    connect = partial(
        AsyncClient,
        settings.endpoints,
        key=settings.key,
        timeout=settings.timeout,
        project=settings.project,
    )
    keep = mine.history_retention
    history = History(Path(mine.history), keep) if mine.history else None
    expected = Expected(Path(mine.expect)) if mine.expect else None
    upstream = Upstream(connect, ", ".join(settings.endpoints), history, expected)
    hub = Hub(upstream.page, mine.streams)
    app = build(upstream, hub, guests, mine.max_body)
    door = Door(app, guests, hosts, Pace(mine.rate), audit)
    server = _server(Counted(door, upstream.tally))
    systemd = Systemd()
    background = [
        asyncio.create_task(one)
        for one in (upstream.run(), hub.run(), _watchdog(systemd, upstream.tally))
    ]

    def stop() -> None:
        hub.close()
        server.should_exit = True
        loop.call_later(STOP_SECONDS, setattr, server, "force_exit", True)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    for task in background:
        task.add_done_callback(lambda _: stop())  # none ends by itself but for a defect
    await upstream.first_contact(FIRST_CONTACT)
    host, port = listening.getsockname()[:2]
    where = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    who = "tokens are wanted" if guests.table else "no token is needed"
    log.info("serving %s for the broker at %s; %s", where, upstream.endpoint, who)
    systemd.tell(READY=1, STATUS=f"serving {where}")
    await server.serve(sockets=[listening])
    systemd.tell(STOPPING=1)
    for task in background:
        task.cancel()
    ends = await asyncio.gather(*background, return_exceptions=True)
    if history is not None:
        history.close(time.time())
    for ended in ends:
        if not isinstance(ended, asyncio.CancelledError):
            raise ended or AssertionError("a loop of the gateway has ended")


class _Server(uvicorn.Server):
    """Uvicorn's server; signals are the gateway's own matter, since streams must end first."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Protocol(H11Protocol):
    """Uvicorn's, which waits for ever for the rest of a request that was begun."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        self._look()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._cancel()

    def _look(self) -> None:
        """Give the next request its time, from when the last one was answered."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._cancel()
        elif self._late is None:
            self._late = self.loop.call_later(HEAD_SECONDS, self.timeout_keep_alive_handler)

    def _cancel(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


def _server(app: Counted) -> _Server:
    return _Server(
        uvicorn.Config(
            app,
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
        )
    )


async def _watchdog(systemd: Systemd, tally: Tally) -> None:
    """Tell systemd that the loop turns, and note by how much it came late."""
    while True:
        began = time.monotonic()
        systemd.turned(began)
        await asyncio.sleep(BEAT)
        tally.lags.append(time.monotonic() - began - BEAT)
