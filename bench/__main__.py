"""The bench's command line: every peer in interleaved rounds, then Corral's own figures, a report.

Each measurement is a process of its own, so that no peer's threads or garbage weigh on the next.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from bench import ROOT, private_redis, profiles, report
from bench.bounds import judged
from bench.figures import FIGURES
from bench.machine import facts, stolen
from bench.peers import PEERS
from bench.processes import BenchError
from bench.results import Round, Run

RESULTS = ROOT / "bench" / "results"
PAGE = ROOT / "docs" / "reference" / "benchmarks.md"
MEASUREMENT_SECONDS = 600


def arguments() -> argparse.Namespace:
    """Parses the command line."""
    names = [*PEERS, *FIGURES]
    parser = argparse.ArgumentParser(prog="bench/run.sh", description=__doc__)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one round and a fifth of the tasks: a look, not a result",
    )
    parser.add_argument(
        "--only",
        metavar="NAME",
        action="append",
        choices=names,
        help=f"measure only this (repeatable): {', '.join(names)}",
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds through all peers (3)")
    parser.add_argument(
        "--folder",
        type=Path,
        default=RESULTS,
        help="where the durable ones write; must be a real disk (bench/results)",
    )
    parser.add_argument("--write", action="store_true", help=f"also write {PAGE.relative_to(ROOT)}")
    options = parser.parse_args()
    if options.write and (options.quick or options.only):
        parser.error("--write takes a full run: leave out --quick and --only")
    if options.quick:
        options.rounds = 1
    return options


def measure(name: str, folder: Path, share: float, samples: Path | None = None) -> Round:
    """Runs one measurement in a process and a folder of its own, and returns its figures.

    `samples` is where a sampler puts what it sees of the broker; figures are then worth nothing.

    Raises:
        BenchError: it failed or took too long; whatever it had started is ended.
    """
    module = "bench.client" if name in PEERS else "bench.figures"
    own = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=folder))
    child = subprocess.Popen(
        [sys.executable, "-m", module, name, str(own), str(share)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=ROOT,
        env=os.environ | ({profiles.FOLDER: str(samples)} if samples else {}),
    )
    try:
        output, errors = child.communicate(timeout=MEASUREMENT_SECONDS)
        if child.returncode:
            raise BenchError(f"{name} failed; its logs are in {own}\n{errors.strip()}")
        figures: Round = json.loads(output)
    except BaseException as failure:
        with suppress(ProcessLookupError):  # its group is its own session: all that it started
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        if isinstance(failure, subprocess.TimeoutExpired):
            raise BenchError(
                f"{name} took over {MEASUREMENT_SECONDS} s; its logs are in {own}"
            ) from failure
        raise
    shutil.rmtree(own)
    return figures


def run(options: argparse.Namespace) -> Run:
    """Measures everything that was asked for."""
    stolen_before, ticks_before = stolen()
    chosen = options.only or [*PEERS, *FIGURES]
    share = 0.2 if options.quick else 1.0
    result = Run(
        command=" ".join(["bash bench/run.sh", *sys.argv[1:]]),
        started=time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        quick=options.quick,
        machine=facts(options.folder) | {"redis": private_redis.version()},
    )
    for number in range(options.rounds):
        for name in filter(chosen.__contains__, PEERS):
            measured = measure(name, options.folder, share)
            result.peers.setdefault(name, []).append(measured)
            tell(f"round {number + 1} of {options.rounds}, {name}", measured)
    for name in filter(chosen.__contains__, FIGURES):
        result.figures[name] = measure(name, options.folder, share)
        tell(name, result.figures[name])
    missed = {verdict.bound.culprit for verdict in judged(result) if verdict.ratio < 1} - {""}
    for name in sorted(missed):
        with tempfile.TemporaryDirectory(dir=options.folder) as samples:
            measure(name, options.folder, share, Path(samples))
            result.profiles[name] = profiles.shares(Path(samples))
    stolen_after, ticks_after = stolen()
    share_stolen = (stolen_after - stolen_before) / (ticks_after - ticks_before)
    result.machine["cpu_stolen_by_the_host"] = f"{share_stolen:.1%}"
    result.machine["load_at_end"] = round(os.getloadavg()[0], 2)
    return result


def tell(what: str, figures: Round) -> None:
    """Shows on stderr how far the run is."""
    print(
        f"bench: {what}: " + ", ".join(f"{name} {value:,.6g}" for name, value in figures.items()),
        file=sys.stderr,
    )


def main() -> int:
    """Runs the bench. Returns 1 when something could not be measured or came out wrong."""
    options = arguments()
    options.folder = options.folder.resolve()
    options.folder.mkdir(parents=True, exist_ok=True)
    RESULTS.mkdir(exist_ok=True)
    try:
        result = run(options)
    except BenchError as failure:
        print(f"bench: {failure}", file=sys.stderr)
        return 1
    print(report.tables(result))
    (RESULTS / "latest.json").write_text(report.as_json(result))
    if options.write:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(report.page(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
