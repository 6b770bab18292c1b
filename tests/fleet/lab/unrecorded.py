"""What was done on the machine of the recordings beside the recorded requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial

from tests.fleet.lab.replay import TEMPLATES, Player

PATIENCE = 10.0  # seconds
Step = Callable[[Player], None]


def settle(player: Player) -> None:
    """All tasks had come to their end."""
    player.settle()


def look(player: Player) -> None:
    """The status daemon had looked."""
    player.look()


def unlock(player: Player, vmid: int) -> None:
    """`pct unlock` on the machine."""
    player.lab.own("POST", f"/lab/containers/{vmid}/unlock")


def wait_for_lock(player: Player, vmid: int) -> None:
    """A task that had been accepted was not yet at work; here it always is."""
    until = time.monotonic() + PATIENCE
    while "lock" not in player.root("GET", f"/nodes/pve1/lxc/{vmid}/config"):
        assert time.monotonic() < until
        time.sleep(0.005)


def describe(player: Player, vmid: int, text: str) -> None:
    """The template was made again by hand, from a clone of it."""
    player.root("PUT", f"/nodes/pve1/lxc/{vmid}/config", description=text)


def leave_pool(player: Player, vmid: int) -> None:
    """With that it had left its pool."""
    player.root("PUT", "/pools/auto", vms=vmid, delete=1)


def newer_template(player: Player) -> None:
    """Another template was put there."""
    folder = player.lab.folder / "nodes/pve1/local/template/cache"
    (folder / TEMPLATES[1]).write_bytes(b"root file system")


def lose_clone(player: Player) -> None:
    """The worker of the next clone was killed."""
    fault = {"kind": "lose", "task": "vzclone", "count": 1}
    player.lab.own("POST", "/lab/faults", json=fault)


def clone(player: Player, source: int, newid: int, known_as: str) -> None:
    """One of several clones at once was accepted."""
    asked = {"newid": newid, "hostname": "par-0"}
    player.know(known_as, player.root("POST", f"/nodes/pve1/lxc/{source}/clone", **asked))


def no_tool(player: Player) -> None:
    """A tool that makes images was not installed."""
    text = (
        "unable to create image: open3: exec of /usr/bin/qemu-img create -o preallocation=off "
        "-f raw /var/lib/ctdir/images/903/vm-903-disk-0.raw 4194304K failed: No such file or "
        "directory at /usr/share/perl5/PVE/Cmd.pm line 174."
    )
    fault = {"kind": "fail", "task": "vzclone", "count": 1, "text": text}
    player.lab.own("POST", "/lab/faults", json=fault)


def destroy(player: Player, vmid: int, known_as: str = "") -> None:
    """A container was removed."""
    made = player.root("DELETE", f"/nodes/pve1/lxc/{vmid}")
    player.settle()
    if known_as:
        player.know(known_as, made)


def other_work(player: Player) -> None:
    """Between two parts of the recordings the machine was used otherwise."""
    player.settle()
    for vmid in (901, 903, 900):
        destroy(player, vmid)
    player.root("POST", "/nodes/pve1/lxc/920/clone", newid=991)
    player.settle()
    destroy(player, 991, DESTROY_OF_991)
    player.look()


def put(player: Player, vmid: int, **options: object) -> None:
    """A config was changed."""
    player.root("PUT", f"/nodes/pve1/lxc/{vmid}/config", **options)


def stop(player: Player, vmid: int) -> None:
    """A container did not run."""
    player.root("POST", f"/nodes/pve1/lxc/{vmid}/status/stop")
    player.settle()


def archives(*names: str) -> Step:
    """The archives of the recordings have names of their own time."""
    files = [f"vzdump-lxc-{name}.tar.zst" for name in names]

    def name(player: Player) -> None:
        player.settle()
        player.archives(*files)

    return name


def next_second(player: Player) -> None:
    """Archives are named by the second."""
    time.sleep(1.0)


def second_token(player: Player) -> None:
    """deploy2: a token with the rights of deploy, from whose role privileges are taken."""
    with_all(player, method="POST")
    made = player.root("POST", "/access/users/corral@pve/token/deploy2", privsep=1)
    player.token(DEPLOY2, made["value"])
    for path, role in GRANTS.items():
        grant(player, path, role)


def grant(player: Player, path: str, role: str, delete: int = 0) -> None:
    """A line was added to the ACL, or taken from it."""
    player.root("PUT", "/access/acl", path=path, roles=role, tokens=DEPLOY2, delete=delete)


def with_all(player: Player, *but: str, method: str = "PUT") -> None:
    """deploy2 had all privileges of deploy, but for some."""
    left = ",".join(sorted(PRIVILEGES - {*but}))
    path = "/access/roles" if method == "POST" else "/access/roles/CorralFleet2"
    more = {"roleid": "CorralFleet2"} if method == "POST" else {}
    player.root(method, path, privs=left, **more)


def without(*privileges: str) -> Step:
    """deploy2 lacked these."""
    return lambda player: with_all(player, *privileges)


DEPLOY2 = "corral@pve!deploy2"
PRIVILEGES = {
    "Pool.Audit",
    *(
        f"VM.{name}"
        for name in (
            "Allocate", "Audit", "Backup", "Config.CPU", "Config.Disk", "Config.Memory",
            "Config.Network", "Config.Options", "PowerMgmt", "Snapshot", "Snapshot.Rollback",
        )
    ),
}  # fmt: skip
SDN, STORE = "/sdn/zones/localnetwork/vmbr0", "/storage/local-lvm"
GRANTS = {
    "/vms/920": "CorralTemplate",
    "/pool/corral": "CorralFleet2",
    STORE: "CorralStore",
    "/storage/local": "CorralStore",
    SDN: "CorralNet",
}
DESTROY_OF_991 = "UPID:pve1:000002F6:000030B9:6B02B9DC:vzdestroy:991:root@pam!ansible:"
CLONE_OF_920 = "UPID:pve1:00000DAF:00028022:6B02B613:vzclone:920:root@pam!ansible:"

ARCHIVES = (
    "5002-2026_11_22-10_15_43",
    "5001-2026_11_22-10_17_05",
    "5001-2026_11_22-10_18_16",
)

#: before which recording what was done
BEFORE: Mapping[str, tuple[Step, ...]] = {
    "0104": (look,),
    "0183": (settle, partial(unlock, vmid=900)),
    "0219": (settle, look),
    "0226": (settle,),
    "0232": (settle,),
    "0237": (settle,),
    "0236": (settle, look),
    "0261": (no_tool,),
    "0273": (
        settle,
        partial(describe, vmid=900, text="first clone"),
        partial(leave_pool, vmid=900),
    ),
    "0305": (settle,),
    "0409": (settle, look),
    "0496": (settle, newer_template),
    "0509": (settle,),
    "0512": (partial(clone, source=920, newid=940, known_as=CLONE_OF_920),),
    "0516": (look,),
    "0519": (look,),
    "0527": (lose_clone,),
    "0536": (partial(unlock, vmid=920), partial(unlock, vmid=951)),
    "1000": (other_work,),
    "1095": (settle, look),
    "1174": (
        partial(
            put,
            vmid=5001,
            description="x",
            startup="order=1",
            protection=0,
            nameserver="10.88.0.1",
            net0="name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:01,ip=10.88.0.151/24,gw=10.88.0.1",
        ),
    ),
    "1204": (settle, partial(stop, vmid=5001), partial(unlock, vmid=5002)),
    "1216": (archives(*ARCHIVES[:1]),),
    "1228": (partial(put, vmid=5001, env="A=1"),),
    "1236": (look,),
    "1298": (partial(put, vmid=5001, delete="env,startup,nameserver"),),
    "1299": (partial(wait_for_lock, vmid=5001),),
    "1307": (settle,),
    "1311": (second_token,),
    "1314": (settle, next_second),
    "1319": (settle, without("VM.Snapshot", "VM.Snapshot.Rollback")),
    "1320": (without(),),
    "1323": (without("VM.Snapshot.Rollback"),),
    "1326": (without("VM.Snapshot"),),
    "1331": (without("VM.Backup"),),
    "1332": (settle, without("VM.PowerMgmt")),
    "1333": (settle, without()),
    "1336": (without("VM.Config.Disk"),),
    "1337": (without(),),
    "1341": (archives(*ARCHIVES),),
    "1355": (partial(grant, path=SDN, role="CorralNet", delete=1),),
    "1359": (
        partial(grant, path=SDN, role="CorralNet"),
        partial(grant, path=STORE, role="CorralStore", delete=1),
    ),
    "1372": (settle,),
    "1376": (Player.release,),
    "1377": (Player.hold,),
    "1380": (settle,),
    "1381": (partial(grant, path=STORE, role="CorralStore"),),
}
