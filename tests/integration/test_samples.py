"""Every sample of these pages runs as it stands, and prints what the comment beside it says.

A block whose first line names a file is that file; the others of a page are one program.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.integration.conftest import PATIENCE, Fleet
from tests.support import daemon

ROOT = Path(__file__).parents[2]
#: page -> options of the worker
PAGES: Mapping[str, tuple[str, ...]] = {
    "README.md": (),
    "docs/how-to/handlers.md": (),
    "docs/how-to/pipelines.md": ("--cpus", "0.5"),  # so that its models are not trained here
    "docs/how-to/sdk.md": (),
}
BLOCK = re.compile(r"^```(?:python|toml|yaml)\n(.*?)^```", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\S+\.(?:py|toml|yaml))\b")
PRINTS = re.compile(r"^ *print\(.*\)  # (.*)$", re.MULTILINE)


def install(files: Mapping[str, str], folder: Path) -> set[str]:
    """Write the files of a page, and return the kinds that their package has.

    With the folder on PYTHONPATH it is an installed distribution for `importlib.metadata`.
    """
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    if "pyproject.toml" not in files:
        return set()
    project = tomllib.loads(files["pyproject.toml"])["project"]
    name, version = project["name"], project["version"]
    points = project["entry-points"]["corral.handlers"]
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    info.joinpath("METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    )
    lines = ["[corral.handlers]", *(f"{kind} = {place}" for kind, place in points.items())]
    info.joinpath("entry_points.txt").write_text("\n".join(lines))
    return {*points}


@pytest.mark.parametrize("page", PAGES)
def test_the_samples_of_a_page_run(
    page: str, fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
    files = {found[1]: block for block in blocks if (found := FILE.match(block))}
    program = "\n".join(block for block in blocks if not FILE.match(block))
    folder = tmp_path / "samples"
    folder.mkdir()
    kinds = install(files, folder)
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    fleet.start_worker("w1", 2, *PAGES[page])
    assert kinds <= {*fleet.client().workers()[0].kinds}, fleet.log("w1")
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={**daemon.environment(), "CORRAL_BROKER": fleet.endpoint, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert ran.returncode == 0, ran.stderr
    says = PRINTS.findall(program)
    assert says
    assert ran.stdout.splitlines() == says
