"""Figures, alert rules and dashboards agree: what is asked for is told, what is told is used."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corral.gateway.figures import FIGURES
from corral.gateway.metrics import PROCESS

TEMPLATES = Path(__file__).parents[3] / "templates"
RULES = (TEMPLATES / "prometheus" / "corral-rules.yml.j2").read_text(encoding="utf-8")
BOARDS = sorted((TEMPLATES / "grafana").glob("*.json"))
TOLD = {figure.name: figure for figure in FIGURES}
OF_PROCESS = {sample.name for one in PROCESS.collect() for sample in one.samples}


def named(text: str) -> set[str]:
    """The metrics that an expression names, histograms without what Prometheus adds to them."""
    found = set(re.findall(r"\b(?:corral|process)_\w+", text))
    return {
        whole if TOLD.get(whole := re.sub(r"_(bucket|sum|count)$", "", name)) else name
        for name in found
    }


def expressions(part: Any) -> Iterator[str]:
    """Whatever a dashboard asks Prometheus: panels, variables, annotations."""
    if isinstance(part, dict):
        for key, value in part.items():
            if key in ("expr", "query", "definition") and isinstance(value, str):
                yield value
            yield from expressions(value)
    elif isinstance(part, list):
        for one in part:
            yield from expressions(one)


def asked(board: Path) -> set[str]:
    return {name for text in expressions(json.loads(board.read_text())) for name in named(text)}


def test_names_follow_the_conventions_of_prometheus() -> None:
    assert len(TOLD) == len(FIGURES)
    for figure in FIGURES:
        assert re.fullmatch(r"corral(_[a-z]+)+", figure.name)
        assert figure.tells.endswith(".")
        assert not figure.histogram or figure.name.endswith("_seconds")


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.stem)
def test_dashboards_name_what_is_told(board: Path) -> None:
    assert asked(board) <= TOLD.keys() | OF_PROCESS


def test_rules_name_what_is_told() -> None:
    rules = re.sub(r"^#.*$|summary: .*$", "", RULES, flags=re.MULTILINE)
    assert named(rules) <= TOLD.keys()


def test_what_is_told_is_used_by_a_rule_or_a_dashboard() -> None:
    assert TOLD.keys() <= named(RULES).union(*map(asked, BOARDS))


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.stem)
def test_a_dashboard_can_be_imported_anywhere(board: Path) -> None:
    """It has its own id, and no address or data source of the place where it was made."""
    text = board.read_text()
    read = json.loads(text)
    assert read["uid"] == board.stem
    assert "id" not in read
    sources = set(re.findall(r'"uid": "(\$[^"]*|[^"]*)"', text)) - {read["uid"]}
    assert sources == {"${datasource}"}
    assert re.search(r":\d{4}\b|localhost|\d+\.\d+\.\d+\.\d+", text) is None
    [variable] = [one for one in read["templating"]["list"] if one["type"] == "datasource"]
    assert (variable["name"], variable["query"]) == ("datasource", "prometheus")
    ids = [panel["id"] for panel in read["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in read["panels"]:
        assert panel["title"]
        assert panel["description"]
        assert panel["targets"]
