"""What the four kinds announce: identity by content, code and data, and a light import."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from corral import handlers
from corral.research import datasets, kinds
from corral.research.schema import FAMILIES, SYMBOLS

KINDS = ("rank_target", "select_features", "train_model", "backtest")


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_found_by_its_entry_point_and_announces_itself(kind: str) -> None:
    assert kind in {entry.name for entry in entry_points(group="corral.handlers")}
    announced = handlers.load(kind).announce()
    assert announced.content
    assert announced.data_snapshot == datasets.snapshot()
    assert announced.code_version == kinds.code_version()
    assert "ValueError" in announced.never
    assert json.loads(announced.schema)["$defs"]


def test_only_training_asks_for_a_gpu_and_can_do_without() -> None:
    wanted = {kind: [way.gpus for way in handlers.load(kind).announce().needs] for kind in KINDS}
    assert wanted.pop("train_model") == [1, 0]
    assert set(map(tuple, wanted.values())) == {(0,)}


def test_the_schema_knows_symbols_and_families() -> None:
    """So a misspelt name is refused at submit, with its path."""
    schema = json.loads(handlers.load("train_model").announce().schema)
    fields = schema["$defs"]["TrainModel"]["properties"]
    assert fields["symbol"]["enum"] == sorted(SYMBOLS)
    assert fields["family"]["enum"] == sorted(FAMILIES)


def test_announcing_imports_no_numerical_library() -> None:
    code = """
import sys
from corral import handlers
for kind in ("rank_target", "select_features", "train_model", "backtest"):
    handlers.load(kind).announce()
from corral.research import pipeline, report
pipeline.expand(pipeline.load("demo"))
heavy = {"numpy", "pandas", "torch", "sklearn", "lightgbm", "scipy", "jinja2"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_code_version_follows_what_computes_and_not_what_shows(tmp_path: Path) -> None:
    folder = tmp_path / "research"
    shutil.copytree(Path(kinds.__file__).parent, folder, ignore=shutil.ignore_patterns("data"))
    before = kinds.code_version(folder)
    assert before == kinds.code_version()
    for shown in ("report.py", "charts.py", "pipeline.py", "document.py"):
        (folder / shown).write_text("# changed")
    assert kinds.code_version(folder) == before
    (folder / "features.py").write_text("# changed")
    assert kinds.code_version(folder) != before
