"""Options and fixtures that every tier shares. What a tier needs alone is in its own folder."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.evidence import LONG, PROPERTY, SHORT, Evidence, Page, Run, Scale, this_run

RUN = pytest.StashKey[Run]()  #: set when a page is to be written
LONG_TIMEOUT = 6 * 3600  # seconds for one test of a long run

#: tests that share a fleet of containers, and what they leave of it: one after the other
FLEET = tuple(f"tests/fleet/{name}/" for name in ("playbooks", "roll", "runtime"))
#: what takes long comes first, so that nobody waits for it in the end
LONGEST = (FLEET, "tests/fleet/test_molecule.py", "tests/sim/", "tests/chaos/")

# A busy machine is no failed property: no deadline, no complaint that examples come slowly.
settings.register_profile("short", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("long", settings.get_profile("short"), max_examples=2_000)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("corral")
    group.addoption("--long", action="store_true", help="run the full figures (hours)")
    group.addoption("--evidence", type=Path, metavar="FILE", help="keep what was measured here")


def pytest_configure(config: pytest.Config) -> None:
    # `make test &` in a script ignores Ctrl-C, and so would all that the tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "long: it has no short form, and is run by --long alone")
    settings.load_profile(scale_of(config).name)
    page: Path | None = config.getoption("evidence")
    if page is not None:
        config.stash[RUN] = this_run(scale_of(config), page)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # The scheduler runs one of all tests that have one id, and schemathesis gives its own but one.
    seen = Counter(item.nodeid for item in items)
    for item in items:
        if seen[item.nodeid] > 1 and item.parent is not None:
            item._id = item.parent.id.child(item.name)
    if len({item.nodeid for item in items}) < len(items):
        raise pytest.UsageError("two tests have one id, and one of them would not run")
    items.sort(key=lambda item: [not item.nodeid.startswith(those) for those in LONGEST])
    if config.getoption("long"):
        for item in items:
            item.add_marker(pytest.mark.timeout(LONG_TIMEOUT), append=False)
    else:
        items[:] = [item for item in items if item.get_closest_marker("long") is None]


class Spread(LoadScopeScheduling):
    """Gives out a file at a time, as its tests may share a broker; those of the fleet at once."""

    def _split_scope(self, nodeid: str) -> str:
        return "fleet" if nodeid.startswith(FLEET) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    config.option.loadscopereorder = False  # the order is that of the collection
    return Spread(config, log)


def scale_of(config: pytest.Config) -> Scale:
    return LONG if config.getoption("long") else SHORT


@pytest.fixture(scope="session")
def scale(pytestconfig: pytest.Config) -> Scale:
    """How much to repeat: `scale.kills`, `scale.sim_hours`."""
    return scale_of(pytestconfig)


@pytest.fixture
def evidence(record_property: Callable[[str, object], None]) -> Evidence:
    """Where a test writes down what it measured: `evidence.record("promise", figure=1)`."""
    return Evidence(record_property)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    stats = terminalreporter.stats
    passed = stats.get("passed", [])
    measured = list(figures_in([*passed, *stats.get("failed", [])]))
    if measured:
        terminalreporter.section("measured")
        for promise, figures in measured:
            terminalreporter.line(f"{promise}: {figures}")
    path: Path | None = config.getoption("evidence")
    if path is not None:
        # A test that passed, and could not clean up behind it, has not passed.
        wrong = {report.nodeid for report in stats.get("error", [])}
        page = Page(path.read_text(encoding="utf-8") if path.exists() else "")
        sound = (report for report in passed if report.nodeid not in wrong)
        page.add(figures_in(sound), config.stash[RUN])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(page), encoding="utf-8")
        terminalreporter.line(f"evidence: wrote {path}")


def figures_in(reports: Iterable[pytest.TestReport]) -> Iterator[tuple[str, str]]:
    """(promise, figures), in the order in which they were measured."""
    for report in reports:
        yield from (what for name, what in report.user_properties if name == PROPERTY)
