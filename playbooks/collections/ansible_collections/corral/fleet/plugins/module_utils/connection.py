"""The way to the API, on proxmoxer: one session per thread, every call counted, errors in words.

Any node answers for the whole cluster, so hosts are tried in turn when one cannot be reached. What
calls mean lives with their callers.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import proxmoxer
import requests
from ansible_collections.corral.fleet.plugins.module_utils import seen
from ansible_collections.corral.fleet.plugins.module_utils.problems import ApiError, BadWish
from requests.adapters import HTTPAdapter
from urllib3 import disable_warnings
from urllib3.exceptions import InsecureRequestWarning

AT_ONCE = 6  #: calls in flight; a node's proxy and daemon have three workers each
MEMBERS = re.compile(r"/(nodes|lxc|qemu|tasks|content|storage|pools)/([^/]+)")


@dataclass(frozen=True)
class Door:
    """Where the API is, and how to get in."""

    hosts: Sequence[str]
    port: int
    token_id: str
    token_secret: str
    ca_file: str | None
    fingerprint: str | None
    validate_certs: bool
    timeout: int

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Door:
        """As a module or the inventory plugin is told it."""
        token = options["token_id"]
        if not re.fullmatch(r"[^@!\s]+@[^@!\s]+![^@!\s]+", token):
            raise BadWish(
                f"token_id {token!r} is no token: give it as user@realm!name, as `pveum user token"
                " list USER@REALM` shows it."
            )
        return cls(hosts=options["host"], **{key: options[key] for key in _TAKEN})


_TAKEN = (
    "port", "token_id", "token_secret", "ca_file", "fingerprint", "validate_certs", "timeout",
)  # fmt: skip


class _Pinned(HTTPAdapter):
    """Trusts the certificate with one fingerprint."""

    def __init__(self, fingerprint: str) -> None:
        self._fingerprint = fingerprint
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs, assert_fingerprint=self._fingerprint)


class Api:
    """Calls to the API, from any thread."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self._host = 0  # the one that answered last
        self._local = threading.local()
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(AT_ONCE)
        self._counts: Counter[str] = Counter()

    # --- calls ----------------------------------------------------------------------------

    def get(self, path: str, **params: Any) -> Any:
        """Read."""
        return self._call("GET", path, params)

    def post(self, path: str, **params: Any) -> Any:
        """Do. Names with a hyphen are given with two underscores."""
        return self._call("POST", path, params)

    def put(self, path: str, **params: Any) -> Any:
        """Change."""
        return self._call("PUT", path, params)

    def delete(self, path: str, **params: Any) -> Any:
        """Destroy."""
        return self._call("DELETE", path, params)

    @property
    def calls(self) -> dict[str, Any]:
        """How many calls were made, of each kind."""
        return {"total": self._counts.total(), "by_kind": dict(sorted(self._counts.items()))}

    def _call(self, method: str, path: str, params: Mapping[str, Any]) -> Any:
        kind = f"{method} {MEMBERS.sub(lambda m: f'/{m[1]}/{m[1][0].upper()}', path)}"
        named = {key.replace("__", "-"): _plain(value) for key, value in params.items()}
        for attempt in range(len(self.door.hosts)):
            index = self._host
            resource = self._session(index)(path.strip("/"))
            try:
                with self._slots:
                    with self._lock:
                        self._counts[kind] += 1
                    answer = getattr(resource, method.lower())(**named)
            except proxmoxer.ResourceException as error:
                raise self._refusal(f"{method} {path}", error) from None
            except requests.ReadTimeout:
                raise ApiError(
                    f"{method} {path}",
                    0,
                    f"{self.door.hosts[index]} gave no answer in {self.door.timeout} s",
                    "Look at its load; if it is only slow, raise timeout.",
                ) from None
            except requests.RequestException as error:
                # It never got there, or nobody knows: the next host may be asked again only if
                # asking twice does no harm.
                reached = not isinstance(error, requests.ConnectTimeout)
                last = attempt == len(self.door.hosts) - 1
                if last or isinstance(error, requests.exceptions.SSLError):
                    raise self._unreachable(f"{method} {path}", index, error) from None
                if reached and method != "GET" and "refused" not in str(error):
                    raise self._unreachable(f"{method} {path}", index, error) from None
                self._host = (index + 1) % len(self.door.hosts)
            else:
                return answer
        raise AssertionError("a host is always given")

    def _session(self, index: int) -> proxmoxer.ProxmoxAPI:
        sessions = self._local.__dict__.setdefault("sessions", {})
        if index not in sessions:
            door = self.door
            user, token = door.token_id.split("!")
            verify: bool | str = door.ca_file or door.validate_certs
            if door.fingerprint:
                verify = False  # the adapter checks instead
            if verify is False:
                disable_warnings(InsecureRequestWarning)
            session = proxmoxer.ProxmoxAPI(
                door.hosts[index],
                port=door.port,
                user=user,
                token_name=token,
                token_value=door.token_secret,
                verify_ssl=verify,
                timeout=door.timeout,
            )
            if door.fingerprint:
                session._store["session"].mount("https://", _Pinned(door.fingerprint))
            session._store["serializer"].loads = _carried
            sessions[index] = session
        return sessions[index]

    # --- errors ---------------------------------------------------------------------------

    def _unreachable(self, call: str, index: int, error: Exception) -> ApiError:
        where = f"{self.door.hosts[index]}:{self.door.port}"
        if "Fingerprints did not match" in str(error):
            return ApiError(
                call,
                0,
                f"The certificate of {where} is not the one with the given fingerprint",
                "See the right one on the node: openssl x509 -noout -fingerprint -sha256 -in"
                " /etc/pve/local/pve-ssl.pem",
            )
        if isinstance(error, requests.exceptions.SSLError):
            return ApiError(
                call,
                0,
                f"The certificate of {where} is not trusted",
                "Copy /etc/pve/pve-root-ca.pem from a node and name it in ca_file, or give the"
                " certificate's fingerprint.",
            )
        reached = not isinstance(error, requests.ConnectionError)
        told = "gave no answer that can be read" if reached else "cannot be reached"
        return ApiError(
            call,
            0,
            f"{where} {told} ({_innermost(error)})",
            "Check host and port, or add another node of the cluster to host.",
        )

    def _refusal(self, call: str, error: proxmoxer.ResourceException) -> ApiError:
        reason = str(error.content).strip()
        if error.errors:
            reason = "; ".join(
                [reason.split(" - ")[0], *(f"{key}: {why}" for key, why in _errors(error.errors))]
            )
        return ApiError(call, error.status_code, reason, self._cure(error.status_code, reason))

    def _cure(self, status: int, reason: str) -> str:
        user, token = self.door.token_id.split("!")
        if status == 401:
            return (
                f"The token {self.door.token_id} is unknown, expired, or its secret is wrong. See"
                f" it on a node: pveum user token list {user}; its secret is shown only when it is"
                f" made: pveum user token add {user} {token}"
            )
        found = re.search(r"\((/[^,]*), ([^)]+)\)", reason)
        if status == 403 and found:
            path, privilege = found.groups()
            return (
                f"The token {self.door.token_id} lacks {privilege} on {path}. Its user needs it as"
                f" well: pveum acl modify {path} --users {user} --tokens '{self.door.token_id}'"
                f" --roles ROLE, with a role that has {privilege}."
            )
        if status == 403:
            return f"Look at what it may: pveum user token permissions {user} {token}"
        if status in (595, 596):
            return (
                "The node that this call is for cannot be reached: see `pvecm status` on another."
            )
        return ""


