"""The kind `rank_target`: which targets of a symbol can be predicted and are worth it.

Only the development window is seen, the rows before the first test window of training, cut into
inner folds; so what is chosen here has not seen the days that judge it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from corral.handlers import Run, needs
from corral.research import datasets
from corral.research.kinds import research_kind, threads_of
from corral.research.schema import (
    DIRECTIONLESS,
    FEATURES,
    RankedTarget,
    Ranking,
    RankTarget,
    WalkForward,
)
from corral.research.splits import development, walk_forward

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from corral.research.splits import Split
    from corral.research.targets import Samples

    Floats = npt.NDArray[np.float64]

INNER = WalkForward(folds=3, first_train=0.4, embargo=5)
JUDGES = ("ridge", "lightgbm")  #: one linear and one not; the mean of their ranks is judged
LEAST_BALANCE = 0.1  #: share of the rarer class below which a target teaches too little
LEAST_EVENTS = 20  #: test rows over horizon: how many targets do not overlap


@research_kind("rank_target", needs=needs(cpus=1, memory_gb=1))
def rank_target(params: RankTarget, run: Run) -> Ranking:
    """Rank candidate targets by how surely they can be predicted; usable ones first.

    Raises:
        ValueError: the history is too short for the folds.
        Cancelled: the task was cancelled.
    """
    with datasets.research_extra():
        from corral.research import targets

    prices = datasets.prices(params.symbol)
    judged, until = [], ""
    with threads_of(run):
        for index, name in enumerate(params.targets):
            run.check_cancelled()
            samples = targets.samples(prices, FEATURES, name)
            horizon = targets.TARGETS[name].horizon
            rows = development(len(samples.days), horizon, params.splits)
            until = max(until, str(samples.days[rows - 1 + horizon].date()))
            seen = targets.Samples(samples.days[:rows], samples.x[:rows], samples.y[:rows])
            judged.append(_judge(name, seen, params.seed))
            run.progress((index + 1) / len(params.targets))
    judged.sort(key=lambda target: (not target.usable, -target.t))
    placed = [replace(target, place=place) for place, target in enumerate(judged, start=1)]
    return Ranking(symbol=params.symbol, until=until, targets=placed)


def _judge(name: str, seen: Samples, seed: int) -> RankedTarget:
    import numpy as np

    from corral.research import scoring, targets

    target = targets.TARGETS[name]
    splits = walk_forward(len(seen.days), target.horizon, INNER)
    rows = sum(split.test_end - split.test_start for split in splits)
    events = rows / target.horizon

    def inner_ic(shuffled: bool) -> float:
        ics = [
            scoring.rank_ic(
                _predict(seen, split, target.classes, seed, shuffled),
                seen.y[split.test_start : split.test_end],
            )
            for split in splits
        ]
        return float(np.mean(ics))

    ic = inner_ic(shuffled=False)
    balance = float(min(seen.y.mean(), 1 - seen.y.mean())) if target.classes else None
    why = _why_unusable(name, balance, events)
    return RankedTarget(
        target=name,
        place=0,
        ic=ic,
        baseline=inner_ic(shuffled=True),
        t=ic * float(np.sqrt(max(events - 1, 0))),
        balance=balance,
        rows=rows,
        usable=not why,
        why=why,
    )


def _why_unusable(name: str, balance: float | None, events: float) -> str:
    if name in DIRECTIONLESS:
        return "says nothing about direction, so it cannot be traded"
    if balance is not None and balance < LEAST_BALANCE:
        return f"the rarer class has {balance:.1%} of the rows, {LEAST_BALANCE:.0%} are needed"
    if events < LEAST_EVENTS:
        return f"only {events:.0f} targets do not overlap, {LEAST_EVENTS} are needed"
    return ""


def _predict(seen: Samples, split: Split, classes: bool, seed: int, shuffled: bool) -> Floats:
    """Mean rank of the judges' predictions for the test rows of `split`."""
    import numpy as np

    from corral.research import scoring
    from corral.research.families import FAMILIES, Lesson
    from corral.research.training import permuted, rows_of

    x, y = rows_of(seen, split)
    lesson = Lesson(
        x=x[: split.train_end],
        y=permuted(y, seed) if shuffled else y,
        classes=classes,
        seed=seed,
        threads=1,
    )
    told = [FAMILIES[judge].fit(lesson)(x[split.test_start : split.test_end]) for judge in JUDGES]
    mean: Floats = np.mean([scoring.ranks(one) for one in told], axis=0)
    return mean
