"""What the modules take: each module's own documentation, read as its argument spec.

A module documents every option anyway, so the documentation is the one place where options are
written down, and nothing can drift. What documentation cannot say stands here: which environment
variable an option falls back on, and which option is a secret. What the options mean for a fleet
lives in `spec`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from ansible.module_utils.basic import env_fallback

API = r"""
options:
  host:
    description:
      - Names or addresses of nodes of the cluster. Any of them answers for the whole cluster; the
        next one is tried when one cannot be reached.
      - Falls back on E(PROXMOX_HOST), separated by commas.
    type: list
    elements: str
    required: true
  port:
    description: Port of the API. Falls back on E(PROXMOX_PORT).
    type: int
    default: 8006
  token_id:
    description: The API token, as V(user@realm!name). Falls back on E(PROXMOX_TOKEN_ID).
    type: str
    required: true
  token_secret:
    description: The secret of the token. Falls back on E(PROXMOX_TOKEN_SECRET).
    type: str
    required: true
  ca_file:
    description:
      - A file with the certificates that the API's certificate is checked against; default is what
        the system trusts.
      - Falls back on E(PROXMOX_CA_FILE).
    type: path
  fingerprint:
    description:
      - SHA-256 fingerprint of the API's certificate. That very certificate is trusted, and no
        other.
      - Falls back on E(PROXMOX_FINGERPRINT).
    type: str
  validate_certs:
    description:
      - Whether the API's certificate is checked at all. O(ca_file) or O(fingerprint) is what a
        self-signed one needs.
      - Falls back on E(PROXMOX_VALIDATE_CERTS).
    type: bool
    default: true
  timeout:
    description: Seconds that one call may take. Falls back on E(PROXMOX_TIMEOUT).
    type: int
    default: 30
"""

SECRETS = ("token_secret",)


def environment(option: str) -> str:
    """The environment variable that an option of the connection falls back on."""
    return f"PROXMOX_{option.upper()}"


def argument_spec(documentation: str, *, api: bool = True) -> dict[str, Any]:
    """The argument spec that a module's documentation describes.

    Args:
        documentation: the module's DOCUMENTATION.
        api: whether the module also takes the options of the connection, as by its fragment.
    """
    spec = _options(yaml.safe_load(documentation)["options"])
    if not api:
        return spec
    connection = _options(yaml.safe_load(API)["options"])
    for name, option in connection.items():
        option["fallback"] = (env_fallback, [environment(name)])
        option["no_log"] = name in SECRETS
    return connection | spec


def _options(documented: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _option(option) for name, option in documented.items()}


def _option(documented: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("type", "elements", "required", "default", "choices", "aliases")
    option = {key: documented[key] for key in kept if key in documented}
    if "suboptions" in documented:
        option["options"] = _options(documented["suboptions"])
    return option
