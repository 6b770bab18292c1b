"""The pipeline file: what it expands to, and how it is refused."""

from __future__ import annotations

import re
import time
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from corral import handlers
from corral.research import pipeline
from corral.research.pipeline import BadPipeline, NoPipeline, Planned
from corral.tasks import force_gpu, needs, prefer_gpu

DEMO = pipeline.FOLDER.joinpath("demo.yaml").read_text()


def plan(text: str) -> list[Planned]:
    return pipeline.expand(pipeline.parse(text, "mine.yaml"))


def test_the_demo_is_at_least_a_hundred_tasks_of_four_kinds() -> None:
    tasks = pipeline.expand(pipeline.load("demo"))
    assert Counter(task.kind for task in tasks) == {
        "rank_target": 4, "select_features": 12, "train_model": 60, "backtest": 60
    }  # fmt: skip
    assert len({task.name for task in tasks}) == len(tasks) == 136


def test_parents_come_before_children_and_feed_them() -> None:
    seen: dict[str, Planned] = {}
    for task in plan(DEMO):
        parents = {name: seen[parent].kind for name, parent in task.after.items()}
        assert (
            parents
            == {
                "rank_target": {},
                "select_features": {"rank": "rank_target"},
                "train_model": {"select": "select_features"},
                "backtest": {"model": "train_model"},
            }[task.kind]
        )
        for parent in task.after.values():
            assert task.name.startswith(seen[parent].name.rpartition("/")[0])
        seen[task.name] = task


def test_params_fit_the_handlers() -> None:
    for task in plan(DEMO):
        params = msgspec.convert(task.params, handlers.load(task.kind).params_type)
        if task.kind == "train_model":
            assert f"{params.symbol}/{params.target}/{params.family}/train" == task.name
            assert params.seed == 7


def test_equal_files_give_equal_plans() -> None:
    assert plan(DEMO) == plan(DEMO)


def test_what_is_not_said_is_left_to_the_kind() -> None:
    """So that a task of a pipeline and the same one submitted by hand are one task."""
    text = "{name: a, symbols: [IBM], targets: [up_5d], families: [mlp]}"
    assert [task.params for task in plan(text)] == [
        {"symbol": "IBM"},
        {"symbol": "IBM", "target": "up_5d"},
        {"symbol": "IBM", "target": "up_5d", "family": "mlp"},
        {},
    ]


def test_splits_are_the_same_for_all_who_choose_and_judge() -> None:
    text = DEMO.replace("folds: 4", "folds: 6")
    for task in plan(text):
        expected = None if task.kind == "backtest" else 6
        assert task.params.get("splits", {}).get("folds") == expected


def test_only_networks_prefer_a_gpu_unless_the_file_says_otherwise() -> None:
    def wanted(text: str) -> dict[str, object]:
        return {task.name.rpartition("/")[0]: task.needs for task in plan(text)
                if task.kind == "train_model" and task.name.startswith("IBM/up_5d")}  # fmt: skip

    cpu = needs(cpus=1, memory_gb=2)
    assert wanted(DEMO) == {
        "IBM/up_5d/ridge": cpu,
        "IBM/up_5d/random_forest": cpu,
        "IBM/up_5d/lightgbm": cpu,
        "IBM/up_5d/mlp": None,
        "IBM/up_5d/lstm": None,
    }
    told = DEMO + "needs: {lstm: {gpu: force, cpus: 4}, train_model: {gpu: prefer, memory_gb: 3}}\n"
    assert wanted(told) == {
        "IBM/up_5d/ridge": prefer_gpu(1, 3),
        "IBM/up_5d/random_forest": prefer_gpu(1, 3),
        "IBM/up_5d/lightgbm": prefer_gpu(1, 3),
        "IBM/up_5d/mlp": prefer_gpu(1, 3),
        "IBM/up_5d/lstm": force_gpu(4, 2),
    }


