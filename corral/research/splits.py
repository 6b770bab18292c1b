"""Walk-forward windows with purging and embargo: which rows may teach, which rows judge.

Pure arithmetic on row numbers. After M. Lopez de Prado, Advances in Financial Machine Learning
(2018), 7.4.1 (purging) and 7.4.2 (embargo).

Row i is decided at the close of day i, and its label looks at prices up to day i + horizon. Time
runs one way:

    0 ........ train ........ | horizon | embargo |  test fold k  |  test fold k + 1 ...

- Purging: no training label may look at the first test day or later, so the last training row i has
  i + horizon < test start.
- Embargo: in a walk forward no training row follows its test window, so what remains of the embargo
  is a gap before it, against features and targets that hang together over some days.
"""

from __future__ import annotations

from itertools import pairwise

from msgspec import Struct

from corral.research.schema import WalkForward

MIN_ROWS = 50  #: fewer rows in a training or test window teach and judge nothing


class Split(Struct, frozen=True):
    """One fold: rows [0, train_end) teach, rows [test_start, test_end) judge."""

    train_end: int
    test_start: int
    test_end: int


def walk_forward(rows: int, horizon: int, how: WalkForward) -> list[Split]:
    """Cut rows into test windows of nearly equal length, each after the rows that teach for it.

    The test windows do not depend on `horizon`: what is in sample for one target is so for all.

    Raises:
        ValueError: there are too few rows for so many folds.
    """
    first_test = round(rows * how.first_train)
    bounds = [first_test + (rows - first_test) * fold // how.folds for fold in range(how.folds + 1)]
    splits = [
        Split(train_end=start - how.embargo - horizon, test_start=start, test_end=end)
        for start, end in pairwise(bounds)
    ]
    shortest = min(min(split.train_end, split.test_end - split.test_start) for split in splits)
    if shortest < MIN_ROWS:
        raise ValueError(
            f"{rows} rows are too few for {how.folds} folds: a window would have {shortest} rows, "
            f"{MIN_ROWS} are needed; ask for fewer folds"
        )
    return splits


def development(rows: int, horizon: int, how: WalkForward) -> int:
    """How many first rows may be looked at freely, before any fold is judged.

    Ranking and selection see these rows only, so every test window stays out of sample for them.
    """
    return walk_forward(rows, horizon, how)[0].train_end
