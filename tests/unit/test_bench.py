"""The bench judges fairly: wrong bytes are seen, ratios stay in a round, bounds mean what they say.

What the peers measure is `make bench`'s business; nothing is started here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest

from bench.bounds import BASELINE, Bound, Verdict, judged
from bench.fleet import __main__ as fleet
from bench.measure import collect_all, payloads
from bench.peers import Session
from bench.processes import BenchError
from bench.report import as_json, page, tables
from bench.results import Run

Collected = Iterator[tuple[int, bytes]]


def session(collect: Callable[[Sequence[bytes]], Collected]) -> Session:
    return Session(collect=collect, trip=bytes, broker=())


def run_of(**rates: list[float]) -> Run:
    names = {"one": "corral-1", "hundred": "corral-100"}
    peers = {
        names.get(name, name): [
            {"tasks_per_s": rate, "broker_cpu_us": 20.0, "p50_us": 500.0} for rate in series
        ]
        for name, series in rates.items()
    }
    return Run("bench", "now", quick=False, machine={}, peers=peers)


def test_payloads_are_256_random_bytes() -> None:
    made = payloads(1000)
    assert {len(payload) for payload in made} == {256}
    assert len(set(made)) == 1000


def test_results_in_any_order_are_accepted() -> None:
    collect_all(session(lambda sent: reversed(list(enumerate(sent)))), payloads(50))


def test_one_wrong_byte_fails() -> None:
    def collect(sent: Sequence[bytes]) -> Collected:
        for position, payload in enumerate(sent):
            yield position, payload if position != 7 else payload[:-1] + bytes([payload[-1] ^ 1])

    with pytest.raises(BenchError, match="task 7 returned other bytes"):
        collect_all(session(collect), payloads(20))


def test_a_result_of_another_task_fails() -> None:
    def collect(sent: Sequence[bytes]) -> Collected:
        yield from ((position, sent[0]) for position in range(len(sent)))

    with pytest.raises(BenchError, match="task 1 returned other bytes"):
        collect_all(session(collect), payloads(20))


def test_a_missing_result_fails() -> None:
    with pytest.raises(BenchError, match="1 of 20 results are missing"):
        collect_all(session(lambda sent: iter(list(enumerate(sent))[1:])), payloads(20))


def test_a_result_that_comes_twice_fails() -> None:
    with pytest.raises(BenchError, match="task 3 returned twice"):
        collect_all(session(lambda sent: iter([*enumerate(sent), (3, sent[3])])), payloads(20))


def test_ratios_are_taken_within_a_round() -> None:
    run = run_of(one=[20.0, 300.0, 100.0], plain=[10.0, 100.0, 100.0])
    assert run.ratios("corral-1", "plain", "tasks_per_s") == [2.0, 3.0, 1.0]


def test_the_best_durable_peer_is_another_one_and_syncs() -> None:
    run = run_of(
        one=[90.0], hundred=[900.0], plain=[5000.0], dask=[400.0], huey=[20.0], celery=[30.0]
    )
    assert run.over_best_durable("corral-1") == [3.0]


@pytest.mark.parametrize(
    ("value", "at_least", "word"),
    [
        (2.0, True, "met"),
        (1.99, True, "MISSED"),
        (1.19, True, "MISSED, below the floor"),
        (2.0, False, "met"),
        (2.01, False, "MISSED"),
    ],
)
def test_verdicts(value: float, at_least: bool, word: str) -> None:
    floor = 1.2 if at_least else None
    bound = Bound("it", "x", 2.0, lambda run: [], at_least=at_least, floor=floor)
    assert Verdict(bound, value).word == word


def test_a_run_judges_only_what_it_measured() -> None:
    assert judged(run_of()) == []
    words = {
        verdict.bound.what: verdict.word for verdict in judged(run_of(one=[10.0], plain=[10.0]))
    }
    assert words["batch=1 against the plain pyzmq broker"] == "MISSED, below the floor"
    assert "batch=100 against the plain pyzmq broker" not in words


def test_a_report_says_what_was_missed() -> None:
    run = run_of(one=[10.0], plain=[10.0])
    assert "MISSED, below the floor" in tables(run)
    assert '"verdict": "MISSED, below the floor"' in as_json(run)


def test_the_page_of_the_docs_holds_machine_method_and_figures() -> None:
    run = run_of(one=[10.0], plain=[10.0])
    run.machine["fdatasync_us"] = 54.0
    run.figures["queue"] = {"bytes_per_task": 1300.0, "recovery_s": 0.5}
    written = page(run)
    for part in (
        "fdatasync us: 54.0",
        "| Corral, batch=1",
        "bytes per task 1,300",
        "1,300 B",
        "MISSED",
    ):
        assert part in written
    assert "quick look" not in written


def test_a_quick_run_says_that_it_is_no_result() -> None:
    run = run_of(one=[10.0], plain=[10.0])
    run.quick = True
    assert "quick look" in tables(run)


def test_the_baseline_stays_small() -> None:
    assert len(BASELINE.read_text().splitlines()) <= 60


# --- of the fleet -------------------------------------------------------------------------------


@pytest.mark.parametrize(("slowest", "status"), [(30.0, 0), (29.9, 1)])
def test_a_fleet_that_misses_a_bound_fails_the_run(
    slowest: float,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ours, theirs = fleet.Figure(10, 10.0, 0), fleet.Figure(1000, slowest, 0)
    pairs = [(work, 30, fleet.Pair(ours, theirs)) for work in (fleet.CREATE, fleet.NOTHING)]
    monkeypatch.setattr(fleet, "compared", lambda *_: iter(pairs))
    monkeypatch.setattr("sys.argv", ["run.sh"])
    monkeypatch.setattr("signal.signal", lambda *_: None)  # those of this process stay
    assert fleet.main() == status
    assert capsys.readouterr().out.count("MISSED") == status


def test_the_page_of_the_fleet_says_that_every_bound_is_met() -> None:
    written = fleet.PAGE.read_text(encoding="utf-8")
    assert "MISSED" not in written
    assert written.count(": met\n") >= len(fleet.BOUNDS)
