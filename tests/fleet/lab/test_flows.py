"""Whole flows through proxmoxer, as the fleet does them."""

from __future__ import annotations

from tests.fleet.lab.process import LabProcess


def test_the_deploy_token_clones_configures_starts_and_destroys(lab: LabProcess) -> None:
    lab.template()
    api = lab.client("deploy")
    lxc = api.nodes("pve1").lxc
    assert lab.wait(api, lxc(900).clone.post(newid=5001, hostname="w1", pool="corral")) == "OK"
    before = lxc(5001).config.get()
    lxc(5001).config.put(
        cores=2,
        memory=384,
        tags="role-worker;Corral",
        net0="name=eth0,bridge=vmbr0,ip=10.7.0.11/24,gw=10.7.0.1",
        digest=before["digest"],
    )
    assert lab.wait(api, lxc(5001).status.start.post()) == "OK"
    after = lxc(5001).config.get()
    assert (after["cores"], after["tags"]) == (2, "corral;role-worker")
    eth0 = lxc(5001).interfaces.get()[1]
    assert eth0["inet"] == "10.7.0.11/24"
    assert eth0["hwaddr"].upper() in after["net0"]
    assert lab.wait(api, lxc(5001).status.stop.post()) == "OK"
    assert lab.wait(api, lxc(5001).delete()) == "OK"
    assert [guest["vmid"] for guest in lxc.get()] == [900]