# What is refused: (what is changed, into what, the key, what is said). The line is found by itself.
FAULTS = [
    ("keep: 10", "kep: 10", "select.kep", "no such key"),
    ("keep: 10", "keep: ten", "select.keep", "Expected `int`, got `str`"),
    ("keep: 10", "keep: 0", "select.keep", ">= 1"),
    ("keep: 10", "seed: 10", "select.seed", "set by the pipeline"),
    ("max_correlation: 0.9", "features: [rsi]", "select.features[0]", "Invalid enum value 'rsi'"),
    ("folds: 4", "folds: 400", "splits.folds", "<= 20"),
    ("folds: 4", "fold: 4", "splits.fold", "no such key"),
    ("IBM", "IBN", "symbols[2]", "known: AAPL, GOOG, IBM, MSFT"),
    ("mlp", "mpl", "families[3]", "known: ridge"),
    ("up_20d", "up_30d", "targets[2]", "known: up_1d"),
    ("up_20d", "vol_20d", "targets[2]", "cannot be traded"),
    ("up_20d", "up_5d", "targets[2]", "listed twice"),
    ("[AAPL, GOOG, IBM, MSFT]", "[]", "symbols", "length >= 1"),
    ("[AAPL, GOOG, IBM, MSFT]", "AAPL", "symbols", "Expected `array`, got `str`"),
    ("name: demo", "nme: demo", "nme", "no such key"),
    ("name: demo\n", "", "the file", "missing required field `name`"),
    ("seed: 7", "seed: -7", "seed", ">= 0"),
    ("seed: 7", "seed: 7\nseed: 8", "seed", "stands twice"),
    ("seed: 7", "rank: {targets: [up_5d]}", "rank.targets", "leaves out ret_5d"),
    ("seed: 7", "rank: {targets: 5}", "rank.targets", "Expected `array`"),
    ("seed: 7", "train:\n  epochs: none", "train.epochs", "Expected `int | null`"),
    ("seed: 7", "needs:\n  lstm:\n    gpu: yes please", "needs.lstm.gpu", "'yes please'"),
    ("seed: 7", "needs:\n  lstmm: {}", "needs.lstmm", "neither a kind nor a family"),
    ("seed: 7", "needs: 5", "needs", "Expected `object`"),
    ("commission_bps: 1", "commission_bps: -1", "backtest.commission_bps", ">= 0"),
    ("[up_5d, ret_5d, up_20d]", "[up_5d", "YAML", "expected"),
    ("seed: 7", "seed: !!python/name:os.system", "YAML", "could not determine a constructor"),
]


def test_anchors_that_make_much_of_little_are_refused_at_once() -> None:
    levels = [f"a{n}: &a{n} [{', '.join(9 * [f'*a{n - 1}'])}]" for n in range(1, 30)]
    began = time.process_time()
    with pytest.raises(BadPipeline, match="its anchors repeat as many"):
        pipeline.parse("\n".join(["a0: &a0 [x]", *levels]), "mine.yaml")
    assert time.process_time() - began < 1.0


@pytest.mark.parametrize(("old", "new", "key", "why"), FAULTS, ids=[fault[1] for fault in FAULTS])
def test_a_fault_is_named_with_file_line_and_key(old: str, new: str, key: str, why: str) -> None:
    assert DEMO.count(old) == 1
    text = DEMO.replace(old, new)
    with pytest.raises(BadPipeline) as caught:
        pipeline.parse(text, "mine.yaml")
    error = caught.value
    assert (error.fields["file"], error.fields["key"]) == ("mine.yaml", key)
    assert why in error.fields["why"]
    assert str(error).startswith(f"mine.yaml, line {error.fields['line']}: {key}: ")
    assert error.exit_status == 2
    if key not in ("YAML", "the file"):
        last = re.split(r"[.\[]", key.rstrip("]"))[0 if key.endswith("]") else -1]
        line = text.splitlines()[error.fields["line"] - 1]
        assert last in line, "the line that is named holds the key"


def test_the_line_of_a_list_item_is_its_own() -> None:
    text = "name: a\nsymbols:\n  - IBM\n  - AAPL\n  - XYZ\ntargets: [up_5d]\nfamilies: [mlp]\n"
    with pytest.raises(BadPipeline, match=r"line 5: symbols\[2\]"):
        pipeline.parse(text, "mine.yaml")


NONSENSE = [
    *("", "- 1", "a", "name", "\x00", "a: [", "? [a]\n: b", "&a [*a]", "[" * 5000, "1: 2"),
    *("a: 2020-13-45", "a: !!timestamp b", "a: !!int", "a: !!int b", "a: !!float b", "a: !!bool b"),
    "? !!binary [b]\n: c",
]


@pytest.mark.parametrize("text", NONSENSE, ids=range(len(NONSENSE)))
def test_what_is_no_pipeline_at_all_is_refused(text: str) -> None:
    with pytest.raises(BadPipeline, match=r"mine\.yaml, line 1: "):
        pipeline.parse(text, "mine.yaml")


def test_a_file_is_found_by_path_or_by_name(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(DEMO.replace("name: demo", "name: mine"))
    assert pipeline.load(mine).name == "mine"
    assert pipeline.load("demo").name == "demo"
    assert pipeline.shipped()["demo"] == pipeline.FOLDER / "demo.yaml"
    mine.write_bytes(b"name: \xff\xfe")
    with pytest.raises(BadPipeline, match="is not UTF-8"):
        pipeline.load(mine)
    for missing in ("nothing", tmp_path, tmp_path / "gone.yaml"):
        with pytest.raises(NoPipeline, match="no pipeline file") as caught:
            pipeline.load(missing)
        assert "demo" in caught.value.cure
        assert caught.value.exit_status == 3


@pytest.mark.parametrize("name", list(pipeline.shipped()))
def test_every_shipped_pipeline_is_whole(name: str) -> None:
    assert pipeline.expand(pipeline.load(name))
