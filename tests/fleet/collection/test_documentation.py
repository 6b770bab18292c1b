"""What is documented is what is taken, as real ansible-doc and the modules themselves say."""

from __future__ import annotations

import importlib
import json
import re
from typing import Any

import pytest
import yaml
from ansible_collections.corral.fleet.plugins.module_utils import arguments

from tests.fleet.collection.operator import COLLECTIONS, Operator, without_lab

FLEET = COLLECTIONS / "ansible_collections" / "corral" / "fleet"
MODULES = sorted(path.stem for path in (FLEET / "plugins" / "modules").glob("*.py"))
WITHOUT_API = {"drain", "files", "keys"}
SAID = ("type", "elements", "required", "default", "choices")


def documented(option: dict[str, Any]) -> dict[str, Any]:
    """An option as the documentation has it."""
    found = {key: option[key] for key in SAID if option.get(key) not in (None, False)}
    if "suboptions" in option:
        found["options"] = {name: documented(sub) for name, sub in option["suboptions"].items()}
    return found


def taken(option: dict[str, Any]) -> dict[str, Any]:
    """An option as the module takes it."""
    found = {key: option[key] for key in SAID if option.get(key) not in (None, False)}
    if "options" in option:
        found["options"] = {name: taken(sub) for name, sub in option["options"].items()}
    return found


@pytest.fixture
def reader(tmp_path: Any) -> Operator:
    """Somebody who only reads; no lab is asked."""
    return without_lab(tmp_path)


def test_documentation_is_the_argument_spec(reader: Operator) -> None:
    names = [f"corral.fleet.{name}" for name in MODULES]
    told = json.loads(reader.run("ansible-doc", "--json", *names).stdout)
    for name in MODULES:
        doc = told[f"corral.fleet.{name}"]["doc"]
        module = importlib.import_module(f"ansible_collections.corral.fleet.plugins.modules.{name}")
        spec = getattr(module, "ARGUMENTS", None) or arguments.argument_spec(
            module.DOCUMENTATION, api=name not in WITHOUT_API
        )
        options = {key: documented(option) for key, option in doc["options"].items()}
        assert options == {key: taken(option) for key, option in spec.items()}, name
        assert told[f"corral.fleet.{name}"]["examples"]
        assert told[f"corral.fleet.{name}"]["return"]


def test_every_return_value_of_an_example_is_documented(reader: Operator) -> None:
    ended = reader.run("ansible-doc", "--json", "-t", "inventory", "corral.fleet.proxmox")
    options = json.loads(ended.stdout)["corral.fleet.proxmox"]["doc"]["options"]
    for name in yaml.safe_load(arguments.API)["options"]:
        assert options[name]["env"][0]["name"] == f"PROXMOX_{name.upper()}"


def test_secrets_are_secret() -> None:
    spec = arguments.argument_spec("options: {}")
    assert [name for name, option in spec.items() if option["no_log"]] == ["token_secret"]


def test_the_action_group_and_the_readme_name_every_module() -> None:
    runtime = yaml.safe_load((FLEET / "meta" / "runtime.yml").read_text())
    assert runtime["action_groups"]["api"] == [one for one in MODULES if one not in WITHOUT_API]
    named = re.findall(r"^\| module `(\w+)`", (FLEET / "README.md").read_text(), re.MULTILINE)
    assert sorted(named) == MODULES
