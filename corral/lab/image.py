"""`python -m corral.lab.image`: the lab's template, a Debian 12 that boots in a container.

debootstrap makes it from the mirror that this machine's apt uses, in about two minutes; the result
is kept in a cache, named by a digest of everything it is made from, and printed. Root has no
password: who creates a container gives SSH keys. The image has neither SSH host keys nor an
identity of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from corral.lab.lxc.commands import run
from corral.lab.lxc.volumes import TAR
from corral.lab.runtime import RuntimeFailed

SUITE = "bookworm"
PACKAGES = (
    "ca-certificates",
    "dbus",  # logind and systemctl in a guest
    "git",  # role git_sync
    "iproute2",
    "libgomp1",  # LightGBM
    "nfs-common",  # role storage
    "nftables",  # role firewall
    "openssh-server",
    "procps",
    "prometheus-node-exporter",  # role monitoring
    "python3",
    "python3-apt",  # Ansible's apt module
    "python3-venv",
    "rsync",
    "systemd-sysv",
    "zstd",
)
DISABLED = ("nftables.service", "prometheus-node-exporter.service")  # until a role wants them
MASKED = (  # of no use in a container, or in the way of `systemctl is-system-running`
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "rpcbind.service",  # NFS 4 does without
    "rpcbind.socket",
    "run-rpc_pipefs.mount",
)
EMPTIED = ("var/cache/apt", "var/lib/apt/lists", "var/log", "tmp", "var/tmp")
REMOVED = ("etc/hostname", "etc/resolv.conf", "etc/ssh/ssh_host_*", "var/lib/dbus/machine-id")


def name() -> str:
    """The file's name, as Proxmox names templates."""
    return f"debian-12-corral_12_{_architecture()}.tar.zst"


def cache() -> Path:
    """Where images are kept: outside of any repository, for all of this machine's labs."""
    if os.geteuid() == 0:
        return Path("/var/cache/corral/images")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "corral/images"


def cached(folder: Path) -> Path:
    """Where the image of this recipe is, or will be."""
    recipe = repr((SUITE, _architecture(), PACKAGES, DISABLED, MASKED, EMPTIED, REMOVED))
    return folder / hashlib.sha256(recipe.encode()).hexdigest()[:16] / name()


def build(folder: Path) -> Path:
    """Make the image, unless it is there.

    Raises:
        RuntimeFailed: a program or the mirror refuses; nothing half made stays.
    """
    target = cached(folder)
    if target.exists():
        return target
    if os.geteuid() != 0:
        raise RuntimeFailed("making an image needs root; type sudo before the command")
    lacking = [program for program in ("debootstrap", "zstd") if not shutil.which(program)]
    if lacking:
        raise RuntimeFailed(f"packages are missing; type: apt-get install {' '.join(lacking)}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="build-") as made:
        root, archive = Path(made, "root"), Path(made, target.name)
        _bootstrap(root, Path(made, "log"))
        _seal(root)
        run(*TAR, "--create", "--sort=name", "--auto-compress", "--file", archive, ".", cwd=root)
        archive.rename(target)
    return target


def _bootstrap(root: Path, log: Path) -> None:
    with log.open("wb") as said:
        done = subprocess.run(
            (
                "debootstrap",
                "--variant=minbase",
                f"--include={','.join(PACKAGES)}",
                SUITE,
                root,
                _mirror(),
            ),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            env={**os.environ, **_proxy(), "LC_ALL": "C.UTF-8"},
            check=False,
        )
    if done.returncode:
        last = "\n".join(log.read_text(errors="replace").strip().splitlines()[-3:])
        raise RuntimeFailed(f"debootstrap failed; does `apt-get update` work?\n{last}")


def _seal(root: Path) -> None:
    """Take away what belongs to one machine, or to none."""
    run("systemctl", "--root", root, "disable", *DISABLED)
    run("systemctl", "--root", root, "mask", *MASKED)
    run("systemctl", "--root", root, "set-default", "multi-user.target")
    for pattern in REMOVED:
        for path in root.glob(pattern):
            path.unlink()
    for folder in EMPTIED:
        for path in (root / folder).rglob("*"):
            if not path.is_dir() or path.is_symlink():
                path.unlink()
    (root / "etc/machine-id").write_text("")


def _architecture() -> str:
    return run("dpkg", "--print-architecture").strip()


def _mirror() -> str:
    """Where this machine's apt gets Debian's own packages from."""
    said = run(
        "apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)", "Identifier: Packages"
    )
    found = dict(reversed([line.split(" ", 1) for line in said.splitlines()]))
    mirrors = [
        found.get(SUITE),
        *(uri for uri in found.values() if uri.rstrip("/").endswith("/debian")),
    ]
    mirror = next(filter(None, mirrors), None)
    if mirror is None:
        raise RuntimeFailed("apt of this machine names no mirror of Debian; add one to its sources")
    return mirror


def _proxy() -> dict[str, str]:
    """What apt goes through, in the words of debootstrap's downloader."""
    said = run("apt-config", "shell", "http_proxy", "Acquire::http::Proxy")
    key, _, value = said.strip().partition("=")
    return {key: value.strip("'")} if value else {}


def main() -> int:
    """Make it and print where it is."""
    parser = argparse.ArgumentParser(prog="python -m corral.lab.image", description=__doc__)
    parser.add_argument("--cache", type=Path, default=cache(), help="default: %(default)s")
    folder: Path = parser.parse_args().cache
    if not cached(folder).exists():
        print("image: making it with debootstrap, about two minutes", file=sys.stderr)
    try:
        print(build(folder))
    except RuntimeFailed as failure:
        print(f"image: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
