"""Features of a day from the prices up to its close: a table of names and formulas.

Every formula is a ratio or a z-score, so that the scale of adjusted prices (which depends on later
splits and dividends) cancels out, and looks back only: tests shuffle the future and expect the same
values. What is predicted lives in `targets`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

WARM_UP = 252  #: first trading days whose features look back too short

Formula = Callable[[pd.DataFrame], pd.Series]


def log(values: pd.Series) -> pd.Series:
    """Natural logarithm."""
    return pd.Series(np.log(values), index=values.index)


def log_return(days: int) -> Formula:
    """Logarithm of the price now over the price `days` ago."""
    return lambda prices: log(prices["close"]).diff(days)


def volatility(days: int) -> Formula:
    """Standard deviation of daily log returns."""
    return lambda prices: log(prices["close"]).diff().rolling(days).std()


def sma_gap(days: int) -> Formula:
    """Distance of the price from its simple moving average, relative to it."""
    return lambda prices: prices["close"] / prices["close"].rolling(days).mean() - 1


def momentum_12_1(prices: pd.DataFrame) -> pd.Series:
    """Return of the last year without its last month (Jegadeesh and Titman 1993)."""
    return log(prices["close"].shift(21) / prices["close"].shift(252))


def close_location(prices: pd.DataFrame) -> pd.Series:
    """Where the close lies in the day's range: -1 at the low, 1 at the high, 0 without a range."""
    span = (prices["high"] - prices["low"]).replace(0, np.nan)
    return ((2 * prices["close"] - prices["high"] - prices["low"]) / span).fillna(0)


def parkinson(prices: pd.DataFrame) -> pd.Series:
    """Volatility from highs and lows over 20 days (Parkinson 1980)."""
    squares = log(prices["high"] / prices["low"]) ** 2
    return (squares.rolling(20).mean() / (4 * math.log(2))) ** 0.5


def average_true_range(prices: pd.DataFrame) -> pd.Series:
    """Wilder's average true range over 14 days, relative to the price (Wilder 1978)."""
    before = prices["close"].shift()
    high = prices["high"].combine(before, np.fmax)
    low = prices["low"].combine(before, np.fmin)
    return (high - low).ewm(alpha=1 / 14, adjust=False).mean() / prices["close"]


def relative_strength(prices: pd.DataFrame) -> pd.Series:
    """Wilder's RSI over 14 days, 0 to 1 (Wilder 1978)."""
    change = prices["close"].diff()
    up = change.clip(lower=0).ewm(alpha=1 / 14, adjust=False).mean()
    moved = change.abs().ewm(alpha=1 / 14, adjust=False).mean()
    return up / moved


def stochastic(prices: pd.DataFrame) -> pd.Series:
    """Where the price lies between the low and the high of 14 days, 0 to 1 (Lane's %K)."""
    low, high = prices["low"].rolling(14).min(), prices["high"].rolling(14).max()
    return (prices["close"] - low) / (high - low)


def macd(prices: pd.DataFrame) -> pd.Series:
    """Appel's MACD(12, 26) less its signal line of 9 days, relative to the price."""
    close = prices["close"]
    line = close.ewm(span=12, adjust=False).mean() - close.ewm(span=26, adjust=False).mean()
    return (line - line.ewm(span=9, adjust=False).mean()) / close


def bollinger(prices: pd.DataFrame) -> pd.Series:
    """Distance from the average of 20 days in standard deviations."""
    window = prices["close"].rolling(20)
    return (prices["close"] - window.mean()) / window.std()


def up_days(prices: pd.DataFrame) -> pd.Series:
    """Share of the last 10 days on which the price rose."""
    return (prices["close"].diff() > 0).astype(float).rolling(10).mean()


def skewness(prices: pd.DataFrame) -> pd.Series:
    """Skewness of daily log returns over 60 days, from plain moments."""
    returns = log(prices["close"]).diff()
    mean, square, cube = ((returns**power).rolling(60).mean() for power in (1, 2, 3))
    variance = square - mean**2
    return (cube - 3 * mean * variance - mean**3) / variance**1.5


def autocorrelation(prices: pd.DataFrame) -> pd.Series:
    """Correlation of daily log returns with those of the day before over 20 days."""
    returns = log(prices["close"]).diff()
    return returns.rolling(20).corr(returns.shift())


def volume_z(prices: pd.DataFrame) -> pd.Series:
    """Logarithm of the money traded, in standard deviations of its last 20 days."""
    money = log(prices["close"] * prices["volume"])
    window = money.rolling(20)
    return (money - window.mean()) / window.std()


def volume_trend(prices: pd.DataFrame) -> pd.Series:
    """Money traded in 5 days over that of 60 days, logarithm."""
    money = prices["close"] * prices["volume"]
    return log(money.rolling(5).mean() / money.rolling(60).mean())


def illiquidity(prices: pd.DataFrame) -> pd.Series:
    """Price move per money traded (Amihud 2002), 20 days over 252 days, logarithm."""
    impact = log(prices["close"]).diff().abs() / (prices["close"] * prices["volume"])
    return log(impact.rolling(20).mean() / impact.rolling(251).mean())


def on_balance_volume(prices: pd.DataFrame) -> pd.Series:
    """Volume of rising days less that of falling days over 20 days, relative to all of it."""
    change = prices["close"].diff()
    signed = prices["volume"].where(change > 0, -prices["volume"]).where(change != 0, 0)
    return signed.rolling(20).sum() / prices["volume"].rolling(20).sum()


FORMULAS: Mapping[str, Formula] = {
    "ret_1d": log_return(1),
    "ret_5d": log_return(5),
    "ret_20d": log_return(20),
    "ret_60d": log_return(60),
    "mom_12_1": momentum_12_1,
    "gap": lambda prices: log(prices["open"] / prices["close"].shift()),
    "intraday": lambda prices: log(prices["close"] / prices["open"]),
    "range": lambda prices: log(prices["high"] / prices["low"]),
    "close_location": close_location,
    "vol_5": volatility(5),
    "vol_20": volatility(20),
    "vol_60": volatility(60),
    "vol_ratio": lambda prices: log(volatility(20)(prices) / volatility(60)(prices)),
    "parkinson_20": parkinson,
    "atr_14": average_true_range,
    "rsi_14": relative_strength,
    "stochastic_14": stochastic,
    "macd": macd,
    "sma_gap_10": sma_gap(10),
    "sma_gap_50": sma_gap(50),
    "sma_gap_200": sma_gap(200),
    "bollinger_20": bollinger,
    "from_high_252": lambda prices: prices["close"] / prices["high"].rolling(252).max() - 1,
    "from_low_252": lambda prices: log(prices["close"] / prices["low"].rolling(252).min()),
    "up_days_10": up_days,
    "skew_60": skewness,
    "autocorr_20": autocorrelation,
    "volume_z_20": volume_z,
    "volume_trend": volume_trend,
    "illiquidity_20": illiquidity,
    "obv_20": on_balance_volume,
}


def features(
    prices: pd.DataFrame, names: Sequence[str], formulas: Mapping[str, Formula] = FORMULAS
) -> pd.DataFrame:
    """The features `names` of every day, one column each; NaN while the past is too short."""
    return pd.DataFrame({name: formulas[name](prices) for name in names}, index=prices.index)
