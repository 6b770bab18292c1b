"""Scores against the formulas of other libraries, and luck against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from corral.research import scoring

RANDOM = np.random.default_rng(3)


@pytest.mark.parametrize("ties", [False, True])
def test_rank_ic_is_spearmans(ties: bool) -> None:
    a, b = RANDOM.normal(size=200), RANDOM.normal(size=200)
    if ties:
        a, b = a.round(0), b.round(0)
    assert scoring.rank_ic(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)


def test_rank_ic_of_a_constant_is_nothing() -> None:
    assert scoring.rank_ic(np.ones(5), np.arange(5.0)) == 0


def test_auc_is_that_of_scikit_learn() -> None:
    told, came = RANDOM.normal(size=300).round(1), (RANDOM.random(300) < 0.3).astype(float)
    assert scoring.auc(told, came) == pytest.approx(roc_auc_score(came, told), abs=1e-12)
    assert scoring.auc(told, np.ones(300)) == 0.5


def test_luck_is_what_shifted_targets_score() -> None:
    windows = [(RANDOM.normal(size=n), RANDOM.normal(size=n)) for n in (120, 75)]
    generator = np.random.default_rng(11)
    low, high = scoring.NEAREST_SHIFT, 1 - scoring.NEAREST_SHIFT
    shares = generator.uniform(low, high, scoring.SHIFTS)
    brute = [
        np.mean(
            [
                stats.spearmanr(told, np.roll(came, int(share * len(came)))).statistic
                for told, came in windows
            ]
        )
        for share in shares
    ]
    np.testing.assert_allclose(scoring.luck(windows, 11), brute, atol=1e-12)


def test_luck_knows_that_smooth_series_meet_by_chance() -> None:
    """Two random walks correlate often; permuting one would call that skill."""
    rough = [(RANDOM.normal(size=500), RANDOM.normal(size=500))]
    smooth = [(told.cumsum(), came.cumsum()) for told, came in rough]
    spread = [np.std(scoring.luck(windows, 1)) for windows in (rough, smooth)]
    assert spread[1] > 4 * spread[0]


def test_p_values_of_noise_are_even_and_of_truth_are_small() -> None:
    values = []
    for seed in range(200):
        random = np.random.default_rng(seed)
        window = (random.normal(size=200), random.normal(size=200))
        values.append(scoring.p_value(scoring.rank_ic(*window), scoring.luck([window], seed)))
    assert stats.kstest(values, "uniform").pvalue > 0.01
    truth = RANDOM.normal(size=200)
    window = (truth + RANDOM.normal(size=200), truth)
    assert scoring.p_value(scoring.rank_ic(*window), scoring.luck([window], 0)) < 0.01
