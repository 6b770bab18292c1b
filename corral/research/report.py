"""The end of a pipeline: the leaderboard, and one HTML file that shows what was found and how.

`leaderboard` and `render_report` are pure functions of results. Pictures are drawn by `charts`; the
words stand in templates/report.html.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import NormalDist, stdev
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from corral.research import charts, datasets
from corral.research.kinds import code_version
from corral.research.schema import BacktestResult, Ranking, Selection

TEMPLATES = Path(__file__).with_name("templates")

T = TypeVar("T")


class Outcome(Struct, frozen=True):
    """How one task of the pipeline ended."""

    name: str  #: as planned, such as AAPL/up_5d/mlp/train
    kind: str
    state: str
    result: Any = None  #: as builtins; None unless it succeeded
    why: str = ""  #: why it did not succeed


class Span(Struct, frozen=True):
    """One attempt: when and where a task ran."""

    task: str  #: id
    kind: str
    name: str
    worker: str
    started: float  #: seconds of any one clock
    finished: float
    state: str


class Row(Struct, frozen=True):
    """One line of the leaderboard: a model, what it predicts, and what trading it brought."""

    place: int
    symbol: str
    target: str
    family: str
    score: float  #: rank IC out of sample
    baseline: float  #: of the same family trained on shuffled targets
    luck_95: float  #: what luck reaches in one of twenty tries
    p_value: float
    sharpe: float  #: yearly, after costs
    hold_sharpe: float  #: of buying and holding the same days
    excess: float  #: sharpe - hold_sharpe
    cagr: float
    max_drawdown: float
    turnover: float  #: per year


def leaderboard(outcomes: Iterable[Outcome]) -> list[Row]:
    """The backtests among `outcomes`, best first: by Sharpe ratio after costs less that of holding.

    Holding is the yardstick because the symbols and years differ: a rising price is no merit of a
    model. Equal figures are ordered by name.
    """
    found = _results(outcomes, "backtest", BacktestResult)
    found.sort(key=lambda one: (-_excess(one), one.symbol, one.target, one.family))
    return [
        Row(
            place=place,
            symbol=one.symbol,
            target=one.target,
            family=one.family,
            score=one.score,
            baseline=one.baseline,
            luck_95=one.luck_95,
            p_value=one.p_value,
            sharpe=one.strategy.sharpe,
            hold_sharpe=one.buy_and_hold.sharpe,
            excess=_excess(one),
            cagr=one.strategy.cagr,
            max_drawdown=one.strategy.max_drawdown,
            turnover=one.turnover,
        )
        for place, one in enumerate(found, start=1)
    ]


def expected_best(values: Sequence[float]) -> float:
    """The best of so many tries as `values` has, were there no skill in them but only their spread.

    The expected maximum of N normal variables with mean 0 and the standard deviation of `values`
    (Bailey and Lopez de Prado 2014, The Deflated Sharpe Ratio). 0 for fewer than two.
    """
    tries = len(values)
    if tries < 2:
        return 0.0
    gamma, e = 0.5772156649015329, 2.718281828459045  # Euler's constants
    quantile = NormalDist().inv_cdf
    best = (1 - gamma) * quantile(1 - 1 / tries) + gamma * quantile(1 - 1 / (tries * e))
    return stdev(values) * best


def render_report(
    title: str,
    outcomes: Sequence[Outcome],
    spans: Sequence[Span] = (),
    pipeline: str = "",
    generated: str = "",
) -> str:
    """One HTML page that needs nothing else: no script, no other file, no network.

    Args:
        title: heads the page.
        outcomes: every task of the pipeline.
        spans: every attempt that ran; none when all results were there already.
        pipeline: the text of the pipeline file.
        generated: when, for people.

    Raises:
        MissingExtra: jinja2 is not installed.
    """
    with datasets.research_extra():
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    rows = leaderboard(outcomes)
    tests = _results(outcomes, "backtest", BacktestResult)
    return environment.get_template("report.html").render(
        title=title,
        generated=generated,
        pipeline=pipeline,
        rows=rows,
        beaten=sum(row.score > row.luck_95 for row in rows),
        lucky=expected_best([row.excess for row in rows]),
        states=Counter(outcome.state for outcome in outcomes),
        kinds=Counter(outcome.kind for outcome in outcomes),
        lost=[outcome for outcome in outcomes if outcome.state != "succeeded"],
        equity=[(symbol, _equity(tests, symbol, rows)) for symbol in _symbols(tests)],
        scores=[(symbol, _scores(tests, symbol)) for symbol in _symbols(tests)],
        gantt=_gantt(spans),
        time=_time(spans),
        rankings=_results(outcomes, "rank_target", Ranking),
        chosen=_chosen(_results(outcomes, "select_features", Selection)),
        datasets=datasets.REGISTRY,
        snapshot=datasets.snapshot(),
        code=code_version(),
    )


def _results(outcomes: Iterable[Outcome], kind: str, to: type[T]) -> list[T]:
    return [
        msgspec.convert(outcome.result, to)
        for outcome in outcomes
        if outcome.kind == kind and outcome.state == "succeeded"
    ]


def _excess(test: BacktestResult) -> float:
    return test.strategy.sharpe - test.buy_and_hold.sharpe


def _symbols(tests: Iterable[BacktestResult]) -> list[str]:
    return sorted({test.symbol for test in tests})


def _equity(tests: Iterable[BacktestResult], symbol: str, rows: Sequence[Row]) -> str:
    mine = [test for test in tests if test.symbol == symbol]
    best = next(row for row in rows if row.symbol == symbol)
    curves = []
    for test in mine:
        leads = (test.target, test.family) == (best.target, best.family)
        curves.append(
            charts.Curve(
                days=test.dates,
                values=test.equity,
                style=f"{'best' if leads else 'faint'} {test.family}",
                label=test.family if leads else "",
                title=f"{test.target} {test.family}: {test.equity[-1]:.2f}{charts.TIMES}, "
                f"Sharpe {test.strategy.sharpe:.2f}",
            )
        )
    held = mine[0]
    curves.append(
        charts.Curve(
            days=held.dates,
            values=held.equity_hold,
            style="hold",
            label="held",
            title=f"bought and held: {held.equity_hold[-1]:.2f}{charts.TIMES}, "
            f"Sharpe {held.buy_and_hold.sharpe:.2f}",
        )
    )
    return charts.equity(curves)


def _scores(tests: Sequence[BacktestResult], symbol: str) -> str:
    groups: dict[str, list[charts.Score]] = {}
    for test in tests:
        if test.symbol == symbol:
            score = charts.Score(
                label=test.family,
                style=test.family,
                score=test.score,
                baseline=test.baseline,
                luck=test.luck_95,
                title=f"{test.target} {test.family}: IC {test.score:.3f}, "
                f"shuffled {test.baseline:.3f}, luck {test.luck_95:.3f}, p {test.p_value:.3f}",
            )
            groups.setdefault(test.target, []).append(score)
    reach = max(abs(v) for test in tests for v in (test.score, test.baseline, test.luck_95))
    return charts.strip(list(groups.items()), reach)


def _gantt(spans: Sequence[Span]) -> str:
    if not spans:
        return ""
    return charts.gantt(
        [
            charts.Bar(
                lane=span.worker,
                start=span.started,
                end=span.finished,
                style=span.kind if span.state == "succeeded" else f"{span.kind} lost",
                title=f"{span.name}: {span.state} in {span.finished - span.started:.2f} s, "
                f"task {span.task}",
            )
            for span in spans
        ]
    )


class _Time(Struct, frozen=True):
    wall: float  #: seconds from the first start to the last end
    work: float  #: seconds of all attempts together
    workers: int


def _time(spans: Sequence[Span]) -> _Time | None:
    if not spans:
        return None
    return _Time(
        wall=max(span.finished for span in spans) - min(span.started for span in spans),
        work=sum(span.finished - span.started for span in spans),
        workers=len({span.worker for span in spans}),
    )


def _chosen(selections: Sequence[Selection]) -> list[tuple[str, float]]:
    """Feature -> share of the selections that kept it, most often first, the best twelve."""
    counts = Counter(name for selection in selections for name in selection.selected)
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return [(name, count / len(selections)) for name, count in ordered[:12]]
