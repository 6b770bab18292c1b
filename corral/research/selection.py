"""The kind `select_features`: which features tell something about a target, and tell it once.

Only the development window is seen, the rows before the first test window of training.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from corral.handlers import Run, needs
from corral.research import datasets
from corral.research.kinds import research_kind, threads_of
from corral.research.schema import JudgedFeature, Ranking, SelectFeatures, Selection
from corral.research.splits import development

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

PARTS = 4  #: pieces of the window in which a correlation should keep its sign


@research_kind("select_features", needs=needs(cpus=1, memory_gb=1))
def select_features(params: SelectFeatures, run: Run) -> Selection:
    """Order features by mutual information and rank correlation, then drop repetitions.

    A parent named `rank` (a `Ranking`) must find the target usable.

    Raises:
        ValueError: the parent ranking does not know the target or calls it unusable, or the
            history is too short.
        Cancelled: the task was cancelled.
    """
    with datasets.research_extra():
        import numpy as np

        from corral.research import scoring, targets

    place = _place(params, run.parents)
    target = targets.TARGETS[params.target]
    samples = targets.samples(datasets.prices(params.symbol), params.features, params.target)
    rows = development(len(samples.days), target.horizon, params.splits)
    x, y = samples.x[:rows], samples.y[:rows]

    information = np.zeros(len(params.features))
    with threads_of(run):
        for column in range(len(params.features)):
            run.check_cancelled()
            information[column] = _information(x[:, column], y, target.classes, params.seed)
            run.progress((column + 1) / len(params.features))
    ics = np.array([scoring.rank_ic(column, y) for column in x.T])
    pieces = zip(np.array_split(x, PARTS), np.array_split(y, PARTS), strict=True)
    parts = [[scoring.rank_ic(column, ahead) for column in piece.T] for piece, ahead in pieces]
    stable = (np.sign(parts) == np.sign(ics)).mean(axis=0)
    worth = scoring.ranks(information) + scoring.ranks(np.abs(ics) * stable)

    alike = np.abs(np.corrcoef(np.apply_along_axis(scoring.ranks, 0, x), rowvar=False)).reshape(
        len(params.features), -1
    )
    selected: list[int] = []
    judged = []
    for column in map(int, np.argsort(-worth, kind="stable")):
        why = _why_not(column, selected, alike, params)
        if not why:
            selected.append(column)
        judged.append(
            JudgedFeature(
                feature=params.features[column],
                information=float(information[column]),
                ic=float(ics[column]),
                stable=float(stable[column]),
                selected=not why,
                why=why,
            )
        )
    return Selection(
        symbol=params.symbol,
        target=params.target,
        until=str(samples.days[rows - 1 + target.horizon].date()),
        place=place,
        selected=[params.features[column] for column in selected],
        features=judged,
    )


def _place(params: SelectFeatures, parents: Mapping[str, Any]) -> int | None:
    if "rank" not in parents:
        return None
    ranking = msgspec.convert(parents["rank"], Ranking)
    found = next((one for one in ranking.targets if one.target == params.target), None)
    if found is None or ranking.symbol != params.symbol:
        raise ValueError(
            f"the parent `rank` is of {ranking.symbol} and ranks "
            f"{', '.join(one.target for one in ranking.targets)}, "
            f"not {params.symbol} {params.target}"
        )
    if not found.usable:
        raise ValueError(f"the ranking calls {params.target} unusable: {found.why}")
    return found.place


def _information(feature: Floats, y: Floats, classes: bool, seed: int) -> float:
    """Mutual information by nearest neighbours (Kraskov et al. 2004, Ross 2014), nats."""
    from sklearn.feature_selection import mutual_info_classif, mutual_info_regression

    estimate = mutual_info_classif if classes else mutual_info_regression
    return float(estimate(feature[:, None], y, random_state=seed)[0])


def _why_not(column: int, selected: list[int], alike: Floats, params: SelectFeatures) -> str:
    twin = max(selected, key=lambda other: alike[column, other], default=None)
    if twin is not None and alike[column, twin] > params.max_correlation:
        return f"correlates {alike[column, twin]:.2f} with {params.features[twin]}"
    if len(selected) >= params.keep:
        return f"not among the best {params.keep}"
    return ""
