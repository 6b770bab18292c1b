"""train_model: every family learns, survives an interruption to the bit, and stops when told."""

from __future__ import annotations

import pickle
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
import torch
from msgspec.structs import replace
from threadpoolctl import threadpool_info

from corral.handlers import Cancelled
from corral.research import datasets, families
from corral.research.schema import (
    FAMILIES,
    FEATURES,
    NETWORKS,
    SelectFeatures,
    Selection,
    TrainedModel,
    TrainModel,
    WalkForward,
)
from corral.research.selection import select_features
from corral.research.training import train_model
from tests.unit.research.world import FakeRun, do

SHORT = WalkForward(folds=2, first_train=0.6)


def training(**changes: Any) -> TrainModel:
    params = TrainModel(
        symbol="GOOG", target="up_5d", family="ridge", features=FEATURES[:8], splits=SHORT
    )
    return replace(params, **changes)


@pytest.mark.parametrize("target", ["up_5d", "ret_5d"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_on_classes_and_numbers(family: Any, target: Any) -> None:
    run = FakeRun()
    model: TrainedModel = do(train_model, training(family=family, target=target), run)
    days = [str(day.date()) for day in datasets.prices("GOOG").index]
    for fold in model.folds:
        covered = days[days.index(fold.start) : days.index(fold.end) + 1]
        assert len(fold.predictions) == len(covered)
        assert len(set(fold.predictions)) > 10
        assert np.isfinite(fold.predictions).all()
    assert model.folds[-1].end == days[-1]
    if target == "up_5d":
        assert all(0 <= told <= 1 for fold in model.folds for told in fold.predictions)
        assert model.auc is not None
        assert model.accuracy is not None
        assert 0.3 < model.auc < 0.7, "nobody predicts the market that well"
    else:
        assert (model.auc, model.accuracy) == (None, None)
    assert 0 < model.p_value <= 1
    assert model.score == pytest.approx(np.mean([fold.ic for fold in model.folds]))
    assert model.baseline == pytest.approx(np.mean([fold.baseline for fold in model.folds]))
    assert len(msgspec.json.encode(model)) < 40_000
    fractions = [fraction for fraction, _ in run.told]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert any("loss" in figures for _, figures in run.told) == (family in NETWORKS)


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_seeds_give_equal_results(family: Any) -> None:
    params = training(family=family, seed=3)
    assert do(train_model, params) == do(train_model, params)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"ridge"}))
def test_another_seed_gives_another_model(family: Any) -> None:
    one, other = (do(train_model, training(family=family, seed=seed)) for seed in (3, 4))
    assert one.folds[0].predictions != other.folds[0].predictions


@pytest.mark.parametrize("family", FAMILIES)
def test_going_on_from_any_checkpoint_ends_with_the_same_bits(family: Any) -> None:
    params = training(family=family, target="ret_5d", epochs=3 if family in NETWORKS else None)
    whole = FakeRun()
    expected = do(train_model, params, whole)
    saves = whole.checkpoint.history
    assert len(saves) == (4 * (3 + 1) if family in NETWORKS else 4)
    for number, saved in enumerate(saves):
        later = FakeRun(saved=saved)
        assert do(train_model, params, later) == expected
        assert len(later.checkpoint.history) == len(saves) - number - 1, "nothing is done twice"


@pytest.mark.parametrize("family", ["mlp", "lstm"])
def test_an_interrupted_run_goes_on_where_it_was_cancelled(family: Any) -> None:
    params = training(family=family)
    expected = do(train_model, params)
    run, attempts = FakeRun(cancel_after=7), 0
    while True:
        attempts += 1
        try:
            result = do(train_model, params, run)
            break
        except Cancelled:
            run = FakeRun(saved=run.checkpoint.packed, cancel_after=7)
    assert attempts > 3
    assert result == expected


def test_a_network_stops_within_an_epoch() -> None:
    run = FakeRun(cancel_after=2)
    with pytest.raises(Cancelled):
        do(train_model, training(family="mlp", epochs=1000), run)
    assert len(run.told) == 2


