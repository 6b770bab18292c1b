"""Nobody sees the future: shuffle it, and nothing that came before may change.

The checks are functions, so that two planted faults can prove that they catch what they are for: a
feature that leaks, and a split that is off by one.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
import pandas as pd
import pytest
from msgspec.structs import replace

from corral.research import datasets, splits, targets
from corral.research.backtest import backtest
from corral.research.features import FORMULAS, WARM_UP, Formula, features, log
from corral.research.ranking import rank_target
from corral.research.schema import (
    FEATURES,
    SYMBOLS,
    TARGETS,
    Backtest,
    RankTarget,
    SelectFeatures,
    TrainModel,
    WalkForward,
)
from corral.research.selection import select_features
from corral.research.splits import Split
from corral.research.training import rows_of, train_model
from tests.unit.research.world import do, shuffled_from

CUTS = (300, 1000, 1900)  # days after which the future is shuffled


def leaking(formulas: Mapping[str, Formula], prices: pd.DataFrame) -> list[str]:
    """Which features of a day change when the days after it are shuffled."""
    found = set()
    for cut in CUTS:
        before = features(prices, list(formulas), formulas).iloc[:cut]
        after = features(shuffled_from(prices, cut), list(formulas), formulas).iloc[:cut]
        same = (before == after) | (before.isna() & after.isna())
        found.update(same.columns[~same.all()])
    return sorted(found)


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_no_feature_sees_the_future(symbol: str) -> None:
    assert leaking(FORMULAS, datasets.prices(symbol)) == []


@pytest.mark.parametrize(
    "fault",
    [
        lambda prices: log(prices["close"]).diff().shift(-1),
        lambda prices: prices["close"].rolling(5, center=True).mean() / prices["close"],
        lambda prices: (prices["close"] - prices["close"].mean()) / prices["close"].std(),
        lambda prices: prices["volume"].rank(pct=True),
        lambda prices: prices["close"].where(prices["close"].diff() > 0).bfill(),
    ],
    ids=["tomorrow", "centred", "whole history", "whole rank", "filled back"],
)
def test_a_leaking_feature_is_caught(fault: Formula) -> None:
    assert leaking({**FORMULAS, "planted": fault}, datasets.prices("MSFT")) == ["planted"]


def test_features_do_not_know_the_scale_that_later_splits_give_to_prices() -> None:
    prices = datasets.prices("AAPL")
    scaled = prices * [7.3, 7.3, 7.3, 7.3, 1 / 7.3]
    np.testing.assert_allclose(
        features(scaled, FEATURES).iloc[WARM_UP:],
        features(prices, FEATURES).iloc[WARM_UP:],
        rtol=1e-7,
        atol=1e-9,
    )


def test_every_feature_and_target_has_its_formula_and_the_other_way_round() -> None:
    assert tuple(FORMULAS) == FEATURES
    assert tuple(targets.TARGETS) == TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_sees_as_far_as_its_horizon_and_no_further(name: str) -> None:
    prices, target = datasets.prices("IBM"), targets.TARGETS[name]
    cut = 1000
    before = target.formula(prices)
    after = target.formula(shuffled_from(prices, cut))
    np.testing.assert_array_equal(before.iloc[: cut - target.horizon],
                                  after.iloc[: cut - target.horizon])  # fmt: skip
    assert before.iloc[cut - target.horizon :].ne(after.iloc[cut - target.horizon :]).any()
    assert before.iloc[-target.horizon :].isna().all()


def folds_that_see_ahead(cut_up: list[Split], target: str, how: WalkForward) -> list[int]:
    """Which folds teach or scale with a price of their test window or of the embargo before it."""
    prices, found = datasets.prices("GOOG"), []
    names = FEATURES[:6]
    now = targets.samples(prices, names, target)
    for number, split in enumerate(cut_up):
        first_unseen = WARM_UP + split.test_start - how.embargo
        then = targets.samples(shuffled_from(prices, first_unseen), names, target)
        x_now, y_now = rows_of(now, split)
        x_then, y_then = rows_of(then, split)
        taught = slice(0, split.train_end)
        same = np.array_equal(x_now[taught], x_then[taught]) and np.array_equal(y_now, y_then)
        after = targets.samples(shuffled_from(prices, WARM_UP + split.test_end), names, target)
        if not same or not np.array_equal(x_now, rows_of(after, split)[0]):
            found.append(number)
    return found


HOWS = (WalkForward(folds=4, embargo=0), WalkForward(folds=3, embargo=7))


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("target", ["ret_1d", "ret_5d", "vol_20d"])
def test_no_fold_sees_its_test_window(target: str, how: WalkForward) -> None:
    rows, horizon = len(datasets.prices("GOOG")) - WARM_UP, targets.TARGETS[target].horizon
    assert folds_that_see_ahead(splits.walk_forward(rows, horizon, how), target, how) == []


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("target", ["ret_1d", "ret_5d", "vol_20d"])
def test_an_off_by_one_split_is_caught_in_every_fold(target: str, how: WalkForward) -> None:
    rows, horizon = len(datasets.prices("GOOG")) - WARM_UP, targets.TARGETS[target].horizon
    cut_up = splits.walk_forward(rows, horizon, how)
    planted = [replace(split, train_end=split.train_end + 1) for split in cut_up]
    assert folds_that_see_ahead(planted, target, how) == list(range(how.folds))


# The handlers as a whole -------------------------------------------------------------------------

SPLITS = WalkForward(folds=3)
RANK = RankTarget(symbol="GOOG", targets=("up_5d", "ret_20d"), splits=SPLITS)
SELECT = SelectFeatures(symbol="GOOG", target="up_5d", splits=SPLITS)
TRAIN = TrainModel(symbol="GOOG", target="up_5d", family="lightgbm", splits=SPLITS)


def shuffle_from(monkeypatch: pytest.MonkeyPatch, day: str) -> None:
    """From now on GOOG has another future, from the trading day `day` on."""
    prices = datasets.prices("GOOG")
    other = shuffled_from(prices, int(prices.index.searchsorted(pd.Timestamp(day))))
    monkeypatch.setattr(datasets, "prices", lambda symbol: other.copy())


def test_ranking_and_selection_do_not_see_the_first_test_day(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ranking, selection = do(rank_target, RANK), do(select_features, SELECT)
    first_test = do(train_model, TRAIN).folds[0].start
    assert max(ranking.until, selection.until) < first_test
    shuffle_from(monkeypatch, first_test)
    assert do(rank_target, RANK) == ranking
    assert do(select_features, SELECT) == selection


@pytest.mark.parametrize("family", ["lightgbm", "lstm"])
def test_predictions_and_money_of_a_day_do_not_depend_on_later_days(
    monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    train = msgspec.structs.replace(TRAIN, family=family)
    model = do(train_model, train)
    result = do(backtest, Backtest(), model=model)
    last = model.folds[1].end
    shuffle_from(monkeypatch, model.folds[2].start)
    model_then = do(train_model, train)
    result_then = do(backtest, Backtest(), model=model_then)

    def told(fold: object) -> object:
        return msgspec.structs.replace(fold, ic=0, baseline=0)

    assert [told(f) for f in model_then.folds[:2]] == [told(f) for f in model.folds[:2]]
    # the last fold's first prediction is already another, and so is what is bought the day after
    assert model_then.folds[2].predictions != model.folds[2].predictions
    known = sum(day <= last for day in result.dates)
    assert result_then.equity[:known] == result.equity[:known]
    assert result_then.equity != result.equity


def test_a_prediction_is_traded_at_the_next_open_and_earns_from_there() -> None:
    """Long on one single day k: the money of that day is open k + 1 to open k + 2, and no other."""
    model = do(train_model, TrainModel(symbol="IBM", target="up_1d", family="ridge"))
    fold = model.folds[0]
    quiet = [0.0] * len(fold.predictions)
    prices = datasets.prices("IBM")
    first = prices.index.get_loc(pd.Timestamp(fold.start))
    for k in (0, 7, 100):
        lone = replace(fold, base=0.5, predictions=[*quiet[:k], 1.0, *quiet[k + 1 :]])
        silent = [replace(f, base=0.5, predictions=[0.0] * len(f.predictions))
                  for f in model.folds[1:]]  # fmt: skip
        free = Backtest(commission_bps=0, slippage_bps=0)
        result = do(backtest, free, model=replace(model, folds=[lone, *silent]))
        opens = prices["open"].to_numpy()[first + k + 1 : first + k + 3]
        assert result.strategy.total_return == pytest.approx(opens[1] / opens[0] - 1, abs=1e-12)
        assert result.trades == 2
