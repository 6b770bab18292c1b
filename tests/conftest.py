"""Options and fixtures that every tier shares. What a tier needs alone is in its own folder."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.evidence import LONG, SHORT, Evidence, Scale

EVIDENCE = pytest.StashKey[Evidence]()
STARTED = pytest.StashKey[float]()
LONG_TIMEOUT = 6 * 3600  # seconds for one test of a long run

# A busy machine is no failed property: no deadline, no complaint that examples come slowly.
settings.register_profile("short", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("long", settings.get_profile("short"), max_examples=2_000)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("corral")
    group.addoption("--long", action="store_true", help="run the full figures (hours)")
    group.addoption("--evidence", type=Path, metavar="FILE", help="write what was measured here")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[EVIDENCE] = Evidence()
    config.stash[STARTED] = time.monotonic()
    settings.load_profile("long" if config.getoption("long") else "short")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("long"):
        for item in items:
            item.add_marker(pytest.mark.timeout(LONG_TIMEOUT), append=False)


@pytest.fixture(scope="session")
def scale(pytestconfig: pytest.Config) -> Scale:
    """How much to repeat: `scale.kills`, `scale.sim_hours`."""
    return LONG if pytestconfig.getoption("long") else SHORT


@pytest.fixture(scope="session")
def evidence(pytestconfig: pytest.Config) -> Evidence:
    """Where a test writes down what it measured: `evidence.record("promise", figure=1)`."""
    return pytestconfig.stash[EVIDENCE]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    found = config.stash[EVIDENCE]
    if found.rows:
        terminalreporter.section("measured")
        for line in found.lines():
            terminalreporter.line(line)
    path: Path | None = config.getoption("evidence")
    if path is not None and exitstatus == pytest.ExitCode.OK:
        passed = len(terminalreporter.stats.get("passed", []))
        seconds = time.monotonic() - config.stash[STARTED]
        path.parent.mkdir(parents=True, exist_ok=True)
        scale = LONG if config.getoption("long") else SHORT
        path.write_text(found.page(passed, seconds, scale), encoding="utf-8")
        terminalreporter.line(f"evidence: wrote {path}")
