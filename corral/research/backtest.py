"""The kind `backtest`: trade the out-of-sample predictions of a model, with costs.

A prediction is made at the close of day t and filled at the open of day t + 1, so the first return
it earns is that from open t + 1 to open t + 2. What weights come to is computed in `performance`.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

import msgspec

from corral.handlers import Run, needs
from corral.research import datasets
from corral.research.kinds import research_kind
from corral.research.schema import DIRECTIONLESS, Backtest, BacktestResult, TrainedModel

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

EVERY = 5  #: trading days between two points of the equity curve


@research_kind("backtest", needs=needs(cpus=1, memory_gb=1))
def backtest(params: Backtest, run: Run) -> BacktestResult:
    """Trade the predictions of the parent `model` (a `TrainedModel`) beside buying and holding.

    Raises:
        ValueError: there is no such parent, its target has no direction, or its days are not those
            of the price data.
    """
    with datasets.research_extra():
        import numpy as np

        from corral.research import performance, targets

    if "model" not in run.parents:
        raise ValueError("a backtest needs a parent named `model`: after={'model': ID}")
    model = msgspec.convert(run.parents["model"], TrainedModel)
    target = targets.TARGETS[model.target]
    if model.target in DIRECTIONLESS:
        raise ValueError(f"{model.target} says nothing about direction, so it cannot be traded")

    prices = datasets.prices(model.symbol)
    days = [str(day.date()) for day in prices.index]
    first, signals = _signals(model, days, params.rule)
    # the last two days are left out: their fills, or what these earn, lie beyond the data
    weights = staggered(signals, target.horizon)[: len(prices) - 2 - first]
    opens = prices["open"].to_numpy(np.float64)[first + 1 : first + 2 + len(weights)]
    market = opens[1:] / opens[:-1] - 1
    cost = (params.commission_bps + params.slippage_bps) / 10_000
    account = performance.trade(weights, market, cost)
    hold = performance.trade(np.ones_like(weights), market, cost)

    days = days[first + 1 : first + 2 + len(weights)]
    points = [*range(0, len(weights), EVERY), len(weights)]
    years = len(weights) / performance.DAYS_PER_YEAR
    worth, worth_hold = performance.equity(account.returns), performance.equity(hold.returns)
    return BacktestResult(
        symbol=model.symbol,
        target=model.target,
        family=model.family,
        score=model.score,
        baseline=model.baseline,
        luck_95=model.luck_95,
        p_value=model.p_value,
        start=days[0],
        end=days[-1],
        days=len(weights),
        strategy=performance.measure(account.returns),
        buy_and_hold=performance.measure(hold.returns),
        turnover=float(account.traded.sum()) / years,
        costs=float(account.costs.sum()) / years,
        exposure=float(np.abs(weights).mean()),
        trades=int((np.diff(weights, prepend=0.0) != 0).sum()),
        dates=[days[point] for point in points],
        equity=[round(float(worth[point]), 5) for point in points],
        equity_hold=[round(float(worth_hold[point]), 5) for point in points],
    )


def _signals(model: TrainedModel, days: list[str], rule: str) -> tuple[int, Floats]:
    """The row of the first prediction, and 1 (long) or 0 or -1 for it and every day after it.

    Long when the model expects more than was usual in its training window.
    """
    import numpy as np

    otherwise = -1.0 if rule == "long_short" else 0.0
    signals = [
        np.where(np.asarray(fold.predictions) > fold.base, 1.0, otherwise) for fold in model.folds
    ]
    row = first = bisect_left(days, model.folds[0].start)
    for fold, made in zip(model.folds, signals, strict=True):
        last = row + len(made) - 1
        if days[row : row + 1] + days[last : last + 1] != [fold.start, fold.end]:
            raise ValueError(
                f"the model's fold {fold.start} to {fold.end} with {len(made)} predictions "
                f"does not fit the trading days of {model.symbol}"
            )
        row = last + 1
    return first, np.concatenate(signals)


def staggered(signals: Floats, days: int) -> Floats:
    """Weights when every signal is held for `days` days with 1/days of the capital.

    The mean of the last `days` signals, missing ones counting 0 (Jegadeesh and Titman 1993,
    overlapping portfolios): a signal about 20 days is not traded away after one.
    """
    import numpy as np

    padded = np.concatenate([np.zeros(days - 1), signals])
    weights: Floats = np.lib.stride_tricks.sliding_window_view(padded, days).mean(axis=1)
    return weights
