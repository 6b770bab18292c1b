"""What each privilege of the fleet's token is for: recorded with one taken away at a time."""

from __future__ import annotations

import json
from typing import Any

from tests.fleet.lab.process import LabProcess
from tests.fleet.lab.replay import HERE
from tests.fleet.lab.unrecorded import PRIVILEGES

RECORDED = json.loads((HERE / "privileges.json").read_bytes())
COUNTED = ("list", "resources")  # answers that grow and shrink with what may be seen
TEMPLATE = 920


def _stage(lab: LabProcess) -> None:
    """A template beside the pool; in it one container that runs and one that does not."""
    lab.template(TEMPLATE)
    root = lab.client()
    root.access.acl.put(path="/vms/920", roles="CorralTemplate", users="corral@pve")
    root.access.acl.put(path="/vms/920", roles="CorralTemplate", tokens="corral@pve!deploy")
    for subject in ({"users": "corral@pve"}, {"tokens": "corral@pve!deploy"}):
        for path, role in (("/pool/corral", "CorralTemplate"), ("/nodes", "CorralAudit")):
            root.access.acl.put(path=path, roles=role, delete=1, **subject)
    lxc = root.nodes("pve1").lxc
    for vmid in (5001, 5002):
        made = lxc(TEMPLATE).clone.post(newid=vmid, hostname=f"w{vmid % 10}", pool="corral")
        assert lab.wait(root, made) == "OK"
    root.pools.put(poolid="corral", vms=TEMPLATE, delete=1)
    assert lab.wait(root, lxc(5001).status.start.post()) == "OK"


def _asked(lab: LabProcess, name: str, method: str, path: str, params: Any) -> list[Any]:
    where = "params" if method in ("GET", "DELETE") else "data"
    answer = lab.ask(method, path, "deploy", **{where: params})
    body = answer.json()
    if answer.status_code == 200:
        counted = [f"{len(body['data'])} entries"] if name in COUNTED else []
        return [200, *counted]
    return [answer.status_code, answer.reason, *([body["errors"]] if "errors" in body else [])]


def _recorded(name: str, values: list[Any]) -> list[Any]:
    return values if values[0] != 200 or name in COUNTED else [200]


def test_each_privilege_allows_what_it_allowed_on_a_real_node(lab: LabProcess) -> None:
    _stage(lab)
    root = lab.client()
    differing = []
    for missing, changed in {"": {}, **RECORDED["without"]}.items():
        root.access.roles("CorralFleet").put(privs=",".join(PRIVILEGES - {missing}))
        for name, method, path, params in RECORDED["requests"]:
            wanted = _recorded(name, changed.get(name, RECORDED["all"][name]))
            got = _asked(lab, name, method, path, params)
            if got != wanted:
                differing.append(f"without {missing or 'nothing'}, {name}: {got}, not {wanted}")
    assert not differing, "\n".join(differing)
