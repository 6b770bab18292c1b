"""rank_target and select_features: what they choose, refuse and tell."""

from __future__ import annotations

import msgspec
import numpy as np
import pandas as pd
import pytest
from msgspec.structs import replace

from corral.handlers import Cancelled
from corral.research import datasets
from corral.research.ranking import rank_target
from corral.research.schema import (
    FEATURES,
    TARGETS,
    Ranking,
    RankTarget,
    SelectFeatures,
    Selection,
)
from corral.research.selection import select_features
from tests.unit.research.world import FakeRun, do


@pytest.fixture(scope="module")
def ranking() -> Ranking:
    return do(rank_target, RankTarget(symbol="IBM"))


def test_every_target_gets_a_place_usable_ones_first(ranking: Ranking) -> None:
    assert {target.target for target in ranking.targets} == set(TARGETS)
    assert [target.place for target in ranking.targets] == list(range(1, len(TARGETS) + 1))
    usable = [target.usable for target in ranking.targets]
    assert usable == sorted(usable, reverse=True)
    surely = [target.t for target in ranking.targets if target.usable]
    assert surely == sorted(surely, reverse=True)


def test_what_cannot_be_used_is_told_why(ranking: Ranking) -> None:
    (direction,) = [target for target in ranking.targets if target.target == "vol_20d"]
    assert not direction.usable
    assert "direction" in direction.why
    short = do(rank_target, RankTarget(symbol="GOOG", targets=("up_20d", "up_1d")))
    assert [target.usable for target in short.targets] == [True, True]


def test_a_class_that_hardly_occurs_is_unusable(monkeypatch: pytest.MonkeyPatch) -> None:
    rising = datasets.prices("IBM")
    rising = rising.mul(np.exp(0.012 * np.arange(len(rising))), axis=0)
    monkeypatch.setattr(datasets, "prices", lambda symbol: rising)
    (only,) = do(rank_target, RankTarget(symbol="IBM", targets=("up_20d",))).targets
    assert not only.usable
    assert "rarer class" in only.why


def test_ranking_is_a_pure_function_of_its_params(ranking: Ranking) -> None:
    assert do(rank_target, RankTarget(symbol="IBM")) == ranking


def test_a_target_that_follows_the_last_day_is_ranked_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prices = datasets.prices("IBM")
    random, returns = np.random.default_rng(2), np.zeros(len(prices))
    for day in range(1, len(returns)):
        returns[day] = -0.6 * returns[day - 1] + random.normal(0, 0.01)
    world = prices.mul(np.exp(returns.cumsum()) / prices["close"], axis=0)
    world["volume"] = prices["volume"]
    monkeypatch.setattr(datasets, "prices", lambda symbol: world)
    first, second, *_ = do(rank_target, RankTarget(symbol="IBM")).targets
    assert {first.target, second.target} == {"up_1d", "ret_1d"}
    assert first.ic > 0.3
    assert first.t > 5 > abs(first.baseline) * 10


def test_ranking_stops_when_cancelled() -> None:
    run = FakeRun(cancel_after=1)
    with pytest.raises(Cancelled):
        do(rank_target, RankTarget(symbol="GOOG"), run)
    assert [fraction for fraction, _ in run.told] == [1 / len(TARGETS)]


# Features ----------------------------------------------------------------------------------------

PARAMS = SelectFeatures(symbol="IBM", target="ret_5d", keep=6)


@pytest.fixture(scope="module")
def selection() -> Selection:
    return do(select_features, PARAMS)


def test_as_many_are_kept_as_asked_and_every_other_is_told_why(selection: Selection) -> None:
    assert len(selection.selected) == 6
    assert {judged.feature for judged in selection.features} == set(FEATURES)
    kept = [judged.feature for judged in selection.features if judged.selected]
    assert kept == selection.selected
    for judged in selection.features:
        assert bool(judged.why) != judged.selected
        assert judged.information >= 0
        assert -1 <= judged.ic <= 1
        assert 0 <= judged.stable <= 1


def test_nothing_is_told_twice(selection: Selection) -> None:
    from corral.research.features import features

    seen = features(datasets.prices("IBM").loc[: selection.until], selection.selected).dropna()
    alike = seen.corr(method="spearman").abs().to_numpy() - np.eye(6)
    assert alike.max() <= PARAMS.max_correlation + 0.01
    whys = " ".join(judged.why for judged in selection.features)
    assert "correlates 0.9" in whys


def test_what_decides_the_target_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    prices = datasets.prices("IBM")
    random = np.random.default_rng(4)
    pull = (prices["close"] / prices["open"] - 1).shift(1).fillna(0)
    steps = 2 * pull + random.normal(0, 0.004, len(prices))
    close = pd.Series(np.exp(steps.cumsum()), index=prices.index)
    world = prices.mul(close / prices["close"], axis=0)
    world["volume"] = prices["volume"]
    monkeypatch.setattr(datasets, "prices", lambda symbol: world)
    chosen = do(select_features, replace(PARAMS, target="up_1d")).selected
    assert chosen[0] in ("intraday", "close_location")


def test_one_feature_alone_can_be_judged() -> None:
    alone = do(select_features, replace(PARAMS, features=("rsi_14",)))
    assert alone.selected == ["rsi_14"]


def test_selection_is_a_pure_function_of_its_params(selection: Selection) -> None:
    assert do(select_features, PARAMS) == selection


def test_the_ranking_is_heard(ranking: Ranking) -> None:
    place = {target.target: target.place for target in ranking.targets}
    assert do(select_features, PARAMS, rank=ranking).place == place["ret_5d"]
    with pytest.raises(ValueError, match="unusable: says nothing about direction"):
        do(select_features, replace(PARAMS, target="vol_20d"), rank=ranking)
    with pytest.raises(ValueError, match="not MSFT ret_5d"):
        do(select_features, replace(PARAMS, symbol="MSFT"), rank=ranking)


def test_results_are_small(ranking: Ranking, selection: Selection) -> None:
    assert len(msgspec.json.encode(ranking)) < 5_000
    assert len(msgspec.json.encode(selection)) < 10_000


def test_selection_stops_when_cancelled() -> None:
    run = FakeRun(cancel_after=3)
    with pytest.raises(Cancelled):
        do(select_features, PARAMS, run)
    assert len(run.told) == 3
