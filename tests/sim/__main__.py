"""Run simulated hours from the command line: `python -m tests.sim --seed 7 --hours 1`.

Prints what each hour was, a line of JSON; at the first broken promise, the seed and the story of
what it concerns, and exits with 1. Each hour has the seed after the one before.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict

from tests.sim.run import Broken, simulate
from tests.sim.world import EVERY


def main() -> int:
    """Run hours with consecutive seeds."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the first hour")
    parser.add_argument("--hours", type=float, default=1.0, help="of virtual time")
    parser.add_argument("--every", type=float, default=EVERY, help="seconds between two faults")
    parser.add_argument(
        "--tolerant", action="store_true", help="an exception of the broker only kills it"
    )
    options = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        # Sets of strings have an order of their own in each process unless this is fixed.
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "PYTHONHASHSEED": "0"})
    left, seed = options.hours, options.seed
    while left > 0:
        try:
            report = simulate(seed, min(left, 1.0), not options.tolerant, options.every)
        except Broken as broken:
            print(broken)
            return 1
        print(json.dumps(asdict(report)), flush=True)
        left, seed = left - 1.0, seed + 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
