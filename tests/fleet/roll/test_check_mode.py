"""A gateway in the fleet: deployed when it is wanted, and updated last."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.fleet.playbooks.fleet import destroy
from tests.fleet.roll.conftest import Fleet
from tests.fleet.site import ROOT

VMID = 4101
WANTED = ("-e", json.dumps({"fleet_gateways": 1, "fleet_workers": len(Fleet.workers)}))


@pytest.fixture
def token(fleet: Fleet) -> str:
    """The operator's, that keys.yml put into the vault."""
    vault = fleet.site.folder / "inventory/group_vars/all/vault.yml"
    shown = subprocess.run(
        ["ansible-vault", "view", str(vault)],
        cwd=ROOT, env=fleet.site.environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    (one,) = yaml.safe_load(shown.stdout)["vault_corral_tokens"]
    return str(one["token"])


@pytest.fixture
def address(fleet: Fleet) -> Iterator[str]:
    """A gateway's, deployed into the fleet."""
    try:
        deployed = fleet.site.play("deploy", *WANTED)
        assert deployed.changed["gateway-1"]
        yield f"{fleet.site.subnet}.15"
    finally:
        destroy(fleet.site, VMID)


def me(address: str, token: str) -> dict[str, Any]:
    """What the gateway says of who asks, and of itself."""
    asked = urllib.request.Request(
        f"http://{address}:8000/api/v1/me", headers={"Authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(asked, timeout=10) as answer:
        told: dict[str, Any] = json.load(answer)
    return told


@pytest.mark.timeout(1200)  # the first test pays for the site
def test_a_gateway_comes_with_a_deploy_and_gets_each_release(
    fleet: Fleet, address: str, token: str
) -> None:
    assert me(address, token)["role"] == "operator"
    release = fleet.another()
    status, output = fleet.update(release)
    assert status == 0, output
    assert fleet.all_on(release)
    assert me(address, token)["version"] == release

    # Who runs it already is left alone.
    began = "systemctl show --value --property=ExecMainStartTimestampMonotonic corral-gateway"
    life = fleet.site.ssh(address, began).stdout
    status, output = fleet.update(release)
    assert status == 0, output
    assert fleet.site.ssh(address, began).stdout == life != ""
