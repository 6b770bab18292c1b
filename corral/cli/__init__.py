"""The command line: one file per noun, listed in `corral.cli.root`.

    root     the commands by name; what becomes of errors and Ctrl-C
    options  what commands share: --broker, --key, -o, units, ids that complete
    output   data on stdout as table, json, jsonl or name; talk on stderr
    views    how tasks, workers and explanations read to a person

The CLI is a client like any other and never imports broker or worker: it executes their console
scripts. Nothing heavy is imported before a command needs it, so that help is quick.
"""

from __future__ import annotations

import io
import sys

INTERRUPTED = 130


def main() -> None:
    """Entry point of `corral`."""
    try:
        from corral.cli.root import run
    except KeyboardInterrupt:  # before there is anything to detach from
        raise SystemExit(INTERRUPTED) from None

    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed
            setattr(sys, name, io.TextIOWrapper(io.BytesIO()))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a sign shows `?`
    raise SystemExit(run())
