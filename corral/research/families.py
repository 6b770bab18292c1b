"""The model families: how each one learns from rows and what it then predicts.

A family is a function from a `Lesson` to a `Predict`. It sees training rows only; who cuts them,
scores them and survives a restart is `training`. The torch families live in `networks`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Predict = Callable[[Floats], Floats]  #: rows -> the probability of class 1, or the expected number
EachEpoch = Callable[[int, int, float, bytes], None]  #: epochs done, of how many, loss, state


@dataclass(frozen=True)
class Lesson:
    """One model to fit."""

    x: Floats  #: (rows, features), or (rows, window, features) for a family with a window; scaled
    y: Floats  #: (rows,)
    classes: bool  #: y is 0 or 1
    seed: int
    threads: int
    device: str = "cpu"
    epochs: int | None = None  #: networks only; None: the family's own
    state: bytes = b""  #: networks only: what `each_epoch` was given last, to go on from there
    each_epoch: EachEpoch = lambda done, epochs, loss, state: None


@dataclass(frozen=True)
class FamilyOf:
    """How to fit a family, and what its rows look like."""

    fit: Callable[[Lesson], Predict]
    window: int = 1  #: days of features that one row holds


def ridge(lesson: Lesson) -> Predict:
    """A linear model with an L2 penalty; logistic for classes."""
    from sklearn.linear_model import LogisticRegression, Ridge

    if lesson.classes:
        return _fitted(LogisticRegression(C=0.01, max_iter=500), lesson)
    return _fitted(Ridge(alpha=100.0), lesson)


def random_forest(lesson: Lesson) -> Predict:
    """A bagged forest of shallow trees (Breiman 2001)."""
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    forest = RandomForestClassifier if lesson.classes else RandomForestRegressor
    return _fitted(
        forest(
            n_estimators=50,
            max_depth=5,
            min_samples_leaf=20,
            max_features="sqrt",
            random_state=lesson.seed,
            n_jobs=lesson.threads,
        ),
        lesson,
    )


def lightgbm(lesson: Lesson) -> Predict:
    """Gradient boosted trees, leaf-wise (Ke et al. 2017)."""
    from lightgbm import LGBMClassifier, LGBMRegressor

    boosted = LGBMClassifier if lesson.classes else LGBMRegressor
    return _fitted(
        boosted(
            n_estimators=60,
            num_leaves=8,
            learning_rate=0.05,
            min_child_samples=40,
            subsample=0.7,
            subsample_freq=1,
            colsample_bytree=0.7,
            random_state=lesson.seed,
            n_jobs=lesson.threads,
            deterministic=True,
            force_col_wise=True,
            verbose=-1,
        ),
        lesson,
    )


def _fitted(model: Any, lesson: Lesson) -> Predict:
    """`model`, fitted; it has scikit-learn's interface, which carries no types."""
    model.fit(lesson.x, lesson.y)
    if lesson.classes:
        return lambda x: np.asarray(model.predict_proba(x)[:, 1], np.float64)
    return lambda x: np.asarray(model.predict(x), np.float64)


def mlp(lesson: Lesson) -> Predict:
    """A perceptron with two hidden layers."""
    from corral.research import networks

    return networks.fit(networks.MLP, lesson)


def lstm(lesson: Lesson) -> Predict:
    """A recurrent network over the last days (Hochreiter and Schmidhuber 1997)."""
    from corral.research import networks

    return networks.fit(networks.LSTM, lesson)


FAMILIES: Mapping[str, FamilyOf] = {
    "ridge": FamilyOf(ridge),
    "random_forest": FamilyOf(random_forest),
    "lightgbm": FamilyOf(lightgbm),
    "mlp": FamilyOf(mlp),
    "lstm": FamilyOf(lstm, window=15),
}
