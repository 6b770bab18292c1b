"""The one connection to the broker: a client like any other, and what it keeps current.

Nobody else of the gateway connects. While the broker is away every call is refused at once with
the time since when; the connection is made again by itself, and page and tally go on from the last
durable change that was seen.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable
from contextlib import suppress

from corral.client import AsyncClient
from corral.errors import BrokerUnreachable, CorralError, NotFound, TooManyWatches
from corral.gateway.expected import Expected
from corral.gateway.history import History
from corral.gateway.page import Page, Row
from corral.gateway.problems import BrokerAway, moment
from corral.gateway.tally import Tally
from corral.gateway.trends import Trends
from corral.messages import BrokerView, TaskView, Update, WorkerView

log = logging.getLogger("corral.gateway")

POLL = 1.0  # seconds between looks at figures, and at workers while somebody watches
UNWATCHED = 5  # looks at figures for one at workers while nobody does
LOOK = 0.2  # seconds between looks at the connection
GRACE = 1.0  # seconds that a connection may be lost before the broker counts as away
PAUSE = 2.0  # seconds before a client, or a watch, that was refused is made again
TURN = 200  # changes folded before others have their turn
LOOKED_UP = 100  # tasks at once of which only a change is known


class Upstream:
    """The broker, as the gateway sees it."""

    def __init__(
        self,
        connect: Callable[[], AsyncClient],
        endpoint: str,
        history: History | None = None,
        expected: Expected | None = None,
    ) -> None:
        now = time.time()
        self.endpoint = endpoint
        self.page = Page(now)
        self.tally = Tally()
        self.history = history
        self.expected = expected
        self.trends = Trends(*(history.told() if history else ()))
        self.watched = 0  #: open streams: without one nobody needs the workers each second
        self.ready = asyncio.Event()  #: the broker was heard once
        self._connect = connect
        self._client: AsyncClient | None = None
        self._seq = 0
        self._away: tuple[float, str] | None = (now, "it was not heard yet")

    @property
    def away_since(self) -> float | None:
        """Since when the broker is not heard; None while it is."""
        return None if self._away is None else self._away[0]

    @property
    def client(self) -> AsyncClient:
        """The client of the broker.

        Raises:
            BrokerAway: it would not be answered.
        """
        if self._away is not None or self._client is None:
            raise self.away()
        return self._client

    def away(self) -> BrokerAway:
        """What to tell one who asks while the broker is away."""
        since, why = self._away or (time.time(), "it does not answer")
        return BrokerAway(endpoint=self.endpoint, since=moment(since), why=why)

    async def run(self) -> None:
        """Keep a client, and the page current, until cancelled."""
        while True:
            self._client = self._connect()
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._keep_watching(self._client))
                    group.create_task(self._poll(self._client))
                    group.create_task(self._look(self._client))
            except* CorralError as refused:
                self._lost(" ".join(str(error) for error in refused.exceptions))
            finally:
                await self._client.close()
            await asyncio.sleep(PAUSE)

    async def _keep_watching(self, client: AsyncClient) -> None:
        """Watch as soon as the broker has a place for it; it answers all else meanwhile."""
        while True:
            try:
                await self._watch(client)
            except TooManyWatches as full:
                log.warning("the page stands still: %s", full)
            await asyncio.sleep(PAUSE)

    async def _watch(self, client: AsyncClient) -> None:
        """Fold what happens into the page."""
        folded = 0
        async for change in client.changes(client.subscribe([], self._seq)):
            row = self.page.fold(change)
            self.tally.fold(change)
            if isinstance(change, Update):
                self._seq = change.seq
                self.trends.fold(change)
            self._note(change, row)
            folded += 1
            if folded % TURN == 0:
                await asyncio.sleep(0)  # a burst is handed out without a pause

    async def _poll(self, client: AsyncClient) -> None:
        """Ask for what no change tells: figures, workers, what a task is called."""
        for turn in itertools.count():
            if self.expected is not None:
                self.page.see_expected(self.expected.names())
            try:
                if client.connected:
                    view = await client.status()
                    self._heard()
                    self.page.see_broker(view)
                    self.tally.begin(view)
                    self._see_depth(view)
                    if self.watched or turn % UNWATCHED == 0:
                        workers = await client.workers()
                        self._see_workers(workers)
                        await self._look_up(client)
            except BrokerUnreachable:
                self._lost("it does not answer")
            if self.history is not None:
                told = self.history.take()
                await asyncio.to_thread(self.history.write, told, time.time())
            await asyncio.sleep(POLL if client.connected else LOOK)

    def _note(self, change: Update | TaskView, row: Row) -> None:
        """Remember what a task has become."""
        if self.history is None:
            return
        if isinstance(change, TaskView):
            self.history.see_view(change, row)
        elif change.state is not None:
            self.history.see(row, change.at)

    def _see_depth(self, view: BrokerView) -> None:
        depth = self.trends.see(view, time.time())
        if self.history is not None:
            self.history.see_depth(depth)

    def _see_workers(self, views: list[WorkerView]) -> None:
        now = time.time()
        self.page.see_workers(views)
        changes = self.trends.see_workers(views, now)
        if self.history is not None:
            self.history.see_workers(views, now)
            for change in changes:
                self.history.see_change(change)

    async def _look_up(self, client: AsyncClient) -> None:
        """Learn what tasks are of which the page knows no more than a change."""
        try:
            nameless = self.page.nameless(LOOKED_UP)
            for view in await client.show(nameless) if nameless else ():
                self.page.fold(view)
        except NotFound as gone:
            self.page.drop(str(gone.fields.get("name")))

    async def _look(self, client: AsyncClient) -> None:
        """Notice that the connection is lost, and before anybody has waited for an answer."""
        connected = time.monotonic()
        while True:
            if client.connected:
                connected = time.monotonic()
            elif time.monotonic() - connected > GRACE:
                self._lost("the connection is lost")
            await asyncio.sleep(LOOK)

    def _heard(self) -> None:
        if self._away is not None:
            log.info("the broker at %s answers", self.endpoint)
            self._away = None
            self.page.see_link(True, time.time())
        self.ready.set()

    def _lost(self, why: str) -> None:
        if self._away is None:
            log.warning("the broker at %s is away: %s", self.endpoint, why)
            self._away = (time.time(), why)
            self.page.see_link(False, time.time())
        else:
            self._away = (self._away[0], why)

    async def first_contact(self, seconds: float) -> None:
        """Wait until the broker was heard, but no longer than this."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.ready.wait(), seconds)
