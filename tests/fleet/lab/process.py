"""A lab as a process: started, killed, started again; and ways to speak to it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import requests
from proxmoxer import ProxmoxAPI

START_SECONDS = 30.0
END_SECONDS = 120.0  # real containers have to shut down
WAIT_SECONDS = 20.0
QUICK = {"dry": True, "auth_seconds": 0.05, "lock_seconds": 0.3, "statistics_seconds": 600.0}
TEMPLATE = "local:vztmpl/debian-12-standard_12.0-1_amd64.tar.zst"


class NotStarted(Exception):
    """A lab ended before it served; what it said."""


class LabProcess:
    """One lab in one folder."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self._settings = {**QUICK, **settings}
        self._stderr = folder.with_name(f"{folder.name}.stderr")
        self._process: subprocess.Popen[bytes] | None = None
        self.info: dict[str, Any] = {}

    def start(self) -> None:
        """Start it, and wait until it serves."""
        command = [sys.executable, "-W", "error", "-m", "corral.lab", "--data", str(self.folder)]
        with self._stderr.open("ab") as words:
            self._process = subprocess.Popen(
                [*command, "--settings", json.dumps(self._settings)],
                stdout=subprocess.PIPE,
                stderr=words,
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith(b"serving "):
            self._process.wait(END_SECONDS)
            self._process.stdout.close()
            raise NotStarted(self.words)
        self.info = json.loads((self.folder / "lab.json").read_bytes())

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in order; it must have nothing to say."""
        self._end(signal.SIGTERM)
        assert self.words == "", self.words

    @property
    def words(self) -> str:
        """What it wrote to stderr."""
        return self._stderr.read_text()

    def _end(self, number: int) -> None:
        if self._process is not None:
            assert self._process.stdout is not None
            self._process.send_signal(number)
            assert self._process.wait(END_SECONDS) == (0 if number == signal.SIGTERM else -number)
            self._process.stdout.close()
            self._process = None

    # --- clients -----------------------------------------------------------------------------

    def client(self, token: str = "root", timeout: float = 30) -> ProxmoxAPI:
        """Proxmoxer with one of the lab's tokens."""
        known = self.info["tokens"][token]
        user, _, name = known["id"].partition("!")
        return ProxmoxAPI(
            self.info["host"],
            port=self.info["port"],
            user=user,
            token_name=name,
            token_value=known["secret"],
            verify_ssl=self.info["ca_file"],
            timeout=timeout,
        )

    def ask(
        self, method: str, path: str, token: str | None = "root", **more: Any
    ) -> requests.Response:
        """One request as it is."""
        headers = dict(more.pop("headers", {}))
        if token is not None:
            known = self.info["tokens"].get(token)
            given = f"{known['id']}={known['secret']}" if known else token
            headers.setdefault("Authorization", f"PVEAPIToken={given}")
        url = f"{self.info['endpoint']}/api2/json{path}"
        return requests.request(
            method, url, headers=headers, verify=self.info["ca_file"], timeout=30, **more
        )

    def own(self, method: str, path: str, **more: Any) -> Any:
        """One of the lab's own calls."""
        answer = requests.request(
            method,
            self.info["endpoint"] + path,
            headers={"Authorization": f"Bearer {self.info['admin_token']}"},
            verify=self.info["ca_file"],
            timeout=30,
            **more,
        )
        answer.raise_for_status()
        return answer.json()

    # --- what tests do again and again -------------------------------------------------------

    def wait(self, api: ProxmoxAPI, upid: str) -> str:
        """Wait for a task; returns how it ended."""
        task = api.nodes(upid.split(":")[1]).tasks(upid)
        until = time.monotonic() + WAIT_SECONDS
        while (status := task.status.get())["status"] != "stopped":
            assert time.monotonic() < until, status
            time.sleep(0.005)
        return str(status["exitstatus"])

    def template(self, vmid: int = 900, node: str = "pve1") -> None:
        """A template in the fleet's pool."""
        cache = self.folder / "nodes" / node / "local/template/cache"
        cache.mkdir(parents=True, exist_ok=True)
        (cache / TEMPLATE.rpartition("/")[2]).write_bytes(b"root file system")
        api = self.client()
        lxc = api.nodes(node).lxc
        created = lxc.post(
            vmid=vmid,
            ostemplate=TEMPLATE,
            rootfs="local-lvm:2",
            hostname="template",
            unprivileged=1,
            net0="name=eth0,bridge=vmbr0,ip=10.7.0.9/24,gw=10.7.0.1",
            pool="corral",
        )
        assert self.wait(api, created) == "OK"
        lxc(vmid).template.post()
        until = time.monotonic() + WAIT_SECONDS
        while not lxc(vmid).config.get().get("template"):
            assert time.monotonic() < until
            time.sleep(0.02)
