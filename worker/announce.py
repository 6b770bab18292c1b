"""What this machine's handlers are: found in a process of its own, so that no agent imports them.

`found` is the agent's side; `python -P -m worker.announce` is the other, and writes to its standard
output what `found` reads. A handler whose modules are missing is announced with the extra that
brings them, so that the broker can say why it does not run here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import EntryPoint

import msgspec

from corral import handlers
from corral.errors import CorralError, MissingExtra, Usage
from corral.messages import Kind
from worker import extras
from worker.failures import trace

PATIENCE = 60.0  # seconds for all handlers to be imported


class Found(msgspec.Struct, frozen=True):
    """What was found: kinds to announce, and lines for the log."""

    kinds: list[Kind]
    notes: list[str]


def found(only: tuple[str, ...]) -> Found:
    """The kinds that are installed, or those of them in `only`.

    Raises:
        Usage: `only` names a kind that is not installed.
        CorralError: the handlers cannot be looked at.
    """
    installed = handlers.discover()
    if unknown := [kind for kind in only if kind not in installed]:
        what = f"no handler is installed for {', '.join(unknown)}; there are"
        raise Usage(what=f"{what} {', '.join(sorted(installed))}")
    command = [sys.executable, "-P", "-m", "worker.announce", *(only or installed)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=PATIENCE, check=True
        )
        return msgspec.msgpack.decode(done.stdout, type=Found)
    except (OSError, subprocess.SubprocessError, msgspec.MsgspecError) as bad:
        raise CorralError(what=f"the installed handlers cannot be imported: {bad}") from bad


def look(kind: str, entry: EntryPoint) -> tuple[Kind | None, str]:
    """What to announce about one handler, and a line for the log when it cannot run here."""
    lack = extras.of_entry(entry)
    if lack is None:
        try:
            return handlers.load(kind).announce(), ""
        except MissingExtra as missing:
            install = f"corral[{missing.fields['extra']}]"
            lack = extras.Lack(install, f"{missing.message} {missing.cure}")
        except ModuleNotFoundError as missing:
            lack = extras.of_module(missing.name or str(missing), entry)
        except Exception as bad:
            return None, f"{kind} is left out, because {entry.value} is broken: {trace(bad)}"
    return Kind(kind, extra=lack.install), f"{kind} cannot run here: {lack.text}"


def main() -> None:
    """Arguments: the kinds to look at."""
    output = os.dup(1)
    os.dup2(2, 1)  # what handlers print when they are imported is no announcement
    installed = handlers.discover()
    looks = [look(kind, installed[kind]) for kind in sys.argv[1:]]
    answer = Found([kind for kind, _ in looks if kind], [note for _, note in looks if note])
    with os.fdopen(output, "wb") as file:
        file.write(msgspec.msgpack.encode(answer))


if __name__ == "__main__":
    main()
