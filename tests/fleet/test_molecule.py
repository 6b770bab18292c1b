"""Every role on real containers, through molecule: tests/molecule has a scenario of each.

A scenario converges, changes nothing the second time, and is looked at from outside; some then go
through an update, a restore or a fault. The machines are made by the product's own modules.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.evidence import Evidence
from tests.fleet.site import ROOT, Site

SCENARIOS = sorted(path.parent.name for path in ROOT.glob("tests/molecule/*/molecule.yml"))
SCENARIO_SECONDS = 600.0
EXPOSURE = re.compile(r"Overall exposure level for (\S+): (\d+\.\d)")


def test_every_role_has_a_scenario() -> None:
    assert [path.name for path in sorted(ROOT.glob("roles/*"))] == SCENARIOS


@pytest.mark.timeout(900)  # the first one makes the site
@pytest.mark.parametrize("role", SCENARIOS)
def test_a_role_on_real_containers(
    role: str, site: Site, tmp_path: Path, evidence: Evidence
) -> None:
    before = site.containers()
    began = time.monotonic()
    done = subprocess.run(
        ["molecule", "-c", "tests/molecule/config.yml", "test", "-s", role],
        cwd=ROOT,
        env=site.environment
        | {
            "MOLECULE_GLOB": "tests/molecule/*/molecule.yml",
            "MOLECULE_EPHEMERAL_DIRECTORY": str(tmp_path),
            "MOLECULE_COMMAND_BORDERS": "false",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SCENARIO_SECONDS,
        check=False,
    )
    seconds = time.monotonic() - began
    assert done.returncode == 0, done.stdout
    assert json.loads(site.operator_key().read_bytes())["secret"] not in done.stdout
    assert site.containers() == before
    exposed = {unit: float(level) for unit, level in EXPOSURE.findall(done.stdout)}
    evidence.record(f"role {role} on real containers", seconds=round(seconds), **exposed)
