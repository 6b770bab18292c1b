"""The broker's settings as plain data: what each means, and its default.

Only data, so that the pure core can take it as an argument. Reading files and the environment is
`corral.config`'s work.
"""

from __future__ import annotations

from msgspec import Struct

RESULT_LIMIT = 32 << 20  # bytes of one packed result
LEAST_MESSAGE = RESULT_LIMIT + (4 << 20)  # such a result, and the smaller ones that travel with it


class BrokerSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section `broker` of the configuration. Times are seconds."""

    heartbeat: float = 2.0  #: between beats, both ways
    suspect_after: float = 6.0  #: of silence: nothing new is given
    unavailable_after: float = 10.0  #: of silence: the lease ends, attempts are queued again
    gone_after: float = 300.0  #: of silence: leaves the registry
    adoption_window: float = 30.0  #: after a start, for workers to announce what they run
    prefer_gpu_wait: float = 60.0  #: longest wait for a GPU before the CPU variant is taken
    run_queue: float = 0.02  #: work a slot may hold in advance
    cancel_grace: float = 10.0  #: between asking an attempt to stop and killing it
    plain_run_limit: float = 3600.0  #: for workers that speak plain Majordomo
    plain_queue_limit: float = 3600.0  #: for requests of plain clients
    fold_after: float = 600.0  #: of a resend before equal plain requests are separate again
    retention: float = 30 * 86400.0  #: how long an ended task and its result are kept
    in_memory: int = 200_000  #: ended tasks kept at hand; older ones are read from the store
    in_memory_bytes: int = 512 << 20  #: of params and results of these ended tasks
    max_tasks: int = 2_000_000  #: unfinished tasks; more are refused
    max_task_bytes: int = 2 << 30  #: of params, and of failures, that these carry in memory
    max_workers: int = 10_000
    max_message: int = 64 << 20  #: bytes; what brings a larger one is cut off
    inline_result: int = 64 << 10  #: bytes; larger results become files
    named: dict[str, int] = {}  #: fleet-wide counted resources, such as {"ib_gateway": 1}
    weights: dict[str, float] = {}  #: share of a project against another; 1 unless named here
