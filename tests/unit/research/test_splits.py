"""Walk-forward windows: they cover, they do not overlap, they are purged and embargoed."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from corral.research.schema import WalkForward
from corral.research.splits import MIN_ROWS, Split, development, walk_forward

HOW = st.builds(
    WalkForward,
    folds=st.integers(1, 10),
    first_train=st.floats(0.1, 0.9),
    embargo=st.integers(0, 60),
)


def cut(rows: int, horizon: int, how: WalkForward) -> list[Split]:
    try:
        return walk_forward(rows, horizon, how)
    except ValueError:
        assume(False)
        raise


@given(st.integers(300, 5000), st.integers(1, 40), HOW)
def test_windows_cover_what_follows_the_first_training(
    rows: int, horizon: int, how: WalkForward
) -> None:
    splits = cut(rows, horizon, how)
    assert len(splits) == how.folds
    assert splits[-1].test_end == rows
    assert splits[0].test_start == round(rows * how.first_train)
    for one, following in pairwise(splits):
        assert one.test_end == following.test_start
    lengths = [split.test_end - split.test_start for split in splits]
    assert max(lengths) - min(lengths) <= 1


@given(st.integers(300, 5000), st.integers(1, 40), HOW)
def test_no_label_of_a_training_row_reaches_the_embargo(
    rows: int, horizon: int, how: WalkForward
) -> None:
    for split in cut(rows, horizon, how):
        last_label = split.train_end - 1 + horizon
        assert last_label == split.test_start - how.embargo - 1, "purged, and not a row more"
        assert split.train_end >= MIN_ROWS


@given(st.integers(300, 5000), st.integers(1, 20), st.integers(1, 20), HOW)
def test_what_is_in_sample_does_not_depend_on_the_horizon(
    rows: int, one: int, other: int, how: WalkForward
) -> None:
    starts = [[split.test_start for split in cut(rows, days, how)] for days in (one, other)]
    assert starts[0] == starts[1]


@given(st.integers(300, 5000), st.integers(1, 40), HOW)
def test_development_ends_before_the_first_test(rows: int, horizon: int, how: WalkForward) -> None:
    first = cut(rows, horizon, how)[0]
    assert development(rows, horizon, how) + horizon + how.embargo == first.test_start


def test_too_short_a_history_is_refused() -> None:
    with pytest.raises(ValueError, match="200 rows are too few for 10 folds"):
        walk_forward(200, 5, WalkForward(folds=10))
    with pytest.raises(ValueError, match="ask for fewer folds"):
        walk_forward(400, 20, WalkForward(folds=1, first_train=0.1))
