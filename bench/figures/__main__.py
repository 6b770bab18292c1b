"""One figure in a process of its own. Prints its numbers as JSON."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path


def main(name: str, folder: str, share: str) -> None:
    """Measures one figure, with that share of its tasks or workers."""
    json.dump(
        importlib.import_module(f"bench.figures.{name}").measure(Path(folder), float(share)),
        sys.stdout,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
