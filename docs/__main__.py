"""`make docs` writes the pages of docs/reference that say what code takes and tells.

Roles are described by their meta/argument_specs.yml and defaults, modules and the inventory plugin
by their own documentation, metrics by their table and the alert rules. All other pages are written
by hand.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.corral.fleet.plugins.module_utils import arguments
from jinja2 import Environment, FileSystemLoader

from corral.gateway.figures import FIGURES
from corral.gateway.metrics import PROCESS

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"
FLEET = "ansible_collections.corral.fleet.plugins"
HEAD = "Written by `make docs` from {source}; do not edit."

Row = Sequence[str]


# --- roles ---------------------------------------------------------------------------------------


def roles() -> str:
    """Every variable of every role."""
    names = sorted(path.parts[-3] for path in ROOT.glob("roles/*/meta/argument_specs.yml"))
    parts = [
        "# Variables of the roles",
        HEAD.format(source="`roles/*/meta/argument_specs.yml` and `roles/*/defaults`"),
        "Set them in the inventory: `group_vars/all`, `group_vars/role_worker.yml`, or at one host."
        " Those that say *playbooks* are set by [playbooks/group_vars]"
        "(../../playbooks/group_vars/all.yml), which shows the variable of the inventory that each"
        " is made of; set that one. What the inventory itself needs (`fleet_*`) is explained in"
        " [inventory/production](../../inventory/production/group_vars/all/main.yml).",
        " · ".join(f"[{name}](#{name})" for name in names),
    ]
    given = {name for file in ROOT.glob("playbooks/group_vars/*.yml") for name in _yaml(file)}
    for name in names:
        parts += _role(name, given)
    return "\n\n".join(parts) + "\n"


def _role(name: str, given: set[str]) -> Iterator[str]:
    folder = ROOT / "roles" / name
    defaults = _yaml(folder / "defaults" / "main.yml")
    yield f"## {name}"
    for entry, spec in _yaml(folder / "meta" / "argument_specs.yml")["argument_specs"].items():
        short = spec["short_description"]
        if entry == "main":
            yield f"{short} [More](../../roles/{name}/README.md)."
        else:
            yield f"With `tasks_from: {entry}`: {short[0].lower()}{short[1:]}"
        if spec["options"]:
            rows = [
                [f"`{path}`", _type(option), _default(path, option, defaults, given), _told(option)]
                for path, option in _flat(spec["options"], "options")
            ]
            yield _table(["variable", "type", "default", "what it is"], rows)


def _default(
    name: str, option: Mapping[str, Any], defaults: Mapping[str, Any], given: set[str]
) -> str:
    if name in given:
        return "*playbooks*"
    if option.get("required"):
        return "**required**"
    value = defaults[name] if name in defaults else option.get("default")
    return "" if value is None else f"`{_flow(value)}`"


# --- the collection ------------------------------------------------------------------------------


def collection() -> str:
    """Every option and return value of every module and of the inventory plugin."""
    folder = ROOT / "playbooks/collections/ansible_collections/corral/fleet/plugins"
    modules = sorted(path.stem for path in folder.glob("modules/*.py"))
    parts = [
        "# The collection corral.fleet",
        HEAD.format(source="the documentation in `playbooks/collections`"),
        "`ansible-doc corral.fleet.containers` shows the same on a terminal.",
        " · ".join(f"[{name}](#{name})" for name in ["api", *modules, "proxmox"]),
        "## api",
        "How the API is reached: options of every module but `drain` and `keys`, and of the"
        " inventory plugin. Give them once, by the environment or by `module_defaults:"
        " {group/corral.fleet.api: {...}}`.",
        _options(yaml.safe_load(arguments.API)["options"]),
    ]
    for name in modules:
        parts += _plugin(f"{FLEET}.modules.{name}", "module")
    parts += _plugin(f"{FLEET}.inventory.proxmox", "name")
    return "\n\n".join(parts) + "\n"


def _plugin(path: str, title: str) -> Iterator[str]:
    code = importlib.import_module(path)
    doc = yaml.safe_load(code.DOCUMENTATION)
    yield f"## {doc[title]}"
    yield f"{_plain(doc['short_description'])}."
    yield "\n".join(f"- {_plain(line)}" for line in doc["description"])
    for mode, one in doc.get("attributes", {}).items():
        yield f"{mode.replace('_', ' ').capitalize()}: {_plain(one['description'])}"
    yield _options(doc["options"] | _shared(doc))
    if hasattr(code, "RETURN"):
        rows = [
            [f"`{name}`", _type(value), value.get("returned", ""), _told(value)]
            for name, value in _flat(yaml.safe_load(code.RETURN), "contains")
        ]
        yield _table(["returns", "type", "when", "what it is"], rows)
    yield f"```yaml\n{code.EXAMPLES.strip()}\n```"


def _shared(doc: Mapping[str, Any]) -> dict[str, Any]:
    """Options that Ansible gives every plugin of a sort."""
    fragments = doc.get("extends_documentation_fragment", [])
    shared: dict[str, Any] = {}
    for name in [fragments] if isinstance(fragments, str) else fragments:
        if "." not in name:
            fragment = importlib.import_module(f"ansible.plugins.doc_fragments.{name}")
            shared |= yaml.safe_load(fragment.ModuleDocFragment.DOCUMENTATION)["options"]
    return shared


def _options(options: Mapping[str, Any]) -> str:
    rows = [
        [
            f"`{name}`",
            _type(option),
            "**required**" if option.get("required") else _given(option),
            _told(option),
        ]
        for name, option in _flat(options, "suboptions")
    ]
    return _table(["option", "type", "default", "what it is"], rows)


def _given(option: Mapping[str, Any]) -> str:
    return f"`{_flow(option['default'])}`" if option.get("default") is not None else ""


# --- metrics -------------------------------------------------------------------------------------


def metrics() -> str:
    """Every figure that Prometheus is told, and every alert."""
    templates = Environment(loader=FileSystemLoader(ROOT / "templates" / "prometheus"))
    rules = templates.get_template("corral-rules.yml.j2")
    groups = yaml.safe_load(rules.render())["groups"]
    parts = [
        "# Metrics and alerts",
        HEAD.format(source="`corral/gateway/figures.py` and `templates/prometheus`"),
        "The gateway tells of the whole fleet at `/metrics`, for who has a viewer's token."
        " [Monitoring](../how-to/monitoring.md) says how Prometheus, Grafana and a phone are"
        " connected to it, and what to do at each alert.",
        "Counters begin at 0 with the gateway. At most 100 kinds have a name of their own, further"
        " ones are `other`; no label holds a task's id. A gateway that was away from the broker for"
        " too many changes to be told each counts what ended meanwhile without its times.",
        "## Figures",
        _table(
            ["metric", "type", "labels", "what it is"],
            [[f"`{one.name}`", one.kind, _codes(one.labels), one.tells] for one in FIGURES],
        ),
        "And of the gateway's own process: "
        + _codes(sample.name for one in PROCESS.collect() for sample in one.samples)
        + ".",
        "What a machine does beside Corral (its network, what its cores really do) is the node"
        " exporter's matter: workers listen on nothing. What is spooled on a worker cannot be told"
        " here: results are spooled while the broker is away.",
        "## Alerts",
        _table(
            ["alert", "severity", "for", "when"],
            [
                [f"`{rule['alert']}`", rule["labels"]["severity"], rule["for"], f"`{rule['expr']}`"]
                for group in groups
                for rule in group["rules"]
            ],
        ),
        "Which workers are expected is told by the gateway, from its file `expect`: on a fleet, by"
        " the inventory. Without one `CorralWorkerMissing` never fires, and `CorralFewWorkers` is"
        " about those that are registered.",
    ]
    return "\n\n".join(parts) + "\n"


# --- all -----------------------------------------------------------------------------------------


def _flat(
    options: Mapping[str, Any], below: str, prefix: str = ""
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Options, and after each those inside it by their path: `roles[].name`."""
    for name, option in options.items():
        yield f"{prefix}{name}", option
        inside = "[]." if option.get("type") == "list" else "."
        yield from _flat(option.get(below, {}), below, f"{prefix}{name}{inside}")


