"""The leaderboard and the page at the end of a pipeline."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from corral import handlers
from corral.research import charts, datasets, pipeline, report
from corral.research.report import Outcome, Span
from tests.unit.research.world import FakeRun

SMALL = """
name: small
symbols: [GOOG, IBM]
targets: [up_5d, ret_20d]
families: [ridge, lightgbm]
splits: {folds: 2}
"""


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    """A whole pipeline, computed here and now."""
    results: dict[str, Any] = {}
    tasks = pipeline.expand(pipeline.parse(SMALL, "small.yaml"))
    for task in tasks:
        kind = handlers.load(task.kind)
        run = FakeRun({name: results[parent] for name, parent in task.after.items()})
        params = msgspec.convert(task.params, kind.params_type)
        results[task.name] = msgspec.to_builtins(kind.function(params, run))
    return [Outcome(task.name, task.kind, "succeeded", results[task.name]) for task in tasks]


@pytest.fixture(scope="module")
def spans(outcomes: list[Outcome]) -> list[Span]:
    return [
        Span(f"{number:04x}", one.kind, one.name, f"w{number % 2}", 100.0 + number // 2,
             100.9 + number // 2, one.state)
        for number, one in enumerate(outcomes)
    ]  # fmt: skip


class Page(HTMLParser):
    """What stands in a page: elements with their attributes, and the text that is shown."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.shown = ""
        self.feed(text)
        assert self.open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.shown += data

    def count(self, tag: str, word: str) -> int:
        """How many elements `tag` have the class `word`."""
        return sum(
            name == tag and word in (attributes.get("class") or "").split()
            for name, attributes in self.elements
        )


def test_the_leaderboard_is_ordered_by_what_trading_brought_over_holding(
    outcomes: list[Outcome],
) -> None:
    rows = report.leaderboard(outcomes)
    assert [row.place for row in rows] == list(range(1, 9))
    assert [row.excess for row in rows] == sorted((row.excess for row in rows), reverse=True)
    for row in rows:
        (test,) = [
            one.result
            for one in outcomes
            if one.name == f"{row.symbol}/{row.target}/{row.family}/backtest"
        ]
        assert row.excess == test["strategy"]["sharpe"] - test["buy_and_hold"]["sharpe"]
        assert (row.score, row.baseline) == (test["score"], test["baseline"])
    assert report.leaderboard(reversed(outcomes)) == rows
    assert report.leaderboard([]) == []


def test_the_page_needs_nothing_else(outcomes: list[Outcome], spans: list[Span]) -> None:
    text = report.render_report("Small", outcomes, spans, SMALL, "today")
    page = Page(text)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "use", "image", "a"}
    for _, attributes in page.elements:
        assert not {"src", "href", "xlink:href", "srcset", "data", "action"} & set(attributes)
        assert not [name for name in attributes if name.startswith("on")]
    assert "url(" not in text
    assert "@import" not in text
    assert "http" not in text
    assert len(text) < 1_000_000


def test_the_page_shows_everything(outcomes: list[Outcome], spans: list[Span]) -> None:
    text = report.render_report("Small", outcomes, spans, SMALL, "today")
    page = Page(text)
    assert page.count("rect", "bar") == len(spans) == 22
    assert page.count("polyline", "line") == 8 + 2, "every model, and holding each symbol"
    assert page.count("polyline", "best") == 2
    assert page.count("polyline", "hold") == 2
    assert page.count("circle", "dot") == page.count("circle", "ring") == 8
    for said in (
        "22 / 22", "machinery, not alpha", "survived", "w0", "w1", datasets.REGISTRY[0].sha256,
        "public domain", "bokeh_sampledata", "prefers-color-scheme", "folds: 2", "purged",
    ):  # fmt: skip
        assert said in text
    rows = report.leaderboard(outcomes)
    beaten = sum(row.score > row.luck_95 for row in rows)
    assert f"{beaten} of 8" in page.shown
    assert page.count("circle", "hit") == beaten
    assert f"{rows[0].excess:+.2f}" in page.shown


def test_equal_results_give_equal_pages(outcomes: list[Outcome], spans: list[Span]) -> None:
    pages = {report.render_report("Small", outcomes, spans, SMALL, "today") for _ in range(2)}
    assert len(pages) == 1


def test_what_failed_is_told(outcomes: list[Outcome], spans: list[Span]) -> None:
    lost = [
        Outcome(one.name, one.kind, "failed", None, "disk <full> & cold")
        if one.name.startswith("IBM/up_5d/ridge")
        else one
        for one in outcomes
    ]
    broken = [
        replace(span, state="failed") if span.name == lost[4].name else span for span in spans
    ]
    page = Page(report.render_report("Small", lost, broken, SMALL, "today"))
    assert "What did not succeed" in page.shown
    assert "disk <full> & cold" in page.shown
    assert "20 / 22" in page.shown
    assert page.count("rect", "lost") == 1
    assert page.count("circle", "dot") == 7


def test_a_second_run_that_ran_nothing_says_so(outcomes: list[Outcome]) -> None:
    page = Page(report.render_report("Small", outcomes))
    assert "every result was there already" in page.shown
    assert page.count("rect", "bar") == 0


def test_a_run_in_which_nothing_succeeded_still_has_a_page() -> None:
    page = Page(
        report.render_report("Small", [Outcome("a/rank", "rank_target", "failed", None, "no")])
    )
    assert "0 / 1" in page.shown
    assert page.count("polyline", "line") == 0
    assert "0 / 0" in Page(report.render_report("Small", [])).shown


def test_names_from_outside_stay_text(outcomes: list[Outcome], spans: list[Span]) -> None:
    evil = '"><script>alert(1)</script>'
    spans = [replace(span, worker=evil, name=evil) for span in spans]
    page = Page(report.render_report(evil, outcomes, spans, evil, evil))
    assert "script" not in {tag for tag, _ in page.elements}
    assert page.shown.count(evil) > len(spans)


def test_the_best_of_many_without_skill_is_what_chance_gives() -> None:
    random = np.random.default_rng(8)
    for tries in (5, 60, 500):
        best = random.normal(size=(20_000 // tries, tries)).max(axis=1).mean()
        sample = random.normal(size=tries)
        expected = report.expected_best(list(sample / sample.std(ddof=1)))
        assert expected == pytest.approx(best, rel=0.08)
    assert report.expected_best([1.0]) == report.expected_best([]) == 0


def test_tasks_at_once_get_rows_of_their_own() -> None:
    bars = [charts.Bar("w", start, start + 1.5, "a", "t") for start in (0.0, 1.0, 2.0)]
    one_at_a_time = [charts.Bar("w", start, start + 1.0, "a", "t") for start in (0.0, 1.0, 2.0)]
    assert Page(charts.gantt(bars)).count("rect", "lane") == 2
    assert Page(charts.gantt(one_at_a_time)).count("rect", "lane") == 1
    assert Page(charts.gantt([charts.Bar("w", 5.0, 5.0, "a", "t")])).count("rect", "bar") == 1


def test_an_axis_always_has_marks() -> None:
    for last in (1.001, 1.2, 3.0, 1e6, 0.01):
        curve = charts.Curve(["2010-01-04", "2010-01-05"], [1.0, last], "hold", "held")
        assert Page(charts.equity([curve])).count("text", "tick") >= 1
