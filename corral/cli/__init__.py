"""The command line: one file per noun, listed in `corral.cli.root`.

    root     the commands by name; what becomes of errors and Ctrl-C
    options  what commands share: --broker, --key, -o, units, ids that complete
    output   data on stdout as table, json, jsonl or name; talk on stderr
    views    how tasks, workers and explanations read to a person

The CLI is a client like any other and never imports broker or worker: it executes their console
scripts. Nothing heavy is imported before a command needs it, so that help is quick.
"""

from __future__ import annotations


def main() -> None:
    """Entry point of `corral`."""
    from corral.cli.root import run

    raise SystemExit(run())
