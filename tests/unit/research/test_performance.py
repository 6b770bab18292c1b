"""The backtest's figures, against a ledger of cash and shares and an independent library.

empyrical-reloaded (Apache-2.0) computes return, drawdown and Sharpe's ratio from the returns of the
ledger; the ledger knows only positions, prices and costs, and shares no code with what it checks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import empyrical
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from corral.research import datasets, performance
from corral.research.backtest import backtest, staggered
from corral.research.schema import Backtest, BacktestResult, TrainedModel, TrainModel
from corral.research.targets import TARGETS
from corral.research.training import train_model
from tests.unit.research.world import do

EXACT = {"rel": 1e-9, "abs": 1e-9}


def ledger(
    weights: Sequence[float], opens: Sequence[float], cost: float
) -> tuple[list[float], float]:
    """Daily returns of an account that holds cash and shares, and the money it traded.

    At each open but the last the account is valued, pays `cost` on what it will trade, and holds
    `weight` of the rest in shares.
    """
    cash, shares, traded, worth = 1.0, 0.0, 0.0, []
    for weight, price in zip(weights, opens, strict=False):
        value = cash + shares * price
        worth.append(value)
        order = abs(weight * value - shares * price)
        traded += order / value
        value -= cost * order
        shares = weight * value / price
        cash = value - shares * price
    worth.append(cash + shares * opens[-1])
    return [after / before - 1 for before, after in pairwise(worth)], traded


def positions(model: TrainedModel, rule: str) -> list[float]:
    """What the model's predictions ask for, day by day, written once more and plainly."""
    signals = [
        1.0 if told > fold.base else {"long_flat": 0.0, "long_short": -1.0}[rule]
        for fold in model.folds
        for told in fold.predictions
    ]
    hold = TARGETS[model.target].horizon
    return [sum(signals[max(0, day - hold + 1) : day + 1]) / hold for day in range(len(signals))]


@pytest.fixture(scope="module")
def models() -> dict[str, TrainedModel]:
    return {
        target: do(train_model, TrainModel(symbol="MSFT", target=target, family="ridge"))
        for target in ("ret_1d", "up_5d", "ret_20d")
    }


@pytest.mark.parametrize("rule", ["long_flat", "long_short"])
@pytest.mark.parametrize("target", ["ret_1d", "up_5d", "ret_20d"])
@pytest.mark.parametrize("bps", [0.0, 1.0, 25.0])
def test_the_figures_agree_with_an_independent_library(
    models: dict[str, TrainedModel], target: str, rule: Any, bps: float
) -> None:
    model = models[target]
    params = Backtest(rule=rule, commission_bps=bps, slippage_bps=2 * bps)
    result: BacktestResult = do(backtest, params, model=model)

    prices = datasets.prices("MSFT")
    first = prices.index.get_loc(pd.Timestamp(model.folds[0].start))
    opens = prices["open"].tolist()[first + 1 :]
    weights = positions(model, rule)[: len(opens) - 1]
    ours = ledger(weights, opens, 3 * bps / 10_000)
    held = ledger([1.0] * len(weights), opens, 3 * bps / 10_000)
    for (returns, _), found in ((ours, result.strategy), (held, result.buy_and_hold)):
        series = pd.Series(returns, index=prices.index[first + 1 : first + 1 + len(returns)])
        assert found.total_return == pytest.approx(empyrical.cum_returns_final(series), **EXACT)
        assert found.max_drawdown == pytest.approx(empyrical.max_drawdown(series), **EXACT)
        assert found.sharpe == pytest.approx(empyrical.sharpe_ratio(series), **EXACT)
        assert found.cagr == pytest.approx(empyrical.cagr(series), **EXACT)
        assert found.volatility == pytest.approx(empyrical.annual_volatility(series), **EXACT)
    assert result.days == len(weights)
    assert result.turnover == pytest.approx(ours[1] * 252 / len(weights), **EXACT)
    assert result.exposure == pytest.approx(np.mean(np.abs(weights)), **EXACT)