def _type(option: Mapping[str, Any]) -> str:
    kind = option.get("type", "str")
    return f"{kind} of {option['elements']}" if "elements" in option else str(kind)


def _told(option: Mapping[str, Any]) -> str:
    told = option["description"]
    lines = [told] if isinstance(told, str) else told
    words = " ".join(_plain(line) for line in lines)
    if len(option.get("choices", ())) > 1:
        words += f" One of {', '.join(f'`{one}`' for one in option['choices'])}."
    return words


#: Ansible's markup: O(option), V(value), E(environment), C(code), M(module), RV(return value)
MARKUP = re.compile(r"\b(?:O|V|E|C|M|RV)\(((?:[^()]|\([^)]*\))*)\)")


def _plain(text: str) -> str:
    """Ansible's markup as Markdown's."""
    return " ".join(MARKUP.sub(lambda found: f"`{_named(found[1])}`", text).split())


def _named(what: str) -> str:
    """What a reference is about, without the plugin that it is found in."""
    return what.rpartition(":")[2] if "#" in what else what


def _flow(value: Any) -> str:
    """A value as YAML writes it on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=1000, sort_keys=False)
    return text.removesuffix("...\n").strip()


def _codes(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(head: Row, rows: Sequence[Row]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _yaml(file: Path) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    return read


PAGES: Mapping[str, Callable[[], str]] = {
    "roles.md": roles,
    "collection.md": collection,
    "metrics.md": metrics,
}


def main(folder: Path) -> None:
    """Write the pages."""
    for name, made in PAGES.items():
        (folder / name).write_text(made(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else REFERENCE)
