"""The SDK: `Client`, and `AsyncClient` for asyncio, over one engine.

link     one connection: sockets, reconnects, refusals of keys
pending  what waits for an answer: calls, submissions, watches
engine   calls answered or raised, submissions in bursts, outcomes, watches
aio      every call of the broker as a method; `AsyncClient`
sync     the same methods without `await`; `Client`
"""

from __future__ import annotations

from corral.client.aio import AsyncClient
from corral.client.handles import AsyncHandle, Handle, Outcome
from corral.client.sync import Client

__all__ = ["AsyncClient", "AsyncHandle", "Client", "Handle", "Outcome"]
