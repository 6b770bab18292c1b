"""Targets: what the days after a close bring. The only file that looks ahead.

A table of names and formulas; a target of day t looks at prices of days t + 1 to t + horizon.
`samples` joins targets with the features of day t into the rows that models learn from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from corral.research.features import FORMULAS, WARM_UP, Formula, features, log

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Target:
    """One target."""

    horizon: int  #: trading days it looks ahead
    classes: bool  #: 0 or 1 when true, a number otherwise
    formula: Formula


def _forward_return(days: int) -> Formula:
    return lambda prices: log(prices["close"]).diff(days).shift(-days)


def _rises(days: int) -> Formula:
    def formula(prices: pd.DataFrame) -> pd.Series:
        ahead = _forward_return(days)(prices)
        return (ahead > 0).astype(float).where(ahead.notna())

    return formula


def _peaks(days: int) -> Formula:
    """1 when a high of the next days is above the close by one standard deviation of such moves."""

    def formula(prices: pd.DataFrame) -> pd.Series:
        usual = log(prices["close"]).diff().rolling(60).std() * math.sqrt(days)
        highest = prices["high"].rolling(days).max().shift(-days)
        rise = log(highest / prices["close"])
        return (rise > usual).astype(float).where(rise.notna() & usual.notna())

    return formula


def _volatility_ahead(days: int) -> Formula:
    return lambda prices: log(log(prices["close"]).diff().rolling(days).std().shift(-days))


TARGETS: Mapping[str, Target] = {
    "up_1d": Target(1, True, _rises(1)),
    "up_5d": Target(5, True, _rises(5)),
    "up_20d": Target(20, True, _rises(20)),
    "ret_1d": Target(1, False, _forward_return(1)),
    "ret_5d": Target(5, False, _forward_return(5)),
    "ret_20d": Target(20, False, _forward_return(20)),
    "peak_20d": Target(20, True, _peaks(20)),
    "vol_20d": Target(20, False, _volatility_ahead(20)),
}


@dataclass(frozen=True)
class Samples:
    """Rows to learn from, oldest first, one for each trading day without a gap."""

    days: pd.DatetimeIndex
    x: Floats  #: (rows, features)
    y: Floats  #: (rows,); NaN in the last `horizon` rows, whose days ahead are not known yet


def samples(
    prices: pd.DataFrame,
    names: Sequence[str],
    target: str,
    formulas: Mapping[str, Formula] = FORMULAS,
    targets: Mapping[str, Target] = TARGETS,
) -> Samples:
    """Features `names` and `target` of every day after the warm-up.

    Raises:
        ValueError: a feature or target that should be known is not finite on some day.
    """
    x = features(prices, names, formulas).iloc[WARM_UP:]
    y = targets[target].formula(prices).iloc[WARM_UP:]
    known = y.iloc[: len(y) - targets[target].horizon]
    holes = [name for name in names if not np.isfinite(x[name]).all()]
    if not np.isfinite(known).all():
        holes.append(target)
    if holes:
        raise ValueError(f"not finite on some day: {', '.join(holes)}")
    return Samples(pd.DatetimeIndex(x.index), x.to_numpy(np.float64), y.to_numpy(np.float64))
