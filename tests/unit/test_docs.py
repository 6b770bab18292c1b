"""The docs say what is there: pages made from code are current, links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from msgspec import Struct

from corral.research import pipeline
from corral.research.schema import FAMILIES, SYMBOLS, TARGETS, WalkForward

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
WRITTEN = sorted(
    file
    for pattern in ("*.md", "docs/**/*.md", "roles/*/README.md", "playbooks/**/*.md")
    for file in ROOT.glob(pattern)
)
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir())
PLAYBOOKS = sorted(path.name for path in (ROOT / "playbooks").glob("*.yml"))


def read(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def test_pages_made_from_code_are_current(tmp_path: Path) -> None:
    # In a process of its own: Ansible replaces `sys.intern`, and then torch cannot be imported.
    path = {"PYTHONPATH": str(ROOT / "playbooks" / "collections")}
    command = [sys.executable, "-m", "docs", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, **path}, check=True)
    made = sorted(file.name for file in tmp_path.iterdir())
    assert made == ["collection.md", "metrics.md", "roles.md"]
    for name in made:
        assert read(REFERENCE / name) == read(tmp_path / name), "type: make docs"


def links(file: Path) -> Iterator[tuple[str, str]]:
    """Paths and anchors in a page, without what stands in code."""
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", read(file), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            yield path, anchor


def anchors(file: Path) -> set[str]:
    """What its headings can be linked by, as GitHub makes it of them."""
    headings = re.findall(r"^#+ (.*)$", read(file), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("file", WRITTEN, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_link_leads_somewhere(file: Path) -> None:
    for path, anchor in links(file):
        target = (file.parent / path).resolve() if path else file
        assert target.exists(), f"{file}: {path}"
        assert not anchor or anchor in anchors(target), f"{file}: {path}#{anchor}"


@pytest.mark.parametrize("role", ROLES)
def test_every_variable_of_a_role_is_required_or_has_a_default(role: str) -> None:
    folder = ROOT / "roles" / role
    specs = yaml.safe_load(read(folder / "meta" / "argument_specs.yml"))["argument_specs"]
    needed = {name for name, one in specs["main"]["options"].items() if one.get("required")}
    assert {*yaml.safe_load(read(folder / "defaults" / "main.yml"))} == {
        *specs["main"]["options"]
    } - needed


def playbook_rows() -> dict[str, str]:
    """Of each playbook in the page of playbooks, what its row says of variables."""
    rows = re.findall(r"^\| \[([\w.]+)\]\(.*\| (.*)\|$", read(REFERENCE / "playbooks.md"), re.M)
    return dict(rows)


def test_every_playbook_has_a_row() -> None:
    assert sorted(playbook_rows()) == PLAYBOOKS


@pytest.mark.parametrize("playbook", PLAYBOOKS)
def test_the_variables_that_a_playbook_names_are_told(playbook: str) -> None:
    told = set(re.findall(r"`([a-z_]+)`", playbook_rows()[playbook]))
    code = read(ROOT / "playbooks" / playbook)
    typed = set(re.findall(r"-e (\w+)=", "\n".join(re.findall(r"^#.*$", code, re.M))))
    assert typed <= told


def test_it_is_told_what_to_do_at_each_alert() -> None:
    alerts = re.findall(r"alert: (\w+)", read(ROOT / "templates/prometheus/corral-rules.yml.j2"))
    rows = re.findall(r"^\| `(Corral\w+)` \|", read(ROOT / "docs/how-to/monitoring.md"), re.M)
    assert sorted(rows) == sorted(alerts)


def test_every_bad_input_has_the_tests_that_the_page_names() -> None:
    rows = [line for line in read(REFERENCE / "bad-input.md").splitlines() if line[:2] == "| "][2:]
    for row in rows:
        named = re.findall(r"`(?:(\w+)/)?(\w+\.py)::(\w+)`", row)
        assert named, row
        for folder, file, test in named:
            code = read(ROOT / "tests/fleet" / (folder or "collection") / file)
            assert f"def {test}(" in code, row


PIPELINES = read(ROOT / "docs" / "how-to" / "pipelines.md")


def test_every_key_of_a_pipeline_file_is_told() -> None:
    cells = re.findall(r"^\| (`.*?) \| .*? \| .*\|$", PIPELINES, re.MULTILINE)
    sections: dict[str, type[Struct]] = {"splits": WalkForward, **pipeline.PARAMS}
    inside = {
        f"{section}.{field}"
        for section, params in sections.items()
        for field in params.__struct_fields__
        if section == "splits" or field not in ("symbol", "target", "family", "seed", "splits")
    }
    keys = {*pipeline.Pipeline.__struct_fields__} - sections.keys() | inside
    assert {key for cell in cells for key in re.findall(r"`(.*?)`", cell)} == keys
    words = {*re.findall(r"`(\w+)`", PIPELINES)}
    assert words >= {*SYMBOLS, *TARGETS, *FAMILIES, *pipeline.Want.__struct_fields__}


def test_the_pipeline_on_the_page_becomes_what_is_shown() -> None:
    [text] = re.findall(r"^```yaml\n(.*?)^```", PIPELINES, re.MULTILINE | re.DOTALL)
    planned = pipeline.expand(pipeline.parse(text, "mine.yaml"))
    counts = Counter(one.kind for one in planned)
    told = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    assert f"\nmine: {len(planned)} tasks: {told}\n" in PIPELINES
