"""The page as server-sent events: everything once, then what changed, at most ten times a second.

One reader is one response. It keeps nothing but the revision it knows: a reader that is slow gets,
when it can take more, the newest state and not a queue. What a frame holds is `page`'s matter.

A stream ends by itself when the gateway stops; uvicorn would wait for it, and then cut it off with
an error.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress

from starlette.types import Receive, Scope, Send

from corral.gateway.page import Frame, Page
from corral.jsons import encode

INTERVAL = 0.1  # seconds between frames
PING = 15.0  # seconds of silence after which a comment keeps the connection open
PIECE = 64 << 10  # bytes handed to the server at once, so that one slow reader buffers little
GOODBYE = 0.2  # seconds that a reader has to take what is on its way when the gateway stops
HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store",
    "x-accel-buffering": "no",  # for nginx: pass on what comes when it comes
}


class Hub:
    """What all streams share: the page, its boot id, the pace, and frames that were encoded."""

    def __init__(self, page: Page, most: int) -> None:
        self.page = page
        self.most = most  #: streams at once
        self.boot = secrets.token_hex(4)  #: of this process: revisions of another mean nothing
        self.closing = asyncio.Event()
        self._news = asyncio.Event()
        self._told = page.rev  #: the revision at the last beat
        self._encoded: dict[int | None, tuple[int, bytes]] = {}  #: since then

    async def run(self) -> None:
        """Set the pace, until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL)
            if self.page.rev != self._told:
                self._told = self.page.rev
                self._encoded.clear()
                self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def close(self) -> None:
        """End every stream."""
        self.closing.set()
        self._wake()

    async def news(self, known: int) -> bool:
        """Wait for the next frame; False when nothing has changed for long."""
        if known < self._told:
            await asyncio.sleep(INTERVAL)  # it was slow, and missed the beat
            return True
        with suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), PING)
        return self.page.rev != known

    def frame(self, known: int | None) -> tuple[int, bytes]:
        """The revision that follows `known`, and its event. Readers in step share one encoding."""
        found = self._encoded.get(known)
        if found is None:
            found = self._encoded[known] = self._encode(known)
        return found

    def _encode(self, known: int | None) -> tuple[int, bytes]:
        frame = None if known is None else self.page.since(known)
        kind = b"snapshot" if frame is None else b"delta"
        told: Frame = self.page.everything() if frame is None else frame
        id = f"{self.boot}/{told.at}".encode()
        return told.at, b"event: %b\nid: %b\ndata: %b\n\n" % (kind, id, encode(told))

    def known(self, last_event_id: str) -> int | None:
        """The revision that a reader who comes back knows; None for one who must begin anew."""
        boot, _, rev = last_event_id.partition("/")
        if boot != self.boot or not (rev.isascii() and rev.isdecimal() and len(rev) < 16):
            return None
        return int(rev) if int(rev) <= self.page.rev else None


class EventStream:
    """One open page."""

    def __init__(
        self, hub: Hub, last_event_id: str, welcome: Callable[[], bool], ended: Callable[[], None]
    ) -> None:
        """`welcome` is asked again and again: a token may be revoked meanwhile."""
        self._hub = hub
        self._known = hub.known(last_event_id)
        self._welcome = welcome
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve it."""
        try:
            await self._serve(receive, send)
        finally:
            self._ended()

    async def _serve(self, receive: Receive, send: Send) -> None:
        headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        writer = asyncio.create_task(self._write(_in_pieces(send)))
        gone = asyncio.create_task(_disconnected(receive))
        closing = asyncio.create_task(self._hub.closing.wait())
        try:
            await asyncio.wait({writer, gone, closing}, return_when=asyncio.FIRST_COMPLETED)
            if closing.done():
                await asyncio.wait({writer}, timeout=GOODBYE)
        finally:
            for task in (writer, gone, closing):
                task.cancel()
            await asyncio.gather(writer, gone, closing, return_exceptions=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE):
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _write(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        known = self._known
        await send(b"retry: 1000\n\n")
        fresh = known != self._hub.page.rev
        while self._welcome() and not self._hub.closing.is_set():
            if fresh or known is None:
                known, event = self._hub.frame(known)
                await send(event)
            else:
                await send(b": ping\n\n")
            fresh = await self._hub.news(known)


def _in_pieces(send: Send) -> Callable[[bytes], Awaitable[None]]:
    async def give(data: bytes) -> None:
        for start in range(0, len(data), PIECE):
            piece = data[start : start + PIECE]
            await send({"type": "http.response.body", "body": piece, "more_body": True})

    return give


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