def look(api: Api) -> seen.Cluster:
    """The cluster in one call, and one more for each node where what lags behind matters."""
    found = seen.cluster(api.get("/cluster/resources"))
    return with_live(api, found, found.doubtful_nodes())


def with_live(api: Api, found: seen.Cluster, nodes: Sequence[str]) -> seen.Cluster:
    """The same, with the live list of some nodes laid over it."""
    lists = {node: api.get(f"/nodes/{node}/lxc") for node in nodes}
    return seen.with_live(found, lists) if lists else found


def configs(api: Api, guests: Iterable[seen.Guest]) -> dict[int, Mapping[str, Any]]:
    """Configurations of guests, by VMID, of those that the token may read."""

    def read(guest: seen.Guest) -> tuple[int, Mapping[str, Any] | None]:
        try:
            return guest.vmid, api.get(f"/nodes/{guest.node}/{guest.kind}/{guest.vmid}/config")
        except ApiError as problem:
            if problem.status != 403:
                raise
            return guest.vmid, None

    with ThreadPoolExecutor(AT_ONCE) as readers:
        return {vmid: config for vmid, config in readers.map(read, guests) if config is not None}


def _carried(response: requests.Response) -> Any:
    """What an answer carries; proxmoxer takes any text for one."""
    with suppress(ValueError, LookupError, TypeError):
        return response.json()["data"]
    raise requests.exceptions.InvalidJSONError(f"it begins with {response.text[:40]!r}")


def _plain(value: Any) -> Any:
    """Proxmox takes 0 and 1 for no and yes, and nothing else."""
    return int(value) if isinstance(value, bool) else value


def _errors(errors: Any) -> list[tuple[str, str]]:
    if isinstance(errors, Mapping):
        return [(str(key), str(why).strip()) for key, why in errors.items() if why]
    return []


def _innermost(error: BaseException) -> str:
    """The end of a chain of exceptions, which names the cause."""
    while True:
        inner = error.__cause__ or error.__context__
        if inner is None:
            reason = getattr(error, "reason", None)
            return str(reason or error)
        error = inner
