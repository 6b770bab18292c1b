"""How well predictions fit what came: rank correlation, AUC, accuracy, and what luck would score.

Pure functions of arrays. Scores of returns and drawdowns live in `performance`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

Floats = npt.NDArray[np.float64]

SHIFTS = 500  #: circular shifts that estimate what luck scores
NEAREST_SHIFT = 0.1  #: share of a window; closer shifts would still overlap the truth


def ranks(values: Floats) -> Floats:
    """Ranks from 1; equal values share their mean rank."""
    return np.asarray(pd.Series(values).rank(), np.float64)


def rank_ic(prediction: Floats, target: Floats) -> float:
    """Spearman's rank correlation (information coefficient), -1 to 1; 0 when either is constant."""
    return _correlation(ranks(prediction), ranks(target))


def _correlation(a: Floats, b: Floats) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else 0.0


def auc(prediction: Floats, target: Floats) -> float:
    """Area under the ROC curve of a 0/1 target, by rank sums; 0.5 when only one class is there."""
    positive = target > 0.5
    hits, misses = int(positive.sum()), int((~positive).sum())
    if not hits or not misses:
        return 0.5
    return float((ranks(prediction)[positive].sum() - hits * (hits + 1) / 2) / (hits * misses))


def luck(windows: Sequence[tuple[Floats, Floats]], seed: int) -> Floats:
    """Mean rank correlations over `windows` (prediction, target) with targets shifted in a circle.

    A shift breaks the link of prediction and target but keeps what a permutation would destroy:
    that overlapping targets, and predictions, hang together over time. Shape (SHIFTS,).
    """
    generator = np.random.default_rng(seed)
    shares = generator.uniform(NEAREST_SHIFT, 1 - NEAREST_SHIFT, SHIFTS)
    scores = np.zeros(SHIFTS)
    for prediction, target in windows:
        a, b = ranks(prediction), ranks(target)
        a, b = a - a.mean(), b - b.mean()
        scale = np.sqrt((a @ a) * (b @ b))
        if scale > 0:
            # circular cross-correlation: entry k is the dot product of a and b shifted by k
            products = np.fft.irfft(np.fft.rfft(a) * np.conj(np.fft.rfft(b)), len(a))
            scores += products[(shares * len(a)).astype(int)] / scale
    return scores / len(windows)


def p_value(score: float, by_luck: Floats) -> float:
    """Share of lucky scores at least as good as `score`, itself counted as one of them."""
    return float((1 + (by_luck >= score).sum()) / (1 + len(by_luck)))
