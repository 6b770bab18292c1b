"""High availability: the answers about it. What is managed is remembered; nothing acts on it."""

from __future__ import annotations

import re
import time
from typing import Any

from corral.lab.answers import Refused
from corral.lab.api import Call, call, index
from corral.lab.api.clones import RESTART_SECONDS, move
from corral.lab.api.power import start
from corral.lab.cluster import digest

PATH = "/cluster/ha"

index(PATH, "status", "resources", "groups", "rules")
index(f"{PATH}/status", "current", "manager_status")


def _sid(asked: Call) -> str:
    """`ct:101`, which is also meant by `101`."""
    found = re.fullmatch(r"(?:ct:)?(\d+)", asked["sid"])
    if found is None:
        raise Refused(f"unable to parse HA resource id '{asked['sid']}'")
    return f"ct:{found[1]}"


def _managed(asked: Call) -> dict[str, Any]:
    sid = _sid(asked)
    if sid not in asked.cluster.kept.ha:
        raise Refused(f"no such resource '{sid}'")
    return asked.cluster.kept.ha[sid]


def _given(asked: Call, *but: str) -> dict[str, Any]:
    return {key: value for key, value in asked.params.items() if key not in (*but, "digest")}


@call("GET", f"{PATH}/resources")
def resources(asked: Call) -> list[dict[str, Any]]:
    """What is managed."""
    kept = asked.cluster.kept.ha
    return [
        {"sid": sid, "type": "ct", "digest": digest(kept), **about} for sid, about in kept.items()
    ]


@call("POST", f"{PATH}/resources")
def manage(asked: Call) -> None:
    """Manage a container; one that is to run is started."""
    sid, cluster = _sid(asked), asked.cluster
    if sid in cluster.kept.ha:
        raise Refused(f"resource ID '{sid}' already defined")
    guest = cluster.containers.get(int(sid.partition(":")[2]))
    if guest is None:
        raise Refused(f"unable to add resource '{sid}': no such VM or CT")
    about = {"state": "started", **_given(asked, "sid", "type")}
    if about["state"] == "started" and not cluster.runs(guest.vmid):
        start(cluster, asked.actor, guest)
    cluster.kept.ha[sid] = about
    cluster.save()


@call("GET", f"{PATH}/resources/{{sid}}")
def read(asked: Call) -> dict[str, Any]:
    """One that is managed."""
    return {"sid": _sid(asked), "type": "ct", "digest": digest(asked.cluster.kept.ha)} | _managed(
        asked
    )


@call("PUT", f"{PATH}/resources/{{sid}}")
def change(asked: Call) -> None:
    """Change how it is managed."""
    _managed(asked).update(_given(asked, "sid", "delete"))
    asked.cluster.save()


@call("DELETE", f"{PATH}/resources/{{sid}}")
def release(asked: Call) -> None:
    """Manage it no longer."""
    _managed(asked)
    del asked.cluster.kept.ha[_sid(asked)]
    asked.cluster.save()


@call("POST", f"{PATH}/resources/{{sid}}/migrate")
@call("POST", f"{PATH}/resources/{{sid}}/relocate")
def move_managed(asked: Call) -> dict[str, str]:
    """Ask for a move to another node."""
    _managed(asked)
    sid, target = _sid(asked), asked["node"]
    guest = asked.cluster.containers.get(int(sid.partition(":")[2]))
    if guest is not None:
        move(asked.cluster, asked.actor, guest, target, restart=True, timeout=RESTART_SECONDS)
    return {"sid": sid, "requested-node": target}


@call("GET", f"{PATH}/groups")
def groups(asked: Call) -> None:
    """Rules have taken their place."""
    raise Refused("cannot index groups: ha groups have been migrated to rules")


@call("GET", f"{PATH}/rules")
def rules(asked: Call) -> list[dict[str, Any]]:
    """None can be set."""
    return []


@call("GET", f"{PATH}/status/current")
def current(asked: Call) -> list[dict[str, Any]]:
    """Quorum, fencing, and what is managed."""
    first = asked.cluster.settings.names[0]
    head: list[dict[str, Any]] = [
        {"id": "quorum", "type": "quorum", "node": first, "quorate": 1, "status": "OK"},
        {
            "id": "fencing",
            "type": "fencing",
            "node": first,
            "armed-state": "standby",
            "status": "standby (CRM watchdog standby)",
        },
    ]
    for sid, about in list(asked.cluster.kept.ha.items()):
        guest = asked.cluster.containers.get(int(sid.partition(":")[2]))
        if guest is not None:
            state = about["state"]
            status = f"{sid} ({guest.node}, {state})"
            entry = {"id": f"service:{sid}", "type": "service", "sid": sid, "node": guest.node}
            head.append({**entry, "state": state, "status": status})
    return head


@call("GET", f"{PATH}/status/manager_status")
def manager(asked: Call) -> dict[str, Any]:
    """What the manager would tell."""
    names = asked.cluster.settings.names
    online = {node: "online" if asked.cluster.is_up(node) else "unknown" for node in names}
    return {
        "manager_status": {
            "master_node": names[0],
            "node_status": online,
            "timestamp": int(time.time()),
        },
        "quorum": {"node": names[0], "quorate": "1"},
    }
