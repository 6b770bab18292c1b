"""What the four kinds take and give: their names, params and results as structs.

Data only, without any numerical library, so that clients, brokers and the pipeline file can check a
task before a worker sees it. What the names mean is told in `features`, `targets` and `families`.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from msgspec import Meta, Struct

Symbol = Literal["AAPL", "GOOG", "IBM", "MSFT"]
TargetName = Literal[
    "up_1d", "up_5d", "up_20d", "ret_1d", "ret_5d", "ret_20d", "peak_20d", "vol_20d"
]
FeatureName = Literal[
    "ret_1d", "ret_5d", "ret_20d", "ret_60d", "mom_12_1", "gap", "intraday", "range",
    "close_location", "vol_5", "vol_20", "vol_60", "vol_ratio", "parkinson_20", "atr_14",
    "rsi_14", "stochastic_14", "macd", "sma_gap_10", "sma_gap_50", "sma_gap_200",
    "bollinger_20", "from_high_252", "from_low_252", "up_days_10", "skew_60", "autocorr_20",
    "volume_z_20", "volume_trend", "illiquidity_20", "obv_20",
]  # fmt: skip
Family = Literal["ridge", "random_forest", "lightgbm", "mlp", "lstm"]

SYMBOLS: tuple[Symbol, ...] = get_args(Symbol)
TARGETS: tuple[TargetName, ...] = get_args(TargetName)
FEATURES: tuple[FeatureName, ...] = get_args(FeatureName)
FAMILIES: tuple[Family, ...] = get_args(Family)

DIRECTIONLESS = frozenset({"vol_20d"})  #: targets that do not say whether to buy or sell
NETWORKS = frozenset({"mlp", "lstm"})  #: families that run on a GPU when they hold one

Seed = Annotated[int, Meta(ge=0, lt=2**31)]


class WalkForward(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a history is cut into training and test windows; see `corral.research.splits`."""

    folds: Annotated[int, Meta(ge=1, le=20)] = 4
    first_train: Annotated[float, Meta(ge=0.1, le=0.9)] = 0.4  #: share of rows before all tests
    embargo: Annotated[int, Meta(ge=0, le=60)] = 5  #: trading days kept free before each test


# rank_target ------------------------------------------------------------------------------------


class RankTarget(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which of these targets can be predicted for this symbol, and is worth predicting?"""

    symbol: Symbol
    targets: tuple[TargetName, ...] = TARGETS
    splits: WalkForward = WalkForward()
    seed: Seed = 0


class RankedTarget(Struct, frozen=True):
    """One candidate, judged on the development window alone."""

    target: str
    place: int  #: 1 is best
    ic: float  #: mean Spearman correlation of prediction and target over inner folds
    baseline: float  #: the same with shuffled training targets
    t: float  #: ic over its standard error, counting overlapping targets once
    balance: float | None  #: share of the rarer class; None for a continuous target
    rows: int
    usable: bool
    why: str  #: why it is not usable; empty when it is


class Ranking(Struct, frozen=True):
    """The result of rank_target: candidates, best first."""

    symbol: str
    until: str  #: ISO date of the last price that was used
    targets: list[RankedTarget]


# select_features --------------------------------------------------------------------------------


class SelectFeatures(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which features tell something about this target, without telling it twice?"""

    symbol: Symbol
    target: TargetName
    features: tuple[FeatureName, ...] = FEATURES
    keep: Annotated[int, Meta(ge=1)] = 10
    max_correlation: Annotated[float, Meta(gt=0, le=1)] = 0.9
    splits: WalkForward = WalkForward()
    seed: Seed = 0


class JudgedFeature(Struct, frozen=True):
    """One feature, judged on the development window alone."""

    feature: str
    information: float  #: mutual information with the target, nats
    ic: float  #: Spearman correlation with the target
    stable: float  #: share of inner folds in which the correlation has the sign of `ic`
    selected: bool
    why: str  #: why it was left out; empty when it was selected


class Selection(Struct, frozen=True):
    """The result of select_features: features, best first."""

    symbol: str
    target: str
    until: str  #: ISO date of the last price that was used
    place: int | None  #: the target's place in the parent ranking, when there was one
    selected: list[str]
    features: list[JudgedFeature]


# train_model ------------------------------------------------------------------------------------


class TrainModel(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Train one family on one target, walk forward, and predict each test window."""

    symbol: Symbol
    target: TargetName
    family: Family
    features: tuple[FeatureName, ...] = ()  #: all when empty; a parent `select` goes before this
    epochs: Annotated[int, Meta(ge=1, le=10_000)] | None = None  #: of networks; None: their own
    splits: WalkForward = WalkForward()
    seed: Seed = 0


class Fold(Struct, frozen=True):
    """One test window; `predictions[i]` was made at the close of the i-th trading day in it."""

    start: str  #: ISO date of the first test day
    end: str  #: ISO date of the last test day
    train_rows: int
    ic: float
    baseline: float  #: ic of the same family trained on shuffled targets
    base: float  #: mean of the training target: a prediction above it says "more than usual"
    predictions: list[float]


class TrainedModel(Struct, frozen=True):
    """The result of train_model: how well it predicts out of sample, and what it predicted."""

    symbol: str
    target: str
    family: str
    features: list[str]
    score: float  #: mean over folds of the Spearman correlation of prediction and target (rank IC)
    baseline: float  #: the same for models trained on shuffled targets
    luck_95: float  #: 95th percentile of the score against targets shifted in a circle
    p_value: float  #: share of those shifts that score at least as well
    accuracy: float | None  #: classes only, at probability 0.5
    auc: float | None  #: classes only
    folds: list[Fold]
    device: str  #: cpu or cuda


# backtest ---------------------------------------------------------------------------------------


class Backtest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Trade the predictions of the parent "model" with costs."""

    rule: Literal["long_flat", "long_short"] = "long_flat"  #: what to hold when not long
    commission_bps: Annotated[float, Meta(ge=0, le=1000)] = 1.0  #: of the traded value
    slippage_bps: Annotated[float, Meta(ge=0, le=1000)] = 4.0  #: of the traded value


class Performance(Struct, frozen=True):
    """What a series of daily returns comes to; see `corral.research.performance`."""

    total_return: float
    cagr: float
    volatility: float  #: yearly
    sharpe: float  #: yearly, risk-free rate 0
    max_drawdown: float  #: at most 0


class BacktestResult(Struct, frozen=True):
    """The result of backtest: performance after costs beside buying and holding the same days."""

    symbol: str
    target: str
    family: str
    score: float  #: of the parent model
    baseline: float  #: of the parent model
    luck_95: float  #: of the parent model
    p_value: float  #: of the parent model
    start: str
    end: str
    days: int
    strategy: Performance
    buy_and_hold: Performance
    turnover: float  #: traded value per year, in multiples of the capital
    costs: float  #: share of the capital paid per year
    exposure: float  #: mean absolute weight
    trades: int  #: days on which the target weight changed
    dates: list[str]  #: weekly, the first is the day before the first return
    equity: list[float]  #: of 1 invested, at `dates`
    equity_hold: list[float]  #: of 1 bought and held, at `dates`
