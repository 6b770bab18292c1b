"""An update that is told first, of a fleet with a gateway and a broker that does not run."""

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
RELEASES = "readlink /opt/corral/current /opt/corral/previous; ls /opt/corral/releases"
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
    """A gateway's, deployed into the fleet while a GPU host is switched off."""
    static = fleet.site.folder / "inventory/gpu.yml"
    off = {"ansible_host": f"{fleet.site.subnet}.60", "fleet_ssh_timeout": 1}
    static.write_text(json.dumps({"all": {"children": {"role_gpu": {"hosts": {"gpu-1": off}}}}}))
    try:
        deployed = fleet.site.run("deploy", *WANTED, "-e", "patience=5")
        static.unlink()
        assert deployed.status == 2, deployed.output
        assert "gpu-1 has not registered" in deployed.output
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
def test_what_check_mode_shows_comes_and_the_gateway_is_updated_last(
    fleet: Fleet, address: str, token: str
) -> None:
    assert me(address, token)["role"] == "operator"
    release, before = fleet.another(), me(address, token)["version"]
    hosts = ("broker", *fleet.workers)
    links = {host: fleet.ssh(host, RELEASES) for host in hosts}
    lives, broker = fleet.lives(), fleet.client.status().started

    planned = fleet.site.play("update", "-e", f"release={release}", "--check", "--diff")
    assert planned.changed.keys() == {*hosts, "gateway-1"}
    for host in fleet.workers:
        assert f"\n-{host} open\n" in planned.output, host  # the difference that the drain makes
        assert f"\n+{host} drained\n" in planned.output, host
    assert f"\n+    src: /opt/corral/releases/{release}\n" in planned.output
    assert {host: fleet.ssh(host, RELEASES) for host in hosts} == links
    assert (fleet.lives(), fleet.client.status().started) == (lives, broker)
    assert set(fleet.releases()) == set(fleet.workers)  # and nobody is drained
    assert me(address, token)["version"] == before

    fleet.ssh("broker", "systemctl stop corral-broker")  # as if its release could not start
    status, output = fleet.update(release)
    assert status == 0, output
    assert fleet.all_on(release)
    assert me(address, token)["version"] == release

    # Nobody is due, and that is told as well.
    assert fleet.site.play("update", "-e", f"release={release}", "--check").changed == {}
