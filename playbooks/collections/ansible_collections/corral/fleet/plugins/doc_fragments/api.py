"""How the API is reached: for the documentation of the modules and of the inventory plugin."""

from __future__ import annotations

import yaml
from ansible_collections.corral.fleet.plugins.module_utils.arguments import API, environment


def _with_environment() -> str:
    """The options as an inventory plugin documents them: Ansible itself reads the variables."""
    options = yaml.safe_load(API)["options"]
    for name, option in options.items():
        option["env"] = [{"name": environment(name)}]
    return yaml.safe_dump({"options": options})


class ModuleDocFragment:
    DOCUMENTATION = API
    INVENTORY = _with_environment()
