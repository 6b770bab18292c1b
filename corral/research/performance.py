"""From weights and prices to money: daily returns after costs, and what they come to.

Pure functions of arrays; tests compare them with a ledger of cash and shares and with an
independent library on the same positions. What the weights should be is `backtest`'s affair.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from corral.research.schema import Performance

Floats = npt.NDArray[np.float64]

DAYS_PER_YEAR = 252


@dataclass(frozen=True)
class Account:
    """What trading came to, day by day; all of shape (days,)."""

    returns: Floats  #: after costs
    traded: Floats  #: value bought or sold at the day's start, as a share of the capital
    costs: Floats  #: paid for it, as a share of the capital


def trade(weights: Floats, market: Floats, cost: float) -> Account:
    """Hold `weights[i]` of the capital in an asset that returns `market[i]` over period i.

    At the start of a period the holding, drifted with the price since the last trade, is brought to
    its weight; `cost` (a share of the traded value) is paid from the capital first. Nothing is held
    before, and the last holding is valued, not sold.
    """
    grown = 1 + weights * market
    drifted = np.concatenate([[0.0], weights[:-1] * (1 + market[:-1]) / grown[:-1]])
    traded = np.abs(weights - drifted)
    costs = cost * traded
    return Account(returns=(1 - costs) * grown - 1, traded=traded, costs=costs)


def equity(returns: Floats) -> Floats:
    """The value of 1 invested, before the first return and after each; shape (days + 1,)."""
    return np.concatenate([[1.0], np.cumprod(1 + returns)])


def measure(returns: Floats) -> Performance:
    """Yearly figures of daily returns; Sharpe's ratio with a risk-free rate of 0 (Sharpe 1994).

    The drawdown counts from the initial capital on. Without any movement the ratio is 0.
    """
    worth = equity(returns)
    spread = float(returns.std(ddof=1))
    return Performance(
        total_return=float(worth[-1] - 1),
        cagr=float(worth[-1] ** (DAYS_PER_YEAR / len(returns)) - 1),
        volatility=spread * math.sqrt(DAYS_PER_YEAR),
        sharpe=float(returns.mean()) / spread * math.sqrt(DAYS_PER_YEAR) if spread > 0 else 0.0,
        max_drawdown=float((worth / np.maximum.accumulate(worth) - 1).min()),
    )