def test_a_checkpoint_of_a_network_holds_no_code() -> None:
    """It is read with `weights_only`: whoever can write a checkpoint cannot run code with it."""

    class Evil:
        def __reduce__(self) -> Any:
            return (print, ("executed",))

    saved = msgspec.msgpack.encode({"predictions": [], "network": pickle.dumps(Evil(), 2)})
    with pytest.raises(pickle.UnpicklingError):
        do(train_model, training(family="mlp"), FakeRun(saved=saved))


@pytest.mark.parametrize(("cpus", "threads"), [(2.0, 2), (1.0, 1), (0.5, 1)])
def test_threads_are_those_the_attempt_holds(cpus: float, threads: int) -> None:
    used = set()

    class Watched(FakeRun):
        def progress(self, fraction: float, **metrics: float) -> None:
            used.add(torch.get_num_threads())
            assert max(pool["num_threads"] for pool in threadpool_info()) <= threads

    do(train_model, training(family="mlp", epochs=1), Watched(cpus=cpus))
    assert used == {threads}


def test_the_random_numbers_of_others_are_left_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    do(train_model, training(family="mlp", epochs=1))
    assert torch.equal(torch.rand(3), expected)


def test_epochs_are_as_many_as_were_asked_for() -> None:
    run = FakeRun()
    do(train_model, training(family="lstm", epochs=2), run)
    assert sum("loss" in figures for _, figures in run.told) == 4 * 2


# What is found, and what is not ------------------------------------------------------------------


def predictable(symbol: str) -> pd.DataFrame:
    """Prices that follow their own last days: real highs, lows and volumes, another close."""
    prices = datasets.prices(symbol)
    random = np.random.default_rng(5)
    returns = np.zeros(len(prices))
    for day in range(2, len(returns)):
        returns[day] = 0.5 * returns[day - 1] + random.normal(0, 0.01)
    scale = np.exp(returns.cumsum()) * 100 / prices["close"]
    moved = prices.mul(scale, axis=0)
    moved["volume"] = prices["volume"]
    return moved


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pattern_that_is_there_is_found(family: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world = predictable("MSFT")
    monkeypatch.setattr(datasets, "prices", lambda symbol: world)
    params = training(symbol="MSFT", target="up_1d", family=family, features=("ret_1d", "ret_5d"))
    model = do(train_model, params)
    assert model.score > 0.25
    assert model.p_value < 0.01
    assert model.score > model.luck_95
    assert abs(model.baseline) < model.score, "shuffled targets teach nothing"


def test_noise_is_not_mistaken_for_a_pattern(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty histories in random order: about one in twenty beats luck, not many."""
    prices, beaten = datasets.prices("GOOG"), 0
    for seed in range(40):
        order = np.random.default_rng(seed).permutation(len(prices) - 1)
        days = np.log(prices / prices.shift()).iloc[1:].to_numpy()[order].cumsum(axis=0)
        world = prices.copy()
        world.iloc[1:] = prices.iloc[0].to_numpy() * np.exp(days)
        monkeypatch.setattr(datasets, "prices", lambda symbol, world=world: world)
        model = do(train_model, training(target="ret_1d", features=FEATURES[:5], seed=seed))
        beaten += model.score > model.luck_95
    assert beaten <= 7


# The parent's word -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def selection() -> Selection:
    return do(select_features, SelectFeatures(symbol="GOOG", target="up_5d", keep=3, splits=SHORT))


def test_the_features_of_the_parent_go_before_those_of_the_params(selection: Selection) -> None:
    assert do(train_model, training(), select=selection).features == selection.selected
    assert do(train_model, training()).features == list(FEATURES[:8])
    assert do(train_model, training(features=())).features == list(FEATURES)


def test_a_selection_that_saw_the_test_days_is_refused(selection: Selection) -> None:
    with pytest.raises(ValueError, match="give both tasks the same splits"):
        do(train_model, training(splits=WalkForward(folds=2, first_train=0.5)), select=selection)


def test_a_selection_of_another_target_is_refused(selection: Selection) -> None:
    with pytest.raises(ValueError, match="GOOG up_5d, not for GOOG ret_5d"):
        do(train_model, training(target="ret_5d"), select=selection)


def test_the_table_of_families_is_complete() -> None:
    assert tuple(families.FAMILIES) == FAMILIES