@given(
    st.lists(st.tuples(st.floats(-1, 1), st.floats(-0.3, 0.3)), min_size=3, max_size=60),
    st.floats(0, 0.01),
)
def test_an_account_does_what_cash_and_shares_do(
    days: list[tuple[float, float]], cost: float
) -> None:
    weights = [weight for weight, _ in days]
    market = [change for _, change in days]
    opens = np.concatenate([[100.0], 100 * np.cumprod(1 + np.array(market))]).tolist()
    account = performance.trade(np.array(weights), np.array(market), cost)
    returns, traded = ledger(weights, opens, cost)
    np.testing.assert_allclose(account.returns, returns, rtol=0, atol=1e-12)
    assert account.traded.sum() == pytest.approx(traded, abs=1e-9)


@given(st.lists(st.floats(-0.2, 0.2), min_size=2, max_size=100))
def test_measures_agree_with_the_library_on_any_returns(returns: list[float]) -> None:
    found, series = performance.measure(np.array(returns)), pd.Series(returns)
    assert found.max_drawdown == pytest.approx(empyrical.max_drawdown(series), **EXACT)
    assert found.total_return == pytest.approx(empyrical.cum_returns_final(series), **EXACT)
    if np.std(returns) > 1e-6:
        assert found.sharpe == pytest.approx(empyrical.sharpe_ratio(series), **EXACT)


def test_an_account_that_never_moves() -> None:
    still = performance.measure(np.zeros(10))
    assert (still.total_return, still.sharpe, still.max_drawdown, still.volatility) == (0, 0, 0, 0)


def test_costs_are_paid_on_every_trade_and_nothing_else() -> None:
    """Buy once, hold, sell once: two trades of the whole capital, whatever the price did."""
    market = np.array([0.1, -0.05, 0.2, 0.03])
    account = performance.trade(np.array([1.0, 1.0, 1.0, 0.0]), market, 0.01)
    assert account.traded == pytest.approx([1, 0, 0, 1])
    paid = 1.1 * 0.95 * 1.2 * 0.99**2
    assert performance.equity(account.returns)[-1] == pytest.approx(paid)


def test_staggered_signals_enter_and_leave_in_equal_parts() -> None:
    weights = staggered(np.array([1.0, 1, 1, 1, 0, 0, 0, 0]), 4)
    assert weights == pytest.approx([0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25, 0])
    assert staggered(np.array([1.0, -1.0]), 1) == pytest.approx([1, -1])


def test_the_equity_curve_is_thin_and_ends_where_the_return_does(
    models: dict[str, TrainedModel],
) -> None:
    result = do(backtest, Backtest(), model=models["up_5d"])
    assert (result.equity[0], result.equity_hold[0]) == (1, 1)
    assert result.equity[-1] == pytest.approx(1 + result.strategy.total_return, abs=1e-5)
    assert result.equity_hold[-1] == pytest.approx(1 + result.buy_and_hold.total_return, abs=1e-5)
    assert len(result.dates) == len(result.equity) == len(result.equity_hold)
    assert len(result.equity) == math.ceil(result.days / 5) + 1
    assert result.dates == sorted(set(result.dates))


def test_more_costs_bring_less(models: dict[str, TrainedModel]) -> None:
    gains = [
        do(backtest, Backtest(slippage_bps=bps), model=models["up_5d"]).strategy.total_return
        for bps in (0, 5, 50)
    ]
    assert gains == sorted(gains, reverse=True)
    assert gains[0] > gains[2]


def test_a_backtest_without_a_model_says_what_to_type() -> None:
    with pytest.raises(ValueError, match=r"after=\{'model': ID\}"):
        do(backtest, Backtest())


def test_what_has_no_direction_cannot_be_traded() -> None:
    model = do(train_model, TrainModel(symbol="IBM", target="vol_20d", family="ridge"))
    with pytest.raises(ValueError, match="vol_20d says nothing about direction"):
        do(backtest, Backtest(), model=model)


def test_a_model_of_other_days_is_refused(models: dict[str, TrainedModel]) -> None:
    model = models["up_5d"]
    short = replace(model.folds[0], predictions=model.folds[0].predictions[1:])
    with pytest.raises(ValueError, match="does not fit the trading days of MSFT"):
        do(backtest, Backtest(), model=replace(model, folds=[short, *model.folds[1:]]))
