"""A private Redis on a random loopback port, which syncs every write before it answers."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from bench.processes import BenchError, accepts, free_port, process

URL = "BENCH_REDIS"  # the environment variable by which the peers' workers find it


def choose_url() -> None:
    """Fixes where Redis will listen, before the peers' modules, which ask at import."""
    os.environ[URL] = f"redis://127.0.0.1:{free_port()}/0"


def url() -> str:
    """Returns the address of this measurement's Redis."""
    return os.environ[URL]


def server() -> str:
    """Returns the path of redis-server.

    Raises:
        BenchError: there is none.
    """
    path = shutil.which("redis-server")
    if path is None:
        raise BenchError("redis-server is missing; type: apt-get install redis-server")
    return path


def version() -> str:
    """Returns the version of redis-server."""
    told = subprocess.run([server(), "--version"], capture_output=True, text=True, check=True)
    return told.stdout.partition("v=")[2].split()[0]


@contextmanager
def private_redis(folder: Path) -> Iterator[int]:
    """Runs Redis in `folder` and yields its process id.

    Raises:
        BenchError: there is no redis-server, it does not start, or does not sync every write.
    """
    port = int(url().rpartition(":")[2].removesuffix("/0"))
    command = (
        server(), "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", "",
        "--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0",
    )  # fmt: skip
    with process(*command, log=folder / "redis.log", ready=accepts(port)) as server_process:
        with redis.Redis.from_url(url()) as client:
            durable = client.config_get("append*")
        if (durable["appendonly"], durable["appendfsync"]) != ("yes", "always"):
            raise BenchError(f"Redis does not sync every write: {durable}")
        yield server_process.pid
