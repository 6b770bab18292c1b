"""Playbooks given something wrong, as an operator types them: refused with the cure, harmless."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.collection.operator import BROKER, ROOT, WORKER, Operator, fleet, without_lab
from tests.fleet.collection.test_bad_input import clear, fault
from tests.fleet.lab.process import LabProcess

FLEET = (BROKER, WORKER)
GPU = WORKER | {
    "name": "gpu", "count": 2, "vmid": 7000, "hostname": "gpu-{ordinal}", "address_offset": 50,
}  # fmt: skip
REFUSED, UNREADABLE = 2, 1  # exit codes of ansible-playbook


class Player:
    """An operator with an inventory of a whole environment, who types playbooks."""

    def __init__(self, operator: Operator) -> None:
        self.operator = operator
        self.lab = operator.lab
        self.variables: dict[str, Any] = {
            "fleet_api": {"lock_timeout": 2},
            "fleet_pool": "corral",
            "fleet_release": "0.1.0",
            "fleet_known_hosts": str(operator.folder / "known_hosts"),
            "fleet_admin_networks": [],
            "fleet_client_networks": [],
            "ansible_user": "root",
        }

    def play(
        self, playbook: str, *flags: str, roles: Any = FLEET, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Type a playbook of the repository."""
        file = self.operator.inventory(roles)
        (file.parent / "group_vars/all/main.yml").write_text(json.dumps(self.variables))
        return self.operator.run(
            "ansible-playbook", "-i", str(file), str(ROOT / "playbooks" / playbook), *flags,
            environment={"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), **environment},
        )  # fmt: skip

    def refused(self, playbook: str, *flags: str, code: int = REFUSED, **more: Any) -> str:
        """What is said by a playbook that does not get through."""
        ended = self.play(playbook, *flags, **more)
        said = " ".join((ended.stdout + ended.stderr).split())
        assert ended.returncode == code, said
        return said


@pytest.fixture
def player(operator: Operator) -> Player:
    """Somebody with an inventory, and no fleet yet."""
    return Player(operator)


def look(lab: LabProcess) -> None:
    """Names and states are known, as after ten seconds."""
    lab.own("POST", "/lab/look")


# --- getting in ------------------------------------------------------------------------------


def test_a_wrong_secret_ends_every_playbook(player: Player) -> None:
    said = player.refused("deploy.yml", code=UNREADABLE, PROXMOX_TOKEN_SECRET="0000")
    assert "its secret is wrong" in said
    assert "pveum user token list corral@pve" in said


@pytest.mark.parametrize("given", ["another password", None])
def test_a_vault_that_does_not_open(player: Player, given: str | None) -> None:
    folder = player.operator.folder
    for name, text in (("right", "a password"), ("wrong", "another password")):
        (folder / name).write_text(text)
    vault = player.operator.inventory().parent / "group_vars" / "all" / "vault.yml"
    vault.write_text("vault_corral_broker_key: {public: a, secret: b}\n")
    command = ["ansible-vault", "encrypt", "--vault-password-file", str(folder / "right")]
    assert player.operator.run(*command, str(vault)).returncode == 0

    password = {"ANSIBLE_VAULT_PASSWORD_FILE": str(folder / "wrong")} if given else {}
    said = player.refused("deploy.yml", code=UNREADABLE, **password)
    assert f"{vault} cannot be opened" in said
    assert "export ANSIBLE_VAULT_PASSWORD_FILE=" in said
    assert not fleet(player.lab)


def test_the_secrets_of_a_new_fleet_are_shown_to_nobody(tmp_path: Path) -> None:
    operator = without_lab(tmp_path)
    (tmp_path / "password").write_text("a password")
    variables = tmp_path / "inventory/group_vars/all/main.yml"
    variables.parent.mkdir(parents=True)
    key = tmp_path / "mine/operator.key"
    own = {"fleet_operator_key": str(key), "fleet_ssh_key": str(tmp_path / "ssh/id_ed25519")}
    variables.write_text(json.dumps(own))
    (tmp_path / "inventory/hosts.yml").write_text("{}")
    made = operator.run(
        "ansible-playbook", "-i", str(tmp_path / "inventory"), str(ROOT / "playbooks/keys.yml"),
        "--diff", "-vvv", environment={
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_VAULT_PASSWORD_FILE": str(tmp_path / "password"),
        },
    )  # fmt: skip
    assert made.returncode == 0, made.stdout + made.stderr
    assert json.loads(key.read_bytes())["secret"] not in made.stdout + made.stderr


# --- what is wanted --------------------------------------------------------------------------


def test_an_inventory_that_would_empty_the_fleet(player: Player) -> None:
    player.operator.containers()
    look(player.lab)
    said = player.refused("deploy.yml", roles=[])
    assert "empty the whole fleet (broker, worker)" in said
    assert "confirm_empty" in said
    said = player.refused("deploy.yml", roles=[BROKER, WORKER | {"count": 0}])
    assert "confirm_empty: [worker]" in said
    assert len(fleet(player.lab)) == 4


def test_an_inventory_with_fewer_than_there_are(player: Player) -> None:
    player.operator.containers()
    look(player.lab)
    said = player.refused("deploy.yml", roles=[BROKER, WORKER | {"count": 2}])
    assert "ansible-playbook playbooks/scale.yml" in said
    assert len(fleet(player.lab)) == 4


@pytest.mark.parametrize("workers", ["0", "-3", "many"])
def test_a_number_of_workers_that_is_none(player: Player, workers: str) -> None:
    said = player.refused("scale.yml", "-e", f"workers={workers}")
    assert "Say how many workers: -e workers=20" in said
    assert not (player.operator.folder / "group_vars" / "all" / "scale.yml").exists()


def test_a_gpu_container_that_is_still_wanted(player: Player) -> None:
    roles = (*FLEET, GPU)
    player.operator.containers(roles=roles)
    look(player.lab)
    said = player.refused("remove.yml", "-e", "host=gpu-1", roles=roles)
    assert "gpu-1 is a container of role gpu. Say count 1 for that role" in said
    assert 7001 in fleet(player.lab)

    # Nobody answers at the addresses of this lab: the plays that need them are left out.
    roles = (*FLEET, GPU | {"count": 1})
    done = player.play(
        "remove.yml", "--limit", "localhost,worker-1", "-e", "host=gpu-1", roles=roles
    )
    assert done.returncode == 0, done.stdout
    assert sorted(fleet(player.lab)) == [4001, 5001, 5002, 5003, 7002]
    look(player.lab)
    said = player.refused("remove.yml", "-e", "host=gpu-2", roles=roles)
    assert "gpu-2 is the last gpu. To take it away as well: -e confirm_empty=gpu" in said


@pytest.mark.parametrize("template", ["8", "6"])
def test_a_template_that_is_missing_or_of_an_old_version(player: Player, template: str) -> None:
    roles = [BROKER, WORKER | {"template": template}]
    said = player.refused("deploy.yml", "--check", roles=roles)
    assert f"wants template {template}, and there is 7 on pve1, pve2, pve3" in said
    assert f"ansible-playbook playbooks/template.yml -e version={template}" in said
    player.refused("deploy.yml", roles=roles)
    assert not fleet(player.lab)


def test_a_template_whose_trial_never_went_well(player: Player) -> None:
    key = player.operator.folder / "key"
    key.with_suffix(".pub").write_text("ssh-ed25519 AAAA a@b\n")
    player.variables |= {
        "fleet_ssh_key": str(key),
        "fleet_template_archive": "debian-12.tar.zst",
        "fleet_template_storage": "local-lvm",
        "fleet_template_address": "10.7.0.5/24",
        "fleet_template_trial_address": "10.7.0.6/24",
    }
    fault(player.lab, kind="fail", task="vzclone", text="the trial failed")
    said = player.refused("template.yml")
    assert "the trial failed" in said
    assert not fleet(player.lab)


def test_a_node_that_is_none(player: Player) -> None:
    said = player.refused("deploy.yml", roles=[BROKER, WORKER | {"nodes": ["pve9"]}])
    assert "Node pve9 is not in the cluster, which has pve1, pve2, pve3" in said
    assert not fleet(player.lab)


def test_a_vmid_and_an_address_that_somebody_has(player: Player) -> None:
    api = player.lab.client()
    net0 = "name=eth0,bridge=vmbr0,ip=10.7.0.102/24"
    for vmid, changes in ((5003, {"tags": "office"}), (700, {"tags": "office", "net0": net0})):
        made = api.nodes("pve1").lxc(9001).clone.post(newid=vmid, hostname="mail", pool="corral")
        assert player.lab.wait(api, made) == "OK"
        api.nodes("pve1").lxc(vmid).config.put(**changes)
    look(player.lab)
    said = player.refused("deploy.yml")
    assert "VMID 5003 is wanted for worker-3 and belongs to somebody else" in said
    assert "Address 10.7.0.102 of worker-2 is taken by guest 700" in said
    assert sorted(fleet(player.lab)) == [700, 5003]


# --- on the way ------------------------------------------------------------------------------


def planned(player: Player) -> dict[str, int]:
    """What the next deploy would do with containers; nothing half made is unseen by it."""
    look(player.lab)
    return player.operator.containers("--check").summary


def test_a_full_storage(player: Player) -> None:
    fault(player.lab, kind="full", node="pve2", storage="local-lvm")
    said = player.refused("deploy.yml")
    assert "create worker-1 (5001)" in said
    assert "clone failed" in said
    assert "the next run goes on from here" in said
    clear(player.lab)
    assert planned(player) == {"create": 1, "none": 3}


def test_a_node_that_goes_offline_in_the_middle(player: Player) -> None:
    path = "/nodes/pve2/lxc/*/config"
    fault(player.lab, kind="answer", method="PUT", path=path, status=595, text="No route to host")
    said = player.refused("deploy.yml")
    assert "The node that this call is for cannot be reached" in said
    assert "pvecm status" in said
    assert sorted(fleet(player.lab)) == [4001, 5001, 5002, 5003]
    clear(player.lab)
    # It was cloned and never configured, and the plan says so.
    assert planned(player) == {"update": 1, "none": 3}


def test_machines_that_cannot_be_reached(player: Player, tmp_path: Path) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text("#!/bin/sh\necho 'ssh: connect to host: No route to host' >&2\nexit 255\n")
    ssh.chmod(0o755)
    player.variables |= {"fleet_ssh_timeout": 1, "ansible_ssh_executable": str(ssh)}
    said = player.refused("deploy.yml")
    assert "worker-3 (10.7.0.103) gave no SSH in 1 s" in said
    assert "No route to host" in said
    assert "pct exec 5003 -- systemctl status ssh" in said
    assert len(fleet(player.lab)) == 4
