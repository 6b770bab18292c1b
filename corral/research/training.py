"""The kind `train_model`: fit a family on each training window, predict each test window, score it.

Each fold is fitted twice, on the true targets and on shuffled ones: what the second scores is what
the machinery finds in noise. After every fit, and every epoch of a network, the state so far is
saved, and a later attempt goes on from there to the same bits. How a family learns lives in
`families` and `networks`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from corral.handlers import Run, prefer_gpu
from corral.research import datasets
from corral.research.kinds import research_kind, threads_of
from corral.research.schema import FEATURES, NETWORKS, Fold, Selection, TrainedModel, TrainModel
from corral.research.splits import Split, walk_forward

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from corral.research.targets import Samples

    Floats = npt.NDArray[np.float64]

CLIP = 5.0  #: standard deviations; a scaled feature beyond this is cut


class Saved(Struct):
    """What a checkpoint holds: predictions of finished fits, and the state of the one in hand."""

    predictions: list[list[float]] = []
    network: bytes = b""


@research_kind("train_model", needs=prefer_gpu(cpus=1, memory_gb=2))
def train_model(params: TrainModel, run: Run) -> TrainedModel:
    """Walk forward through the history of a symbol; see `TrainModel` and `TrainedModel`.

    A parent named `select` (a `Selection`) gives the features.

    Raises:
        ValueError: the history is too short, or the selection is of another target or saw days
            that are to be predicted.
        Cancelled: the task was cancelled.
    """
    with datasets.research_extra():
        from corral.research import families, targets

    target, family = targets.TARGETS[params.target], families.FAMILIES[params.family]
    selection = _selection(params, run.parents)
    names = selection.selected if selection else list(params.features or FEATURES)
    samples = targets.samples(datasets.prices(params.symbol), names, params.target)
    splits = walk_forward(len(samples.days), target.horizon, params.splits)
    if selection and selection.until >= _date(samples, splits[0].test_start):
        raise ValueError(
            f"the features were selected with prices up to {selection.until}, but predictions "
            f"begin at {_date(samples, splits[0].test_start)}: give both tasks the same splits"
        )

    fits = [(split, shuffled) for split in splits for shuffled in (False, True)]
    saved = msgspec.convert(run.checkpoint.load() or {}, Saved)
    device = "cuda" if params.family in NETWORKS and run.gpus else "cpu"

    def each_epoch(done: int, epochs: int, loss: float, state: bytes) -> None:
        saved.network = state
        run.checkpoint.save(saved)
        run.progress((len(saved.predictions) + done / epochs) / len(fits), loss=loss)
        run.check_cancelled()

    with threads_of(run) as threads:
        for index in range(len(saved.predictions), len(fits)):
            run.check_cancelled()
            split, shuffled = fits[index]
            seed = (params.seed + 1_000_003 * index) % 2**31
            x, y = rows_of(samples, split, family.window)
            predict = family.fit(
                families.Lesson(
                    x=x[: split.train_end],
                    y=permuted(y, seed) if shuffled else y,
                    classes=target.classes,
                    seed=seed,
                    threads=threads,
                    device=device,
                    epochs=params.epochs,
                    state=saved.network,
                    each_epoch=each_epoch,
                )
            )
            told = predict(x[split.test_start : split.test_end])
            saved = Saved([*saved.predictions, [float(f"{value:.6g}") for value in told]])
            run.checkpoint.save(saved)
            run.progress(len(saved.predictions) / len(fits))
    return _judged(params, names, samples, splits, saved.predictions, device)


def _selection(params: TrainModel, parents: Mapping[str, Any]) -> Selection | None:
    if "select" not in parents:
        return None
    selection = msgspec.convert(parents["select"], Selection)
    if (selection.symbol, selection.target) != (params.symbol, params.target):
        raise ValueError(
            f"the parent `select` chose features for {selection.symbol} {selection.target}, "
            f"not for {params.symbol} {params.target}"
        )
    return selection


def _date(samples: Samples, row: int) -> str:
    return str(samples.days[row].date())


def permuted(y: Floats, seed: int) -> Floats:
    """The same targets in another order, so that nothing is left to learn."""
    import numpy as np

    return np.random.default_rng(seed).permutation(y)


def rows_of(samples: Samples, split: Split, window: int = 1) -> tuple[Floats, Floats]:
    """What one fold may see: features up to its last test row, and targets of its training rows.

    Features are scaled by mean and standard deviation of the training rows. With a `window`, a row
    holds the features of its last `window` days, oldest first; the first rows repeat the first day.

    Returns:
        x of shape (test_end, features) or (test_end, window, features), y of shape (train_end,).
    """
    import numpy as np

    taught = samples.x[: split.train_end]
    spread = taught.std(axis=0)
    x = (samples.x[: split.test_end] - taught.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    x = x.clip(-CLIP, CLIP)
    if window > 1:
        padded = np.concatenate([np.repeat(x[:1], window - 1, axis=0), x])
        view = np.lib.stride_tricks.sliding_window_view(padded, window, axis=0)
        x = np.ascontiguousarray(view.swapaxes(1, 2))
    return x, samples.y[: split.train_end]


def _judged(
    params: TrainModel,
    names: Sequence[str],
    samples: Samples,
    splits: Sequence[Split],
    predictions: Sequence[Sequence[float]],
    device: str,
) -> TrainedModel:
    import numpy as np

    from corral.research import scoring, targets

    folds, windows = [], []
    for split, told, told_shuffled in zip(splits, predictions[::2], predictions[1::2], strict=True):
        came = samples.y[split.test_start : split.test_end]
        known = np.isfinite(came)  # the last days of the history have no target yet
        window = (np.asarray(told)[known], came[known])
        windows.append(window)
        folds.append(
            Fold(
                start=_date(samples, split.test_start),
                end=_date(samples, split.test_end - 1),
                train_rows=split.train_end,
                ic=scoring.rank_ic(*window),
                baseline=scoring.rank_ic(np.asarray(told_shuffled)[known], came[known]),
                base=float(samples.y[: split.train_end].mean()),
                predictions=list(told),
            )
        )
    score = float(np.mean([fold.ic for fold in folds]))
    by_luck = scoring.luck(windows, params.seed)
    classes = targets.TARGETS[params.target].classes
    return TrainedModel(
        symbol=params.symbol,
        target=params.target,
        family=params.family,
        features=list(names),
        score=score,
        baseline=float(np.mean([fold.baseline for fold in folds])),
        luck_95=float(np.quantile(by_luck, 0.95)),
        p_value=scoring.p_value(score, by_luck),
        accuracy=float(np.mean([((told > 0.5) == came).mean() for told, came in windows]))
        if classes
        else None,
        auc=float(np.mean([scoring.auc(told, came) for told, came in windows]))
        if classes
        else None,
        folds=folds,
        device=device,
    )
